import datetime as dt
import decimal
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.config import DataConfig
from vae_anomaly.errors import ConfigError, DamagedArtifact, DataError, SchemaMismatch
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.inference import Column, Dropped
from vae_anomaly.schema.schema import Schema, check_duplicates, conform, infer_schema, unknown_columns

PUMP = Schema(
    columns=(
        Column(name="pressure", kind="numeric"),
        Column(name="running", kind="boolean", levels=("f", "t")),
        Column(name="mode", kind="category", levels=("auto", "hand")),
    )
)


def batch(**columns: Any) -> pa.RecordBatch:
    good = {"pressure": [1.0, 2.0], "running": ["t", "f"], "mode": ["auto", "hand"]}
    return pa.RecordBatch.from_pydict(good | columns)


def refused(schema: Schema = PUMP, first_row: int = 0, **columns: Any) -> str:
    with pytest.raises(SchemaMismatch) as caught:
        conform(schema, batch(**columns), where="new.csv", first_row=first_row)
    return str(caught.value)


# ── infer_schema ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_becomes_a_schema() -> None:
    table = pa.table({"t": [dt.date(2024, 1, 1)] * 2, "flow": [1.0, None], "mode": ["a", "b"], "ok": [True, False], "tbg": [None, None]})
    assert infer_schema(table, DataConfig(time_column="t")) == Schema(
        columns=(
            Column(name="flow", kind="numeric", nullable=True),
            Column(name="mode", kind="category", levels=("a", "b")),
            Column(name="ok", kind="boolean", levels=("false", "true")),
        ),
        dropped=(Dropped(name="t", reason="time column"), Dropped(name="tbg", reason="all values missing")),
        time="t",
    )


def test_columns_named_in_the_config_are_left_out_with_their_reason() -> None:
    table = pa.table({name: [1.0, 2.0] for name in "abcdef"})
    data = DataConfig(label_column="a", id_columns=("b",), exclude=("c",), time_column="d", group_by="e")
    schema = infer_schema(table, data)
    assert [(d.name, d.reason) for d in schema.dropped] == [
        ("a", "label"), ("b", "id column"), ("c", "excluded"), ("d", "time column"), ("e", "group column"),
    ]  # fmt: skip
    assert (schema.names, schema.label, schema.time, schema.group, schema.window) == (("f",), "a", "d", "e", 1)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            DataConfig(exclude=("Pressure",), label_column="clas"),
            (
                "columns named in the options are not in the table: 'Pressure' (did you mean 'pressure'?), 'clas' (did you mean 'class'?). "
                "Columns there: 'pressure', 'class'."
            ),
        ),
        (
            DataConfig(include=("xyz",)),
            "columns named in the options are not in the table: 'xyz'. Columns there: 'pressure', 'class'.",
        ),
        (
            DataConfig(include=("class",), label_column="class"),
            "--include names columns that another option takes out: 'class'. Name each in one option only.",
        ),
    ],
    ids=["close matches", "no match", "contrary"],
)
def test_options_that_name_columns_wrongly(data: DataConfig, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        infer_schema(pa.table({"pressure": [1.0], "class": ["a"]}), data)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (pa.table({"a": pa.array([], pa.float64())}), "the table has no rows; a fit needs normal rows to learn from."),
        (
            pa.table([[1.0], [2.0], [3.0]], names=["a", "b", "a"]),
            "the table has columns of the same name: 'a'. Give every column its own name.",
        ),
        (
            pa.table({"a": [None], "b": [[1]]}),
            (
                "no column is left to learn from ('a': all values missing; 'b': nested column (list<item: int64>)). "
                "Bring columns back with --include."
            ),
        ),
        (pa.table({}), "the table has no rows; a fit needs normal rows to learn from."),
    ],
    ids=["no rows", "duplicates", "nothing left", "no columns"],
)
def test_tables_that_nothing_can_be_learned_from(table: pa.Table, text: str) -> None:
    with pytest.raises(DataError) as caught:
        infer_schema(table, DataConfig())
    assert str(caught.value) == text


def test_long_lists_of_names_are_cut() -> None:
    names = [f"c{i}" for i in range(5000)]
    text = absent_text([f"x{i}" for i in range(3000)], names)
    assert text.endswith(" and 2,990 more. Columns there: 'c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8', 'c9' and 4,990 more.")
    with pytest.raises(DataError, match="'c9' and 4,990 more"):
        check_duplicates([*names, *names], "wide.csv")


