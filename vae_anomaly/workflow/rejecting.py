"""What becomes of rows that cannot be read while others are scored: counted, and written to the side file if that was asked for.

Rows are left out while the input is read ahead, and count only when the rows before and behind them are scored: so a job that is killed
goes on with the same count and the same side file.
"""

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vae_anomaly.core.stream import Tally
from vae_anomaly.edges import manifest, quarantine
from vae_anomaly.edges.outputs import writing
from vae_anomaly.edges.places import Place
from vae_anomaly.edges.rejects import OnError, Rejected, RejectedRows, Rejects
from vae_anomaly.edges.resume import Unfinished
from vae_anomaly.errors import OutputError
from vae_anomaly.workflow.counting import Counting

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run:
    """Rows without a good one between them, up to the number ``last``; ``size`` is that of the side file behind them."""

    last: int
    rows: int
    first: str
    size: int


@dataclass(kw_only=True, eq=False)
class Rejecting:
    """Takes the rejected rows of one scoring, and the tallies of the others."""

    counting: Counting
    side: quarantine.Quarantine | None
    waiting: list[Run] = field(default_factory=list)
    # Rows are left out in the thread that reads, and counted in the one that scores.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, rejected: Rejected) -> None:
        """Take a row that was left out."""
        with self.lock:
            if self.side is not None:
                self.side.add(rejected)
            size = 0 if self.side is None else self.side.size
            if self.waiting and self.waiting[-1].last == rejected.number - 1:
                run = self.waiting[-1]
                run.last, run.rows, run.size = rejected.number, run.rows + 1, size
            else:
                self.waiting.append(Run(last=rejected.number, rows=1, first=rejected.where, size=size))

    def add(self, tally: Tally) -> None:
        """Count scored rows, and the rejected ones before the last of them."""
        self.counting.add(tally)
        self._settle(self.counting.position)

    def sync(self) -> None:
        """Wait until the disk has the side file as far as it goes with the rows that are about to be kept."""
        if self.side is not None:
            with self.lock:
                self.side.sync()

    def finish(self, output: Place) -> RejectedRows | None:
        """Give the side file its name and return what was left out of ``output``; None: nothing."""
        self._settle(math.inf)
        path = None if self.side is None else self.side.place()
        where = "" if path is None else str(output.beside(path.name))
        counting = self.counting
        if not counting.rejected:
            return None
        return RejectedRows(rows=counting.rejected, first=counting.first_rejected, quarantine=where)

    def _settle(self, position: float) -> None:
        counting = self.counting
        with self.lock:
            while self.waiting and self.waiting[0].last < position:
                run = self.waiting.pop(0)
                counting.rejected += run.rows
                counting.first_rejected = counting.first_rejected or run.first
                counting.quarantined_bytes = run.size


@contextmanager
def rejecting(on_error: OnError, counting: Counting, unfinished: Unfinished, *, escape: bool) -> Iterator[Rejecting]:
    """Give what takes the rows that are left out from where ``counting`` stands."""
    side = None
    if on_error == "quarantine":
        side = quarantine.Quarantine(unfinished.output, unfinished.folder, size=counting.quarantined_bytes, escape=escape)
    try:
        yield Rejecting(counting=counting, side=side)
    finally:
        if side is not None:
            side.close()


def refuse_existing(output: Path, on_error: OnError, *, overwrite: bool) -> None:
    """Refuse to replace a side file that no run of ours is known to have written."""
    path = quarantine.path_of(output)
    with writing(path):
        exists = on_error == "quarantine" and path.exists()
    if exists and not overwrite and manifest.read(output) is None:
        raise OutputError(f"{path} exists and no manifest says what it is. Name another output with -o, or give --overwrite to replace it.")


def left_out(rejects: Rejects) -> RejectedRows | None:
    """Return how many rows were left out and the first of them, and warn of them; None: every row could be read."""
    said(rejects)
    return None if rejects.first is None else RejectedRows(rows=rejects.count, first=rejects.first.where)


def said(rejects: Rejects) -> tuple[str, ...]:
    """Return a note on the rows that were left out, and warn of them; nothing where there are none."""
    if rejects.first is None:
        return ()
    note = f"{rejects.count:,} rows cannot be read and were left out; the first, counted from 1: {rejects.first.where}"
    logger.warning("%s", note)
    return (note,)
