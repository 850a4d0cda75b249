"""Score rows of files with a model, and write one output row for each.

The output is whole or absent, and its manifest says what it was made from: the same inputs, model and options again are nothing
to do, and a run that was killed goes on. Several inputs are one file, or, in an output folder, one part each. Knows nothing about
networks or file formats.
"""

import logging
import math
import time
from contextlib import closing
from dataclasses import asdict, replace
from itertools import chain

from vae_anomaly.detector.stream import score_batches
from vae_anomaly.jobs import manifest, score_workdir
from vae_anomaly.messages import Tell, tell_nobody
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.tables import quarantine, writer
from vae_anomaly.tables.source import open_source
from vae_anomaly.tables.writer import output_format
from vae_anomaly.workflow import memory_plan, score_fdr, score_folder, score_job, score_resume
from vae_anomaly.workflow.prefetch import ahead
from vae_anomaly.workflow.results import Counts, Discovery, ScoreResult
from vae_anomaly.workflow.score_counts import Counting, refuse_existing, rejecting
from vae_anomaly.workflow.score_job import Asked, ScoreRequest, ScoreTask

_logger = logging.getLogger(__name__)
# So many times the expected alarms are no accident of a small batch.
MANY_TIMES = 3.0


def score_files(request: ScoreRequest, *, tell: Tell = tell_nobody) -> ScoreResult:
    """Score rows and write them with their manifest.

    Under ``fdr`` the rows are scored twice: once to find the cut-off, once to flag. Raises NotCalibrated for an ``alpha`` finer than the
    calibration allows and for p-values that it does not have, SchemaMismatch before anything is read when columns of the
    model are missing, OutputError for an output that exists and is not the one of this very request, or that another run is writing.
    """
    job = score_job.open_job(request, tell)
    began = time.monotonic()
    done = score_folder.fill(job, make) if job.folder else _one_file(job)
    seconds = time.monotonic() - began
    threshold = job.threshold
    if done.counts.discovery is not None:
        threshold = score_fdr.at_cutoff(threshold, done.counts.discovery.cutoff)
    return ScoreResult(
        output=str(job.place),
        unchanged=done.new_rows is None,
        counts=done.counts,
        seconds=seconds,
        rows_per_second=None if done.new_rows is None else done.new_rows / max(seconds, 1e-9),
        resumed_rows=done.resumed_rows,
        alpha=threshold.alpha,
        threshold=threshold.value if math.isfinite(threshold.value) else None,
        ignored_columns=done.ignored,
        model=job.opened.name,
        next_steps=_next_steps(done.counts, job.place),
        parts_made=done.parts_made,
        parts_before=done.parts_before,
    )


def _one_file(job: Asked) -> score_folder.Done:
    """Score all inputs into one file."""
    source = open_source(job.request.data, missing_values=job.missing, on_error=job.request.on_error)
    score_job.refuse_input_as_output(job.place, source)
    ignored = score_job.check_input_columns(job.opened.detector, source, job.request.id_columns)
    one = ScoreTask(asked=job, place=job.place, source=source, overwrite=job.request.overwrite)
    counts, resumed = score_job.done_before(one.place, one.made_from, overwrite=one.overwrite), None
    if counts is None:
        counts, resumed = make(one)
    else:
        score_workdir.remove_leftovers(one.place.path)
    one.place.tidy()
    score_job.warn(ignored, source)
    new_rows = None if resumed is None else counts.rows - resumed
    return score_folder.Done(counts=counts, ignored=ignored, new_rows=new_rows, resumed_rows=resumed or 0)


