"""Tables to files: whole or absent, the same bytes for the same rows however they were cut into batches.

A file is written under a temporary name in its folder, forced to disk and renamed. Knows nothing about what the rows mean.
"""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vae_anomaly.core import cells
from vae_anomaly.core.keys import key_text
from vae_anomaly.edges.files import one_line
from vae_anomaly.edges.formulas import harmless
from vae_anomaly.errors import ConfigError, OutputError

OutputFormat = Literal["parquet", "csv"]

# Rows a Parquet row group, fewer where that would be more bytes; looked at row by row of the output, so that its bytes do not depend
# on how the rows came.
_GROUP_ROWS = 131_072
_GROUP_BYTES = 16 << 20
_STEP_ROWS = 1024

# What must stand in quotes.
_SPECIAL = '[",\r\n]'
_NULL_IS_EMPTY = {"null_handling": "replace", "null_replacement": ""}

_SAID = {
    errno.ENOSPC: "the disk is full. Free some space or write elsewhere with -o",
    errno.EDQUOT: "the disk quota is used up. Free some space or write elsewhere with -o",
    errno.EROFS: "the file system is read-only. Write elsewhere with -o",
    errno.EACCES: "permission denied. Write elsewhere with -o",
    errno.EPERM: "permission denied. Write elsewhere with -o",
    errno.ENOENT: "its folder does not exist. Make the folder or write elsewhere with -o",
    errno.ENOTDIR: "its folder is a file. Write elsewhere with -o",
    errno.EEXIST: "what is there is no folder. Write elsewhere with -o",
    errno.EISDIR: "it is a folder. Name a file with -o",
    errno.ENAMETOOLONG: "its name is too long. Give it a shorter one with -o",
    errno.EFBIG: "the file would be larger than this file system allows. Write elsewhere with -o",
}


def write_batches(path: Path, batches: Iterator[pa.RecordBatch], schema: pa.Schema, *, fmt: OutputFormat, escape: bool = True) -> int:
    """Write all batches to ``path``, replacing it in one step at the end, and return the rows written.

    Nothing is left behind by an error, whether of writing or raised by ``batches`` itself. In CSV, nested columns are JSON
    text, numbers the shortest that read back the same, missing cells empty; with ``escape``, text that a spreadsheet would take for a
    formula has an apostrophe in front.

    Raises
    ------
    OutputError
        The disk is full, the folder missing, read-only or not ours to write to.
    """
    with writing(path), _whole_or_absent(path) as stream:
        return _write_parquet(stream, batches, schema) if fmt == "parquet" else _write_csv(stream, batches, schema, escape=escape)


def write_text(path: Path, text: str) -> None:
    """Write a text to ``path``, replacing it in one step. Raises OutputError, and then nothing was changed."""
    with writing(path), _whole_or_absent(path) as stream:
        stream.write(text.encode())


def output_format(path: str | Path) -> OutputFormat:
    """Return the format that the name of an output asks for.

    Raises
    ------
    ConfigError
        The name ends neither in .csv nor in .parquet.
    """
    known: dict[str, OutputFormat] = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
    suffix = Path(path).suffix
    if suffix.lower() not in known:
        raise ConfigError(f"output {str(path)!r} must end in .csv or .parquet, got {suffix!r}.")
    return known[suffix.lower()]


