"""Single rows in full: every column's value, what was expected there, what it contributed, and what would end the alarm.

Reads the data as a stream and keeps the asked rows only. Knows nothing about networks or file formats.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.explain.counterfactual import smallest_change
from vae_anomaly.explain.top_features import expected_texts, value_texts
from vae_anomaly.messages import Tell, tell_nobody
from vae_anomaly.schema.encoding import Batch, encode, model_order
from vae_anomaly.schema.keys import key_text
from vae_anomaly.tables import stream
from vae_anomaly.tables.csv_rejects import Rejects
from vae_anomaly.tables.source import Source, open_source
from vae_anomaly.workflow.models import cores, open_model
from vae_anomaly.workflow.results import CellChange, ColumnReason, ExplainResult, RowExplained, SmallestChange
from vae_anomaly.workflow.score_counts import left_out

Order = Literal["contribution", "z"]
WORST_EXPLAINED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainRequest:
    """Which rows, by their numbers from 0 or the ``worst`` by score, and which model; None: what the model says."""

    data: tuple[str, ...]
    model: str
    rows: tuple[int, ...] = ()
    worst: int | None = None
    id_columns: tuple[str, ...] = ()
    missing_values: tuple[str, ...] | None = None
    on_error: Literal["stop", "skip"] = "stop"
    alpha: float | None = None
    order: Order = "contribution"
    counterfactual: bool = False
    threads: int | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """One row: its number, its key columns and its cells."""

    number: int
    ids: dict[str, str | None]
    cells: Batch


def explain_files(request: ExplainRequest, *, tell: Tell = tell_nobody) -> ExplainResult:
    """Explain single rows.

    Raises ConfigError when rows are asked for in two ways, DataError for a row number that the data do not reach, and what ``score``
    raises for data and models.
    """
    if request.rows and request.worst is not None:
        raise ConfigError("--rows and --worst are two ways to say which rows; give one of them.")
    opened = open_model(request.model, uri=request.tracking_uri)
    detector = opened.detector
    threshold = detector.threshold if request.alpha is None else detector.threshold.at(request.alpha)
    missing = detector.config.data.missing_values if request.missing_values is None else request.missing_values
    source = open_source(request.data, missing_values=missing, on_error=request.on_error)
    rejects = Rejects()
    found = (_numbered if request.rows else _worst)(detector, source, request, rejects, tell)
    return ExplainResult(
        rows=tuple(_explained(detector, threshold, row, request) for row in found),
        alpha=threshold.alpha,
        threshold=threshold.value,
        model=opened.name,
        next_steps=(),
        rejected=left_out(rejects),
    )


def _chunks(
    detector: Detector, source: Source, ids: Sequence[str], rejects: Rejects, tell: Tell
) -> Iterator[tuple[list[int], pa.RecordBatch, Batch]]:
    """Yield the numbers of the rows of a chunk, the chunk and its cells."""
    rows = 0
    for chunk in source.batches(detector.schema, extra=ids, on_reject=rejects):
        yield stream.numbers_of(chunk, rows).tolist(), chunk, encode(detector.schema, chunk.select(list(detector.schema.names)))
        rows += chunk.num_rows
        tell("reading", rows, source.rows)


def _numbered(detector: Detector, source: Source, request: ExplainRequest, rejects: Rejects, tell: Tell) -> list[Found]:
    """Return the rows with the asked numbers, in the order asked for."""
    found, rows = {}, 0
    for numbers, chunk, cells in _chunks(detector, source, request.id_columns, rejects, tell):
        rows = numbers[-1] + 1
        for number in request.rows:
            if numbers[0] <= number < rows and number in numbers:
                found[number] = _found(number, numbers.index(number), chunk, cells, request.id_columns)
        if len(found) == len(set(request.rows)):
            break
    absent = [number for number in request.rows if number not in found]
    if absent and absent[0] < rows:
        raise DataError(f"row {absent[0]:,} of {source.where} cannot be read and is left out; without --on-error skip the reason is shown.")
    if absent:
        raise DataError(f"there is no row {absent[0]:,} in {source.where}: it has {rows:,} rows, numbered from 0.")
    return [found[number] for number in request.rows]


def _worst(detector: Detector, source: Source, request: ExplainRequest, rejects: Rejects, tell: Tell) -> list[Found]:
    """Return the rows with the highest scores, the highest first; of equal ones the earliest."""
    count = WORST_EXPLAINED if request.worst is None else request.worst
    kept: list[tuple[float, int, Found]] = []
    for numbers, chunk, cells in _chunks(detector, source, request.id_columns, rejects, tell):
        scores = np.nan_to_num(detector.scores(cells, threads=request.threads or cores()).total.numpy(), nan=-np.inf)
        for i in np.argsort(-scores, kind="stable")[:count].tolist():
            if np.isfinite(scores[i]):
                entry = (float(scores[i]), -numbers[i], _found(numbers[i], i, chunk, cells, request.id_columns))
                # Rows have different numbers, so that what was found is never compared.
                (heapq.heappush if len(kept) < count else heapq.heappushpop)(kept, entry)
    if not kept:
        raise DataError(f"no row of {source.where} has a value in any column of the model.")
    return [row for _, _, row in sorted(kept, key=lambda entry: (-entry[0], -entry[1]))]


def _found(number: int, i: int, chunk: pa.RecordBatch, cells: Batch, ids: Sequence[str]) -> Found:
    keys = {name: key_text(chunk.column(name)[i]) for name in ids}
    return Found(number=number, ids=keys, cells=cells.rows(slice(i, i + 1)))


def _explained(detector: Detector, threshold: Threshold, row: Found, request: ExplainRequest) -> RowExplained:
    """Say everything about one row; a row without any observed cell has no score and no reasons."""
    scores = detector.scores(row.cells)
    total = scores.total.numpy()
    if np.isnan(total[0]):
        return RowExplained(row=row.number, ids=row.ids)
    flagged = bool(threshold.flags(total)[0])
    return RowExplained(
        row=row.number,
        ids=row.ids,
        score=float(total[0]),
        reconstruction=float(scores.reconstruction[0]),
        kl=float(scores.kl[0]),
        p_value=float(threshold.p_values(total)[0]),
        is_anomaly=flagged,
        columns=_columns(detector, row.cells, request.order),
        smallest_change=_change(detector, threshold, row.cells) if request.counterfactual and flagged else None,
    )


def _columns(detector: Detector, cells: Batch, order: Order) -> tuple[ColumnReason, ...]:
    """Return every column, the largest contribution or z first."""
    explanation, columns = explain_rows(detector.ensemble, cells), model_order(detector.schema)
    value, expected, contribution = value_texts(columns, cells), expected_texts(columns, explanation), explanation.contribution[0].tolist()
    quality = {q.name: q for q in detector.quality}
    z = None if detector.usual is None else detector.usual.z(explanation.contribution)[0].tolist()
    reasons = [
        ColumnReason(
            column=column.name,
            kind=column.kind,
            value=value(0, j),
            expected=expected(0, j),
            contribution=contribution[j],
            reconstruction=float(explanation.reconstruction[0, j]),
            kl=float(explanation.kl[0, j]),
            z=None if z is None else z[j],
            low=quality[column.name].low,
            high=quality[column.name].high,
        )
        for j, column in enumerate(columns)
    ]
    return tuple(sorted(reasons, key=lambda r: -(r.z if order == "z" and r.z is not None else r.contribution)))


def _change(detector: Detector, threshold: Threshold, cells: Batch) -> SmallestChange:
    """Return the smallest change that ends the alarm, in raw units."""
    found, columns = smallest_change(detector.ensemble, cells, threshold.value), model_order(detector.schema)
    value, instead = value_texts(columns, cells), value_texts(columns, found.row)
    return SmallestChange(
        found=found.found,
        score=found.score,
        cells=tuple(CellChange(column=columns[j].name, value=value(0, j), instead=instead(0, j)) for j in found.places),
    )
