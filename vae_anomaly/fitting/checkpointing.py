"""What the outside may follow of a fit, and what it may remember, so that a fit that was killed goes on from there.

Knows no files: a ``TrainingCheckpoint`` is handed in, and ``NoCheckpoint`` is the one that remembers nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vae_anomaly.fitting.robust import TrimmedRows
from vae_anomaly.model.training import TrainingState


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a fit is: ``done`` of ``total`` in a ``stage``."""

    stage: str
    done: int
    total: int


class TrainingCheckpoint(Protocol):
    """What a fit of the same rows, settings and install has done before; the fit takes what it says as it is."""

    def load_training(self, stage: str) -> TrainingState | None:
        """Return how far the training of a stage had come; None: it had not begun."""

    def after_step(self, stage: str, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        """Hear of every step; ``training`` returns the state after it. What this raises ends the fit."""

    def load_trimmed_rows(self) -> TrimmedRows | None:
        """Return what the first pass had found; None: it had not ended."""

    def save_trimmed_rows(self, trimmed: TrimmedRows) -> None:
        """Hear what the first pass has found."""


class NoCheckpoint:
    """Remembers nothing."""

    def load_training(self, stage: str) -> None:  # noqa: ARG002, D102  (as of ``TrainingCheckpoint``)
        return None

    def after_step(self, stage: str, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        """Do nothing."""

    def load_trimmed_rows(self) -> None:  # noqa: D102
        return None

    def save_trimmed_rows(self, trimmed: TrimmedRows) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A training of a fit: its name, who is told how far it is, and who remembers it."""

    name: str
    on_progress: Callable[[Progress], None]
    checkpoint: TrainingCheckpoint

    def start(self) -> TrainingState | None:
        """Return where to go on; None: at the beginning."""
        return self.checkpoint.load_training(self.name)

    def step(self, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        """Pass a step on."""
        self.on_progress(Progress(stage=self.name, done=done, total=total))
        self.checkpoint.after_step(self.name, done, total, training)
