"""Learn what normal rows look like: read, leave out what is labelled as anomalous, fit, keep, log and register.

Everything that can be refused is refused before training. Knows nothing about networks, file formats or MLflow.
"""

import logging
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly import __version__
from vae_anomaly.config import DEFAULT_MODEL, Config, validate
from vae_anomaly.core.cautions import active_units, cautions
from vae_anomaly.core.detector import Detector
from vae_anomaly.core.encode import encode
from vae_anomaly.core.fit import fit_rows
from vae_anomaly.core.fitted import Fitted
from vae_anomaly.core.groups import make_groups
from vae_anomaly.core.labels import Labels, read_labels, refuse_without_normal
from vae_anomaly.core.order import group_codes, time_order
from vae_anomaly.core.report import Quality, promise
from vae_anomaly.core.schema import Schema, absent_text, conform, infer_schema
from vae_anomaly.core.stages import Progress
from vae_anomaly.core.threshold import Plan, calibrate, calibration_size
from vae_anomaly.edges import artifact, tables
from vae_anomaly.edges.tracking import ModelVersion, NoRun, Run, start_run
from vae_anomaly.errors import ConfigError, OutputError, TrackingError
from vae_anomaly.workflow.progress import Tell, tell_nobody
from vae_anomaly.workflow.report import log as log_report
from vae_anomaly.workflow.report import of_fit as report_of_fit
from vae_anomaly.workflow.results import Alarm, FitResult, ModelName
from vae_anomaly.workflow.suspicious import suspicious

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
STAGES = {"first pass": "first pass", "train": "training", "calibrate": "calibrating"}
# Packages whose version can change a score.
VERSIONED = ("torch", "numpy", "pyarrow")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """The rows of a fit: what is learned from, with the numbers of its rows, and what its labels call anomalous, with those labels."""

    normal: pa.Table
    numbers: NDArray[np.int64]
    anomalous: pa.Table
    labels: Labels | None


def fit(data: Sequence[str], config: Config, *, output: Path | None = None, overwrite: bool = False, tell: Tell = tell_nobody) -> FitResult:
    """Fit a detector on the normal rows of ``data``, and log, register or keep it as ``config.tracking`` and ``output`` say.

    Raises ConfigError, DataError, TooFewRows and OutputError before training; TrackingError, after which the model is kept in a folder.
    """
    validate(config)
    _refuse(config, output, overwrite=overwrite)
    began = time.monotonic()
    source = tables.open_source(data, missing_values=config.data.missing_values)
    tell("reading", 0, source.rows)
    rows = _read(source, config)
    schema = infer_schema(rows.normal, config.data)
    calibration_size(config.calibration, rows.normal.num_rows)
    logger.info("read %s normal rows of %s columns from %s files", rows.normal.num_rows, len(schema.columns), len(source.files))
    with start_run(config.tracking) as run:
        run.log_config(config)
        run.log_dataset([file.path for file in source.files], digest=source.digest(), rows=rows.normal.num_rows)
        fitted = _fitted(rows.normal, schema, config, tell)
        odd = suspicious(fitted, rows.normal, rows.numbers, config.data.id_columns)
        detector = _with_provenance(fitted.detector, source, began)
        quality = _held_against(detector, fitted.plan, rows)
        model = _keep(run, detector, quality, output, overwrite=overwrite)
    return _result(rows, detector, quality, odd, model)


def _refuse(config: Config, output: Path | None, *, overwrite: bool) -> None:
    """Refuse a fit whose model would go nowhere, or where it must not."""
    if not config.tracking.enabled and output is None:
        raise ConfigError("without tracking the model goes nowhere; name a folder for it with --output.")
    if output is None or not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{output} exists. Name another folder with --output, or give --overwrite to replace the model in it.")
    if not artifact.is_artifact(output):
        raise OutputError(f"{output} exists and holds no model, so it is not replaced. Name another folder with --output.")


def _read(source: tables.Source, config: Config) -> Rows:
    """Read all rows and part them by their labels."""
    table, name = source.read_table(), config.data.label_column
    if name is None:
        return Rows(normal=table, numbers=np.arange(table.num_rows), anomalous=table.slice(0, 0), labels=None)
    if name not in table.column_names:
        raise ConfigError(f"--label-column names a column that is not in the data: {absent_text([name], table.column_names)}")
    labels = read_labels(table[name], config.data.normal_labels)
    refuse_without_normal(labels, name, config.data.normal_labels)
    return Rows(
        normal=table.filter(pa.array(labels.normal)),
        numbers=np.flatnonzero(labels.normal),
        anomalous=table.filter(pa.array(~labels.normal)),
        labels=labels.where(~labels.normal),
    )


def _fitted(table: pa.Table, schema: Schema, config: Config, tell: Tell) -> Fitted:
    """Fit, and set a threshold for each group where there are groups."""
    order = time_order(table[schema.time], schema.time) if schema.time else None
    group = group_codes(table[schema.group]) if schema.group else None

    def on_progress(progress: Progress) -> None:
        tell(STAGES.get(progress.stage, progress.stage), progress.done, progress.total)

    fitted = fit_rows(table, schema, config, time=order, group=group, on_progress=on_progress)
    return replace(fitted, detector=_grouped(fitted.detector, table, fitted.plan, schema.group)) if schema.group else fitted


