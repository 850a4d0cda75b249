"""Rows in time through ``score``: one series over batches, files, folders, commands and kills; events and acknowledged ranges."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from tests.series import config_of, rows_of
from vae_anomaly import artifact
from vae_anomaly.detector.in_time import times_of
from vae_anomaly.errors import ConfigError, DataError, OutputError, SchemaMismatch
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.jobs.state_file import read_state
from vae_anomaly.schema.schema import infer_schema
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import ScoreResult
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.score_counts import Counting

NEW = rows_of(300, seed=5, fault=(80, 140), holes=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder."""
    folder, table, config = tmp_path_factory.mktemp("series") / "m", rows_of(400), config_of()
    schema = infer_schema(table, config.data)
    detector = fit_rows(table, schema, config, times=times_of(table, schema, None)).detector
    artifact.save(detector, folder)
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(NEW, "new.parquet")
    for i, first in enumerate((0, 90, 200)):
        pq.write_table(NEW.slice(first, (90, 110, 100)[i]), f"part{i}.parquet")


def score(model: str, *data: str, **options: Any) -> ScoreResult:
    return score_files(ScoreRequest(data=data, model=model, **options))


def scores(path: str) -> list[str]:
    with Path(path).open(newline="") as file:
        return [f"{row['anomaly_score']} {row['top_features']}" for row in csv.DictReader(file)]


PARTS = ("part0.parquet", "part1.parquet", "part2.parquet")


def test_chunks_files_folders_and_commands_continue_the_series_to_the_bit(model: str) -> None:
    whole = score(model, "new.parquet", output="whole.csv", events=Path("whole_events.csv"))
    assert whole.found_events is not None
    assert len(whole.found_events.events) >= 1
    expected = scores("whole.csv")
    score(model, "new.parquet", output="chunks.csv", chunk_rows=7)
    assert scores("chunks.csv") == expected
    score(model, *PARTS, output="files.csv", events=Path("files_events.csv"))
    assert scores("files.csv") == expected
    assert Path("files_events.csv").read_text() == Path("whole_events.csv").read_text()
    folder = score(model, *PARTS, output="folder/", events=Path("folder_events.csv"), format="csv")
    assert [line for i in range(3) for line in scores(next(map(str, Path("folder").glob(f"part{i}*.csv"))))] == expected
    for i, name in enumerate(PARTS):
        score(model, name, output=f"command{i}.csv", state=Path("state.json"), events=Path(f"events{i}.csv"))
    assert [line for i in range(3) for line in scores(f"command{i}.csv")] == expected
    events = [
        [(e.entity, e.start, e.peak, e.end, e.peak_score) for e in result.found_events.events]
        for result in (whole, folder)
        if result.found_events
    ]
    assert events[0] == events[1]


def test_without_a_state_file_nothing_is_carried_between_commands(model: str) -> None:
    score(model, "new.parquet", output="whole.csv")
    score(model, "part1.parquet", output="alone.csv")
    assert scores("alone.csv") != scores("whole.csv")[90:200]


def test_the_same_job_again_starts_from_the_state_before_it(model: str) -> None:
    score(model, "part0.parquet", output="a.csv", state=Path("s.json"))
    score(model, "part1.parquet", output="b.csv", state=Path("s.json"))
    before = Path("s.json").read_bytes()
    assert score(model, "part1.parquet", output="b.csv", state=Path("s.json")).unchanged
    expected = scores("b.csv")
    score(model, "part1.parquet", output="b.csv", state=Path("s.json"), overwrite=True)
    assert scores("b.csv") == expected
    assert Path("s.json").read_bytes() == before
    with pytest.raises(OutputError, match=r"holds the scores of another request \(other state\)"):
        score(model, "part0.parquet", output="a.csv", state=Path("s.json"))


def test_a_kill_between_the_output_and_the_state_loses_nothing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    score(model, "part0.parquet", output="a.csv", state=Path("s.json"))
    before = Path("s.json").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vae_anomaly.jobs.state_file.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            score(model, "part1.parquet", output="b.csv", state=Path("s.json"))
    assert Path("s.json").read_bytes() == before
    assert score(model, "part1.parquet", output="b.csv", state=Path("s.json")).unchanged
    score(model, "part2.parquet", output="c.csv", state=Path("s.json"))
    score(model, "new.parquet", output="whole.csv")
    assert scores("a.csv") + scores("b.csv") + scores("c.csv") == scores("whole.csv")


class _Killed(Exception):
    pass


