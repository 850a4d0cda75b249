"""Score rows of files with a model, and write one output row for each.

The output is whole or absent, and its manifest says what it was made from: the same inputs, model and options again are nothing
to do, and a run that was killed goes on. Knows nothing about networks or file formats.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from vae_anomaly import __version__
from vae_anomaly.core.detector import Detector
from vae_anomaly.core.schema import absent_text, check_present, listed, unknown_columns
from vae_anomaly.core.stream import ScoreOptions, score_batches
from vae_anomaly.core.threshold import Threshold
from vae_anomaly.edges import manifest, resume, tables
from vae_anomaly.edges.outputs import output_format
from vae_anomaly.edges.rejects import OnError, OnReject, ignore
from vae_anomaly.errors import ConfigError, OutputError, SchemaMismatch
from vae_anomaly.workflow import flagging, resuming
from vae_anomaly.workflow.opening import Opened, cores, open_model
from vae_anomaly.workflow.progress import Tell, tell_nobody
from vae_anomaly.workflow.rejecting import refuse_existing, rejecting
from vae_anomaly.workflow.results import Counts, Discovery, ScoreResult

logger = logging.getLogger(__name__)
# So many times the expected alarms are no accident of a small batch.
MANY_TIMES = 3.0
# Rows after which finished ones are kept at the latest.
PART_ROWS = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """What to score, with which model, and how; None: what the model or its fit says."""

    data: tuple[str, ...]
    model: str
    output: Path | None = None
    id_columns: tuple[str, ...] = ()
    missing_values: tuple[str, ...] | None = None
    alpha: float | None = None
    fdr: float | None = None
    p_values: Literal["marginal", "conditional"] = "marginal"
    typicality: bool = False
    explain: Literal["flagged", "all", "none"] = "flagged"
    top: int | None = 5
    chunk_rows: int = 65_536
    part_rows: int = PART_ROWS
    threads: int | None = None
    on_error: OnError = "stop"
    escape: bool = True
    overwrite: bool = False
    tracking_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A request with everything found and opened."""

    output: Path
    made_from: Mapping[str, Any]
    source: tables.Source
    opened: Opened
    threshold: Threshold
    request: ScoreRequest
    tell: Tell

    def batches(self, first_row: int, on_reject: OnReject = ignore) -> Iterator[pa.RecordBatch]:
        """Return the input from a row on."""
        groups = self.threshold.groups
        extra = [*self.request.id_columns, *([groups.column] if groups else [])]
        schema, rows = self.opened.detector.schema, self.request.chunk_rows
        return self.source.batches(schema, extra=extra, chunk_rows=rows, first_row=first_row, on_reject=on_reject)

    def options(self, first_row: int) -> ScoreOptions:
        """Return how to score from a row on."""
        request, name = self.request, self.opened.name
        return ScoreOptions(
            typicality=request.typicality,
            explain=request.explain,
            top=request.top,
            id_columns=request.id_columns,
            model=name.name,
            model_version=name.version,
            threads=request.threads or cores(),
            first_row=first_row,
            row_numbers="" if request.on_error == "stop" else tables.NUMBERS,
            where=self.source.files[0].path,
        )


