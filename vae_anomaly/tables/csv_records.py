"""Split a delimited file into records and keep the bytes of each, so that a malformed one can be left out and shown.

Records end where Arrow's reader ends them: at a line end outside quotes, where a quote opens at the beginning of a cell only. Text after
a closing quote, which Arrow would append to the cell, makes a record malformed here. Column types do not matter.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

# Bytes read at a time.
PIECE = 1 << 20
_LINE = re.compile(rb"[^\r\n]*(?:\r\n?|\n|\Z)")
_END = re.compile(rb"\r\n?|\n")
# Bytes in which lines are counted for an error message: a second of reading.
_MAX_LINE_SEARCH = 64 << 20
_BOM = b"\xef\xbb\xbf"
NEVER_CLOSED = "a quote is opened and never closed"
AFTER_QUOTE = "text follows a closing quote"
ZERO = "it holds a zero byte"
REPEATED = "repeats the header"
COMMENT = "begins with #, as the comments above the header do"
OTHER_TABLE = "begins another table, with other columns"
FOREIGN = "belongs to another table, with other columns"
FOOTER = "looks like a total or a remark below the table"
_MOST_FOOTERS = 10
# First cells: of a row of numbers or times, of a total, and of a remark.
_COUNTED = re.compile(rb'[" ]*[+-]?\d')
_TOTAL = re.compile(
    rb'[" ]*(?:grand |sub-? ?)?(?:totals?|sums?|summe|gesamt|averages?|avg|mean|mittelwert|min(?:imum)?|max(?:imum)?|count'
    rb'|std\.?(?: ?dev\.?)?)[: "]*',
    re.IGNORECASE,
)
_REMARK = re.compile(rb'[" ]*(?:[A-Za-z]{3,}[^",;\t|]* [^",;\t|]*|[-=*]{2,}.*|end)[" ]*$', re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChunk:
    """Consecutive records with their line ends, without blank ones; ``broken`` has a reason for each malformed one, by index."""

    records: list[bytes]
    broken: dict[int, str]


class BinaryStream(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a file holds besides its rows.

    ``lines`` above the header, or above the first row where there is no header; then ``records``: the header, and those below it that
    hold no data. ``trailing``: delimiters at the end of a row that belong to no column. ``annotated``: records that begin with # and
    repeated headers are not rows. ``comments``: a row that begins with # is malformed.
    """

    lines: int = 0
    records: int = 1
    trailing: int = 0
    annotated: bool = False
    comments: bool = False


ONE_HEADER = Head()


def record_chunks(stream: BinaryStream, delimiter: str, head: Head, *, longest: int) -> Iterator[RecordChunk]:
    """Yield the rows of a file as records, about a megabyte at a time.

    A quote that is not closed within ``longest`` bytes makes its own line malformed and no other. A repeated header is malformed, and so
    are totals and remarks below the last row.
    """
    rows, held = _Rows(head, delimiter), None
    for records, unclosed in _split(_Below(stream, head.lines), Patterns.of(delimiter), longest):
        kept = rows.among(records)
        broken = rows.faults | unclosed
        new_index = {old: new for new, old in enumerate(kept)} if broken else {}
        if kept:
            reasons = {new_index[i]: reason for i, reason in broken.items() if i in new_index}
            if held is not None:
                yield held
            held = rows.checked(RecordChunk(records=[records[i] for i in kept], broken=reasons))
    if held is not None:
        yield rows.without_footer(held)


def line_of(stream: BinaryStream, delimiter: str, row: int, head: Head, *, longest: int) -> int | None:
    """Return the line (from 1) of row number ``row`` (from 0); None if it is too far down for a quick search."""
    rows, line, read = _Rows(head, delimiter), 1 + head.lines, 0
    for records, _ in _split(_Below(stream, head.lines), Patterns.of(delimiter), longest):
        kept = set(rows.among(records))
        for i, record in enumerate(records):
            if i in kept:
                if row == 0:
                    return line
                row -= 1
            ends = len(_END.findall(record))
            line, read = line + ends, read + len(record)
            if read > _MAX_LINE_SEARCH or not ends:
                return None
    return None


