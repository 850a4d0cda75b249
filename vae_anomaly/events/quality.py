"""How well events match labelled stretches of time: recall, false events a day and delay.

An event finds a stretch of anomalous rows of its entity if they overlap. It is false if it touches no stretch and none of the span of rows
after one, in which a smoothed score still falls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.events.episodes import Event

DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuality:
    """Labelled stretches and how many were ``found``; ``false`` events, in all and ``a_day`` of normal time, None without a clock.

    ``delay``: median time from the start of a stretch that was found to the first row of its event in it, in the unit of the times.
    """

    labelled: int
    found: int
    events: int
    false: int
    a_day: float | None
    delay: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledTimes:
    """Rows in time with labels: ``time`` ``[n]``, ``entity`` int64 ``[n]`` (an index into ``names``), ``anomalous`` bool ``[n]``."""

    time: NDArray[np.float64]
    entity: NDArray[np.int64]
    names: Sequence[str | None]
    anomalous: NDArray[np.bool_]


def event_quality(events: Sequence[Event], rows: LabelledTimes, span: int, *, is_clock: bool) -> EventQuality:
    """Compare events with the labels of the rows, which are in the order of time of each entity."""
    labelled = found = false = 0
    delays: list[float] = []
    normal = 0.0
    for which, name in enumerate(rows.names):
        here = np.flatnonzero(rows.entity == which)
        if not len(here):
            continue
        time, bad = rows.time[here], rows.anomalous[here]
        own = [event for event in events if event.entity == name]
        stretches = [(float(time[a]), float(time[b - 1])) for a, b in _runs(bad)]
        for start, end in stretches:
            touching = [max(event.start, start) for event in own if event.start <= end and event.end >= start]
            labelled, found = labelled + 1, found + bool(touching)
            delays += [min(touching) - start] if touching else []
        near = np.convolve(bad, np.ones(span + 1))[: len(bad)] > 0
        guarded = [(float(time[a]), float(time[b - 1])) for a, b in _runs(near)]
        false += sum(not any(event.start <= end and event.end >= start for start, end in guarded) for event in own)
        steps = np.diff(time)
        normal += float(steps[~near[1:]].sum()) if len(steps) else 0.0
    return EventQuality(
        labelled=labelled,
        found=found,
        events=len(events),
        false=false,
        a_day=false / (normal / DAY) if is_clock and normal > 0 else None,
        delay=float(np.median(delays)) if delays else None,
    )


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the half-open ranges where the mask is true."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int64), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
