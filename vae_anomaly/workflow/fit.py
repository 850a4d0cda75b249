"""Learn what normal rows look like: read, leave out what is labelled as anomalous, fit, keep, log and register.

Everything that can be refused is refused before training. Knows nothing about networks, file formats or MLflow.
"""

import logging
import platform
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly import artifact
from vae_anomaly._version import __version__
from vae_anomaly.calibration.groups import make_groups
from vae_anomaly.calibration.guarantee import promise
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.config import Config, validate
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, OutputError
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.fitting.checkpointing import Progress
from vae_anomaly.fitting.diagnostics import active_units, cautions
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.fitting.held_out import Fitted
from vae_anomaly.fitting.outliers import suspicious_rows
from vae_anomaly.fitting.splits import RowSplit, calibration_size
from vae_anomaly.jobs import fit_workdir, memory, signals
from vae_anomaly.messages import Tell, absent_text, tell_nobody
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.keys import Labels, group_codes, read_labels, refuse_without_normal, time_order
from vae_anomaly.schema.schema import Schema, conform, infer_schema, taken_out
from vae_anomaly.tables.csv_rejects import Rejects
from vae_anomaly.tables.error_location import located
from vae_anomaly.tables.source import Source, open_source
from vae_anomaly.tracking.registry import ModelVersion
from vae_anomaly.tracking.runs import start_run
from vae_anomaly.workflow import fit_resume, memory_plan, publish
from vae_anomaly.workflow.fit_resume import Outcome
from vae_anomaly.workflow.results import FitResult, ModelName
from vae_anomaly.workflow.score_counts import rejected_notes

_logger = logging.getLogger(__name__)
STAGES = {"first pass": "first pass", "train": "training", "calibrate": "calibrating"}
# Packages whose version can change a score.
VERSIONED = ("torch", "numpy", "pyarrow")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitRows:
    """The rows of a fit: what is learned from and what its labels call anomalous, with their ``numbers`` and those of the ``others``.

    ``seen`` rows were read; more than there are here where all would have been too much for the memory.
    """

    seen: int
    normal: pa.Table
    numbers: NDArray[np.int64]
    anomalous: pa.Table
    others: NDArray[np.int64]
    labels: Labels | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitJob:
    """A fit with its source opened and its folder claimed; ``logged`` is what it had logged whole before it was cut off.

    ``most`` rows fit into memory; None: as many as there are. ``contents`` is what the source held before anything was learned.
    """

    source: Source
    contents: str
    config: Config
    output: Path | None
    overwrite: bool
    kept: fit_workdir.Checkpoint
    logged: ModelVersion | None
    most: int | None
    tell: Tell


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """Training data, settings and destination of one fit.

    ``output`` None: no model folder besides the MLflow run. ``resume`` None: continue an interrupted fit if there is one; True: require
    one; False: start anew. ``checkpoint_every`` in optimizer steps; None: by time. ``memory_limit`` in bytes. ``at_exit`` registers a
    function to call at process exit; the work folder is deleted only then. None: it is deleted when ``fit_files`` returns.
    """

    data: tuple[str, ...]
    config: Config
    output: Path | None = None
    overwrite: bool = False
    resume: bool | None = None
    checkpoint_every: int | None = None
    at_exit: fit_workdir.AtExit | None = None
    memory_limit: int | None = None


def fit_files(request: FitRequest, *, tell: Tell = tell_nobody) -> FitResult:
    """Fit a detector on the normal rows of ``request.data``, then save, log and register it as the request and its settings ask.

    If the rows exceed ``memory_limit``, or without one half of the machine's memory, the fit uses a random sample that fits. An interrupted
    fit of the same data and settings is continued and ends with the same model. Raises ConfigError, DataError, TooFewRows and OutputError
    before training; TrackingError, after saving the model to a folder; Interrupted.
    """
    config, output = request.config, request.output
    validate(config)
    if not config.tracking.enabled and output is None:
        raise ConfigError("without tracking the model goes nowhere; name a folder for it with --output.")
    missing, spared = config.data.missing_values, taken_out(config.data)
    source = open_source(request.data, missing_values=missing, on_error=config.data.on_error, spared=spared)
    most = memory_plan.most_rows(source.weight(), len(source.names), request.memory_limit)
    place, made_from = fit_workdir.workdir_of(output, config.tracking.model_name), fit_resume.made_from(source, config, most)
    with (
        signals.heard() as interruption,
        fit_workdir.claim_fit(place, made_from, interruption, needed=output is not None, at_exit=request.at_exit) as kept,
    ):
        kept.every = request.checkpoint_every
        _refuse_output(output, kept, overwrite=request.overwrite)
        logged = fit_resume.begin(kept, config.tracking, resume=request.resume)
        return _make(
            FitJob(
                source=source,
                # Before the training: hours later a file may be gone or another.
                contents=source.contents(),
                config=config,
                output=output,
                overwrite=request.overwrite,
                kept=kept,
                logged=logged,
                most=most,
                tell=tell,
            )
        )


