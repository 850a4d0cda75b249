"""Checkpoints of a scoring: finished output rows in its work folder, kept until the output is whole.

Each is an Arrow file named by its first row, with the counts up to its end in its metadata. Knows no models and no scores.
"""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from vae_anomaly.errors import DataError, OutputError, VaeAnomalyError
from vae_anomaly.jobs.claim import LOCK_FILE, REQUEST_FILE, Taken, WorkFolder, clear, digests_of, folder_of, lock, remove
from vae_anomaly.storage.atomic import replacing, sweep, writing
from vae_anomaly.tables.quarantine import QUARANTINE

_logger = logging.getLogger(__name__)
WORKDIR_FORMAT = 1
# Checkpoints are removed before the output itself runs out of disk: free bytes that must remain besides four times the checkpoint.
SPARE_BYTES = 64 * 2**20

# A checkpoint is written at the latest after this time, and before it holds more memory than that.
PART_SECONDS = 10.0
PART_BYTES = 32 * 2**20

_KEY = b"vae-anomaly"
FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRows:
    """A checkpoint: finished rows from ``first`` on, and what was ``counted`` up to their end."""

    path: Path
    first: int
    rows: int
    counted: Mapping[str, Any]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as they were written. Raises OutputError if the file was changed afterwards."""
        try:
            with self.path.open("rb") as file, pa.ipc.open_file(file) as reader:
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i).replace_schema_metadata(None)
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{self.path} was changed after it was written. Run the job again: it starts over.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished(WorkFolder):
    """The claimed work folder of an output that is being written."""

    def begin(self, made_from: Mapping[str, Any], *, restart: bool) -> tuple[FinishedRows, ...]:
        """Return the checkpoints of an interrupted job of the same request; if there are none, the folder is emptied.

        Checkpoints of another request, and with ``restart`` all of them, are removed.
        """
        digests, found = digests_of(made_from), self.noted("request")
        other = [name for name, digest in digests.items() if found and found.get(name) != digest]
        same = found is not None and not other and found.get("format") == WORKDIR_FORMAT
        if same and not restart:
            return self._contiguous()
        if found is not None:
            why = "--overwrite" if restart else f"another request (other {' and '.join(other) or 'version'})"
            _logger.info("not resuming the interrupted job of %s: %s; starting over", self.output, why)
        with writing(self.output):
            clear(self.folder)
        self.note("request", {"format": WORKDIR_FORMAT, **digests})
        return ()

    def keep(self, first: int, batches: Sequence[pa.RecordBatch], counted: Mapping[str, Any]) -> bool:
        """Write a checkpoint; False if the disk is nearly full, and all checkpoints were removed to make room for the output."""
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
                self._drop_checkpoints()
                return False
        return True

    def has_progress(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.holds_other_than(LOCK_FILE, REQUEST_FILE, QUARANTINE)

    def _contiguous(self) -> tuple[FinishedRows, ...]:
        """Return the checkpoints from row 0 on without a gap, and remove those beyond one."""
        found: list[FinishedRows] = []
        rows = 0
        while (checkpoint := _read_checkpoint(self._path(rows), rows)) is not None:
            found.append(checkpoint)
            rows += checkpoint.rows
        with writing(self.output):
            for path in {*self.folder.glob("*.arrow"), *self.folder.glob("*.part")} - {checkpoint.path for checkpoint in found}:
                path.unlink()
        return tuple(found)

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:015d}.arrow"

    def _drop_checkpoints(self) -> None:
        for path in [*self.folder.glob("*.arrow"), *self.folder.glob("*.part")]:
            path.unlink()


@dataclass(kw_only=True)
class Pace:
    """When a checkpoint is due: after ``part_rows`` rows, after some seconds, or when it becomes large."""

    part_rows: int
    part_bytes: int = PART_BYTES
    rows: int = 0
    bytes: int = 0
    since: float = field(default_factory=time.monotonic)

    def due(self, rows: int, size: int = 0) -> bool:
        """Add ``rows`` of ``size`` bytes; True resets the counters."""
        self.rows += rows
        self.bytes += size
        late = time.monotonic() - self.since >= PART_SECONDS
        if self.rows == 0 or not (late or self.rows >= self.part_rows or self.bytes >= self.part_bytes):
            return False
        self.rows, self.bytes, self.since = 0, 0, time.monotonic()
        return True


@contextmanager
def claim(output: Path) -> Iterator[Unfinished]:
    """Claim the work folder of an output for this process; the claim of a killed process is released.

    The folder is removed when the block ends, and after an error that the same command would meet again, such as a malformed row; after an
    interrupt or a network error, checkpoints are kept. Raises OutputError if another process has the claim.
    """
    unfinished = Unfinished(output=output, folder=folder_of(output))
    with writing(output):
        try:
            handle = lock(unfinished.folder)
        except Taken as taken:
            raise OutputError(
                f"{output} is being written by another process (PID {taken}). Wait for it, or name another with -o."
            ) from None
    try:
        for path in (output, output.with_name(f"{output.name}.manifest.json")):
            sweep(path)
        yield unfinished
    except BaseException as error:
        unread = type(error) is DataError and isinstance(error.__cause__, OSError)
        refused = isinstance(error, VaeAnomalyError) and not unread
        if refused or not unfinished.has_progress():
            remove(unfinished.folder)
        raise
    else:
        remove(unfinished.folder)
    finally:
        os.close(handle)


def remove_leftovers(output: Path) -> None:
    """Remove the work folder of a job that was killed after its output was complete."""
    if folder_of(output).is_dir():
        with suppress(OutputError), claim(output):
            pass


def _refuse_tight(folder: Path, size: int) -> None:
    """Treat the disk as full while the output can still grow by the size of the next checkpoints. Raises OSError."""
    if shutil.disk_usage(folder).free < SPARE_BYTES + 4 * size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read_checkpoint(path: Path, first: int) -> FinishedRows | None:
    """Return a checkpoint; None where there is none or an incomplete one, which lacks its footer."""
    try:
        with path.open("rb") as file, pa.ipc.open_file(file) as reader:
            about = json.loads(reader.schema.metadata[_KEY])
        return FinishedRows(path=path, first=first, rows=about["rows"], counted=about["counted"]) if about["rows"] > 0 else None
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
        return None


def _write_arrow(path: Path, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4", unify_dictionaries=True)
    with replacing(path) as temporary, temporary.open("wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
