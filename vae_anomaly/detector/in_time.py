"""Rows of a table as time series: their times and entities, their scores by a detector, and their reasons.

A detector of rows in time has a ``series``; its schema names the time column and, for several entities, the group column.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.groups import group_names
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.series import SeriesScores, SeriesState, joined_rows, no_state, score_series
from vae_anomaly.errors import BadCell, SchemaMismatch
from vae_anomaly.explain.contributions import feature_lists
from vae_anomaly.messages import absent_text
from vae_anomaly.model.ensemble import Scores
from vae_anomaly.schema.encoding import Batch, model_order
from vae_anomaly.schema.history import Times
from vae_anomaly.schema.keys import time_values
from vae_anomaly.schema.parsing import mask_tokens
from vae_anomaly.schema.schema import Schema

# Where a row is that an error names by its number over all batches; the caller that knows the files replaces it.
IN_ALL = "the data"
# Columns that an event names.
EVENT_REASONS = 3


def times_of(table: pa.Table, schema: Schema, time_format: str | None) -> Times | None:
    """Return the times and entities of the rows of a fit; None without a time column. Raises BadCell and DataError."""
    if schema.time is None:
        return None
    value, is_clock = time_values(table[schema.time], schema.time, time_format)
    if schema.group is None:
        return Times(value=value, entity=np.zeros(table.num_rows, dtype=np.int64), is_clock=is_clock)
    names, index = group_names(table[schema.group], schema.group)
    ranked = sorted(range(len(names)), key=lambda i: (names[i] is not None, names[i] or ""))
    return Times(value=value, entity=np.argsort(np.array(ranked))[index], is_clock=is_clock)


def start_of(detector: Detector) -> SeriesState:
    """Return the state of the series before the first row."""
    assert detector.series is not None
    numbers = sum(column.kind == "numeric" for column in detector.schema.columns)
    return no_state(detector.ensemble, detector.series, numbers, len(detector.schema.columns) - numbers)


def _entities(detector: Detector, raw: pa.RecordBatch) -> tuple[list[str | None], NDArray[np.int64]]:
    """Return the names of the entities of the rows, and the index of each row's."""
    group = detector.schema.group
    if group is None:
        return [None], np.zeros(raw.num_rows, dtype=np.int64)
    return group_names(mask_tokens(raw.column(group), detector.config.data.missing_values), group)


def _clock(detector: Detector, raw: pa.RecordBatch) -> tuple[NDArray[np.float64], bool]:
    """Return the times of the rows, and whether they are in seconds. Raises BadCell."""
    data, column = detector.config.data, detector.schema.time
    assert column is not None
    return time_values(mask_tokens(raw.column(column), data.missing_values), column, data.time_format)


def score_in_time(
    detector: Detector,
    raw: pa.RecordBatch,
    cells: Batch,
    state: SeriesState | None,
    *,
    threads: int = 1,
    first_row: int = 0,
    numbers: NDArray[np.int64] | None = None,
) -> tuple[SeriesScores, SeriesState]:
    """Score rows that continue the series of ``state``, None: at their start; ``raw``: the rows with their time and group columns.

    Raises SchemaMismatch for a column that is absent, BadCell with the row, its number in ``numbers`` or counted from ``first_row``, for a
    time that is missing, unreadable or before that of the row above of the same entity.
    """
    schema, series = detector.schema, detector.series
    assert series is not None
    assert schema.time is not None
    absent = [name for name in detector.time_columns if name not in raw.schema.names]
    if absent:
        raise SchemaMismatch(
            f"{IN_ALL} lacks the time or group column of this model of rows in time: {absent_text(absent, raw.schema.names)}"
        )
    state = start_of(detector) if state is None else state
    names, index = _entities(detector, raw)
    try:
        value, is_clock = _clock(detector, raw)
        if is_clock != series.is_clock:
            kinds = ("plain numbers", "times")
            raise SchemaMismatch(
                f"time column {schema.time!r} holds {kinds[is_clock]} in {IN_ALL} and held {kinds[series.is_clock]} in the fit. "
                "Write it as in the fit, or name the format with --time-format."
            )
        state, entity = state.codes(names, index, series)
        return score_series(detector.ensemble, series, cells, state, entity, value, threads=threads)
    except BadCell as error:
        problem = error.problem
        if problem == "time goes back":
            who = "" if schema.group is None else f" of {schema.group} {names[index[error.row]]!r}"
            at = raw.column(schema.time)[error.row].as_py()
            problem = f"time goes back{who}: {schema.time} is {at}, before that of the row above"
        row = first_row + error.row if numbers is None else int(numbers[error.row])
        raise BadCell(problem, where=IN_ALL, row=row, remedies=error.remedies) from None


