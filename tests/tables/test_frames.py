"""Data frames in memory: the same cells in any type and of any library are the same rows, and what a file is refused for is refused."""

import datetime as dt
import io
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vae_anomaly.config import DEFAULT_READING, Reading
from vae_anomaly.errors import ConfigError, DataError, SchemaMismatch
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema
from vae_anomaly.tables.frames import EXPECTED, PANDAS_MISSING, frame_source
from vae_anomaly.tables.source import open_source

SCHEMA = Schema(
    columns=(
        Column(name="flow", kind="numeric", nullable=True),
        Column(name="open", kind="boolean", levels=("false", "true")),
        Column(name="code", kind="category", levels=("7", "12")),
        Column(name="mode", kind="category", levels=("auto", "manual")),
    )
)
CELLS: dict[str, list[Any]] = {
    "flow": [3, 0, None, 1],
    "open": [True, None, False, True],
    "code": [7, 12, 7, None],
    "mode": ["auto", "manual", None, "auto"],
}
CONFORMED: dict[str, list[Any]] = {
    "flow": [3.0, 0.0, None, 1.0],
    "open": ["true", None, "false", "true"],
    "code": ["7", "12", "7", None],
    "mode": ["auto", "manual", None, "auto"],
}


def rows_of(
    data: Any, schema: Schema = SCHEMA, reading: Reading = DEFAULT_READING, extra: dict[str, Sequence[str]] | None = None
) -> dict[str, list[Any]]:
    """Return the cells that the model gets, by column."""
    source = frame_source(data, schema, reading, extra=extra or {}, where="the data frame")
    rows: dict[str, list[Any]] = pa.Table.from_batches(source.batches(schema, extra=tuple(extra or ()))).to_pydict()
    return rows


def column(name: str, **changes: Any) -> Column:
    return Column(**{"name": name, "kind": "category", **changes})


def only(values: Any, kept: Column) -> list[Any]:
    """Return one column as the model gets it."""
    cells: list[Any] = rows_of(pd.DataFrame({kept.name: values}), Schema(columns=(kept,)))[kept.name]
    return cells


TYPES: dict[str, list[Any]] = {
    "flow": [
        "float64",
        "float32",
        "float16",
        "Int64",
        "Float32",
        pd.ArrowDtype(pa.int8()),
        pd.ArrowDtype(pa.decimal128(9, 3)),
        object,
        "category",
    ],
    "open": ["boolean", object, "category", pd.ArrowDtype(pa.bool_()), "Int8", "float64", "Float64"],
    "code": ["float64", "Int64", "UInt8", object, "category", "string", pd.ArrowDtype(pa.int16()), pd.ArrowDtype(pa.float32())],
    "mode": [
        "string",
        *(["str"] if int(pd.__version__.split(".")[0]) >= 3 else []),  # before, pandas itself writes None as a text here
        object,
        "category",
        pd.ArrowDtype(pa.string()),
        pd.ArrowDtype(pa.large_string()),
        pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string())),
    ],
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in TYPES.items() for kind in kinds], ids=str)
def test_a_column_of_any_type_has_the_same_cells(name: str, kind: Any) -> None:
    values = pd.Series(CELLS[name], dtype=object)
    typed = (values if name == "mode" or kind not in {"float64", "float32", "float16"} else values.astype("Float64")).astype(kind)
    assert rows_of(pd.DataFrame({**CELLS, name: typed})) == CONFORMED


@pytest.mark.parametrize("name", list(CELLS))
def test_a_batch_without_a_missing_cell_in_a_column_and_one_with_nothing_else_are_read(name: str) -> None:
    frame = pd.DataFrame(CELLS)
    whole = frame[frame[name].notna()].infer_objects()
    assert rows_of(whole)[name] == [cell for cell in CONFORMED[name] if cell is not None]
    for nothing in (None, np.nan, pd.NA):
        assert rows_of(frame.assign(**{name: pd.Series([nothing] * 4)}))[name] == [None] * 4


def arrow() -> pa.Table:
    return pa.table(CELLS)


