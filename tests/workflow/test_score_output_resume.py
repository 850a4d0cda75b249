"""A killed ``score`` goes on and ends with the same bytes, and the same request twice is one job."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.tiny import Case, detector, table
from vae_anomaly import artifact
from vae_anomaly.detector.stream import ScoredBatch, Tally, scored_batches
from vae_anomaly.errors import DataError, OutputError, SchemaMismatch
from vae_anomaly.explain.contributions import Alarm, Reason
from vae_anomaly.jobs import claim, manifest, score_workdir
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import ScoreResult
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.score_counts import Counting, counting_from

ROWS = 6000
FIRST_FILE = 2500
# Batches of 1,024 rows, and a part every second one.
BATCH, PART = 1024, 2048
REASON = Reason(column="flow", value=None, expected="1.5", contribution=0.1 + 0.2)


class Killed(Exception):
    """Stands for a kill: nobody catches it."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and 6,000 rows in two files: some odd, with a key, a level that the fit has not seen, and holes."""
    folder = tmp_path_factory.mktemp("ground")
    artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="exemplar")), folder / "model")
    rows = table("mixed", ROWS, seed=5).to_pylist()
    for i, row in enumerate(rows):
        row["key"] = f'k "{i}", b'
        if i % 40 == 3:
            row["pressure"] = 9e5 + i
        if i % 900 == 5:
            row["mode"] = "reverse"
        if i >= FIRST_FILE:  # the second file has lost one sensor, and another one stands still
            row["celsius"], row["power"] = None, 1.25
    whole = pa.Table.from_pylist(rows)
    (folder / "new").mkdir()
    pq.write_table(whole.slice(0, FIRST_FILE), folder / "new" / "1.parquet")
    pq.write_table(whole.slice(FIRST_FILE), folder / "new" / "2.parquet")
    pyarrow.csv.write_csv(whole, folder / "new.csv")
    return folder


@pytest.fixture
def request_(ground: Path, tmp_path: Path) -> ScoreRequest:
    return ScoreRequest(
        data=(str(ground / "new"),),
        model=str(ground / "model"),
        output=tmp_path / "out.parquet",
        id_columns=("key",),
        alpha=0.02,
        chunk_rows=BATCH,
        part_rows=PART,
        threads=1,
    )


def killed(request: ScoreRequest, after: int, *, passes: int = 1, error: type[BaseException] = Killed) -> None:
    """Score, and be killed after so many batches of the last of ``passes``."""
    left = passes

    def stream(*args: Any, **named: Any) -> Iterator[ScoredBatch]:
        nonlocal left
        left -= 1
        scored = scored_batches(*args, **named)
        if left:
            yield from scored
            return
        for _ in range(after):
            yield next(scored)
        raise error("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_anomaly.workflow.score_output.scored_batches", stream)
        patch.setattr("vae_anomaly.workflow.score_fdr.scored_batches", stream)
        with pytest.raises(error):
            score_files(request)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def content(request: ScoreRequest) -> tuple[bytes, bytes]:
    assert isinstance(request.output, Path)
    return request.output.read_bytes(), manifest.manifest_path(request.output).read_bytes()


WHOLE: dict[ScoreRequest, tuple[bytes, bytes]] = {}


def uninterrupted(request: ScoreRequest) -> tuple[bytes, bytes]:
    """Output and manifest of a run that nothing happens to; of the same request only once."""
    assert isinstance(request.output, Path)
    key = replace(request, output=Path(request.output.name))
    if key not in WHOLE:
        with TemporaryDirectory() as folder:
            whole = replace(request, output=Path(folder) / request.output.name)
            score_files(whole)
            WHOLE[key] = content(whole)
    return WHOLE[key]


def only_the_output_is_there(request: ScoreRequest) -> bool:
    assert isinstance(request.output, Path)
    name = request.output.name
    return files(request.output.parent) == [name, f"{name}.manifest.json"]


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 6])
@pytest.mark.parametrize("data", ["new", "new.csv"])
@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_killed_job_ends_with_the_same_bytes(request_: ScoreRequest, ground: Path, name: str, data: str, after: int) -> None:
    assert isinstance(request_.output, Path)
    asked = replace(request_, data=(str(ground / data),), output=request_.output.with_name(name))
    whole = uninterrupted(asked)
    killed(asked, after)
    found = score_files(asked)
    assert content(asked) == whole
    assert only_the_output_is_there(asked)
    if data == "new":  # two files, 2,500 and 3,500 rows, in batches of 1,024
        assert found.resumed_rows == [0, 0, 2048, 2048, 4548, 4548][min(after, 5)]
    assert (found.resumed_rows > 0) == (after >= 2)


@pytest.mark.parametrize("change", [{"top": None}, {"explain": "none"}, {"typicality": True}, {"id_columns": ()}], ids=str)
def test_whatever_was_asked_for(request_: ScoreRequest, change: dict[str, Any]) -> None:
    asked = replace(request_, **change)
    whole = uninterrupted(asked)
    killed(asked, 5)
    assert score_files(asked).resumed_rows > 0
    assert content(asked) == whole


