"""Property: a table written as text in any dialect is read back cell for cell, whole and in a stream, whatever becomes of bad rows."""

import bz2
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vae_anomaly.choices import MISSING_TEXT, OnError
from vae_anomaly.config import DataConfig, Reading
from vae_anomaly.schema.schema import Schema, conform, infer_schema
from vae_anomaly.tables import csv_records
from vae_anomaly.tables.csv import DelimitedTable
from vae_anomaly.tables.csv_dialect import Dialect
from vae_anomaly.tables.csv_rejects import Rejected
from vae_anomaly.tables.files import find_files
from vae_anomaly.tables.source import ROW_NUMBERS, Source, open_source

DECLARED = ("?", "-999")
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: bytes(pa.compress(content, codec="zstd", asbytes=True)),
}
# Encodings that are inferred, with letters that show which one it is; and others that are not, for the reader alone.
FOUND = {"utf-8": "ü€漢😀", "utf-8-sig": "ü€", "utf-16": "ü€漢😀", "cp1252": "äöüß"}
GIVEN = {"latin-1": "ü\x85Ã¤", "cp437": "ä╬", "utf-16-be": "ü漢", "shift_jis": "漢ア"}
# No digits in texts: 'a;1,5' may be meant as a number.
SIGNS = "ab;,\t|\"' =#-\n\r"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How a table is written."""

    delimiter: str
    decimal: str
    encoding: str
    given: bool
    line_end: str
    packed: str
    quote_all: bool
    last_line_end: bool
    blank_lines: bool

    def content(self, rows: list[list[str]]) -> bytes:
        """Return a header and rows as bytes."""
        lines = [self.delimiter.join(self.cell(cell) for cell in row) for row in rows]
        text = (self.line_end * 2 if self.blank_lines else self.line_end).join(lines) + (self.line_end if self.last_line_end else "")
        return PACKED[self.packed](text.encode(self.encoding))

    def cell(self, text: str) -> str:
        special = any(sign in text for sign in (self.delimiter, "\n", "\r")) or text.startswith('"')
        return '"' + text.replace('"', '""') + '"' if self.quote_all or special else text

    def number(self, text: str) -> str:
        return text.replace(".", self.decimal)


@st.composite
def dialects(draw: st.DrawFn) -> Written:
    delimiter = draw(st.sampled_from(",;\t|"))
    given = draw(st.booleans())
    return Written(
        delimiter=delimiter,
        decimal="." if delimiter == "," else draw(st.sampled_from(".,")),
        encoding=draw(st.sampled_from(list(FOUND | GIVEN if given else FOUND))),
        given=given,
        line_end=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        packed=draw(st.sampled_from(list(PACKED))),
        quote_all=draw(st.booleans()),
        last_line_end=draw(st.booleans()),
        blank_lines=draw(st.booleans()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A table: how it is written, its rows as texts below a header, and the cells that they mean."""

    written: Written
    texts: list[list[str]]
    cells: dict[str, list[Any]]

    @property
    def content(self) -> bytes:
        return self.written.content([list(self.cells), *self.texts])


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["+3", ".5", "-0.0", "5.", "1e5", "2.5E-3", "007", " 1.5 ", "9007199254740993"]),
)
missing = st.sampled_from([*MISSING_TEXT, *DECLARED])


@st.composite
def tables(draw: st.DrawFn) -> Made:
    written = draw(dialects())
    letters = SIGNS + (FOUND | GIVEN)[written.encoding]
    names = ["x", "text", "flag", "key"]
    rows = draw(
        st.lists(
            st.tuples(
                numbers | missing,
                st.text(letters, max_size=5) | missing,
                st.sampled_from(["true", "False"]) | missing,
                st.text(letters, max_size=3) | st.sampled_from(["NA", "?", "=1+1", "0x1F"]),
            ),
            max_size=12,
        )
    )
    # Two rows that say what kind of columns these are, and how numbers are written.
    rows = [("0.5", "word", "true", "key"), ("-1.5", "word", "False", "key"), *rows]
    gone = {*MISSING_TEXT, *DECLARED}
    return Made(
        written=written,
        texts=[[written.number(x) if x not in gone else x, *others] for x, *others in rows],
        cells={
            "x": [None if row[0] in gone or float(row[0]) == -999 else float(row[0]) for row in rows],
            **{name: [None if row[i] in {"", *DECLARED} else row[i] for row in rows] for i, name in enumerate(names[1:3], 1)},
            "key": [row[3] or None for row in rows],  # as it is in the file
        },
    )


