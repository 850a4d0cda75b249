"""The smallest change that brings a row under a limit: what would have had to be otherwise for it not to be flagged.

Fewest columns first: one after the other, the one whose replacement by what is expected given the others lowers the score most. Then
what turned out not to be needed is put back, and the last column, if it is a number, moves only as far as it must. A change is a
statement about the model, not about causes. Knows scores and a limit, no threshold and no raw table.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_anomaly.explain.contributions import Explanation, explain_rows
from vae_anomaly.model.ensemble import SCORE_BLOCK_ROWS, Ensemble, score_rows
from vae_anomaly.schema.encoding import Batch

# More columns than this are no small change.
MOST_COLUMNS = 10
# Columns that are tried at each step, the largest contributions first.
TRIED = 32
# The move of the last column is found to one part in 128³ of the way, 128 places at a time: one block of the score each.
PLACES = SCORE_BLOCK_ROWS["exemplar"]
ROUNDS = 3
# A number is given with as few digits as still keep the row under the limit and make its move no more than this share longer.
MOST_DIGITS = 15
ROUNDING = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterfactual:
    """``row`` with the columns at ``places`` changed scores ``score``; ``found``: that is not above the limit.

    Where none was found, it is the lowest score that was reached.
    """

    row: Batch
    places: tuple[int, ...]
    score: float
    found: bool


def smallest_change(ensemble: Ensemble, row: Batch, limit: float) -> Counterfactual:
    """Look for the smallest change of one row (a batch of one, with a score) that brings it to ``limit`` or below."""
    now, places, score = row, list[int](), _score(ensemble, row)
    while score > limit and len(places) < MOST_COLUMNS:
        trials, tried = _replacements(ensemble, now, places)
        if not tried:
            break
        scores = score_rows(ensemble, trials).total
        best = int(scores.argmin())
        if not float(scores[best]) < score:
            break
        now, score = trials.rows(slice(best, best + 1)), float(scores[best])
        places.append(tried[best])
    if score > limit:
        return Counterfactual(row=now, places=tuple(places), score=score, found=False)
    now, places = _without_the_needless(ensemble, row, now, places, limit)
    if places and places[-1] < row.numeric.shape[-1]:
        now = _moved_less(ensemble, row, now, places[-1], limit)
    return Counterfactual(row=now, places=tuple(places), score=_score(ensemble, now), found=True)


def _score(ensemble: Ensemble, row: Batch) -> float:
    return float(score_rows(ensemble, row).total[0])


def _replacements(ensemble: Ensemble, row: Batch, done: list[int]) -> tuple[Batch, list[int]]:
    """Return the row once for each column that may still change, with that cell as it was expected, and which columns these are."""
    explanation = explain_rows(ensemble, row)
    order = explanation.contribution[0].argsort(descending=True, stable=True).tolist()
    tried = [j for j in order if j not in done and bool(row.observed[0, -1, j]) and _differs(row, explanation, j)][:TRIED]
    trials, d_num = _copies(row, len(tried)), row.numeric.shape[-1]
    for i, j in enumerate(tried):
        if j < d_num:
            trials.numeric[i, -1, j] = _expected(explanation, j)
        else:
            trials.codes[i, -1, j - d_num] = explanation.level[0, j - d_num]
    return trials, tried


def _expected(explanation: Explanation, j: int) -> float:
    """Return the expected number in the six digits that are shown of it."""
    return float(f"{float(explanation.number[0, j]):.6g}")


def _differs(row: Batch, explanation: Explanation, j: int) -> bool:
    d_num = row.numeric.shape[-1]
    if j < d_num:
        return bool(row.numeric[0, -1, j] != _expected(explanation, j))
    return bool(row.codes[0, -1, j - d_num] != explanation.level[0, j - d_num])


def _copies(row: Batch, count: int) -> Batch:
    return Batch(**{name: getattr(row, name).repeat(count, 1, 1) for name in Batch.__slots__})


def _without_the_needless(ensemble: Ensemble, row: Batch, now: Batch, places: list[int], limit: float) -> tuple[Batch, list[int]]:
    """Put back, the first changed first, what the later changes made needless."""
    kept = list(places)
    for j in places[:-1]:
        back = _with_cell(now, j, row)
        if _score(ensemble, back) <= limit:
            now = back
            kept.remove(j)
    return now, kept


def _with_cell(row: Batch, j: int, other: Batch) -> Batch:
    numeric, codes, d_num = row.numeric.clone(), row.codes.clone(), row.numeric.shape[-1]
    if j < d_num:
        numeric[..., j] = other.numeric[..., j]
    else:
        codes[..., j - d_num] = other.codes[..., j - d_num]
    return Batch(numeric=numeric, codes=codes, observed=row.observed)


def _moved_less(ensemble: Ensemble, row: Batch, now: Batch, j: int, limit: float) -> Batch:
    """Return ``now`` with the number in column ``j`` as near to what it was in ``row`` as the limit allows, in few digits."""
    before, after = float(row.numeric[0, -1, j]), float(now.numeric[0, -1, j])
    near, far = 0.0, 1.0  # shares of the way: the row is above the limit at the one and not above it at the other
    for _ in range(ROUNDS):
        way = torch.linspace(near, far, PLACES + 1, dtype=torch.float64)[1:]
        below = _with_numbers(ensemble, now, j, before + way * (after - before)) <= limit
        if not bool(below.any()):
            break
        first = int(below.to(torch.uint8).argmax())
        near, far = float(way[first]) - (far - near) / PLACES, float(way[first])
    edge = before + far * (after - before)
    rounded = [x for x in _rounded(edge, up=after > before) if (x <= after if after > before else x >= after)]
    inside = [x for x in rounded if abs(x - edge) <= ROUNDING * abs(edge - before)] + [edge]
    under = _with_numbers(ensemble, now, j, torch.tensor(inside, dtype=torch.float64)) <= limit
    value = inside[int(under.to(torch.uint8).argmax())] if bool(under.any()) else after
    numeric = now.numeric.clone()
    numeric[0, -1, j] = value
    return Batch(numeric=numeric, codes=now.codes, observed=now.observed)


def _rounded(value: float, *, up: bool) -> list[float]:
    """Return a number with one, two, … significant digits, each rounded away from the limit: upwards or downwards."""
    if value == 0.0:
        return [0.0]
    first = math.floor(math.log10(abs(value)))
    to_whole = math.ceil if up else math.floor
    steps = [10.0 ** (first - digits) for digits in range(MOST_DIGITS)]
    return [float(f"{to_whole(value / step) * step:.{digits + 1}g}") for digits, step in enumerate(steps)]


def _with_numbers(ensemble: Ensemble, row: Batch, j: int, values: Tensor) -> Tensor:
    """Return the scores ``[k]`` of the row with each of ``values`` ``[k]`` in column ``j``."""
    trials = _copies(row, len(values))
    trials.numeric[:, -1, j] = values
    return score_rows(ensemble, trials).total
