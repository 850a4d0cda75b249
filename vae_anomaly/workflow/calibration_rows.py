"""The rows of a calibration: what is asked for, which columns that takes, and the scores, labels, times and groups of the rows.

Refuses what cannot be before anything is scored. Knows nothing of thresholds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.operating_point import FScore, rows_per_day
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import BadCell, ConfigError, DataError
from vae_anomaly.messages import Tell, absent_text
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.keys import Labels, read_labels, refuse_one_class, refuse_without_normal
from vae_anomaly.tables import stream
from vae_anomaly.tables.csv_rejects import RejectedRows, Rejects
from vae_anomaly.tables.error_location import in_its_file
from vae_anomaly.tables.source import Source
from vae_anomaly.workflow.models import cores, learned_from
from vae_anomaly.workflow.score_counts import left_out

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateRequest:
    """Which rows, which model, and how the rate is asked for; None: what the fit said, or not asked."""

    data: tuple[str, ...]
    model: str
    alpha: float | None = None
    alerts_per_day: float | None = None
    rows_per_day: float | None = None
    cost_false_alarm: float | None = None
    cost_miss: float | None = None
    maximize: FScore | None = None
    anomaly_rate: float | None = None
    method: Literal["conformal", "gpd"] = "conformal"
    group_by: str | None = None
    time_column: str | None = None
    label_column: str | None = None
    normal_labels: tuple[str, ...] | None = None
    missing_values: tuple[str, ...] | None = None
    on_error: Literal["stop", "skip"] = "stop"
    alias: str | None = None
    output: Path | None = None
    threads: int | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationRows:
    """Scored rows: ``normal`` calibrate, ``anomalous`` have another label; ``group`` is that of the normal rows.

    ``rejected`` rows could not be read.
    """

    normal: _Floats
    anomalous: _Floats
    group: pa.ChunkedArray | None
    labels: Labels | None
    per_day: float | None
    null_scores: int
    rejected: RejectedRows | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns that are read besides those of the model; None: not asked for."""

    label: str | None
    time: str | None
    group: str | None

    @property
    def names(self) -> list[str]:
        """Those that are there, each once."""
        return list(dict.fromkeys(name for name in (self.label, self.time, self.group) if name is not None))


def refuse_contradictions(request: CalibrateRequest) -> None:
    """Refuse wishes that contradict each other or lack a part, before anything is read."""
    costs = request.cost_false_alarm is not None or request.cost_miss is not None
    asked = {
        "--alpha": request.alpha is not None,
        "--alerts-per-day": request.alerts_per_day is not None,
        "--cost-false-alarm and --cost-miss": costs,
        "--maximize": request.maximize is not None,
    }
    named = [name for name, given in asked.items() if given]
    if len(named) > 1:
        raise ConfigError(f"the rate is asked for in {len(named)} ways: {'; '.join(named)}. Give one of them.")
    if costs and (request.cost_false_alarm is None or request.cost_miss is None):
        raise ConfigError("costs come in pairs: give both --cost-false-alarm and --cost-miss.")
    for name, value in (("--cost-false-alarm", request.cost_false_alarm), ("--cost-miss", request.cost_miss),
                        ("--rows-per-day", request.rows_per_day)):  # fmt: skip
        if value is not None and not 0 < value < np.inf:
            raise ConfigError(f"{name} must be > 0; got {value:g}.")
    for name, value in (("--alpha", request.alpha), ("--anomaly-rate", request.anomaly_rate)):
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{name} must be in (0, 1); got {value:g}.")
    if request.method == "gpd" and request.group_by:
        raise ConfigError("--method gpd fits one tail to all rows; leave --group-by out, or use --method conformal.")