def rows_back(detector: Detector, raw: pa.RecordBatch, state: SeriesState) -> list[int]:
    """Return the rows whose time is before that of a row above of the same entity, or of the state. Raises what ``score_in_time`` does."""
    names, index = _entities(detector, raw)
    value, _ = _clock(detector, raw)
    last = dict(zip(state.names, state.time.tolist(), strict=True))
    back: list[int] = []
    for i, name in enumerate(names):
        rows = np.flatnonzero(index == i)
        highest = np.maximum.accumulate(np.r_[np.nan_to_num(last.get(name, -np.inf), nan=-np.inf), value[rows]])
        back += rows[value[rows] < highest[:-1]].tolist()
    return sorted(back)


def series_features(detector: Detector, scores: SeriesScores, rows: NDArray[np.int64], top: int | None, *, threads: int = 1) -> pa.Array:
    """Return the reasons of ``rows`` as ``explain.contributions.top_features`` does.

    An unseen level has no text: the row of the peak may be in a batch before.
    """
    columns, count = model_order(detector.schema), len(scores.total)
    if not len(rows):
        nothing = np.zeros((0, len(columns)))
        return feature_lists(nothing, columns, lambda _i, _j: None, lambda _i, _j: None, rows, count, top)
    found = scores.explain(detector.ensemble, rows, threads=threads)
    return feature_lists(found.contribution, columns, *found.texts(columns), rows, count, top)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PeakReasons:
    """Finds the reasons of any rows of a batch later: at the peak of an event, flagged or not."""

    detector: Detector
    scores: SeriesScores
    features: pa.Array
    top: int | None

    def peak(self, i: int) -> SeriesScores | list[Mapping[str, Any]]:
        """Return the reasons of row ``i``, where it has enough of them, or its scores, from which ``explain`` finds them."""
        known = self.features[i].is_valid and (self.top is None or self.top >= EVENT_REASONS)
        return self.features[i].as_py() if known else self.scores.row(i)

    def explain(self, peaks: Sequence[SeriesScores | list[Mapping[str, Any]]]) -> list[list[Mapping[str, Any]]]:
        """Return the reasons at peaks, of this batch or of those before."""
        unknown = [peak for peak in peaks if isinstance(peak, SeriesScores)]
        found: Iterator[list[Mapping[str, Any]]] = iter(())
        if unknown:
            found = iter(series_features(self.detector, joined_rows(unknown), np.arange(len(unknown)), EVENT_REASONS).to_pylist())
        return [next(found) if isinstance(peak, SeriesScores) else peak for peak in peaks]


class Scorer:
    """Scores the batches of a table one after the other; rows in time continue the series of the batches before."""

    def __init__(self, detector: Detector, *, threads: int = 1) -> None:
        self.detector, self.threads, self.rows = detector, threads, 0
        self.state: SeriesState | None = None

    def __call__(self, raw: pa.RecordBatch, cells: Batch) -> Scores | SeriesScores:
        """Score the next rows; ``raw`` has their time and group columns. Raises what ``score_in_time`` does."""
        if self.detector.series is None:
            return self.detector.scores(cells, threads=self.threads)
        found, self.state = score_in_time(self.detector, raw, cells, self.state, threads=self.threads, first_row=self.rows)
        self.rows += len(cells)
        return found


def total_scores(scores: Scores | SeriesScores) -> NDArray[np.float64]:
    """Return the scores as an array ``[n]``."""
    return np.asarray(scores.total)
