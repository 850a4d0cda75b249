"""Times as numbers: counted from an epoch in some unit, as the digits of a date, or as a clock that runs from the start.

A number alone can be anything. What is certain enough to leave a column out is its range together with its name, or with steps as even
as those of a clock; ``kind_of_numbers`` says which. ``as_timestamps`` converts a column that a user has named as the time.
"""

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.choices import TIME_COUNTS
from vae_anomaly.schema.time_text import read_times

_Floats = NDArray[np.float64]

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A way to count time: ``words`` for people, microseconds of one count, and the count at the beginning of 1970.

    A column is in this unit if all its numbers lie between 1995 and 2040 in it; these ranges do not overlap.
    """

    words: str
    tick: float
    at_1970: float = 0.0

    def holds(self, low: float, high: float) -> bool:
        """Whether numbers from ``low`` to ``high`` are times of the years in which machines have written tables."""
        return (low - self.at_1970) * self.tick >= _FIRST_US and (high - self.at_1970) * self.tick < _LAST_US


_FIRST_US, _LAST_US = 25 * 365.25 * _DAY_US, 70 * 365.25 * _DAY_US  # 1995 and 2040
UNITS = {
    "s": Unit(words="Unix time in seconds", tick=1e6),
    "ms": Unit(words="Unix time in milliseconds", tick=1e3),
    "us": Unit(words="Unix time in microseconds", tick=1.0),
    "ns": Unit(words="Unix time in nanoseconds", tick=1e-3),
    "labview": Unit(words="LabVIEW time, seconds since 1904", tick=1e6, at_1970=2_082_844_800.0),
    "filetime": Unit(words="Windows FILETIME, 100 ns since 1601", tick=0.1, at_1970=116_444_736_000_000_000.0),
    "ticks": Unit(words=".NET ticks, 100 ns since the year 1", tick=0.1, at_1970=621_355_968_000_000_000.0),
    "excel": Unit(words="Excel serial date", tick=_DAY_US, at_1970=25_569.0),
    "matlab": Unit(words="Matlab date number", tick=_DAY_US, at_1970=719_529.0),
    "julian": Unit(words="Julian date", tick=_DAY_US, at_1970=2_440_587.5),
    "mjd": Unit(words="modified Julian date", tick=_DAY_US, at_1970=40_587.0),
}
assert tuple(UNITS) == TIME_COUNTS
# Counts of these are so large that no measurement has them; days and seconds could be anything.
_UNMISTAKABLE = ("us", "ns", "filetime", "ticks")
DAYS = ("excel", "matlab", "julian", "mjd")
_OVERLAPPED = ("mjd",)  # its years from 1995 are those of an Excel date from 2036; only its name tells

# Formats of dates as digits by their number, with the number of distinct dates from which on chance cannot make them.
_DIGITS = {
    8: ("%Y%m%d", 5),
    14: ("%Y%m%d%H%M%S", 2),
    12: ("%Y%m%d%H%M", 3),
    10: ("%Y%m%d%H", 6),
    17: ("%Y%m%d%H%M%S%f", 2),
    6: ("%Y%m", 12),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of names in the languages of the exports that were met; a name with a word of the second list measures a length of time.
_TIME_WORDS = _words(
    "time times timestamp timestamps ts datetime date dates epoch unix utc zeit zeitstempel zeitpunkt datum uhrzeit fecha hora "
    "heure horodatage tiempo tempo tid tidspunkt dato tijd tijdstip czas cas aika saat tarih stamp clock created updated modified "
    "when dt day julian mjd posix время дата 时间 日期 日時 時刻 時間 시간"
)
_LENGTH_WORDS = _words(
    "response processing cycle duration latency dead rise fall delay cpu exec execution wait waiting lead run running dauer "
    "lifetime remaining setup settling travel transit residence mean max min avg average"
)
_DATE_WORDS = _words(
    "date dates datetime timestamp timestamps datum zeitstempel fecha dato dt excel serial julian mjd jd datenum day tarih czas "
    "дата 日期 日付"
)
# Names of a clock that runs from the start: the whole name is one of these words, a unit aside.
_CLOCK_NAMES = _words(
    "time times t ts timestamp timestamps elapsed uptime clock zeit laufzeit seconds secs sec millis milliseconds ms s minutes tempo "
    "tiempo temps tijd tid czas timestep tick ticks step reltime relative rel since start run test total from system sys up 时间 時間 время"
)
_SURE_CLOCK = _words(
    "time times t ts timestamp timestamps elapsed uptime clock zeit seconds secs sec millis milliseconds tempo tiempo temps tijd tid "
    "czas timestep tick ticks reltime 时间 時間 время"
)
EVEN = 0.9  # share of steps that are equal within a tenth, from which on they are those of a clock
COMMON = 0.5  # the same where the range of the numbers already says time
FEWEST = 20  # rows below which evenness is chance
RUN_STEPS = 20  # mean steps between two restarts of a clock, at least


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case, parted at capitals, digits and signs.

    >>> words_of("lastUpdated_TS [s]"), words_of("TimeUTC")
    (['last', 'updated', 'ts', 's'], ['time', 'utc'])
    """
    parted = re.sub(r"(?<=[a-zà-ÿ])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W\d_]+", parted)]


