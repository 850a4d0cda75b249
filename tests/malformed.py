"""Hundreds of inputs that are damaged, misnamed or not what they should be, each made from a seed and from good rows.

A case says what must come of it: ``refused``, or ``scored`` as its rows say, or ``either`` where chance decides whether the damage can
be seen: then what was scored must be what an independent reader finds in the file. ``python -m tests.malformed 1 20`` sweeps seeds.
"""

import bz2
import csv
import gzip
import io
import json
import logging
import math
import os
import re
import signal
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

from tests.tiny import Case as Model
from tests.tiny import detector as tiny_detector
from tests.tiny import table as pump
from vae_anomaly import artifact
from vae_anomaly.cli.app import app
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import score_batches

# so that the first case is not charged for it

ROWS = 40
MODEL = Model(kind="mixed", size="one", method="split", prior="exemplar")
NUMBERS = ("flow", "pressure", "power", "celsius", "rated")
MISSING = {"", "NA", "N/A", "NaN", "nan", "null", "NULL", "#N/A"}
Outcome = Literal["refused", "scored", "either"]
Cells = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``data`` is given to the command, in ``folder``; ``rows`` are those that are meant, where some are; ``says`` must be in the error."""

    name: str
    folder: Path
    data: str
    outcome: Outcome
    rows: pa.Table | None = None
    says: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where cases are made, of which rows, with which chance."""

    folder: Path
    rows: pa.Table
    random: np.random.Generator

    def case(self, name: str, file: str, content: bytes, outcome: Outcome = "refused", **more: Any) -> Case:
        """Write a file into a folder of its own."""
        folder = self.own(name)
        (folder / file).write_bytes(content)
        return Case(name=name, folder=folder, data=file, outcome=outcome, **more)

    def own(self, name: str) -> Path:
        """Make a folder for a case."""
        folder = self.folder / "".join(c if c.isalnum() else "-" for c in name)
        folder.mkdir()
        return folder

    def places(self, size: int, count: int) -> list[int]:
        """Return some places in a file: near both ends, and anywhere."""
        ends = {p for p in (1, 4, size - 1, size - 5) if 0 < p < size}
        return sorted(ends | set(self.random.integers(1, max(size, 2), count).tolist()))


Make = Callable[[Ground], Iterator[Case]]


# ── good files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def text(rows: pa.Table) -> str:
    """Return rows as CSV, quoted only where it must be."""
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows([str(v).lower() if isinstance(v, bool) else v for v in row.values()] for row in rows.to_pylist())
    return sink.getvalue()


def parquet(rows: pa.Table, **how: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **how)
    return bytes(sink.getvalue().to_pybytes())


def arrow(rows: pa.Table, *, stream: bool = False) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


FORMATS: dict[str, Callable[[pa.Table], bytes]] = {
    "x.csv": lambda rows: text(rows).encode(),
    "x.parquet": parquet,
    "plain.parquet": lambda rows: parquet(rows, compression="none", use_dictionary=False),
    "checked.parquet": lambda rows: parquet(rows, write_page_checksum=True),
    "x.arrow": arrow,
    "stream.arrow": lambda rows: arrow(rows, stream=True),
    "x.csv.gz": lambda rows: gzip.compress(text(rows).encode(), mtime=0),
    "x.csv.bz2": lambda rows: bz2.compress(text(rows).encode()),
    "x.csv.zst": lambda rows: zstd(text(rows).encode()),
}


def independent(path: Path) -> pa.Table:
    """Read a file by other means than the package: Python's own csv, gzip and bz2; Parquet and Arrow whole."""
    if path.name.endswith(".parquet"):
        return pq.ParquetFile(path).read()
    if path.name.endswith(".arrow"):
        opened = pa.ipc.open_stream if path.name.startswith("stream") else pa.ipc.open_file
        return opened(path.read_bytes()).read_all()
    content = path.read_bytes()
    unpack: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".zst": unpack_zstd}
    content = unpack.get(path.suffix, bytes)(content)
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        decoded = content.decode("cp1252" if not {0x81, 0x8D, 0x8F, 0x90, 0x9D} & set(content) else "latin-1")
    return read_text(decoded)


def unpack_zstd(content: bytes) -> bytes:
    return pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()  # type: ignore[no-any-return]


def read_text(decoded: str, **dialect: Any) -> pa.Table:
    """Read CSV with Python's csv: numbers as floats, missing cells null."""
    header, *records = [r for r in csv.reader(io.StringIO(decoded, newline=""), **dialect) if r]
    names = [name.strip() for name in header]
    columns = {name: [record[i] for record in records] for i, name in enumerate(names)}
    return pa.table(
        {
            name: pa.array([None if c in MISSING else float(c) for c in cells], pa.float64())
            if name in NUMBERS
            else pa.array([None if c in MISSING else c for c in cells], pa.string())
            for name, cells in columns.items()
        }
    )


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def truncated(ground: Ground) -> Iterator[Case]:
    for file, write in FORMATS.items():
        content = write(ground.rows)
        for place in ground.places(len(content), 6):
            # A text that ends early may end with a whole row; the stream of Arrow has no end that one would miss.
            outcome: Outcome = "either" if file in {"x.csv", "stream.arrow"} else "refused"
            yield ground.case(f"{file} cut at {place}", file, content[:place], outcome)


