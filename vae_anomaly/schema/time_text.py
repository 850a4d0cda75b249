"""Dates and times as text: ISO 8601 and the styles of countries, historians, databases and spreadsheets; periods, times of day, durations.

A style is a regular expression with a named group for each part of a time. Times become microseconds since 1970, in UTC where they have
a zone. Whether 01/03/2024 begins with the day is decided by a number above 12 in the same column, or asked, never guessed.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.choices import DAY_FIRST, MONTH_FIRST

_Ints = NDArray[np.int64]
_Mask = NDArray[np.bool_]

# Names of the months in lower case without accents. A name that means two months in two languages is absent.
_MONTHS = (
    "jan january januar janner januari janvier janv ene enero gen gennaio janeiro leden ledna sty styczen stycznia oca ocak янв января",
    "feb february februar februari fevrier fevr febrero febbraio fev fevereiro unor unora luty lutego sub subat фев февраля",
    "mar march marz mrz mars marzo marco maart mrt marts brezen brezna marzec marca mart мар марта",
    "apr april avril avr abr abril aprile duben dubna kwi kwiecien kwietnia nis nisan апр апреля",
    "may mai mayo mag maggio maio mei maj kveten kvetna maja mayis маи мая",
    "jun june juni juin junio giu giugno junho cervna cze czerwiec czerwca haz haziran июн июня",
    "jul july juli juillet juil julio lug luglio julho cervenec cervence lip lipiec lipca tem temmuz июл июля",
    "aug august aout ago agosto augustus augusti srpen srpna sie sierpien sierpnia agu agustos авг августа",
    "sep sept september septembre septiembre set settembre setembro zari wrz wrzesien wrzesnia eyl eylul сен сентября",
    "oct october okt oktober octobre octubre ott ottobre out outubro rijen rijna paz pazdziernik pazdziernika eki ekim окт октября",
    "nov november novembre noviembre novembro listopadu lis listopada kas kasim ноя ноября",
    "dec december dez dezember decembre dic diciembre dicembre dezembro des prosinec prosince gru grudzien grudnia ara дек декабря",
)
_MONTH_OF = {name: number for number, names in enumerate(_MONTHS, 1) for name in names.split()}
# Hours of abbreviated zones; ambiguous ones (IST, AST) are absent: such a text is no time rather than a wrong one.
_ZONES = {"": 0, "Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "CET": 1, "MEZ": 1, "CEST": 2, "MESZ": 2, "EET": 2, "EEST": 3, "MSK": 3,
          "JST": 9, "KST": 9, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}  # fmt: skip
_UNKNOWN = -1
_EARLIEST_YEAR, _LATEST_YEAR = 1900, 2199
_CENTURY_FROM = 69  # two digits from here on are 19.., as in POSIX
_HALF_DAY, _WEEK = 12, 7

_FRACTION = r"(?:[.,:](?P<f>\d{1,9}))?"
_HALF = r"\s?(?P<p>[AaPp]\.?\s?[Mm]\.?)?"
_CLOCK = (
    rf"(?P<e>上午|下午|오전|오후|午前|午後)?\s*(?P<H>\d{{1,2}})(?:\s?[:.h时時시]\s?(?P<M>\d{{2}})(?:\s?[:.m分분]\s?(?P<S>\d{{2}}){_FRACTION}"
    rf"[s秒초]?|[分분])?|[时時시])?{_HALF}"
)
_COMPACT = r"(?P<H>\d{2})(?P<M>\d{2})(?:(?P<S>\d{2})(?:[.,]?(?P<f>\d{1,9}))?)?"
_ZONE = r"\s*(?P<z>[A-Z]{1,4}|z)?(?P<o>[+-]\d{1,2}(?::?\d{2})?)?(?:\[[\w/+-]+\])?"
_AT = r"(?:[T\s,;:_@-]|\sat\s|\sum\s|\sà\s)+"
_TIME = rf"(?:{_AT}{_CLOCK}(?:\s?Uhr)?{_ZONE})?"
_WEEKDAY = r"(?:\p{L}{2,10}\.?,?\s+)?"
_NAME = r"(?P<b>\p{L}{3,12})\.?"
_YEAR = r"(?P<Y>\d{4})"
_YMD = rf"{_YEAR}\s?[-/.年년]\s?(?P<m>\d{{1,2}})\s?[-/.月월]\s?(?P<d>\d{{1,2}})[.日일]?"
# Styles in the order in which they are tried; ``a`` and ``c`` are a day and a month in either order.
_DATES = (
    rf"{_YMD}{_TIME}",
    rf"{_YEAR}(?P<m>\d{{2}})(?P<d>\d{{2}})(?:[T\s_-]?{_COMPACT})?{_ZONE}",
    rf"{_YEAR}(?P<m>\d{{2}})(?P<d>\d{{2}})[T\s_-]{_CLOCK}{_ZONE}",
    rf"{_WEEKDAY}(?P<d>\d{{1,2}})\.\s?(?P<m>\d{{1,2}})\.\s?{_YEAR}{_TIME}",
    rf"{_WEEKDAY}(?P<a>\d{{1,2}})[-/\s](?P<c>\d{{1,2}})[-/\s]{_YEAR}{_TIME}",
    rf"{_WEEKDAY}(?P<d>\d{{1,2}})(?:\.|st|nd|rd|th|er|º)?(?:[-/\s]|\sde\s|\sof\s)*{_NAME}(?:[-/\s,]|\sde\s|\sdel\s)*(?P<Y>\d{{4}}|\d{{2}}){_TIME}",
    rf"{_WEEKDAY}{_NAME}[-/\s]+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[,\s/-]+{_YEAR}{_TIME}",
    rf"{_YEAR}[-/\s]?{_NAME}[-/\s]?(?P<d>\d{{1,2}}){_TIME}",
    rf"\p{{L}}{{2,3}}\s+{_NAME}\s+(?P<d>\d{{1,2}})\s+{_CLOCK}{_ZONE}\s+{_YEAR}",
    rf"(?P<d>\d{{2}})\.(?P<m>\d{{2}})\.(?P<y>\d{{2}}){_TIME}",
    rf"(?P<a>\d{{1,2}})/(?P<c>\d{{1,2}})/(?P<y>\d{{2}}){_TIME}",
    rf"(?P<a>\d{{2}})-(?P<c>\d{{2}})-(?P<y>\d{{2}})\s+{_CLOCK}",
    rf"{_CLOCK}\s+(?P<d>\d{{1,2}})\.(?P<m>\d{{1,2}})\.{_YEAR}",
)
_PERIODS = (
    rf"{_YEAR}[-/](?P<m>\d{{2}})",
    rf"{_YEAR}[年년]\s?(?P<m>\d{{1,2}})[月월]",
    rf"(?P<m>\d{{2}})/{_YEAR}",
    rf"{_NAME}[-\s/]?{_YEAR}",
    rf"{_YEAR}[-\s]?[Qq](?P<q>[1-4])",
    rf"[Qq](?P<q>[1-4])[-\s/]?{_YEAR}",
    rf"{_YEAR}-?[Ww](?P<w>\d{{2}})(?:-?(?P<k>[1-7]))?",
    rf"{_YMD}/\d{{4}}-\d{{2}}-\d{{2}}",
)
_TIMES_OF_DAY = rf"(?P<H>\d{{1,2}}):(?P<M>\d{{2}}):(?P<S>\d{{2}}){_FRACTION}{_HALF}|\d{{1,2}}:\d{{2}}\s?[AaPp]\.?[Mm]\.?|\d{{2}}:\d{{2}}"
_DURATIONS = (
    r"[+-]?\d+\s?days?,?\s?(?:[+-]?\d+:\d{2}:\d{2}(?:\.\d+)?)?|[+-]?\d+:\d{2}:\d{2}(?:[.,]\d+)?"
    r"|[+-]?P(?:\d+[.,]?\d*[YMWD])+(?:T(?:\d+[.,]?\d*[HMS])+)?|[+-]?PT(?:\d+[.,]?\d*[HMS])+"
)

# What every time has: digits parted by something, many digits, or a word with digits; cheap beside all the styles.
_PERHAPS = r"\d\D{1,14}\d|\d{8}|^\p{L}{3,12}\.?[-\s/]?\d{4}$|^[+-]?P.*\d[YMWDHS]|^[+-]?\d+\s?day"

# Directives of ``strptime`` as groups.
_DIRECTIVES = {
    "Y": _YEAR, "y": r"(?P<y>\d{2})", "m": r"(?P<m>\d{1,2})", "d": r"\s?(?P<d>\d{1,2})", "e": r"\s?(?P<d>\d{1,2})", "j": r"(?P<n>\d{1,3})",
    "b": _NAME, "B": _NAME, "h": _NAME, "a": r"\p{L}+\.?", "A": r"\p{L}+\.?", "H": r"(?P<H>\d{1,2})", "I": r"(?P<H>\d{1,2})",
    "M": r"(?P<M>\d{1,2})", "S": r"(?P<S>\d{1,2})", "f": r"(?P<f>\d{1,9})", "p": r"(?P<p>[AaPp]\.?\s?[Mm]\.?)",
    "z": r"(?P<z>[A-Z]{1,4}|z)?(?P<o>[+-]\d{1,2}(?::?\d{2})?)?", "Z": r"(?P<z>[A-Z]{1,4})",
    "T": r"(?P<H>\d{1,2}):(?P<M>\d{2}):(?P<S>\d{2})",
    "R": r"(?P<H>\d{1,2}):(?P<M>\d{2})", "F": rf"{_YEAR}-(?P<m>\d{{2}})-(?P<d>\d{{2}})", "D": r"(?P<m>\d{2})/(?P<d>\d{2})/(?P<y>\d{2})",
    "%": "%", "n": r"\s+", "t": r"\s+",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextTimes:
    """Text read as times: ``values`` timestamp[us], null where it is no time; ``unsure`` bool ``[n]``: day and month may be exchanged."""

    values: pa.Array
    unsure: _Mask


def read_times(text: pa.Array, form: str | None = None) -> TextTimes:
    """Read every cell as a date with or without time, or as a period, which begins at its first day.

    ``form``: ``day-first``, ``month-first``, or a format of ``strptime`` that every cell must have, with ``%f`` for any fraction.
    Without it the order of day and month is that of a cell of the same style that allows one order only; ``unsure`` where there is none.

    >>> read_times(pa.array(["01-Mar-24 10:15:00", "soon"])).values.to_pylist()
    [datetime.datetime(2024, 3, 1, 10, 15), None]
    """
    encoded = pc.dictionary_encode(pc.utf8_trim_whitespace(text))
    words = encoded.dictionary
    micros, known, unsure = np.zeros(len(words), dtype=np.int64), np.zeros(len(words), dtype=np.bool_), np.zeros(len(words), dtype=np.bool_)
    for pattern in (strptime_pattern(form),) if form is not None and "%" in form else (*_DATES, *_PERIODS):
        left = np.flatnonzero(~known)
        if not len(left):
            break
        parts = _Parts.of(words.take(pa.array(left)), pattern)
        if parts is not None:
            times, valid, doubtful = _assembled(parts, form)
            rows = left[parts.rows[valid]]
            micros[rows], known[rows], unsure[rows] = times[valid], True, doubtful
    values = pa.array(micros, pa.int64(), mask=~known).cast(pa.timestamp("us"))
    return TextTimes(values=values.take(encoded.indices), unsure=_taken(unsure, encoded.indices))


def kind_of_text(words: pa.Array) -> str | None:
    """Return what kind of time most of the distinct ``words`` are, None if they are none; no order of day and month is needed for that."""
    trimmed = pc.utf8_trim_whitespace(words)
    # Digits first: compiling the whole pattern takes milliseconds, and a table may have thousands of columns of text.
    if not (_most(pc.match_substring_regex(trimmed, "[0-9]")) and _most(pc.match_substring_regex(trimmed, _PERHAPS))):
        return None
    date = pc.is_valid(read_times(trimmed, DAY_FIRST).values)
    date = pc.or_(date, pc.is_valid(read_times(trimmed, MONTH_FIRST).values))
    if _most(date):
        period = pc.fill_null(pc.match_substring_regex(trimmed, _whole("|".join(_without_groups(p) for p in _PERIODS))), fill_value=False)
        return "months, quarters or weeks as text" if _most(period) else "dates or times as text"
    if _most(pc.match_substring_regex(trimmed, _whole(_TIMES_OF_DAY))):
        return "times of day as text"
    return "durations as text" if _most(pc.match_substring_regex(trimmed, _whole(_DURATIONS))) else None


MOST = 0.95  # share of the texts of a column; the others may be notes


def _most(mask: pa.Array) -> bool:
    return bool(len(mask)) and pc.mean(pc.cast(mask, pa.float64())).as_py() >= MOST


def strptime_pattern(form: str) -> str:
    r"""Return a regular expression for a format of ``strptime``; a blank stands for any. Raises KeyError for an unknown directive.

    >>> strptime_pattern("%d.%m. %Y")
    '\\s?(?P<d>\\d{1,2})\\.(?P<m>\\d{1,2})\\.\\s+(?P<Y>\\d{4})'
    """
    out, i = "", 0
    while i < len(form):
        if form[i] == "%":
            out, i = out + _DIRECTIVES[form[i + 1 : i + 2]], i + 2
        else:
            out, i = (
                out + (r"\s+" if form[i].isspace() else f"\\{form[i]}" if not form[i].isalnum() and form[i].isascii() else form[i]),
                i + 1,
            )
    return out


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"


def _without_groups(pattern: str) -> str:
    """Return a pattern whose groups have no name, so that several can stand in one expression."""
    parts = pattern.split("(?P<")
    return parts[0] + "".join("(?:" + part.partition(">")[2] for part in parts[1:])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Parts:
    """The texts that have a style: their ``rows`` int64 ``[k]`` and the text of each part."""

    rows: _Ints
    text: Mapping[str, pa.Array]

    @staticmethod
    def of(words: pa.Array, pattern: str) -> "_Parts | None":
        found = pc.extract_regex(words, _whole(pattern))
        rows = np.flatnonzero(pc.is_valid(found).to_numpy(zero_copy_only=False))
        if not len(rows):
            return None
        kept = found.take(pa.array(rows))
        return _Parts(rows=rows, text={field.name: kept.field(i) for i, field in enumerate(kept.type)})

    def has(self, name: str) -> bool:
        return name in self.text

    def filled(self, name: str) -> _Mask:
        return _mask(pc.greater(pc.utf8_length(self.text[name]), 0)) if name in self.text else np.zeros(len(self.rows), dtype=np.bool_)

    def number(self, name: str, default: int = 0) -> _Ints:
        if name not in self.text:
            return np.full(len(self.rows), default, dtype=np.int64)
        text = self.text[name]
        return _ints(pc.fill_null(pc.if_else(pc.equal(text, ""), None, text).cast(pa.int64()), default))

    def looked_up(self, name: str, value_of: Callable[[str], int]) -> _Ints:
        """Return the value of each text of a part, computed once for each distinct text."""
        encoded = pc.dictionary_encode(self.text[name])
        return np.array([value_of(word) for word in encoded.dictionary.to_pylist()], dtype=np.int64)[_ints(encoded.indices)]


def _assembled(parts: _Parts, form: str | None) -> tuple[_Ints, _Mask, bool]:
    """Return microseconds since 1970 ``[k]``, which of them are times, and whether day and month may be exchanged."""
    year = _year(parts)
    unsure = False
    if parts.has("a"):
        day, month, unsure = _day_and_month(parts, form)
    else:
        month = parts.looked_up("b", _month) if parts.has("b") else parts.number("m", 1) + 3 * np.maximum(parts.number("q", 1) - 1, 0)
        day = parts.number("d", 1)
    days, valid = _days(year, month, day)
    if parts.has("w"):
        days, valid = _week_days(year, parts.number("w"), parts.number("k", 1)), (parts.number("w") >= 1) & (parts.number("w") <= 53)  # noqa: PLR2004
    if parts.has("n"):
        days, valid = days + parts.number("n", 1) - 1, valid & (parts.number("n") >= 1) & (parts.number("n") <= 366)  # noqa: PLR2004
    of_day, of_day_valid = _of_day(parts)
    offset, offset_valid = _offset(parts)
    valid = valid & of_day_valid & offset_valid & (year >= _EARLIEST_YEAR) & (year <= _LATEST_YEAR)
    return days * 86_400_000_000 + of_day - offset, valid, unsure


def _year(parts: _Parts) -> _Ints:
    year = parts.number("y" if parts.has("y") else "Y", 1970)
    return np.where(year >= 100, year, year + np.where(year >= _CENTURY_FROM, 1900, 2000))  # noqa: PLR2004  # two digits


def _day_and_month(parts: _Parts, form: str | None) -> tuple[_Ints, _Ints, bool]:
    """Return day and month ``[k]`` in the order that ``form`` says, else the one that some value allows alone, and whether none does."""
    first, second = parts.number("a"), parts.number("c")
    day_first, month_first = bool((first > _HALF_DAY).any()), bool((second > _HALF_DAY).any())
    unsure = form is None and day_first == month_first and bool((first != second).any())
    if form == MONTH_FIRST or (form is None and month_first and not day_first):
        return second, first, unsure
    return first, second, unsure


def _days(year: _Ints, month: _Ints, day: _Ints) -> tuple[_Ints, _Mask]:
    """Return days since 1970 and whether the calendar has them."""
    months = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
    first, after = months.astype("datetime64[D]").astype(np.int64), (months + 1).astype("datetime64[D]").astype(np.int64)
    return first + day - 1, (month >= 1) & (month <= 12) & (day >= 1) & (day <= after - first)  # noqa: PLR2004  # months


def _week_days(year: _Ints, week: _Ints, weekday: _Ints) -> _Ints:
    """Return days since 1970 of ISO weeks; week 1 has the 4th of January."""
    fourth = _days(year, np.ones_like(year), np.full_like(year, 4))[0]
    monday = fourth - (fourth + 3) % _WEEK  # 1970-01-01 was a Thursday
    return np.asarray(monday + _WEEK * (week - 1) + weekday - 1, dtype=np.int64)


def _of_day(parts: _Parts) -> tuple[_Ints, _Mask]:
    """Return microseconds since midnight and whether a clock shows them."""
    hour, minute, second = parts.number("H"), parts.number("M"), parts.number("S")
    valid = (hour <= 24) & (minute < 60) & (second <= 60) & ((hour < 24) | (minute + second == 0))  # noqa: PLR2004  # a clock
    for name in ("p", "e"):
        if parts.has(name):
            half = parts.filled(name)
            after = parts.looked_up(name, lambda text: int(text in _ORIENTAL_PM or text.lower().startswith("p")))
            valid &= ~half | ((hour <= _HALF_DAY) & ((hour > 0) | (name == "e")))
            hour = np.where(half, hour % _HALF_DAY + _HALF_DAY * after, hour)
    fraction = np.zeros_like(hour)
    if parts.has("f"):
        fraction = _ints(pc.utf8_slice_codeunits(pc.utf8_rpad(parts.text["f"], 6, "0"), 0, 6).cast(pa.int64()))
    return (hour * 3600 + minute * 60 + second) * 1_000_000 + fraction, valid


_ORIENTAL_PM = ("下午", "오후", "午後")


def _offset(parts: _Parts) -> tuple[_Ints, _Mask]:
    """Return the offset from UTC in microseconds and whether its zone is known."""
    if not parts.has("z"):
        return np.zeros(len(parts.rows), dtype=np.int64), np.ones(len(parts.rows), dtype=np.bool_)
    hours = parts.looked_up("z", lambda text: _ZONES.get(text.upper(), 99))
    minutes = parts.looked_up("o", _offset_minutes) if parts.has("o") else np.zeros(len(parts.rows), dtype=np.int64)
    return (hours * 60 + minutes) * 60_000_000, hours != 99  # noqa: PLR2004


def _offset_minutes(text: str) -> int:
    if not text:
        return 0
    sign, digits = -1 if text[0] == "-" else 1, text[1:].replace(":", "")
    hours, minutes = (digits, "0") if len(digits) <= 2 else (digits[:-2], digits[-2:])  # noqa: PLR2004
    return sign * (int(hours) * 60 + int(minutes))


def _month(name: str) -> int:
    """Return the number of a month, -1 for another word."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("ł", "l").replace("ı", "i"))
    return _MONTH_OF.get("".join(c for c in plain if not unicodedata.combining(c)), _UNKNOWN)


def _ints(values: pa.Array) -> _Ints:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.int64)


def _mask(values: pa.Array) -> _Mask:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _taken(mask: _Mask, indices: pa.Array) -> _Mask:
    """Return the mask of the rows whose text is at ``indices``; false for a missing one."""
    taken: _Mask = mask[_ints(pc.fill_null(indices, 0))] if len(mask) else np.zeros(len(indices), dtype=np.bool_)
    return taken & _mask(pc.is_valid(indices))
