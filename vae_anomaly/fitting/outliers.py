"""Which of the normal rows of a fit look as if they were not, and why: seen by what has not learned from them.

Knows a finished fit; nothing of networks, files or MLflow.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.explain.top_features import Alarm, Reason, expected_texts, value_texts
from vae_anomaly.fitting.held_out import Fitted
from vae_anomaly.fitting.robust import looked_at, suspects
from vae_anomaly.schema.encoding import Batch, model_order
from vae_anomaly.schema.keys import key_text

# Columns that are named.
REASONS = 3


def suspicious_rows(fitted: Fitted, table: pa.Table, numbers: NDArray[np.int64], ids: Sequence[str]) -> tuple[Alarm, ...]:
    """Return at most five rows that stand out, the highest score first; ``numbers`` ``[n]`` are those of the rows in the data.

    At most 20,000 rows are looked at, evenly spread.
    """
    rows = looked_at(len(fitted.batch))
    scores = fitted.unseen_scores(rows)
    threshold = fitted.detector.threshold
    found = suspects(scores, fitted.fold(rows), threshold.value)
    p_values = threshold.p_values(scores)
    return tuple(
        Alarm(
            row=int(numbers[rows[i]]),
            ids={name: key_text(table[name][int(rows[i])]) for name in ids},
            score=float(scores[i]),
            p_value=float(p_values[i]),
            reasons=_reasons(fitted, int(rows[i])),
        )
        for i in found.tolist()
    )


def _reasons(fitted: Fitted, row: int) -> tuple[Reason, ...]:
    """Return the columns that contribute most to the score of a row, the largest first."""
    cells: Batch = fitted.batch.rows(slice(row, row + 1))
    explanation, columns = explain_rows(fitted.unseen_ensemble(row), cells), model_order(fitted.detector.schema)
    contribution = explanation.contribution[0].numpy()
    value, expected = value_texts(columns, cells), expected_texts(columns, explanation)
    return tuple(
        Reason(
            column=columns[j].name,
            value=value(0, j),
            expected=expected(0, j),
            contribution=float(contribution[j]),
        )
        for j in np.argsort(-contribution, kind="stable")[:REASONS].tolist()
    )
