"""A delimited file cut into its records, each with its bytes, so that a bad one can be left out and shown.

Where a record ends is what Arrow's reader says: at a line end outside quotes, and a quote counts at the beginning of a cell only. What
Arrow would make of a record by guessing is broken here: text after a closing quote, which it glues to the cell. Knows nothing about types
and models.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

PIECE = 1 << 20  # bytes read at a time
_LINE = re.compile(rb"[^\r\n]*(?:\r\n?|\n|\Z)")
_END = re.compile(rb"\r\n?|\n")
_COUNTED = 64 << 20  # bytes in which lines are counted for an error: a second of reading
_BOM = b"\xef\xbb\xbf"
NEVER_CLOSED = "a quote is opened and never closed"
AFTER_QUOTE = "text stands after a closing quote"
ZERO = "it holds a zero byte"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChunk:
    """Consecutive records with their line ends, blank ones left out; ``broken`` says what is wrong with those that are none."""

    records: list[bytes]
    broken: dict[int, str]


class Bytes(Protocol):
    """Whatever bytes can be read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


def record_chunks(stream: Bytes, delimiter: str, *, longest: int) -> Iterator[RecordChunk]:
    """Yield the records below the header, about a megabyte at a time.

    A quote that no other closes within ``longest`` bytes breaks its own line only.
    """
    header = True
    for records, broken in _cut(stream, Patterns.of(delimiter), longest):
        if header:
            records, broken, header = _without_header(records, broken)  # noqa: PLW2901  # the first block has less in it
        kept = [i for i, record in enumerate(records) if record.strip(b"\r\n")]
        place = {old: new for new, old in enumerate(kept)} if broken else {}
        if kept:
            yield RecordChunk(records=[records[i] for i in kept], broken={place[i]: said for i, said in broken.items() if i in place})


def line_of(stream: Bytes, delimiter: str, row: int, *, longest: int) -> int | None:
    """Return the line, from 1, on which a record below the header (from 0) begins; None where that takes more reading than it is worth."""
    line, read, header, bom = 1, 0, True, _BOM
    for records, _ in _cut(stream, Patterns.of(delimiter), longest):
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
            if read > _COUNTED or not ends:
                return None
    return None


def record_text(record: bytes) -> str:
    """Return a record as text without its line end; what is no UTF-8 is written in hexadecimal."""
    return record.decode("utf-8", "backslashreplace").rstrip("\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """What matches one whole record: as it should be, and as Arrow takes it; possessive, so that a long one is looked at once."""

    strict: re.Pattern[bytes]
    loose: re.Pattern[bytes]
    cell: re.Pattern[bytes]

    @classmethod
    def of(cls, delimiter: str) -> "Patterns":
        """Return the patterns for a delimiter; blanks after a closing quote are not the cell's."""
        d = re.escape(delimiter.encode())
        plain, quoted = rb"(?!\")[^%b\r\n]*+" % d, rb'"[^"]*+(?:""[^"]*+)*+"'
        cells = {"strict": quoted + (b"" if delimiter == " " else b" *+"), "loose": rb"%b[^%b\r\n]*+" % (quoted, d)}
        whole = {name: rb"(?:%b|%b)(?:%b(?:%b|%b))*+(?:\r\n?|\n|\Z)" % (cell, plain, d, cell, plain) for name, cell in cells.items()}
        cell = re.compile(rb"(%b) *+|(%b)" % (quoted, plain.replace(b"*+", b"++")))
        return cls(strict=re.compile(whole["strict"]), loose=re.compile(whole["loose"]), cell=cell)


def _cut(stream: Bytes, patterns: Patterns, longest: int) -> Iterator[tuple[list[bytes], dict[int, str]]]:
    """Yield records with their line ends, and which of them are none."""
    data, start, final = b"", 0, False
    while not final:
        data = data[start:]
        if len(data) > longest:
            yield [data[:PIECE]], {0: _too_long(longest)}
            data = _next_line(stream)
        # As much again as there is, so that a long record is looked at a few times only.
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
    """Return the complete records from ``start`` on, about a megabyte of them, which are none, and where they end."""
    part = data[start : start + PIECE]
    if b'"' not in part:
        lines = part.splitlines(keepends=True)
        # The last line may be cut, and after \r there may come \n.
        if lines and not lines[-1].endswith(b"\n") and not (final and start + len(part) == len(data)):
            lines.pop()
        if lines:
            return lines, {}, start + sum(map(len, lines))
    if not final and data.find(b"\n", start) < 0 and data.find(b"\r", start) < 0:
        return [], {}, start
    records, broken, place = list[bytes](), dict[int, str](), start
    while place < min(len(data), start + PIECE):
        found, fault = _record(data, place, patterns, final=final, longest=longest)
        if found is None or (not final and found.end() == len(data) and not data.endswith(b"\n")):
            break
        if fault:
            broken[len(records)] = fault
        # Arrow would take the blanks for a part of the cell, and the level for another.
        plain = b'" ' not in found[0] or fault
        records.append(found[0] if plain else patterns.cell.sub(rb"\1\2", found[0]))
        place = found.end()
    return records, broken, place


def _record(data: bytes, place: int, patterns: Patterns, *, final: bool, longest: int) -> tuple[re.Match[bytes] | None, str]:
    """Return the record at a place and what is wrong with it; None if more has to be read to know where it ends.

    A quote that is never closed, or that one of a later line closes before text, breaks its own line only.
    """
    found = patterns.strict.match(data, place)
    if found is not None:
        return found, ""
    found, fault = patterns.loose.match(data, place), AFTER_QUOTE
    if found is None:
        if not final and len(data) - place <= longest:
            return None, ""
        fault = NEVER_CLOSED
    elif not final and found.end() == len(data):
        return None, ""
    line = _LINE.match(data, place)
    if found is not None and line is not None and line.end() < found.end():
        fault = NEVER_CLOSED  # on its line; what closes it is a quote of another row
    return (line, fault) if line is not None and (final or line[0].endswith((b"\r", b"\n"))) else (None, "")


def _too_long(longest: int) -> str:
    return f"longer than {longest >> 20} MB"


def _next_line(stream: Bytes) -> bytes:
    """Read on to the next line."""
    while piece := stream.read(PIECE):
        line = re.search(rb"[\r\n]", piece)
        if line:
            return piece[line.start() :]
    return b""


def _without_header(records: list[bytes], broken: dict[int, str]) -> tuple[list[bytes], dict[int, str], bool]:
    """Leave out blank lines at the beginning and the first record below them, and say whether it is still to come."""
    for i, record in enumerate(records):
        if (record.removeprefix(_BOM) if i == 0 else record).decode("utf-8", "replace").strip():
            return records[i + 1 :], {place - i - 1: said for place, said in broken.items() if place > i}, False
    return [], {}, True


_PIECE = 1 << 20  # bytes read at a time


class Utf8:
    """A stream of bytes as UTF-8."""

    def __init__(self, stream: Bytes, encoding: str) -> None:
        name = codecs.lookup(encoding).name
        self._errors = "surrogatepass" if name.startswith(("utf-16", "utf-32")) else "surrogateescape"
        self._decoder = None if name == "utf-8" else codecs.getincrementaldecoder(encoding)(self._errors)
        self._stream = stream
        self._ready = b""
        self._ended = False

    def read(self, size: int = _PIECE, /) -> bytes:
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
            # Half a character at the end of UTF-16: no error handler lets it through.
            return self._decoder.decode(piece).encode("utf-8", self._errors) + b"\xff"
