"""Turn SIGINT (Ctrl-C) and SIGTERM (a scheduler) into a KeyboardInterrupt, at once or at the next step of a training loop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(kw_only=True)
class Interruption:
    """``requested``: a stop was requested. While ``deferred`` is set, the first signal only sets ``requested``, for the loop to check."""

    requested: bool = False
    deferred: bool = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal. Raises KeyboardInterrupt unless interruption is deferred; a second signal is never deferred."""
        if self.requested or not self.deferred:
            self.deferred = False
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def catch_signals() -> Iterator[Interruption]:
    """Handle SIGINT and SIGTERM within a block.

    Changes nothing outside the main thread, where Python cannot set handlers, nor for a signal that is ignored, as under ``nohup``.
    """
    interruption = Interruption()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in {signal.default_int_handler, signal.SIG_DFL}:
                before[number] = signal.signal(number, interruption.handle)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
