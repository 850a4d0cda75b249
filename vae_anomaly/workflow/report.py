"""``report``: one HTML file about a model and, if given, an output of ``score``."""

import tempfile
from functools import reduce
from pathlib import Path

import numpy as np

from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import NO_STANDSTILL, Standstill
from vae_anomaly.errors import ConfigError, OutputError
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.evaluation.score_summary import ScoreSummary
from vae_anomaly.explain.contributions import Alarm, reasons_of
from vae_anomaly.jobs import manifest
from vae_anomaly.messages import OnProgress, ignore_progress
from vae_anomaly.report.content import ALARMS_SHOWN, Report, overview
from vae_anomaly.storage import atomic
from vae_anomaly.storage.destinations import destination_of
from vae_anomaly.tables.scores import ScoredRows, read_scores
from vae_anomaly.tables.source import open_source
from vae_anomaly.tracking.runs import NoRun, Run
from vae_anomaly.workflow.models import open_model
from vae_anomaly.workflow.requests import ReportRequest
from vae_anomaly.workflow.results import ModelName, ReportResult
from vae_anomaly.workflow.score_counts import standstill_from

REPORT_NAME = "report.html"


def report_files(request: ReportRequest, *, tell: OnProgress = ignore_progress) -> ReportResult:
    """Write a report. Raises OutputError if the file exists, SchemaMismatch for scores that ``score`` did not write."""
    check_report_path(request.output, overwrite=request.overwrite)
    loaded = open_model(request.model, uri=request.tracking_uri)
    summary, notes = calibration_summary(loaded.detector), tuple[str, ...]()
    if request.scores is not None:
        summary, notes = _summarised(loaded.detector, loaded.name, request.scores, tell)
    report = overview(loaded.detector, summary, title=title_of(loaded.name), notes=notes)
    size = write_report(report, request.output)
    return ReportResult(
        output=str(request.output),
        bytes=size,
        rows=summary.rows,
        alarms=summary.alarms,
        cautions=report.cautions,
        model=loaded.name,
        next_steps=(f"open {request.output} in a browser",),
    )


def check_report_path(output: Path, *, overwrite: bool) -> None:
    """Raise ConfigError for a name that does not end in ``.html``, OutputError for an existing file without ``overwrite``."""
    if output.suffix.lower() != ".html":
        raise ConfigError(f"a report is a page: output {str(output)!r} must end in .html, got {output.suffix!r}.")
    with atomic.writing(output):
        exists = output.exists()
    if exists and not overwrite:
        raise OutputError(f"{output} exists. Name another with -o, or give --overwrite to replace it.")


def title_of(name: ModelName) -> str:
    """Return the title of a report about a model."""
    return f"{name.name} version {name.version}" if name.name and name.version else name.name or name.folder


def calibration_summary(detector: Detector) -> ScoreSummary:
    """Return a score summary of the calibration rows alone."""
    return ScoreSummary(threshold=detector.threshold, worst_rows=ALARMS_SHOWN)


def write_report(report: Report, output: Path) -> int:
    """Render a report and write the file in one step; return its size in bytes."""
    from vae_anomaly.report.page import render

    text = render(report)
    atomic.write_text(output, text)
    return len(text.encode())


def log_report(run: Run | NoRun, report: Report) -> None:
    """Log a report as ``report.html``; without tracking nothing is rendered."""
    if isinstance(run, NoRun):
        return
    with tempfile.TemporaryDirectory(prefix="vae-anomaly-") as folder:
        write_report(report, Path(folder) / REPORT_NAME)
        run.log_file(Path(folder) / REPORT_NAME)


def fit_report(detector: Detector, quality: Quality | None) -> Report:
    """Return the report of a newly fitted model, which has no version yet."""
    return overview(detector, calibration_summary(detector), title=detector.config.tracking.model_name, quality=quality)


def _summarised(detector: Detector, name: ModelName, path: str, tell: OnProgress) -> tuple[ScoreSummary, tuple[str, ...]]:
    """Summarise an output of ``score``, with notes on scores that do not belong to the model."""
    source = open_source([path])
    summary = ScoreSummary(threshold=detector.threshold, worst_rows=ALARMS_SHOWN, source=source.where)
    models: set[tuple[str, str]] = set()
    for rows in read_scores(source):
        summary.time_column = rows.time
        summary.add(rows.scores, rows.flags, times=rows.times)
        flagged = np.flatnonzero(rows.flags)
        for i in flagged[np.argsort(-rows.scores[flagged], kind="stable")[:ALARMS_SHOWN]].tolist():
            if summary.wants(float(rows.scores[i])):
                summary.offer(_alarm(rows, i))
        if len(rows.scores) and {"model", "model_version"} <= set(rows.table.schema.names):
            models.add(tuple(str(rows.table.column(c)[0].as_py() or "") for c in ("model", "model_version")))  # type: ignore[arg-type]
        tell("reading", summary.rows, source.rows)
    return summary, (*_standstill_notes(path), *_mismatch_notes(summary, name, models))


def _standstill_notes(path: str) -> tuple[str, ...]:
    """Return notes on the columns at a standstill that the manifest of these scores names."""
    if path.startswith(("http://", "https://")):  # nothing is written there, so that there is no manifest either
        return ()
    output = destination_of(path)
    if output.below(manifest.FOLDER_MANIFEST).size() is None:
        found = manifest.manifest_of(output)
        counted = [] if found is None else [found.counted]
    else:
        dataset = manifest.read_folder_manifest(output)
        counted = [] if dataset is None else [entry.counted for entry in dataset.entries.values()]
    return reduce(Standstill.plus, map(standstill_from, counted), NO_STANDSTILL).cautions()


def _alarm(rows: ScoredRows, i: int) -> Alarm:
    return Alarm(
        row=rows.first + i,
        ids=rows.ids(i),
        score=float(rows.scores[i]),
        p_value=float(rows.p_values[i]),
        reasons=reasons_of(rows.features(i)),
    )


def _mismatch_notes(summary: ScoreSummary, name: ModelName, models: set[tuple[str, str]]) -> tuple[str, ...]:
    """Return notes on rows that another model scored, or that were not flagged by the threshold of this model."""
    notes = []
    others = sorted(models - {(name.name, name.version)})
    if others:
        other = " and ".join(f"{model or 'a model folder'} version {version}".strip() for model, version in others)
        notes.append(f"the rows were scored by {other}, and this report is of {title_of(name)}: scores of different models do not compare")
    own = next(step.above.get("rows", 0) for step in summary.steps() if step.alpha == summary.threshold.alpha)
    if own != summary.alarms:
        notes.append(
            f"the rows were flagged by another rule: {summary.alarms:,} are flagged, and {own:,} are above the threshold of this model"
        )
    return tuple(notes)
