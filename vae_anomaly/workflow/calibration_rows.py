"""Rows of a calibration: check the request, choose the columns to read, and score the rows.

Every contradiction is refused before the data are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.operating_point import DayRate, rows_per_day
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.in_time import Scorer, total_scores
from vae_anomaly.detector.series import SeriesScores
from vae_anomaly.errors import BadCell, ConfigError, DataError
from vae_anomaly.messages import OnProgress, absent_text, shorten_list
from vae_anomaly.schema.keys import Labels, check_both_classes, check_normal_rows, read_labels
from vae_anomaly.tables.csv_rejects import RejectedRows, Rejects
from vae_anomaly.tables.error_location import with_location
from vae_anomaly.tables.source import Source
from vae_anomaly.workflow.models import cores, encoded_chunks, located_in, refuse_learned_label, seen_at_fit
from vae_anomaly.workflow.requests import CalibrateRequest
from vae_anomaly.workflow.score_counts import left_out

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationRows:
    """Scores, float64, of the rows labelled normal and of all others; ``groups`` are those of the normal rows.

    ``entity`` int64: the series of each normal row of rows in time, in their order; None for single rows.
    ``null_scores`` rows have only missing cells; ``rejected`` rows are unreadable.
    """

    normal_scores: _Floats
    anomalous_scores: _Floats
    groups: pa.ChunkedArray | None
    entity: NDArray[np.int64] | None
    labelled: bool
    per_day: DayRate | None
    null_scores: int
    rejected: RejectedRows | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationColumns:
    """Columns read in addition to those of the model; None: not needed."""

    label: str | None
    time: str | None
    group: str | None

    @property
    def names(self) -> list[str]:
        """Distinct names of these columns."""
        return list(dict.fromkeys(name for name in (self.label, self.time, self.group) if name is not None))


def check_calibrate_request(request: CalibrateRequest) -> None:
    """Raise ConfigError for options that contradict each other, lack a counterpart or are out of range."""
    costs = request.cost_false_alarm is not None or request.cost_miss is not None
    ways = {
        "--alpha": request.alpha is not None,
        "--alerts-per-day": request.alerts_per_day is not None,
        "--cost-false-alarm and --cost-miss": costs,
        "--maximize": request.maximize is not None,
    }
    chosen = [way for way, is_set in ways.items() if is_set]
    if len(chosen) > 1:
        raise ConfigError(f"alpha is chosen in {len(chosen)} ways: {'; '.join(chosen)}. Give one of them.")
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


def calibration_columns(request: CalibrateRequest, detector: Detector, source: Source) -> CalibrationColumns:
    """Choose the columns to read. Raises ConfigError for one that is absent, or required by an option and not named."""
    data = detector.config.data
    label = request.label_column or (data.label_column if data.label_column in source.names else None)
    has_days = detector.series is None or detector.series.is_clock  # plain numbers in the time column of a series have none
    time = request.time_column or (data.time_column if data.time_column in source.names and has_days else None)
    for option, name in (
        ("--label-column", request.label_column),
        ("--time-column", request.time_column),
        ("--group-by", request.group_by),
    ):
        if name and name not in source.names:
            raise ConfigError(f"{option} names a column that is not in the data: {absent_text([name], source.names)}")
    if label is not None:
        refuse_learned_label(detector, label)
    needs_labels = "--maximize" if request.maximize else "--cost-miss" if request.cost_miss is not None else None
    if needs_labels and label is None:
        raise ConfigError(f"{needs_labels} needs labels, to measure the recall of a threshold. Name their column with --label-column.")
    if request.anomaly_rate is not None and needs_labels is None:
        raise ConfigError("--anomaly-rate is for --maximize and --cost-miss; neither is given.")
    if request.alerts_per_day is not None and time is None and request.rows_per_day is None:
        raise ConfigError(
            "--alerts-per-day needs the number of rows a day: name a column of timestamps with --time-column, or give --rows-per-day."
        )
    if detector.series is not None and (request.method == "gpd" or request.group_by):
        option = "--method gpd" if request.method == "gpd" else "--group-by"
        raise ConfigError(f"{option} is for rows that are no time series; this model has one threshold, from blocks of time. Leave it out.")
    source.check_present(detector.schema)
    return CalibrationColumns(label=label, time=None if request.rows_per_day else time, group=_group_column(request, detector, source))


def _group_column(request: CalibrateRequest, detector: Detector, source: Source) -> str | None:
    """Return the group column of the request (``--group-by ''``: none), by default that of the current threshold."""
    groups = detector.threshold.groups
    if request.group_by is not None or groups is None or request.method == "gpd":
        return request.group_by or None
    if groups.column not in source.names:
        raise ConfigError(
            f"this model has a threshold for each {groups.column!r}, and {source.files[0].path} has no such column. "
            "Give rows with it, or --group-by '' for one threshold."
        )
    return groups.column


def check_unseen(source: Source, detector: Detector) -> None:
    """Raise DataError for the files of the fit, also under other names: their scores are too low for a calibration."""
    seen = seen_at_fit(detector, source)
    if seen:
        where = source.where if len(seen) == len(source.files) else f"{source.where}, of which the fit read {shorten_list(seen, length=3)},"
        raise DataError(
            f"{where} holds the rows that the model was fitted on, and rows it has learned from score lower than new ones. "
            "Calibrate on normal rows that the fit has not seen."
        )


def score_calibration_rows(
    detector: Detector, source: Source, columns: CalibrationColumns, request: CalibrateRequest, tell: OnProgress
) -> CalibrationRows:
    """Score the rows in chunks; only scores, labels, times and groups are held in memory."""
    scores: list[_Floats] = []
    numbers: list[NDArray[np.int64]] = []
    chunks: dict[str, list[pa.Array]] = {name: [] for name in columns.names}
    rejects, scorer, entities = Rejects(), Scorer(detector, threads=request.threads or cores()), list[NDArray[np.int64]]()
    for chunk in encoded_chunks(detector, source, columns.names, rejects, tell, stage="scoring"):
        numbers.append(chunk.numbers)
        with located_in(source, numbers):
            found = scorer(chunk.rows, chunk.cells)
        scores.append(total_scores(found))
        if isinstance(found, SeriesScores) and found.times is not None:
            entities.append(found.times.entity)
        for name, arrays in chunks.items():
            arrays.append(chunk.rows.column(name))
    rejected = left_out(rejects)
    total = np.concatenate(scores)
    has_score = ~np.isnan(total)
    if not has_score.any():
        raise DataError(f"no row of {source.where} has a value in any column of the model.")
    values = {name: pa.chunked_array(arrays) for name, arrays in chunks.items()}
    labels = _labels(values, columns, detector, request)
    normal = has_score if labels is None else has_score & labels.normal
    return CalibrationRows(
        normal_scores=total[normal],
        anomalous_scores=total[has_score & ~normal],
        groups=None if columns.group is None else values[columns.group].filter(pa.array(normal)),
        entity=np.concatenate(entities)[normal] if entities else None,
        labelled=labels is not None,
        per_day=_per_day(request, values, columns.time, source, numbers),
        null_scores=int((~has_score).sum()),
        rejected=rejected,
    )


def _per_day(
    request: CalibrateRequest, values: Mapping[str, pa.ChunkedArray], time: str | None, source: Source, numbers: list[NDArray[np.int64]]
) -> DayRate | None:
    """Return the rows on a day as the request gives them, or as the times say; None without either."""
    if request.rows_per_day is not None:
        return DayRate(rows=request.rows_per_day, note="")
    if time is None:
        return None
    try:
        return rows_per_day(values[time], time, source.reading.time_format)
    except BadCell as error:
        raise with_location(error, source.readers, int(np.concatenate(numbers)[error.row]), readable=False) from None


def _labels(
    values: Mapping[str, pa.ChunkedArray], columns: CalibrationColumns, detector: Detector, request: CalibrateRequest
) -> Labels | None:
    if columns.label is None:
        return None
    data = detector.config.data
    normal_labels = request.normal_labels or data.normal_labels
    labels = read_labels(values[columns.label], normal_labels, columns.label)
    needs_both = request.maximize is not None or request.cost_miss is not None
    (check_both_classes if needs_both else check_normal_rows)(labels, columns.label, normal_labels)
    return labels
