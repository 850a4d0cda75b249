import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.config import DataConfig
from vae_anomaly.schema.roles import calendar_part, noted, roles_in
from vae_anomaly.schema.schema import infer_schema

ROWS = 300
R = np.random.default_rng(1)
TEMP = R.normal(20, 1, ROWS)


def reasons(table: pa.Table, **settings_: object) -> dict[str, str]:
    schema = infer_schema(table, DataConfig(**settings_))  # type: ignore[arg-type]
    return {column.name: column.reason for column in schema.dropped}


@pytest.mark.parametrize(
    "index", [pd.Index(R.permutation(ROWS)), pd.Index(R.permutation(ROWS), name="machine_row"), pd.date_range("2024", periods=ROWS)]
)
def test_the_index_of_a_data_frame_is_no_input(index: pd.Index) -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"temp": TEMP}, index=index))
    (name,) = set(table.column_names) - {"temp"}
    assert reasons(table)[name].startswith("index of the data frame")
    assert infer_schema(table, DataConfig(include=(name,))).names == ("temp", name)


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "index", "row_number"])
def test_a_column_that_counts_the_rows_is_no_input(name: str) -> None:
    assert list(reasons(pa.table({name: np.arange(ROWS), "temp": TEMP}))) == [name]


def test_parts_of_a_date_in_folders_are_no_inputs_and_others_may_be() -> None:
    columns = {"temp": TEMP, "year": np.full(ROWS, 2024), "month": np.repeat([1, 2], ROWS // 2), "line": np.tile([1, 2], ROWS // 2)}
    table = noted(pa.table(columns), index=(), folders=("year", "month", "line"))
    assert reasons(table) == {"year": "calendar part of a folder name", "month": "calendar part of a folder name"}


@pytest.mark.parametrize("name", ["_hoodie_commit_time", "_rescued_data", "_commit_version", "_fivetran_synced"])
def test_metadata_of_an_engine_is_no_input(name: str) -> None:
    assert (
        "metadata" in reasons(pa.table({name: ["a", "b", "a"] * 100, "temp": TEMP}))[name]
        or "change data" in reasons(pa.table({name: ["a", "b", "a"] * 100, "temp": TEMP}))[name]
    )


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["%d-%b-%y %H:%M:%S", "%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p", "%Y-%m-%dT%H:%M:%SZ", "%Y%m%dT%H%M%S"]),
    st.integers(1, 4000),
)
def test_times_as_text_are_no_inputs_and_offered_as_time_column(form: str, minutes: int) -> None:
    times = pd.date_range("2024-01-05", periods=ROWS, freq=f"{minutes}min").repeat(2)[:ROWS].strftime(form)
    schema = infer_schema(pa.table({"t": times.tolist(), "temp": TEMP}), DataConfig())
    assert [(column.name, column.time) for column in schema.dropped] == [("t", True)]


def test_measurements_stay() -> None:
    columns = {
        "temp": TEMP,
        "rpm": R.integers(800, 3000, ROWS),
        "valve": R.integers(0, 8, ROWS),
        "response_time_s": R.exponential(2, ROWS),
        "mode": R.choice(["auto", "manual"], ROWS).tolist(),
        "hour_sin": np.sin(np.arange(ROWS) / 24),
        "amount": R.integers(1_000_000, 9_000_000, ROWS),
    }
    assert roles_in(pa.table(columns), columns) == {}


def test_words_of_the_calendar() -> None:
    assert [calendar_part(name) for name in ("event_month", "YYYY", "monthly_cost", "daylight")] == ["month", "year", None, None]