def _grouped(detector: Detector, table: pa.Table, plan: Plan, column: str) -> Detector:
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


def _with_provenance(detector: Detector, source: tables.Source, began: float) -> Detector:
    """Add to the card what only the outside world knows."""
    versions = {"vae-anomaly": __version__, "python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}}
    card = replace(
        detector.card,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        versions=tuple(versions.items()),
        source=tuple(file.path for file in source.files),
        data_digest=source.digest(),
    )
    return replace(detector, card=card)


def _held_against(detector: Detector, plan: Plan, rows: Rows) -> Quality | None:
    """Hold the detector against the rows that the fit left out because of their labels."""
    if rows.labels is None or not rows.anomalous.num_rows:
        return None
    from vae_anomaly.workflow.detection import after_fit, encoded  # scikit-learn is needed with labels only

    normal = encoded(detector.schema, rows.normal.to_batches())
    return after_fit(detector, plan, normal, encoded(detector.schema, rows.anomalous.to_batches()), rows.labels)


def _keep(run: Run | NoRun, detector: Detector, quality: Quality | None, output: Path | None, *, overwrite: bool) -> ModelName:
    """Write the folder that was asked for, then log and register; a model that cannot be logged is kept all the same."""
    if output is not None:
        artifact.save(detector, output, replace=overwrite)
    try:
        _log(run, detector, quality)
        version = _log_model(run, detector, output)
    except TrackingError as error:
        kept = output or _rescue(detector)
        raise TrackingError(f"{error} The model is kept: score with --model {kept}.") from error
    folder = "" if output is None else str(output)
    if version is None:
        return ModelName(folder=folder, uri=folder)
    return ModelName(name=version.name, version=version.version, alias=version.alias, run_id=version.run_id, uri=version.uri, folder=folder)


def _log(run: Run | NoRun, detector: Detector, quality: Quality | None) -> None:
    for block in detector.card.history.blocks:
        run.log_block(block)
    run.log_metrics({"fit_seconds": detector.card.seconds, "threshold": detector.threshold.value, "alpha": detector.threshold.alpha})
    if quality:
        run.log_metrics(
            {"auroc": quality.auroc, "average_precision": quality.average_precision, "recall": quality.recall, "f1": quality.f1}
        )
    if isinstance(run, Run):
        run.log_figures(_pictures(detector))
        log_report(run, report_of_fit(detector, quality))


def _pictures(detector: Detector) -> "dict[str, Figure]":
    from vae_anomaly.edges import figures  # --no-tracking draws nothing and needs no matplotlib

    return {
        "learning_curve": figures.learning_curve(detector.card.history),
        "score_histogram": figures.score_histogram(detector.threshold),
        "column_quality": figures.column_quality(detector.quality),
        "calibration_curve": figures.calibration_curve(detector.threshold),
    }


def _log_model(run: Run | NoRun, detector: Detector, output: Path | None) -> ModelVersion | None:
    """Log the folder, written to a temporary place if nobody asked for it."""
    if output is not None or isinstance(run, NoRun):
        return run.log_model(output, detector) if output is not None else None
    with tempfile.TemporaryDirectory(prefix="vae-anomaly-") as temporary:
        folder = Path(temporary) / "detector"
        artifact.save(detector, folder)
        return run.log_model(folder, detector)


def _rescue(detector: Detector) -> Path:
    """Keep a model in the current folder under a name that says when it was fitted."""
    created = re.sub(r"\D", "", detector.card.created.partition("+")[0])
    folder = Path(f"{detector.config.tracking.model_name}-{created}")
    artifact.save(detector, folder)
    return folder


def _result(rows: Rows, detector: Detector, quality: Quality | None, odd: tuple[Alarm, ...], model: ModelName) -> FitResult:
    card = detector.card
    return FitResult(
        rows_read=rows.normal.num_rows + rows.anomalous.num_rows,
        rows_used=rows.normal.num_rows,
        labels_left_out=rows.labels.counts() if rows.labels else {},
        columns=detector.quality,
        left_out=detector.schema.dropped,
        seconds=card.seconds,
        steps=card.history.steps,
        stopped=card.history.stopped,
        active_units=active_units(detector),
        latent_units=detector.ensemble.vae.latent,
        promise=promise(detector.threshold),
        blocks=detector.blocks,
        cautions=cautions(detector),
        notes=card.notes,
        quality=quality,
        suspicious=odd,
        model=model,
        next_steps=_next_steps(model),
    )


def _next_steps(model: ModelName) -> tuple[str, ...]:
    name = f"models:/{model.name}@{model.alias}" if model.version and model.alias else model.uri
    option = "" if name == DEFAULT_MODEL else f" --model {name}"
    ui = ("vae-anomaly ui",) if model.run_id else ()
    return (f"vae-anomaly score NEW.csv{option}", f"vae-anomaly evaluate LABELLED.csv --label-column COLUMN{option}", *ui)