def default_output(path: str | Path) -> Path:
    """Return where scores of ``path`` go: new.csv → new.scores.csv, x.parquet and a folder x/ → x.scores.parquet.

    Raises
    ------
    ConfigError
        A glob or a URI has no place of its own beside it.
    """
    text = str(path)
    if not text or "://" in text or re.search(r"[*?\[]", text):
        raise ConfigError(f"{text or repr(text)} has no obvious place for the scores beside it; name one with -o.")
    source = Path(text)
    if os.path.isdir(text):  # noqa: PTH112  # Path.is_dir raises for a name that no file system takes
        resolved = source.resolve()
        return (
            resolved.parent / f"{resolved.name}.scores.parquet"
            if source.name in {"", ".."}
            else source.with_name(f"{source.name}.scores.parquet")
        )
    stem = re.sub(r"\.(gz|zst|bz2)$", "", source.name, flags=re.IGNORECASE)
    columnar = re.search(r"\.(parquet|pq|arrows?|feather|ipc)$", stem, flags=re.IGNORECASE)
    base = re.sub(r"\.(csv|tsv|txt|parquet|pq|arrows?|feather|ipc)$", "", stem, flags=re.IGNORECASE)
    return source.with_name(f"{base}.scores.{'parquet' if columnar else 'csv'}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while writing into one line; readers have translated their own errors."""
    try:
        yield
    except OSError as error:
        said = _SAID.get(error.errno or 0, one_line(error))
        if error.errno == errno.ENOENT and path.parent.is_dir():  # as /proc
            said = "no file can be made in its folder. Write elsewhere with -o"
        raise OutputError(f"{path} cannot be written: {said}.") from error


@contextlib.contextmanager
def _whole_or_absent(path: Path) -> Iterator[BinaryIO]:
    """Give a stream that becomes ``path`` if the block ends well, and vanishes otherwise."""
    sweep(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the new name last; some file systems cannot, and then the file is as safe as it gets."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(path: Path) -> None:
    """Remove what killed processes left of earlier attempts at the same output."""
    for left in path.parent.glob(f".{path.name}.*.part"):
        owner = re.fullmatch(r"(\d+)\.part", left.name.removeprefix(f".{path.name}."))
        if owner and not _alive(int(owner[1])):
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write_parquet(stream: BinaryIO, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> int:
    rows = 0
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for table in _grouped(batches, schema):
            writer.write_table(table, row_group_size=_GROUP_ROWS)
            rows += table.num_rows
    return rows


def _grouped(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Gather rows to tables of ``_GROUP_ROWS``, or of the steps that have ``_GROUP_BYTES`` together; the last is shorter."""
    waiting: list[pa.RecordBatch] = []
    rows = bits = 0
    for piece in _pieces(batches):
        waiting.append(piece)
        rows, bits = rows + piece.num_rows, bits + sum(map(_bits, piece.columns))
        if rows % _STEP_ROWS == 0 and (rows >= _GROUP_ROWS or bits >= 8 * _GROUP_BYTES):
            yield _joined(waiting, schema)
            waiting, rows, bits = [], 0, 0
    if rows:
        yield _joined(waiting, schema)


def _joined(waiting: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return one chunk: where pages end must not depend on how the rows came."""
    return pa.Table.from_batches(waiting, schema).combine_chunks()


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut rows into pieces none of which crosses a multiple of ``_STEP_ROWS``."""
    row = 0
    for batch in batches:
        first = 0
        while first < batch.num_rows:
            piece = batch.slice(first, _STEP_ROWS - row % _STEP_ROWS)
            yield piece
            first, row = first + piece.num_rows, row + piece.num_rows


def _bits(values: pa.Array) -> int:
    """Return what values take by their content alone, whatever they are a slice of."""
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 32 * len(values) + _bits(values.flatten())
    if pa.types.is_struct(kind):
        return sum(map(_bits, values.flatten()))
    if cells.is_text_type(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return 32 * len(values) + 8 * (pc.sum(pc.binary_length(values)).as_py() or 0)
    with contextlib.suppress(ValueError):
        return int(kind.bit_width) * len(values)
    return 64 * len(values)


def _write_csv(stream: BinaryIO, batches: Iterator[pa.RecordBatch], schema: pa.Schema, *, escape: bool) -> int:
    rows = 0
    header = _csv_text(pa.array(schema.names, pa.string()), escape=escape).to_pylist()
    stream.write((",".join(header) + "\n").encode())
    for batch in batches:
        if batch.num_rows:
            stream.write(_lines(batch, escape=escape))
            rows += batch.num_rows
    return rows


def _lines(batch: pa.RecordBatch, *, escape: bool) -> memoryview:
    """Return the rows as UTF-8 text, quoted only where a cell needs it."""
    columns = [_csv_text(column, escape=escape) for column in batch.columns]
    last = pc.binary_join_element_wise(columns[-1], "", "\n", **_NULL_IS_EMPTY)
    return memoryview(pc.binary_join_element_wise(*columns[:-1], last, ",", **_NULL_IS_EMPTY).buffers()[2])


def _csv_text(values: pa.Array, *, escape: bool) -> pa.Array:
    if pa.types.is_nested(values.type):
        values = pa.array([None if v is None else _json(v) for v in values.to_pylist()], pa.string())
    values = cells.readable(values)
    if not cells.is_text_type(values.type):
        try:
            return values.cast(pa.string())
        except pa.ArrowException:  # times in a zone that is not known, months and days
            values = pa.array([key_text(cell) for cell in values], pa.string())
    return _quoted(harmless(values) if escape else values)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _quoted(text: pa.Array) -> pa.Array:
    special = pc.match_substring_regex(text, _SPECIAL)
    if not pc.any(special).as_py():
        return text
    doubled = pc.replace_substring(text, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise('"', doubled, '"', ""), text)


def quoted_text(text: str) -> str:
    """Return a single cell of a CSV, quoted only where it needs it."""
    return '"' + text.replace('"', '""') + '"' if re.search(_SPECIAL, text) else text