def test_a_resumed_job_continues_series_and_events(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(model, "new.parquet", output="whole.csv", events=Path("whole_events.csv"))
    real, seen = Counting.take, []

    def take(self: Any, scored: Any) -> None:
        real(self, scored)
        seen.append(scored.tally.rows)
        if sum(seen) > 150:
            raise _Killed

    options = {"chunk_rows": 10, "part_rows": 20, "output": "resumed.csv", "events": Path("resumed_events.csv")}
    monkeypatch.setattr("vae_anomaly.detector.stream.GATHER_ROWS", 1)
    monkeypatch.setattr(Counting, "take", take)
    with pytest.raises(_Killed):
        score(model, "new.parquet", **options)
    monkeypatch.setattr(Counting, "take", real)
    found = score(model, "new.parquet", **options)
    assert found.resumed_rows >= 100
    assert scores("resumed.csv") == scores("whole.csv")
    assert Path("resumed_events.csv").read_text() == Path("whole_events.csv").read_text()
    assert found.found_events == replace(whole.found_events, output="resumed_events.csv") if whole.found_events else False


def test_a_file_that_comes_before_scored_ones_is_refused(model: str) -> None:
    score(model, "part1.parquet", "part2.parquet", output="folder/")
    with pytest.raises(
        OutputError, match=r"part0\.parquet comes before files whose scores are in folder, and rows in time continue the file"
    ):
        score(model, *PARTS, output="folder/")
    score(model, *PARTS, output="folder/", overwrite=True)


def test_a_new_file_continues_the_folder(model: str) -> None:
    score(model, *PARTS[:2], output="folder/", format="csv")
    found = score(model, *PARTS, output="folder/", format="csv")
    assert (found.parts_made, found.parts_before) == (1, 2)
    score(model, "new.parquet", output="whole.csv")
    assert [line for i in range(3) for line in scores(next(map(str, Path("folder").glob(f"part{i}*.csv"))))] == scores("whole.csv")


def test_time_that_goes_back_over_files_names_the_file_and_the_row(model: str) -> None:
    pa_csv.write_csv(NEW.slice(0, 5), "early.csv")
    with pytest.raises(
        SchemaMismatch, match=r"time goes back of machine 'a': t is 0\.5, before that of the row above in early\.csv row 1 \(line 2\)"
    ):
        score(model, "part1.parquet", "early.csv", output="x.csv")
    assert not Path("x.csv").exists()


def test_events_have_times_columns_and_severity_and_acknowledged_ones_are_left_out(model: str) -> None:
    found = score(model, "new.parquet", output="x.csv", events=Path("e.parquet"))
    assert found.found_events is not None
    table = pq.read_table("e.parquet")
    assert table.column_names == [
        "machine", "start", "peak", "end", "duration", "rows", "peak_score", "severity", "top_columns", "first_row", "last_row", "ongoing",
    ]  # fmt: skip
    first = table.to_pylist()[0]
    assert first["duration"] == first["end"] - first["start"]
    threshold = artifact.load(Path(model)).threshold
    assert first["severity"] == pytest.approx(first["peak_score"] / threshold.event_value)
    assert threshold.event_value <= threshold.value
    assert {column["column"] for column in first["top_columns"]} & {"flow", "power"}
    rows = NEW.to_pylist()
    assert rows[first["first_row"]]["t"] == first["start"]
    assert rows[first["last_row"]]["t"] == first["end"]
    # A list of events acknowledges them.
    pa_csv.write_csv(table.select(["machine", "start", "end"]), "known.csv")
    again = score(model, "new.parquet", output="x.csv", events=Path("rest.csv"), mute="known.csv")
    assert again.unchanged
    assert again.found_events is not None
    assert (again.found_events.events, again.found_events.acknowledged) == ((), table.num_rows)
    assert Path("rest.csv").read_text().count("\n") == 1


def test_a_file_of_other_events_is_not_replaced(model: str) -> None:
    Path("e.csv").write_text("mine")
    with pytest.raises(OutputError, match=r"e\.csv exists and holds other events"):
        score(model, "new.parquet", output="x.csv", events=Path("e.csv"))
    assert Path("e.csv").read_text() == "mine"
    score(model, "new.parquet", output="x.csv", events=Path("e.csv"), overwrite=True)
    assert "machine" in Path("e.csv").read_text()


def test_timestamps_stay_timestamps(tmp_path: Path) -> None:
    clock = pa.array([round(t * 60e6) for t in rows_of(400)["t"].to_pylist()], pa.timestamp("us"))
    table, config = rows_of(400).set_column(0, "t", clock), config_of()
    schema = infer_schema(table, config.data)
    artifact.save(fit_rows(table, schema, config, times=times_of(table, schema, None)).detector, tmp_path / "m")
    later = NEW.set_column(0, "t", pa.array([round(t * 60e6) for t in NEW["t"].to_pylist()], pa.timestamp("us")))
    pq.write_table(later, "clock.parquet")
    found = score(str(tmp_path / "m"), "clock.parquet", output="x.csv", events=Path("e.parquet"))
    events = pq.read_table("e.parquet")
    assert events.schema.field("start").type == pa.timestamp("us")
    assert events["start"][0].as_py() == later["t"][events["first_row"][0].as_py()].as_py()
    assert found.found_events is not None
    assert found.found_events.is_clock


def test_options_of_time_are_refused_with_a_model_of_single_rows(tmp_path: Path) -> None:
    from tests import tiny
    from tests.tiny import Case

    artifact.save(tiny.detector(Case(kind="numeric", size="one", method="split", prior="exemplar")), tmp_path / "single")
    pq.write_table(tiny.normal_rows("numeric"), "rows.parquet")
    for name, value in (("events", Path("e.csv")), ("state", Path("s.json")), ("mute", "m.csv")):
        with pytest.raises(ConfigError, match=f"--{name} is for rows in time, and this model scores each row alone"):
            score(str(tmp_path / "single"), "rows.parquet", output="x.csv", **{name: value})


def test_a_file_without_ranges_and_one_without_a_state_are_refused(model: str) -> None:
    Path("m.csv").write_text("begin,end\n1,2\n")
    with pytest.raises(DataError, match=r"m\.csv lists no ranges of time: 'start'"):
        score(model, "new.parquet", output="x.csv", mute="m.csv")
    for text in ("{", "[]", json.dumps({"model": "m", "job": "", "before": None, "after": {"series": {}}})):
        Path("s.json").write_text(text)
        with pytest.raises(DataError, match=r"s\.json is no state of a series"):
            score(model, "new.parquet", output="x.csv", state=Path("s.json"))


def test_a_state_file_that_does_not_exist_stands_for_the_start(tmp_path: Path) -> None:
    found = read_state(tmp_path / "none.json", "m")
    assert (found.state_for("x"), found.before, found.after) == (None, None, None)


def test_one_file_has_one_purpose_and_a_folder_of_events_exists(model: str) -> None:
    Path("new.csv").write_bytes(b"")
    for options, text in (
        ({"output": "x.parquet", "events": Path("new.parquet"), "overwrite": True}, "--events new.parquet is also the input new.parquet"),
        ({"output": "y.csv", "events": Path("y.csv"), "overwrite": True}, "--events y.csv is also the output -o"),
        ({"output": "y.csv", "events": Path("s.csv"), "state": Path("s.csv")}, "--events s.csv is also --state"),
        ({"output": "y/", "state": Path("s.json")}, "an output folder keeps the state of its parts by itself"),
    ):
        with pytest.raises(ConfigError, match=text):
            score(model, "new.parquet", **options)
    with pytest.raises(OutputError, match=r"none/e\.csv cannot be written: there is no folder none"):
        score(model, "new.parquet", output="y.csv", events=Path("none/e.csv"))


def test_a_state_goes_on_although_the_events_cannot_be_written(model: str) -> None:
    Path("e.csv").write_text("mine")
    with pytest.raises(OutputError, match="holds other events"):
        score(model, "part0.parquet", output="a.csv", state=Path("s.json"), events=Path("e.csv"))
    score(model, "part1.parquet", output="b.csv", state=Path("s.json"))
    score(model, "new.parquet", output="whole.csv")
    assert scores("a.csv") + scores("b.csv") == scores("whole.csv")[:200]


def test_a_time_that_goes_back_is_counted_among_malformed_rows_too(model: str) -> None:
    lines = [",".join(NEW.column_names), *(",".join("" if v is None else str(v) for v in row.values()) for row in NEW.to_pylist())]
    broken = [lines[0], "1,2,3", *lines[1:6], "x", lines[2], lines[1]]
    Path("broken.csv").write_text("\n".join(broken) + "\n")
    with pytest.raises(SchemaMismatch, match=r"in broken\.csv row 8 \(line 9\)"):
        score(model, "broken.csv", output="x.csv", on_error="skip")
