"""What a scoring counts while rows go by: memory does not grow with them.

Knows output batches and tallies of ``core.stream``, not where they go.
"""

import heapq
import logging
import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import Tally
from vae_anomaly.errors import OutputError
from vae_anomaly.evaluation.results import missing_changes
from vae_anomaly.explain.top_features import REST, Alarm, Reason
from vae_anomaly.jobs import manifest
from vae_anomaly.jobs.score_workdir import Unfinished
from vae_anomaly.messages import Tell
from vae_anomaly.schema.keys import key_text
from vae_anomaly.storage.atomic import writing
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.tables import quarantine
from vae_anomaly.tables.csv_rejects import OnError, Rejected, RejectedRows, Rejects
from vae_anomaly.workflow.results import Counts, Discovery, Untypical

# Alarms shown in the summary.
WORST_ALARMS = 5
# Groups named that the calibration had not; a column of keys has millions.
GROUPS_NAMED = 1000


@dataclass(kw_only=True)
class Counting:
    """Grows with every tally and every output batch; ``done`` gives the counts."""

    ids: tuple[str, ...]
    rows: int = 0
    alarms: int = 0
    unscored: int = 0
    unseen: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    untypical: int = 0
    low: int = 0
    pooled_rows: int = 0
    unseen_groups: Counter[str] = field(default_factory=Counter)
    worst: list[tuple[float, int, Alarm]] = field(default_factory=list)
    position: int = 0  # rows of the input up to here, with those that were left out
    rejected: int = 0
    first_rejected: str = ""
    quarantined_bytes: int = 0
    numbers: Any = field(default=None, init=False, repr=False, compare=False)  # of the rows of the last batch

    def state(self) -> dict[str, Any]:
        """Return all of it as plain values, for ``counting_from``."""
        return dict(TypeAdapter(Counting).dump_python(self, mode="json", exclude={"numbers"}))

    def counted(self) -> dict[str, Any]:
        """Return what adds up with that of other outputs, for ``tally_from``: all but the alarms by name, and nothing that is none."""
        return {name: value for name, value in self.state().items() if value and name not in {"ids", "worst"}}

    def add(self, tally: Tally) -> None:
        """Add the counts of one batch."""
        self.rows += tally.rows
        self.numbers = np.arange(self.position, self.position + tally.rows) if tally.numbers is None else tally.numbers
        self.position = int(self.numbers[-1]) + 1 if tally.rows else self.position
        self.alarms += tally.alarms
        self.unscored += tally.unscored
        self.unseen.update(tally.unseen)
        self.missing.update(tally.missing)
        self.untypical += tally.untypical
        self.low += tally.low
        self.pooled_rows += tally.pooled
        for name, count in tally.unseen_groups.items():
            if name in self.unseen_groups or len(self.unseen_groups) < GROUPS_NAMED:
                self.unseen_groups[name] += count

    def look(self, batches: Iterator[pa.RecordBatch], tell: Tell, total: int | None) -> Iterator[pa.RecordBatch]:
        """Let output batches pass, keep the worst alarms and tell how far it is."""
        tell("scoring", self.rows, total)
        for batch in batches:
            self._keep_worst(batch)
            yield batch
            tell("scoring", self.rows, total)

    def done(self, detector: Detector, threshold: Threshold, *, typicality: bool = False, discovery: Discovery | None = None) -> Counts:
        """Return what was counted; where a false-discovery rate set the cut-off, the alarms of normal rows alone are not foreseen."""
        scored = self.rows - self.unscored
        return Counts(
            rows=self.rows,
            alarms=self.alarms,
            expected_alarms=threshold.alpha * scored if math.isfinite(threshold.value) else 0.0,
            likely_alarms=threshold.law.alarms(scored) if discovery is None else None,
            typicality=Untypical(rows=self.untypical, low=self.low) if typicality else None,
            discovery=discovery,
            unseen_groups=None if threshold.groups is None else dict(self.unseen_groups.most_common()),
            pooled_rows=self.pooled_rows,
            null_scores=self.unscored,
            unseen=dict(self.unseen.most_common()),
            missing_changes=missing_changes(detector.quality, detector.card.rows, self.missing, self.rows),
            top_alarms=tuple(alarm for _, _, alarm in sorted(self.worst, key=lambda kept: (-kept[0], -kept[1]))),
        )

    def _keep_worst(self, batch: pa.RecordBatch) -> None:
        flagged = np.flatnonzero(batch.column("is_anomaly").to_numpy(zero_copy_only=False))
        scores = batch.column("anomaly_score").to_numpy(zero_copy_only=False)
        for i in flagged[np.argsort(-scores[flagged], kind="stable")[:WORST_ALARMS]].tolist():
            number = int(self.numbers[i])  # the tally of this batch was added before it came by
            entry = (float(scores[i]), -number, self._alarm(batch.slice(i, 1), number))
            # Rows have different numbers, so that alarms themselves are never compared.
            (heapq.heappush if len(self.worst) < WORST_ALARMS else heapq.heappushpop)(self.worst, entry)

    def _alarm(self, one: pa.RecordBatch, number: int) -> Alarm:
        row = one.select(["anomaly_score", "p_value", "top_features"]).to_pylist()[0]
        features = [feature for feature in row["top_features"] or () if feature["column"] != REST]
        return Alarm(
            row=number,
            ids={name: key_text(one.column(name)[0]) for name in self.ids},
            score=row["anomaly_score"],
            p_value=row["p_value"],
            reasons=tuple(Reason(**feature) for feature in features),
        )


