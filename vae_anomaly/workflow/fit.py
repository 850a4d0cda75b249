"""``fit``: read normal rows, train and calibrate a detector, evaluate it on labelled anomalies, save, log and register it.

All checks come before training. An interrupted fit continues from its work folder (``jobs.fit_workdir``).
"""

import logging
import math
import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from vae_anomaly.calibration.guarantee import guarantee_of
from vae_anomaly.config import Config, validate
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.in_time import times_of
from vae_anomaly.errors import ConfigError
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.fitting.checkpointing import Progress, Stage
from vae_anomaly.fitting.diagnostics import active_units, cautions
from vae_anomaly.fitting.fit import fit_rows, with_group_thresholds
from vae_anomaly.fitting.held_out import FitRecord
from vae_anomaly.fitting.label_cautions import label_cautions
from vae_anomaly.fitting.outliers import suspicious_rows
from vae_anomaly.fitting.splits import LabelledRows, RowSplit, calibration_size, split_by_label
from vae_anomaly.jobs import fit_workdir, memory, process_group, signals
from vae_anomaly.messages import OnProgress, about_seconds, ignore_progress
from vae_anomaly.model.training import Team, Trial
from vae_anomaly.schema.inference import mark_notes
from vae_anomaly.schema.levels import missing_notes
from vae_anomaly.schema.notations import unread_cautions
from vae_anomaly.schema.qualities import shape_cautions
from vae_anomaly.schema.schema import Schema, conform, excluded_columns, infer_schema
from vae_anomaly.tables.csv_rejects import Rejects
from vae_anomaly.tables.error_location import located
from vae_anomaly.tables.source import Source, open_source
from vae_anomaly.tracking.registry import ModelVersion
from vae_anomaly.tracking.runs import start_run
from vae_anomaly.workflow import fit_resume, publish
from vae_anomaly.workflow.fit_resume import Outcome
from vae_anomaly.workflow.requests import FitRequest
from vae_anomaly.workflow.results import FitResult, ModelName
from vae_anomaly.workflow.score_counts import rejected_notes

