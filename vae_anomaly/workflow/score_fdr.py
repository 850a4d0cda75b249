"""The cut-off of a false-discovery rate: a first pass over all rows finds it, a second one flags with it.

The first pass keeps one count per possible p-value, whatever the number of rows, and can be resumed from these counts.
"""

import math
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from vae_anomaly.calibration.conformal import marginal_p_values
from vae_anomaly.calibration.fdr import benjamini_hochberg_cutoff, rank_counts
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.stream import Rejections, prefetch, scored_batches
from vae_anomaly.jobs.score_workdir import Pace, Unfinished
from vae_anomaly.messages import percent
from vae_anomaly.tables.source import Source
from vae_anomaly.workflow.results import Discovery
from vae_anomaly.workflow.score_counts import RejectLog
from vae_anomaly.workflow.score_job import ScoreJob


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranks:
    """Number of rows of each rank among n calibration scores, int64 [n + 1], over the first ``rows`` rows of the input."""

    rows: int
    counts: NDArray[np.int64]


def discovery(job: ScoreJob, source: Source, unfinished: Unfinished, rate: float) -> Discovery:
    """Return the Benjamini-Hochberg cut-off at ``rate`` over all rows, from the work folder if an interrupted job had computed it."""
    noted = unfinished.noted("discovery")
    if noted:
        return TypeAdapter(Discovery).validate_python(noted)
    ranks = _ranks(job, source, unfinished)
    n = len(job.threshold.calibration)
    table = marginal_p_values(n) if job.threshold.table is None else job.threshold.table
    result = Discovery(rate=rate, cutoff=benjamini_hochberg_cutoff(ranks.counts, table, rate), statement=_statement(job.threshold, rate))
    unfinished.note("discovery", asdict(result))
    return result


def at_cutoff(threshold: Threshold, cutoff: float | None) -> Threshold:
    """Return the threshold that flags p-values up to ``cutoff``; None: one that flags nothing."""
    return replace(threshold, value=math.inf) if cutoff is None else threshold.at(cutoff)


def _ranks(job: ScoreJob, source: Source, unfinished: Unfinished) -> Ranks:
    """Score all rows and count their ranks, after those counted by an interrupted pass."""
    n, noted = len(job.threshold.calibration), unfinished.noted("ranks")
    counts = np.array(noted["counts"], dtype=np.int64) if noted else np.zeros(n + 1, dtype=np.int64)
    ranks = Ranks(rows=noted["rows"] if noted else 0, counts=counts)
    pace, marginal = Pace(part_rows=job.request.part_rows), replace(job.threshold, table=None)
    plain = replace(job.options(source, ranks.rows), explain="none", typicality=False, id_columns=())
    inputs = job.inputs(source, ranks.rows, RejectLog(quarantine=None, before=Rejections()))
    with closing(prefetch(inputs)) as batches:
        for scored in scored_batches(job.detector, batches, plain, threshold=marginal):
            more = rank_counts(scored.rows.column("p_value").to_numpy(zero_copy_only=False), n)
            end = scored.rows.column("row")[-1].as_py() + 1
            due = pace.due(end - ranks.rows)
            ranks = Ranks(rows=end, counts=ranks.counts + more)
            if due:
                unfinished.note("ranks", {"rows": ranks.rows, "counts": ranks.counts.tolist()})
            job.tell("ranking", ranks.rows, source.rows)
    return ranks


def _statement(threshold: Threshold, rate: float) -> str:
    holds = "on average over repetitions" if threshold.table is None else "for this calibration with 90 % confidence"
    return f"rule with a false-discovery rate ≤ {percent(rate)} {holds} (independent rows, split calibration)"
