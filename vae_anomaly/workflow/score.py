"""Score the rows of files with a model, one output row per input row.

The output is whole or absent, and its manifest records inputs, model and options: the same request again is a no-op, and an
interrupted job resumes. Several inputs become one file or, in an output folder, one part each.
"""

import math
import time

from vae_anomaly.jobs import score_workdir
from vae_anomaly.jobs.manifest import manifest_of
from vae_anomaly.messages import OnProgress, ignore_progress
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.tables.source import Source, open_source
from vae_anomaly.workflow import score_folder, score_job
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import Counts, FoundEvents, ScoreResult
from vae_anomaly.workflow.score_fdr import at_cutoff
from vae_anomaly.workflow.score_job import ScoreJob
from vae_anomaly.workflow.score_output import Done, counts_before, score_output

# Multiple of the expected alarms that chance in a small batch does not explain.
MANY_TIMES = 3.0


def score_files(request: ScoreRequest, *, tell: OnProgress = ignore_progress) -> ScoreResult:
    """Score rows and write them with their manifest.

    With ``fdr`` the rows are scored twice: once to find the cut-off, once to flag. Raises NotCalibrated for an ``alpha`` finer than the
    calibration allows and for p-values that it does not have, SchemaMismatch before anything is read when columns of the model are
    missing, OutputError for an output that exists and is not that of this request, or that another process is writing.
    """
    job = score_job.open_job(request, tell)
    began = time.monotonic()
    if job.into_folder:
        done = score_folder.fill(job)
        return _result(job, done, time.monotonic() - began, done.events)
    source = open_source(request.data, job.reading, expected=job.detector.schema.names)
    score_job.refuse_input_as_output(job.destination, source)
    ignored = score_job.check_input_columns(job, source)
    table, resumed = request.format == "delta", None
    counts = None if table else counts_before(job.destination, job.made_from(source), overwrite=job.overwrite)
    if counts is None:
        counts, resumed = score_output(job, source)
    else:
        score_workdir.remove_leftovers(job.destination.path)
    job.destination.tidy()
    score_job.warn(ignored, source)
    new_rows = None if resumed is None else counts.rows - resumed
    done = Done(counts=counts, ignored=ignored, new_rows=new_rows, resumed_rows=resumed or 0)
    return _result(job, done, time.monotonic() - began, _events(job, source))


def _events(job: ScoreJob, source: Source) -> FoundEvents | None:
    """Return the events of rows in time, from the manifest of their output, and write them and the state of the series."""
    if job.detector.series is None:
        return None
    from vae_anomaly.workflow.score_events import finish_series

    found = manifest_of(job.destination)
    return finish_series(job, job.identity(source), [] if found is None else [found.counted])


def _result(job: ScoreJob, done: Done, seconds: float, events: FoundEvents | None) -> ScoreResult:
    threshold = job.threshold
    if done.counts.discovery is not None:
        threshold = at_cutoff(threshold, done.counts.discovery.cutoff)
    return ScoreResult(
        output=str(job.destination),
        unchanged=done.new_rows is None,
        counts=done.counts,
        seconds=seconds,
        rows_per_second=None if done.new_rows is None else done.new_rows / max(seconds, 1e-9),
        resumed_rows=done.resumed_rows,
        alpha=threshold.alpha,
        threshold=threshold.value if math.isfinite(threshold.value) else None,
        ignored_columns=done.ignored,
        model=job.model,
        next_steps=_next_steps(done.counts, job.destination),
        parts_made=done.parts_made,
        parts_before=done.parts_before,
        table_version=_version(job),
        found_events=events,
    )


def _version(job: ScoreJob) -> int | None:
    if job.request.format != "delta":
        return None
    from vae_anomaly.workflow.score_table import version_written

    return version_written(job.destination)


def _next_steps(counts: Counts, output: Destination) -> tuple[str, ...]:
    steps = [f"look at the rows of {output} where is_anomaly is true"] if counts.alarms else []
    if counts.discovery is None and counts.alarms > MANY_TIMES * max(counts.expected_alarms, 1.0):
        steps.append("many more alarms than alpha predicts: if these rows are normal, fit again with rows like them")
    return tuple(steps)
