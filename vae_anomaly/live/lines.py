"""Lines of a stream as a table: CSV below a header, or one JSON object a line."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vae_anomaly.choices import LineFormat
from vae_anomaly.schema.parsing import mask_tokens

DELIMITERS = ",;\t|"
# A row, or what is wrong with its line.
Row = Mapping[str, Any] | str


@dataclass(kw_only=True)
class Lines:
    """How the lines of a stream are read; ``header`` of CSV, empty before it was read; ``names``: the columns that a model needs.

    ``format`` None: that of the first line.
    """

    format: LineFormat | None
    header: str
    names: Sequence[str]

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
        decoded = [text.decode("utf-8", errors="replace").rstrip("\r") for text in texts]
        if not self.header:
            return [_of_json(text) for text in decoded]
        columns = self.columns
        return [_of_csv(text, columns, self.delimiter) for text in decoded]


def _of_json(text: str) -> Row:
    try:
        row = json.loads(text)
    except ValueError as error:
        return f"the line is no JSON: {error}"
    return row if isinstance(row, dict) else "the line is no JSON object"


def _of_csv(text: str, columns: Sequence[str], delimiter: str) -> Row:
    cells = text.split(delimiter) if '"' not in text else next(csv.reader([text], delimiter=delimiter), [])
    if len(cells) != len(columns):
        return f"the line has {len(cells):,} cells, expected {len(columns):,}"
    return dict(zip(columns, cells, strict=True))


def table_of_rows(rows: Sequence[Row], names: Sequence[str], missing: Sequence[str]) -> tuple[pa.RecordBatch, dict[int, str]]:
    """Return the columns ``names`` of the rows, and the problem of each row that has one; texts of ``missing`` are missing cells."""
    problems = {i: row for i, row in enumerate(rows) if isinstance(row, str)}
    for i, row in enumerate(rows):
        if not isinstance(row, str) and (absent := [name for name in names if name not in row]):
            problems[i] = f"the line lacks the column {absent[0]!r}"
    columns = [_column([None if i in problems else row[name] for i, row in enumerate(rows)], missing) for name in names]  # type: ignore[index]
    return pa.RecordBatch.from_arrays(columns, names=list(names)), problems


def _column(values: list[Any], missing: Sequence[str]) -> pa.Array:
    """Return a column: texts, or numbers where all are; a mixture as texts."""
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        array = pa.array([None if value is None else str(value) for value in values], pa.string())
    if pa.types.is_null(array.type):
        return array.cast(pa.string())
    return mask_tokens(array, missing)
