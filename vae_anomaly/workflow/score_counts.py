"""Counts of a scoring: rows, alarms, unseen levels, missing cells, worst alarms and rejected rows, in bounded memory."""

import heapq
import logging
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from vae_anomaly.calibration.threshold import Threshold, too_few_alarms
from vae_anomaly.choices import OnError
from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.series import SeriesState, state_from
from vae_anomaly.detector.stream import NO_STANDSTILL, Rejections, ScoredBatch, Standstill, Tally
from vae_anomaly.errors import OutputError
from vae_anomaly.evaluation.results import MissingChange
from vae_anomaly.events.episodes import EventLog, EventRules, ScoredTimes
from vae_anomaly.explain.contributions import REST, Alarm, Reason
from vae_anomaly.jobs import manifest
from vae_anomaly.jobs.memory import excess_cautions
from vae_anomaly.jobs.score_workdir import Unfinished
from vae_anomaly.messages import BATCH_MATTERS
from vae_anomaly.schema.keys import key_text
from vae_anomaly.storage.atomic import writing
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.tables.csv_rejects import Rejected, RejectedRows, Rejects
from vae_anomaly.tables.quarantine import Quarantine, quarantine_path
from vae_anomaly.workflow.results import Counts, Discovery, Untypical

_logger = logging.getLogger(__name__)
# Alarms shown in the summary.
WORST_ALARMS = 5
# Names of unseen groups that are counted one by one: a column of keys has millions.
GROUPS_NAMED = 1000
# Standard errors from which on a change is reported: among thousands of columns, none should differ by chance.
STANDARD_ERRORS = 4.0
# Smallest change of a share that matters in practice.
SMALLEST_CHANGE = 0.01


