"""Properties of schema and encoding over tables of every kind of column, whatever is in their cells."""

import datetime as dt
import decimal
import fractions
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.tiny import one_batch
from vae_anomaly.config import DataConfig
from vae_anomaly.errors import DataError
from vae_anomaly.schema.encoding import Batch, concatenate, encode, model_order
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema, conform, infer_schema

Cells = st.SearchStrategy[Any]
SPELLINGS = (["t", "f", "T", "F"], ["yes", "no", "No"], ["0", "1"], ["true", "FALSE", "True"])

# Name → type and cells; what is no cell of a table of normal rows, like an infinity, is not among them.
KINDS: dict[str, tuple[pa.DataType, Cells]] = {
    "float64": (pa.float64(), st.floats(allow_infinity=False)),
    "float32": (pa.float32(), st.floats(allow_infinity=False, width=32)),
    "float16": (pa.float16(), st.floats(allow_infinity=False, width=16)),
    "0.0 and 1.0": (pa.float64(), st.sampled_from([0.0, 1.0])),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "beyond 2^53": (pa.int64(), st.integers(2**53 - 2, 2**53 + 2)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "int8": (pa.int8(), st.integers(-128, 127)),
    "0 and 1": (pa.int32(), st.integers(0, 1)),
    "decimal": (pa.decimal128(12, 3), st.integers(-(10**11), 10**11).map(lambda i: decimal.Decimal(i) / 1000)),
    "bool": (pa.bool_(), st.booleans()),
    "text": (pa.string(), st.text(max_size=4)),
    "few texts": (pa.string(), st.sampled_from(["a", "b", " a", "", "ü"])),
    "numbers and words": (pa.string(), st.sampled_from(["1", "2.5", "-3e2", "nan", "inf", "Bad", " 7 "])),
    "timestamp": (pa.timestamp("us"), st.datetimes()),
    "zoned timestamp": (pa.timestamp("ns", "UTC"), st.integers(-(2**63), 2**63 - 1)),
    "seconds": (pa.timestamp("s"), st.integers(-(2**33), 2**33)),
    "date": (pa.date32(), st.dates()),
    "time": (pa.time64("us"), st.times()),
    "duration": (pa.duration("us"), st.timedeltas(dt.timedelta(-9), dt.timedelta(9))),
    "list": (pa.list_(pa.int8()), st.lists(st.integers(0, 9), max_size=2)),
    "struct": (pa.struct([("x", pa.int8())]), st.fixed_dictionaries({"x": st.integers(0, 9)})),
    "binary": (pa.binary(), st.text("aü1", max_size=2).map(str.encode)),
    "nothing": (pa.null(), st.none()),
    **{f"spellings of {few[0]}": (pa.string(), st.sampled_from(few)) for few in SPELLINGS},
}
WRAPS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "none": lambda values: values,
    "dictionary": lambda values: values.dictionary_encode(),
    "runs": pc.run_end_encode,
    "large": lambda values: values.cast(pa.large_string()),
    "view": lambda values: values.cast(pa.string_view()),
}
# Which types can be wrapped how.
WRAPPABLE = {
    "none": lambda _: True,
    "dictionary": lambda kind: not (pa.types.is_nested(kind) or pa.types.is_integer(kind)) and kind not in {pa.float16(), pa.null()},
    "runs": lambda kind: not pa.types.is_nested(kind) and kind != pa.null(),
    "large": pa.types.is_string,
    "view": pa.types.is_string,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A table without wrappings, and how each of its columns is wrapped."""

    plain: pa.Table
    wraps: tuple[str, ...]

    @property
    def wrapped(self) -> pa.Table:
        return self._of(self.plain)

    def rows(self, places: Sequence[int]) -> pa.Table:
        """Return the rows at these places, wrapped anew."""
        return self._of(self.plain.take(pa.array(places, pa.int64())))

    def _of(self, plain: pa.Table) -> pa.Table:
        columns = [c.combine_chunks() for c in plain.columns]
        return pa.table([WRAPS[how](c) for how, c in zip(self.wraps, columns, strict=True)], names=plain.column_names)


@st.composite
def columns(draw: st.DrawFn, rows: int) -> tuple[pa.Array, str]:
    """Return one column of some kind, with missing cells or without, and how to wrap it."""
    kind, cells = KINDS[draw(st.sampled_from(list(KINDS)))]
    # Cells for all rows take long to draw; a few are repeated, or stand in a row of their own as long as they last.
    some = draw(st.lists(cells, min_size=1, max_size=8))
    missing, random = draw(st.sampled_from([0.0, 0.3, 1.0])), draw(st.randoms(use_true_random=False))
    values = [None if random.random() < missing else random.choice(some) for _ in range(rows)]
    if rows > len(some) and pa.types.is_integer(kind) and draw(st.booleans()):
        values = [None if v is None else i for i, v in enumerate(values)]  # rising, as an id
    how = draw(st.sampled_from([name for name, can in WRAPPABLE.items() if can(kind)]))
    return pa.array(values, kind), how


@st.composite
def tables(draw: st.DrawFn) -> Made:
    rows = draw(st.sampled_from([1, 2, 7, 60]))
    names = draw(st.lists(st.text(max_size=3), min_size=1, max_size=6, unique=True))
    made = [draw(columns(rows)) for _ in names]
    return Made(plain=pa.table([values for values, _ in made], names=names), wraps=tuple(how for _, how in made))


def inferred(table: pa.Table, data: DataConfig | None = None) -> Schema:
    """Infer a schema; a table without a column to learn from is refused, as it should be, and passed over."""
    try:
        return infer_schema(table, data or DataConfig())
    except DataError as error:
        assume("no column is left to learn from" not in str(error))
        raise


def conformed(schema: Schema, table: pa.Table) -> pa.RecordBatch:
    return conform(schema, one_batch(table), where="x")


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("numeric", "codes", "observed"))


# ── schema ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=40, deadline=None)
@given(tables())
def test_every_column_is_an_input_or_left_out_with_a_reason(made: Made) -> None:
    schema = inferred(made.wrapped)
    names = [*schema.names, *(d.name for d in schema.dropped)]
    assert sorted(names) == sorted(made.plain.column_names)
    assert list(schema.names) == [n for n in made.plain.column_names if n in schema.names]
    assert all(d.reason for d in schema.dropped)
    assert Schema.from_state(json.loads(json.dumps(schema.state()))) == schema
    assert infer_schema(made.plain, DataConfig()) == schema, "the wrapping changes nothing"


@settings(max_examples=40, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing_but_whether_whole_numbers_rise(made: Made, random: Any) -> None:
    order = random.sample(range(made.plain.num_rows), made.plain.num_rows)
    whole = [n for n in made.plain.column_names if pa.types.is_integer(made.plain[n].type)]
    # An id is told by its order, unless the user says that it is none.
    data = DataConfig(include=tuple(whole))
    assert inferred(made.wrapped, data) == inferred(made.rows(order), data)


@settings(max_examples=40, deadline=None)
@given(tables(), st.randoms(use_true_random=False), st.sampled_from(["as inferred", "everything"]))
def test_the_table_of_the_fit_conforms_and_its_rows_in_another_order_conform_in_that_order(made: Made, random: Any, included: str) -> None:
    order = random.sample(range(made.plain.num_rows), made.plain.num_rows)
    schema = inferred(made.wrapped, DataConfig(include=tuple(made.plain.column_names) if included == "everything" else ()))
    whole = conformed(schema, made.wrapped)
    assert whole.schema.names == list(schema.names)
    assert conformed(schema, made.rows(order)).equals(whole.take(pa.array(order)))
    for column, values in zip(schema.columns, whole.columns, strict=True):
        assert values.type == (pa.float64() if column.kind == "numeric" else pa.string())
        assert (values.null_count > 0) == column.nullable
        if column.kind == "numeric":
            assert pc.all(pc.is_finite(values)).as_py() is not False
        else:
            assert set(values.drop_null().to_pylist()) <= set(column.levels)


# ── encode ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=40, deadline=None)
@given(tables(), st.randoms(use_true_random=False), st.integers(0, 60))
def test_rows_are_encoded_each_by_itself(made: Made, random: Any, cut: int) -> None:
    """Together or apart, in whatever order, with the levels of the first rows only."""
    rows = made.plain.num_rows
    order = random.sample(range(rows), rows)
    schema = inferred(made.rows(range(max(1, rows // 2))))
    batch = conformed(schema, made.wrapped)
    whole = encode(schema, batch)
    assert same(concatenate([encode(schema, batch.slice(0, cut)), encode(schema, batch.slice(cut))]), whole)
    assert same(encode(schema, batch.take(pa.array(order))), whole.rows(torch.tensor(order)))


@settings(max_examples=40, deadline=None)
@given(tables())
def test_cells_become_numbers_and_the_places_of_levels(made: Made) -> None:
    schema = inferred(made.rows(range(max(1, made.plain.num_rows // 2))))
    batch = conformed(schema, made.wrapped)
    whole, ordered = encode(schema, batch), model_order(schema)
    numbers = [c for c in ordered if c.kind == "numeric"]
    for j, column in enumerate(ordered):
        cells = batch.column(column.name).to_pylist()
        assert whole.observed[:, 0, j].tolist() == [cell is not None for cell in cells]
        if column.kind == "numeric":
            assert whole.numeric[:, 0, j].tolist() == [0.0 if cell is None else cell for cell in cells]
        else:
            assert whole.codes[:, 0, j - len(numbers)].tolist() == [place(column, cell) for cell in cells]


def place(column: Column, cell: str | None) -> int:
    """Where a level stands; behind the last one if it is not there, further by its distance from 0 and 1."""
    if cell is None or cell in column.levels:
        return 0 if cell is None else column.levels.index(cell)
    try:
        number = fractions.Fraction(cell) if column.kind == "boolean" else fractions.Fraction(0)
    except ValueError:
        number = fractions.Fraction(0)
    return len(column.levels) + math.ceil(min(abs(number), abs(number - 1)) * 2**20)
