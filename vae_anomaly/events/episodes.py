"""Events: alarms of a time series that belong together, with hysteresis, merging and a least duration.

An event begins at the first score above its threshold and lasts until the score falls below 0.8 of it; pieces less than three spans of rows
apart are one; one of fewer rows than a quarter of the span is none. The state is plain data: rows may be cut anywhere.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

# Share of the threshold below which a piece of an event ends.
HYSTERESIS = 0.8
# Rows between two pieces of one event, and rows of the shortest event, in spans of the smoothing.
MERGED_SPANS, LEAST_SPANS = 3, 0.25
# Files hold times in microseconds.
CLOCK_ERROR = 1e-6
# Columns that an event names.
COLUMNS_NAMED = 3


# Finds the reasons of peaks. It takes as long for one as for a hundred, a third of a second, so it is called once a batch of closed events.
FindReasons = Callable[[Sequence[Any]], Sequence[Iterable[Mapping[str, Any]]]]


def no_reasons(peaks: Sequence[Any]) -> Sequence[Iterable[Mapping[str, Any]]]:
    """Return no reasons for each peak."""
    return [()] * len(peaks)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRules:
    """The threshold, in weighted nats; rows that merge pieces; rows of the shortest event; and the step of time that ends a series."""

    threshold: float
    merge: int
    least: int
    max_gap: float

    @staticmethod
    def of(threshold: float, span: int, max_gap: float) -> "EventRules":
        """Return the rules for scores that are smoothed over ``span`` rows."""
        return EventRules(threshold=threshold, merge=MERGED_SPANS * span, least=max(1, round(LEAST_SPANS * span)), max_gap=max_gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventColumn:
    """A column that an event is about: ``high`` or ``low`` beside what was expected, empty where that is no number."""

    column: str
    direction: str
    value: str | None
    expected: str | None
    contribution: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of an ``entity``; times as the series has them, ``rows`` from start to end, ``severity``: peak score over threshold.

    ``ongoing``: the rows ended before it did. ``first``, ``last``: numbers of its first and last row in the input; None: it began in an
    earlier one.
    """

    entity: str | None
    start: float
    peak: float
    end: float
    rows: int
    peak_score: float
    severity: float
    columns: tuple[EventColumn, ...] = ()
    ongoing: bool = False
    first: int | None = None
    last: int = 0


@dataclass(kw_only=True)
class OpenEvent:
    """An event that has begun: ``seen`` rows since its start, ``quiet`` of them since its end, 0 inside a piece."""

    start: float
    peak: float
    end: float
    rows: int
    peak_score: float
    first: int | None
    last: int
    seen: int = 1
    quiet: int = 0
    columns: tuple[EventColumn, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredTimes:
    """Scores of rows in time ``[n]``, NaN where missing, with time ``[n]``, entity ``[n]`` (an index into ``names``) and number ``[n]``.

    ``peak`` keeps what the reasons of a row are found from, and ``explain`` finds those of several rows at once.
    """

    scores: NDArray[np.float64]
    time: NDArray[np.float64]
    entity: NDArray[np.int64]
    names: Sequence[str | None]
    numbers: NDArray[np.int64]
    peak: Callable[[int], Any] = int
    explain: FindReasons = no_reasons


@dataclass(kw_only=True)
class EventLog:
    """Events so far: those that are over, those that have begun by entity, and the last time of each entity.

    ``pending`` are the peaks of events that have begun, and ``closed`` those of events that are over, whose reasons are not found yet.
    """

    over: list[Event] = field(default_factory=list)
    begun: dict[str, OpenEvent] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    pending: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    closed: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)
    explain: Any = field(default=no_reasons, compare=False, repr=False)

    def add(self, rows: ScoredTimes, rules: EventRules) -> None:
        """Add the rows that follow, in the order of time of each entity."""
        for entity in np.unique(rows.entity).tolist():
            name = rows.names[entity]
            index = np.flatnonzero(rows.entity == entity)
            self._add_series(name, index, rows, rules)
        self.explain = rows.explain
        found = self.explain(list(self.closed.values())) if self.closed else ()
        for at, reasons in zip(self.closed, found, strict=True):
            self.over[at] = replace(self.over[at], columns=event_columns(reasons))
        self.closed = {}

    def _add_series(self, name: str | None, index: NDArray[np.int64], rows: ScoredTimes, rules: EventRules) -> None:
        key = _key(name)
        current, before = self.begun.pop(key, None), self.last.get(key)
        for i, score, time in zip(index.tolist(), rows.scores[index].tolist(), rows.time[index].tolist(), strict=True):
            if current is not None and before is not None and time - before > rules.max_gap:
                self._close(name, current, rules)
                current = None
            before = time
            if math.isnan(score) or (current is None and score <= rules.threshold):
                continue
            number, peaked = int(rows.numbers[i]), False
            if current is None:
                current = OpenEvent(start=time, peak=time, end=time, rows=1, peak_score=score, first=number, last=number)
                peaked = True
            else:
                current.seen += 1
                inside = score >= HYSTERESIS * rules.threshold if current.quiet == 0 else score > rules.threshold
                if inside:
                    current.end, current.last, current.rows, current.quiet = time, number, current.seen, 0
                    peaked = score > current.peak_score
                else:
                    current.quiet += 1
            if peaked:
                current.peak, current.peak_score, self.pending[key] = time, score, rows.peak(i)
            if current.quiet >= rules.merge:
                self._close(name, current, rules)
                current = None
        if before is not None:
            self.last[key] = before
        if current is not None:
            self.begun[key] = current

    def settle(self) -> None:
        """Find the reasons of the events that have begun."""
        if self.pending:
            for key, reasons in zip(self.pending, self.explain(list(self.pending.values())), strict=True):
                self.begun[key].columns = event_columns(reasons)
            self.pending = {}

    def _close(self, name: str | None, event: OpenEvent, rules: EventRules) -> None:
        peak = self.pending.pop(_key(name), None)
        if event.rows >= rules.least:
            if peak is not None:
                self.closed[len(self.over)] = peak
            self.over.append(_event(name, event, rules, ongoing=False))

    def begun_rows(self, name: str | None) -> int:
        """Return the rows of the event that has begun of an entity, 0 without one."""
        event = self.begun.get(_key(name))
        return 0 if event is None else event.rows

    def events(self, rules: EventRules) -> tuple[Event, ...]:
        """Return all events by their start, those that the rows ended before as ``ongoing``."""
        self.settle()
        begun = [
            _event(None if key == _key(None) else key[1:], event, rules, ongoing=event.quiet == 0)
            for key, event in self.begun.items()
            if event.rows >= rules.least
        ]
        return tuple(sorted([*self.over, *begun], key=lambda e: (e.start, e.entity or "")))

    def plain(self) -> dict[str, Any]:
        """Return the log as JSON values; ``log_from`` is the inverse."""
        self.settle()
        return {"over": [asdict(event) for event in self.over], "begun": {k: asdict(v) for k, v in self.begun.items()}, "last": self.last}


