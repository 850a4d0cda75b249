"""Fuzz target: read a delimited file as a fit does and stream it as a score does. ``run.py`` starts it.

An input is one byte of switches and the bytes of a file. Both ways must refuse it in one line or give the same rows.
"""

import gzip
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vae_anomaly"]):
    from vae_anomaly.config import DataConfig, Reading
    from vae_anomaly.errors import DataError
    from vae_anomaly.schema.encoding import encode
    from vae_anomaly.schema.inference import Column
    from vae_anomaly.schema.schema import Schema, infer_schema
    from vae_anomaly.tables.source import open_source

from limits import Crash, fuzz, refusals

# Switches: compressed; a .tsv; the second half is a second file; values declared missing; small batches.
GZIP, TSV, TWO, MISSING, SMALL = 1, 2, 4, 8, 64
FOLDER = Path(tempfile.gettempdir(), "csv")
MODEL = Schema(
    columns=(
        Column(name="a", kind="numeric", nullable=True),
        Column(name="b", kind="numeric", temporal=True),
        Column(name="c", kind="category", levels=("x", "y")),
        Column(name="d", kind="boolean", levels=("no", "yes")),
    )
)
SEEDS = (
    b"a,b,c,d\n1,2024-01-01,x,yes\n2.5,2024-01-02 10:00:00,y,no\n,NA,,true\n",
    b"a;b;c;d\r\n1,5;01.02.2024;x;0\r\n-2,25;;z;1\r\n",
    b'a\tb\tc\td\n1e308\t2024-01-01T00:00:00Z\t"q""uote"\tt\n-inf\t\t"two\nlines"\tf\n',
    "\ufeffa,b,c,d\n1,2,Ä,ja\n9007199254740993,3,ß,nein\n".encode(),
    "a,b,c,d\n1,2,é,y\n3,4,è,n\n".encode("utf-16"),
    "a,b,c,d\n1,2,é,y\n".encode("cp1252"),
    b"\n\n a , b ,c,d\n?,Bad,x,yes\n1,1,x\n1,1,x,yes,5\n",
    b"a,a,c,d\n1,2,3,4\n",
    b"a,b,c,d\n",
    b"a|b|c|d\n1|2|3|4\n",
)
TOKENS = (
    ",",
    ";",
    "\\x09",
    "|",
    '\\"',
    '\\"\\"',
    "\\x0a",
    "\\x0d\\x0a",
    "\\x00",
    "NA",
    "NaN",
    "null",
    "inf",
    "-inf",
    "1e999",
    "1,5",
    "1.5",
)
TOKENS += (
    "\\xef\\xbb\\xbf",
    "\\xff\\xfe",
    "\\xfe\\xff",
    "\\xc3",
    "\\x80",
    "true",
    "yes",
    "?",
    "2024-01-01",
    "10:00",
    "9223372036854775808",
    "a",
    "b",
)


def files(flags: int, content: bytes) -> list[str]:
    """Write an input as one or two files and return their paths."""
    FOLDER.mkdir(exist_ok=True)
    middle = len(content) // 2 if flags & TWO else len(content)
    paths = []
    for i, part in enumerate([content[:middle], content[middle:]] if flags & TWO else [content]):
        path = FOLDER / f"{i}.{'tsv' if flags & TSV else 'csv'}{'.gz' if flags & GZIP else ''}"
        path.write_bytes(gzip.compress(part, 1) if flags & GZIP else part)
        paths.append(str(path))
    return paths


def one_input(data: bytes) -> None:
    """Read, infer, stream and encode."""
    flags, content = data[0] if data else 0, data[1:]
    chunk = 2 if flags & SMALL else 65_536
    with refusals(DataError):
        source = open_source(
            files(flags, content),
            Reading(missing_values=("?", "-999") if flags & MISSING else ()),
        )
        with refusals(DataError):
            for batch in source.batches(MODEL, extra=("e",) if "e" in source.names else (), chunk_rows=chunk):
                encode(MODEL, batch)
        with refusals(DataError):
            plain = -1
            plain = sum(batch.num_rows for batch in source.batches(None, chunk_rows=chunk))
        table = source.read_table()
        if plain != table.num_rows:
            raise Crash(f"{plain} rows streamed, {table.num_rows} read")
        learned = infer_schema(table, DataConfig())
        same_rows(source.batches(learned, chunk_rows=chunk), learned, table.num_rows)


def same_rows(batches: object, learned: Schema, rows: int) -> None:
    """What was learned from a file must fit the same file, unless an infinite number, which no model reads, is refused."""
    try:
        counted = sum(len(encode(learned, batch)) for batch in batches)  # type: ignore[attr-defined]
    except DataError as error:
        if "must be finite" in str(error):
            raise
        raise Crash(f"the schema of a file does not fit the file: {error}") from error
    if counted != rows:
        raise Crash(f"{counted} rows streamed, {rows} read")


def seeds(folder: Path) -> None:
    """Write the first inputs, and the words that mutations put in."""
    for i, content in enumerate(SEEDS):
        for flags in (0, MISSING | SMALL):
            (folder / f"{i}-{flags}").write_bytes(bytes([flags]) + content)
    (folder.parent / "words.dict").write_text("".join(f'"{token}"\n' for token in TOKENS), encoding="ascii")


if __name__ == "__main__":
    fuzz(one_input, seeds)