def test_frames_of_other_libraries_and_records_are_the_same_rows() -> None:
    records = arrow().to_pylist()
    frames: list[Any] = [
        arrow(),
        arrow().combine_chunks().to_batches()[0],
        arrow().to_reader(),
        records,
        CELLS,
        pd.DataFrame(CELLS).set_index("mode", drop=False),
    ]
    assert all(rows_of(frame) == CONFORMED for frame in frames)
    assert rows_of({"flow": 3, "open": True, "code": "7", "mode": "auto"}) == {k: v[:1] for k, v in CONFORMED.items()}
    assert rows_of({name: np.array(cells[:1]) for name, cells in CELLS.items()}) == {k: v[:1] for k, v in CONFORMED.items()}


def test_cells_in_an_array_each_are_cells() -> None:
    """A request in the form ``instances`` arrives like this, where a column has a missing cell."""
    wrapped = {name: np.empty(len(cells), dtype=object) for name, cells in CELLS.items()}
    for name, cells in CELLS.items():
        for i, cell in enumerate(cells):
            wrapped[name][i] = np.array(cell)
    assert rows_of(wrapped) == CONFORMED


def test_whatever_speaks_arrows_protocol_is_a_data_frame() -> None:
    class Frame:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return arrow().__arrow_c_stream__(requested_schema)

    assert rows_of(Frame()) == CONFORMED