# ── the schema as a value ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_schema_survives_json() -> None:
    schema = infer_schema(pa.table({"a": [1.0], "b": ["x"], "c": [None]}), DataConfig())
    assert Schema.from_state(json.loads(json.dumps(schema.state()))) == schema


def test_the_digest_changes_with_what_changes_a_row_and_with_nothing_else() -> None:
    def changed(**fields: Any) -> str:
        return Schema(**{**{f: getattr(PUMP, f) for f in PUMP.__slots__}, **fields}).digest

    assert changed() == PUMP.digest
    assert changed(label="class", dropped=(Dropped(name="x", reason="excluded"),)) == PUMP.digest
    different = [changed(columns=PUMP.columns[::-1]), changed(columns=PUMP.columns[:2]), changed(window=2), changed(time="t")]
    assert len({PUMP.digest, *different}) == 5


def damaged(**changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(PUMP.state())) | changes  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "the schema of the artifact cannot be read: columns: field required. Restore the artifact or fit again."),
        (damaged(columns=[{"kind": "numeric"}]), "cannot be read: columns.0.name: field required."),
        (damaged(columns=[{"kind": "numeric", "levels": []}]), "cannot be read"),
        (
            damaged(columns=[{"name": "a", "kind": "image", "levels": []}]),
            "cannot be read: columns.0.kind: input should be 'numeric', 'boolean' or 'category'.",
        ),
        (damaged(columns=[{"name": "a", "kind": "numeric", "levels": ["x"]}]), "has an impossible column"),
        (damaged(columns=[{"name": "a", "kind": "boolean", "levels": ["x"]}]), "has an impossible column"),
        (
            damaged(columns=[{"name": "a", "kind": "category", "levels": [1]}]),
            "cannot be read: columns.0.levels.0: input should be a valid string.",
        ),
        (
            damaged(columns=[{"name": 1, "kind": "numeric", "levels": []}]),
            "cannot be read: columns.0.name: input should be a valid string.",
        ),
        (damaged(columns=None), "cannot be read"),
        (damaged(columns=[{"name": "a", "kind": "category", "levels": []}]), "has an impossible column"),
        (damaged(columns=2 * [{"name": "a", "kind": "numeric"}]), "the schema of the artifact has two columns of one name."),
        (damaged(future=1), "cannot be read: Schema: 'future' is no field of it."),
        (damaged(dropped=[{"name": "a"}]), "cannot be read"),
    ],
)
def test_a_damaged_schema_is_refused(state: dict[str, Any], text: str) -> None:
    with pytest.raises(DamagedArtifact, match=text):
        Schema.from_state(state)


def test_unknown_columns_were_not_in_the_table_of_the_fit() -> None:
    schema = Schema(columns=PUMP.columns, dropped=(Dropped(name="id", reason="id column"),))
    assert unknown_columns(schema, ["id", "pressure", "new", "other"]) == ("new", "other")


# ── conform ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_is_brought_to_the_columns_of_the_model() -> None:
    raw = pa.RecordBatch.from_pydict({"mode": ["hand", None], "extra": [1, 2], "running": [True, None], "pressure": [1, None]})
    expected = pa.RecordBatch.from_pydict({"pressure": [1.0, None], "running": ["t", None], "mode": ["hand", None]})
    assert conform(PUMP, raw, where="new.csv").equals(expected)


def test_an_unseen_level_stays_as_it_is() -> None:
    out = conform(PUMP, batch(mode=["manual", "auto"], running=["maybe", "t"]), where="new.csv")
    assert out.select(["mode", "running"]).to_pydict() == {"mode": ["manual", "auto"], "running": ["maybe", "t"]}


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2], pa.int8()),
        pa.array([1, 2], pa.uint64()),
        pa.array([1, 2], pa.float32()),
        pa.array([1, 2], pa.float16()),
        pa.array([decimal.Decimal(1), decimal.Decimal(2)]),
        pa.array(["1", " +2.0 "]),
        pa.array(["1", "2"], pa.large_string()),
        pa.array(["1", "2"]).dictionary_encode(),
        pa.array([1, 2]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type).split("<")[0],
)
def test_every_type_of_number_is_float64(values: pa.Array) -> None:
    assert conform(PUMP, batch(pressure=values), where="new.csv").column("pressure").equals(pa.array([1.0, 2.0]))


