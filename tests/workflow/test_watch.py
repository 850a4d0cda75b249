"""Watched folders: which files count as complete, unreadable and changed ones, and how a watch ends."""

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests import tiny
from vae_anomaly import artifact
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import Counts
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.watch import watch


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A CSV file, and a Parquet file in a folder of its own."""
    folder = tmp_path / "in"
    (folder / "day=1").mkdir(parents=True)
    pq.write_table(tiny.table("mixed", 300, seed=1), folder / "day=1" / "a.parquet")
    pyarrow.csv.write_csv(tiny.table("mixed", 200, seed=2), folder / "b.csv")
    return folder


@pytest.fixture
def request_(tiny_detector: Detector, inputs: Path, tmp_path: Path) -> ScoreRequest:
    artifact.save(tiny_detector, tmp_path / "model")
    return ScoreRequest(data=(str(inputs),), model=str(tmp_path / "model"), output=f"{tmp_path}/out/", threads=1)


class Ended(Exception):
    """Ends a watch from outside."""


def end() -> None:
    raise Ended


def watched(request: ScoreRequest, *between: Callable[[], object]) -> list[tuple[str, int]]:
    """Watch, call one function after each scan, and return the scored files with their rows."""
    scored: list[tuple[str, int]] = []
    calls = iter([*between, end])

    def on_part(name: str, counts: Counts) -> None:
        scored.append((Path(name).name, counts.rows))

    def pause(_: float) -> None:
        next(calls)()

    with pytest.raises(Ended):
        watch(request, interval=0.0, on_part=on_part, pause=pause)
    return scored


def nothing() -> None:
    """Let one interval pass."""


def outputs(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_complete_when_two_scans_find_it_unchanged(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    assert watched(request_) == []
    assert watched(request_, nothing) == [("b.csv", 200), ("a.parquet", 300)]
    assert watched(request_, nothing, nothing) == []
    assert outputs(tmp_path / "out") == ["b.csv", "day=1/a.parquet", "manifest.json"]
    assert score_files(request_).unchanged
    whole = (inputs / "b.csv").read_bytes()

    def write(size: int) -> Callable[[], object]:
        return lambda: (inputs / "grows.csv").write_bytes(whole[:size])

    assert watched(request_, write(500), write(5000), write(len(whole)), nothing) == [("grows.csv", 200)]


def test_a_truncated_file_is_skipped_until_it_changes(request_: ScoreRequest, inputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (inputs / "day=1" / "a.parquet").read_bytes()
    late = inputs / "late.parquet"
    score_files(request_)
    cut = [lambda: late.write_bytes(whole[:-100]), nothing, nothing, nothing]
    caplog.clear()
    assert watched(request_, *cut) == []
    (message,) = caplog.messages
    assert message.startswith(f"{late} is damaged or was not copied whole:")
    assert message.endswith(" It is skipped until it changes.")
    assert watched(request_, *cut, lambda: late.write_bytes(whole), nothing) == [("late.parquet", 300)]


def test_unreadable_files_are_reported_once_and_others_are_scored(
    request_: ScoreRequest, inputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    score_files(request_)
    caplog.clear()
    (inputs / "empty.csv").touch()
    (inputs / "other.csv").write_text("x\n1\n", encoding="utf-8")
    pyarrow.csv.write_csv(tiny.table("mixed", 60, seed=9), inputs / "z.csv")
    assert watched(request_, nothing, nothing, nothing) == [("z.csv", 60)]
    assert [message.split(" ")[0] for message in caplog.messages] == [f"{inputs}/empty.csv", f"{inputs}/other.csv"]
    assert caplog.messages[0] == f"{inputs}/empty.csv is empty (0 bytes). It is skipped until it changes."
    assert caplog.messages[1].endswith("? It is skipped until it changes.")


def test_a_changed_file_is_scored_again(request_: ScoreRequest, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    score_files(request_)
    caplog.clear()
    pyarrow.csv.write_csv(tiny.table("mixed", 60, seed=9), inputs / "b.csv")
    assert watched(request_, nothing) == [("b.csv", 60)]
    assert caplog.messages == [f"{inputs}/b.csv has changed since it was scored, and is scored again"]
    assert score_files(request_).unchanged
    assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["total"]["rows"] == 360


def test_a_folder_may_be_empty_and_vanish(request_: ScoreRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    later = tmp_path / "later"
    later.mkdir()
    caplog.set_level(logging.WARNING)
    calls = [nothing, nothing, later.mkdir, lambda: pyarrow.csv.write_csv(tiny.table("mixed", 60, seed=9), later / "z.csv"), nothing]
    assert watched(replace(request_, data=(str(later),)), later.rmdir, *calls) == [("z.csv", 60)]
    assert caplog.messages == [f"{later} does not exist. The next scan looks for it again."]


def test_a_false_discovery_rate_and_an_output_file_are_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        watch(replace(request_, fdr=0.1), interval=1.0)
    assert str(error.value) == "--watch scores files as they come, and --fdr needs all rows of a batch at once; flag with --alpha instead."
    for output in (None, f"{tmp_path}/x.csv"):
        with pytest.raises(ConfigError) as error:
            watch(replace(request_, output=output), interval=1.0)
        assert str(error.value) == "--watch writes one part for each file: name an output folder with -o, with a / at its end."


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_an_interrupt_ends_a_watch_cleanly(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    """A real process, while a writer hands a file over piece by piece."""
    whole = (inputs / "b.csv").read_bytes()
    size = 1 + len(whole) // 12
    words = ["score", str(inputs), "-m", request_.model, "-o", f"{tmp_path}/out/", "--watch", "--watch-interval", "0.5", "--threads", "1"]
    with subprocess.Popen([sys.executable, "-m", "vae_anomaly", *words], stderr=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "out" / "manifest.json")
        with (inputs / "grows.csv").open("wb") as file:
            for start in range(0, len(whole), size):
                file.write(whole[start : start + size])
                file.flush()
                time.sleep(0.1)
        wait_for(tmp_path / "out" / "grows.csv")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"{inputs}/grows.csv: 200 rows, " in stderr
    assert stderr.endswith("error: interrupted; no partial output was written. Run the same command again to resume\n")
    assert outputs(tmp_path / "out") == ["b.csv", "day=1/a.parquet", "grows.csv", "manifest.json"]
    assert (tmp_path / "out" / "grows.csv").read_bytes() == (tmp_path / "out" / "b.csv").read_bytes()
    assert score_files(request_).unchanged


def wait_for(path: Path, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.05)
