import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vae_anomaly.schema.inference import MAX_LEVELS, Column, Dropped, infer_column, mark_notes
from vae_anomaly.schema.schema import Schema, conform

DAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def judged(values: object, *, included: bool = False) -> Column | Dropped:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return infer_column("c", pa.chunked_array([array]), included=included)


def kind(values: object) -> str:
    column = judged(values)
    return column.kind if isinstance(column, Column) else column.reason


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.5], "numeric"),
        ([0.0, 1.0, 1.0], "boolean"),
        (pa.array([0.0, 1.0, None], pa.float16()), "boolean"),
        ([decimal.Decimal("0.00"), decimal.Decimal("1.00")], "boolean"),
        (["0.0", "1.00"], "boolean"),
        (np.arange(100.0) + 0.5, "numeric"),  # decimals are never an id
        ([0.0, 1.0, 0.5], "numeric"),
        (pa.array([1.5, 2.5], pa.float16()), "numeric"),
        ([3, 5, 5], "numeric"),
        ([7, 7, 7], "numeric"),
        ([0, 0, 0], "numeric"),
        ([0, 1, 2], "numeric"),
        ([1, 2, 1, 2], "numeric"),
        ([2**60, 1, 5], "numeric"),
        ([decimal.Decimal("1.50"), decimal.Decimal("2.25")], "numeric"),
        ([0, 1, None, 1], "boolean"),
        ([True, None, True], "boolean"),
        (["t", "f", None], "boolean"),
        (["T", "f", "F"], "boolean"),
        (["yes", "No"], "boolean"),
        (["y", "n"], "boolean"),
        (["TRUE", "false"], "boolean"),
        (["0", "1"], "boolean"),
        (["False"], "boolean"),  # as the type bool
        (["f", "f"], "category"),
        (["t", "no"], "category"),
        (["M", "F"], "category"),
        (["a", "b", "c"], "category"),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "category"),
        (pa.array([1, 1, 2]).dictionary_encode(), "category"),
        (pa.array([0, 1, 1]).dictionary_encode(), "boolean"),
        (pa.array([1.5, 1.5, 2.5]).dictionary_encode(), "numeric"),
        ([str(i / 7) for i in range(60)], "numeric"),
        ([b"eco", b"auto", b"eco"], "category"),
        (pa.array([b"eco", b"on\0", b"eco"], pa.binary(3)), "category"),
        (pa.array([b"a"]).dictionary_encode(), "category"),
        (pc.run_end_encode(pa.array([b"a"])), "category"),
        (pa.array([b"0" * 16], pa.uuid()), "category"),
        (pa.array(["a", "b", "a"], pa.large_string()), "category"),
        (pa.array(["a", "b", "a"], pa.string_view()), "category"),
        (["1", "2", "3", "other"], "category"),
    ],
)
def test_kind(values: object, expected: str) -> None:
    assert kind(values) == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None, None], "all values missing"),
        (pa.array([None, None], pa.float64()), "all values missing"),
        ([float("nan"), None], "all values missing"),
        ([DAY, DAY], "timestamp"),
        ([DAY.date()], "timestamp"),
        ([dt.time(12)], "time of day or duration (time64[us])"),
        ([dt.timedelta(1)], "time of day or duration (duration[us])"),
        ([[1.0], [2.0]], "nested column (list<item: double>)"),
        ([{"a": 1}], "nested column (struct<a: int64>)"),
        ([b"\xff"], "binary column (binary)"),
        ([b"a\0b"], "binary column (binary)"),
        (pa.array([b"\xff"], pa.binary_view()), "binary column (binary_view)"),
        (pa.array([b"\xff"]).dictionary_encode(), "binary column (binary)"),
        (["NA", " ", "", "null"], "all values missing"),
        (np.arange(50.0), "looks like an id (whole numbers that rise or fall and never repeat)"),
        (np.arange(50), "looks like an id (whole numbers that rise or fall and never repeat)"),
        (-np.arange(50), "looks like an id (whole numbers that rise or fall and never repeat)"),
        ([f"M{i}" for i in range(50)], "looks like an id (no value repeats)"),
        (["a", *(f"M{i}" for i in range(400))] * 1 + ["a"], "free text (401 different values in 402 rows)"),
        (
            [str(i / 7) for i in range(60)] + ["Bad"] * 12 + ["Scan Timeout"],
            "numbers with text in them: 'Bad' (12 ×), 'Scan Timeout' (1 ×); name them in --missing-values",
        ),
        (
            [str(i / 7) for i in range(60)] + list("abcdefg"),
            "numbers with text in them: 'a' (1 ×), 'b' (1 ×), 'c' (1 ×), 'd' (1 ×), 'e' (1 ×) and 2 more; name them in --missing-values",
        ),
    ],
)
def test_reason_to_leave_a_column_out(values: object, reason: str) -> None:
    assert judged(values) == Dropped(name="c", reason=reason, time=reason == "timestamp")