def test_columns_at_a_standstill_are_those_of_whole_files(request_: ScoreRequest) -> None:
    killed(request_, 3)  # within the second file
    counts, path = score_files(request_).counts, str(Path(request_.data[0]) / "2.parquet")
    assert [text for text in counts.cautions if "rows of" in text] == [
        f"power is 1.25 in all 3,500 rows of {path}",
        f"celsius has no value in the 3,500 rows of {path}",
    ]


def test_killed_again_and_again(request_: ScoreRequest) -> None:
    whole = uninterrupted(request_)
    killed(request_, 2)
    killed(request_, 1)
    killed(request_, 3, error=KeyboardInterrupt)
    assert score_files(request_).resumed_rows == 4548
    assert content(request_) == whole


def test_rows_in_memory_and_parts_may_change_in_between(request_: ScoreRequest) -> None:
    whole = uninterrupted(request_)
    killed(replace(request_, chunk_rows=1500, part_rows=1), 3)
    assert score_files(replace(request_, chunk_rows=99, part_rows=10_000)).resumed_rows == 5500
    assert content(request_) == whole


@pytest.mark.parametrize(("passes", "after", "told"), [
    (1, 1, ("ranking", 1024)),
    (1, 4, ("ranking", 5572)),
    (2, 0, ("scoring", 0)),
    (2, 5, ("scoring", 4548)),
])  # fmt: skip
def test_both_passes_of_a_false_discovery_rate_go_on(request_: ScoreRequest, passes: int, after: int, told: tuple[str, int]) -> None:
    asked = replace(request_, alpha=None, fdr=0.7)
    whole = uninterrupted(asked)
    assert json.loads(whole[1])["counts"]["discovery"]["cutoff"] is not None
    killed(asked, after, passes=passes)
    steps: list[tuple[str, int]] = []
    score_files(asked, tell=lambda stage, done, _: steps.append((stage, done)))
    assert steps[0] == told
    assert content(asked) == whole
    assert only_the_output_is_there(asked)


def test_killed_between_output_and_manifest(request_: ScoreRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = uninterrupted(request_)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "complete", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            score_files(request_)
    assert isinstance(request_.output, Path)
    # A kill would also have left the manifest of a job that has started.
    started = json.loads(whole[1]) | {"state": "started", "bytes": 0, "counts": {}}
    manifest.manifest_path(request_.output).write_text(json.dumps(started), encoding="utf-8")
    found = score_files(request_)
    assert (found.unchanged, content(request_)) == (False, whole)
    assert only_the_output_is_there(request_)


def test_what_a_job_left_that_was_killed_at_its_very_end_is_removed(request_: ScoreRequest) -> None:
    assert isinstance(request_.output, Path)
    score_files(request_)
    folder = claim.folder_of(request_.output)
    folder.mkdir()
    (folder / "request.json").write_text("{}", encoding="utf-8")
    assert score_files(request_).unchanged
    assert only_the_output_is_there(request_)


CHANGES: dict[str, dict[str, Any]] = {
    "options": {"top": 1},
    "options, alpha": {"alpha": 0.05},
    "inputs": {"data": "new.csv"},
    "model": {"model": "other"},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_request_starts_anew(request_: ScoreRequest, ground: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    changed = dict(CHANGES[what])
    assert isinstance(request_.output, Path)
    if "model" in changed:
        artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="standard")), request_.output.parent / "other")
        changed["model"] = str(request_.output.parent / "other")
    if "data" in changed:
        changed["data"] = (str(ground / "new.csv"),)
    asked = replace(request_, **changed)
    killed(request_, 5)
    with caplog.at_level(logging.INFO, logger="vae_anomaly"):
        found = score_files(asked)
    assert found.resumed_rows == 0
    assert (
        f"not resuming the interrupted job of {request_.output}: another request (other {what.partition(',')[0]}); starting over"
        in caplog.messages
    )
    assert content(asked) == uninterrupted(asked)


def test_an_input_that_was_touched_starts_anew(request_: ScoreRequest, tmp_path: Path) -> None:
    data = tmp_path / "new.parquet"
    pq.write_table(table("mixed", ROWS, seed=5).append_column("key", pa.array(range(ROWS))), data)
    asked = replace(request_, data=(str(data),))
    killed(asked, 5)
    os.utime(data, ns=(1, 1))
    assert score_files(asked).resumed_rows == 0