def score(request: ScoreRequest, *, tell: Tell = tell_nobody) -> ScoreResult:
    """Score rows and write them with their manifest.

    Under ``fdr`` the rows are scored twice: once to find the cut-off, once to flag. Raises NotCalibrated for an ``alpha`` finer than the
    calibration allows and for p-values that it does not have, SchemaMismatch before anything is read when columns of the
    model are missing, OutputError for an output that exists and is not the one of this very request, or that another run is writing.
    """
    _refuse(request)
    output = _output(request)
    opened = open_model(request.model, uri=request.tracking_uri)
    detector = opened.detector
    threshold = flagging.threshold_for(detector.threshold, alpha=request.alpha, fdr=request.fdr, p_values=request.p_values)
    missing = detector.config.data.missing_values if request.missing_values is None else request.missing_values
    source = tables.open_source(request.data, missing_values=missing, on_error=request.on_error)
    _refuse_input_as_output(output, source)
    ignored = _check_columns(detector, source, request.id_columns)
    made_from = _made_from(source, opened, threshold.alpha if request.fdr is None else None, missing, request)
    counts = _done_before(output, made_from, overwrite=request.overwrite)
    resumed: int | None = None
    began = time.monotonic()
    if counts is None:
        refuse_existing(output, request.on_error, overwrite=request.overwrite)
        job = Job(output=output, made_from=made_from, source=source, opened=opened, threshold=threshold, request=request, tell=tell)
        counts, resumed = _make(job)
    else:
        resume.tidy(output)
    seconds = time.monotonic() - began
    _warn(ignored, source)
    if counts.discovery is not None:
        threshold = flagging.cut(threshold, counts.discovery.cutoff)
    return ScoreResult(
        output=str(output),
        unchanged=resumed is None,
        counts=counts,
        seconds=seconds,
        rows_per_second=None if resumed is None else (counts.rows - resumed) / max(seconds, 1e-9),
        resumed_rows=resumed or 0,
        alpha=threshold.alpha,
        threshold=threshold.value if math.isfinite(threshold.value) else None,
        ignored_columns=ignored,
        model=opened.name,
        next_steps=_next_steps(counts, output),
    )


def _refuse(request: ScoreRequest) -> None:
    """Refuse rates that are none, and two at once."""
    for name, value in (("--alpha", request.alpha), ("--fdr", request.fdr)):
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{name} must be in (0, 1); got {value:g}.")
    if request.alpha is not None and request.fdr is not None:
        raise ConfigError("--alpha flags at a false-alarm rate and --fdr at a false-discovery rate; give one of them.")


def _output(request: ScoreRequest) -> Path:
    """Where the scores go. Raises ConfigError when that has to be said."""
    if request.output is None and len(request.data) > 1:
        raise ConfigError(f"{len(request.data)} inputs have no one place for their scores beside them; name it with -o.")
    output = tables.default_output(request.data[0]) if request.output is None else request.output
    output_format(output)
    return output


def _refuse_input_as_output(output: Path, source: tables.Source) -> None:
    for file in source.files:
        if str(output.absolute()) == file.location:
            raise OutputError(f"{output} is itself an input; name another output with -o.")


def _check_columns(detector: Detector, source: tables.Source, id_columns: Sequence[str]) -> tuple[str, ...]:
    """Refuse missing columns and return those that the model does not know."""
    check_present(detector.schema, source.names, source.files[0].path)
    groups = detector.threshold.groups
    if groups is not None and groups.column not in source.names:
        absent = absent_text([groups.column], source.names)
        raise SchemaMismatch(f"{source.files[0].path} lacks the group column of the threshold: {absent}")
    known = {*id_columns, *([groups.column] if groups else [])}
    return tuple(name for name in unknown_columns(detector.schema, source.names) if name not in known)


def _warn(ignored: Sequence[str], source: tables.Source) -> None:
    """Say how the input was read; only when it could be, so that an error is the one line."""
    if ignored:
        logger.warning("ignored, because the model does not know them: %s", listed(ignored))
    for note in source.notes:
        logger.warning("%s", note)


def _made_from(
    source: tables.Source, opened: Opened, alpha: float | None, missing: Sequence[str], request: ScoreRequest
) -> dict[str, dict[str, Any]]:
    """All that the bytes of the output depend on; rows in memory and threads are not among it."""
    return {
        "inputs": {file.location: [file.size, file.modified] for file in source.files},
        "model": {"name": opened.name.name, "version": opened.name.version, "digest": opened.digest, "package": __version__},
        "options": {
            "alpha": alpha,
            "fdr": request.fdr,
            "p_values": request.p_values,
            "typicality": request.typicality,
            "explain": request.explain,
            "top": request.top,
            "id_columns": list(request.id_columns),
            "missing_values": list(missing),
            "on_error": request.on_error,
            "escape": request.escape,
        },
    }


