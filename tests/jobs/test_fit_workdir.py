"""Work folder of a fit: which one is claimed, what is stored in it, and what is left after an error."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vae_anomaly import artifact
from vae_anomaly.config import TrackingConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError, Interrupted, OutputError, SchemaMismatch, TrackingError
from vae_anomaly.jobs import claim, fit_workdir, training_state
from vae_anomaly.jobs.fit_workdir import Checkpoint, claim_fit, request_in, workdir_of
from vae_anomaly.jobs.signals import Interruption
from vae_anomaly.model.minibatches import SamplerState
from vae_anomaly.model.training import TrainingState

MADE_FROM = {"inputs": {"a.csv": [1, 2]}, "settings": {"seed": 0}}
OTHER = {**MADE_FROM, "settings": {"seed": 1}}
TRACKING = TrackingConfig(model_name="pump", enabled=False)


def training(step: int) -> TrainingState:
    weights, first, second = (torch.full((1, 3), float(step)) for _ in range(3))
    generator, drawn_at = (torch.Generator().get_state() for _ in range(2))
    sampler = SamplerState(rest=torch.zeros(1, 2, dtype=torch.int64), drawn_at=drawn_at, next=step)
    return TrainingState(
        step=step, weights=weights, first=first, second=second, generator=generator, sampler=sampler, blocks=(), loss_sum=0.5
    )


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / ".pump.fit.resume"


@contextmanager
def begun(workdir: Path, made_from: Mapping[str, Any] = MADE_FROM, *, restart: bool = False) -> Iterator[Checkpoint]:
    with claim_fit(workdir, made_from, Interruption(), needed=True) as checkpoint:
        checkpoint.every = 2
        checkpoint.begin(TRACKING, restart=restart)
        yield checkpoint


def interrupt(workdir: Path, steps: int = 3) -> str:
    """Train for some steps, be interrupted, and return the name of the job."""
    with suppress(Interrupted), begun(workdir) as checkpoint:
        for step in range(1, steps + 1):
            checkpoint.after_step("train", step, 10, lambda step=step: training(step))  # type: ignore[misc]
        raise KeyboardInterrupt
    return checkpoint.job


def state(workdir: Path, made_from: Mapping[str, Any] = MADE_FROM) -> str:
    with suppress(ZeroDivisionError), claim_fit(workdir, made_from, Interruption(), needed=True) as checkpoint:
        found = checkpoint.state()
        raise ZeroDivisionError
    return found


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_states_of_a_fit(workdir: Path, tiny_detector: Detector) -> None:
    assert state(workdir) == "fresh"
    assert not workdir.exists()
    interrupt(workdir)
    assert (state(workdir), state(workdir, OTHER)) == ("resumable", "fresh")
    with suppress(Interrupted), begun(workdir) as checkpoint:
        checkpoint.save_finished(tiny_detector, {"quality": None})
        raise KeyboardInterrupt
    assert state(workdir) == "done"
    with begun(workdir) as checkpoint:
        pass
    assert not workdir.exists(), "the fit has ended"


def test_a_resumed_fit_has_the_job_and_the_last_checkpoint(workdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = interrupt(workdir, steps=5)
    with caplog.at_level(logging.INFO), begun(workdir) as checkpoint:
        loaded = checkpoint.load_training("train")
        assert loaded is not None
        assert (loaded.step, loaded.weights.tolist()) == (4, [[4.0] * 3]), "every second step"
        assert (checkpoint.job, checkpoint.resumed_steps) == (job, 4)
        assert checkpoint.load_training("fold 1") is None
    assert caplog.messages == [f"resuming the interrupted fit in {workdir}"]


@pytest.mark.parametrize(("made_from", "restart"), [(OTHER, False), (MADE_FROM, True)])
def test_other_checkpoints_are_removed(
    workdir: Path, made_from: dict[str, Any], caplog: pytest.LogCaptureFixture, *, restart: bool
) -> None:
    job = interrupt(workdir)
    with begun(workdir, made_from, restart=restart) as checkpoint:
        assert checkpoint.job != job
        assert sorted(path.name for path in workdir.iterdir()) == ["lock", "request.json"]
        request = request_in(workdir)
        assert request is not None
        assert (request.job, request.tracking, request.digests) == (checkpoint.job, TRACKING, claim.digests_of(made_from))
    text = f"{workdir} is of another interrupted fit (other settings): starting over"
    assert caplog.messages == ([] if restart else [text])


@pytest.mark.parametrize("content", ["", "{}", '{"format": 2}', '{"format": 1, "digests": 3}', '{"format": 1, "digests": {}, "job": ""}'])
def test_an_invalid_request_is_none(workdir: Path, content: str) -> None:
    workdir.mkdir()
    (workdir / "request.json").write_text(content, encoding="utf-8")
    assert request_in(workdir) is None
    assert state(workdir) == "fresh"


# ── which folder ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_folder_is_named_after_the_output_or_the_model(tmp_path: Path) -> None:
    assert workdir_of(tmp_path / "model", "pump") == tmp_path / ".model.resume"
    assert workdir_of(None, "pump") == Path(".pump.fit.resume")


@pytest.mark.skipif(sys.platform == "win32", reason="file locks")
def test_concurrent_fits_have_numbered_folders_and_each_is_found_again(workdir: Path) -> None:
    (workdir.parent / f"{workdir.name}-old").mkdir()  # not a number
    with suppress(KeyboardInterrupt), begun(workdir, OTHER):
        with suppress(Interrupted), begun(workdir) as second:
            second.after_step("train", 2, 10, lambda: training(2))
            assert second.folder == workdir.with_name(f"{workdir.name}-2")
            raise KeyboardInterrupt
        raise KeyboardInterrupt
    assert not workdir.exists(), "nothing to resume from"
    with begun(workdir) as checkpoint:
        assert checkpoint.folder == workdir.with_name(f"{workdir.name}-2")
        assert checkpoint.state() == "resumable"
    assert [path.name for path in workdir.parent.iterdir()] == [f"{workdir.name}-old"]


def test_a_folder_that_cannot_be_created(workdir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: Path) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(claim, "lock", refuse)
    why = f"{workdir} cannot be written: the file system is read-only. Write elsewhere with -o"
    with pytest.raises(OutputError) as error, claim_fit(workdir, MADE_FROM, Interruption(), needed=True):
        pytest.fail("it was needed")
    assert str(error.value) == f"{why}."
    with claim_fit(workdir, MADE_FROM, Interruption(), needed=False) as checkpoint:
        checkpoint.begin(TRACKING, restart=False)
        checkpoint.after_step("train", 1, 1, lambda: pytest.fail("no state is needed"))
        assert (checkpoint.folder, checkpoint.state(), checkpoint.has_progress()) == (None, "fresh", False)
    assert caplog.messages == [f"this fit cannot be resumed if it is interrupted: {why}"]


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────


def written(checkpoint: Checkpoint, steps: int) -> list[int]:
    """Report all steps of a training and return those with a checkpoint."""
    stored = list[int]()

    def take(step: int) -> TrainingState:
        stored.append(step)
        return training(step)

    for step in range(1, steps + 1):
        checkpoint.after_step("train", step, steps, lambda step=step: take(step))  # type: ignore[misc]
    return stored


def test_checkpoints_are_written_by_steps_or_by_time_and_at_the_end(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with begun(workdir) as checkpoint:
        checkpoint.every = 3
        assert written(checkpoint, 7) == [3, 6, 7]
        checkpoint.every = None
        assert written(checkpoint, 7) == [7]
        monkeypatch.setattr(fit_workdir, "CHECKPOINT_SECONDS", 0.0)
        monkeypatch.setattr(fit_workdir, "CHECKPOINT_SHARE", 0.0)
        assert written(checkpoint, 3) == [1, 2, 3]


def test_checkpoints_that_take_long_are_written_less_often(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of 3 s every 5 s would be most of the fit of a wide table."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    stored: list[int] = []

    def take(step: int) -> TrainingState:
        clock[0] += 3.0
        stored.append(step)
        return training(step)

    with begun(workdir) as checkpoint:
        checkpoint.every, checkpoint.since = None, clock[0]
        for step in range(1, 30):
            clock[0] += 5.0
            checkpoint.after_step("train", step, 100, lambda step=step: take(step))  # type: ignore[misc]
    assert stored == [1, 13, 25], "after 20 times three seconds"


def test_a_requested_interruption_writes_a_checkpoint_first(workdir: Path) -> None:
    text = rf"^interrupted; completed work is kept in {workdir}\. Run the same command again to resume\.$"
    with pytest.raises(Interrupted, match=text), begun(workdir) as checkpoint:  # noqa: PT012  (the block is what is interrupted)
        checkpoint.after_step("train", 1, 9, lambda: training(1))
        assert checkpoint.interruption.deferred
        checkpoint.interruption.requested = True
        checkpoint.after_step("train", 3, 9, lambda: training(3))
    assert training_state.read_training(workdir / "train.safetensors").step == 3
    with begun(workdir) as checkpoint:
        checkpoint.after_step("train", 9, 9, lambda: training(9))
        assert not checkpoint.interruption.deferred, "outside the training a signal interrupts at once"


def test_a_damaged_checkpoint_is_removed(workdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupt(workdir)
    path = workdir / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
    with begun(workdir) as checkpoint:
        assert checkpoint.load_training("train") is None
        assert (checkpoint.resumed_steps, path.exists()) == (0, False)
    assert caplog.messages == [f"{path} is damaged (it differs from its digest): its steps are repeated"]


def test_on_a_full_disk_checkpoints_are_removed_and_the_fit_continues(
    workdir: Path, tiny_detector: Detector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with begun(workdir) as checkpoint:
        checkpoint.after_step("first pass", 2, 2, lambda: training(2))
        monkeypatch.setattr(training_state, "write_training", full)
        checkpoint.after_step("train", 2, 9, lambda: training(2))
        assert sorted(path.name for path in workdir.iterdir()) == ["lock", "request.json"]
        checkpoint.save_finished(tiny_detector, {})
        assert checkpoint.finished() is None
    assert caplog.messages == ["no more checkpoints are written, and an interrupted fit starts over: no space left on device"]
    assert not workdir.exists()


# ── the finished model ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_model_is_found_after_it_was_moved_and_not_after_it_was_changed(workdir: Path, tiny_detector: Detector) -> None:
    moved = workdir.parent / "model"
    with begun(workdir) as checkpoint:
        assert (checkpoint.finished(), checkpoint.move_finished(moved), checkpoint.is_finished_model(moved)) == (None, False, False)
        checkpoint.save_finished(tiny_detector, {"quality": 0.5})
        assert checkpoint.finished_folder() == workdir / "detector"
        assert checkpoint.move_finished(moved)
        finished = checkpoint.finished()
        assert finished is not None
        assert (finished.folder, finished.results) == (moved, {"quality": 0.5})
        assert finished.detector.threshold.value == tiny_detector.threshold.value
        assert checkpoint.is_finished_model(moved)
        assert not checkpoint.is_finished_model(workdir)
        other = replace(tiny_detector, threshold=tiny_detector.threshold.at(0.2))
        artifact.save(other, workdir.parent / "other")
        assert not checkpoint.is_finished_model(workdir.parent / "other")
        path = moved / "weights.safetensors"
        path.write_bytes(path.read_bytes() + b"\0")
        assert checkpoint.finished() is None, "damaged"
        artifact.save(other, moved, replace=True)
        assert checkpoint.finished() is None, "another model"


# ── what is left ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "progress", "run_open", "left"),
    [
        (DataError, True, False, True),
        (OutputError, True, False, True),
        (TrackingError, False, True, True),  # the run must be closed later
        (TrackingError, False, False, False),
        (ZeroDivisionError, True, False, True),
        (DataError, False, True, False),
        (ConfigError, True, True, False),  # the same command meets it again
        (SchemaMismatch, True, False, False),  # a subclass of DataError that does not pass
    ],
)
def test_what_is_left_after_an_error(workdir: Path, error: type[Exception], *, progress: bool, run_open: bool, left: bool) -> None:
    with pytest.raises(error), begun(workdir) as checkpoint:  # noqa: PT012  (the block is what is interrupted)
        checkpoint.run_open = run_open
        if progress:
            checkpoint.after_step("train", 2, 9, lambda: training(2))
        raise error("an error")
    assert workdir.exists() == left


def test_at_exit_the_folder_is_removed_and_unlocked_later(workdir: Path) -> None:
    calls = list[Callable[[], None]]()
    with claim_fit(workdir, MADE_FROM, Interruption(), needed=True, at_exit=calls.append) as checkpoint:
        checkpoint.begin(TRACKING, restart=False)
    assert workdir.exists()
    with pytest.raises(claim.Taken):
        claim.lock(workdir)
    (call,) = calls
    call()
    assert not workdir.exists()