def named_as_time(name: str) -> bool:
    """Whether a name says that a column may hold times."""
    return not is_length(name) and not (_TIME_WORDS | _DATE_WORDS).isdisjoint(words_of(name))


def is_length(name: str) -> bool:
    """Whether a name says that a column measures how long something takes."""
    return not _LENGTH_WORDS.isdisjoint(words_of(name))


def named_as_clock(name: str) -> bool:
    """Whether a name says that a column is a clock running from the start, as ``Time [s]`` and ``elapsed_ms`` do."""
    words = set(words_of(name))
    return bool(words) and words <= _CLOCK_NAMES and not words.isdisjoint(_SURE_CLOCK)


def kind_of_numbers(name: str, values: _Floats, *, whole: bool = True) -> str | None:
    """Return what kind of time the numbers ``[n]`` of a column are for certain, None if they may be no time; in row order, none missing.

    ``whole``: the column is of whole numbers by its type. Floats may be as large as times in nanoseconds, as densities are.
    """
    if not len(values) or not np.isfinite(values).all():
        return None
    named, low, high = named_as_time(name), float(values.min()), float(values.max())
    digits = digits_format(values)
    if digits is not None and (named or len(np.unique(values)) >= _DIGITS[len(f"{low:.0f}")][1]):
        return f"dates as digits, {digits.replace('%f', 'fff')}"
    unit = unit_of(low, high, mjd="mjd" in words_of(name))
    if unit is not None and _is_sure(unit, name, values, whole=whole):
        return UNITS[unit].words
    if named_as_clock(name) and low < high and runs_on(values):
        return "a running clock"
    return None


def _is_sure(unit: str, name: str, values: _Floats, *, whole: bool) -> bool:
    """Whether numbers in the range of a unit are times: by their name, by their size, or by even steps."""
    if unit in DAYS:
        return not _DATE_WORDS.isdisjoint(words_of(name)) or (named_as_time(name) and runs_on(values)) or _runs(values, EVEN)
    return named_as_time(name) or (whole and unit in _UNMISTAKABLE) or _runs(values, COMMON)


def unit_of(low: float, high: float, *, mjd: bool = False) -> str | None:
    """Return the unit in which all numbers from ``low`` to ``high`` are times between 1995 and 2040.

    >>> unit_of(1.7e9, 1.71e9), unit_of(0.0, 1.7e9)
    ('s', None)
    """
    names = ("mjd",) if mjd else tuple(name for name in UNITS if name not in _OVERLAPPED)
    return next((name for name in names if UNITS[name].holds(low, high)), None)


def digits_format(values: _Floats) -> str | None:
    """Return the format of whole numbers that are dates written as digits, as in 20240301; None if one is none."""
    low, high = float(values.min()), float(values.max())
    count = len(f"{low:.0f}")
    if low < 190_001 or count not in _DIGITS or len(f"{high:.0f}") != count or (values != np.floor(values)).any():  # noqa: PLR2004
        return None
    distinct = np.unique(values).astype(np.int64)
    return None if _from_digits(distinct, count) is None else _DIGITS[count][0]