@pytest.mark.parametrize(
    "values",
    [np.arange(49), np.r_[np.arange(60), 3], np.r_[5, np.arange(60)], [f"M{i}" for i in range(49)], [f"M{i % 59}" for i in range(60)]],
    ids=["few", "repeats", "falls once", "few texts", "a text repeats"],
)
def test_what_is_no_id(values: object) -> None:
    assert isinstance(judged(values), Column)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.arange(50), Column(name="c", kind="numeric")),
        ([DAY, None], Column(name="c", kind="numeric", nullable=True, temporal=True)),
        ([f"{i:02d}#" for i in range(50)], Column(name="c", kind="category", levels=tuple(f"{i:02d}#" for i in range(50)))),
    ],
    ids=["integers", "times", "texts"],
)
def test_include_brings_a_column_back(values: object, expected: Column) -> None:
    assert judged(values, included=True) == expected


@pytest.mark.parametrize("values", [[None, None], [[1], [2]]], ids=["missing", "nested"])
def test_include_cannot_bring_back_what_holds_nothing_to_learn(values: object) -> None:
    assert isinstance(judged(values, included=True), Dropped)


def test_levels_stand_by_falling_frequency_and_then_by_text() -> None:
    column = judged(["b", "c", "c", "a", None, "d", "d"])
    assert column == Column(name="c", kind="category", levels=("c", "d", "a", "b"), nullable=True)


def test_only_the_most_frequent_levels_are_kept() -> None:
    often = [f"often {i}" for i in range(MAX_LEVELS)] * 3
    column = judged(["seldom", *often, "rarely"])
    assert isinstance(column, Column)
    assert set(column.levels) == set(often)


@pytest.mark.parametrize(
    ("values", "levels"),
    [([1, 0], ("0", "1")), ([True], ("false", "true")), (["T", "t", "t", "F"], ("false", "true")), (["Yes", "no", "NO"], ("no", "yes"))],
)
def test_a_boolean_has_one_spelling_for_each_pair(values: object, levels: tuple[str, str]) -> None:
    column = judged(values)
    assert isinstance(column, Column)
    assert (column.kind, column.levels) == ("boolean", levels)


def test_a_column_in_another_notation_is_left_out_with_what_to_do() -> None:
    cells = [f"1.{i:03},50" if i % 3 else f"1.{i:03},50-" for i in range(60)]
    found = judged(sorted(cells))
    assert isinstance(found, Dropped)
    assert found.reason == (
        "numbers in another notation: '1.000,50-', '1.001,50', '1.002,50', '1.003,50-', '1.004,50' and 45 more; "
        "write the minus in front of numbers (-1000.50)"
    )
    mixed = judged([f"{i}.5" for i in range(60)] + ["40-"] * 3)
    assert isinstance(mixed, Dropped)
    assert mixed.reason == "numbers in another notation: '40-'; write the minus in front of numbers (-40)"
    other = judged([f"{i}.5" for i in range(60)] + ["40-", "Bad"])
    assert isinstance(other, Dropped)
    assert other.reason.startswith("numbers with text in them: '40-' (1 ×), 'Bad' (1 ×)")


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (["X", None, "X"], ("", "X")), (["", "x", " "], ("", "x")), ([None, "✓"], ("", "✓")), (["*", None], ("", "*")),
        (["X", "X"], None), (["A", None], None), (["X", "Y", None], None), (["X", "", None], None),
    ],
)  # fmt: skip
def test_a_mark_beside_blanks_is_a_boolean(values: list[str | None], levels: tuple[str, str] | None) -> None:
    column = judged(pa.array(values, pa.string()))
    assert isinstance(column, Column)
    assert (column.kind == "boolean") == (levels is not None)
    assert mark_notes([column]) == (
        (f"column 'c': {levels[1]!r} or nothing, read as a boolean; a blank cell is not set",) if levels else ()
    )
    assert levels is None or (column.levels, column.nullable) == (levels, False)


@pytest.mark.parametrize("written", [["X", None], ["x ", ""], ["X", " "], [True, False], [1, 0], ["1.0", "0"], ["true", "falsch"]])
def test_a_mark_that_is_written_otherwise_is_the_same_level(written: list[object]) -> None:
    schema = Schema(columns=(Column(name="c", kind="boolean", levels=("", "X")),))
    assert conform(schema, pa.record_batch({"c": pa.array(written)}), where="x")["c"].to_pylist() == ["X", ""]
