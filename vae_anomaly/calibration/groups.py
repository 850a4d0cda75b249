"""Group-conditional (Mondrian) conformal thresholds, with weighted rows of the other groups where a group is too small.

The guarantee depends on the size of the group:

* With at least ⌈1/alpha⌉ − 1 calibration rows of its own, a group has the conformal threshold of these rows: the false-alarm rate *within
  the group* is at most alpha, exactly, for rows exchangeable within it (Vovk 2012).
* A smaller group counts its own rows with weight 1 and the rows of the others with a weight between 0 and 1 that falls as the group
  approaches the required size. No exact guarantee; the threshold is biased towards the pooled one.
* Groups of fewer than 20 rows, groups unseen at calibration and rows without a group have the pooled threshold: the guarantee holds on
  average over a mixture of groups like that of the calibration rows, not within the group.

The weights apply to *rows*: p_g(s) = (1 + #{own ≥ s} + λ_g #{others ≥ s}) / (1 + n_g + λ_g m_g), for m_g rows of the others. For any
λ_g ≥ 0 it does not increase with s, so that flagging is p_g ≤ alpha; an average of two thresholds would have no such p-value. λ_g = 0 is
the group alone, λ_g = 1 is the pooled threshold.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import calibration_rows_needed
from vae_anomaly.schema.keys import factorize, label_text
from vae_anomaly.schema.levels import label_key

LEAST_GROUP_ROWS = 20  # a quantile of fewer rows is dominated by sampling error
BORROWED_PER_MISSING_ROW = 10.0  # makes the 1 in 1 + n cost at most a tenth of alpha


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Thresholds of the groups in ``column``.

    ``names`` ``[g]``; ``code`` int64 ``[n]``: the group of each ascending calibration score, −1 for none; ``lent`` float64 ``[g]``: the
    weight λ of the rows of other groups; ``values`` float64 ``[g]``: the thresholds.
    """

    column: str
    names: tuple[str, ...]
    code: NDArray[np.int64]
    lent: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Number of calibration rows of each group, int64 ``[g]``."""
        return np.bincount(self.code[self.code >= 0], minlength=len(self.names)).astype(np.int64)

    def codes(self, column: pa.Array) -> NDArray[np.int64]:
        """Return the index of each row's group, int64 ``[n]``; −1 for no group and for a group unseen at calibration."""
        index = {label_key(name): i for i, name in enumerate(self.names)} | {name: i for i, name in enumerate(self.names)}
        names, indices = group_names(column, self.column)
        found = [-1 if name is None else index.get(name, index.get(label_key(name), -1)) for name in names]
        codes = np.array(found, dtype=np.int64)
        return codes[indices]

    def at(self, ordered: NDArray[np.float64], alpha: float) -> "Groups":
        """Return the groups with weights and thresholds for another alpha, given the ascending calibration scores ``[n]``."""
        lent = np.array([borrowed_weight(int(n), len(ordered), alpha) for n in self.rows])
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
        """Return p-values float64 ``[n]``: those of the group where ``codes`` ``[n]`` has one, else ``pooled`` ``[n]``.

        With ``low`` they are small for low scores.
        """
        p_values = pooled.copy()
        for g in np.unique(codes[codes >= 0]).tolist():
            rows = codes == g
            weight = np.where(self.code == g, 1.0, self.lent[g])
            above = _weight_from(weight)
            if low:
                counted = above[0] - above[np.searchsorted(ordered, scores[rows], side="right")]
            else:
                counted = above[np.searchsorted(ordered, scores[rows], side="left")]
            p_values[rows] = (1.0 + counted) / (1.0 + above[0])
        return p_values


def calibrate_groups(name: str, column: pa.Array | pa.ChunkedArray, scores: NDArray[np.float64], alpha: float) -> Groups:
    """Return the group thresholds from calibration ``scores`` ``[n]`` in any order and their group ``column`` ``[n]``."""
    texts, indices = group_names(column, name)
    first = {label_key(text): text for text in reversed(texts) if text is not None}  # of several spellings
    names = tuple(dict.fromkeys(first[label_key(text)] for text in texts if text is not None))
    code = np.array([-1 if text is None else names.index(first[label_key(text)]) for text in texts], dtype=np.int64)[indices]
    order = np.argsort(scores, kind="stable")
    empty = np.zeros(len(names))
    return Groups(column=name, names=names, code=code[order], lent=empty, values=empty).at(scores[order], alpha)


def group_names(column: pa.Array | pa.ChunkedArray, name: str) -> tuple[list[str | None], NDArray[np.int64]]:
    """Return the distinct groups of a column as text, None for no group, and the index of each row's group, int64 ``[n]``.

    Raises DataError, with the ``name`` of the column, if its cells cannot be compared.
    """
    values, indices = factorize(column, name)
    return [label_text(value) or None for value in values], indices


def borrowed_weight(own: int, rows: int, alpha: float) -> float:
    """Return the weight λ of the other groups' rows for a group with ``own`` of the ``rows`` calibration rows.

    0 if alpha is possible with the own rows, 1 below 20 rows; between, the borrowed weight is ten times the missing rows, λ ≤ 1.
    """
    lacking = calibration_rows_needed(alpha) - own
    if lacking <= 0:
        return 0.0
    others = rows - own
    return 1.0 if own < LEAST_GROUP_ROWS or others <= 0 else min(1.0, BORROWED_PER_MISSING_ROW * lacking / others)


def _value(ordered: NDArray[np.float64], weight: NDArray[np.float64], alpha: float) -> float:
    """Return the smallest calibration score v with (1 + weight above v) / (1 + all weight) ≤ alpha.

    Scores above v then have p ≤ alpha and scores at or below v have p > alpha, ties included.
    """
    above = _weight_from(weight)
    after = np.searchsorted(ordered, ordered, side="right")
    allowed = np.flatnonzero(1.0 + above[after] <= alpha * (1.0 + above[0]) + 1e-9)
    return float(ordered[allowed[0]]) if len(allowed) else math.inf


def _weight_from(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the total weight of the calibration rows from index i on, ``[n + 1]``; summed from the end, so that integers stay exact."""
    return np.append(np.cumsum(weight[::-1])[::-1], 0.0)
