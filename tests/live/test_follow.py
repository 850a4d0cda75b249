"""A stream is answered as ``score`` answers a file, through kills too."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import tiny
from tests.series import detector_of, rows_of
from tests.tiny import Case
from vae_anomaly import artifact
from vae_anomaly.errors import ConfigError, DataError, OutputError
from vae_anomaly.live.follow import follow_stream
from vae_anomaly.workflow.requests import FollowRequest, ScoreRequest
from vae_anomaly.workflow.results import FollowResult
from vae_anomaly.workflow.score import score_files

NEW = rows_of(200, seed=5, fault=(60, 110), holes=True)


def csv_lines() -> list[str]:
    """The rows as text; a missing cell is empty."""
    rows = [",".join("" if value is None else str(value) for value in row.values()) for row in NEW.to_pylist()]
    return [",".join(NEW.column_names), *rows]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("follow") / "m"
    artifact.save(detector_of(), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("\n".join(csv_lines()) + "\n")


def run(model: str, **options: Any) -> FollowResult:
    given: dict[str, Any] = {"data": "rows.csv", "until_end": True, "output": Path("out.jsonl")} | options
    return follow_stream(FollowRequest(model=model, **given))


def answers(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_answers_are_those_of_score_and_events_those_of_its_file(model: str) -> None:
    pq.write_table(NEW, "new.parquet")
    score = score_files(ScoreRequest(data=("new.parquet",), model=model, output="scores.parquet"))
    found = run(model)
    expected = pq.read_table("scores.parquet").to_pylist()
    lines = [answer for answer in answers() if "line" in answer]
    assert [line["line"] for line in lines] == list(range(200))
    for line, row in zip(lines, expected, strict=True):
        assert (line["anomaly_score"], line["p_value"], line["is_anomaly"]) == (row["anomaly_score"], row["p_value"], row["is_anomaly"])
        assert line.get("top_features") == row["top_features"]
    assert (found.lines, found.alarms, found.errors) == (200, score.counts.alarms, 0)
    assert score.found_events is not None
    ended = [(event.entity, event.start, event.end, event.peak_score) for event in score.found_events.events if not event.ongoing]
    told = [answer for answer in answers() if answer.get("event") == "end"]
    assert [(event["machine"], event["start"], event["end"], event["peak_score"]) for event in told] == ended
    begun = [answer for answer in answers() if answer.get("event") == "begin"]
    assert {(event["machine"], event["start"]) for event in begun} == {(e.entity, e.start) for e in score.found_events.events}


def test_json_lines_are_answered_like_csv(model: str) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in NEW.to_pylist()))
    run(model)
    run(model, data="rows.jsonl", output=Path("json.jsonl"))
    assert [line | {"t": 0} for line in answers("json.jsonl")] == [line | {"t": 0} for line in answers()]  # the time is as it was given


class Trickle(io.RawIOBase):
    """Standard input that gives the lines in pieces of any size."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.ends = os.pipe()
        self.writer = Thread(target=self._write, args=(pieces,))
        self.writer.start()

    def _write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            os.write(self.ends[1], piece)
            time.sleep(0.002)
        os.close(self.ends[1])

    def fileno(self) -> int:
        return self.ends[0]


def test_standard_input_in_pieces_gives_the_same_answers(model: str) -> None:
    run(model)
    whole = "\n".join(csv_lines()).encode()  # without a line break at its end
    random = np.random.default_rng(0)
    cuts = np.sort(random.integers(0, len(whole), 40)).tolist()
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if b > a]
    follow_stream(FollowRequest(model=model, output=Path("stdin.jsonl")), stdin=Trickle(pieces))  # type: ignore[arg-type]
    assert answers("stdin.jsonl") == answers()