def flipped(ground: Ground) -> Iterator[Case]:
    for file, write in FORMATS.items():
        content = write(ground.rows)
        for place in ground.places(len(content), 10):
            bit = 1 << int(ground.random.integers(8))
            damaged = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
            yield ground.case(f"{file} bit {bit} at {place}", file, damaged, "either")


def overwritten(ground: Ground) -> Iterator[Case]:
    for file, write in FORMATS.items():
        content = write(ground.rows)
        for what, fill in (("zeros", bytes), ("noise", ground.random.bytes)):
            place = int(ground.random.integers(len(content) // 4, len(content) // 2))
            yield ground.case(f"{file} {what} at {place}", file, content[:place] + fill(64) + content[place + 64 :], "either")
            yield ground.case(f"{file} {what} behind", file, content + fill(64), "either")


def noise(ground: Ground) -> Iterator[Case]:
    for file in ("x.csv", "x.parquet", "x.arrow", "x.csv.gz", "x.txt"):
        for size in (1, 7, 300, 20_000):
            yield ground.case(f"{file} of {size} random bytes", file, ground.random.bytes(size))
        yield ground.case(f"{file} empty", file, b"", says="is empty (0 bytes)")
        yield ground.case(f"{file} of zeros", file, bytes(3000))
        yield ground.case(f"{file} of blanks", file, b"  \n \n\t\n" * 9)


def footers(ground: Ground) -> Iterator[Case]:
    whole = parquet(ground.rows)
    for length in (0, 1, 7, 1000, len(whole), 2**31 - 1, 2**31, 2**32 - 1):
        yield ground.case(f"footer length {length}", "x.parquet", whole[:-8] + struct.pack("<I", length) + b"PAR1")
    for name, content in {
        "only magic": b"PAR1",
        "magic twice": b"PAR1PAR1",
        "magic, length, magic": b"PAR1" + struct.pack("<I", 0) + b"PAR1",
        "no magic in front": b"XXXX" + whole[4:],
        "no magic behind": whole[:-4] + b"XXXX",
        "encrypted": b"PARE" + whole[4:-4] + b"PARE",
        "two files": whole + whole[:-9],
        "arrow magic": b"ARROW1\0\0",
        "arrow magic twice": b"ARROW1\0\0" + bytes(30) + b"ARROW1",
    }.items():
        yield ground.case(name, "x.parquet", content)


# ── something else ───────────────────────────────────────────────────────────────────────────────────────────────────


def misnamed(ground: Ground) -> Iterator[Case]:
    rows, plain = ground.rows, text(ground.rows).encode()
    sheet = io.BytesIO()
    with zipfile.ZipFile(sheet, "w") as archive:
        archive.writestr(zipfile.ZipInfo("xl/workbook.xml"), "<workbook/>")  # of 1980, always
    yield ground.case("csv named parquet", "x.parquet", plain, says="is not a Parquet file")
    yield ground.case("csv named arrow", "x.arrow", plain)
    yield ground.case("csv named gz", "x.csv.gz", plain)
    yield ground.case("csv named zst", "x.csv.zst", plain)
    yield ground.case("gz named csv", "x.csv", gzip.compress(plain, mtime=0))
    yield ground.case("zst named csv", "x.csv", zstd(plain))
    yield ground.case("bz2 named csv", "x.csv", bz2.compress(plain))
    yield ground.case("gz of a parquet", "x.parquet.gz", gzip.compress(parquet(rows), mtime=0))
    yield ground.case("gz in gz", "x.csv.gz", gzip.compress(gzip.compress(plain, mtime=0), mtime=0))
    yield ground.case("parquet named csv", "x.csv", parquet(rows), "scored", rows=rows)
    yield ground.case("arrow named csv", "x.csv", arrow(rows), "scored", rows=rows)
    yield ground.case("excel named csv", "x.csv", sheet.getvalue(), says="a zip archive or an Excel workbook")
    foreign = {
        "pdf": b"%PDF-1.7\n1 0 obj",
        "png": b"\x89PNG\r\n\x1a\n",
        "old excel": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "sqlite": b"SQLite format 3\0",
        "hdf5": b"\x89HDF\r\n\x1a\n",
        "orc": b"ORC\x01",
        "avro": b"Obj\x01",
        "feather 1": b"FEA1",
        "elf": b"\x7fELF\x02\x01\x01",
        "jpeg": b"\xff\xd8\xff\xe0",
        "numpy": b"\x93NUMPY\x01\0",
        "pickle": b"\x80\x04\x95",
    }
    for name, magic in foreign.items():
        yield ground.case(f"{name} named csv", "x.csv", magic + ground.random.bytes(400))
    objects = [{k: v for k, v in row.items() if v is not None} for row in rows.slice(0, 5).to_pylist()]
    for name, file, content in (
        ("json", "x.json", json.dumps(objects)),
        ("json named csv", "x.csv", json.dumps(objects)),
        ("json lines", "x.jsonl", "\n".join(map(json.dumps, objects))),
        ("json lines named csv", "x.csv", "\n".join(map(json.dumps, objects))),
        ("html named csv", "x.csv", "<html><body><table><tr><td>flow</td><td>1</td></tr>\n</table>\n</body></html>\n"),
        ("xml", "x.xml", "<a>\n<b/>\n</a>\n"),
        ("yaml", "x.yaml", "flow: 1\npressure: 2\n"),
        ("sql named csv", "x.csv", "INSERT INTO pump VALUES (1, 2);\nINSERT INTO pump VALUES (1, 2);\n"),
        ("an error page named csv", "x.csv", "404 Not Found\n\nThe requested URL was not found on this server.\n"),
    ):
        yield ground.case(name, file, content.encode())


def places(ground: Ground) -> Iterator[Case]:
    """What is no file, or no file to read."""
    folder = ground.own("places")

    def case(name: str, data: str, says: str = "") -> Case:
        return Case(name=name, folder=folder, data=data, outcome="refused", says=says)

    (folder / "folder.csv").mkdir()
    (folder / "hidden").mkdir()
    (folder / "hidden" / ".x.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (folder / "dangling.csv").symlink_to("nowhere.csv")
    (folder / "loop.csv").symlink_to("loop.csv")
    os.mkfifo(folder / "fifo.csv")
    yield case("not there", "nothing.csv", "nothing.csv does not exist")
    yield case("in no folder", "no/such/folder/x.csv", "does not exist")
    yield case("an empty folder named csv", "folder.csv")
    yield case("a folder of hidden files", "hidden")
    yield case("a dangling link", "dangling.csv", "dangling.csv")
    yield case("a link to itself", "loop.csv", "loop.csv")
    yield case("a fifo", "fifo.csv", "fifo.csv is not a regular file")
    yield case("a device", "/dev/zero", "/dev/zero is not a regular file")
    yield case("the null device", "/dev/null", "/dev/null is not a regular file")
    yield case("no match", "*.nothing")
    yield case("no name", "")
    yield case("a name with a zero", "a\0b.csv")
    yield case("a name that is too long", "x" * 300 + ".csv")
    yield case("a name in two lines", "a\nb.csv")
    yield case("an unknown scheme", "klingon://host/x.csv")
    yield case("a home of nobody", "~nobody-of-this-name/x.csv")
    yield case("a file behind a file", "dangling.csv/x.csv")


# ── delimited text ───────────────────────────────────────────────────────────────────────────────────────────────────


def lines(rows: pa.Table) -> list[str]:
    return text(rows).splitlines()


def with_line(ground: Ground, place: int, line: str) -> bytes:
    found = lines(ground.rows)
    found.insert(place, line)
    return ("\n".join(found) + "\n").encode()


SPOTS = {"first": 1, "middle": ROWS // 2, "last": ROWS + 1}


def ragged(ground: Ground) -> Iterator[Case]:
    good = lines(ground.rows)[3]
    strange = {
        "short": good.rsplit(",", 1)[0],
        "long": good + ",more",
        "one cell": "total",
        "blanks": "   ",
        "a comment": "# 40 rows",
        "only delimiters": "," * 30,
        "a conflict": "<<<<<<< HEAD",
        "two rows in one": good + "," + good,
        "ctrl-z": "\x1a",
        "semicolons": good.replace(",", ";"),
    }
    for spot, place in SPOTS.items():
        for name, line in strange.items():
            yield ground.case(f"{name} {spot}", "x.csv", with_line(ground, place, line), says=f"x.csv row {place:,} ")


WORDS = (
    "abc", "1e400", "-1e999", "0x1A", "1,234.5", "1.234,5", "1,5", "1 234", "12%", "€5", "--", "-", "#REF!", "true", "1_000",
    "١٢٣", "½", "∞", "inf", "-Infinity", "1e", "e5", "1.2.3", "+-1", "1d5", "1f", "None", "NaT", "n/a", "?", "2024-01-01", "12:30",
    "=1+1", "1\0", "\ufeff1", "１２", "1\u00a0000", ".", "+",
)  # fmt: skip


def words_for_numbers(ground: Ground) -> Iterator[Case]:
    for i, word in enumerate(WORDS):
        for spot, place in SPOTS.items() if i % 4 == 0 else [list(SPOTS.items())[i % 3]]:
            cells = ground.rows.slice(2, 1).to_pylist()[0]
            column = NUMBERS[i % len(NUMBERS)]
            row = {k: ("" if v is None else str(v)) for k, v in cells.items()} | {column: '"' + word + '"'}
            content = with_line(ground, place, ",".join(row.values()))
            yield ground.case(f"{word!r} in {column} {spot}", "x.csv", content, says=f"row {place:,}")


def headers(ground: Ground) -> Iterator[Case]:
    header, *rest = lines(ground.rows)
    body = "\n".join(rest) + "\n"
    for name, first in {
        "duplicate names": header.replace("power", "flow"),
        "all names alike": ",".join(["flow"] * len(header.split(","))),
        "a missing column": header.replace("power", "powr"),
        "other case": header.upper(),
        "no names": "," * header.count(","),
        "an open quote": header.replace("power", '"power'),
        "names in one cell": '"' + header + '"',
        "numbers for names": rest[0],
        "one name less": header.rsplit(",", 1)[0],
        "one name more": header + ",more",
        "semicolons": header.replace(",", ";"),
        "a title": "Pump station 7",
        "a comment": "# made by hand",
    }.items():
        yield ground.case(f"header with {name}", "x.csv", f"{first}\n{body}".encode())
    for name, content in {
        "header only": header + "\n",
        "header without a line end": header,
        "header and blank lines": header + "\n\n\n",
        "byte-order mark only": "\ufeff",
        "newlines only": "\n" * 50,
        "carriage returns only": "\r" * 50,
        "delimiters only": ",,,\n,,,\n",
        "no columns": '""\n""\n',
        "one column": "flow\n1\n2\n",
        "the header twice": f"{header}\n{header}\n{body}",
        "a quote": '"',
        "an apostrophe": "'",
    }.items():
        yield ground.case(name, "x.csv", content.encode())
    units = f"{header}\n" + ",".join(["[bar]"] * len(header.split(","))) + f"\n{body}"
    yield ground.case("a row of units", "x.csv", units.encode(), "scored", rows=ground.rows)
    many = ",".join(f"c{i}" for i in range(5000)) + "\n" + ",".join("1" for _ in range(5000)) + "\n"
    yield ground.case("5,000 other columns", "x.csv", many.encode())


def delimiters(ground: Ground) -> Iterator[Case]:
    whole = text(ground.rows)
    for name, sign in {"blanks": " ", "two colons": "::", "colons": ":", "carets": "^", "unit separators": "\x1f", "tildes": "~"}.items():
        yield ground.case(f"delimited by {name}", "x.csv", whole.replace(",", sign).encode())
    for name, sign in {"semicolons": ";", "tabs": "\t", "pipes": "|"}.items():
        yield ground.case(f"delimited by {name}", "x.csv", whole.replace(",", sign).encode(), "scored", rows=ground.rows)
    commas = whole.replace(",", ";").replace(".", ",")
    yield ground.case("decimal commas", "x.csv", commas.encode(), "scored", rows=ground.rows)
    points = commas.splitlines()
    points[9] = whole.replace(",", ";").splitlines()[9]
    yield ground.case("decimal commas and a row of points", "x.csv", "\n".join(points).encode(), "scored", rows=ground.rows)
    words = commas.splitlines()
    words[9] = "offen" + words[9][words[9].index(";") :]
    thousand = commas.splitlines()
    thousand[9] = "1.023" + thousand[9][thousand[9].index(";") :]
    yield ground.case("a point for thousands among decimal commas", "x.csv", "\n".join(thousand).encode(), says="'1.023', thousands or")
    yield ground.case("a word among decimal commas", "x.csv", "\n".join(words).encode(), says="'offen' in x.csv row 9 (line 10).")


def encodings(ground: Ground) -> Iterator[Case]:
    levels = pa.array([f"Größe {i % 3} €" for i in range(ROWS)])
    rows = ground.rows.set_column(ground.rows.column_names.index("crew"), "crew", levels)
    whole = text(rows)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"):
        yield ground.case(f"in {encoding}", "x.csv", whole.encode(encoding), "scored", rows=rows)
    big = b"\xfe\xff" + whole.encode("utf-16-be")
    yield ground.case("in utf-16-be with its mark", "x.csv", big, "scored", rows=rows)
    for encoding in ("utf-32", "utf-32-le", "cp500", "utf-7"):
        plain = text(ground.rows) if encoding != "utf-7" else whole
        outcome: Outcome = "either" if encoding == "utf-7" else "refused"
        yield ground.case(f"in {encoding}", "x.csv", plain.encode(encoding, "replace"), outcome)
    utf8, western = whole.encode(), whole.encode("cp1252")
    half = utf8.rindex(b"\n", 0, len(utf8) // 2) + 1
    mixed = utf8[:half] + western[western.index(b"\n", len(western) // 2 - 20) + 1 :]
    yield ground.case("utf-8, then cp1252", "x.csv", mixed, says="is not utf-8 text")
    for spot, place in SPOTS.items():
        found = utf8.splitlines(keepends=True)
        found[min(place, ROWS)] = found[min(place, ROWS)].replace("ö".encode(), b"\xf6")
        yield ground.case(f"one cp1252 row {spot}", "x.csv", b"".join(found), says=f"x.csv row {min(place, ROWS)}:")
    odd = whole.encode("utf-16")
    yield ground.case("utf-16 with half a character", "x.csv", odd[:-1])
    yield ground.case("utf-16 shifted by a byte", "x.csv", odd[:2] + odd[3:])
    lone = odd[:-4] + b"\x00\xd8" + odd[-4:]
    yield ground.case("utf-16 with half a pair", "x.csv", lone, "either")
    yield ground.case(
        "a name in latin letters with a zero", "x.csv", whole.replace("Größe 1", "Gr\0ße 1").encode(), says="row 2: it holds a zero"
    )
    for size in (1, 4096):
        yield ground.case(
            f"{size} zeros at the end", "x.csv", text(ground.rows).encode() + bytes(size), says=f"row {ROWS + 1}: it holds a zero"
        )
    yield ground.case("overlong utf-8", "x.csv", utf8.replace("ö".encode(), b"\xc1\x81", 1), says="row")


def line_ends(ground: Ground) -> Iterator[Case]:
    found, rows = lines(ground.rows), ground.rows
    for name, sign in {"crlf": "\r\n", "cr": "\r", "lf": "\n", "blank lines between": "\n\n", "crcrlf": "\r\r\n"}.items():
        yield ground.case(f"line ends {name}", "x.csv", sign.join(found).encode(), "scored", rows=rows)
    mixed = "".join(line + ["\n", "\r\n", "\r"][i % 3] for i, line in enumerate(found))
    yield ground.case("line ends of all kinds", "x.csv", mixed.encode(), "scored", rows=rows)
    for name, sign in {"nel": "\x85", "form feed": "\f", "vertical tab": "\v", "line separator": "\u2028", "none": ""}.items():
        yield ground.case(f"line ends {name}", "x.csv", sign.join(found).encode())


def quotes(ground: Ground) -> Iterator[Case]:
    whole, rows = lines(ground.rows), ground.rows
    padded = "\n".join(" ,".join(f'"{cell}"' for cell in line.split(",")) + " " for line in whole)
    yield ground.case("everything quoted, and blanks after it", "x.csv", padded.encode(), "scored", rows=rows)
    noted = rows.append_column("note", pa.array([f'a "b", {i}\r\nnext' for i in range(ROWS)]))
    yield ground.case("quoted line ends", "x.csv", text(noted).encode(), "scored", rows=rows)
    everything = "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in whole)
    yield ground.case("everything quoted", "x.csv", everything.encode(), "scored", rows=rows)
    for spot, place in SPOTS.items():
        at = min(place, ROWS)
        changes: dict[str, Callable[[str], str]] = {
            "opens": lambda line: line.rsplit(",", 1)[0] + ',"' + line.rsplit(",", 1)[1],
            "opens and the row goes on": lambda line: '"' + line,
            "stands alone": lambda _: '"',
            "is tripled": lambda line: line.rsplit(",", 1)[0] + ',"""',
            "closes and text follows": lambda line: '"' + line.replace(",", '"5,', 1),
        }
        for name, change in changes.items():
            found = [change(line) if i == at else line for i, line in enumerate(whole)]
            yield ground.case(f"a quote {name} {spot}", "x.csv", ("\n".join(found) + "\n").encode(), says=f"row {at:,}:")
        quoted = everything.splitlines()
        quoted[at] = quoted[at].removesuffix('"')
        says = f"row {at:,}: a quote is opened and never closed"
        yield ground.case(f"everything quoted and a quote lost {spot}", "x.csv", "\n".join(quoted).encode(), says=says)
    inch = rows.set_column(rows.column_names.index("crew"), "crew", pa.array(['5" pipe'] * ROWS))
    content = text(rows.drop_columns("crew")).splitlines()
    body = "\n".join(f"{line},{'crew' if i == 0 else chr(53) + chr(34) + ' pipe'}" for i, line in enumerate(content))
    yield ground.case("an inch sign in a cell", "x.csv", body.encode(), "scored", rows=inch)


def numbers(ground: Ground) -> Iterator[Case]:
    """Numbers at the edges, which are numbers all the same."""
    for name, cells in {
        "beyond 2^53": ["9007199254740993", "9223372036854775807", "18446744073709551616"],
        "large": ["1e308", "-1.7976931348623157e308", "179769313486231570000"],
        "subnormal": ["5e-324", "-2.2250738585072014e-308", "1e-400"],
        "zeros": ["-0.0", "0", "00000000000000000000.0"],
        "signs and blanks": [" 1.5 ", "+3", "\t2e3"],
        "long": ["0." + "1" * 400, "1" * 300, "3.14159265358979323846264338327950288"],
        "without digits on a side": [".5", "5.", "-.5e1"],
    }.items():
        values = [cells[i % 3] for i in range(ROWS)]
        found = [line.split(",") for line in lines(ground.rows.drop_columns("flow"))]
        whole = "\n".join(",".join([value, *line]) for value, line in zip(["flow", *values], found, strict=True))
        rows = ground.rows.set_column(0, "flow", pa.array([float(value) for value in values]))
        yield ground.case(f"numbers {name}", "x.csv", whole.encode(), "scored", rows=rows)
    rows = ground.rows
    for name in ("flow", "mode"):
        i = rows.column_names.index(name)
        without = rows.set_column(i, name, pa.nulls(ROWS, rows.schema.field(i).type))
        yield ground.case(f"no cell of {name}", "x.csv", text(without).encode(), "scored", rows=without)
    empty = pa.table({name: pa.nulls(3, rows.schema.field(name).type) for name in rows.column_names})
    yield ground.case("rows without a cell", "x.csv", text(empty).encode(), "scored", rows=empty)
    yield ground.case("one row", "x.csv", text(rows.slice(0, 1)).encode(), "scored", rows=rows.slice(0, 1))
    extra = {f"extra {i}": pa.array(["x"] * ROWS) for i in range(5000)}
    wide = pa.table({**{n: rows[n] for n in rows.column_names}, **extra})
    yield ground.case("5,000 columns more", "x.csv", text(wide).encode(), "scored", rows=rows)
    yield ground.case(
        "gz in two parts", "x.csv.gz", b"".join(gzip.compress((line + "\n").encode(), mtime=0) for line in lines(rows)), "scored", rows=rows
    )


# ── types of Parquet and Arrow ───────────────────────────────────────────────────────────────────────────────────────


def typed(ground: Ground) -> Iterator[Case]:
    n = ROWS
    wrong: Mapping[str, Mapping[str, Any]] = {
        "flow": {
            "list": pa.array([[1.5]] * n),
            "fixed list": pa.array([[1.5, 2.5]] * n, pa.list_(pa.float64(), 2)),
            "struct": pa.array([{"x": 1.5}] * n),
            "map": pa.array([[("x", 1.5)]] * n, pa.map_(pa.string(), pa.float64())),
            "timestamp": pa.array([0] * n, pa.timestamp("us")),
            "zoned timestamp": pa.array([0] * n, pa.timestamp("ns", "Europe/Berlin")),
            "date": pa.array([0] * n, pa.date32()),
            "time": pa.array([0] * n, pa.time64("us")),
            "duration": pa.array([0] * n, pa.duration("s")),
            "binary words": pa.array([b"n/a"] * n),
            "words": pa.array(["n/a"] * n),
            "words in a dictionary": pa.array(["n/a"] * n).dictionary_encode(),
            "an infinity": pa.array([*[1.5] * (n - 1), float("inf")]),
        },
        "mode": {
            "list": pa.array([["low"]] * n),
            "struct": pa.array([{"x": "low"}] * n),
            "map": pa.array([[("x", "low")]] * n, pa.map_(pa.string(), pa.string())),
            "binary that is no text": pa.array([b"\xff\xfe"] * n),
        },
    }
    right: Mapping[str, Mapping[str, Any]] = {
        "flow": {
            "decimal128": pa.array([30] * n, pa.decimal128(20, 4)),
            "decimal256": pa.array([30] * n, pa.decimal256(40, 4)),
            "float32": pa.array([30.5] * n, pa.float32()),
            "float16": pa.array(np.full(n, 30.5, np.float16)),
            "int8": pa.array([30] * n, pa.int8()),
            "uint64": pa.array([2**64 - 1] * n, pa.uint64()),
            "int64 beyond 2^53": pa.array([2**53 + 1] * n),
            "nulls": pa.nulls(n),
            "nan": pa.array([float("nan")] * n),
            "numbers as text": pa.array(["30.5"] * n),
            "numbers as bytes": pa.array([b"30.5"] * n),
            "numbers as bytes of a fixed size": pa.array([b"30.5"] * n, pa.binary(4)),
            "a dictionary": pa.array([30.5] * n).dictionary_encode(),
        },
        "mode": {
            "large text": pa.array(["low"] * n, pa.large_string()),
            "a dictionary": pa.array(["low", "idle"] * (n // 2)).dictionary_encode(),
            "nulls": pa.nulls(n),
            "whole numbers": pa.array([1] * n),
        },
    }
    both: tuple[tuple[Outcome, Mapping[str, Mapping[str, Any]]], ...] = (("refused", wrong), ("scored", right))
    for outcome, kinds in both:
        for name, columns in kinds.items():
            for kind, values in columns.items():
                i = ground.rows.column_names.index(name)
                rows = ground.rows.set_column(i, name, values)
                more = {"rows": rows} if outcome == "scored" else {"says": name}
                if kind != "decimal256" or outcome != "scored":
                    yield ground.case(f"{kind} for {name} in parquet", "x.parquet", parquet(rows), outcome, **more)
                yield ground.case(f"{kind} for {name} in arrow", "x.arrow", arrow(rows), outcome, **more)


def arrow_only(ground: Ground) -> Iterator[Case]:
    n, rows = ROWS, ground.rows
    views = rows.set_column(rows.column_names.index("mode"), "mode", pa.array(["low"] * n, pa.string_view()))
    yield ground.case("text views", "x.arrow", arrow(views), "scored", rows=views)
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([10, n], pa.int32()), pa.array([30.0, 31.0]))
    yield ground.case("runs", "x.arrow", arrow(rows.set_column(0, "flow", runs)), "scored",
                      rows=rows.set_column(0, "flow", pa.array([30.0] * 10 + [31.0] * (n - 10))))  # fmt: skip
    union = pa.UnionArray.from_sparse(pa.array([0] * n, pa.int8()), [pa.array([1.5] * n)])
    yield ground.case("a union", "x.arrow", arrow(rows.set_column(0, "flow", union)), says="flow")
    interval = pa.array([(1, 2, 3)] * n, pa.month_day_nano_interval())
    yield ground.case("an interval", "x.arrow", arrow(rows.set_column(0, "flow", interval)), says="flow")
    sound = arrow(rows.set_column(4, "mode", pa.array(["lower"] * n)))
    offsets = np.arange(0, 5 * (n + 1), 5, dtype=np.int32).tobytes()
    assert offsets in sound
    for name, wrong in (("backwards", offsets[::-1]), ("too far", offsets[:-4] + struct.pack("<i", 2**30))):
        yield ground.case(f"offsets that go {name}", "x.arrow", sound.replace(offsets, wrong))
    no_text = pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(np.arange(n + 1, dtype=np.int32)), pa.py_buffer(b"\xff" * n)])
    for file, content in (
        ("x.arrow", arrow(rows.set_column(4, "mode", no_text))),
        ("x.parquet", parquet(rows.set_column(4, "mode", no_text))),
    ):
        yield ground.case(f"text that is no utf-8 in {file}", file, content)
    for file, write in (("x.parquet", parquet), ("x.arrow", arrow)):
        yield ground.case(f"no rows in {file}", file, write(rows.slice(0, 0)), says="no rows in")
        yield ground.case(f"no columns in {file}", file, write(pa.table({})))
        yield ground.case(
            f"two of a name in {file}", file, write(pa.Table.from_arrays(rows.columns, ["flow", *["x"] * (len(rows.columns) - 1)]))
        )
        yield ground.case(f"a missing column in {file}", file, write(rows.drop_columns("power")), says="'power'")


def folders(ground: Ground) -> Iterator[Case]:
    rows = ground.rows
    broken = rows.set_column(0, "flow", pa.array(["n/a"] * ROWS))
    for name, files, says in (
        ("a column less in the second", {"a.parquet": parquet(rows), "b.parquet": parquet(rows.drop_columns("power"))}, "b.parquet"),
        ("words for numbers in the second", {"a.parquet": parquet(rows), "b.parquet": parquet(broken)}, "b.parquet row 1"),
        ("a damaged second", {"a.parquet": parquet(rows), "b.parquet": parquet(rows)[:-9]}, "b.parquet"),
        ("an empty second", {"a.csv": text(rows).encode(), "b.csv": b""}, "b.csv"),
        ("a header only", {"a.csv": text(rows).encode(), "b.csv": text(rows.slice(0, 0)).encode()}, "b.csv"),
        ("a ragged second", {"a.csv": text(rows).encode(), "b.csv": with_line(ground, 5, "x")}, "b.csv row 5"),
        ("a picture among them", {"a.csv": text(rows).encode(), "b.csv": b"\x89PNG\r\n"}, "b.csv"),
        ("only rows that are none", {"a.parquet": parquet(rows.slice(0, 0)), "b.parquet": parquet(rows.slice(0, 0))}, "no rows"),
        ("a partition that contradicts", {"flow=high/a.parquet": parquet(rows.drop_columns("flow"))}, "flow"),
        (
            "a partition in one only",
            {"mode=low/a.parquet": parquet(rows.drop_columns("mode")), "b.parquet": parquet(rows.drop_columns("mode"))},
            "mode",
        ),
    ):
        folder = ground.own(name)
        for file, content in files.items():
            (folder / "in" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "in" / file).write_bytes(content)
        yield Case(name=name, folder=folder, data="in", outcome="refused", says=says)


# ── size ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def bombs(ground: Ground) -> Iterator[Case]:
    """Small files that unpack to a gigabyte: refused after the first of it, in a stream."""
    header, row = (line.encode() for line in lines(ground.rows)[:2])
    mega = 1 << 20

    def repeated(piece: bytes, count: int, head: bytes = b"") -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(head)
            for _ in range(count):
                stream.write(piece)
        return bytes(sink.getvalue().to_pybytes())

    endless, start = "no line end in its first 4 MB", header + b"\n" + row + b"\n"
    for name, content, says in (
        ("zeros", repeated(bytes(mega), 1000), endless),
        ("blank lines", repeated(b"\n" * mega, 1000), "nothing but blank lines"),
        ("one line", repeated(b"a" * mega, 1000), endless),
        ("delimiters", repeated(b"," * mega, 300), endless),
        ("one cell", repeated(b"a\n" * (mega // 2), 300, start + row + b'\n"'), "row 3: a quote is opened and never closed"),
        ("cells", repeated(b"," * mega, 300, start), "row 2 is longer than 64 MB"),
        ("quotes", repeated(b'"' * mega, 300, start), "row 2 is longer than 64 MB"),
        ("ragged rows", repeated(b"1,2\n" * (mega // 4), 1000, start), "nearly all rows, from line 3 on, have 2 cells"),
    ):
        yield ground.case(f"a bomb of {name}", "x.csv.zst", content, says=says)


KINDS: Sequence[Make] = (
    truncated, flipped, overwritten, noise, footers, misnamed, places, ragged, words_for_numbers, headers, delimiters, encodings,
    line_ends, quotes, numbers, typed, arrow_only, folders, bombs,
)  # fmt: skip


def ground(folder: Path, seed: int) -> Ground:
    """Return the ground of a seed: its rows and its chance."""
    return Ground(folder=folder, rows=pump("mixed", ROWS, seed=1000 + seed), random=np.random.default_rng(seed))


# ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# Of the processor; a file that is never answered is given up after the second, on a machine however busy.
SECONDS, WALL_SECONDS = 10, 120


def plain(rows: pa.Table) -> pa.Table:
    """Return rows as floats and text, through Python's own values."""

    def cell(name: str, value: Any) -> Any:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        return float(value) if name in NUMBERS else str(value).lower() if isinstance(value, bool) else str(value)

    kinds = {name: pa.float64() if name in NUMBERS else pa.string() for name in pump("mixed", 1, seed=0).column_names}
    return pa.table({n: pa.array([cell(n, v) for v in rows[n].to_pylist()], kind) for n, kind in kinds.items()})


def problems(case: Case, model: Path, detector: Detector) -> Iterator[str]:
    """Score a case and yield what is wrong about what comes of it; nothing if all is well."""
    began, output = time.process_time(), case.folder / "out.parquet"
    before = sorted(case.folder.iterdir())
    words = ["score", case.data, "-m", str(model), "--explain", "none", "--threads", "1"]
    code, shown = command(case, [*words, "-o", "out.parquet"])
    if time.process_time() - began > SECONDS:
        yield f"took {time.process_time() - began:.1f} s"
    if code == 0:
        yield from wrong_scores(case, output, detector)
        return
    if case.outcome == "scored":
        yield f"refused: {shown}"
    yield from ill_said(case, code, shown)
    if case.says not in shown:
        yield f"does not say {case.says!r}: {shown}"
    if case.folder.name == "places" and command(case, words)[0] not in {2, code}:
        yield f"exit code {command(case, words)[0]} without -o"
    if sorted(case.folder.iterdir()) != before:
        yield f"left behind {sorted(case.folder.iterdir())}"


def ill_said(case: Case, code: int, shown: str, *, named: bool = True) -> Iterator[str]:
    """Yield what is wrong with how a command refused a case: the exit code, more than one line, or no file ``named``."""
    if code not in range(2, 9):
        yield f"exit code {code}: {shown}"
    if shown.count("\n") != 1 or not shown.startswith("error: ") or len(shown) > 1500 or "Traceback" in shown:
        yield f"not one line: {shown!r}"
    name = Path(case.data.replace("\0", "\\x00").replace("\n", " ")).name
    if named and name not in shown and not (case.folder / case.data).is_dir() and len(name) < 100:
        yield f"does not name {name}: {shown}"


def command(case: Case, words: list[str]) -> tuple[int, str]:
    """Run a command in the folder of a case, for at most ``WALL_SECONDS``; returns its exit code and what it said on stderr.

    Left out are the lines that say how far it is, which a busy machine gives it the time for.
    """

    def too_late(*_: object) -> None:
        raise TimeoutError("still running")

    here = Path.cwd()
    os.chdir(case.folder)
    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        result = CliRunner().invoke(app, words)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.chdir(here)
    return result.exit_code, re.sub(r"(?m)^[a-z ]+: [\d,]+( of [\d,]+)?\n", "", result.stderr)


def wrong_scores(case: Case, output: Path, detector: Detector) -> Iterator[str]:
    if case.outcome == "refused":
        yield f"scored {pq.read_metadata(output).num_rows} rows"
        return
    try:
        rows = plain(case.rows if case.rows is not None else independent(case.folder / case.data))
    except Exception as error:  # noqa: BLE001  # whatever an independent reader says of a damaged file
        yield f"scored {pq.read_metadata(output).num_rows} rows, and another reader says {type(error).__name__}: {error}"
        return
    scored = pq.read_table(output)["anomaly_score"].to_pylist()
    expected = [score for batch in score_batches(detector, rows.to_batches()) for score in batch["anomaly_score"].to_pylist()]
    if scored != expected:
        yield f"scored {len(scored)} rows, expected {len(expected)}, or with other scores"


def main() -> None:
    """Sweep the seeds between two numbers and print what is wrong."""
    from tests.malformed_rows import problems as of_rows

    first, last = (int(word) for word in sys.argv[1:3])
    logging.disable(logging.CRITICAL)
    fitted = tiny_detector(MODEL)
    with TemporaryDirectory() as folder:
        artifact.save(fitted, Path(folder) / "model")
        cases = found = 0
        for seed in range(first, last + 1):
            (Path(folder) / str(seed)).mkdir()
            for make in KINDS:
                made, model = ground(Path(folder) / str(seed), seed), Path(folder) / "model"
                for case in make(made):
                    cases += 1
                    more = of_rows(case, make.__name__, made.rows, model, fitted)
                    for problem in (*problems(case, model, fitted), *more):
                        found += 1
                        print(f"seed {seed} {make.__name__}: {case.name}: {problem.strip()}", flush=True)  # noqa: T201
        print(f"{cases:,} cases, {found:,} problems")  # noqa: T201


if __name__ == "__main__":
    main()