def test_another_install_starts_anew(request_: ScoreRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    killed(request_, 5)
    monkeypatch.setattr(pa, "__version__", "0.0")
    with caplog.at_level(logging.INFO, logger="vae_anomaly"):
        assert score_files(request_).resumed_rows == 0
    assert f"not resuming the interrupted job of {request_.output}: another request (other install); starting over" in caplog.messages


def test_overwrite_starts_anew(request_: ScoreRequest, caplog: pytest.LogCaptureFixture) -> None:
    killed(request_, 5)
    with caplog.at_level(logging.INFO, logger="vae_anomaly"):
        assert score_files(replace(request_, overwrite=True)).resumed_rows == 0
    assert f"not resuming the interrupted job of {request_.output}: --overwrite; starting over" in caplog.messages
    assert content(request_) == uninterrupted(request_)


def test_going_on_is_said(request_: ScoreRequest, caplog: pytest.LogCaptureFixture) -> None:
    killed(request_, 5)
    with caplog.at_level(logging.INFO, logger="vae_anomaly"):
        score_files(request_)
    assert f"resuming {request_.output} after 4,548 rows scored by an interrupted job" in caplog.messages


def test_the_same_request_again_is_nothing_to_do(request_: ScoreRequest) -> None:
    first = score_files(request_)
    before = content(request_)
    again = score_files(request_)
    assert (again.unchanged, again.counts, again.resumed_rows, again.rows_per_second) == (True, first.counts, 0, None)
    assert content(request_) == before


def test_counting_goes_on_where_it_was() -> None:
    tally = Tally(rows=9, alarms=2, unscored=1, unseen={"z": 2, "a": 2}, missing={"b": 3}, pooled=4, unseen_groups={"q": 1, "p": 1})
    alarms = [Alarm(row=i, ids={"key": None}, score=0.1 * i, p_value=0.5, reasons=(REASON,)) for i in range(5)]
    straight = Counting(ids=("key",), worst=[(alarm.score, -alarm.row, alarm) for alarm in alarms])
    straight.add(tally)
    gone_on = counting_from(json.loads(json.dumps(straight.state())))
    for counting in (straight, gone_on):
        counting.add(replace(tally, unseen={"a": 1}, untypical=2, low=1))
    assert gone_on == straight
    assert [list(c) for c in (gone_on.unseen, gone_on.unseen_groups)] == [["z", "a"], ["q", "p"]]
    assert gone_on.worst[0][2].reasons == (REASON,)


# ── at the same time ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_run_into_the_same_output_is_refused(request_: ScoreRequest) -> None:
    assert isinstance(request_.output, Path)
    with score_workdir.claim(request_.output):
        with pytest.raises(OutputError) as error:
            score_files(request_)
        assert files(request_.output.parent) == [f".{request_.output.name}.resume/lock"]
    assert str(error.value) == (
        f"{request_.output} is being written by another process (PID {os.getpid()}). Wait for it, or name another with -o."
    )
    score_files(request_)


def test_a_run_that_came_second_finds_the_work_done(request_: ScoreRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run ends between the look at the output and the claim."""
    real, results = score_workdir.claim, list[ScoreResult]()

    def claimed(output: Path) -> Any:
        monkeypatch.setattr(score_workdir, "claim", real)
        results.append(score_files(request_))
        return real(output)

    monkeypatch.setattr(score_workdir, "claim", claimed)
    found = score_files(request_)
    assert (results[0].unchanged, found.unchanged, found.counts) == (False, True, results[0].counts)
    assert only_the_output_is_there(request_)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("error", "stays"), [(SchemaMismatch, False), (OutputError, False), (DataError, False), (KeyboardInterrupt, True)])
def test_what_running_again_does_not_mend_leaves_nothing(request_: ScoreRequest, error: type[Exception], *, stays: bool) -> None:
    killed(request_, 5, error=error)
    assert isinstance(request_.output, Path)
    folder = f".{request_.output.name}.resume"
    kept = [f"{folder}/{name}" for name in ("000000000000000.arrow", "000000000002048.arrow", "lock", "request.json")]
    assert files(request_.output.parent) == (kept if stays else [])


@pytest.mark.parametrize("error", [Killed, DataError, KeyboardInterrupt])
def test_an_error_before_anything_is_finished_leaves_nothing(request_: ScoreRequest, error: type[Exception]) -> None:
    killed(request_, 1, error=error)
    assert isinstance(request_.output, Path)
    assert list(request_.output.parent.iterdir()) == []


def test_on_a_tight_disk_parts_make_way(request_: ScoreRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    whole = uninterrupted(request_)
    killed(request_, 3)
    monkeypatch.setattr(score_workdir, "SPARE_BYTES", 2**62)
    killed(request_, 4)
    assert caplog.messages[-1] == "the disk is nearly full: no more checkpoints are written, and an interrupted job starts over"
    assert score_files(request_).resumed_rows == 0
    assert content(request_) == whole
    assert only_the_output_is_there(request_)


# ── really killed ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_sigkill(request_: ScoreRequest, ground: Path) -> None:
    assert isinstance(request_.output, Path)
    asked = replace(request_, output=request_.output.with_name("out.csv"), data=(str(ground / "new.csv"),), part_rows=1, chunk_rows=1)
    whole = uninterrupted(asked)
    words = ["score", *asked.data, "-m", asked.model, "-o", str(asked.output), "--id-columns", "key", "--alpha", "0.02"]
    command = [sys.executable, "-m", "vae_anomaly", *words, "--part-rows", "1", "--chunk-rows", "1", "--threads", "1", "--quiet"]
    with subprocess.Popen(command) as process:
        while process.poll() is None and not list(request_.output.parent.glob(".out.csv.resume/*.arrow")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert score_files(asked).resumed_rows > 0
    assert content(asked) == whole
    assert only_the_output_is_there(asked)
