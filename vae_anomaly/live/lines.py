"""Lines of a stream as a table: CSV below a header, or one JSON object a line."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from vae_anomaly.choices import LineFormat
from vae_anomaly.messages import shorten
from vae_anomaly.schema.parsing import mask_tokens

DELIMITERS = ",;\t|"
# Characters of a problem that quotes a line, which may have any length.
LONGEST_PROBLEM = 200
# A row, or what is wrong with its line.
Row = Mapping[str, str | None] | str


@dataclass(kw_only=True)
class Lines:
    """How the lines of a stream are read; ``header`` of CSV, empty before it was read.

    ``format`` None: that of the first line.
    """

    format: LineFormat | None
    header: str

    def wants_header(self, line: bytes) -> bool:
        """Whether the next line is the header of CSV; without a format, one that begins with a brace is JSON."""
        if self.format is None and not self.header:
            self.format = "json" if line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else "csv"
        return not self.header and self.format != "json"

    def take_header(self, line: bytes) -> None:
        """Take the first line for the header of CSV."""
        self.header = line.decode("utf-8-sig", errors="replace").rstrip("\r")

    @property
    def delimiter(self) -> str:
        """The delimiter of CSV: the most frequent one in the header."""
        return max(DELIMITERS, key=self.header.count)

    @property
    def columns(self) -> list[str]:
        """The columns of CSV."""
        return [name.strip() for name in next(csv.reader([self.header], delimiter=self.delimiter))]

    def read(self, texts: Sequence[bytes]) -> list[Row]:
        """Return each line as a row, or as the text of its problem."""
        columns = self.columns if self.header else []
        return [self._row(text, columns) for text in texts]

    def _row(self, line: bytes, columns: Sequence[str]) -> Row:
        try:
            text = line.decode("utf-8").rstrip("\r")
            return _of_csv(text, columns, self.delimiter) if self.header else _of_json(text)
        except UnicodeDecodeError:
            return "the line is not UTF-8"
        except (ValueError, RecursionError, csv.Error) as error:
            return f"the line cannot be read: {shorten(str(error), LONGEST_PROBLEM)}"


def _of_json(text: str) -> Row:
    row = json.loads(text)
    if not isinstance(row, dict):
        return "the line is no JSON object"
    return {name: _text(value) for name, value in row.items()}


def _text(value: object) -> str | None:
    """Return a value as text, so that it is read alike whatever the other lines hold. Raises ValueError for a nested value."""
    if isinstance(value, dict | list):
        raise ValueError("a value is nested")  # noqa: TRY004  # of JSON, not of the program
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair is no text
    return None if value is None else str(value)


def _of_csv(text: str, columns: Sequence[str], delimiter: str) -> Row:
    cells = text.split(delimiter) if '"' not in text else next(csv.reader([text], delimiter=delimiter), [])
    if len(cells) != len(columns):
        return f"the line has {len(cells):,} cells, expected {len(columns):,}"
    return dict(zip(columns, cells, strict=True))


def table_of_rows(rows: Sequence[Row], names: Sequence[str], missing: Sequence[str]) -> tuple[pa.RecordBatch, dict[int, str]]:
    """Return the columns ``names`` of the rows as text, and the problem of each row that has one; texts of ``missing`` are missing."""
    problems = {i: row for i, row in enumerate(rows) if isinstance(row, str)}
    for i, row in enumerate(rows):
        if not isinstance(row, str) and (absent := [name for name in names if name not in row]):
            problems[i] = f"the line lacks the column {absent[0]!r}"
    cells = [[None if i in problems else row[name] for i, row in enumerate(rows)] for name in names]  # type: ignore[index]
    columns = [mask_tokens(pa.array(column, pa.string()), missing) for column in cells]
    return pa.RecordBatch.from_arrays(columns, names=list(names)), problems
