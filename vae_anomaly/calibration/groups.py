"""A threshold for each group of rows: exact where a group has rows enough, borrowed from all groups where it has not.

Knows scores and codes of groups; no model. Which promise holds for whom:

* A group with at least as many calibration rows as alpha needs (⌈1/alpha⌉ − 1) has the conformal threshold of its own rows: the
  false-alarm rate *within the group* is at most alpha, exactly, for rows exchangeable within it (group-conditional or Mondrian
  conformal prediction, Vovk 2012).
* A smaller group counts its own rows fully and those of the others with a weight between 0 and 1: the nearer it is to enough, the less it
  borrows. No exact promise; it errs towards the pooled threshold.
* A group of fewer than 20 rows, a group that was not there at calibration and a row without a group have the pooled threshold: the
  promise then holds on average over a mixture of groups like that of the calibration rows, not within the group.

The weights are on *rows*: p_g(s) = (1 + #{own ≥ s} + λ_g #{others ≥ s}) / (1 + n_g + λ_g m_g), for m_g rows of others. For any λ_g ≥ 0 that
falls as s grows, so a higher score never gets the higher p-value and a flag is p_g ≤ alpha; a mean of two thresholds would have no
such p-value. λ_g = 0 is the group alone, λ_g = 1 is the pooled threshold.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import calibration_rows_needed
from vae_anomaly.schema.keys import distinct, label_text

# A quantile of fewer rows than this says more about chance than about the group.
LEAST_GROUP_ROWS = 20
# Others lend so many times the rows that the group lacks: the 1 in 1 + n then costs a tenth of alpha at most.
LENT_TIMES = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Groups of the column ``column``: ``names`` ``[g]``, ``code`` int64 ``[n]`` of the ascending calibration scores (−1: none).

    ``lent`` float64 ``[g]`` is the weight λ of the rows of others, ``values`` float64 ``[g]`` are the thresholds.
    """

    column: str
    names: tuple[str, ...]
    code: NDArray[np.int64]
    lent: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Calibration rows of each group."""
        return np.bincount(self.code[self.code >= 0], minlength=len(self.names)).astype(np.int64)

    def codes(self, column: pa.Array) -> NDArray[np.int64]:
        """Return the code of every row, −1 where it has no group or one that was not there at calibration."""
        place = {name: i for i, name in enumerate(self.names)}
        names, indices = group_names(column, self.column)
        return (
            np.array([-1 if name is None else place.get(name, -1) for name in names], dtype=np.int64)[indices]
            if names
            else np.empty(0, np.int64)
        )

    def at(self, ordered: NDArray[np.float64], alpha: float) -> "Groups":
        """Return the weights and thresholds for another alpha, which the pooled rows must allow."""
        lent = np.array([weight_of_others(int(n), len(ordered), alpha) for n in self.rows])
        values = [_value(ordered, np.where(self.code == g, 1.0, lent[g]), alpha) for g in range(len(self.names))]
        return replace(self, lent=lent, values=np.array(values, dtype=np.float64))

    def p_values(
        self,
        ordered: NDArray[np.float64],
        scores: NDArray[np.float64],
        codes: NDArray[np.int64],
        pooled: NDArray[np.float64],
        *,
        low: bool = False,
    ) -> NDArray[np.float64]:
        """Return the p-values of the groups' own rows where ``codes`` names one, else ``pooled``; ``low`` counts scores from below."""
        found = pooled.copy()
        for g in np.unique(codes[codes >= 0]).tolist():
            rows = codes == g
            weight = np.where(self.code == g, 1.0, self.lent[g])
            above = _weight_from(weight)
            if low:
                counted = above[0] - above[np.searchsorted(ordered, scores[rows], side="right")]
            else:
                counted = above[np.searchsorted(ordered, scores[rows], side="left")]
            found[rows] = (1.0 + counted) / (1.0 + above[0])
        return found


def make_groups(name: str, column: pa.Array | pa.ChunkedArray, scores: NDArray[np.float64], alpha: float) -> Groups:
    """Return the groups of calibration ``scores`` ``[n]`` in any order, with the ``column`` ``[n]`` that tells them apart."""
    texts, place = group_names(column, name)
    names = tuple(dict.fromkeys(text for text in texts if text is not None))
    code = np.array([-1 if text is None else names.index(text) for text in texts], dtype=np.int64)[place]
    order = np.argsort(scores, kind="stable")
    empty = np.zeros(len(names))
    return Groups(column=name, names=names, code=code[order], lent=empty, values=empty).at(scores[order], alpha)


def group_names(column: pa.Array | pa.ChunkedArray, name: str) -> tuple[list[str | None], NDArray[np.int64]]:
    """Return the groups of a column as text, and for each row the place of its own; None stands for no group.

    Raises DataError, with the ``name`` of the column, where its cells cannot be compared.
    """
    values, places = distinct(column, name)
    return [label_text(value) or None for value in values], places


def weight_of_others(own: int, rows: int, alpha: float) -> float:
    """Return λ for a group with ``own`` of the ``rows`` calibration rows.

    0 from what alpha needs on; 1 below 20 rows; between, others lend ten times the rows that are lacking, each of theirs at most once.
    """
    lacking = calibration_rows_needed(alpha) - own
    if lacking <= 0:
        return 0.0
    others = rows - own
    return 1.0 if own < LEAST_GROUP_ROWS or others <= 0 else min(1.0, LENT_TIMES * lacking / others)


def _value(ordered: NDArray[np.float64], weight: NDArray[np.float64], alpha: float) -> float:
    """Return the smallest calibration score v with (1 + weight above v) / (1 + all weight) ≤ alpha.

    A score above v then has p ≤ alpha and one at or below v has p > alpha, ties included.
    """
    above = _weight_from(weight)
    after = np.searchsorted(ordered, ordered, side="right")
    allowed = np.flatnonzero(1.0 + above[after] <= alpha * (1.0 + above[0]) + 1e-9)
    return float(ordered[allowed[0]]) if len(allowed) else math.inf


def _weight_from(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of all calibration rows from place i on, ``[n + 1]``; summed from above, so that whole numbers stay whole."""
    return np.append(np.cumsum(weight[::-1])[::-1], 0.0)
