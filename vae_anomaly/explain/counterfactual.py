"""Counterfactual explanations: a small change of a flagged row that brings its score to a limit.

Greedy search for few columns: in each step the column is changed whose replacement by its expected value, given the other cells, lowers
the score most; a missing cell that costs something may get that value too. Changes that became unnecessary are reverted, and the last
changed column, if numeric, is moved back as far as the limit allows. A counterfactual describes the model, not causes.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vae_anomaly.explain.contributions import Explanation, explain_rows
from vae_anomaly.model.ensemble import Ensemble, score_rows
from vae_anomaly.model.vae import ROWS
from vae_anomaly.schema.encoding import Batch

MAX_CHANGED_COLUMNS = 10  # more columns do not make a useful explanation
CANDIDATES_PER_STEP = 32  # columns tried in a step, by falling contribution
GRID_POINTS = ROWS  # trial values at a time: one block of the score
GRID_ROUNDS = 3  # refinements of the grid: the change is minimal to one part in 128³
MOST_DIGITS = 15  # significant digits that float64 represents exactly
ROUNDING = 0.01  # a value with fewer digits may enlarge the change by this share


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterfactual:
    """``row`` is the changed row, ``columns`` the indices of the changed columns, ``score`` its score in weighted nats.

    ``reached`` is whether the score is at or below the limit; otherwise ``row`` has the lowest score of the search.
    """

    row: Batch
    columns: tuple[int, ...]
    score: float
    reached: bool


def find_counterfactual(ensemble: Ensemble, row: Batch, limit: float) -> Counterfactual:
    """Search for a small change of one row, a batch of length 1, that brings its score to ``limit`` or below."""
    now, changed, score = row, list[int](), _score(ensemble, row)
    while score > limit and len(changed) < MAX_CHANGED_COLUMNS:
        trials, tried = _replacement_trials(ensemble, now, changed)
        if not tried:
            break
        scores = score_rows(ensemble, trials).total
        best = int(scores.argmin())
        if not float(scores[best]) < score:
            break
        now, score = trials.rows(slice(best, best + 1)), float(scores[best])
        changed.append(tried[best])
    if score > limit:
        return Counterfactual(row=now, columns=tuple(changed), score=score, reached=False)
    now, changed = _without_unnecessary(ensemble, row, now, changed, limit)
    if changed and changed[-1] < row.numeric.shape[-1] and bool(row.observed[0, -1, changed[-1]]):
        now = _with_smaller_change(ensemble, row, now, changed[-1], limit)
    return Counterfactual(row=now, columns=tuple(changed), score=_score(ensemble, now), reached=True)


def _score(ensemble: Ensemble, row: Batch) -> float:
    return float(score_rows(ensemble, row).total[0])


def _replacement_trials(ensemble: Ensemble, row: Batch, done: list[int]) -> tuple[Batch, list[int]]:
    """Return one trial row per column that may still change, with its expected value there, and the indices of these columns."""
    explanation = explain_rows(ensemble, row)
    order = explanation.contribution[0].argsort(descending=True, stable=True).tolist()
    silent = _costs_by_silence(ensemble, row)
    tried = [j for j in order if j not in done and (silent[j] or _differs(row, explanation, j))][:CANDIDATES_PER_STEP]
    trials, d_num = _copies(row, len(tried)), row.numeric.shape[-1]
    for i, j in enumerate(tried):
        trials.observed[i, -1, j] = True
        if j < d_num:
            trials.numeric[i, -1, j] = _expected(explanation, j)
        else:
            trials.codes[i, -1, j - d_num] = explanation.level[0, j - d_num]
    return trials, tried


def _costs_by_silence(ensemble: Ensemble, row: Batch) -> list[bool]:
    """Return for each column whether its cell is missing and this costs something."""
    missing = ~row.observed[0, -1]
    return (missing & (ensemble.cell_cost(row)[0] > 0)).tolist()


def _expected(explanation: Explanation, j: int) -> float:
    """Return the expected number rounded to the six digits that are shown."""
    return float(f"{float(explanation.number[0, j]):.6g}")


def _differs(row: Batch, explanation: Explanation, j: int) -> bool:
    if not bool(row.observed[0, -1, j]):
        return False
    d_num = row.numeric.shape[-1]
    if j < d_num:
        return bool(row.numeric[0, -1, j] != _expected(explanation, j))
    return bool(row.codes[0, -1, j - d_num] != explanation.level[0, j - d_num])


def _copies(row: Batch, count: int) -> Batch:
    return row.map(lambda cells: cells.repeat(count, 1, 1))


def _without_unnecessary(ensemble: Ensemble, row: Batch, now: Batch, changed: list[int], limit: float) -> tuple[Batch, list[int]]:
    """Revert, in the order of the changes, those that later changes made unnecessary."""
    needed = list(changed)
    for j in changed[:-1]:
        back = _with_cell(now, j, row)
        if _score(ensemble, back) <= limit:
            now = back
            needed.remove(j)
    return now, needed


def _with_cell(row: Batch, j: int, other: Batch) -> Batch:
    numeric, codes, observed, d_num = row.numeric.clone(), row.codes.clone(), row.observed.clone(), row.numeric.shape[-1]
    observed[..., j] = other.observed[..., j]
    if j < d_num:
        numeric[..., j] = other.numeric[..., j]
    else:
        codes[..., j - d_num] = other.codes[..., j - d_num]
    return Batch(numeric=numeric, codes=codes, observed=observed, past=row.past)


def _with_smaller_change(ensemble: Ensemble, row: Batch, now: Batch, j: int, limit: float) -> Batch:
    """Return ``now`` with the number in column ``j`` as close to its value in ``row`` as the limit allows, with few digits."""
    before, after = float(row.numeric[0, -1, j]), float(now.numeric[0, -1, j])
    near, far = 0.0, 1.0  # fractions of the change: above the limit at ``near``, not above it at ``far``
    for _ in range(GRID_ROUNDS):
        way = torch.linspace(near, far, GRID_POINTS + 1, dtype=torch.float64)[1:]
        below = _with_numbers(ensemble, now, j, before + way * (after - before)) <= limit
        if not bool(below.any()):
            break
        first = int(below.to(torch.uint8).argmax())
        near, far = float(way[first]) - (far - near) / GRID_POINTS, float(way[first])
    edge = before + far * (after - before)
    rounded = [x for x in _rounded(edge, up=after > before) if (x <= after if after > before else x >= after)]
    inside = [x for x in rounded if abs(x - edge) <= ROUNDING * abs(edge - before)] + [edge]
    under = _with_numbers(ensemble, now, j, torch.tensor(inside, dtype=torch.float64)) <= limit
    value = inside[int(under.to(torch.uint8).argmax())] if bool(under.any()) else after
    numeric = now.numeric.clone()
    numeric[0, -1, j] = value
    return replace(now, numeric=numeric)


def _rounded(value: float, *, up: bool) -> list[float]:
    """Return the value with 1, 2, …, ``MOST_DIGITS`` significant digits, all rounded up or all down."""
    if value == 0.0:
        return [0.0]
    first = math.floor(math.log10(abs(value)))
    to_whole = math.ceil if up else math.floor
    steps = [10.0 ** (first - digits) for digits in range(MOST_DIGITS)]
    return [float(f"{to_whole(value / step) * step:.{digits + 1}g}") for digits, step in enumerate(steps)]


def _with_numbers(ensemble: Ensemble, row: Batch, j: int, values: Tensor) -> Tensor:
    """Return the scores ``[k]`` of the row with each of the ``values`` ``[k]`` in column ``j``."""
    trials = _copies(row, len(values))
    trials.numeric[:, -1, j] = values
    return score_rows(ensemble, trials).total