def steps_of(values: _Floats) -> _Floats:
    """Return the differences between numbers that follow one another, ``[n - 1]``; infinite where they are too large for a float."""
    with np.errstate(over="ignore"):
        return np.diff(values)


def runs_on(values: _Floats) -> bool:
    """Whether the numbers ``[n]`` never fall, or never rise, but for a restart now and then."""
    if len(values) < FEWEST:
        return False
    steps = steps_of(values)
    against, along = sorted((int((steps < 0).sum()), int((steps > 0).sum())))
    return along > 0 and against * RUN_STEPS <= along


def is_even(values: _Floats, share: float = EVEN) -> bool:
    """Whether that share of the steps between numbers ``[n]`` that differ is the same within a tenth."""
    steps = np.abs(steps_of(values))
    steps = steps[steps > 0]
    if not len(steps):
        return False
    middle = float(np.median(steps))
    return bool((np.abs(steps - middle) <= middle / 10).mean() >= share)


def _runs(values: _Floats, share: float) -> bool:
    return runs_on(values) and is_even(values, share)


def as_timestamps(values: pa.Array, form: str | None, name: str) -> pa.Array | None:
    """Return numbers as timestamp[us]: in the unit ``form``, or the one that their range tells; None if it tells none.

    >>> as_timestamps(pa.array([1_700_000_000, None]), None, "t").to_pylist()
    [datetime.datetime(2023, 11, 14, 22, 13, 20), None]
    """
    known = np.asarray(values.drop_null().cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    if not len(known) or not np.isfinite(known).all():
        return None
    unit = form if form in UNITS else None
    if form is not None and "%" in form:
        return _by_format(values, form)
    if form is None and digits_format(known) is not None:
        return _filled(values, _from_digits(_whole(values), len(f"{known.min():.0f}")))
    unit = unit or (unit_of(float(known.min()), float(known.max()), mjd="mjd" in words_of(name)) if form is None else None)
    if unit is None:
        return None
    scale = UNITS[unit]
    if pa.types.is_integer(values.type) and float(scale.at_1970).is_integer() and scale.tick in (1e6, 1e3, 1.0, 1e-3, 0.1):
        counts = _whole(values) - int(scale.at_1970)
        return _filled(values, counts * int(scale.tick) if scale.tick >= 1 else counts // round(1 / scale.tick))
    return _filled(values, np.round((known - scale.at_1970) * scale.tick).astype(np.int64))


def _by_format(values: pa.Array, form: str) -> pa.Array:
    """Return whole numbers read as digits in a format of ``strptime``; zeros in front, which numbers lose, are put back."""
    width = sum(4 if letter == "Y" else 3 if letter == "j" else 2 for letter in re.findall(r"%([A-Za-z])", form))
    text = values.cast(pa.int64(), safe=False).cast(pa.string())
    return read_times(pc.utf8_lpad(text, width, "0"), form).values


def _whole(values: pa.Array) -> NDArray[np.int64]:
    return np.asarray(values.drop_null().cast(pa.int64(), safe=False).to_numpy(), dtype=np.int64)


def _filled(values: pa.Array, micros: NDArray[np.int64] | None) -> pa.Array | None:
    """Return the times of the values that are not null, at their places."""
    if micros is None:
        return None
    missing = np.asarray(values.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)
    out = np.zeros(len(values), dtype=np.int64)
    out[~missing] = micros
    return pa.array(out, pa.int64(), mask=missing).cast(pa.timestamp("us"))


def _from_digits(values: NDArray[np.int64], count: int) -> NDArray[np.int64] | None:
    """Return microseconds since 1970 of dates as ``count`` digits, None if one is no date between 1900 and 2199."""
    texts = pa.array(values).cast(pa.string())
    times = read_times(texts, _DIGITS[count][0]).values
    if times.null_count:
        return None
    return np.asarray(times.cast(pa.int64()).to_numpy(), dtype=np.int64)