@settings(max_examples=30, deadline=None)
@given(order=st.permutations([*CELLS, "unknown"]), kept=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_neither_order_nor_index_nor_unknown_columns_matter(order: list[str], kept: list[int]) -> None:
    frame = pd.DataFrame({**CELLS, "unknown": [{"a": 1}, [2], 3j, object()]})[list(order)].iloc[kept]
    assert rows_of(frame) == {name: [cells[i] for i in kept] for name, cells in CONFORMED.items()}


@pytest.mark.parametrize(
    ("levels", "values", "expected"),
    [
        (("007", "12"), [7, 12, 8], ["007", "12", "8"]),
        (("007", "12"), [7.0, None, 8.5], ["007", None, "8.5"]),
        (("1.50", "2"), [1.5, 2.0, 3.0], ["1.50", "2", "3"]),
        (("True", "False", "off"), [True, None, False], ["True", None, "False"]),
        (("TRUE", "FALSE", "off"), [True, True, False], ["TRUE", "TRUE", "FALSE"]),
        (("7", "x"), [7, "x", None], ["7", "x", None]),
        (("7", "x"), [7.0, "x", True], ["7", "x", "true"]),
        (("M7", "7"), [b"M7", "7", Decimal("7.0")], ["M7", "7", "7"]),
    ],
    ids=str,
)
def test_numbers_and_booleans_are_the_levels_of_their_value(levels: tuple[str, ...], values: list[Any], expected: list[Any]) -> None:
    """A CSV that pandas or a server reads without types has 007 as the number 7."""
    assert only(pd.Series(values), column("code", levels=levels)) == expected


@pytest.mark.parametrize("values", [[7, 12], [7.0, None], [Decimal(7), None]], ids=str)
def test_a_number_that_two_levels_have_is_refused(values: list[Any]) -> None:
    with pytest.raises(SchemaMismatch) as refused:
        only(values, column("code", levels=("007", "7", "12")))
    assert str(refused.value) == (
        "column 'code' of the data frame holds 7 as a number, and this model tells '007', '7' apart. Give the column as text."
    )
    assert only([12, 12], column("code", levels=("007", "7", "12"))) == ["12", "12"]
    assert only(["7", "007"], column("code", levels=("007", "7", "12"))) == ["7", "007"]


def test_a_group_column_is_read_with_the_spelling_of_its_groups() -> None:
    rows = rows_of(pd.DataFrame({**CELLS, "line": [1.0, 2.0, None, 3.0]}), extra={"line": ["01", "02"]})
    assert rows["line"] == ["01", "02", None, "3"]


@pytest.mark.parametrize(
    "times",
    [
        pd.Series(pd.period_range("2024-01-01", periods=2, freq="D")),
        pd.Series(pd.date_range("2024-01-01", periods=2, tz="UTC")),
        pd.Series([dt.date(2024, 1, 1), dt.date(2024, 1, 2)]),
        pd.Series(["2024-01-01", "2024-01-02"]),
    ],
    ids=lambda times: str(times.dtype),
)
def test_times_are_seconds_in_any_type(times: "pd.Series[Any]") -> None:
    assert only(times, column("at", kind="numeric", temporal=True)) == [1704067200.0, 1704153600.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series(pd.arrays.SparseArray([0.0, 0.0, 1.5])), [0.0, 0.0, 1.5]),
        (pd.Series([1.5, "2", None]), [1.5, 2.0, None]),
        (pd.Series([2**70, 1, None], dtype=object), [float(2**70), 1.0, None]),
        (pd.Series([Decimal("1.5"), 2.5, None]), [1.5, 2.5, None]),
        (pd.Series([1.5, 2.5], dtype="longdouble"), [1.5, 2.5]),
        (pd.Series([0.1, 0.3], dtype="float64"), [0.1, 0.3]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_numbers_of_odd_types_are_numbers(values: "pd.Series[Any]", expected: list[float | None]) -> None:
    assert only(values, column("flow", kind="numeric")) == expected


def test_the_missing_values_of_the_fit_are_missing_in_a_frame_too() -> None:
    reading = Reading(missing_values=("-999", "?"))
    assert rows_of(pd.DataFrame({**CELLS, "flow": [3.0, -999.0, None, 1.0], "mode": ["auto", "?", None, "auto"]}), reading=reading) == {
        **CONFORMED,
        "flow": [3.0, None, None, 1.0],
        "mode": ["auto", None, None, "auto"],
    }


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, DataError, f"the data frame is a int; expected {EXPECTED}."),
        (np.zeros((2, 4)), DataError, f"the data frame is a ndarray; expected {EXPECTED}."),
        (
            {"flow": [1], "open": [True, False]},
            DataError,
            f"the data frame is no table: All arrays must be of the same length. Expected {EXPECTED}.",
        ),
        (
            pd.DataFrame({**CELLS, "code": [7, 1j, 12, None]}),
            SchemaMismatch,
            "column 'code' of the data frame holds a complex: '(7+0j)'. Expected numbers, text, booleans or times.",
        ),
        (
            pd.concat([pd.DataFrame(CELLS), pd.DataFrame(CELLS)[["flow"]]], axis=1),
            DataError,
            "the data frame has columns of the same name: 'flow'. Give every column its own name.",
        ),
        (
            pd.DataFrame(CELLS).rename(columns={"flow": "Flow"}),
            SchemaMismatch,
            (
                "the data frame lacks 1 of the model's 4 columns: 'flow' (did you mean 'Flow'?). "
                "Available columns: 'Flow', 'open', 'code', 'mode'."
            ),
        ),
        (
            pd.DataFrame({**CELLS, "flow": [1.0, 2.0, float("inf"), 0.0]}),
            SchemaMismatch,
            (
                "column 'flow' must be finite but is inf in the data frame row 3 (counted from 1). "
                "Declare it in --missing-values if it means a missing value, or correct the row."
            ),
        ),
        (
            pd.DataFrame({**CELLS, "flow": [1.0, "n/a", 2.0, 0.0]}),
            SchemaMismatch,
            (
                "column 'flow' is numeric in this model but 'n/a' in the data frame row 2 (counted from 1). "
                "Declare it in --missing-values, or leave the column out and fit again."
            ),
        ),
        (
            pd.DataFrame({**CELLS, "mode": [["auto"], None, None, None]}),
            SchemaMismatch,
            (
                "column 'mode' is a category in this model but list<item: string> in the data frame. "
                "Write it as text, or leave it out and fit again."
            ),
        ),
    ],
)
def test_what_is_no_table_of_the_model_is_one_line(data: Any, error: type[DataError], message: str) -> None:
    with pytest.raises(error) as refused:
        rows_of(data)
    assert str(refused.value) == message