def log_from(plain: Mapping[str, Any]) -> EventLog:
    """Return the log that ``plain`` was taken from. Raises ValueError for values of the wrong type."""
    return TypeAdapter(EventLog).validate_python(dict(plain))


def _key(name: str | None) -> str:
    """Return the name of an entity as a key of JSON; rows without one are a series too."""
    return "" if name is None else f"={name}"


def _event(name: str | None, event: OpenEvent, rules: EventRules, *, ongoing: bool) -> Event:
    return Event(
        entity=name,
        start=event.start,
        peak=event.peak,
        end=event.end,
        rows=event.rows,
        peak_score=event.peak_score,
        severity=event.peak_score / max(rules.threshold, 1e-300),
        columns=event.columns,
        ongoing=ongoing,
        first=event.first,
        last=event.last,
    )


def event_columns(features: Iterable[Mapping[str, Any]]) -> tuple[EventColumn, ...]:
    """Return the columns of the reasons of a row, the largest contribution first, with their direction."""
    shown = [feature for feature in features if feature["column"] != "(other)"][:COLUMNS_NAMED]
    return tuple(EventColumn(**feature, direction=_direction(feature["value"], feature["expected"])) for feature in shown)


def _direction(value: str | None, expected: str | None) -> str:
    """Return whether a value is above or below what was expected; both may have a remark in brackets.

    >>> _direction("31.0 (4 rows before)", "32.4 (own past)"), _direction("run", "idle (90%)")
    ('low', '')
    """
    try:
        found, usual = (float((text or "").partition(" (")[0]) for text in (value, expected))
    except ValueError:
        return ""
    return "high" if found > usual else "low" if found < usual else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mute:
    """A range of time of an entity whose events are acknowledged, None: of all; the ends are inside."""

    entity: str | None
    start: float
    end: float

    def covers(self, event: Event) -> bool:
        """Whether an event began in the range."""
        inside = self.start - CLOCK_ERROR <= event.start <= self.end + CLOCK_ERROR
        return (self.entity is None or self.entity == event.entity) and inside


def without_muted(events: Sequence[Event], mutes: Sequence[Mute]) -> tuple[tuple[Event, ...], int]:
    """Return the events that are not acknowledged, and how many are."""
    kept = tuple(event for event in events if not any(mute.covers(event) for mute in mutes))
    return kept, len(events) - len(kept)