def test_a_bad_line_is_answered_with_its_problem_and_changes_nothing_else(model: str) -> None:
    run(model)
    lines = csv_lines()
    broken = [*lines[:50], "1,2", lines[50].replace("run", "run").replace(lines[50].split(",")[2], "wet"), lines[10], *lines[50:]]
    Path("broken.csv").write_text("\n".join(broken) + "\n")
    found = run(model, data="broken.csv", output=Path("broken.jsonl"))
    told = [answer for answer in answers("broken.jsonl") if "line" in answer]
    assert [answer["error"] for answer in told[49:52]] == [
        "the line has 2 cells, expected 6",
        "column 'flow' is numeric in this model but 'wet'",
        "time goes back, before that of a line above",
    ]
    assert found.errors == 3
    scores = [answer["anomaly_score"] for answer in told if "error" not in answer]
    assert scores == [answer["anomaly_score"] for answer in answers() if "line" in answer]


def test_a_stream_goes_on_from_its_state_and_grows(model: str) -> None:
    run(model)
    lines = csv_lines()
    Path("grow.csv").write_text("\n".join(lines[:80]) + "\n")
    options = {"data": "grow.csv", "output": Path("grown.jsonl"), "state": Path("s.json")}
    assert run(model, **options).lines == 79
    assert run(model, **options).lines == 79
    with Path("grow.csv").open("a") as file:
        file.write("\n".join(lines[80:]) + "\n")
    assert run(model, **options).lines == 200
    assert Path("grown.jsonl").read_bytes() == Path("out.jsonl").read_bytes()


def test_answers_that_the_state_does_not_know_are_cut_off(model: str) -> None:
    options = {"state": Path("s.json")}
    Path("rows.csv").write_text("\n".join(csv_lines()[:90]) + "\n")
    run(model, **options)
    stored = Path("s.json").read_bytes()
    Path("rows.csv").write_text("\n".join(csv_lines()) + "\n")
    run(model, **options)
    whole = Path("out.jsonl").read_bytes()
    Path("s.json").write_bytes(stored)  # as if the process had been killed before it wrote its state
    run(model, **options)
    assert Path("out.jsonl").read_bytes() == whole


def test_score_continues_the_state_of_a_stream(model: str) -> None:
    Path("rows.csv").write_text("\n".join(csv_lines()[:101]) + "\n")
    run(model, state=Path("s.json"))
    pq.write_table(NEW, "new.parquet")
    pq.write_table(NEW.slice(100), "rest.parquet")
    score_files(ScoreRequest(data=("new.parquet",), model=model, output="whole.parquet"))
    score_files(ScoreRequest(data=("rest.parquet",), model=model, output="rest_scores.parquet", state=Path("s.json")))
    columns = ["anomaly_score", "top_features"]
    assert pq.read_table("rest_scores.parquet", columns=columns) == pq.read_table("whole.parquet", columns=columns).slice(100)


def killed_runs(model: str, kills: int) -> Iterator[int]:
    """Follow a growing file in processes that are killed, and yield how many lines were answered after each."""
    command = ["follow", "grow.csv", "-m", model, "-o", "grown.jsonl", "--state", "s.json", "--threads", "1", "-q"]
    lines = csv_lines()
    Path("grow.csv").write_text(lines[0] + "\n")
    step = len(lines) // (kills + 1)
    for i in range(kills + 1):
        with Path("grow.csv").open("a") as file:
            file.write("".join(line + "\n" for line in lines[1 + i * step : 1 + (i + 1) * step if i < kills else None]))
        last = i == kills
        child = subprocess.Popen([sys.executable, "-m", "vae_anomaly", *command, *(["--until-end"] if last else [])])
        if last:
            assert child.wait(60) == 0
        else:
            size = Path("grown.jsonl").stat().st_size if Path("grown.jsonl").exists() else 0
            until = time.monotonic() + 60
            while (not Path("grown.jsonl").exists() or Path("grown.jsonl").stat().st_size <= size) and time.monotonic() < until:
                time.sleep(0.02)
            child.send_signal(signal.SIGKILL)
            child.wait(60)
        yield len(answers("grown.jsonl")) if last else 0