SHIFTED = (
    "the data frame has the index {}, … without a name and nothing in its last column 'mode'. pandas reads a CSV like this whose rows end "
    "with a delimiter, and puts each cell under the name before it. Take that delimiter away, or the index with reset_index(drop=True)."
)


@pytest.mark.parametrize(
    ("first", "shown"),
    [(["1.5", "2.5"], "'1.5'"), (["a", "b"], "'a'"), (["", "2"], "'nan'"), (["True", "False"], "'True'")],
)
def test_a_csv_whose_rows_end_with_a_delimiter_is_refused_once_pandas_has_read_it(first: list[str], shown: str) -> None:
    frame = _read_with_delimiters(first)
    with pytest.raises(DataError) as refused:
        rows_of(frame)
    assert str(refused.value) == SHIFTED.format(shown)


def _read_with_delimiters(first: list[str]) -> pd.DataFrame:
    return pd.read_csv(io.StringIO("flow,open,code,mode\n" + "".join(f"{cell},1,7,0,\n" for cell in first)))


def test_where_rows_may_have_been_taken_from_a_frame_the_same_is_said_only(caplog: pytest.LogCaptureFixture) -> None:
    rows_of(_read_with_delimiters(["7", "7"]))
    rows_of(pd.DataFrame(CELLS).assign(mode=None).iloc[[3, 0, 1]])
    rows_of(pd.DataFrame(CELLS).assign(mode=None))
    rows_of(pd.DataFrame(CELLS).iloc[[3, 0, 1]])
    assert [r.getMessage() for r in caplog.records] == [SHIFTED.format("'7'"), SHIFTED.format("'3'")]


@pytest.mark.parametrize("index", [[5, 2, 9, 7], pd.date_range("2024", periods=4), pd.Index([0.5] * 4, name="t"), pd.Index(["a"] * 4)])
def test_an_index_is_no_sign_of_that_where_cells_are_in_place(index: Any) -> None:
    frame = pd.DataFrame(CELLS).set_axis(pd.Index(index))
    assert rows_of(frame) == CONFORMED
    if not isinstance(index[0], str):
        assert rows_of(frame.assign(mode=None))["mode"] == [None] * 4


def test_the_texts_that_pandas_takes_for_missing_are_those_of_pandas() -> None:
    texts = ["ok", "0", "-", "?", "none", "Na", "NIL", *sorted(PANDAS_MISSING)]
    read = pd.read_csv(io.StringIO("\n".join(["text", *texts])))["text"]
    assert {text for text, missing in zip(texts, read.isna(), strict=True) if missing} == PANDAS_MISSING
    assert PANDAS_MISSING | {""} == set(pd._libs.parsers.STR_NA_VALUES)  # type: ignore[attr-defined]  # noqa: SLF001  # nothing public has them


@pytest.mark.parametrize(
    ("cells", "warned"),
    [
        (["None", None, "gas", None], "2 missing cells, and the model knows 'None' there"),
        (["None", None, "gas", "gas"], "1 missing cell, and the model knows 'None' there"),
        (["None", "gas"], ""),
    ],
)
def test_missing_cells_that_may_be_a_level_are_said(cells: list[str | None], warned: str, caplog: pytest.LogCaptureFixture) -> None:
    assert only(cells, column("fuel", levels=("None", "gas"), nullable=True)) == cells
    told = (
        f"column 'fuel' of the data frame has {warned}, which pandas reads as missing from a CSV: "
        "if that was meant, send JSON or Parquet, or read with keep_default_na=False"
    )
    assert [r.getMessage() for r in caplog.records] == ([told] if warned else [])


def test_nothing_is_said_of_what_no_csv_was(caplog: pytest.LogCaptureFixture) -> None:
    fuel = Schema(columns=(column("fuel", levels=("None", "gas"), nullable=True),))
    assert rows_of(pa.table({"fuel": ["None", None]}), fuel) == {"fuel": ["None", None]}
    assert rows_of(pd.DataFrame({"mode": ["auto", None]}), Schema(columns=(SCHEMA.columns[3],))) == {"mode": ["auto", None]}
    assert caplog.records == []