@dataclass(kw_only=True)
class Counting:
    """Running counts of a scoring, a fold over its scored batches; ``done`` returns them as a result."""

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
    position: int = 0  # rows of the input up to here, rejected ones included
    rejected: int = 0
    first_rejected: str = ""
    quarantined_bytes: int = 0
    standstill: Standstill = NO_STANDSTILL
    peak: int = 0  # bytes of memory, where they were more than the limit
    series: dict[str, Any] | None = None  # where the series of rows in time stood in the checkpoint, ``SeriesState.plain``
    events: EventLog = field(default_factory=EventLog)
    rules: EventRules | None = None  # of the events of rows in time; None: single rows
    latest: Any = None  # and where the series stand now, SeriesState

    def state(self) -> dict[str, Any]:
        """Return everything as JSON values, for ``counting_from``."""
        if self.rules is not None:
            self.events.settle()
        left_out: Any = {"latest": True, "rules": True, "events": {"pending", "closed", "explain"}}
        values = TypeAdapter(Counting).dump_python(self, mode="json", exclude=left_out)
        return dict(values if self.latest is None else values | {"series": self.latest.plain()})

    def counted(self) -> dict[str, Any]:
        """Return the counts that add up over outputs as JSON values, for ``tally_from``; zeros and the worst alarms are left out."""
        values = self.state()
        still = {key: values["standstill"][key] for key in ("found", "count")} if self.standstill.count else {}
        left_out = {"ids", "worst"} if self.rules is not None else {"ids", "worst", "series", "events"}
        return {name: value for name, value in (values | {"standstill": still}).items() if value and name not in left_out}

    def add(self, tally: Tally) -> None:
        """Add the counts of one batch."""
        self.rows += tally.rows
        self.position = self.position + tally.rows if tally.numbers is None or not tally.rows else int(tally.numbers[-1]) + 1
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

    def take(self, scored: ScoredBatch) -> None:
        """Add the counts of one batch, keep its worst alarms, and take over the rejections up to its end."""
        first = self.position
        self.add(scored.tally)
        numbers = scored.tally.numbers
        self._keep_worst(scored.rows, np.arange(first, first + scored.tally.rows) if numbers is None else numbers)
        self.reject(scored.rejections)
        self.standstill = scored.standstill
        self.latest = scored.series
        if scored.times is not None and self.rules is not None:
            self._add_events(scored, np.arange(first, first + scored.tally.rows) if numbers is None else numbers, self.rules)

    def _add_events(self, scored: ScoredBatch, numbers: NDArray[np.int64], rules: EventRules) -> None:
        assert scored.times is not None
        assert scored.reasons is not None
        rows = ScoredTimes(
            scores=scored.rows.column("anomaly_score").to_numpy(zero_copy_only=False),
            time=scored.times.time,
            entity=scored.times.entity,
            names=scored.times.names,
            numbers=numbers,
            peak=scored.reasons.peak,
            explain=scored.reasons.explain,
        )
        self.events.add(rows, rules)

    def series_state(self) -> SeriesState | None:
        """Return where the series of rows in time stand after the counted rows; None at their start."""
        return None if self.series is None else state_from(self.series)

    def reject(self, rejections: Rejections) -> None:
        """Take over the rejections up to here."""
        self.rejected, self.first_rejected, self.quarantined_bytes = rejections.rows, rejections.first, rejections.bytes

    def done(
        self, detector: Detector, threshold: Threshold, *, typicality: bool = False, discovery: Discovery | None = None, seen: str = ""
    ) -> Counts:
        """Return the result; with a false-discovery rate the number of alarms among normal rows is not predicted.

        ``seen``: caution on rows that the fit has seen, whose alarms are fewer than chance allows.
        """
        scored = self.rows - self.unscored
        few = "" if seen or discovery is not None else too_few_alarms(threshold, scored, self.alarms)
        alike = "" if detector.ensemble.rounds_alike else BATCH_MATTERS
        return Counts(
            rows=self.rows,
            alarms=self.alarms,
            expected_alarms=threshold.alpha * scored if math.isfinite(threshold.value) else 0.0,
            likely_alarms=likely_alarms(threshold, scored) if discovery is None else None,
            typicality=Untypical(rows=self.untypical, low=self.low) if typicality else None,
            discovery=discovery,
            unseen_groups=None if threshold.groups is None else dict(self.unseen_groups.most_common()),
            pooled_rows=self.pooled_rows,
            null_scores=self.unscored,
            unseen=dict(self.unseen.most_common()),
            missing_changes=missing_changes(detector.quality, detector.card.rows, self.missing, self.rows),
            top_alarms=tuple(alarm for _, _, alarm in sorted(self.worst, key=lambda kept: (-kept[0], -kept[1]))),
            cautions=(*filter(None, (seen, few, alike)), *self.standstill.cautions(), *(excess_cautions(self.peak) if self.peak else ())),
        )

    def _keep_worst(self, batch: pa.RecordBatch, numbers: NDArray[np.int64]) -> None:
        flagged = np.flatnonzero(batch.column("is_anomaly").to_numpy(zero_copy_only=False))
        scores = batch.column("anomaly_score").to_numpy(zero_copy_only=False)
        for i in flagged[np.argsort(-scores[flagged], kind="stable")[:WORST_ALARMS]].tolist():
            number = int(numbers[i])
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


def likely_alarms(threshold: Threshold, rows: int) -> tuple[int, int]:
    """Return the range of the alarms among ``rows`` normal rows: 95 % of the law, of time series what their blocks say."""
    rates = threshold.rates
    return threshold.law.alarms(rows) if rates is None else (math.floor(rates.low * rows), math.ceil(rates.high * rows))


def counting_from(state: Mapping[str, Any]) -> Counting:
    """Return the counting that ``state`` was taken from. Raises ValueError for values of the wrong type."""
    return TypeAdapter(Counting).validate_python(state)


def tally_from(counted: Mapping[str, Any]) -> Tally:
    """Return the counts of one finished output, to be added to others. Raises ValueError for values of the wrong type."""
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


def standstill_from(counted: Mapping[str, Any]) -> Standstill:
    """Return the columns at a standstill of one finished output. Raises ValueError for values of the wrong type."""
    return counting_from({"ids": (), **counted}).standstill


def peak_from(counted: Mapping[str, Any]) -> int:
    """Return the bytes of memory of one finished output, where they were more than the limit."""
    return counting_from({"ids": (), **counted}).peak


def missing_changes(quality: Sequence[ColumnQuality], fit_rows: int, missing: Mapping[str, int], rows: int) -> tuple[MissingChange, ...]:
    """Return the columns whose share of missing cells changed, the largest change first; ``missing``: column → missing cells of ``rows``.

    Reported are changes of at least 1 % of the cells and more than four standard errors of the difference of two shares.
    """
    changes = [MissingChange(column=q.name, at_fit=q.missing, now=missing.get(q.name, 0) / rows) for q in quality if rows]
    return tuple(sorted((c for c in changes if _changed(c, fit_rows, rows)), key=lambda c: -abs(c.now - c.at_fit)))