_logger = logging.getLogger(__name__)
# A training of fewer operations takes under a minute on any processor in use, and its steps are not worth a trial.
OPERATIONS_TRIED = 3e11
ANNOUNCED_SECONDS = 60.0
STAGES = {"first pass": "first pass", "train": "training", "calibrate": "calibrating"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitJob:
    """A fit with its source opened and its work folder locked.

    ``contents`` is the digest of the source before training: hours later a file may have changed. ``max_rows`` fit into memory; None: all.
    ``logged`` is the version that an interrupted run of the same fit registered.
    """

    request: FitRequest
    source: Source
    contents: str
    max_rows: int | None
    bound: memory.Bound
    checkpoint: fit_workdir.Checkpoint
    logged: ModelVersion | None
    tell: OnProgress
    team: Team


def help_fit(config: Config) -> None:
    """Take part in the training of the process 0 that torchrun has started beside this one; it alone reads, saves, logs and registers."""
    with process_group.join_processes(config.train.device) as team:
        if isinstance(team, process_group.ProcessGroup):
            team.help()


def fit_files(request: FitRequest, *, tell: OnProgress = ignore_progress) -> FitResult:
    """Fit a detector on the normal rows of ``request.data``, then save, log and register it as the request and its settings say.

    If the rows exceed ``memory_limit``, or without one half of the machine's memory, the fit uses a random sample that fits. An interrupted
    fit of the same data and settings is continued and ends with the same model. Raises ConfigError, DataError, TooFewRows and OutputError
    before training; TrackingError, after saving the model to a folder; Interrupted.
    """
    config, output = request.config, request.output
    data, tracking = config.data, config.tracking
    rank, size = process_group.processes()
    if rank:
        raise ConfigError(f"process {rank} of {size} that torchrun started cannot fit by itself: call help_fit in all but process 0.")
    validate(config)
    if data.time_column is not None and config.calibration.method != "auto":
        raise ConfigError(
            f"--calibration {config.calibration.method} is for rows that are no time series, which blocks of time calibrate. "
            "Leave it or --time-column out."
        )
    if not tracking.enabled and output is None:
        raise ConfigError("without tracking the model goes nowhere; name a folder for it with --output.")
    bound = memory.Bound(limit=math.inf if request.memory_limit is None else request.memory_limit)
    start = memory.fit_start(tracked=tracking.enabled, labelled=data.label_column is not None)
    source = open_source(request.data, data, unused=excluded_columns(data))
    max_rows = memory.max_fit_rows(source.estimated_size(), len(source.names), request.memory_limit, start)
    folder, made_from = fit_workdir.workdir_of(output, tracking.model_name), fit_resume.made_from(source, config, max_rows)
    with (
        process_group.join_processes(config.train.device) as team,
        signals.catch_signals() as interruption,
        fit_workdir.claim_fit(folder, made_from, interruption, needed=output is not None, at_exit=request.at_exit) as checkpoint,
    ):
        checkpoint.every = request.checkpoint_every
        publish.check_model_folder(output, checkpoint, overwrite=request.overwrite)
        logged = fit_resume.begin(checkpoint, tracking, resume=request.resume)
        job = FitJob(
            request=request,
            source=source,
            contents=source.contents(),
            max_rows=max_rows,
            bound=bound,
            checkpoint=checkpoint,
            logged=logged,
            tell=tell,
            team=team,
        )
        return _fit_and_publish(job)


def _fit_and_publish(job: FitJob) -> FitResult:
    """Read the rows, train unless an interrupted attempt finished that, and publish the model."""
    began, rejects, request, source = time.monotonic(), Rejects(), job.request, job.source
    config, output = request.config, request.output
    rows, rows_read = _read(job, rejects)
    rows_used = rows.normal.num_rows
    schema = infer_schema(rows.normal, config.data)
    texts = [c.name for c in schema.columns if c.kind != "numeric" and schema.default_missing]
    notes = (
        *dict.fromkeys((*source.version_notes, *source.notes)),
        *missing_notes(rows.normal, texts),
        *mark_notes(schema.columns),
        *rejected_notes(rejects),
        *memory.sampling_notes(rows_used + rows.anomalous.num_rows, rows_read, config.seed),
    )
    calibration_size(config.calibration, rows_used)
    _logger.info("read %s normal rows of %s columns from %s files", rows_used, len(schema.columns), len(source.files))
    tracking = replace(config.tracking, enabled=config.tracking.enabled and job.logged is None)
    with start_run(tracking, job=job.checkpoint.job) as run:
        job.checkpoint.run_open = True
        run.log_config(config)
        run.log_dataset(source.paths, digest=source.digest(), rows=rows_used, versions=source.versions)
        outcome = fit_resume.outcome(job.checkpoint) or _train(rows, schema, job, began, notes)
        model = publish.publish_fit(run, outcome, job.checkpoint, job.logged, output=output, overwrite=request.overwrite)
    return _result(rows, rows_read, outcome, model, job)


def _read(job: FitJob, rejects: Rejects) -> tuple[LabelledRows, int]:
    """Read all rows, or a random sample that fits into memory, and split them by label; return also how many were read."""
    source, config, tell = job.source, job.request.config, job.tell
    tell("reading", 0, source.rows)
    if job.max_rows is None:
        table = source.read_table(rejects)
        return split_by_label(table, np.arange(table.num_rows), config.data), table.num_rows
    sample = source.sample(job.max_rows, config.seed, rejects, lambda done: tell("reading", done, source.rows))
    memory.give_back()
    return split_by_label(sample.table, sample.numbers, config.data), sample.seen


def _train(rows: LabelledRows, schema: Schema, job: FitJob, began: float, notes: tuple[str, ...]) -> Outcome:
    """Train, calibrate and evaluate; the outcome is stored in the work folder."""
    source, config = job.source, job.request.config
    on_table = (
        *label_cautions(rows.normal, schema, config.data),
        *shape_cautions(rows.normal, config.data),
        *unread_cautions(schema.dropped),
    )
    for caution in on_table:
        _logger.warning("%s", caution)
    with located(source.readers, rows.anomalous_numbers):
        _check_cells(rows.anomalous, schema)
    with located(source.readers, rows.normal_numbers):
        record = _fitted(rows.normal, schema, job)
    if record.detector.series is not None and rows.anomalous.num_rows:
        notes = (*notes, "rows with another label were left out of the series; compare the model with them by vae-anomaly evaluate")
    suspicious = suspicious_rows(record, rows.normal, rows.normal_numbers, config.data.id_columns)
    seconds = time.monotonic() - began
    detector = publish.with_provenance(record.detector, source, job.contents, seconds=seconds, notes=notes, cautions=on_table)
    outcome = Outcome(detector=detector, quality=_quality(detector, record.split, rows), suspicious=suspicious)
    return fit_resume.keep_outcome(job.checkpoint, outcome)


def _check_cells(anomalous: pa.Table, schema: Schema) -> None:
    """Raise SchemaMismatch before training for cells that the evaluation after it could not read."""
    for batch in anomalous.combine_chunks().to_batches():
        conform(schema, batch, where="the labelled rows")


def _fitted(table: pa.Table, schema: Schema, job: FitJob) -> FitRecord:
    times = times_of(table, schema, job.request.config.data.time_format)

    def on_progress(progress: Progress) -> None:
        job.tell(STAGES.get(progress.stage, progress.stage), progress.done, progress.total)

    stage = Stage(on_progress=on_progress, checkpoint=job.checkpoint, on_trial=_announce, team=job.team)
    record = fit_rows(table, schema, job.request.config, times=times, stage=stage)
    return with_group_thresholds(record, table, schema.group) if schema.group else record


def _announce(trial: Trial) -> None:
    """Say before a training of more than a minute how long it takes, from the time of one step."""
    if trial.operations < OPERATIONS_TRIED:
        return
    trial.run()  # the first step also allocates
    began = time.perf_counter()
    trial.run()
    seconds = (time.perf_counter() - began) * trial.steps
    if seconds > ANNOUNCED_SECONDS:
        _logger.warning(
            "training takes about %s here. Fewer steps (--steps), columns (--exclude) or views (model.views in --config) shorten it; "
            "if it is interrupted, the same command continues it.",
            about_seconds(seconds),
        )


def _quality(detector: Detector, split: RowSplit, rows: LabelledRows) -> Quality | None:
    """Evaluate on the anomalous rows, which the fit left out; None without any, and of rows in time, which have no past of their own."""
    if rows.labels is None or not rows.anomalous.num_rows or detector.series is not None:
        return None
    from vae_anomaly.evaluation.comparison import encode_batches, evaluate_fit  # imports scikit-learn, which only labels need

    normal, anomalous = (encode_batches(detector.schema, table.to_batches()) for table in (rows.normal, rows.anomalous))
    return evaluate_fit(detector, split, normal, anomalous, rows.labels)


def _result(rows: LabelledRows, rows_read: int, outcome: Outcome, model: ModelName, job: FitJob) -> FitResult:
    detector, card = outcome.detector, outcome.detector.card
    return FitResult(
        rows_read=rows_read,
        rows_used=rows.normal.num_rows,
        labels_left_out=rows.labels.counts() if rows.labels else {},
        columns=detector.quality,
        left_out=detector.schema.dropped,
        seconds=card.seconds,
        steps=card.history.steps,
        resumed_steps=job.checkpoint.resumed_steps,
        stopped=card.history.stopped,
        active_units=active_units(detector),
        latent_units=detector.ensemble.vae.latent,
        promise=guarantee_of(detector.threshold),
        blocks=detector.blocks,
        cautions=(*(outcome.quality.cautions if outcome.quality else ()), *cautions(detector), *memory.excess_cautions(job.bound.excess())),
        notes=card.notes,
        quality=outcome.quality,
        suspicious=outcome.suspicious,
        model=model,
        next_steps=publish.fit_next_steps(model),
    )