QUALITY = Reading(quality_column="quality")


@pytest.mark.parametrize(
    "quality", [[192, 0, 192, 24], [192.0, 0.0, None, 24.0], ["Good", "Bad", "good", "Bad"], pd.array([192, 0, None, 24], dtype="Int64")]
)
def test_values_whose_quality_is_not_good_are_missing(quality: Any) -> None:
    frame = pd.DataFrame({**CELLS, "quality": quality})
    expected = {name: [cell if i in {0, 2} else None for i, cell in enumerate(cells)] for name, cells in CONFORMED.items()}
    assert rows_of(frame, reading=QUALITY) == rows_of(pa.Table.from_pandas(frame), reading=QUALITY) == expected


def test_a_group_is_never_masked_and_a_pattern_masks_one_column_each() -> None:
    frame = pd.DataFrame({**CELLS, "line": ["a", "b", "a", "b"], "flow_q": [0, 192, 192, 0]})
    rows = rows_of(frame, reading=Reading(quality_column="*_q"), extra={"line": ["a", "b"]})
    assert rows == CONFORMED | {"flow": [None, 0.0, None, None], "line": ["a", "b", "a", "b"]}


def test_an_absent_quality_is_refused_as_by_score() -> None:
    with pytest.raises(ConfigError) as refused:
        rows_of(pd.DataFrame(CELLS), reading=QUALITY)
    assert str(refused.value) == (
        "--quality-column names a column that is not in the data: 'quality'. Available columns: 'flow', 'open', 'code', 'mode'."
    )


def test_a_model_of_a_long_table_takes_the_wide_one() -> None:
    reading = Reading(pivot="tag=tag,value=value,time=ts", quality_column="quality")
    assert rows_of(pd.DataFrame(CELLS), reading=reading) == CONFORMED
    with pytest.raises(SchemaMismatch) as refused:
        rows_of(pd.DataFrame({"ts": [1], "tag": ["flow"], "value": [3.0]}), reading=reading)
    assert str(refused.value) == (
        "the data frame has one tag and value a row, in 'tag' and 'value'; in MLflow this model takes the wide table, "
        "with a column for each tag and a row for each time. Make it wide, or score it with vae-anomaly score."
    )


TEXTS = st.sampled_from(
    ["1e3", "+5", " 7 ", "1_000", "0x10", "1.5 bar", "", "NA", "n/a", "None", "-", "inf", "TRUE", "yes", "t", "0", "1.0", "2", "007", "é"]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS), min_size=1, max_size=4))
@example(cells=[("", "", "n/a", "t"), ("1.0", "2", "é", "yes")])
def test_texts_are_read_or_refused_as_those_of_a_file(tmp_path: Path, cells: list[tuple[str, ...]]) -> None:
    frame = pd.DataFrame(cells, columns=list(CELLS), dtype=object)
    frame.to_csv(tmp_path / "file.csv", index=False)
    there = _read(lambda: pa.Table.from_batches(open_source([str(tmp_path / "file.csv")]).batches(SCHEMA)).to_pydict())
    assert _read(lambda: rows_of(frame)) == _read(lambda: rows_of(frame.to_dict("records"))) == there


def _read(rows: Callable[[], dict[str, list[Any]]]) -> Any:
    """Return the rows, or what is refused and why, without the place and the advice: a file has ``--on-error`` too."""
    try:
        return rows()
    except DataError as error:
        return re.sub(r" in (the data frame|\S*file\.csv) row (\d+).*?\)", r" in row \2", str(error)).partition(". ")[0]


def test_a_frame_is_not_changed() -> None:
    frame = pd.DataFrame(CELLS)
    kept = frame.copy(deep=True)
    rows_of(frame)
    pd.testing.assert_frame_equal(frame, kept)