@pytest.mark.parametrize("values", [[math.nan, None], [None, None], ["", " "]], ids=["nan", "null", "blank"])
def test_cells_without_a_number_are_null(values: list[Any]) -> None:
    assert conform(PUMP, batch(pressure=values), where="new.csv").column("pressure").equals(pa.array([None, None], pa.float64()))


def test_extreme_but_finite_numbers_pass() -> None:
    values = [1.7e308, 1.7e308]  # their sum overflows
    assert conform(PUMP, batch(pressure=values), where="x").column("pressure").to_pylist() == values
    assert conform(PUMP, batch(pressure=pa.array([2**60 + 1, 1])), where="x").column("pressure").to_pylist() == [2.0**60, 1.0]


def test_finite_float64_is_not_copied() -> None:
    raw = batch(pressure=np.arange(2.0))
    assert conform(PUMP, raw, where="x").column("pressure").buffers()[1].address == raw.column("pressure").buffers()[1].address


def test_a_conformed_batch_conforms() -> None:
    once = conform(PUMP, batch(pressure=[math.nan, 1.0], running=[0, 1]), where="x")
    assert conform(PUMP, once, where="x").equals(once)


def test_no_rows_conform() -> None:
    assert conform(PUMP, batch().slice(0, 0), where="x").num_rows == 0


def test_times_that_the_user_included_are_seconds() -> None:
    schema = Schema(columns=(Column(name="t", kind="numeric", temporal=True),))
    columns = {
        "text": pa.array(["1970-01-01 00:01:00"]),
        "timestamp": pa.array([60_000], pa.timestamp("ms")),
        "zoned": pa.array([60_000], pa.timestamp("ms", "Europe/Berlin")),
        "time": pa.array([60], pa.time32("s")),
        "duration": pa.array([60_000_000_000], pa.duration("ns")),
        "seconds": pa.array([60.0]),
    }
    got = {name: conform(schema, pa.record_batch({"t": a}), where="x").column(0).to_pylist() for name, a in columns.items()}
    assert got == {name: [60.0] for name in columns}
    day = conform(schema, pa.record_batch({"t": pa.array([dt.date(1970, 1, 2)])}), where="x")
    assert day.column(0).to_pylist() == [86400.0]
    with pytest.raises(SchemaMismatch) as caught:
        conform(schema, pa.record_batch({"t": ["24.12.2017", "soon"]}), where="x")
    assert str(caught.value) == (
        "column 't' holds times in this model but 'soon' in x row 2 (counted from 1). "
        "Declare it in --missing-values, or leave the column out and fit again."
    )
    with pytest.raises(SchemaMismatch, match=r"^column 't' is numeric in this model but month_day_nano_interval in x\. "):
        conform(schema, pa.record_batch({"t": pa.array([(1, 1, 1)], pa.month_day_nano_interval())}), where="x")


def test_times_of_several_forms_are_each_read_by_themselves() -> None:
    schema = Schema(columns=(Column(name="t", kind="numeric", temporal=True),))
    texts = ["02.01.1970", "1970-01-02 00:00:01", None, "1970-01-01T01:00:00+01:00", "00:01"]
    got = conform(schema, pa.record_batch({"t": texts}), where="x").column(0).to_pylist()
    assert got == [86400.0, 86401.0, None, 0.0, 60.0]


def test_bad_cells_can_be_noted_instead() -> None:
    schema = Schema(columns=(PUMP.columns[0], Column(name="t", kind="numeric", temporal=True)))
    name, bad = PUMP.columns[0].name, dict[int, str]()
    columns = {name: ["1.5", "n/a", "inf", "x", None], "t": ["1970-01-02", "soon", "1970-01-02", None, "later"]}
    got = conform(schema, pa.record_batch(columns), where="x", bad=bad)
    assert got.to_pydict() == {name: [1.5, None, None, None, None], "t": [86400.0, None, 86400.0, None, None]}
    assert bad == {
        1: f"column {name!r} is numeric in this model but 'n/a'",
        2: f"column {name!r} must be finite but is inf",
        3: f"column {name!r} is numeric in this model but 'x'",
        4: "column 't' holds times in this model but 'later'",
    }


