"""Long tables read as wide ones, and values that are not good as missing ones, from files of several formats."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vae_anomaly.config import Reading
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema
from vae_anomaly.tables import pivot
from vae_anomaly.tables.source import Source, open_source

LONG = Reading(pivot="tag=Tag,value=Value,time=TS")
ROWS = 40


@pytest.fixture
def wide() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "TS": pd.date_range("2024-01-01", periods=ROWS, freq="1min").astype("datetime64[s]"),
            "count": random.integers(5, size=ROWS),
            "flow": random.normal(size=ROWS).round(3),
            "mode": random.choice(["on", "off"], ROWS),
        }
    )


def long_of(wide: pd.DataFrame) -> pd.DataFrame:
    """One row a value, as text, in time order, and the quality 192 of each."""
    long = wide.astype({name: object for name in wide.columns if name != "TS"}).melt("TS", var_name="Tag", value_name="Value")
    return long.sort_values("TS", kind="stable").astype({"Value": str}).assign(Quality=192, Unit="m")


def source_of(
    long: pd.DataFrame, folder: Path, reading: Reading = LONG, *, name: str = "long.csv", expected: tuple[str, ...] = ()
) -> Source:
    path = folder / name
    long.to_csv(path, index=False) if name.endswith("csv") else pq.write_table(pa.Table.from_pandas(long, preserve_index=False), path)
    return open_source([str(path)], reading, expected=expected)


def frame(source: Source) -> pd.DataFrame:
    return pd.DataFrame(source.read_table().to_pandas())


@pytest.mark.parametrize("name", ["long.csv", "long.parquet"])
@pytest.mark.parametrize("by_tag", [False, True])
def test_a_long_table_is_the_wide_one(wide: pd.DataFrame, tmp_path: Path, name: str, *, by_tag: bool) -> None:
    long = long_of(wide)
    long = long.sort_values(["Tag", "TS"]) if by_tag else long
    source = source_of(long, tmp_path, name=name)
    pd.testing.assert_frame_equal(frame(source), wide, check_dtype=False)
    assert [str(field.type) for field in source.read_table().schema] == ["timestamp[s]", "int64", "double", "string"]
    assert any("the table was sorted by time" in note for note in source.notes) == by_tag
    assert source.notes[:2] == (
        f"{3 * ROWS} values of 3 tags became one row for each time stamp",
        "not used of the long table: 'Quality', 'Unit'; if one says how good a value is, name it with --quality-column",
    )


def test_a_column_of_numbers_may_be_parquet_and_a_time_a_number(wide: pd.DataFrame, tmp_path: Path) -> None:
    long = long_of(wide[["TS", "flow"]])
    seconds = long.assign(Value=long["Value"].astype(float), TS=long["TS"].astype("datetime64[s]").astype("int64"))
    reading = Reading(pivot="tag=Tag,value=Value,time=TS", time_format="s")
    pd.testing.assert_frame_equal(frame(source_of(seconds, tmp_path, reading, name="x.parquet")), wide[["TS", "flow"]])


def test_several_files_are_one_table(wide: pd.DataFrame, tmp_path: Path) -> None:
    long = long_of(wide).drop_duplicates(["Tag", "Value"])  # written only when they change, so that values are held over the files
    long.iloc[:31].to_csv(tmp_path / "1.csv", index=False)
    long.iloc[31:].to_csv(tmp_path / "2.csv", index=False)
    whole = frame(source_of(long, tmp_path, name="whole.csv"))
    both = open_source([str(tmp_path / "1.csv"), str(tmp_path / "2.csv")], LONG)
    pd.testing.assert_frame_equal(frame(both), whole)
    assert [file.path for file in both.files] == [str(tmp_path / "1.csv"), str(tmp_path / "2.csv")]
    assert both.sample(10, seed=0).table.num_rows == 10
    schema = Schema(columns=(Column(name="flow", kind="numeric"), Column(name="mode", kind="category", levels=("on", "off"))))
    rows = [row for batch in both.batches(schema, extra=["TS"]) for row in batch.to_pylist()]
    assert [(row["flow"], row["mode"]) for row in rows] == list(zip(whole["flow"], whole["mode"], strict=True))
    for first in (1, 17, len(rows) - 1):  # as a job goes on that was killed
        assert [row for batch in both.batches(schema, extra=["TS"], first_row=first) for row in batch.to_pylist()] == rows[first:]


def test_rows_are_the_same_however_many_are_made_at_a_time(wide: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = pd.concat([long_of(wide)] * 1).sample(frac=1.0, random_state=0)
    long = pd.concat([long] * 60).assign(TS=lambda d: d["TS"] + pd.to_timedelta(np.repeat(np.arange(60), len(long)), unit="h"))
    source = source_of(long, tmp_path)
    whole = frame(source)
    monkeypatch.setattr(pivot, "CELLS", 1)  # 1,024 values at a time
    pd.testing.assert_frame_equal(frame(source), whole)


def test_a_tag_without_a_value_is_a_column_of_missing_cells(wide: pd.DataFrame, tmp_path: Path) -> None:
    long = long_of(wide)
    source = source_of(long[long["Tag"] != "flow"], tmp_path, expected=("flow", "mode"))
    assert source.names == ("TS", "count", "mode", "flow")
    schema = Schema(columns=(Column(name="flow", kind="numeric"), Column(name="mode", kind="category", levels=("on", "off"))))
    assert pa.Table.from_batches(source.batches(schema))["flow"].null_count == ROWS
    source.check_present(schema)
    assert "flow" not in source_of(long[long["Tag"] == "count"], tmp_path, expected=("flow", "mode")).names  # another table altogether


def test_bad_values_are_missing_until_the_next_good_one(wide: pd.DataFrame, tmp_path: Path) -> None:
    long = long_of(wide)
    bad = long["Tag"].eq("flow") & long["TS"].eq(wide["TS"][7])
    long = long.assign(Quality=np.where(bad, 0, 192))
    reading = Reading(pivot="tag=Tag,value=Value,time=TS", quality_column="Quality")
    found = frame(source_of(long, tmp_path, reading))
    assert found["flow"].isna().to_numpy().nonzero()[0].tolist() == [7]
    held = long[~(long["Tag"].eq("flow") & long["TS"].eq(wide["TS"][8]))]
    assert frame(source_of(held, tmp_path, reading))["flow"].isna().to_numpy().nonzero()[0].tolist() == [7, 8]
    only_bad = Reading(pivot="tag=Tag,value=Value,time=TS", quality_column="Quality", good_quality=("0",))
    assert frame(source_of(long, tmp_path, only_bad))["flow"].notna().sum() == 1
    assert "Quality" not in source_of(long, tmp_path, reading).names


def test_no_good_value_is_an_error_of_the_fit_alone(wide: pd.DataFrame, tmp_path: Path) -> None:
    reading = Reading(pivot="tag=Tag,value=Value,time=TS", quality_column="Quality")
    with pytest.raises(DataError, match=r"long\.csv is good by column 'Quality', which holds 3, 1\. Say what .* with --good-quality\."):
        frame(source_of(long_of(wide).assign(Quality=[3, 1] * (3 * ROWS // 2)), tmp_path, reading))
    bad = source_of(long_of(wide).assign(Quality=0), tmp_path, reading, expected=("count", "flow"))
    assert frame(bad)["flow"].isna().all()


def test_one_time_for_several_values_of_a_tag_is_noted(wide: pd.DataFrame, tmp_path: Path) -> None:
    note = "column 'TS' has one time for several values of a tag, of which the last counts"
    assert note not in source_of(long_of(wide), tmp_path).notes
    assert note in source_of(long_of(wide).assign(TS="2024-01-01 10:00:00"), tmp_path).notes


def test_days_alone_are_no_times_of_several_values(wide: pd.DataFrame, tmp_path: Path) -> None:
    long = long_of(wide)
    long["TS"] = long["TS"].dt.floor("h").where(long["TS"].dt.minute >= ROWS // 2, pd.Timestamp("2023-12-31")).dt.strftime("%Y-%m-%d")
    with pytest.raises(
        DataError, match=r"column 'TS' of .*long\.csv holds days, each for several values of a tag\. Join date and time in one"
    ):
        frame(source_of(long, tmp_path))
    daily = Reading(pivot="tag=Tag,value=Value,time=TS,every=1d")
    assert frame(source_of(long, tmp_path, daily))["count"].tolist() == [wide["count"][ROWS // 2 - 1], wide["count"][ROWS - 1]]


def test_rows_begin_when_the_tags_have_values(wide: pd.DataFrame, tmp_path: Path) -> None:
    long = long_of(wide)
    late = long[~(long["Tag"].eq("flow") & (long["TS"] < wide["TS"][3]))]
    source = source_of(late, tmp_path)
    pd.testing.assert_frame_equal(frame(source), wide.iloc[3:].reset_index(drop=True), check_dtype=False)
    assert "rows before 2024-01-01 00:03:00 are left out: not every tag had a value yet" in source.notes
    later = long[~(long["Tag"].eq("flow") & (long["TS"] < wide["TS"][20]))]
    assert frame(source_of(later, tmp_path))["flow"].isna().sum() == 20


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"TS": "noon"}, "long.csv row 5: time column 'TS' must hold times such as 2025-03-03 12:00:00 but is 'noon'. Correct it, or give"),
        ({"TS": None}, "long.csv row 5 has no time in column 'TS'. Leave such rows out."),
    ],
)
def test_a_time_that_cannot_be_read_is_named(wide: pd.DataFrame, tmp_path: Path, change: dict[str, str | None], error: str) -> None:
    long = long_of(wide).astype({"TS": str})
    long.iloc[4, 0] = change["TS"]
    with pytest.raises(DataError) as caught:
        frame(source_of(long, tmp_path))
    assert error in str(caught.value)


def test_limits_name_what_is_too_much(wide: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = long_of(wide)
    monkeypatch.setattr(pivot, "MOST_SORTED", 100)
    with pytest.raises(DataError, match=r"long\.csv row 41 has an earlier time .* Sort the table by 'TS'\."):
        frame(source_of(long.sort_values(["Tag", "TS"]), tmp_path))
    monkeypatch.setattr(pivot, "MOST_TAGS", 2)
    with pytest.raises(DataError, match=r"column 'Tag' of .*long\.csv has more than 2 tags\. Is it the column of the tags\?"):
        frame(source_of(long, tmp_path))
    with pytest.raises(DataError, match=r"no row of .*long\.csv has a tag; there is nothing to pivot\."):
        frame(source_of(long.assign(Tag=None), tmp_path))
    with pytest.raises(DataError, match=r"holds no times\. Name the unit with --time-format\."):
        frame(source_of(long.assign(TS=0.5), tmp_path, name="x.parquet"))


def test_options_that_do_not_fit_are_refused(wide: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--pivot names columns that .*wide\.csv lacks: 'Tag', 'Value'.* Then give --pivot ''\."):
        source_of(wide, tmp_path, name="wide.csv", expected=("flow",))
    with pytest.raises(ConfigError, match=r"--pivot and --quality-column name columns that .* lacks: 'Q'"):
        source_of(long_of(wide), tmp_path, Reading(pivot="tag=Tag,value=Value,time=TS", quality_column="Q"))
    with pytest.raises(
        ConfigError, match=r"--pivot makes one row of several; malformed ones cannot be left out\. Give --on-error stop, not skip"
    ):
        source_of(long_of(wide), tmp_path, Reading(pivot="tag=Tag,value=Value,time=TS", on_error="skip"))
    assert source_of(wide, tmp_path, Reading(pivot=""), name="wide.csv").names == tuple(wide.columns)


# quality columns of wide tables


def masked(wide: pd.DataFrame, folder: Path, reading: Reading, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table as a fit reads it, and as a score does."""
    source = source_of(wide, folder, reading, name=name)
    schema = Schema(columns=(Column(name="flow", kind="numeric"), Column(name="mode", kind="category", levels=("on", "off"))))
    streamed = pa.Table.from_batches(source.batches(schema, extra=["TS"])).to_pandas()
    return frame(source), streamed


