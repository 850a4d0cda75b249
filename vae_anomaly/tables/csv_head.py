"""Find the header of a delimited file and what holds no data: lines above the header, units below it, delimiters at the end of rows.

The rows further below decide: they tell the width of the table, and which columns hold numbers or times. What is not certain is refused,
with the option that decides it.
"""

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from vae_anomaly.config import Reading
from vae_anomaly.errors import DataError
from vae_anomaly.messages import quote
from vae_anomaly.tables.csv_records import Head

# Rows from which the kinds of the columns are inferred.
_BODY_ROWS = 50
# Records at the end of the sample whose widths may be that of the table.
_LAST = 10
# Fewer rows than these do not show that text above them is none of them.
_FEW = 5
# Share of the records, from the first one of this width on, that have the width of the table.
_SAME_WIDTH = 0.9
# Share of numbers and times in a column of them; the others are texts such as 'Bad'.
_COUNTED = 0.9
# Rows of text below a header that may be units and types; more are those of another table.
_MOST_TEXTS = 20
# A longer cell is neither a number nor a time.
_LONGEST = 40
# From this many names on, whole numbers in equal steps are names: of years, channels or wavelengths; and decimals from that many on.
_WHOLE_STEPS, _DECIMAL_STEPS = 3, 5
_EVEN = 1e-3

_MONTH = (
    "(?:jan|feb|f[ée]v|m[aä]r|a[pvb]r|ma[iyg]|jun|juin|jul|juil|lug|giu|a[ug]o|aug|ao[uû]|sep|set|o[ckt]t|nov|d[eéi][czc]|ene|gen)[a-zéû]*"
)
_NUMBER = re.compile(r"[+-]?[.,]?\d[\d.,' ]*(?:[eE][+-]?\d+)?\s*%?|[+-]?inf(?:inity)?", re.IGNORECASE)
_TIME = re.compile(
    rf"\d{{1,4}}[-./]\d{{1,2}}(?:[-./]\d{{1,4}})?(?:[T ,].*)?|\d{{1,4}}[-/. ]?{_MONTH}\.?[-/., ]+\d{{1,4}}.*|{_MONTH}\.? \d{{1,2}},? .*\d.*"
    rf"|\d{{1,2}}:\d\d.*|(?:[a-z]{{2,3}}\.?,? )?.*\d.* \d{{1,2}}:\d\d(?::\d\d)?\S*(?: .*)?|-?\d+ days.*|\d{{8}}T\d{{4,6}}.*",
    re.IGNORECASE,
)
# Numbers that are hardly names.
_DECIMAL = re.compile(r"[+-]?\d*[.,]\d+(?:[eE][+-]?\d+)?|[+-]?\d+[eE][+-]?\d+|-\d+")
# Cells that say nothing about their column: missing, or a state that is logged in place of a number.
_SILENT = frozenset({
    "na", "n/a", "nan", "-nan", "null", "none", "nil", "#n/a", "-", "--", "---", "?", "*", ".", "bad", "bad input", "no data", "nodata",
    "no sample", "error", "fault", "offline", "timeout", "i/o timeout", "pt created", "calc failed", "invalid", "not available",
    "unavailable", "overflow", "out of range", "shutdown", "comm fail", "#value!", "#ref!", "#div/0!", "#name?",
})  # fmt: skip

Kind = Literal["missing", "number", "time", "text"]


