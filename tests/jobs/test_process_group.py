"""Fits in several processes as torchrun starts them, with gloo on the CPU: the same model, one run, and what a killed process leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from tests import tiny
from vae_anomaly import artifact
from vae_anomaly.cli import terminal
from vae_anomaly.config import Config
from vae_anomaly.errors import ConfigError
from vae_anomaly.jobs.process_group import join_processes, processes, together
from vae_anomaly.model.training import ALONE
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.requests import FitRequest

GIVEN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
SETTINGS = '[train]\ndevice = "cpu"\nbatch_rows = 33\n[model]\nhidden = [16]\nexemplars = 100\n'
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
DEADLINE = 90.0


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GIVEN:
        monkeypatch.delenv(name, raising=False)
    assert processes() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")  # of a scheduler, or left over in a shell: nobody was started
    assert processes() == (0, 1)
    with join_processes("cpu") as team:
        assert team is ALONE


def test_torchrun_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    assert processes() == (1, 2)


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("0", "many")])
def test_numbers_that_torchrun_does_not_set_are_refused(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    for name, value in (GIVEN | {"RANK": rank, "WORLD_SIZE": size}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        processes()
    assert str(error.value) == f"RANK={rank} and WORLD_SIZE={size} are not what torchrun sets; unset them or use torchrun."


def test_only_the_first_process_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^process 1 of 2 that torchrun started cannot fit by itself: call help_fit"):
        fit_files(FitRequest(data=("absent.csv",), config=Config(), output=Path("m")))


def test_processes_that_do_not_find_each_other_are_an_error_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise RuntimeError("no answer from localhost")

    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.distributed.init_process_group", nobody)
    with pytest.raises(ConfigError) as error, join_processes("cpu"):
        pass
    assert str(error.value) == "the 2 processes that torchrun started do not find each other: no answer from localhost"


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_the_first_process_alone_tells_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, lines: int
) -> None:
    for name, value in (GIVEN | {"RANK": rank}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended, terminal.exit_codes(as_json=False):
        raise KeyboardInterrupt
    assert (ended.value.code, len(capsys.readouterr().err.splitlines())) == (130, lines)


def test_what_says_that_a_process_has_gone_is_an_interrupt_and_nothing_else_is(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt), together():
        raise RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:5000")
    assert caplog.messages == ["another process of this fit has ended: [pair.cc:547] Connection closed by peer [127.0.0.1]:5000"]
    with pytest.raises(RuntimeError, match="out of memory"), together():
        raise RuntimeError("CUDA out of memory")


@pytest.fixture
def here(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows, settings and an empty store."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(tiny.table("mixed", 2500, seed=1), "normal.parquet")
    Path("settings.toml").write_text(SETTINGS, encoding="utf-8")
    Path("mlflow.db").write_bytes(empty_store.read_bytes())
    return tmp_path


def command(count: int, *options: str) -> list[str]:
    start = [*TORCHRUN, str(count), "-m", "vae_anomaly"] if count > 1 else [sys.executable, "-m", "vae_anomaly"]
    return [*start, "fit", "normal.parquet", "--config", "settings.toml", "--quiet", *options]


def fit(count: int, *options: str) -> None:
    done = subprocess.run(command(count, *options), capture_output=True, text=True, timeout=DEADLINE, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_two_processes_fit_the_model_of_one_and_log_it_once(here: Path) -> None:
    fit(1, "--no-tracking", "-o", "one", "--steps", "60")
    fit(2, "--model-name", "pump", "-o", "two", "--steps", "60")
    one, two = (artifact.load(here / name) for name in ("one", "two"))
    for first, second in zip(one.ensemble.vae.parameters(), two.ensemble.vae.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
    rows = tiny.encoded(one.schema, tiny.odd_rows("mixed"))
    flags = [detector.scores(rows).total > detector.threshold.value for detector in (one, two)]
    assert flags[0].any()
    assert torch.equal(*flags)
    assert two.card.history.blocks[-1].val_reconstruction == pytest.approx(one.card.history.blocks[-1].val_reconstruction, rel=1e-4)
    client = MlflowClient(tracking_uri=f"sqlite:///{here / 'mlflow.db'}")
    runs = [run for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])]
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert [str(version.version) for version in client.search_model_versions("name='pump'")] == ["1"]


def test_the_first_pass_of_a_robust_fit_is_shared_too(here: Path) -> None:
    options = ("--no-tracking", "--contamination-robust", "--steps", "20", "-o")
    fit(1, *options, "one")
    fit(2, *options, "two")
    one, two = (artifact.load(here / name) for name in ("one", "two"))
    assert two.threshold.value == pytest.approx(one.threshold.value, rel=1e-4)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_ends_all_and_the_same_command_goes_on(here: Path) -> None:
    options = ("--no-tracking", "--steps", "400", "--checkpoint-every", "20", "-o")
    fit(2, *options, "whole")
    job = subprocess.Popen(command(2, *options, "cut"), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for((here / ".cut.resume" / "train.safetensors").exists, job)
    os.kill(worker(job.pid, 1), signal.SIGKILL)
    _, said = job.communicate(timeout=DEADLINE)
    assert job.returncode == 1, said
    assert not (here / "cut").exists()
    fit(2, *options, "cut", "--resume")
    assert (here / "cut" / "weights.safetensors").read_bytes() == (here / "whole" / "weights.safetensors").read_bytes()


def wait_for(seen: Callable[[], bool], job: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + DEADLINE
    while not seen():
        assert job.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def worker(launcher: int, rank: int) -> int:
    """Return the process of that rank that a launcher has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}" in (folder / "environ").read_text(encoding="utf-8").split("\0"):
                return int(folder.name)
        except OSError:  # it has ended meanwhile
            continue
    raise AssertionError(rank)


def test_an_error_of_the_data_is_one_line_and_lets_the_others_end(here: Path) -> None:
    (here / "normal.parquet").unlink()
    done = subprocess.run(
        command(2, "--no-tracking", "-o", "m"), capture_output=True, text=True, timeout=DEADLINE, env=environment(), check=False
    )
    assert done.returncode == 1  # of torchrun
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == ["error: normal.parquet does not exist."]
    assert "exitcode: 3" in done.stderr


@pytest.mark.usefixtures("here")
def test_a_wrong_option_is_told_once() -> None:
    done = subprocess.run(
        command(2, "--no-tracking", "-o", "m", "--alpha", "7", "--json"),
        capture_output=True, text=True, timeout=DEADLINE, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 1
    told = "settings.toml: calibration.alpha must be in (0, 1); got 7. Did you mean 0.07?"
    assert json.loads(done.stdout) == {"error": told, "exit_code": 2}
