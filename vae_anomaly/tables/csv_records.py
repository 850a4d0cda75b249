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


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChunk:
    """Consecutive records with their line ends, without blank ones; ``broken`` has a reason for each malformed one, by index."""

    records: list[bytes]
    broken: dict[int, str]


class BinaryStream(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


def record_chunks(stream: BinaryStream, delimiter: str, *, longest: int) -> Iterator[RecordChunk]:
    """Yield the records below the header, about a megabyte at a time.

    A quote that is not closed within ``longest`` bytes makes its own line malformed and no other.
    """
    header = True
    for records, broken in _split(stream, Patterns.of(delimiter), longest):
        if header:
            records, broken, header = _without_header(records, broken)  # noqa: PLW2901  # the first chunk starts with it
        filled = [i for i, record in enumerate(records) if record.strip(b"\r\n")]
        new_index = {old: new for new, old in enumerate(filled)} if broken else {}
        if filled:
            reasons = {new_index[i]: reason for i, reason in broken.items() if i in new_index}
            yield RecordChunk(records=[records[i] for i in filled], broken=reasons)


def line_of(stream: BinaryStream, delimiter: str, row: int, *, longest: int) -> int | None:
    """Return the line (from 1) of record ``row`` below the header (from 0); None if it is too far down for a quick search."""
    line, read, header, bom = 1, 0, True, _BOM
    for records, _ in _split(stream, Patterns.of(delimiter), longest):
        for record in records:
            blank = not record.removeprefix(bom).decode("utf-8", "replace").strip() if header else not record.strip(b"\r\n")
            bom = b""
            if not header and not blank:
                if row == 0:
                    return line
                row -= 1
            header = header and blank
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


def _without_header(records: list[bytes], broken: dict[int, str]) -> tuple[list[bytes], dict[int, str], bool]:
    """Drop leading blank lines and the header; the last value is whether the header is still to come."""
    for i, record in enumerate(records):
        if (record.removeprefix(_BOM) if i == 0 else record).decode("utf-8", "replace").strip():
            return records[i + 1 :], {index - i - 1: reason for index, reason in broken.items() if index > i}, False
    return [], {}, True


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
