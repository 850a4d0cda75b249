"""The past of rows in time: for each row, the numbers of the rows before it in its own series, across batches.

A series is the rows of one entity, a machine for instance, in the order of time; entities may interleave. A step of time longer than
``max_gap`` starts the series anew. The past of the first rows is taken to be the first row itself: as if it had stood still until then.
A missing number of the past is the last one that was known.

Letters of shapes: n rows, l lags, d numeric columns, e entities.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from vae_anomaly import messages
from vae_anomaly.errors import BadCell
from vae_anomaly.schema.encoding import Batch

# A step of time that is so many times the usual one starts a series anew, unless the user says otherwise.
GAP_STEPS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Times:
    """When each row was and of which entity: ``value`` float64 ``[n]``, seconds since 1970 if ``is_clock``; ``entity`` int64 ``[n]``."""

    value: NDArray[np.float64]
    entity: NDArray[np.int64]
    is_clock: bool = True

    @property
    def order(self) -> NDArray[np.int64]:
        """Indices of the rows by entity and time, int64 ``[n]``; equal times stay in their order."""
        return np.lexsort((self.value, self.entity))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """Rows of one entity without a gap, ascending indices ``rows`` into a batch; ``continues`` the rows of the batch before."""

    entity: int
    rows: NDArray[np.int64]
    continues: bool


def stretches(
    entity: NDArray[np.int64],
    time: NDArray[np.float64],
    last: NDArray[np.float64],
    max_gap: float,
) -> list[Stretch]:
    """Return the stretches of a batch; ``entity`` int64 ``[n]``, ``time`` ``[n]``, ``last`` ``[e]``: the last times, NaN for new entities.

    Raises BadCell, without the name of the file, for the first row whose time is before that of the row above of its entity.
    """
    order = np.argsort(entity, kind="stable")
    ordered = entity[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    found, back = list[Stretch](), list[int]()
    for start, stop in pairwise([*first.tolist(), len(order)]):
        rows, which = order[start:stop], int(ordered[start])
        steps = np.diff(time[rows], prepend=last[which])  # NaN for the first row of a new entity
        back += [int(rows[i]) for i in np.flatnonzero(steps < 0.0)[:1]]
        cuts = np.flatnonzero(steps > max_gap).tolist()
        anew = bool(np.isnan(last[which]) or 0 in cuts)
        for begin, end in pairwise(sorted({0, *cuts, len(rows)})):
            found.append(Stretch(entity=which, rows=rows[begin:end], continues=begin == 0 and not anew))
    if back:
        raise BadCell(
            "time goes back", where="the data", row=min(back), remedies=("Sort the rows by time", "name the machine with --group-by")
        )
    return found


def past_of(numbers: NDArray[np.float64], before: NDArray[np.float64] | None, lags: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the past ``[n, l, d]`` of a stretch, the latest row first, and the last rows ``[l, d]`` for the batch that follows.

    ``numbers`` ``[n, d]``, NaN where missing; ``before`` ``[l, d]``: the last rows of the batch before, None where the stretch begins.

    >>> past_of(np.array([[1.0], [np.nan], [3.0]]), None, 2)[0][:, :, 0].tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    head = np.repeat(numbers[:1], lags, axis=0) if before is None else before[::-1]
    known = _held(np.concatenate([head, numbers]))
    past = np.stack([known[lags - lag : len(known) - lag] for lag in range(1, lags + 1)], axis=1)
    return past, known[::-1][:lags].copy()


def _held(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows with the last known number of its column in place of each missing one."""
    missing = np.isnan(numbers)
    if not missing.any():
        return numbers
    at = np.where(missing, 0, np.arange(len(numbers))[:, None])
    np.maximum.accumulate(at, axis=0, out=at)
    return np.take_along_axis(numbers, at, axis=0)


def numbers_of(batch: Batch) -> NDArray[np.float64]:
    """Return the numbers of a batch, NaN where missing, float64 ``[n, d]``."""
    count = batch.numeric.shape[-1]
    return batch.numeric[:, -1].masked_fill(~batch.observed[:, -1, :count], torch.nan).numpy()


def with_past(batch: Batch, parts: Sequence[Stretch], before: NDArray[np.float64], lags: int) -> tuple[Batch, NDArray[np.float64]]:
    """Return the batch with the past of its rows, and the last rows ``[e, l, d]`` of every entity; ``before``: those before the batch."""
    numbers, after = numbers_of(batch), before.copy()
    past = np.empty((len(batch), lags, numbers.shape[1]))
    for part in parts:
        past[part.rows], after[part.entity] = past_of(numbers[part.rows], after[part.entity] if part.continues else None, lags)
    return replace(batch, past=torch.from_numpy(past)), after


def usual_step(time: NDArray[np.float64], entity: NDArray[np.int64]) -> float:
    """Return the median step of time between a row and the next of its entity, of steps above 0; infinity without any."""
    order = np.lexsort((time, entity))
    steps = np.diff(time[order])[np.diff(entity[order]) == 0]
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What the times of a table are like: entities, median step, steps beyond ``max_gap``, repeated and uneven times.

    ``is_clock``: times are in seconds, not plain numbers.
    """

    entities: int
    is_clock: bool
    step: float
    max_gap: float
    gaps: int
    repeated: int
    uneven: float  # share of the steps that differ from the median by more than a tenth
    unsorted: int  # rows whose time is before that of the row above, of the same entity

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know about the times, one sentence each."""
        found = []
        if self.unsorted:
            found.append(f"{self.unsorted:,} row(s) were not in the order of time; they were sorted")
        if self.gaps:
            found.append(f"{self.gaps:,} gap(s) of more than {self._length(self.max_gap)} in time: the series starts anew after each")
        if self.repeated:
            found.append(f"{self.repeated:,} row(s) have the time of the row before, of the same series")
        if self.uneven > 0.1:  # noqa: PLR2004  # a tenth of the steps
            found.append(f"{self.uneven:.0%} of the steps of time differ from the usual {self._length(self.step)}: uneven sampling")
        return tuple(found)

    def _length(self, step: float) -> str:
        return messages.about_seconds(step) if self.is_clock and step >= 1.0 else f"{step:g}"


def clock_of(times: Times, max_gap: float | None) -> Clock:
    """Return what the times of a table are like; ``max_gap`` None: 20 times the usual step."""
    time, entity = times.value, times.entity
    step = usual_step(time, entity)
    limit = GAP_STEPS * step if max_gap is None else max_gap
    order = np.lexsort((time, entity))
    steps = np.diff(time[order])[np.diff(entity[order]) == 0]
    as_written = np.argsort(entity, kind="stable")
    back = np.diff(time[as_written])[np.diff(entity[as_written]) == 0] < 0
    usual = steps[(steps > 0) & (steps <= limit)]
    return Clock(
        entities=len(np.unique(entity)),
        is_clock=times.is_clock,
        step=step,
        max_gap=limit,
        gaps=int((steps > limit).sum()),
        repeated=int((steps == 0).sum()),
        uneven=float((np.abs(usual - step) > 0.1 * step).mean()) if len(usual) else 0.0,
        unsorted=int(back.sum()),
    )
