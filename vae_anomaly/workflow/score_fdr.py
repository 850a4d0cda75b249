"""Which threshold a scoring flags with: at a false-alarm rate, or at the cut-off of a false-discovery rate that a first pass finds.

Knows thresholds and batches, not files. The first pass keeps one count for each p-value there can be, whatever the number of rows;
from these counts it can go on.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.fdr import cutoff, marginal_table, rank_counts
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import ScoreOptions, score_batches
from vae_anomaly.messages import percent
from vae_anomaly.workflow.results import Discovery


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranks:
    """How many of the first ``rows`` rows of the input have each rank among n calibration scores; (n + 1,) int64."""

    rows: int
    counts: NDArray[np.int64]


def threshold_for(
    threshold: Threshold, *, alpha: float | None, fdr: float | None, p_values: Literal["marginal", "conditional"]
) -> Threshold:
    """Return the threshold to start from. Raises NotCalibrated where the calibration does not have what is asked for."""
    if fdr is not None:
        threshold.refuse_unless_exact("--fdr")
    if p_values == "conditional":
        threshold = threshold.conditional()
        return threshold if fdr is not None else threshold.at(alpha or threshold.alpha)
    return threshold if alpha is None else threshold.at(alpha)


def discover(
    detector: Detector,
    threshold: Threshold,
    batches: Iterable[pa.RecordBatch],
    options: ScoreOptions,
    rate: float,
    on_ranks: Callable[[Ranks], None],
    before: Ranks | None = None,
) -> Discovery:
    """Score all rows, keep only how many have each rank, and return the cut-off of Benjamini and Hochberg at ``rate``.

    ``before``: the ranks of rows that precede those in ``batches``.
    """
    n = len(threshold.calibration)
    ranks = before or Ranks(rows=0, counts=np.zeros(n + 1, dtype=np.int64))
    marginal = replace(threshold, table=None)
    plain = replace(options, explain="none", typicality=False, id_columns=())
    for batch in score_batches(detector, batches, plain, threshold=marginal):
        more = rank_counts(batch.column("p_value").to_numpy(zero_copy_only=False), n)
        ranks = Ranks(rows=batch.column("row")[-1].as_py() + 1, counts=ranks.counts + more)
        on_ranks(ranks)
    table = marginal_table(n) if threshold.table is None else threshold.table
    return Discovery(rate=rate, cutoff=cutoff(ranks.counts, table, rate), statement=_statement(threshold, rate))


def at_cutoff(threshold: Threshold, cutoff: float | None) -> Threshold:
    """Return the threshold that flags p-values up to ``cutoff``; one that flags nothing where there is none."""
    return replace(threshold, value=math.inf) if cutoff is None else threshold.at(cutoff)


def _statement(threshold: Threshold, rate: float) -> str:
    holds = "on average over repetitions" if threshold.table is None else "for this calibration with 90 % confidence"
    return f"rule with a false-discovery rate ≤ {percent(rate)} {holds} (independent rows, split calibration)"