def columns_of(request: CalibrateRequest, detector: Detector, source: Source) -> Columns:
    """Return the columns to read. Raises ConfigError for one that is not in the data, or that a wish needs and nobody named."""
    data = detector.config.data
    label = request.label_column or (data.label_column if data.label_column in source.names else None)
    time = request.time_column or (data.time_column if data.time_column in source.names else None)
    for option, name in (
        ("--label-column", request.label_column),
        ("--time-column", request.time_column),
        ("--group-by", request.group_by),
    ):
        if name and name not in source.names:
            raise ConfigError(f"{option} names a column that is not in the data: {absent_text([name], source.names)}")
    wish = "--maximize" if request.maximize else "--cost-miss" if request.cost_miss is not None else None
    if wish and label is None:
        raise ConfigError(f"{wish} needs labels, to see what a threshold finds. Name their column with --label-column.")
    if request.anomaly_rate is not None and wish is None:
        raise ConfigError("--anomaly-rate is for --maximize and --cost-miss; neither is given.")
    if request.alerts_per_day is not None and time is None and request.rows_per_day is None:
        raise ConfigError(
            "--alerts-per-day needs to know how many rows a day brings: name a column of timestamps with --time-column, "
            "or give --rows-per-day."
        )
    source.check_present(detector.schema)
    return Columns(label=label, time=None if request.rows_per_day else time, group=_group(request, detector, source))


def _group(request: CalibrateRequest, detector: Detector, source: Source) -> str | None:
    """Return the column of the groups: that of the request, empty for none, else that of the threshold so far."""
    before = detector.threshold.groups
    if request.group_by is not None or before is None or request.method == "gpd":
        return request.group_by or None
    if before.column not in source.names:
        raise ConfigError(
            f"this model has a threshold for each {before.column!r}, and {source.files[0].path} has no such column. "
            "Give rows with it, or --group-by '' for one threshold."
        )
    return before.column


def refuse_training_rows(source: Source, detector: Detector) -> None:
    """Raise DataError for the files of the fit, also under other names."""
    if learned_from(detector, source):
        raise DataError(
            f"{source.where} holds the rows that the model was fitted on, and rows it has learned from score lower than new ones. "
            "Calibrate on normal rows that the fit has not seen."
        )


def scored(detector: Detector, source: Source, columns: Columns, request: CalibrateRequest, tell: Tell) -> CalibrationRows:
    """Score all rows in a stream; of the rows only scores, labels, times and groups are kept."""
    scores: list[_Floats] = []
    kept: dict[str, list[pa.Array]] = {name: [] for name in columns.names}
    numbers: list[NDArray[np.int64]] = []
    done, rejects = 0, Rejects()
    for chunk in source.batches(detector.schema, extra=columns.names, on_reject=rejects):
        batch = encode(detector.schema, chunk.select(list(detector.schema.names)))
        scores.append(detector.scores(batch, threads=request.threads or cores()).total.numpy())
        for name, arrays in kept.items():
            arrays.append(chunk.column(name))
        numbers.append(stream.numbers_of(chunk, done))
        done += chunk.num_rows
        tell("scoring", done, source.rows)
    rejected = left_out(rejects)
    total = np.concatenate(scores)
    there = ~np.isnan(total)
    if not there.any():
        raise DataError(f"no row of {source.where} has a value in any column of the model.")
    found = {name: pa.chunked_array(arrays) for name, arrays in kept.items()}
    labels = _labels(found, columns, detector, request)
    normal = there if labels is None else there & labels.normal
    return CalibrationRows(
        normal=total[normal],
        anomalous=total[there & ~normal],
        group=None if columns.group is None else found[columns.group].filter(pa.array(normal)),
        labels=labels,
        per_day=request.rows_per_day or (None if columns.time is None else _per_day(found, columns.time, source, numbers)),
        null_scores=int((~there).sum()),
        rejected=rejected,
    )


def _per_day(found: dict[str, pa.ChunkedArray], time: str, source: Source, numbers: list[NDArray[np.int64]]) -> float:
    try:
        return rows_per_day(found[time], time)
    except BadCell as error:
        raise in_its_file(error, source.parts, int(np.concatenate(numbers)[error.row]), readable=False) from None


def _labels(found: dict[str, pa.ChunkedArray], columns: Columns, detector: Detector, request: CalibrateRequest) -> Labels | None:
    if columns.label is None:
        return None
    wanted = request.normal_labels or detector.config.data.normal_labels
    labels = read_labels(found[columns.label], wanted, columns.label)
    choosing = request.maximize is not None or request.cost_miss is not None
    (refuse_one_class if choosing else refuse_without_normal)(labels, columns.label, wanted)
    return labels
