"""A stage passes every step to the progress callback and to the checkpoint, under its own name."""

from collections.abc import Callable

import pytest
import torch

from vae_anomaly.fitting.checkpointing import NoCheckpoint, Progress, Stage, TrainingCheckpoint
from vae_anomaly.fitting.robust import TrimmedRows
from vae_anomaly.model.minibatches import SamplerState
from vae_anomaly.model.training import TrainingState

STATE = TrainingState(
    step=7,
    weights=torch.zeros(1, 2),
    first=torch.zeros(1, 2),
    second=torch.zeros(1, 2),
    generator=torch.zeros(1, dtype=torch.uint8),
    sampler=SamplerState(rest=torch.zeros(1, 0, dtype=torch.int64), drawn_at=torch.zeros(1, dtype=torch.uint8), next=0),
    blocks=(),
    loss_sum=0.0,
)


class Recorder:
    """A checkpoint that has a state of the stage ``train`` and records the steps that it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.states: list[TrainingState] = []

    def load_training(self, stage: str) -> TrainingState | None:
        return STATE if stage == "train" else None

    def after_step(self, stage: str, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        self.calls.append((stage, done, total))
        self.states.append(training())

    def load_trimmed_rows(self) -> TrimmedRows | None:
        return None

    def save_trimmed_rows(self, trimmed: TrimmedRows) -> None:
        raise AssertionError(trimmed)


def _unused() -> TrainingState:
    raise AssertionError("the state is copied for nobody")


def test_a_stage_resumes_from_its_own_state_only() -> None:
    checkpoint: TrainingCheckpoint = Recorder()
    assert Stage(name="train", on_progress=lambda _: None, checkpoint=checkpoint).start() is STATE
    assert Stage(name="first pass", on_progress=lambda _: None, checkpoint=checkpoint).start() is None


def test_a_step_reaches_the_callback_and_the_checkpoint_with_the_state() -> None:
    checkpoint, heard = Recorder(), list[Progress]()
    Stage(name="first pass", on_progress=heard.append, checkpoint=checkpoint).step(3, 9, lambda: STATE)
    assert heard == [Progress(stage="first pass", done=3, total=9)]
    assert checkpoint.calls == [("first pass", 3, 9)]
    assert checkpoint.states[0] is STATE


def test_progress_is_reported_before_the_checkpoint_may_abort() -> None:
    class Aborting(Recorder):
        def after_step(self, stage: str, done: int, total: int, training: Callable[[], TrainingState]) -> None:
            super().after_step(stage, done, total, training)
            raise KeyboardInterrupt

    heard = list[Progress]()
    stage = Stage(name="train", on_progress=heard.append, checkpoint=Aborting())
    with pytest.raises(KeyboardInterrupt):
        stage.step(1, 2, lambda: STATE)
    assert [p.done for p in heard] == [1]


def test_without_a_checkpoint_nothing_is_loaded_and_no_state_is_copied() -> None:
    checkpoint: TrainingCheckpoint = NoCheckpoint()
    stage = Stage(name="train", on_progress=lambda _: None, checkpoint=checkpoint)
    stage.step(1, 2, _unused)
    assert stage.start() is None
    assert checkpoint.load_trimmed_rows() is None
