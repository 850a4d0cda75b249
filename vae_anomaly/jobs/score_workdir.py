"""``.<output>.resume/``: what a killed job had finished, kept until its output is whole.

In it lie ``lock``, held by the process that makes the output; ``request.json``, digests of what the parts were made from; finished rows
as Arrow files, named by their first row, each with what was counted up to its end; and notes. All of it is whole or absent. Knows no
models and no scores: what parts are made from, counts and notes are plain JSON values.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from vae_anomaly.errors import DataError, OutputError, VaeAnomalyError
from vae_anomaly.storage.atomic import durably, sweep, writing
from vae_anomaly.storage.locks import Taken, clear, lock, remove
from vae_anomaly.tables.quarantine import QUARANTINE

if sys.platform != "win32":
    pass

_logger = logging.getLogger(__name__)
WORKDIR_FORMAT = 1
# Parts are given up before the output itself has no room: free bytes that must remain beside four times the part.
SPARE_BYTES = 64 * 2**20

_KEY = b"vae-anomaly"
FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRows:
    """Finished rows from ``first`` on; ``counted`` is what had been counted up to their end."""

    path: Path
    first: int
    rows: int
    counted: Mapping[str, Any]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Return the rows as they were kept. Raises OutputError for a part that somebody else has changed."""
        try:
            with self.path.open("rb") as file, pa.ipc.open_file(file) as reader:
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i).replace_schema_metadata(None)
        except (OSError, pa.ArrowException) as error:
            raise OutputError(
                f"{self.path} was changed while it waited for its job to go on. Run the job again: it starts anew."
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """The claimed folder of an output that is being made."""

    output: Path
    folder: Path

    def begin(self, made_from: Mapping[str, Any], *, anew: bool) -> tuple[FinishedRows, ...]:
        """Return the finished parts of a killed job that was to do the same; none if there is none, and then the folder is empty.

        Parts of another job, and with ``anew`` all parts, are removed.
        """
        digests = {name: digest_of(value) for name, value in made_from.items()}
        found = self.noted("request")
        other = [name for name in digests if found and found.get(name) != digests[name]]
        same = found is not None and not other and found.get("format") == WORKDIR_FORMAT
        if same and not anew:
            return self._contiguous()
        if found is not None:
            why = "--overwrite" if anew else f"another request (other {' and '.join(other) or 'version'})"
            _logger.info("not going on with what a killed run left of %s: %s; starting anew", self.output, why)
        with writing(self.output):
            clear(self.folder)
        self.note("request", {"format": WORKDIR_FORMAT, **digests})
        return ()

    def keep(self, first: int, batches: Sequence[pa.RecordBatch], counted: Mapping[str, Any]) -> bool:
        """Keep finished rows; False: the disk has no room to spare, and all parts have made way for the output."""
        path = self._path(first)
        text = json.dumps({"rows": sum(b.num_rows for b in batches), "counted": counted})
        schema = batches[0].schema.with_metadata({_KEY: text})
        with writing(self.output):
            try:
                _refuse_tight(self.folder, sum(b.nbytes for b in batches))
                _write_arrow(path, batches, schema)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._drop_parts()
                return False
        return True

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a note, replacing one of the same name."""
        path = self.folder / f"{name}.json"
        with writing(self.output), durably(path) as temporary:
            temporary.write_text(json.dumps(value), encoding="utf-8")

    def noted(self, name: str) -> dict[str, Any] | None:
        """Return a note; None where there is none, or none that can be read."""
        try:
            return dict(json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def holds_something(self) -> bool:
        """Whether there is anything to go on from."""
        return self.folder.is_dir() and any(path.name not in {"lock", "request.json", QUARANTINE} for path in self.folder.iterdir())

    def _contiguous(self) -> tuple[FinishedRows, ...]:
        """Return the parts from row 0 on without a gap, and remove what lies beyond one."""
        parts: list[FinishedRows] = []
        rows = 0
        while (part := _read_part(self._path(rows), rows)) is not None:
            parts.append(part)
            rows += part.rows
        with writing(self.output):
            for path in {*self.folder.glob("*.arrow"), *self.folder.glob("*.part")} - {part.path for part in parts}:
                path.unlink()
        return tuple(parts)

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:015d}.arrow"

    def _drop_parts(self) -> None:
        for path in [*self.folder.glob("*.arrow"), *self.folder.glob("*.part")]:
            path.unlink()


def folder_of(output: Path) -> Path:
    """Return where the finished parts of an output lie while it is being made."""
    return output.with_name(f".{output.name}.resume")


@contextmanager
def claim(output: Path) -> Iterator[Unfinished]:
    """Claim an output for one process: the second one is refused, and a killed one gives it back.

    The folder is removed when the block ends, and when it ends with an error that running again does not mend, a bad row for instance;
    when it was interrupted or a store did not answer, what was finished stays. Raises OutputError.
    """
    unfinished = Unfinished(output=output, folder=folder_of(output))
    with writing(output):
        try:
            handle = lock(unfinished.folder)
        except Taken as taken:
            raise OutputError(
                f"{output} is being written by another run (process {taken}). Wait for it, or name another with -o."
            ) from None
    try:
        for left in (output, output.with_name(f"{output.name}.manifest.json")):
            sweep(left)
        yield unfinished
    except BaseException as error:
        unread = type(error) is DataError and isinstance(error.__cause__, OSError)
        refused = isinstance(error, VaeAnomalyError) and not unread
        if refused or not unfinished.holds_something():
            remove(unfinished.folder)
        raise
    else:
        remove(unfinished.folder)
    finally:
        os.close(handle)


def remove_leftovers(output: Path) -> None:
    """Remove what a job left that was killed after its output was whole."""
    if folder_of(output).is_dir():
        with suppress(OutputError), claim(output):
            pass


def digest_of(value: object) -> str:
    """sha256 (hex) of a plain JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _refuse_tight(folder: Path, size: int) -> None:
    """Take a disk for full while the output can still grow by what the next parts hold."""
    if shutil.disk_usage(folder).free < SPARE_BYTES + 4 * size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read_part(path: Path, first: int) -> FinishedRows | None:
    """Return a part, None where there is none or no whole one: its footer stands at its end."""
    try:
        with path.open("rb") as file, pa.ipc.open_file(file) as reader:
            said = json.loads(reader.schema.metadata[_KEY])
        return FinishedRows(path=path, first=first, rows=said["rows"], counted=said["counted"]) if said["rows"] > 0 else None
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        return None


def _write_arrow(path: Path, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4", unify_dictionaries=True)
    with durably(path) as temporary, temporary.open("wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
