"""``explain``: single rows with the value, expectation and contribution of every column, and the smallest change that ends an alarm.

Data are read in chunks; only the explained rows are held in memory.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.choices import ColumnOrder
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.in_time import Scorer, total_scores
from vae_anomaly.detector.series import SeriesScores
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.explain.contributions import CellText, expected_texts, explain_rows, value_texts
from vae_anomaly.explain.counterfactual import find_counterfactual
from vae_anomaly.messages import OnProgress, ignore_progress
from vae_anomaly.model.ensemble import Scores
from vae_anomaly.schema.encoding import Batch, model_order
from vae_anomaly.schema.keys import key_text
from vae_anomaly.schema.pivoting import ids_of_pivot
from vae_anomaly.tables.csv_rejects import Rejects
from vae_anomaly.tables.source import Source
from vae_anomaly.workflow.models import EncodedChunk, cores, encoded_chunks, located_in, open_data, open_model
from vae_anomaly.workflow.requests import ExplainRequest
from vae_anomaly.workflow.results import CellChange, ColumnReason, ExplainResult, RowExplained, SmallestChange
from vae_anomaly.workflow.score_counts import left_out

WORST_EXPLAINED = 3  # rows explained if neither rows nor their number are given


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChosenRow:
    """A row to explain: its number, the values of its key columns, and its cells as a batch of one row; ``rows`` has them as conformed.

    ``in_time``: the score of a row in time.
    """

    number: int
    ids: dict[str, str | None]
    cells: Batch
    rows: pa.RecordBatch
    in_time: SeriesScores | None


def explain_files(request: ExplainRequest, *, tell: OnProgress = ignore_progress) -> ExplainResult:
    """Explain single rows.

    Raises ConfigError for both ``rows`` and ``worst``, DataError for a row number beyond the data, and the errors of ``score`` for data and
    models.
    """
    if request.rows and request.worst is not None:
        raise ConfigError("--rows and --worst are two ways to say which rows; give one of them.")
    loaded = open_model(request.model, uri=request.tracking_uri)
    detector = loaded.detector
    threshold = detector.threshold if request.alpha is None else detector.threshold.at(request.alpha)
    if request.counterfactual and detector.series is not None:
        raise ConfigError("--counterfactual changes one row, and the score of rows in time depends on many; leave it out.")
    source = open_data(detector, request.data, request)
    request = replace(request, id_columns=ids_of_pivot(source.reading.pivot, request.id_columns))
    rejects = Rejects()
    chosen = (_numbered if request.rows else _worst)(detector, source, request, rejects, tell)
    return ExplainResult(
        rows=tuple(_explained(detector, threshold, row, request) for row in chosen),
        alpha=threshold.alpha,
        threshold=threshold.value,
        model=loaded.name,
        next_steps=(),
        rejected=left_out(rejects),
    )


def _numbered(detector: Detector, source: Source, request: ExplainRequest, rejects: Rejects, tell: OnProgress) -> list[ChosenRow]:
    """Return the requested rows in the order of the request."""
    chosen, end = dict[int, ChosenRow](), 0
    for chunk, scores in _scored(detector, source, request, rejects, tell):
        numbers = chunk.numbers.tolist()
        end = numbers[-1] + 1
        for number in request.rows:
            if numbers[0] <= number < end and number in numbers:
                chosen[number] = _row(chunk, numbers.index(number), request.id_columns, scores)
        if len(chosen) == len(set(request.rows)):
            break
    absent = [number for number in request.rows if number not in chosen]
    if absent and absent[0] < end:
        raise DataError(f"row {absent[0]:,} of {source.where} cannot be read and is left out; without --on-error skip the reason is shown.")
    if absent:
        raise DataError(f"there is no row {absent[0]:,} in {source.where}: it has {end:,} rows, numbered from 0.")
    return [chosen[number] for number in request.rows]


def _scored(
    detector: Detector, source: Source, request: ExplainRequest, rejects: Rejects, tell: OnProgress
) -> Iterator[tuple[EncodedChunk, Scores | SeriesScores | None]]:
    """Yield the chunks of the data with their scores; of single rows without, where only some of them are asked for by number."""
    scorer, seen = Scorer(detector, threads=request.threads or cores()), list[NDArray[np.int64]]()
    for chunk in encoded_chunks(detector, source, request.id_columns, rejects, tell, stage="reading"):
        if detector.series is None and request.rows:
            yield chunk, None
            continue
        seen.append(chunk.numbers)
        with located_in(source, seen):
            scores = scorer(chunk.rows, chunk.cells)
        yield chunk, scores


def _worst(detector: Detector, source: Source, request: ExplainRequest, rejects: Rejects, tell: OnProgress) -> list[ChosenRow]:
    """Return the rows with the highest scores, highest first, and of equal scores the earliest."""
    count = WORST_EXPLAINED if request.worst is None else request.worst
    heap: list[tuple[float, int, ChosenRow]] = []
    for chunk, found in _scored(detector, source, request, rejects, tell):
        assert found is not None
        scores = np.nan_to_num(total_scores(found), nan=-np.inf)
        for i in np.argsort(-scores, kind="stable")[:count].tolist():
            if np.isfinite(scores[i]):
                row = _row(chunk, i, request.id_columns, found)
                # Row numbers are unique, so that two rows are never compared themselves.
                (heapq.heappush if len(heap) < count else heapq.heappushpop)(heap, (float(scores[i]), -row.number, row))
    if not heap:
        raise DataError(f"no row of {source.where} has a value in any column of the model.")
    return [row for _, _, row in sorted(heap, key=lambda entry: (-entry[0], -entry[1]))]


def _row(chunk: EncodedChunk, i: int, id_columns: Sequence[str], scores: Scores | SeriesScores | None) -> ChosenRow:
    ids = {name: key_text(chunk.rows.column(name)[i]) for name in id_columns}
    return ChosenRow(
        number=int(chunk.numbers[i]),
        ids=ids,
        cells=chunk.cells.rows(slice(i, i + 1)),
        rows=chunk.rows.take(pa.array([i])),
        in_time=scores.row(i) if isinstance(scores, SeriesScores) else None,
    )


def _explained(detector: Detector, threshold: Threshold, row: ChosenRow, request: ExplainRequest) -> RowExplained:
    """Explain one row; if all its cells are missing it has neither score nor columns."""
    scores = detector.scores(row.cells) if row.in_time is None else row.in_time
    total = total_scores(scores)
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
        columns=_columns(detector, row, request.order),
        smallest_change=_change(detector, threshold, row) if request.counterfactual and flagged else None,
    )


def _columns(detector: Detector, row: ChosenRow, order: ColumnOrder) -> tuple[ColumnReason, ...]:
    """Return all columns, largest contribution or z first."""
    columns = model_order(detector.schema)
    if row.in_time is None:
        explanation = explain_rows(detector.ensemble, row.cells)
        value: CellText = value_texts(columns, row.cells, row.rows)
        expected = expected_texts(columns, explanation)
        reconstruction, kl = explanation.reconstruction[0], explanation.kl[0]
    else:
        in_time = row.in_time.explain(detector.ensemble, np.zeros(1, dtype=np.int64))
        value, expected = in_time.texts(columns)
        reconstruction, kl = (sum((getattr(part, name)[0] for part in in_time.parts), torch.zeros(())) for name in ("reconstruction", "kl"))
    contribution = (reconstruction + kl).tolist()
    quality = {q.name: q for q in detector.quality}
    z = None if detector.usual is None else detector.usual.z(reconstruction + kl).tolist()
    reasons = [
        ColumnReason(
            column=column.name,
            kind=column.kind,
            value=value(0, j),
            expected=expected(0, j),
            contribution=contribution[j],
            reconstruction=float(reconstruction[j]),
            kl=float(kl[j]),
            z=None if z is None else z[j],
            low=quality[column.name].low,
            high=quality[column.name].high,
        )
        for j, column in enumerate(columns)
    ]
    return tuple(sorted(reasons, key=lambda r: -(r.z if order == "z" and r.z is not None else r.contribution)))


def _change(detector: Detector, threshold: Threshold, row: ChosenRow) -> SmallestChange:
    """Return the smallest change that ends the alarm, with values in raw units."""
    change, columns = find_counterfactual(detector.ensemble, row.cells, threshold.value), model_order(detector.schema)
    value, instead = value_texts(columns, row.cells, row.rows), value_texts(columns, change.row)
    return SmallestChange(
        found=change.reached,
        score=change.score,
        cells=tuple(CellChange(column=columns[j].name, value=value(0, j), instead=instead(0, j)) for j in change.columns),
    )
