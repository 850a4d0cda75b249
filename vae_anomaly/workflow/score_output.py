"""One output of a scoring: claim it, resume from checkpoints, read, score, write, and complete its manifest.

Output rows go to the output and, in groups, into checkpoints. A resumed job writes the rows of the checkpoints to the output again and
reads the input from the row after them.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from vae_anomaly.detector.in_time import IN_ALL
from vae_anomaly.detector.stream import ScoredBatch, prefetch, scored_batches
from vae_anomaly.errors import BadCell, OutputError
from vae_anomaly.events.episodes import log_from
from vae_anomaly.jobs import manifest, score_workdir
from vae_anomaly.jobs.claim import State, install
from vae_anomaly.jobs.score_workdir import FinishedRows, Pace, Unfinished
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.tables.error_location import with_location
from vae_anomaly.tables.quarantine import quarantine_path
from vae_anomaly.tables.source import Source
from vae_anomaly.tables.writer import output_format, write_batches
from vae_anomaly.workflow import score_fdr
from vae_anomaly.workflow.models import rows_of_fit, seen_at_fit
from vae_anomaly.workflow.results import Counts, FoundEvents
from vae_anomaly.workflow.score_counts import Counting, RejectLog, counting_from, refuse_existing, reject_log
from vae_anomaly.workflow.score_job import ScoreJob

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Slot:
    """A claimed output and its ``state`` (``jobs.claim``).

    ``done``: ``counts`` of the whole output; its ``resumed_rows`` were scored by an interrupted job and are delivered only now, None:
    another process delivered it. ``resumable``: ``checkpoints`` of an interrupted job. ``finish`` completes the manifest of a new output.
    """

    job: ScoreJob
    made_from: Mapping[str, Any]
    unfinished: Unfinished
    counts: Counts | None = None
    resumed_rows: int | None = None
    checkpoints: tuple[FinishedRows, ...] = ()

    @property
    def state(self) -> State:
        """The state of the claim."""
        if self.counts is not None:
            return "done"
        return "resumable" if self.checkpoints else "fresh"

    def counting(self) -> Counting:
        """Return the counts up to the end of the checkpoints."""
        return counting_from(self.checkpoints[-1].counted) if self.checkpoints else Counting(ids=self.job.request.id_columns)

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield the output rows of the checkpoints."""
        for checkpoint in self.checkpoints:
            yield from checkpoint.batches()

    def write(self, rows: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        """Write the rows of the whole output."""
        path = self.job.destination.path
        write_batches(path, rows, schema, fmt=output_format(path), escape=self.job.request.escape)

    def finish(self, counts: Counts, counting: Counting) -> None:
        """Write the manifest of the whole output."""
        manifest.complete(self.job.destination.path, self.made_from, asdict(counts), counting.counted())


@contextmanager
def claim_output(job: ScoreJob, source: Source) -> Iterator[Slot]:
    """Claim the output of a job for this process; when the block ends, a new output is delivered to its destination.

    Raises OutputError when another process is writing the same output, or has just written something else there.
    """
    path, made_from = job.destination.path, job.made_from(source)
    sides = [quarantine_path(path).name] if job.request.on_error == "quarantine" else []
    with score_workdir.claim(path) as unfinished:
        slot = Slot(job=job, made_from=made_from, unfinished=unfinished)
        slot.counts = counts_before(job.destination, made_from, overwrite=job.overwrite)
        if slot.counts is not None:
            yield slot
            return
        slot.counts = _counts_undelivered(job.destination, made_from, overwrite=job.overwrite)
        if slot.counts is not None:
            manifest.deliver(job.destination, sides)
            slot.resumed_rows = slot.counts.rows
            yield slot
            return
        refuse_existing(path, job.request.on_error, overwrite=job.overwrite)
        slot.checkpoints = unfinished.begin({**made_from, "install": install()}, restart=job.overwrite)
        with manifest.started(path, made_from):
            yield slot
        manifest.deliver(job.destination, sides)


def _claim(job: ScoreJob, source: Source) -> AbstractContextManager[Slot]:
    if job.request.format == "delta":
        from vae_anomaly.workflow.score_table import claim_table

        return claim_table(job, source)
    return claim_output(job, source)


def counts_before(to: Destination, made_from: Mapping[str, Any], *, overwrite: bool) -> Counts | None:
    """Return the counts of an output that is what this request would write; None when it is to be written.

    Raises OutputError when something else is there and may not be replaced.
    """
    size = None if overwrite else to.size()
    if size is None:
        return None
    found = manifest.manifest_of(to)
    if found is None:
        raise OutputError(f"{to} exists and no manifest says what it is. Name another with -o, or give --overwrite to replace it.")
    other = [name for name, value in made_from.items() if found.made_from.get(name) != value]
    if other:
        raise OutputError(
            f"{to} exists and holds the scores of another request (other {' and '.join(other)}). "
            "Name another with -o, or give --overwrite to replace it."
        )
    if found.complete and found.bytes != size:
        raise OutputError(f"{to} was changed after it was written. Name another with -o, or give --overwrite to replace it.")
    return _counts(found)  # None: a job of the same request was killed between its output and its manifest


def _counts_undelivered(to: Destination, made_from: Mapping[str, Any], *, overwrite: bool) -> Counts | None:
    """Return the counts of an output that was written here and not sent yet; None where there is none."""
    found = manifest.read_manifest(to.path) if to.remote and not overwrite else None
    if found is None or found.made_from != made_from or not to.path.exists() or found.bytes != to.path.stat().st_size:
        return None
    return _counts(found)


def _counts(found: manifest.Manifest) -> Counts | None:
    return counts_of(found) if found.complete else None


def counts_of(found: manifest.Manifest) -> Counts | None:
    """Return the counts in a manifest, None if they are invalid."""
    try:
        return TypeAdapter(Counts).validate_python(found.counts)
    except ValidationError:
        return None


def checkpointed(
    batches: Iterator[ScoredBatch], counting: Counting, slot: Slot, rejects: RejectLog, total_rows: int | None
) -> Iterator[pa.RecordBatch]:
    """Count scored batches, write checkpoints of them from time to time, and yield their rows."""
    job, held, first = slot.job, list[pa.RecordBatch](), counting.rows
    pace: Pace | None = Pace(part_rows=job.request.part_rows, part_bytes=job.memory.part_bytes)
    job.tell("scoring", counting.rows, total_rows)
    for scored in batches:
        counting.take(scored)
        if pace is not None:
            held.append(scored.rows)
        if pace is not None and pace.due(scored.rows.num_rows, scored.rows.nbytes):
            rejects.sync()
            if not slot.unfinished.keep(first, held, counting.state()):
                _logger.warning("the disk is nearly full: no more checkpoints are written, and an interrupted job starts over")
                pace = None
            first, held = counting.rows, []
        yield scored.rows
        job.tell("scoring", counting.rows, total_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Result of a scoring: ``new_rows`` scored by this job, None for a no-op; ``resumed_rows`` by an interrupted one."""

    counts: Counts
    ignored: tuple[str, ...] = ()
    new_rows: int | None = None
    resumed_rows: int = 0
    parts_made: int | None = None
    parts_before: int | None = None
    events: FoundEvents | None = None


@contextmanager
def _located(source: Source) -> Iterator[None]:
    """Raise a BadCell about a time, which is known by its row over all files, with its file, row and line."""
    try:
        yield
    except BadCell as error:
        if error.where != IN_ALL:
            raise
        raise with_location(error, source.readers, error.row, readable=False) from None


def _continued(counting: Counting, job: ScoreJob, source: Source) -> Counting:
    """Give the counts of rows in time the rules of their events and, at the first row, the state that they continue."""
    if job.detector.series is None:
        return counting
    from vae_anomaly.workflow.score_events import event_rules  # for rows in time only

    counting.rules = event_rules(job.detector, job.threshold)
    begun = job.begun(source)
    if begun is not None and not counting.rows and counting.series is None:
        counting.series, counting.events = begun["series"], log_from(begun["events"])
    return counting


def score_output(job: ScoreJob, source: Source) -> tuple[Counts, int | None]:
    """Write one output, a file or a part, and its manifest.

    Returns the counts, and the number of rows scored by an interrupted job; None: another process has just written the output. Raises
    OutputError when another process is writing the same output, or has just written something else there.
    """
    request, threshold, discovery = job.request, job.threshold, None
    with _claim(job, source) as slot:
        if slot.counts is not None:
            return slot.counts, slot.resumed_rows
        if request.fdr is not None:
            discovery = score_fdr.discovery(job, source, slot.unfinished, request.fdr)
            threshold = score_fdr.at_cutoff(threshold, discovery.cutoff)
        seen = rows_of_fit(seen_at_fit(job.detector, source), len(source.files))
        counting = _continued(slot.counting(), job, source)
        resumed, position = counting.rows, counting.position
        if resumed:
            _logger.info("resuming %s after %s rows scored by an interrupted job", job.destination, f"{resumed:,}")
        with reject_log(request.on_error, counting, slot.unfinished, escape=request.escape) as rejects:
            with _located(source), closing(prefetch(job.inputs(source, position, rejects, counting.standstill))) as inputs:
                scored = scored_batches(
                    job.detector, inputs, job.options(source, position), threshold=threshold, state=counting.series_state()
                )
                with closing(prefetch(checkpointed(scored, counting, slot, rejects, source.rows))) as fresh:
                    rows = chain(slot.rows(), fresh)
                    first = next(rows)  # a source without rows has raised; id columns have the types of the input
                    slot.write(chain([first], rows), first.schema)
            rejected = rejects.finish(job.destination)
            counting.reject(rejects.before)
            counting.standstill = counting.standstill.end(job.detector.quality)
            counting.peak = max(counting.peak, job.bound.excess() if job.bound else 0)
        counts = counting.done(job.detector, threshold, typicality=request.typicality, discovery=discovery, seen=seen)
        counts = replace(counts, rejected=rejected)
        slot.finish(counts, counting)
    return counts, resumed