def _done_before(output: Path, made_from: Mapping[str, Any], *, overwrite: bool) -> Counts | None:
    """Return the counts of an output that is what this request would write; None when it is to be written.

    Raises OutputError when something else is there and may not go.
    """
    if overwrite or not output.exists():
        return None
    found = manifest.read(output)
    if found is None:
        raise OutputError(f"{output} exists and no manifest says what it is. Name another with -o, or give --overwrite to replace it.")
    other = [part for part, value in made_from.items() if found.made_from.get(part) != value]
    if other:
        raise OutputError(
            f"{output} exists and holds the scores of another request (other {' and '.join(other)}). "
            "Name another with -o, or give --overwrite to replace it."
        )
    if not found.complete:
        return None  # a job of the same request was killed between its output and its manifest
    if found.bytes != output.stat().st_size:
        raise OutputError(f"{output} was changed after it was written. Name another with -o, or give --overwrite to replace it.")
    try:
        return TypeAdapter(Counts).validate_python(found.counts)
    except ValidationError:
        return None


def _make(job: Job) -> tuple[Counts, int | None]:
    """Write output and manifest; returns what was counted, and how many rows a killed run had scored; None: another run has just done it.

    Raises OutputError when another run is writing the same output, or has just written something else there.
    """
    with resume.claimed(job.output) as unfinished:
        counts = _done_before(job.output, job.made_from, overwrite=job.request.overwrite)
        if counts is not None:
            return counts, None
        parts = unfinished.begin({**job.made_from, "install": resuming.install()}, anew=job.request.overwrite)
        with manifest.started(job.output, job.made_from):
            counts, resumed = _write(job, unfinished, parts)
            manifest.complete(job.output, job.made_from, asdict(counts))
    return counts, resumed


def _write(job: Job, unfinished: resume.Unfinished, parts: tuple[resume.Part, ...]) -> tuple[Counts, int]:
    """Stream: read, score, write; what is counted on the way comes back, and with how many rows it began."""
    detector, request, threshold = job.opened.detector, job.request, job.threshold
    discovery = None
    if request.fdr is not None:
        discovery = resuming.discovery_before(unfinished) or _discover(job, unfinished, request.fdr)
        threshold = flagging.cut(threshold, discovery.cutoff)
    counting = resuming.counted_before(parts, request.id_columns)
    resumed = counting.rows
    if resumed:
        logger.info("going on with %s after %s rows that a killed run had scored", job.output, f"{resumed:,}")
    with rejecting(request.on_error, counting, unfinished, escape=request.escape) as rejects:
        batches, options = job.batches(counting.position, rejects), job.options(counting.position)
        new = score_batches(detector, batches, options, threshold=threshold, on_batch=rejects.add)
        seen = counting.look(new, job.tell, job.source.rows)
        scored = chain(resuming.kept_rows(parts), resuming.keeping(seen, counting, unfinished, request.part_rows, rejects.sync))
        first = next(scored)  # a source without rows has raised; the keys have the types of the input
        fmt = output_format(job.output)
        tables.write_batches(job.output, chain([first], scored), first.schema, fmt=fmt, escape=request.escape)
        rejected = rejects.finish()
    counts = counting.done(detector, threshold, typicality=request.typicality, discovery=discovery)
    return replace(counts, rejected=rejected), resumed


def _discover(job: Job, unfinished: resume.Unfinished, rate: float) -> Discovery:
    """Rank all rows, from where a killed run had come, and keep the cut-off for the second pass."""
    before = resuming.ranks_before(unfinished)
    first_row = before.rows if before else 0
    keep = resuming.rank_keeper(unfinished, job.request.part_rows)

    def on_ranks(ranks: flagging.Ranks) -> None:
        keep(ranks)
        job.tell("ranking", ranks.rows, job.source.rows)

    batches, options = job.batches(first_row), job.options(first_row)
    discovery = flagging.discover(job.opened.detector, job.threshold, batches, options, rate, on_ranks, before)
    resuming.note_discovery(unfinished, discovery)
    return discovery


def _next_steps(counts: Counts, output: Path) -> tuple[str, ...]:
    steps = [f"look at the rows of {output} where is_anomaly is true"] if counts.alarms else []
    if counts.discovery is None and counts.alarms > MANY_TIMES * max(counts.expected_alarms, 1.0):
        steps.append("many more alarms than alpha stands for: if these rows are normal, fit again with rows like them")
    return tuple(steps)
