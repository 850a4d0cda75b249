"""What the outside may follow of a fit, and what it may remember, so that a fit that was killed goes on from there.

Knows no files: a ``Memory`` is handed in, and ``Forgetful`` is the one that remembers nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vae_anomaly.fitting.robust import Doubts
from vae_anomaly.model.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a fit is: ``done`` of ``total`` in a ``stage``."""

    stage: str
    done: int
    total: int


class Memory(Protocol):
    """What a fit of the same rows, settings and install has done before; the fit takes what it says as it is."""

    def training(self, stage: str) -> Training | None:
        """Return how far the training of a stage had come; None: it had not begun."""

    def keep(self, stage: str, done: int, total: int, training: Callable[[], Training]) -> None:
        """Hear of every step; ``training`` returns the state after it. What this raises ends the fit."""

    def doubts(self) -> Doubts | None:
        """Return what the first pass had found; None: it had not ended."""

    def keep_doubts(self, doubts: Doubts) -> None:
        """Hear what the first pass has found."""


class Forgetful:
    """Remembers nothing."""

    def training(self, stage: str) -> None:  # noqa: ARG002, D102  (as of ``Memory``)
        return None

    def keep(self, stage: str, done: int, total: int, training: Callable[[], Training]) -> None:
        """Do nothing."""

    def doubts(self) -> None:  # noqa: D102
        return None

    def keep_doubts(self, doubts: Doubts) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A training of a fit: its name, who is told how far it is, and who remembers it."""

    name: str
    on_progress: Callable[[Progress], None]
    memory: Memory

    def start(self) -> Training | None:
        """Return where to go on; None: at the beginning."""
        return self.memory.training(self.name)

    def step(self, done: int, total: int, training: Callable[[], Training]) -> None:
        """Pass a step on."""
        self.on_progress(Progress(stage=self.name, done=done, total=total))
        self.memory.keep(self.name, done, total, training)