def test_missing_columns_are_all_reported() -> None:
    with pytest.raises(SchemaMismatch) as caught:
        conform(PUMP, pa.RecordBatch.from_pydict({"Pressure": [1.0], "running": ["t"]}), where="new.csv")
    assert str(caught.value) == (
        "new.csv lacks 2 of the model's 3 columns: 'pressure' (did you mean 'Pressure'?), 'mode'. Columns there: 'Pressure', 'running'."
    )


@pytest.mark.parametrize(
    ("absent", "names", "near"),
    [
        ("temp", ["timestamp", "temperature"], "temperature"),
        ("temperature", ["timestamp", "Temp"], "Temp"),
        ("flow", ["flow_total_of_the_day", "flow_1"], "flow_1"),
        ("pressure", ["presure", "p"], "presure"),
        ("id", ["ID", "idle"], "ID"),
    ],
)
def test_the_nearest_name_begins_alike_before_it_is_spelled_alike(absent: str, names: list[str], near: str) -> None:
    assert absent_text([absent], names).startswith(f"{absent!r} (did you mean {near!r}?). ")
    assert absent_text(["x"], []) == "'x'. It has no columns at all."


def test_text_among_numbers_is_named_with_its_row() -> None:
    assert refused(first_row=18_221, pressure=["1.5", "n/a"]) == (
        "column 'pressure' is numeric in this model but 'n/a' in new.csv row 18,223 (counted from 1). "
        "Declare it in --missing-values, or leave the column out and fit again."
    )


@pytest.mark.parametrize("values", [[1.0, math.inf], ["1", "inf"]], ids=["float", "text"])
def test_an_infinity_is_named_with_its_row(values: list[Any]) -> None:
    assert refused(pressure=values) == (
        "column 'pressure' must be finite but is inf in new.csv row 2 (counted from 1). "
        "Declare it in --missing-values if it stands for a missing value, or correct the row."
    )


def test_types_that_are_no_numbers_or_text() -> None:
    assert refused(pressure=[[1.0], [2.0]]) == (
        "column 'pressure' is numeric in this model but list<item: double> in new.csv. Write it as numbers, or leave it out and fit again."
    )
    assert refused(pressure=[dt.date(2024, 1, 1)] * 2).startswith("column 'pressure' is numeric in this model but date32[day] in new.csv.")
    assert refused(mode=[[1.0], [2.0]]) == (
        "column 'mode' is a category in this model but list<item: double> in new.csv. Write it as text, or leave it out and fit again."
    )


def test_a_column_that_stands_twice_is_refused() -> None:
    twice = pa.RecordBatch.from_arrays([pa.array([1.0])] * 2, names=["pressure", "pressure"])
    with pytest.raises(DataError, match=r"^new.csv has columns of the same name: 'pressure'. Give every column its own name.$"):
        conform(PUMP, twice, where="new.csv")


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────────────

numbers = st.none() | st.floats(allow_infinity=False, width=64)
texts = st.none() | st.sampled_from(["a", "b", "None", "é", "0", "t", "x y"])


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 12))

    def column(cells: st.SearchStrategy[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(draw(st.lists(cells, min_size=rows, max_size=rows)), kind)

    kinds = [(numbers, pa.float64()), (texts, pa.string()), (st.none() | st.booleans(), pa.bool_()), (st.integers(-3, 3), pa.int64())]
    return pa.table(
        {f"c{i}": column(*draw(st.sampled_from(kinds))) for i in range(draw(st.integers(1, 4)))} | {"last": np.arange(rows) / 2}
    )


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(1, 5), st.randoms())
def test_the_table_of_the_fit_conforms_whole_or_in_pieces_in_any_order_of_columns(table: pa.Table, rows: int, random: Any) -> None:
    schema = infer_schema(table, DataConfig())
    whole = pa.Table.from_batches([conform(schema, b, where="x") for b in table.to_batches()])
    shuffled = table.select(random.sample(table.column_names, len(table.column_names)))
    pieces = [conform(schema, b, where="x") for b in shuffled.to_batches(max_chunksize=rows)]
    assert pa.Table.from_batches(pieces).combine_chunks().equals(whole.combine_chunks())
    for column in schema.columns:
        values = whole[column.name]
        assert (values.null_count > 0) == column.nullable
        if column.kind != "numeric":
            assert set(values.drop_null().to_pylist()) <= set(column.levels)