def _make(job: FitJob) -> FitResult:
    """Read, fit unless that was done, and put the model where it belongs."""
    began, rejects, source, config = time.monotonic(), Rejects(), job.source, job.config
    rows = _read(job, rejects)
    notes = (*rejected_notes(rejects), *memory_plan.sampled_notes(len(rows.numbers) + len(rows.others), rows.seen, config.seed))
    schema = infer_schema(rows.normal, config.data)
    calibration_size(config.calibration, rows.normal.num_rows)
    _logger.info("read %s normal rows of %s columns from %s files", rows.normal.num_rows, len(schema.columns), len(source.files))
    with start_run(replace(config.tracking, enabled=config.tracking.enabled and job.logged is None), job=job.kept.job) as run:
        job.kept.run_open = True
        run.log_config(config)
        run.log_dataset([file.path for file in source.files], digest=source.digest(), rows=rows.normal.num_rows)
        outcome = fit_resume.outcome(job.kept) or _fit_rows(rows, schema, job, began, notes)
        model = publish.keep(run, outcome, job.kept, job.logged, output=job.output, overwrite=job.overwrite)
    return _result(rows, outcome, model, job.kept.resumed_steps)


def _fit_rows(rows: FitRows, schema: Schema, job: FitJob, began: float, notes: tuple[str, ...]) -> Outcome:
    with located(job.source.parts, rows.others):
        _refuse_bad_cells(rows.anomalous, schema)
    with located(job.source.parts, rows.numbers):
        fitted = _fitted(rows.normal, schema, job)
    odd = suspicious_rows(fitted, rows.normal, rows.numbers, job.config.data.id_columns)
    detector = _with_provenance(fitted.detector, job, began, notes)
    outcome = Outcome(detector=detector, quality=_held_against(detector, fitted.plan, rows), suspicious=odd)
    return fit_resume.keep_outcome(job.kept, outcome)


def _refuse_bad_cells(anomalous: pa.Table, schema: Schema) -> None:
    """Refuse what the detector could not be held against; after the training would be late."""
    for batch in anomalous.combine_chunks().to_batches():
        conform(schema, batch, where="the labelled rows")


def _refuse_output(output: Path | None, kept: fit_workdir.Checkpoint, *, overwrite: bool) -> None:
    """Refuse to write where that must not be; what the same fit had written before it was cut off is no obstacle."""
    if output is None or not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if kept.goes_on() and kept.is_finished_model(output):
        return
    if not overwrite:
        raise OutputError(f"{output} exists. Name another folder with --output, or give --overwrite to replace the model in it.")
    if not artifact.is_artifact(output):
        raise OutputError(f"{output} exists and holds no model, so it is not replaced. Name another folder with --output.")


def _read(job: FitJob, rejects: Rejects) -> FitRows:
    """Read all rows, or a random part that fits into memory, and part them by their labels."""
    source, data = job.source, job.config.data
    job.tell("reading", 0, source.rows)
    if job.most is None:
        table = source.read_table(rejects)
        numbers, seen = np.arange(table.num_rows), table.num_rows
    else:
        sample = source.sample(job.most, job.config.seed, rejects, lambda done: job.tell("reading", done, source.rows))
        table, numbers, seen = sample.table, sample.numbers, sample.seen
        memory.give_back()
    name = data.label_column
    if name is None:
        return FitRows(seen=seen, normal=table, numbers=numbers, anomalous=table.slice(0, 0), others=numbers[:0], labels=None)
    if name not in table.column_names:
        raise ConfigError(f"--label-column names a column that is not in the data: {absent_text([name], table.column_names)}")
    labels = read_labels(table[name], data.normal_labels, name)
    refuse_without_normal(labels, name, data.normal_labels)
    return FitRows(
        seen=seen,
        normal=table.filter(pa.array(labels.normal)),
        numbers=numbers[labels.normal],
        anomalous=table.filter(pa.array(~labels.normal)),
        others=numbers[~labels.normal],
        labels=labels.where(~labels.normal),
    )