def record_text(record: bytes) -> str:
    r"""Return a record as text without its line end; bytes that are not UTF-8 are escaped as ``\xNN``."""
    return record.decode("utf-8", "backslashreplace").rstrip("\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """Patterns of one record: well-formed, and as Arrow accepts it. Possessive quantifiers avoid backtracking in long records."""

    strict: re.Pattern[bytes]
    loose: re.Pattern[bytes]
    cell: re.Pattern[bytes]

    @classmethod
    def of(cls, delimiter: str) -> "Patterns":
        """Return the patterns for a delimiter; blanks between a closing quote and the delimiter are ignored."""
        d = re.escape(delimiter.encode())
        plain, quoted = rb"(?!\")[^%b\r\n]*+" % d, rb'"[^"]*+(?:""[^"]*+)*+"'
        cells = {"strict": quoted + (b"" if delimiter == " " else b" *+"), "loose": rb"%b[^%b\r\n]*+" % (quoted, d)}
        whole = {name: rb"(?:%b|%b)(?:%b(?:%b|%b))*+(?:\r\n?|\n|\Z)" % (cell, plain, d, cell, plain) for name, cell in cells.items()}
        cell = re.compile(rb"(%b) *+|(%b)" % (quoted, plain.replace(b"*+", b"++")))
        return cls(strict=re.compile(whole["strict"]), loose=re.compile(whole["loose"]), cell=cell)


def _split(stream: BinaryStream, patterns: Patterns, longest: int) -> Iterator[tuple[list[bytes], dict[int, str]]]:
    """Yield records with their line ends, and the reasons of the malformed ones by index."""
    data, start, final = b"", 0, False
    while not final:
        data = data[start:]
        if len(data) > longest:
            yield [data[:PIECE]], {0: _too_long(longest)}
            data = _next_line(stream)
        # Doubling the data, so that a long record is scanned a few times only.
        piece = stream.read(max(PIECE, len(data)))
        data, start, final = data + piece, 0, not piece
        while True:
            records, broken, end = _complete(data, start, patterns, final=final, longest=longest)
            if not records:
                break
            if end - start > longest:
                broken |= {i: _too_long(longest) for i, record in enumerate(records) if len(record) > longest}
            if data.find(b"\0", start, end) >= 0:
                broken = {i: ZERO for i, record in enumerate(records) if b"\0" in record} | broken
            yield records, broken
            start = end


def _complete(data: bytes, start: int, patterns: Patterns, *, final: bool, longest: int) -> tuple[list[bytes], dict[int, str], int]:
    """Return the complete records from ``start`` on, about a megabyte of them, the reasons of malformed ones, and where they end."""
    part = data[start : start + PIECE]
    if b'"' not in part:
        lines = part.splitlines(keepends=True)
        # The last line may be incomplete, or its \r may be followed by \n.
        if lines and not lines[-1].endswith(b"\n") and not (final and start + len(part) == len(data)):
            lines.pop()
        if lines:
            return lines, {}, start + sum(map(len, lines))
    if not final and data.find(b"\n", start) < 0 and data.find(b"\r", start) < 0:
        return [], {}, start
    records, broken, position = list[bytes](), dict[int, str](), start
    while position < min(len(data), start + PIECE):
        record, fault = _record(data, position, patterns, final=final, longest=longest)
        if record is None or (not final and record.end() == len(data) and not data.endswith(b"\n")):
            break
        if fault:
            broken[len(records)] = fault
        # Arrow would keep blanks after a closing quote as part of the cell, which would then be another level.
        as_it_is = b'" ' not in record[0] or fault
        records.append(record[0] if as_it_is else patterns.cell.sub(rb"\1\2", record[0]))
        position = record.end()
    return records, broken, position


def _record(data: bytes, position: int, patterns: Patterns, *, final: bool, longest: int) -> tuple[re.Match[bytes] | None, str]:
    """Return the record at a position and its fault, if any; no record if its end is not in ``data`` yet.

    A quote that is never closed, or is closed by one of a later line that text follows, makes its own line malformed and no other.
    """
    record = patterns.strict.match(data, position)
    if record is not None:
        return record, ""
    record, fault = patterns.loose.match(data, position), AFTER_QUOTE
    if record is None:
        if not final and len(data) - position <= longest:
            return None, ""
        fault = NEVER_CLOSED
    elif not final and record.end() == len(data):
        return None, ""
    line = _LINE.match(data, position)
    if record is not None and line is not None and line.end() < record.end():
        fault = NEVER_CLOSED  # the closing quote belongs to another row
    return (line, fault) if line is not None and (final or line[0].endswith((b"\r", b"\n"))) else (None, "")


def _too_long(longest: int) -> str:
    return f"longer than {longest >> 20} MB"


def _next_line(stream: BinaryStream) -> bytes:
    """Skip to the next line end and return what was read from there on."""
    while piece := stream.read(PIECE):
        line = re.search(rb"[\r\n]", piece)
        if line:
            return piece[line.start() :]
    return b""


class _Below:
    """Binary stream without the byte-order mark and the first lines of another one."""

    def __init__(self, stream: BinaryStream, lines: int) -> None:
        self._stream, self._lines, self._begun = stream, lines, False

    def read(self, size: int, /) -> bytes:
        """Return some bytes, none at the end."""
        if self._begun:
            return self._stream.read(size)
        self._begun = True
        return self._first(size)

    def _first(self, size: int) -> bytes:
        data, start, left = b"", 0, self._lines
        while len(data) < len(_BOM) and (piece := self._stream.read(size)):
            data += piece
        data = data.removeprefix(_BOM)
        while left:
            end = _END.search(data, start)
            if end is not None and not (end[0] == b"\r" and end.end() == len(data)):  # a \n may follow
                start, left = end.end(), left - 1
                continue
            piece = self._stream.read(size)
            if not piece:
                return b""
            data, start = data[end.start() :] + piece if end is not None else piece, 0
        return data[start:] or self._stream.read(size)


class _Rows:
    """Tells the rows of a file from its other records, and finds rows that are none."""

    def __init__(self, head: Head, delimiter: str) -> None:
        self._head, self._left, self._header = head, head.records, b""
        self._annotated, self._foreign, self._faults = False, False, dict[int, str]()
        self._delimiter = delimiter.encode()
        self._trailing = self._delimiter * head.trailing

    @property
    def faults(self) -> dict[int, str]:
        """Reasons of malformed rows among the last records."""
        return self._faults

    def among(self, records: list[bytes]) -> list[int]:
        """Return the indices of the rows, given all records one after the other."""
        filled = [i for i, record in enumerate(records) if record.strip(b"\r\n")]
        if self._left:
            self._header = self._header or (records[filled[0]] if filled else b"")
            above = min(self._left, len(filled))
            filled, self._left = filled[above:], self._left - above
        self._faults = {}
        return [i for i in filled if self._is_row(records[i], i)] if self._head.annotated else filled

    def _is_row(self, record: bytes, i: int) -> bool:
        """Whether a record of an annotated file is a row; those of a table with another header are, but malformed."""
        header = record.rstrip(b"\r\n") == self._header.rstrip(b"\r\n")
        annotation, above = record.startswith(b"#"), self._annotated
        self._annotated = annotation
        if annotation or header:
            self._foreign = self._foreign and not header
            return False
        if above or self._foreign:
            self._faults[i] = FOREIGN if self._foreign and not above else OTHER_TABLE
            self._foreign = True
        return True

    def checked(self, chunk: RecordChunk) -> RecordChunk:
        """Add the reasons of repeated headers and comments, and cut what stands behind the last column."""
        records, broken = chunk.records, chunk.broken
        if self._delimiter in self._header and self._header in records:
            broken = broken | {i: REPEATED for i, record in enumerate(records) if record == self._header}
        broken = broken | self._other_tables(records)
        if self._head.comments:
            broken = broken | {i: COMMENT for i, record in enumerate(records) if record.startswith(b"#")}
        records = [self._cut(record) for record in records] if self._trailing else records
        return RecordChunk(records=records, broken=broken)

    def _other_tables(self, records: list[bytes]) -> dict[int, str]:
        """Return the reasons of rows that repeat many, but not all, of the column names, and of those below them."""
        if self._head.annotated or self._delimiter not in self._header:
            return {}
        first = self._header.partition(self._delimiter)[0] + self._delimiter
        begins = {i for i, record in enumerate(records) if record.startswith(first) and self._names_most(record)}
        if not begins and not self._foreign:
            return {}
        found = dict[int, str]()
        for i, record in enumerate(records):
            self._foreign = (self._foreign or i in begins) and record != self._header
            if self._foreign:
                found[i] = OTHER_TABLE if i in begins else FOREIGN
        return found

    def _names_most(self, record: bytes) -> bool:
        """Whether a record is no row but another header: most of its cells are those of the header, in their places."""
        names, cells = (line.rstrip(b"\r\n").split(self._delimiter) for line in (self._header, record))
        return names != cells and 2 * sum(map(bytes.__eq__, names, cells)) > len(names)

    def _cut(self, record: bytes) -> bytes:
        text = record.rstrip(b"\r\n")
        if not text.endswith(self._trailing):
            return record
        # A line of nothing would be no row.
        return (text[: -len(self._trailing)] or b'""') + record[len(text) :]

    def without_footer(self, chunk: RecordChunk) -> RecordChunk:
        """Add the reasons of totals and remarks below the last row: text in the first cell, where the rows have numbers or times."""
        broken, last = dict(chunk.broken), len(chunk.records) - 1
        while last > 0 and len(chunk.records) - last <= _MOST_FOOTERS and self._is_footer(chunk.records[last]):
            broken[last] = broken.get(last, FOOTER)
            last -= 1
        counted = _COUNTED.match(chunk.records[last])
        return RecordChunk(records=chunk.records, broken=broken if counted else chunk.broken)

    def _is_footer(self, record: bytes) -> bool:
        first, _, rest = record.rstrip(b"\r\n").partition(self._delimiter)
        return bool(_TOTAL.fullmatch(first) or (_REMARK.match(first) and rest and not rest.strip(self._delimiter + b'"')))


class Utf8Stream:
    """Binary stream that transcodes another one to UTF-8; what cannot be decoded stays invalid UTF-8."""

    def __init__(self, stream: BinaryStream, encoding: str) -> None:
        name = codecs.lookup(encoding).name
        self._errors = "surrogatepass" if name.startswith(("utf-16", "utf-32")) else "surrogateescape"
        self._decoder = None if name == "utf-8" else codecs.getincrementaldecoder(encoding)(self._errors)
        self._stream = stream
        self._ready = b""
        self._ended = False

    def read(self, size: int = 1 << 20, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""
        while not self._ready and not self._ended:
            piece = self._stream.read(size)
            self._ended = not piece
            self._ready = self._transcoded(piece)
        piece, self._ready = self._ready[:size], self._ready[size:]
        return piece

    def _transcoded(self, piece: bytes) -> bytes:
        if self._decoder is None:
            return piece
        try:
            return self._decoder.decode(piece, self._ended).encode("utf-8", self._errors)
        except UnicodeDecodeError:
            # Half a character at the end of UTF-16, for which error handlers are not called.
            return self._decoder.decode(piece).encode("utf-8", self._errors) + b"\xff"
