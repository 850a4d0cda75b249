"""Outliers among the training and calibration rows of a finished fit: reported with reasons, never removed.

Each row is scored by networks or exemplars that did not learn from it. Trimming before a robust fit is ``robust``.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.explain.contributions import Alarm, Reason, expected_texts, explain_rows, value_texts
from vae_anomaly.fitting.held_out import FitRecord
from vae_anomaly.fitting.robust import fold_normalized, outlier_limit
from vae_anomaly.schema.encoding import model_order
from vae_anomaly.schema.keys import key_text
from vae_anomaly.schema.schema import conform

# Rows that are screened, evenly spread over the table.
MOST_SCREENED = 20_000
# Rows that are reported.
OUTLIERS_SHOWN = 5
# Fewer scores have no meaningful 90 % quantile.
FEWEST_SCREENED = 10
# Columns that are named as reasons of a row.
REASONS_SHOWN = 3


def screened_rows(rows: int) -> NDArray[np.int64]:
    """Return at most 20,000 of ``rows`` row indices, evenly spread."""
    return np.arange(0, rows, max(1, -(-rows // MOST_SCREENED)))


def outlier_positions(scores: NDArray[np.float64], fold: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Return the positions of at most five scores above both ``threshold`` and ``outlier_limit``, the highest first.

    ``scores`` ``[n]``, NaN: no score. They are normalized within their ``fold`` ``[n]`` before the limit is applied.
    """
    normalized = fold_normalized(scores, fold)
    known = normalized[~np.isnan(normalized)]
    if len(known) < FEWEST_SCREENED:
        return np.empty(0, dtype=np.int64)
    limit = outlier_limit(known)
    above = np.flatnonzero((np.nan_to_num(normalized, nan=-np.inf) > limit) & (np.nan_to_num(scores, nan=-np.inf) > threshold))
    return above[np.argsort(-normalized[above], kind="stable")[:OUTLIERS_SHOWN]]


def suspicious_rows(fitted: FitRecord, table: pa.Table, numbers: NDArray[np.int64], ids: Sequence[str]) -> tuple[Alarm, ...]:
    """Return at most five outliers among at most 20,000 evenly spread rows of ``table``, the highest score first, with reasons.

    ``numbers`` ``[n]`` are the row numbers in the input; ``ids`` are the id columns to copy. None of rows in time, of which blocks tell.
    """
    if fitted.smoothed is not None:
        return ()
    rows = screened_rows(len(fitted.batch))
    scores = fitted.held_out_scores(rows)
    threshold = fitted.detector.threshold
    positions = outlier_positions(scores, fitted.fold(rows), threshold.value)
    p_values = threshold.p_values(scores)
    return tuple(
        Alarm(
            row=int(numbers[rows[i]]),
            ids={name: key_text(table[name][int(rows[i])]) for name in ids},
            score=float(scores[i]),
            p_value=float(p_values[i]),
            reasons=_reasons(fitted, table, int(rows[i])),
        )
        for i in positions.tolist()
    )


def _reasons(fitted: FitRecord, table: pa.Table, row: int) -> tuple[Reason, ...]:
    """Return the columns with the largest contributions to the score of a row, the largest first."""
    cells = fitted.batch.rows(slice(row, row + 1))
    schema = fitted.detector.schema
    explanation, columns = explain_rows(fitted.held_out_ensemble(row), cells), model_order(schema)
    written = conform(schema, table.slice(row, 1).combine_chunks().to_batches()[0], where="the data")
    contribution = explanation.contribution[0].numpy()
    value, expected = value_texts(columns, cells, written), expected_texts(columns, explanation)
    return tuple(
        Reason(column=columns[j].name, value=value(0, j), expected=expected(0, j), contribution=float(contribution[j]))
        for j in np.argsort(-contribution, kind="stable")[:REASONS_SHOWN].tolist()
    )