def _fitted(table: pa.Table, schema: Schema, job: FitJob) -> Fitted:
    """Fit, and set a threshold for each group where there are groups."""
    order = time_order(table[schema.time], schema.time) if schema.time else None
    group = group_codes(table[schema.group], schema.group) if schema.group else None

    def on_progress(progress: Progress) -> None:
        job.tell(STAGES.get(progress.stage, progress.stage), progress.done, progress.total)

    fitted = fit_rows(table, schema, job.config, time=order, group=group, on_progress=on_progress, memory=job.kept)
    return replace(fitted, detector=_grouped(fitted.detector, table, fitted.plan, schema.group)) if schema.group else fitted


def _grouped(detector: Detector, table: pa.Table, plan: RowSplit, column: str) -> Detector:
    """Return the detector with a threshold for each group of its calibration rows, which are scored again to know whose score is whose."""
    if plan.method != "split":
        note = "the threshold is pooled: one for each group needs split calibration, which takes 2,000 rows or --calibration split"
        return replace(detector, card=replace(detector.card, notes=(*detector.card.notes, note)))
    held = table.take(pa.array(plan.calibration))
    batches = [encode(detector.schema, conform(detector.schema, batch, where="the training rows")) for batch in held.to_batches()]
    scores = np.concatenate([detector.scores(batch).total.numpy() for batch in batches])
    there = ~np.isnan(scores)
    alpha = detector.threshold.alpha
    groups = make_groups(column, held[column].filter(pa.array(there)), scores[there], alpha)
    return detector.recalibrated(replace(calibrate(scores[there], alpha), groups=groups))


def _with_provenance(detector: Detector, job: FitJob, began: float, notes: tuple[str, ...]) -> Detector:
    """Add to the card what only the outside world knows."""
    versions = {"vae-anomaly": __version__, "python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}}
    card = replace(
        detector.card,
        notes=(*detector.card.notes, *notes),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        versions=tuple(versions.items()),
        source=tuple(file.path for file in job.source.files),
        data_digest=job.source.digest(),
        contents_digest=job.contents,
    )
    return replace(detector, card=card)


def _held_against(detector: Detector, plan: RowSplit, rows: FitRows) -> Quality | None:
    """Hold the detector against the rows that the fit left out because of their labels."""
    if rows.labels is None or not rows.anomalous.num_rows:
        return None
    from vae_anomaly.evaluation.comparison import (
        after_fit,
        encoded,  # scikit-learn is needed with labels only
    )

    normal = encoded(detector.schema, rows.normal.to_batches())
    return after_fit(detector, plan, normal, encoded(detector.schema, rows.anomalous.to_batches()), rows.labels)


def _result(rows: FitRows, outcome: Outcome, model: ModelName, resumed_steps: int) -> FitResult:
    detector, card = outcome.detector, outcome.detector.card
    return FitResult(
        rows_read=rows.seen,
        rows_used=rows.normal.num_rows,
        labels_left_out=rows.labels.counts() if rows.labels else {},
        columns=detector.quality,
        left_out=detector.schema.dropped,
        seconds=card.seconds,
        steps=card.history.steps,
        resumed_steps=resumed_steps,
        stopped=card.history.stopped,
        active_units=active_units(detector),
        latent_units=detector.ensemble.vae.latent,
        promise=promise(detector.threshold),
        blocks=detector.blocks,
        cautions=cautions(detector),
        notes=card.notes,
        quality=outcome.quality,
        suspicious=outcome.suspicious,
        model=model,
        next_steps=publish.fit_next_steps(model),
    )