def _changed(change: MissingChange, fit_rows: int, rows: int) -> bool:
    pooled = (change.at_fit * fit_rows + change.now * rows) / (fit_rows + rows)
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / fit_rows + 1.0 / rows))
    difference = abs(change.now - change.at_fit)
    return difference >= SMALLEST_CHANGE and difference > STANDARD_ERRORS * error


@dataclass(kw_only=True, eq=False)
class RejectLog:
    """Rejected rows of one scoring: written to the quarantine file, if there is one, and counted for the batches that follow them.

    Used by the reading thread alone until reading has ended; only ``sync`` may be called from another one.
    """

    quarantine: Quarantine | None
    before: Rejections  # up to the end of the rows that were read
    # Streaks of rejected rows beyond that: row number of the last one, and the rejections up to it. A file may hold millions in a row.
    ahead: deque[tuple[int, Rejections]] = field(default_factory=deque)

    def add(self, rejected: Rejected) -> None:
        """Record a rejected row; rows come in ascending order."""
        last = self.ahead[-1][1] if self.ahead else self.before
        if self.quarantine is not None:
            self.quarantine.add(rejected)
        size = 0 if self.quarantine is None else self.quarantine.size
        if self.ahead and self.ahead[-1][0] == rejected.number - 1:
            self.ahead.pop()
        self.ahead.append((rejected.number, Rejections(rows=last.rows + 1, first=last.first or rejected.where, bytes=size)))

    def up_to(self, position: float) -> Rejections:
        """Return the rejections among the rows before ``position``."""
        while self.ahead and self.ahead[0][0] < position:
            self.before = self.ahead.popleft()[1]
        return self.before

    def sync(self) -> None:
        """Force the quarantine file to disk, before rows that follow what is in it become a checkpoint."""
        if self.quarantine is not None:
            self.quarantine.sync()

    def finish(self, output: Destination) -> RejectedRows | None:
        """Publish the quarantine file beside ``output`` and return what was rejected; None: nothing."""
        total = self.up_to(math.inf)
        path = None if self.quarantine is None else self.quarantine.finish()
        where = "" if path is None else str(output.beside(path.name))
        return RejectedRows(rows=total.rows, first=total.first, quarantine=where) if total.rows else None


@contextmanager
def reject_log(on_error: OnError, counting: Counting, unfinished: Unfinished, *, escape: bool) -> Iterator[RejectLog]:
    """Give the log of rejected rows, continued from where ``counting`` is."""
    before = Rejections(rows=counting.rejected, first=counting.first_rejected, bytes=counting.quarantined_bytes)
    if on_error != "quarantine":
        yield RejectLog(quarantine=None, before=before)
        return
    with closing(Quarantine(unfinished.output, unfinished.folder, size=before.bytes, escape=escape)) as quarantine:
        yield RejectLog(quarantine=quarantine, before=before)


def refuse_existing(output: Path, on_error: OnError, *, overwrite: bool) -> None:
    """Refuse to replace a quarantine file that no manifest accounts for. Raises OutputError."""
    if on_error != "quarantine":
        return
    path = quarantine_path(output)
    with writing(path):
        exists = path.exists()
    if exists and not overwrite and manifest.read_manifest(output) is None:
        raise OutputError(f"{path} exists and no manifest says what it is. Name another output with -o, or give --overwrite to replace it.")


def left_out(rejects: Rejects) -> RejectedRows | None:
    """Log a warning about the rejected rows and return their number and the first one; None: no row was rejected."""
    rejected_notes(rejects)
    return None if rejects.first is None else RejectedRows(rows=rejects.count, first=rejects.first.where)


def rejected_notes(rejects: Rejects) -> tuple[str, ...]:
    """Log a warning about the rejected rows and return it as a note; empty if no row was rejected."""
    if rejects.first is None:
        return ()
    note = f"{rejects.count:,} rows cannot be read and were left out; the first, counted from 1: {rejects.first.where}"
    _logger.warning("%s", note)
    return (note,)
