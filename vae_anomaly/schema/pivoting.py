"""The arithmetic of a pivot: samples of tags in time order become rows, each cell the last value of its tag or the mean of an interval.

Times are int64 in microseconds since 1970.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.choices import MISSING_TEXT
from vae_anomaly.errors import ConfigError
from vae_anomaly.messages import quote
from vae_anomaly.schema import parsing

_Ints = NDArray[np.int64]

START_SHARE = 0.1  # of the time within which a tag must have its first value, or rows begin without it
_UNITS = {"us": 1, "ms": 10**3, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86_400 * 10**6}
_KEYS = ("tag", "value", "time", "every", "agg", "hold")
_WHOLE = r"^\s*[+-]?\d{1,15}\s*$"
_NEVER = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotRoles:
    """Roles of the columns of a long table; ``every`` and ``hold`` in microseconds.

    With ``every`` a row is an interval from its time on, else a distinct time stamp. ``agg``: the last value, or the mean of the interval.
    ``hold``: how long a value holds; None: until a newer one.
    """

    tag: str
    value: str
    time: str
    every: int | None = None
    agg: str = "last"
    hold: int | None = None


def parse_pivot(text: str) -> PivotRoles:
    """Return the pivot that ``--pivot`` describes. Raises ConfigError.

    >>> parse_pivot("tag=Name,value=Value,time=TS,every=1min")
    PivotRoles(tag='Name', value='Value', time='TS', every=60000000, agg='last', hold=None)
    """
    parts = [part.partition("=") for part in text.split(",")]
    given = {key.strip(): value.strip() for key, sign, value in parts if sign}
    wrong = [key.strip() for key, _, _ in parts if key.strip() not in _KEYS]
    lacking = [key for key in _KEYS[:3] if not given.get(key)]
    if wrong or lacking or len(given) < len(parts) or len({given[key] for key in _KEYS[:3]}) < len(_KEYS[:3]):
        raise ConfigError(
            f"--pivot is {quote(text)}; expected tag=TAG,value=VALUE,time=TIME with three different columns, and optionally "
            "every=1min, agg=last or agg=mean, and hold=1h."
        )
    if given.get("agg", "last") not in {"last", "mean"} or (given.get("agg") == "mean" and "every" not in given):
        raise ConfigError(f"--pivot has agg={given['agg']}; expected last, or mean together with every=.")
    times = {key: _microseconds(key, given[key]) for key in ("every", "hold") if key in given}
    return PivotRoles(tag=given["tag"], value=given["value"], time=given["time"], agg=given.get("agg", "last"), **times)


def ids_of_pivot(pivot: str | None, ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the id columns of the rows of a table: of a pivoted one the time, unless others are named."""
    return ids if ids or not pivot else (parse_pivot(pivot).time,)


