import datetime as dt
import decimal
import uuid

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vae_anomaly.errors import DataError
from vae_anomaly.schema.keys import distinct, group_codes, key_text, read_labels

HALVES = pa.array([1.0, 2.0, 1.0]).cast(pa.float16())
IDS = [uuid.UUID(int=i) for i in (1, 2, 1)]


@pytest.mark.parametrize(
    "column",
    [
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([i.bytes for i in IDS], pa.binary(16))),
        pa.array([b"a", b"\xff", b"a"]),
        pa.array([b"a", b"\xff", b"a"], pa.binary_view()),
        pa.array([b"a", b"b", b"a"], pa.binary(1)),
        pa.array(["a", "b", "a"], pa.string_view()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pc.run_end_encode(pa.array(["a", "b", "a"])),
        pa.array([decimal.Decimal(1), decimal.Decimal(2), decimal.Decimal(1)], pa.decimal32(5, 2)),
        pa.array([1, 2, 1], pa.time64("ns")),
        pa.array([2**62, 1, 2**62], pa.timestamp("s")),
        pa.array([1, 2, 1], pa.timestamp("us", "Nowhere/At all")),
        HALVES,
    ],
    ids=lambda column: str(column.type),
)
def test_rows_of_one_key_are_told_from_others_whatever_its_type(column: pa.Array) -> None:
    places = distinct(pa.chunked_array([column.slice(0, 1), column.slice(1)]), "k")[1].tolist()
    assert (places[0] == places[2], places[0] == places[1]) == (True, False)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (pa.scalar(None, pa.string()), None),
        (pa.scalar(b"M7"), "M7"),
        (pa.scalar(b"M\xff"), "M\\xff"),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([IDS[0].bytes], pa.binary(16)))[0], str(IDS[0])),
        (pa.scalar(2**62, pa.timestamp("s")), str(2**62)),
        (pa.scalar(5, pa.timestamp("us", "Nowhere/At all")), "5"),
        (pa.scalar(dt.date(2025, 3, 3)), "2025-03-03"),
        (pa.scalar(True), "True"),  # noqa: FBT003  # a cell
        (pa.scalar(1.5), "1.5"),
    ],
    ids=["missing", "bytes", "no text", "uuid", "far away", "an unknown zone", "a date", "true", "a number"],
)
def test_a_key_is_text_for_people(cell: pa.Scalar, text: str | None) -> None:
    assert key_text(cell) == text


def test_labels_that_are_stored_as_bytes_mean_what_they_say() -> None:
    labels = read_labels(pa.array([b"0", b"1", None]), ("0", ""))
    assert (labels.names, labels.normal.tolist()) == (("0", "1", ""), [True, False, True])


@pytest.mark.parametrize(
    "column", [pa.array([[1]]), pa.array([{"x": 1}]), pa.array([(1, 2, 3)], pa.month_day_nano_interval())], ids=lambda c: str(c.type)
)
def test_what_cannot_be_compared_is_refused(column: pa.Array) -> None:
    for read in (lambda: group_codes(pa.chunked_array([column]), "k"), lambda: read_labels(column, ("0",), "k")):
        with pytest.raises(DataError) as error:
            read()
        assert str(error.value) == (
            f"column 'k' is {column.type}, which cannot tell rows apart. Name a column of text, numbers, booleans or times instead."
        )
