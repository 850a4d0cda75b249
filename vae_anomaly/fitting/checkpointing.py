"""Progress and checkpoints of a fit, so that an interrupted fit can resume.

Protocols only: the caller passes a ``TrainingCheckpoint`` that stores states, or none.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from vae_anomaly.fitting.robust import TrimmedRows
from vae_anomaly.model.training import ALONE, Team, TrainingState, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a fit: ``done`` of ``total`` steps of a ``stage``."""

    stage: str
    done: int
    total: int


class TrainingCheckpoint(Protocol):
    """Stored states of a fit of the same rows, settings and versions. The fit does not check what it loads."""

    def load_training(self, stage: str) -> TrainingState | None:
        """Return the last stored state of the training of a stage, None if there is none."""

    def after_step(self, stage: str, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        """Called after every training step; ``training()`` returns the state. An exception raised here aborts the fit."""

    def load_trimmed_rows(self) -> TrimmedRows | None:
        """Return the result of the first pass of a robust fit, None if it is not stored."""

    def save_trimmed_rows(self, trimmed: TrimmedRows) -> None:
        """Store the result of the first pass of a robust fit."""


class NoCheckpoint:
    """A checkpoint that stores nothing."""

    def load_training(self, stage: str) -> None:  # noqa: ARG002, D102  (as in ``TrainingCheckpoint``)
        return None

    def after_step(self, stage: str, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        """Do nothing."""

    def load_trimmed_rows(self) -> None:  # noqa: D102
        return None

    def save_trimmed_rows(self, trimmed: TrimmedRows) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A named training of a fit: progress callback, checkpoint, ``on_trial``, called before the first step, which it may run; and team."""

    name: str = "train"
    on_progress: Callable[[Progress], None] = lambda _: None
    checkpoint: TrainingCheckpoint = field(default_factory=NoCheckpoint)
    on_trial: Callable[[Trial], None] = lambda _: None
    team: Team = ALONE

    def start(self) -> TrainingState | None:
        """Return the state to resume from, None to start from the beginning."""
        return self.checkpoint.load_training(self.name)

    def step(self, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        """Report a step to the progress callback and the checkpoint."""
        self.on_progress(Progress(stage=self.name, done=done, total=total))
        self.checkpoint.after_step(self.name, done, total, training)