def test_a_killed_stream_loses_no_line_and_answers_none_twice(model: str) -> None:
    run(model)
    *_, count = killed_runs(model, 2)
    assert count == len(answers())
    assert Path("grown.jsonl").read_bytes() == Path("out.jsonl").read_bytes()


def test_what_cannot_be_followed_is_refused(model: str, tmp_path: Path) -> None:
    artifact.save(tiny.detector(Case(kind="numeric", size="one", method="split", prior="exemplar")), tmp_path / "single")
    with pytest.raises(ConfigError, match="follow scores rows in time, and this model scores each row alone"):
        run(str(tmp_path / "single"))
    Path("other.csv").write_text("t,flow\n1,2\n")
    with pytest.raises(DataError, match="the header of the stream lacks 4 of the model's columns: 'power'"):
        run(model, data="other.csv")
    with pytest.raises(DataError, match=r"none\.csv cannot be read: No such file"):
        run(model, data="none.csv")
    Path("taken.jsonl").write_text("mine\n")
    with pytest.raises(OutputError, match=r"taken\.jsonl exists and is not the output that the state file tells of"):
        run(model, output=Path("taken.jsonl"))
    assert Path("taken.jsonl").read_text() == "mine\n"


def test_a_growing_file_is_waited_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = csv_lines()
    Path("grow.csv").write_text("\n".join(lines[:10]) + "\n")
    waits = []

    def wait(_: float) -> None:
        waits.append(1)
        if len(waits) == 3:
            with Path("grow.csv").open("a") as file:
                file.write("\n".join(lines[10:20]) + "\n")
        if len(waits) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr("vae_anomaly.live.follow.time.sleep", wait)
    with pytest.raises(KeyboardInterrupt):
        run(model, data="grow.csv", until_end=False, state=Path("s.json"))
    assert len([a for a in answers() if "line" in a]) == 19
    assert json.loads(Path("s.json").read_text())["after"]["follow"]["lines"] == 19


def test_lines_that_fail_together_are_answered_one_by_one(model: str) -> None:
    run(model)
    lines = csv_lines()
    wrong = lines[20].split(",")
    texts = [*lines[:20], ",".join(["", *wrong[1:]]), ",".join(["noon", *wrong[1:]]), *lines[20:]]
    Path("odd.csv").write_text("\n\n" + "\n".join(texts) + "\n")
    assert run(model, data="odd.csv", output=Path("odd.jsonl")).errors == 2
    told = [answer for answer in answers("odd.jsonl") if "line" in answer]
    assert told[19]["error"] == "time column 't' must hold times such as 2025-03-03 12:00:00 but is ''"
    assert "noon" in told[20]["error"]
    kept = [answer["anomaly_score"] for answer in told if "error" not in answer]
    assert kept == [answer["anomaly_score"] for answer in answers() if "line" in answer]


def test_many_lines_that_go_back_are_told_at_once(model: str) -> None:
    lines = csv_lines()
    Path("again.csv").write_text("\n".join([*lines, *lines[1:150]]) + "\n")
    assert run(model, data="again.csv", output=Path("again.jsonl")).errors >= 147


def test_a_replaced_file_and_a_doubled_column_are_refused(model: str) -> None:
    run(model, state=Path("s.json"))
    Path("rows.csv").write_text("\n".join(csv_lines()[:20]) + "\n")
    with pytest.raises(DataError, match=r"rows\.csv is shorter than what was answered of it: it was replaced"):
        run(model, state=Path("s.json"))
    lines = csv_lines()
    Path("twice.csv").write_text("\n".join(f"{line},{line.split(',')[2]}" for line in lines[:5]) + "\n")
    with pytest.raises(DataError, match="the header of the stream has columns of the same name: 'flow'"):
        run(model, data="twice.csv", output=Path("twice.jsonl"))