def _microseconds(key: str, text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(us|ms|s|min|h|d)", text)
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"--pivot has {key}={text}; expected a number and a unit, as in 500ms, 10s, 1min, 1h or 1d.")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Values in a row: ``time`` int64 in microseconds, ``tag`` int64 codes, and ``value``, null where there is none or a bad one."""

    time: _Ints
    tag: _Ints
    value: pa.Array

    def slice(self, first: int, end: int) -> "Samples":
        """Return the samples from ``first`` to before ``end``."""
        return Samples(time=self.time[first:end], tag=self.tag[first:end], value=self.value.slice(first, end - first))

    def take(self, order: _Ints) -> "Samples":
        """Return the samples at ``order``."""
        return Samples(time=self.time[order], tag=self.tag[order], value=self.value.take(pa.array(order)))


def joined(parts: Sequence[Samples]) -> Samples:
    """Return the samples of all parts."""
    if len(parts) == 1:
        return parts[0]
    return Samples(
        time=np.concatenate([p.time for p in parts]),
        tag=np.concatenate([p.tag for p in parts]),
        value=_concatenated([p.value for p in parts]),
    )


def _concatenated(values: Sequence[pa.Array]) -> pa.Array:
    """Return the values as one array: of one type, as numbers if all are, else as text."""
    kinds = {array.type for array in values}
    if len(kinds) == 1:
        return pa.concat_arrays(values)
    kind = pa.string() if any(map(parsing.is_text_type, kinds)) else pa.float64()
    return pa.concat_arrays([array.cast(kind) for array in values])


@dataclass(kw_only=True, eq=False)
class Tags:
    """What a pass over a long table finds: tags in order of appearance, their kinds and first times, and whether times fall."""

    code: dict[str, int] = field(default_factory=dict)
    is_number: list[bool] = field(default_factory=list)
    is_whole: list[bool] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    samples: int = 0
    rows: int = 0
    begin: int = _NEVER
    end: int = -_NEVER
    above: int = 0
    falls: str = ""  # where the first time is that lies before the one of the row above
    unit: int = 10**6  # the coarsest of s, ms and us in which all times are whole

    def add(self, samples: Samples, where: str, first_row: int, every: int | None) -> None:
        """Add samples, the first of which is row ``first_row`` of ``where``, from 0."""
        if not len(samples.time):
            return
        before = np.concatenate([[self.above if self.samples else samples.time[0]], samples.time[:-1]])
        if not self.falls and (samples.time < before).any():
            self.falls = f"{where} row {first_row + int((samples.time < before).argmax()) + 1:,}"
        stamps = samples.time if every is None else samples.time // every
        olds = before if every is None else before // every
        self.rows += int((stamps != olds).sum()) + (self.samples == 0)
        self.samples += len(samples.time)
        self.above, self.begin = int(samples.time[-1]), min(self.begin, int(samples.time.min()))
        self.end = max(self.end, int(samples.time.max()))
        while self.unit > 1 and (samples.time % self.unit).any():
            self.unit //= 1000
        self._add_kinds(samples)

    def _add_kinds(self, samples: Samples) -> None:
        count = len(self.code)
        for kinds in (self.is_number, self.is_whole):
            kinds.extend([True] * (count - len(kinds)))
        self.first.extend([_NEVER] * (count - len(self.first)))
        first = np.asarray(self.first, dtype=np.int64)
        valid = pc.is_valid(samples.value).to_numpy(zero_copy_only=False)
        np.minimum.at(first, samples.tag[valid], samples.time[valid])
        self.first = first.tolist()
        if not parsing.is_text_type(samples.value.type):
            if not pa.types.is_integer(samples.value.type):
                self.is_whole = [False] * count
            return
        there = pc.and_(pc.is_valid(samples.value), pc.invert(pc.is_in(samples.value, value_set=pa.array(MISSING_TEXT))))
        for kinds, bad in (
            (self.is_number, parsing.not_numbers(samples.value)),
            (self.is_whole, pc.invert(pc.match_substring_regex(samples.value, _WHOLE))),
        ):
            wrong = pc.fill_null(pc.and_(there, bad), fill_value=False).to_numpy(zero_copy_only=False)
            for code in np.unique(samples.tag[wrong]).tolist():
                kinds[code] = False

    @property
    def has_values(self) -> bool:
        """Whether any sample has a value."""
        return min(self.first, default=_NEVER) < _NEVER

    @property
    def in_days(self) -> bool:
        """Whether the first and last time and those of all first values are midnights, as of a column of dates."""
        return not any(time % _UNITS["d"] for time in (self.begin, self.end, *self.first) if time < _NEVER)

    @property
    def start(self) -> int:
        """The time from which on every tag has had a value that has its first one in the first tenth of the time."""
        soon = self.begin + int(START_SHARE * (self.end - self.begin))
        return max((first for first in self.first if first <= soon), default=self.begin)


@dataclass(kw_only=True, eq=False)
class Held:
    """The last value and time of each of ``count`` tags, from which the next rows begin."""

    count: int
    pivot: PivotRoles
    tags: Tags
    value: pa.Array | None = None
    time: _Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def stamps(self, time: _Ints) -> _Ints:
        """Return the time of the row that each time belongs to."""
        every = self.pivot.every
        return time if every is None else time // every * every

    def rows(self, samples: Samples) -> tuple[_Ints, list[pa.Array]]:
        """Return the times of the rows of ``samples``, which are complete, and the values of each tag; what they end with is held."""
        if self.value is None:
            self.value, self.time = pa.nulls(self.count, samples.value.type), np.full(self.count, -_NEVER)
        values = _concatenated([self.value, samples.value])
        times = np.concatenate([self.time, samples.time])
        stamps, row = np.unique(self.stamps(samples.time), return_inverse=True)
        # Of equal places the last one stays; what is held has smaller indices than any sample.
        index = np.zeros((len(stamps), self.count), dtype=np.int64)
        index[row, samples.tag] = self.count + np.arange(len(row))
        index[0] = np.maximum(index[0], np.arange(self.count))
        index = np.maximum.accumulate(index, axis=0)
        self.value, self.time = values.take(pa.array(index[-1])), times[index[-1]]
        mask = None if self.pivot.hold is None else stamps[:, None] - times[index] > self.pivot.hold
        columns = [values.take(pa.array(index[:, j], mask=None if mask is None else mask[:, j])) for j in range(self.count)]
        return stamps, columns if self.pivot.agg == "last" else self._means(samples, row, len(stamps), columns)

    def _means(self, samples: Samples, row: _Ints, rows: int, columns: list[pa.Array]) -> list[pa.Array]:
        """Replace the values of numeric tags by the means of their good samples in the row, where there are any."""
        value = samples.value if not parsing.is_text_type(samples.value.type) else parsing.numbers(samples.value)
        number = np.asarray(value.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        there = np.isfinite(number)
        place = (row * self.count + samples.tag)[there]
        total = np.bincount(place, weights=number[there], minlength=rows * self.count).reshape(rows, self.count)
        seen = np.bincount(place, minlength=rows * self.count).reshape(rows, self.count)
        for j in np.flatnonzero(seen.any(0)).tolist():
            if self.tags.is_number[j]:
                has = seen[:, j] > 0
                mean = pa.array(total[:, j] / np.maximum(seen[:, j], 1))
                columns[j] = pc.if_else(pa.array(has), mean, as_kind(columns[j], pa.float64()))
        return columns


def as_kind(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return values as the kind of their tag; text that means a missing number is null."""
    if not pa.types.is_string(values.type) or pa.types.is_string(kind):
        return values.cast(kind)
    numbers = parsing.numbers(values)
    return numbers if pa.types.is_floating(kind) else numbers.cast(kind, safe=False)
