"""The types of a Delta table hold every value of the types of Arrow, as an independent reading of the rows says."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.errors import ConfigError
from vae_anomaly.tables.writer import as_delta, delta_schema

UNSIGNED = {pa.uint8(): 8, pa.uint16(): 16, pa.uint32(): 32, pa.uint64(): 64}


@settings(max_examples=30)
@given(st.sampled_from(sorted(UNSIGNED, key=str)), st.lists(st.none() | st.integers(0, 2**64 - 1), min_size=1, max_size=9))
def test_unsigned_integers_keep_their_values(kind: pa.DataType, values: list[int | None]) -> None:
    fitting = [None if v is None else v % 2 ** UNSIGNED[kind] for v in values]
    batch = pa.record_batch({"x": pa.array(fitting, kind)})
    found = as_delta(batch, delta_schema(batch.schema)).column(0)
    assert [None if v is None else int(v) for v in found.to_pylist()] == fitting
    assert not pa.types.is_unsigned_integer(found.type)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1.5, None], pa.float16()), pa.float32()),
        (pa.array(["a", None], pa.large_string()), pa.string()),
        (pa.array(["a", None], pa.string_view()), pa.string()),
        (pa.array(["a", None]).dictionary_encode(), pa.string()),
        (pa.array([7, None], pa.int8()).dictionary_encode(), pa.int8()),
        (pa.array([b"a", None], pa.binary(1)), pa.binary()),
        (pa.array([b"a", None], pa.large_binary()), pa.binary()),
        (pa.nulls(2), pa.string()),
        (pa.array([Decimal("1.25"), None], pa.decimal256(38, 2)), pa.decimal128(38, 2)),
        (pa.array([Decimal("1.25"), None], pa.decimal32(5, 2)), pa.decimal128(5, 2)),
        (pa.array([1, None], pa.timestamp("s")), pa.timestamp("us")),
        (pa.array([1, None], pa.timestamp("ms", "Asia/Tokyo")), pa.timestamp("us", "UTC")),
        (pa.array([86_400_000, None], pa.date64()), pa.date32()),
        (pa.array([[{"c": "x", "v": None}], None]), pa.list_(pa.struct([("c", pa.string()), ("v", pa.string())]))),
    ],
    ids=lambda value: str(value.type if isinstance(value, pa.Array) else value),
)
def test_values_stay(values: pa.Array, kind: pa.DataType) -> None:
    batch = pa.record_batch({"x": values})
    found = as_delta(batch, delta_schema(batch.schema)).column(0)
    assert found.type == kind
    assert found.to_pylist() == values.to_pylist()


@pytest.mark.parametrize("kind", [pa.time64("us"), pa.duration("s"), pa.decimal256(40, 2), pa.month_day_nano_interval()], ids=str)
def test_types_that_a_table_lacks_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(
        ConfigError, match=r"column 'x' has the type .*, which a Delta table cannot hold\. Leave it out of --id-columns, or write"
    ):
        delta_schema(pa.schema([("x", kind)]))