def make(job: ScoreTask) -> tuple[Counts, int | None]:
    """Write an output, be it a file or a part, and its manifest.

    Returns what was counted, and how many rows a killed run had scored; None: another run has just done it.
    Raises OutputError when another run is writing the same output, or has just written something else there.
    """
    path, made_from = job.place.path, job.made_from
    sides = [quarantine.quarantine_path(path).name] if job.asked.request.on_error == "quarantine" else []
    with score_workdir.claim(path) as unfinished:
        counts = score_job.done_before(job.place, made_from, overwrite=job.overwrite)
        if counts is not None:
            return counts, None
        counts = score_job.made_before(job.place, made_from, overwrite=job.overwrite)
        if counts is not None:
            manifest.deliver(job.place, sides)
            return counts, counts.rows
        refuse_existing(path, job.asked.request.on_error, overwrite=job.overwrite)
        kept = unfinished.begin({**made_from, "install": score_resume.install()}, anew=job.overwrite)
        with manifest.started(path, made_from):
            counting, counts, resumed = _write(job, unfinished, kept)
            manifest.complete(path, made_from, asdict(counts), counting.counted())
        manifest.deliver(job.place, sides)
    return counts, resumed


def _write(
    job: ScoreTask, unfinished: score_workdir.Unfinished, kept: tuple[score_workdir.FinishedRows, ...]
) -> tuple[Counting, Counts, int]:
    """Stream: read, score, write; what is counted on the way comes back, and with how many rows it began."""
    detector, request, threshold = job.asked.opened.detector, job.asked.request, job.asked.threshold
    discovery = None
    if request.fdr is not None:
        discovery = score_resume.discovery_before(unfinished) or _discover(job, unfinished, request.fdr)
        threshold = score_fdr.at_cutoff(threshold, discovery.cutoff)
    counting = score_resume.counted_before(kept, request.id_columns)
    resumed = counting.rows
    if resumed:
        _logger.info("going on with %s after %s rows that a killed run had scored", job.place, f"{resumed:,}")
    with rejecting(request.on_error, counting, unfinished, escape=request.escape) as rejects:
        place, fmt = counting.position, output_format(job.place.path)
        with closing(ahead(job.batches(place, rejects))) as batches:
            new = score_batches(detector, batches, job.options(place), threshold=threshold, on_batch=rejects.add)
            seen = counting.look(memory_plan.watched(new, request.memory_limit), job.asked.tell, job.source.rows)
            pace = score_resume.Pace(part_rows=request.part_rows, part_bytes=job.asked.plan.part_bytes)
            with closing(ahead(score_resume.keeping(seen, counting, unfinished, pace, rejects.sync))) as fresh:
                scored = chain(score_resume.kept_rows(kept), fresh)
                first = next(scored)  # a source without rows has raised; the keys have the types of the input
                writer.write_batches(job.place.path, chain([first], scored), first.schema, fmt=fmt, escape=request.escape)
        rejected = rejects.finish(job.place)
    counts = counting.done(detector, threshold, typicality=request.typicality, discovery=discovery)
    return counting, replace(counts, rejected=rejected), resumed


def _discover(job: ScoreTask, unfinished: score_workdir.Unfinished, rate: float) -> Discovery:
    """Rank all rows, from where a killed run had come, and keep the cut-off for the second pass."""
    before = score_resume.ranks_before(unfinished)
    first_row = before.rows if before else 0
    keep = score_resume.rank_keeper(unfinished, job.asked.request.part_rows)

    def on_ranks(ranks: score_fdr.Ranks) -> None:
        keep(ranks)
        job.asked.tell("ranking", ranks.rows, job.source.rows)

    detector, threshold, options = job.asked.opened.detector, job.asked.threshold, job.options(first_row)
    with closing(ahead(job.batches(first_row))) as batches:
        discovery = score_fdr.discover(detector, threshold, batches, options, rate, on_ranks, before)
    score_resume.note_discovery(unfinished, discovery)
    return discovery


def _next_steps(counts: Counts, output: Destination) -> tuple[str, ...]:
    steps = [f"look at the rows of {output} where is_anomaly is true"] if counts.alarms else []
    if counts.discovery is None and counts.alarms > MANY_TIMES * max(counts.expected_alarms, 1.0):
        steps.append("many more alarms than alpha stands for: if these rows are normal, fit again with rows like them")
    return tuple(steps)
