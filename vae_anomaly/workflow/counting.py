"""What a scoring counts while rows go by: memory does not grow with them.

Knows output batches and tallies of ``core.stream``, not where they go.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from vae_anomaly.core.detector import Detector
from vae_anomaly.core.keys import key_text
from vae_anomaly.core.reasons import REST
from vae_anomaly.core.report import missing_changes
from vae_anomaly.core.stream import Tally
from vae_anomaly.core.threshold import Threshold
from vae_anomaly.workflow.progress import Tell
from vae_anomaly.workflow.results import Alarm, Counts, Discovery, Reason, Untypical

# Alarms shown in the summary.
WORST = 5
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
        for i in flagged[np.argsort(-scores[flagged], kind="stable")[:WORST]].tolist():
            number = int(self.numbers[i])  # the tally of this batch was added before it came by
            entry = (float(scores[i]), -number, self._alarm(batch.slice(i, 1), number))
            # Rows have different numbers, so that alarms themselves are never compared.
            (heapq.heappush if len(self.worst) < WORST else heapq.heappushpop)(self.worst, entry)

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
