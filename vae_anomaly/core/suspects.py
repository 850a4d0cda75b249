"""Which of the rows that were given as normal look as if they were not.

In every table some row scores highest. Looked for are rows further out than the highest of so many normal rows would be. Knows scores
and nothing of where they come from.
"""

import math

import numpy as np
from numpy.typing import NDArray

# Rows that are looked at, evenly over the table; rows that are shown.
MOST_ROWS = 20_000
SHOWN = 5
# In one table of a hundred chance alone shows a row, where distances have an exponential tail.
CHANCE = 0.01
FEWEST_ROWS = 10
LEAST = 1e-9  # nats, so that there is something to divide by


def looked_at(rows: int) -> NDArray[np.int64]:
    """Return at most 20,000 of ``rows`` row numbers, evenly spread."""
    return np.arange(0, rows, max(1, -(-rows // MOST_ROWS)))


def outer_limit(scores: NDArray[np.float64]) -> float:
    """Return the score that the highest of so many normal rows exceeds with a chance of 1 %, were the tail of √score exponential.

    Scores grow as squares of distances. With r = √score it is the square of r₉₀ + (r₉₀ − r₅₀) / ln 5 · ln(0.1 n / 0.01): a tail
    P(r) = ½ exp(−(r − r₅₀) / b) has r₉₀ − r₅₀ = b ln 5, and n rows have 0.1 n above r₉₀. Both quantiles are hardly moved by a few per
    cent of anomalies.
    """
    middle, high = np.sqrt(np.quantile(scores, [0.5, 0.9])).tolist()
    return float((high + (high - middle) / math.log(5.0) * max(math.log(0.1 * len(scores) / CHANCE), 0.0)) ** 2)


def evened(scores: NDArray[np.float64], fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return scores in units of the median of their ``fold`` ``[n]``; NaN is no score.

    A gross fault stretches the scales that are learned from it. The networks of its own fold have not seen it, and give all rows of this
    fold higher scores than the others do.
    """
    found = np.full(len(scores), np.nan)
    for k in np.unique(fold):
        here = (fold == k) & ~np.isnan(scores)
        if here.any():
            found[here] = scores[here] / max(float(np.median(scores[here])), LEAST)
    return found


def suspects(scores: NDArray[np.float64], fold: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Return the places of at most five rows above ``threshold`` that stand out when folds are evened, the highest first; NaN: no score."""
    even = evened(scores, fold)
    known = even[~np.isnan(even)]
    if len(known) < FEWEST_ROWS:
        return np.empty(0, dtype=np.int64)
    limit = outer_limit(known)
    out = np.flatnonzero((np.nan_to_num(even, nan=-np.inf) > limit) & (np.nan_to_num(scores, nan=-np.inf) > threshold))
    return out[np.argsort(-even[out], kind="stable")[:SHOWN]]