def opened(folder: Path, made: Made, content: bytes, on_error: OnError) -> Source:
    path = folder / f"x.csv{made.written.packed}"
    path.write_bytes(content)
    if not made.written.given:
        return open_source([str(path)], Reading(missing_values=DECLARED, on_error=on_error))
    # The encoding cannot be inferred: the reader is opened with the dialect itself.
    dialect = Dialect(
        names=tuple(made.cells),
        delimiter=made.written.delimiter,
        decimal=made.written.decimal,
        encoding=made.written.encoding,
        block=1 << 20,
    )
    reader = DelimitedTable(file=find_files([str(path)])[0], dialect=dialect)
    return Source(readers=(reader,), reading=Reading(missing_values=DECLARED, on_error=on_error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any-csv")


def as_levels(schema: Schema, made: Made) -> dict[str, list[object]]:
    """Return the cells as a model reads them, whatever the format that they come from."""
    batch = pa.RecordBatch.from_pydict(made.cells)
    return {**conform(schema, batch, where="the cells").to_pydict(), "key": made.cells["key"]}


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([5, 64, 1 << 20]), st.sampled_from(["stop", "skip", "quarantine"]))
def test_every_cell_is_read_back(folder: Path, made: Made, piece: int, on_error: OnError) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "PIECE", piece)
        source = opened(folder, made, made.content, on_error)
        table = source.read_table()
        read = {name: values.to_pylist() for name, values in zip(table.column_names, table.columns, strict=True)}
        assert read | {"key": None} == made.cells | {"key": None}
        assert read["key"] == [None if cell in {"", *DECLARED} else cell for cell in made.cells["key"]]
        schema = infer_schema(table, DataConfig(id_columns=("key",)))
        assert [c.kind for c in schema.columns] == ["numeric", "category", "boolean"]
        streamed = pa.Table.from_batches(source.batches(schema, extra=["key"])).to_pydict()
    if on_error != "stop":
        assert streamed.pop(ROW_NUMBERS) == list(range(len(made.texts)))
    assert streamed == as_levels(schema, made)


@settings(max_examples=30, deadline=None)
@given(tables(), st.sampled_from([5, 64, 1 << 20]), st.sampled_from(["skip", "quarantine"]), st.data())
def test_malformed_rows_are_left_out_and_the_others_read_as_without_them(
    folder: Path, made: Made, piece: int, on_error: OnError, data: st.DataObject
) -> None:
    bad = data.draw(st.dictionaries(st.integers(0, len(made.texts) + 3), st.sampled_from([["lone"], ["a"] * 3, ["a"] * 6]), max_size=3))
    waiting = iter(made.texts)
    mixed = [bad[i] if i in bad else next(waiting, None) for i in range(len(made.texts) + len(bad))]
    rows = [row for row in mixed if row is not None]
    good = [i for i, row in enumerate(rows) if len(row) == len(made.cells)]
    assume(2 * len(good) > len(rows) + 1)  # otherwise the file is refused, for the width of its rows or for the number of the bad ones
    schema = infer_schema(pa.table(made.cells), DataConfig(id_columns=("key",)))
    for stream in (True, False):
        aside: list[Rejected] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_records, "PIECE", piece)
            source = opened(folder, made, made.written.content([list(made.cells), *rows]), on_error)
            if stream:
                read = pa.Table.from_batches(source.batches(schema, extra=["key"], on_reject=aside.append)).to_pydict()
                assert read.pop(ROW_NUMBERS) == good
                assert read == as_levels(schema, made)
            else:
                read = source.read_table(aside.append).to_pydict()
                assert read | {"key": None} == made.cells | {"key": None}
        assert [rejected.number for rejected in aside] == [i for i in range(len(rows)) if i not in good]
        assert all("cells, expected 4 as in the header" in rejected.reason for rejected in aside)
