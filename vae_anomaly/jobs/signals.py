"""Ctrl-C, and the SIGTERM of a scheduler: both are a KeyboardInterrupt, at once or, where that is wanted, at the next good moment.

Knows nothing of what is interrupted.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(kw_only=True)
class Interruption:
    """Whether somebody has ``asked`` to stop; while the work ``waits`` for a good moment itself, the first signal does no more than ask."""

    asked: bool = False
    waits: bool = False

    def hear(self, _number: int, _frame: FrameType | None) -> None:
        """Take a signal. Raises KeyboardInterrupt unless the work waits; the second signal does not wait."""
        if self.asked or not self.waits:
            self.waits = False
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def heard() -> Iterator[Interruption]:
    """Hear signals for the length of a block; in a thread, where Python hears none, and where one is ignored, nothing changes."""
    interruption = Interruption()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in {signal.default_int_handler, signal.SIG_DFL}:
                before[number] = signal.signal(number, interruption.hear)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