def kind_of(cell: str, missing: Collection[str] = ()) -> Kind:
    """Return what a cell looks like.

    >>> [kind_of(cell) for cell in ("", "1,5", "2024-03-01 10:15", "01-Mar-24 10:15:00", "degC")]
    ['missing', 'number', 'time', 'time', 'text']
    """
    cell = cell.strip()
    if not cell or cell in missing or cell.lower() in _SILENT:
        return "missing"
    if len(cell) > _LONGEST:
        return "text"
    if _NUMBER.fullmatch(cell):
        return "number"
    return "time" if _TIME.fullmatch(cell) else "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A record, and the number of its first line in the file, from 1."""

    number: int
    cells: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What the first lines of a file say about it: which ``program`` wrote it, ``line`` of the header and rows ``below`` it without data.

    ``comment``: text of the last of the ``comments``, in ``line``, and its cells as ``names``. ``unread``: columns that are no
    measurements. ``annotated``: see ``Head``.
    """

    program: str = ""
    line: int
    below: int = 0
    delimiter: str | None = None
    unread: frozenset[str] = frozenset()
    annotated: bool = False
    comments: bool = False
    comment: str = ""
    names: tuple[str, ...] = ()

    def with_names(self, delimiter: str) -> "Export":
        """Return it with the names in its comment."""
        cells = next(csv.reader([self.comment], delimiter=delimiter, skipinitialspace=True), [])
        return replace(self, names=tuple(cell.strip() for cell in cells))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """``names`` of all cells of a row, those of them that are not read, and what the file holds besides its rows."""

    names: tuple[str, ...]
    head: Head
    unread: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


class Records:
    """The first records of a file, and what its rows have in common: their ``width``, and the columns ``counted`` of numbers or times."""

    def __init__(self, lines: Sequence[Line], reading: Reading) -> None:
        self.lines, self.missing = lines, frozenset(reading.missing_values)
        self.width = self._width()
        rows = [line.cells for line in lines if len(line.cells) == self.width]
        # Below a header, and below units if there are more rows.
        self.body = rows[-min(_BODY_ROWS, max(1, len(rows) // 3)) :]
        self.kinds = [self._kind_of_column([row[i] for row in self.body]) for i in range(self.width)]
        self.counted = [i for i, kind in enumerate(self.kinds) if kind in {"number", "time"}]

    def _kind_of_column(self, cells: Sequence[str]) -> Kind:
        kinds = [kind_of(cell, self.missing) for cell in cells]
        number, time, text = (kinds.count(kind) for kind in ("number", "time", "text"))
        if number + time + text == 0:
            return "missing"
        if number + time < _COUNTED * (number + time + text):
            return "text"
        return "number" if number >= time else "time"

    def _width(self) -> int:
        """Return the width that nearly all records have from some record on, at best one of names."""
        widths = [len(line.cells) for line in self.lines]

        def fit(width: int) -> tuple[bool, bool, int]:
            first, count = widths.index(width), widths.count(width)
            below = [line.cells for line in self.lines[first + 1 : first + 1 + _LAST] if len(line.cells) == width]
            numbers = any(kind_of(cell, self.missing) in {"number", "time"} for row in below for cell in row)
            return numbers and self.has_names(first), count >= _SAME_WIDTH * (len(widths) - first), count

        return max(dict.fromkeys(widths[-_LAST:]), key=fit)

    def may_be_header(self, i: int) -> bool:
        """Whether a record is wide enough for a header, and has names."""
        return not self.is_preamble(i) and self.has_names(i)

    def is_full(self, i: int) -> bool:
        """Whether a record has names for all columns, except an index."""
        return self.has_names(i) and len(self.lines[i].cells) == self.width and bool(self.lines[i].cells[-1].strip())

    def has_names(self, i: int) -> bool:
        """Whether a record has a text of its own in every cell; the first one may be empty, as of an index, and the last ones."""
        cells = [cell.strip() for cell in self.lines[i].cells]
        while len(cells) > 1 and not cells[-1]:
            cells.pop()
        named = cells[1:] if not cells[0] and len(cells) > 1 else cells
        return all(cell and kind_of(cell) in {"text", "missing"} for cell in named) and len(set(named)) == len(named)

    def kind(self, i: int) -> Literal["data", "mixed", "text", "silent", "other"]:
        """Return what a record holds where the rows have numbers and times: such, texts, both or neither; or its width is another."""
        cells = self.lines[i].cells
        if len(cells) != self.width:
            return "other"
        kinds = {kind_of(cells[j], self.missing) for j in self.counted if i == 0 or not self._recurs(cells[j])}
        number, text = bool(kinds & {"number", "time"}), "text" in kinds
        return "mixed" if number and text else "data" if number else "text" if text else "silent"

    def _recurs(self, cell: str) -> bool:
        """Whether a text stands further below too, such as a state of a logger."""
        return kind_of(cell) == "text" and any(cell in row for row in self.body)

    def first_data(self) -> int | None:
        """Return the first record that is a row for certain; None if there is none."""
        if not self.counted:
            return None
        numbers = range(len(self.lines))
        data = next((i for i in numbers if self.kind(i) == "data"), None)
        return next((i for i in numbers[1:] if self.kind(i) == "mixed"), None) if data is None else data

    def end_of_head(self) -> int:
        """Return the number of records above the first row; 1 where nothing tells."""
        data = self.first_data()
        headed = data is not None and data > 1 and len(self.lines[0].cells) == self.width and self.may_be_header(0)
        if data is None or (headed and self.kind(1) == "silent"):
            return 1
        # Rows in which a logger has written texts or nothing, and malformed ones, may stand above the first complete one.
        while data > 1 and (self.kind(data - 1) in {"mixed", "silent"} or (headed and self.kind(data - 1) == "other")):
            data -= 1
        # A few rows of texts that may be numbers look like that too: then only units do not count.
        few = len(self.lines) - data < _FEW and self.may_be_header(0)
        return 1 if few and not all(_holds_units(self, i) for i in range(1, data)) else data

    def is_preamble(self, i: int) -> bool:
        """Whether a record is narrower than a header can be; spreadsheets fill it up with empty cells."""
        cells = self.lines[i].cells
        filled = len("\0".join(cell.strip() for cell in cells).rstrip("\0").split("\0"))
        if len(cells) == self.width:
            padded = filled < self.width and any(kind_of(cell) in {"number", "time"} for cell in cells)
            return self.width > 1 and (padded or filled <= max(1, min(2, self.width - 2)))
        return filled <= max(1, min(self.width - 1, max(2, self.width // 2)))


def find_head(lines: Sequence[Line], reading: Reading, path: str, export: Export | None = None) -> Heading:
    """Return names and head of a file, given its first records that are not blank, from the line on that the reading or ``export`` names.

    Raises
    ------
    DataError
        The first line is data, or it is not certain which line has the names or where the rows begin.
    """
    records = Records(lines, reading)
    end = records.end_of_head()
    if reading.no_header:
        return _without_names(records, end, path)
    if export is not None and not export.comments:
        return _of_export(records, export, path)
    if export is not None and (end == 0 or (not records.counted and len(export.names) == records.width > 1)):
        return _names_in_comment(records, export, path)
    if end == 0 and reading.header_row is None:
        return _numbers_as_names(records, path)
    at, below, notes = _header(records, max(end, 1), reading, path)
    found = _heading(records, at, below, path, notes)
    return found if export is None else replace(found, head=replace(found.head, comments=True))


def _of_export(records: Records, export: Export, path: str) -> Heading:
    """Return the heading of a file whose program is known by its first line."""
    found = _heading(records, 0, export.below, path, (f"{path} is read as {export.program}",), {"", *export.unread})
    unread = found.unread | (export.unread & set(found.names))
    return replace(found, head=replace(found.head, annotated=export.annotated), unread=unread)


def _names_in_comment(records: Records, export: Export, path: str) -> Heading:
    """Return the heading of a file whose first rows follow comments, the last of which has the names."""
    first = records.lines[0]
    if len(export.names) != records.width or not all(export.names):
        raise DataError(
            f"{path} has comments in its first lines and no header below them: line {first.number:,} is data ({_shown(first.cells)}). "
            f"Give --no-header --skip-rows {first.number - 1}, or --header-row with the line of the names."
        )
    notes = (f"{path}: the column names are those of the comment in line {export.line:,}",) if export.line > 1 else ()
    return Heading(names=export.names, head=Head(lines=export.line, records=0, comments=True), notes=notes)


def _header(records: Records, end: int, reading: Reading, path: str) -> tuple[int, int, tuple[str, ...]]:
    """Return which record has the names, how many below it hold no data, and remarks for the user."""
    at = 0
    if reading.header_row is None:
        at = next((i for i in range(end) if records.may_be_header(i)), 0)
        if end > 1 and not (all(records.is_preamble(i) for i in range(at)) and records.may_be_header(at)):
            raise _no_sure_header(records, end, path)
    below, notes = reading.skip_rows, list[str]()
    data = next((i for i in range(1, below + 1) if at + i < len(records.lines) and records.kind(at + i) == "data"), None)
    if data is not None:
        raise DataError(
            f"{path} row {data:,} holds data and is among the {below:,} rows to skip: give --skip-rows {data - 1} for this file."
        )
    left = end - at - 1 - below
    if left > 0:
        rows = range(at + 1, end)
        if below or not all(_holds_units(records, i) for i in rows):
            raise _texts_below(records, at, end, path)
        below = len(rows)
        what = "row 1 holds units or types and is" if below == 1 else f"rows 1 to {below} hold units or types and are"
        notes.append(f"{path}: {what} left out: {_shown(records.lines[at + 1].cells)}")
    names = records.lines[at].cells
    if at:
        notes.append(f"{path}: the header is in line {records.lines[at].number:,}, the lines above it are left out: {_shown(names)}")
    elif reading.header_row is None and 2 * sum(bool(_DECIMAL.fullmatch(name.strip()) or kind_of(name) == "time") for name in names) > len(
        names
    ):
        notes.append(_doubt(path, names))
    return at, below, tuple(notes)


def _heading(records: Records, at: int, below: int, path: str, notes: tuple[str, ...], spare: Collection[str] = ("",)) -> Heading:
    """Return the heading once the header is found.

    Delimiters at the end of all rows belong to no column, nor do ``spare`` names at the end that no row has a cell for.
    """
    line, width = records.lines[at], records.width
    names = [cell.strip() for cell in line.cells]
    while len(names) > width and names[-1] in spare:
        names.pop()
    rows = [row.cells for row in records.lines[at + 1 + below :]]
    filled = max((i + 1 for row in rows if len(row) == width for i, cell in enumerate(row) if cell.strip()), default=0)
    trailing = width - len(names) if max(filled, 1) <= len(names) < width else 0
    if len(names) != width and not trailing and len(rows) > 1 < width and 2 * sum(len(row) == len(names) for row in rows) < len(rows):
        raise DataError(
            f"{path}: the header in line {line.number:,} has {len(names):,} cells and most rows have {width:,}. Name every column there, "
            "or say where the names are with --header-row, or that there are none with --no-header."
        )
    head = Head(lines=line.number - 1, records=1 + below, trailing=trailing)
    # Spreadsheets end every line with the same number of delimiters.
    last = next((i + 1 for i in reversed(range(len(names))) if names[i]), 0)
    unread = {i: f"\0{i}" for i in range(max(last, filled, 1), len(names))} if len(names) == width else {}
    names = [unread.get(i, name) for i, name in enumerate(names)]
    return Heading(names=tuple(names), head=head, unread=frozenset(unread.values()), notes=notes)


def _without_names(records: Records, end: int, path: str) -> Heading:
    """Return numbered names for a file that has none. Raises DataError if there are names all the same, or rows are to be skipped."""
    if end > 0 and records.first_data() is not None and records.kind(0) in {"text", "other"}:
        last = records.lines[end - 1]
        do = f"give --header-row {last.number}" if records.is_full(end - 1) else f"give --skip-rows {last.number}"
        raise DataError(f"{path} line {last.number:,} holds no data like the rows below it ({_shown(last.cells)}): with --no-header, {do}.")
    names = tuple(f"column_{i + 1}" for i in range(records.width))
    return Heading(names=names, head=Head(lines=records.lines[0].number - 1, records=0))


def _numbers_as_names(records: Records, path: str) -> Heading:
    """Return the heading of a file whose first line holds numbers. Raises DataError if it is data."""
    line, cells = records.lines[0].number, [cell.strip() for cell in records.lines[0].cells]
    numbers = [cells[i] for i in records.counted if kind_of(cells[i]) in {"number", "time"}]
    steps = _steps(numbers)
    telling = any(_DECIMAL.fullmatch(cell) or kind_of(cell) == "time" for cell in numbers)
    rising = bool(steps) and (min(steps) > 0 or max(steps) < 0)
    even = (
        rising and max(steps) - min(steps) <= _EVEN * max(map(abs, steps)) and len(numbers) >= (_DECIMAL_STEPS if telling else _WHOLE_STEPS)
    )
    index = not cells[0] and 0 in records.counted
    levels = any(
        cells[i] and cells[i] in {row[i].strip() for row in records.body} for i, kind in enumerate(records.kinds) if kind == "text"
    )
    if not even and not index and (telling or levels or (len(numbers) >= _WHOLE_STEPS and not rising)):
        raise DataError(
            f"{path} has no header: line {line:,} is data like the rows below it ({_shown(cells)}). "
            f"Give --no-header, or --header-row {line} if these are the names."
        )
    return _heading(records, 0, 0, path, () if even or index else (_doubt(path, cells),))


def _doubt(path: str, cells: Sequence[str]) -> str:
    return f"{path}: the first line is taken for the header but may be data: {_shown(cells)}; give --no-header if it is"


def _steps(numbers: Sequence[str]) -> list[float]:
    """Return the differences of numbers; none if one of them is no plain number."""
    try:
        return [b - a for a, b in pairwise(float(cell.replace(",", ".")) for cell in numbers)]
    except ValueError:
        return []


def _holds_units(records: Records, i: int) -> bool:
    from vae_anomaly.tables.csv_exports import are_units  # few files have such a row

    cells = records.lines[i].cells
    return len(cells) <= records.width and are_units(cells, [cells[j] for j in records.counted if j < len(cells)])


def _no_sure_header(records: Records, end: int, path: str) -> DataError:
    named = [i for i in reversed(range(end)) if records.may_be_header(i)]
    at = next((i for i in named if records.is_full(i)), named[0] if named else None)
    if at is None:
        last = records.lines[end - 1].number
        return DataError(
            f"{path}: none of the lines 1 to {last:,} above the first row looks like column names. Give --header-row with the line of the "
            f"names, or --no-header --skip-rows {last}, or join the names into one line."
        )
    line = records.lines[at]
    return DataError(
        f"{path}: the header seems to be line {line.number:,} ({_shown(line.cells)}). Give --header-row {line.number} if it is."
    )


def _texts_below(records: Records, at: int, end: int, path: str) -> DataError:
    rows, line = end - at - 1, records.lines[end - 1]
    if rows > _MOST_TEXTS:
        raise DataError(
            f"{path} seems to hold two tables: from line {line.number:,} on ({_shown(line.cells)}) its rows have {records.width:,} cells, "
            f"those above are of another table. Write one table a file, or name the line of the names of the one to read with --header-row."
        )
    between = [line for line in records.lines[at + 1 : end] if len(line.cells) != records.width]
    sound = [line for line in between if any(kind_of(cell, records.missing) in {"number", "time"} for cell in line.cells)]
    if sound:
        raise DataError(
            f"{path}: nearly all rows, from line {records.lines[end].number:,} on, have {records.width:,} cells; the header has "
            f"{len(records.lines[at].cells):,}, line {sound[0].number:,} has {len(sound[0].cells):,}. Correct the header or these rows."
        )
    which = f"row 1 (line {line.number:,}) holds" if rows == 1 else f"rows 1 to {rows} (up to line {line.number:,}) hold"
    named = f", or --header-row {line.number} if line {line.number} has the column names" if records.is_full(end - 1) else ""
    return DataError(
        f"{path} {which} text where the rows below have numbers: {_shown(line.cells)}. "
        f"Give --skip-rows {rows} if it is units or types{named}."
    )


def _shown(cells: Sequence[str]) -> str:
    """Return the first cells that are not empty, quoted."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    return ", ".join(quote(cell) for cell in filled[:3]) + (", …" if len(filled) > 3 else "")  # noqa: PLR2004
