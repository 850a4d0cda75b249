"""A fit that is cut off at any moment goes on to the same model, and leaves one whole version and nothing else."""

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from vae_anomaly import artifact
from vae_anomaly.config import CalibrationConfig, Config, DataConfig, ModelConfig, TrackingConfig, TrainConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, Interrupted, OutputError, TrackingError
from vae_anomaly.jobs import claim, fit_workdir, training_state
from vae_anomaly.messages import OnProgress, ignore_progress
from vae_anomaly.model.training import TrainingState
from vae_anomaly.tracking import pyfunc
from vae_anomaly.tracking.registry import resolve_model
from vae_anomaly.tracking.runs import Run
from vae_anomaly.workflow import publish
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.publish import upload_folder
from vae_anomaly.workflow.requests import FitRequest, UploadRequest
from vae_anomaly.workflow.results import FitResult

ROOT = Path(__file__).parents[2]
STEPS = 10
PLACE = ".pump.fit.resume"
Whole = Callable[[Config], tuple[bytes, str]]


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it, and while it goes up nobody can put anything right."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Rows to learn from, some labelled as faults, one normal one far off; and the tables of an empty store."""
    folder = tmp_path_factory.mktemp("ground")
    random = np.random.default_rng(1)
    a = random.normal(size=220)
    b = a + random.normal(scale=0.1, size=220)
    b[150] = 70.0
    label = ["fault" if i % 5 == 4 else "normal" for i in range(220)]
    pq.write_table(pa.table({"a": a, "b": b, "mode": random.choice(["on", "off"], 220), "label": label}), folder / "normal.parquet")
    shutil.copy2(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def here(ground: Path, own_folder: Path) -> Path:
    for name in ("normal.parquet", "mlflow.db"):
        shutil.copy2(ground / name, own_folder / name)
    return own_folder


@pytest.fixture
def settings(here: Path) -> Config:
    return Config(
        data=DataConfig(label_column="label"),
        model=ModelConfig(views=("standard",), members=1, hidden=(8,), latent=2, exemplars=40),
        train=TrainConfig(steps=STEPS, batch_rows=32, device="cpu"),
        calibration=CalibrationConfig(alpha=0.05, method="split", share=0.3),
        tracking=TrackingConfig(model_name="pump", alias="live", uri=f"sqlite:///{here}/mlflow.db"),
    )


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; ``test_score`` looks at what is drawn."""
    monkeypatch.setattr(publish, "_figures", lambda _: {})


def untracked(settings: Config) -> Config:
    return replace(settings, tracking=replace(settings.tracking, enabled=False, uri=None))


def run(
    settings: Config,
    output: Path | None = None,
    *,
    resume: bool | None = None,
    every: int | None = 1,
    overwrite: bool = False,
    tell: OnProgress = ignore_progress,
) -> FitResult:
    request = FitRequest(
        data=("normal.parquet",), config=settings, output=output, overwrite=overwrite, resume=resume, checkpoint_every=every
    )
    return fit_files(request, tell=tell)


def kill(patch: pytest.MonkeyPatch, owner: object, name: str, *, call: int = 1, after: bool = False) -> None:
    """Let a function kill the process at its n-th call, before or after it has done its work; from then on nothing can be put right."""
    real, left = getattr(owner, name), call

    def die() -> None:
        patch.setattr(MlflowClient, "set_terminated", too_late)
        patch.setattr(claim, "remove", too_late)
        raise Killed

    def deadly(*args: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not after:
            die()
        found = real(*args, **named)
        if left == 0:
            die()
        return found

    patch.setattr(owner, name, deadly)


def too_late(*_: object, **__: object) -> None:
    """Do nothing: the process is dead."""


@contextmanager
def dead(owner: object, name: str, *, call: int = 1, after: bool = False) -> Iterator[None]:
    """Die in the block: the run stays RUNNING, the folder stays."""
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, owner, name, call=call, after=after)
        with pytest.raises(Killed):
            yield
        while mlflow.active_run() is not None:
            mlflow.end_run()


def content(folder: Path) -> tuple[bytes, str]:
    """Weights and manifest, without times and what depends on them."""
    manifest = json.loads((folder / artifact.MANIFEST).read_text(encoding="utf-8"))
    state = manifest["state"]
    for key in ("created", "seconds"):
        state["card"].pop(key)
    state["config"].pop("tracking")
    return (folder / artifact.WEIGHTS).read_bytes(), json.dumps(state)


@pytest.fixture(scope="module")
def whole(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return what a fit gives that nothing happens to; of the same settings only once."""
    known: dict[str, tuple[bytes, str]] = {}
    folder = tmp_path_factory.mktemp("whole")

    def made(settings: Config) -> tuple[bytes, str]:
        plain = untracked(settings)
        key = repr(plain)
        if key not in known:
            output = folder / f"model-{len(known)}"
            fit_files(FitRequest(data=(str(ground / "normal.parquet"),), config=plain, output=output))
            known[key] = content(output)
        return known[key]

    return made


def same(first: tuple[bytes, str], second: tuple[bytes, str]) -> bool:
    """Whether two models are the same but for the folder of their data and what is made of its times."""

    def plain(text: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(text)
        state["card"].pop("source")
        state["card"].pop("data_digest")
        return state

    return first[0] == second[0] and plain(first[1]) == plain(second[1])


def registry(uri: str | None) -> tuple[list[str], dict[str, str], list[str]]:
    """Versions with their runs' states, aliases, and the states of all runs."""
    assert uri is not None
    client = MlflowClient(uri)
    versions = client.search_model_versions("name='pump'")
    aliases = {a: str(v) for m in client.search_registered_models() for a, v in m.aliases.items()}
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return [client.get_run(v.run_id or "").info.status for v in versions], aliases, sorted(r.info.status for r in runs)


def registered(uri: str | None) -> Path:
    return resolve_model("models:/pump@live", uri=uri).folder


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ── killed at any moment ─────────────────────────────────────────────────────────────────────────────────────────────

DEATHS: dict[str, tuple[object, str, dict[str, Any]]] = {
    "before a step": (fit_workdir.Checkpoint, "after_step", {"call": 1}),
    "in the middle of the training": (fit_workdir.Checkpoint, "after_step", {"call": 6}),
    "at the end of the training": (fit_workdir.Checkpoint, "after_step", {"call": STEPS, "after": True}),
    "when fitted": (fit_workdir.Checkpoint, "save_finished", {}),
    "when the model is kept": (fit_workdir.Checkpoint, "save_finished", {"after": True}),
    "before the parameters": (Run, "log_config", {}),
    "in the pictures": (Run, "log_figures", {"after": True}),
    "before the model": (pyfunc, "log_pyfunc", {}),
    "in the model": (MlflowClient, "log_model_artifacts", {}),
    "after the model": (pyfunc, "log_pyfunc", {"after": True}),
    "before the version": (MlflowClient, "create_model_version", {}),
    "before the alias": (MlflowClient, "create_model_version", {"after": True}),
    "after the alias": (MlflowClient, "set_registered_model_alias", {"after": True}),
    "before the end of the run": (MlflowClient, "set_terminated", {}),
    "after the end of the run": (MlflowClient, "set_terminated", {"after": True}),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_killed_fit_goes_on_to_the_same_model_and_one_version(death: str, here: Path, settings: Config, whole: Whole) -> None:
    owner, name, how = DEATHS[death]
    with dead(owner, name, **how):
        run(settings)
    assert files(here) >= {PLACE}
    result = run(settings)
    assert same(content(registered(settings.tracking.uri)), whole(settings))
    versions, aliases, runs = registry(settings.tracking.uri)
    assert (versions, aliases) == (["FINISHED"], {"live": "1"})
    assert set(runs) <= {"FINISHED", "KILLED"}
    assert runs.count("FINISHED") == 1
    assert (result.model.name, result.model.version, result.model.alias) == ("pump", "1", "live")
    assert result.suspicious[0].row == 150
    assert result.quality is not None
    assert files(here) == {"normal.parquet", "mlflow.db", "mlruns"}
    models = MlflowClient(settings.tracking.uri).search_logged_models(["0", "1"])
    assert not [model for model in models if str(model.status) == "PENDING"]


@pytest.mark.parametrize("death", ["in the middle of the training", "when the model is kept"])
def test_a_killed_fit_into_a_folder_goes_on(death: str, here: Path, settings: Config, whole: Whole) -> None:
    owner, name, how = DEATHS[death]
    with dead(owner, name, **how):
        run(untracked(settings), here / "model")
    assert files(here) >= {".model.resume"}
    result = run(untracked(settings), here / "model")
    assert result.resumed_steps == (STEPS if "kept" in death else 5)
    assert same(content(here / "model"), whole(settings))
    assert files(here) == {"normal.parquet", "mlflow.db", "model"}


def test_a_process_that_is_killed_after_its_fit_and_before_its_end_is_run_again_for_the_same_version(here: Path, settings: Config) -> None:
    last: list[Any] = []
    first = fit_files(FitRequest(data=("normal.parquet",), config=settings, at_exit=last.append))
    assert files(here) == {"normal.parquet", "mlflow.db", "mlruns", PLACE}
    # While the process still ends, the same command from somebody else is another fit.
    assert run(settings).model.version == "2"
    os.close(last[0].args[1])  # what the system does with the locks of a process that is killed
    again = fit_files(FitRequest(data=("normal.parquet",), config=settings, at_exit=last.append))
    assert (again.model.version, again.resumed_steps, again.model.run_id) == ("1", STEPS, first.model.run_id)
    assert registry(settings.tracking.uri)[0] == ["FINISHED", "FINISHED"]
    last[1]()
    assert files(here) == {"normal.parquet", "mlflow.db", "mlruns"}
    assert run(settings).model.version == "3"


def test_the_command_counts_as_cut_off_until_its_process_ends(here: Path) -> None:
    """Killed behind its last word, it is no fit of which the folder is in the way."""
    words = ["fit", "normal.parquet", "--steps", "3", "--no-tracking", "--exclude", "label", "--device", "cpu", "-o", "model", "--json"]
    killed = (
        "import os, sys; from vae_anomaly.cli import app, terminal; show = terminal.show\n"
        "terminal.show = lambda *given, **named: (show(*given, **named), os.kill(os.getpid(), 9)); app.main()"
    )
    outs = []
    for code in (killed, "from vae_anomaly.cli import app; app.main()"):
        command, environment = [sys.executable, "-c", code, *words], os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        outs.append((done.returncode, json.loads(done.stdout)["resumed_steps"], files(here) - {"normal.parquet", "mlflow.db"}))
    assert outs == [(-signal.SIGKILL, 0, {"model", ".model.resume"}), (0, 3, {"model"})]


def test_the_folder_that_the_killed_fit_has_written_is_no_obstacle(here: Path, settings: Config) -> None:
    with dead(Run, "log_figures"):
        run(settings, here / "model")
    first = (here / "model" / artifact.MANIFEST).read_bytes()
    run(settings, here / "model")
    assert (here / "model" / artifact.MANIFEST).read_bytes() == first
    assert files(here) == {"normal.parquet", "mlflow.db", "mlruns", "model"}


def test_a_folder_of_something_else_is_still_refused(here: Path, settings: Config) -> None:
    run(untracked(settings), here / "model")
    with pytest.raises(OutputError, match=r"exists\. Name another folder with --output"):
        run(untracked(settings), here / "model")
    assert files(here) == {"normal.parquet", "mlflow.db", "model"}


def test_a_newer_version_keeps_the_alias(here: Path, settings: Config) -> None:
    with dead(MlflowClient, "set_registered_model_alias"):
        run(settings)
    other = replace(settings, seed=7)
    claim.folder_of(here / "x").mkdir()  # of no concern
    (here / PLACE).rename(here / "aside")
    assert run(other).model.version == "2"
    (here / "aside").rename(here / PLACE)
    assert run(settings).model.version == "1"
    assert registry(settings.tracking.uri)[1] == {"live": "2"}


def test_without_registering_the_run_is_the_model(settings: Config) -> None:
    settings = replace(settings, tracking=replace(settings.tracking, register=False))
    with dead(MlflowClient, "set_terminated", after=True):
        run(settings)
    result = run(settings)
    assert registry(settings.tracking.uri) == ([], {}, ["FINISHED"])
    assert result.model.uri == f"runs:/{result.model.run_id}/model"
    assert artifact.load(resolve_model(result.model.uri, uri=settings.tracking.uri).folder).card.rows == result.rows_used


# ── going on, or not ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cut_off(here: Path, settings: Config) -> Path:
    """Return the folder of a fit without tracking that was killed after 5 steps."""
    with dead(fit_workdir.Checkpoint, "after_step", call=6):
        run(untracked(settings), here / "model")
    return here / ".model.resume"


@pytest.mark.usefixtures("cut_off")
def test_resume_insists(here: Path, settings: Config) -> None:
    other = replace(untracked(settings), seed=1)
    for place, config, why in (
        (here / "model", other, f"{here}/.model.resume is of other data or settings"),
        (here / "other", other, f"{here}/.other.resume does not exist"),
    ):
        with pytest.raises(ConfigError) as error:
            run(config, place, resume=True)
        text = "--resume finds no interrupted fit of these data and settings: "
        assert str(error.value) == f"{text}{why}. Leave it out to start over."
    assert run(untracked(settings), here / "model", resume=True).resumed_steps == 5, "a refusal has removed nothing"


@pytest.mark.usefixtures("cut_off")
def test_no_resume_begins_anew(here: Path, settings: Config, whole: Whole) -> None:
    assert run(untracked(settings), here / "model", resume=False).resumed_steps == 0
    assert same(content(here / "model"), whole(settings))
    assert files(here) == {"normal.parquet", "mlflow.db", "model"}


def test_another_fit_starts_anew_and_says_so(cut_off: Path, here: Path, settings: Config, caplog: pytest.LogCaptureFixture) -> None:
    os.utime(here / "normal.parquet", (0, 0))
    assert run(replace(untracked(settings), seed=1), here / "model").resumed_steps == 0
    text = f"{cut_off} is of another interrupted fit (other inputs and settings): starting over"
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [text]


def test_the_run_of_another_fit_that_was_cut_off_is_ended(here: Path, settings: Config) -> None:
    with dead(fit_workdir.Checkpoint, "after_step", call=6):
        run(settings)
    run(replace(settings, seed=1))
    assert registry(settings.tracking.uri) == (["FINISHED"], {"live": "1"}, ["FINISHED", "KILLED"])
    assert files(here) == {"normal.parquet", "mlflow.db", "mlruns"}


def test_a_damaged_state_is_removed_and_the_fit_starts_anew(
    cut_off: Path, here: Path, settings: Config, whole: Whole, caplog: pytest.LogCaptureFixture
) -> None:
    state = cut_off / "train.safetensors"
    changed = bytearray(state.read_bytes())
    changed[-1] ^= 1
    state.write_bytes(changed)
    assert run(untracked(settings), here / "model").resumed_steps == 0
    assert same(content(here / "model"), whole(settings))
    assert caplog.messages[-1] == f"{state} is damaged (it differs from its digest): its steps are repeated"


def test_a_robust_fit_goes_on_after_its_first_pass(here: Path, settings: Config, whole: Whole) -> None:
    settings = replace(settings, train=replace(settings.train, contamination_robust=True))
    with dead(fit_workdir.Checkpoint, "after_step", call=STEPS + 4):
        run(untracked(settings), here / "model")
    assert files(here / ".model.resume") >= {"doubts.safetensors", "train.safetensors"}
    assert run(untracked(settings), here / "model").resumed_steps == 3
    assert same(content(here / "model"), whole(settings))


@pytest.mark.parametrize(("every", "kept"), [(1, 10), (4, 3), (None, 1)])
def test_states_are_kept_after_so_many_steps_and_at_the_end(
    here: Path, settings: Config, every: int | None, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = training_state.write_training

    def look(path: Path, training: TrainingState) -> None:
        seen.append(training.step)
        real(path, training)

    monkeypatch.setattr(training_state, "write_training", look)
    run(untracked(settings), here / "model", every=every)
    assert len(seen) == kept
    assert seen[-1] == STEPS


def test_a_state_is_kept_when_some_seconds_are_over(here: Path, settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(fit_workdir, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training_state, "write_training", lambda _, training: seen.append(training.step))
    run(untracked(settings), here / "model", every=None)
    assert seen == list(range(1, STEPS + 1))


# ── two at once ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_fits_at_the_same_time_have_folders_of_their_own(here: Path, settings: Config) -> None:
    """While the first one trains, a second one of the same kind comes and goes; then a third is killed, and goes on in its folder."""
    places: list[set[str]] = []
    plain = untracked(settings)

    def while_training(stage: str, _done: int, _total: int | None) -> None:
        if stage == "training" and not places:
            places.append(files(here))
            with dead(fit_workdir.Checkpoint, "after_step", call=4):
                run(plain, here / "model")
            places.append(files(here))
            assert run(plain, here / "model").resumed_steps == 3
            places.append(files(here))
            shutil.rmtree(here / "model")

    run(plain, here / "model", tell=while_training)
    left = {"normal.parquet", "mlflow.db", ".model.resume"}
    assert places == [left, left | {".model.resume-2"}, left | {"model"}]
    assert files(here) == {"normal.parquet", "mlflow.db", "model"}


def test_a_fit_finds_its_own_folder_among_others(cut_off: Path, here: Path, settings: Config) -> None:
    """Two fits were killed while they ran side by side; the one in the second folder is run again first."""
    plain = replace(untracked(settings), seed=1)
    cut_off.rename(here / "aside")
    with dead(fit_workdir.Checkpoint, "after_step", call=4):
        run(plain, here / "model")
    (here / "aside").rename(cut_off.with_name(f"{cut_off.name}-2"))
    assert run(untracked(settings), here / "model").resumed_steps == 5
    assert files(here) == {"normal.parquet", "mlflow.db", "model", cut_off.name}
    assert run(plain, here / "model", overwrite=True).resumed_steps == 3


# ── interrupted ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_fit_after_the_step_that_is_kept(settings: Config, whole: Whole, number: signal.Signals) -> None:
    def at_four(stage: str, done: int, _total: int | None) -> None:
        if (stage, done) == ("training", 4):
            signal.raise_signal(number)

    with pytest.raises(Interrupted) as error:
        run(settings, every=None, tell=at_four)
    assert str(error.value) == f"interrupted; completed work is kept in {PLACE}. Run the same command again to resume."
    assert error.value.exit_code == 130
    assert registry(settings.tracking.uri) == ([], {}, ["KILLED"])
    assert run(settings).resumed_steps == 4
    assert registry(settings.tracking.uri) == (["FINISHED"], {"live": "1"}, ["FINISHED", "KILLED"])
    assert same(content(registered(settings.tracking.uri)), whole(settings))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_scheduler_that_ends_the_command_is_told_how_to_go_on(here: Path) -> None:
    words = [sys.executable, "-m", "vae_anomaly", "fit", "normal.parquet", "--steps", "1000000", "--checkpoint-every", "5", "--no-tracking"]
    words += ["--exclude", "label", "--device", "cpu", "--output", "model", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not (here / ".model.resume" / "train.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        process.terminate()
        out, err = process.communicate(timeout=60)
    text = "interrupted; completed work is kept in .model.resume. Run the same command again to resume."
    assert (process.returncode, json.loads(out)) == (130, {"error": text, "exit_code": 130})
    assert err.splitlines()[-1] == f"error: {text}"
    assert files(here) == {"normal.parquet", "mlflow.db", ".model.resume"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_signal_before_the_first_step_leaves_nothing(here: Path, settings: Config) -> None:
    def at_once(_stage: str, _done: int, _total: int | None) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run(untracked(settings), here / "model", tell=at_once)
    assert files(here) == {"normal.parquet", "mlflow.db"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_fit_in_a_thread_hears_no_signals(here: Path, settings: Config) -> None:
    results: list[FitResult] = []
    thread = threading.Thread(target=lambda: results.append(run(untracked(settings), here / "model")))
    thread.start()
    thread.join()
    assert results[0].resumed_steps == 0


# ── what cannot be written, what cannot be logged ────────────────────────────────────────────────────────────────────


def refuse(code: int) -> Callable[..., None]:
    def raising(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return raising


def test_on_a_full_disk_the_fit_goes_on_and_keeps_nothing(
    here: Path, settings: Config, whole: Whole, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(training_state, "write_training", refuse(errno.ENOSPC))
    run(settings)
    text = "no more checkpoints are written, and an interrupted fit starts over: no space left on device"
    assert [record.message for record in caplog.records if record.name.startswith("vae_anomaly")] == [text]
    assert same(content(registered(settings.tracking.uri)), whole(settings))
    assert registry(settings.tracking.uri) == (["FINISHED"], {"live": "1"}, ["FINISHED"])
    assert files(here) == {"normal.parquet", "mlflow.db", "mlruns"}


def test_in_a_folder_that_cannot_be_written_a_fit_keeps_nothing(
    settings: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claim, "lock", refuse(errno.EROFS))
    run(settings)
    text = (
        f"this fit cannot be resumed if it is interrupted: {PLACE} cannot be written: the file system is read-only. Write elsewhere with -o"
    )
    assert [record.message for record in caplog.records if record.name.startswith("vae_anomaly")] == [text]
    assert registry(settings.tracking.uri) == (["FINISHED"], {"live": "1"}, ["FINISHED"])


def test_an_output_folder_that_cannot_be_written_is_refused_before_training(
    here: Path, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "lock", refuse(errno.EACCES))
    with pytest.raises(OutputError) as error:
        run(untracked(settings), here / "model", tell=lambda *_: pytest.fail("it has begun"))
    assert str(error.value) == f"{here}/.model.resume cannot be written: permission denied. Write elsewhere with -o."
    assert files(here) == {"normal.parquet", "mlflow.db"}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("disk", ["room", "full here", "full everywhere"])
def test_a_model_that_cannot_be_logged_is_kept_with_the_command_that_logs_it(
    settings: Config, whole: Whole, disk: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with monkeypatch.context() as patch:
        if disk != "room":
            fill(patch, temporary, everywhere=disk == "full everywhere")
        patch.setattr(MlflowClient, "log_artifacts", refuse(errno.ENOSPC))
        with pytest.raises(TrackingError) as error:
            run(settings)
    head = f"MLflow at {settings.tracking.uri} could not log the model: [Errno 28] No space left on device. The model is "
    if disk == "full everywhere":
        lost = "lost: neither the current folder nor the temporary one could be written. Make room and fit again."
        assert str(error.value) == head + lost
        return
    kept = Path(str(error.value).removeprefix(f"{head}saved: score with --model ").partition(",")[0])
    assert str(error.value) == f"{head}saved: score with --model {kept}, and log it later with: vae-anomaly upload {kept}"
    assert kept.parent == (Path() if disk == "room" else temporary)
    assert same(content(kept), whole(settings))
    result = upload_folder(UploadRequest(folder=kept))
    assert (result.model.name, result.model.version, result.model.alias) == ("pump", "1", "live")
    assert registry(settings.tracking.uri)[:2] == (["FINISHED"], {"live": "1"})
    assert same(content(registered(settings.tracking.uri)), whole(settings))


def fill(patch: pytest.MonkeyPatch, temporary: Path, *, everywhere: bool) -> None:
    """Fill the disk: nothing is kept to go on from, and models go nowhere but to the temporary folder, or even there only once."""
    real, saved = artifact.save, list[Path]()

    def save(detector: Detector, folder: Path, *, replace: bool = False) -> None:
        if not folder.is_relative_to(temporary) or (everywhere and saved):
            raise OutputError("the disk is full")
        saved.append(folder)
        real(detector, folder, replace=replace)

    patch.setattr(training_state, "write_training", refuse(errno.ENOSPC))
    patch.setattr(artifact, "save", save)


def test_the_same_fit_again_logs_what_could_not_be_logged(here: Path, settings: Config) -> None:
    said = []
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MlflowClient, "log_artifacts", refuse(errno.ECONNRESET))
            with pytest.raises(TrackingError) as error:
                run(settings)
        said.append(str(error.value))
    assert said[0] == said[1], "the model is kept once"
    result = run(settings, resume=True)
    assert result.resumed_steps == STEPS
    assert registry(settings.tracking.uri) == (["FINISHED"], {"live": "1"}, ["FAILED", "FAILED", "FINISHED"])
    (kept,) = files(here) - {"normal.parquet", "mlflow.db", "mlruns"}
    assert content(here / kept) == content(registered(settings.tracking.uri))
