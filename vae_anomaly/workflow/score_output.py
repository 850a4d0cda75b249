"""Write one output of a scoring: claim it, read, score, checkpoint, write, and complete its manifest."""

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain

from vae_anomaly.detector.stream import prefetch, scored_batches
from vae_anomaly.tables.source import Source
from vae_anomaly.tables.writer import output_format, write_batches
from vae_anomaly.workflow import score_fdr
from vae_anomaly.workflow.results import Counts
from vae_anomaly.workflow.score_counts import reject_log
from vae_anomaly.workflow.score_job import ScoreJob
from vae_anomaly.workflow.score_resume import checkpointed, claim_output

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Result of a scoring: ``new_rows`` scored by this job, None for a no-op; ``resumed_rows`` by a killed one before."""

    counts: Counts
    ignored: tuple[str, ...] = ()
    new_rows: int | None = None
    resumed_rows: int = 0
    parts_made: int | None = None
    parts_before: int | None = None


def score_output(job: ScoreJob, source: Source) -> tuple[Counts, int | None]:
    """Write one output, a file or a part, and its manifest.

    Returns the counts, and how many rows a killed job had scored before; None: another process has just written it. Raises OutputError
    when another process is writing the same output, or has just written something else there.
    """
    request, threshold, discovery = job.request, job.threshold, None
    with claim_output(job, source) as slot:
        if slot.counts is not None:
            return slot.counts, slot.resumed_rows
        if request.fdr is not None:
            discovery = score_fdr.discovery(job, source, slot.unfinished, request.fdr)
            threshold = score_fdr.at_cutoff(threshold, discovery.cutoff)
        counting = slot.counting()
        resumed, position = counting.rows, counting.position
        if resumed:
            _logger.info("going on with %s after %s rows that a killed run had scored", job.destination, f"{resumed:,}")
        with reject_log(request.on_error, counting, slot.unfinished, escape=request.escape) as rejects:
            with closing(prefetch(job.inputs(source, position, rejects))) as inputs:
                scored = scored_batches(job.detector, inputs, job.options(source, position), threshold=threshold)
                with closing(prefetch(checkpointed(scored, counting, slot, rejects, source.rows))) as fresh:
                    rows = chain(slot.rows(), fresh)
                    first = next(rows)  # a source without rows has raised; the keys have the types of the input
                    fmt = output_format(job.destination.path)
                    write_batches(job.destination.path, chain([first], rows), first.schema, fmt=fmt, escape=request.escape)
            rejected = rejects.finish(job.destination)
            counting.reject(rejects.before)
        counts = counting.done(job.detector, threshold, typicality=request.typicality, discovery=discovery)
        counts = replace(counts, rejected=rejected)
        slot.finish(counts, counting)
    return counts, resumed