def counting_from(state: Mapping[str, Any]) -> Counting:
    """Return a counting that goes on where ``state`` was taken. Raises ValueError for values that are none."""
    return TypeAdapter(Counting).validate_python(state)


def tally_from(counted: Mapping[str, Any]) -> Tally:
    """Return what was counted over one output, to be added to others. Raises ValueError for values that are none."""
    found = counting_from({"ids": (), **counted})
    return Tally(
        rows=found.rows,
        alarms=found.alarms,
        unscored=found.unscored,
        unseen=found.unseen,
        missing=found.missing,
        untypical=found.untypical,
        low=found.low,
        pooled=found.pooled_rows,
        unseen_groups=found.unseen_groups,
    )


_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RejectedStreak:
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
    waiting: list[RejectedStreak] = field(default_factory=list)
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
                self.waiting.append(RejectedStreak(last=rejected.number, rows=1, first=rejected.where, size=size))

    def add(self, tally: Tally) -> None:
        """Count scored rows, and the rejected ones before the last of them."""
        self.counting.add(tally)
        self._settle(self.counting.position)

    def sync(self) -> None:
        """Wait until the disk has the side file as far as it goes with the rows that are about to be kept."""
        if self.side is not None:
            with self.lock:
                self.side.sync()

    def finish(self, output: Destination) -> RejectedRows | None:
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
    path = quarantine.quarantine_path(output)
    with writing(path):
        exists = on_error == "quarantine" and path.exists()
    if exists and not overwrite and manifest.read_manifest(output) is None:
        raise OutputError(f"{path} exists and no manifest says what it is. Name another output with -o, or give --overwrite to replace it.")


def left_out(rejects: Rejects) -> RejectedRows | None:
    """Return how many rows were left out and the first of them, and warn of them; None: every row could be read."""
    rejected_notes(rejects)
    return None if rejects.first is None else RejectedRows(rows=rejects.count, first=rejects.first.where)


def rejected_notes(rejects: Rejects) -> tuple[str, ...]:
    """Return a note on the rows that were left out, and warn of them; nothing where there are none."""
    if rejects.first is None:
        return ()
    note = f"{rejects.count:,} rows cannot be read and were left out; the first, counted from 1: {rejects.first.where}"
    _logger.warning("%s", note)
    return (note,)