@pytest.mark.parametrize("name", ["wide.csv", "wide.parquet"])
def test_a_quality_masks_the_values_of_its_row(wide: pd.DataFrame, tmp_path: Path, name: str) -> None:
    bad = np.arange(ROWS) % 7 == 3
    whole, streamed = masked(wide.assign(q=np.where(bad, "Bad", "Good")), tmp_path, Reading(quality_column="q"), name)
    assert "q" not in whole.columns
    for table in (whole, streamed):
        for column in ("flow", "mode"):
            assert table[column].isna().tolist() == bad.tolist()
    assert streamed["TS"].notna().all()


@pytest.mark.parametrize("name", ["wide.csv", "wide.parquet"])
def test_a_pattern_masks_each_sensor_by_its_own_quality(wide: pd.DataFrame, tmp_path: Path, name: str) -> None:
    bad = np.arange(ROWS) % 5 == 1
    codes = wide.assign(flow_quality=np.where(bad, 64, 216), mode_quality=192, other_quality=0)
    for table in masked(codes, tmp_path, Reading(quality_column="*_quality"), name):
        assert table["flow"].isna().tolist() == bad.tolist()
        assert table["mode"].notna().all()


def test_malformed_rows_are_left_out_of_a_masked_table_too(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("flow,q\n1.0,Good\n2.0\n3.0,Bad\n4.0,Good\n")
    source = open_source([str(tmp_path / "x.csv")], Reading(quality_column="q", on_error="skip"))
    schema = Schema(columns=(Column(name="flow", kind="numeric"),))
    assert pa.Table.from_batches(source.batches(schema))["flow"].to_pylist() == [1.0, None, 4.0]
    assert source.read_table()["flow"].to_pylist() == [1, None, 4]


def test_roles_are_not_masked_and_no_good_value_is_an_error(wide: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    wide.assign(q=0).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"no value of .*x\.csv is good by column 'q', which holds 0\. Say what .* with --good-quality\."):
        open_source([str(path)], Reading(quality_column="q")).read_table()
    wide.assign(q=np.arange(ROWS) % 2).to_csv(path, index=False)
    kept = open_source([str(path)], Reading(quality_column="q", good_quality=("0",)), unused=("TS",)).read_table()
    assert (kept["TS"].null_count, kept["flow"].null_count) == (0, ROWS // 2)
