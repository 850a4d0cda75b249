"""A report of a model, and of rows that it scored, as one HTML file.

Knows nothing about networks, file formats or HTML.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, OutputError
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.evaluation.score_summary import Gathering, WorstRow
from vae_anomaly.messages import Tell, tell_nobody
from vae_anomaly.report.content import ALARMS_SHOWN, Report, overview, reasons
from vae_anomaly.storage import atomic
from vae_anomaly.tables.scores import ScoredRows, read_scores
from vae_anomaly.tables.source import open_source
from vae_anomaly.tracking.runs import NoRun, Run
from vae_anomaly.workflow.models import open_model
from vae_anomaly.workflow.results import ModelName, ReportResult

REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """Which model, which output of ``score`` if any, and where the page goes."""

    model: str
    output: Path
    scores: str | None = None
    overwrite: bool = False
    tracking_uri: str | None = None


def report_files(request: ReportRequest, *, tell: Tell = tell_nobody) -> ReportResult:
    """Write a report. Raises OutputError where the output exists, SchemaMismatch for scores that are no output of ``score``."""
    refuse_output(request.output, overwrite=request.overwrite)
    opened = open_model(request.model, uri=request.tracking_uri)
    gathering, notes = empty(opened.detector), tuple[str, ...]()
    if request.scores is not None:
        gathering, notes = _gathered(opened.detector, opened.name, request.scores, tell)
    found = overview(opened.detector, gathering, title=title_of(opened.name), notes=notes)
    size = write_report(found, request.output)
    return ReportResult(
        output=str(request.output),
        bytes=size,
        rows=gathering.rows,
        alarms=gathering.alarms,
        cautions=found.cautions,
        model=opened.name,
        next_steps=(f"open {request.output} in a browser",),
    )


def refuse_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a name that is not that of a page, and to replace a file that nobody said may go. Raises ConfigError and OutputError."""
    if output.suffix.lower() != ".html":
        raise ConfigError(f"a report is a page: output {str(output)!r} must end in .html, got {output.suffix!r}.")
    with atomic.writing(output):
        exists = output.exists()
    if exists and not overwrite:
        raise OutputError(f"{output} exists. Name another with -o, or give --overwrite to replace it.")


def title_of(name: ModelName) -> str:
    """Return what a report calls a model."""
    return f"{name.name} version {name.version}" if name.name and name.version else name.name or name.folder


def empty(detector: Detector) -> Gathering:
    """Return a gathering of no rows but those of the calibration."""
    return Gathering(threshold=detector.threshold, worst_rows=ALARMS_SHOWN)


def write_report(found: Report, output: Path) -> int:
    """Write a report whole or not at all and return its size in bytes."""
    from vae_anomaly.report.page import render

    text = render(found)
    atomic.write_text(output, text)
    return len(text.encode())


def log_report(run: Run | NoRun, found: Report) -> None:
    """Log a report as ``report.html``; draws nothing where nothing is logged."""
    if isinstance(run, NoRun):
        return
    with tempfile.TemporaryDirectory(prefix="vae-anomaly-") as folder:
        write_report(found, Path(folder) / REPORT_NAME)
        run.log_file(Path(folder) / REPORT_NAME)


def fit_report(detector: Detector, quality: Quality | None) -> Report:
    """Return the report of a new model, which has no version yet."""
    return overview(detector, empty(detector), title=detector.config.tracking.model_name, quality=quality)


def _gathered(detector: Detector, name: ModelName, path: str, tell: Tell) -> tuple[Gathering, tuple[str, ...]]:
    """Read an output of ``score``; return also what is odd about it."""
    source = open_source([path])
    gathering = Gathering(threshold=detector.threshold, worst_rows=ALARMS_SHOWN, source=source.where)
    models: set[tuple[str, str]] = set()
    for rows in read_scores(source):
        gathering.time_column = rows.time
        gathering.add(rows.scores, rows.flags, times=rows.times)
        flagged = np.flatnonzero(rows.flags)
        for i in flagged[np.argsort(-rows.scores[flagged], kind="stable")[:ALARMS_SHOWN]].tolist():
            if gathering.wants(float(rows.scores[i])):
                gathering.offer(_worst(detector, rows, i))
        if len(rows.scores) and {"model", "model_version"} <= set(rows.table.schema.names):
            models.add(tuple(str(rows.table.column(c)[0].as_py() or "") for c in ("model", "model_version")))  # type: ignore[arg-type]
        tell("reading", gathering.rows, source.rows)
    return gathering, _oddities(gathering, name, models)


def _worst(detector: Detector, rows: ScoredRows, i: int) -> WorstRow:
    return WorstRow(
        row=rows.first + i,
        ids=rows.ids(i),
        score=float(rows.scores[i]),
        p_value=float(rows.p_values[i]),
        reasons=reasons(detector, rows.features(i)),
    )


def _oddities(gathering: Gathering, name: ModelName, models: set[tuple[str, str]]) -> tuple[str, ...]:
    """Say when the scores are those of another model, or were flagged by another rule than the threshold of this one."""
    notes = []
    others = sorted(models - {(name.name, name.version)})
    if others:
        other = " and ".join(f"{model or 'a model folder'} version {version}".strip() for model, version in others)
        notes.append(f"the rows were scored by {other}, and this report is of {title_of(name)}: scores of different models do not compare")
    own = next(step.above.get("rows", 0) for step in gathering.steps() if step.alpha == gathering.threshold.alpha)
    if own != gathering.alarms:
        notes.append(
            f"the rows were flagged by another rule: {gathering.alarms:,} are flagged, and {own:,} are above the threshold of this model"
        )
    return tuple(notes)
