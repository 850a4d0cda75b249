"""Scores into a Delta table: one data file and one commit, so that readers see all rows of a batch or none.

The rows are written to a Parquet file beside the table. Then the manifest gets the state *committing* and the id of a transaction, the file
is moved into the table, the transaction commits it, and the manifest is *complete* with the version. A job that was killed anywhere goes
on from there: the log says whether its transaction was committed, and a transaction is committed once.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vae_anomaly.errors import ConfigError, OutputError
from vae_anomaly.jobs import manifest, score_workdir
from vae_anomaly.jobs.claim import install
from vae_anomaly.jobs.manifest import Manifest
from vae_anomaly.storage import destinations
from vae_anomaly.storage.atomic import sync_folder, writing
from vae_anomaly.storage.destinations import Destination, local_path
from vae_anomaly.storage.filesystems import shown_path
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables import delta
from vae_anomaly.tables.quarantine import quarantine_path
from vae_anomaly.tables.source import Source
from vae_anomaly.tables.writer import as_delta, delta_schema, write_batches
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import Counts
from vae_anomaly.workflow.score_counts import Counting, refuse_existing
from vae_anomaly.workflow.score_job import ScoreJob
from vae_anomaly.workflow.score_output import Slot, counts_of


def table_destination(request: ScoreRequest) -> Destination:
    """Return the folder of the table that a request names.

    Raises MissingExtra without deltalake, ConfigError for no name or that of a file, OutputError for a folder that holds something else.
    """
    if request.output is None:
        raise ConfigError("--format delta writes a table; name its folder with -o.")
    name = shown_path(str(request.output)).rstrip("/")
    if name.lower().endswith((".csv", ".parquet", ".pq")):
        raise ConfigError(f"--format delta writes a table, which is a folder, and {name} is the name of a file. Name a folder with -o.")
    to = destinations.destination_of(request.output)
    if to.path.name in {"", ".."}:  # the manifest is written beside the table, under its name
        raise ConfigError(
            f"--format delta writes a table, and {name or to} is no name for its folder. Name it with -o, such as lake/scores."
        )
    target = delta.delta_target(to)
    for path in request.data:
        folder = None if to.remote else local_path(path)
        if folder is not None and folder.is_dir() and folder.absolute() in to.path.absolute().parents:
            raise OutputError(f"{to} is inside the input folder {path}, so its rows would be scored too. Name a folder elsewhere with -o.")
    found = destinations.table_at(to)
    if found is not None and found != (target.location, "delta"):
        raise OutputError(f"{destinations.table_text(to, found)}, where no Delta table can be. Name another folder with -o.")
    return to


@dataclass(kw_only=True, eq=False)
class TableSlot(Slot):
    """A claimed table: its ``current`` version, None if there is none, and the ``transaction`` of the next one."""

    target: Listed
    current: "delta.DeltaTable | None"
    transaction: str

    def write(self, rows: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        """Write the rows to the file beside the table, in types that a Delta table has."""
        kinds = delta_schema(schema)
        self._refuse(kinds)
        write_batches(self.staged, (as_delta(batch, kinds) for batch in rows), kinds, fmt="parquet")

    def finish(self, counts: Counts, counting: Counting) -> None:
        """Write the manifest with all that is known before the commit."""
        size, table = self.staged.stat().st_size, {"transaction": self.transaction}
        whole = Manifest(
            complete=False, made_from=self.made_from, bytes=size, counts=asdict(counts), counted=counting.counted(), table=table
        )
        manifest.committing(self.job.destination.path, whole)

    @property
    def staged(self) -> Path:
        """The file beside the table."""
        return _staged(self.job.destination)

    def commit(self) -> None:
        """Commit the file, which is whole, and complete the manifest. Raises OutputError and then keeps both for another attempt."""
        to = self.job.destination
        schema, rows = pq.read_schema(self.staged), pq.read_metadata(self.staged).num_rows
        if self.job.overwrite:  # what is there now, after hours of scoring
            self.current = delta.current_delta(self.target)
            self._refuse(schema)
        file = delta.DeltaFile(
            name=_data_file(self.transaction), size=self.staged.stat().st_size, rows=rows, schema=schema, transaction=self.transaction
        )
        about = {"model": self.job.model.name, "modelVersion": self.job.model.version, "alpha": f"{self.job.threshold.alpha:g}"}
        sides = [quarantine_path(to.path)] if self.job.request.on_error == "quarantine" else []
        if to.remote:
            to.remote.beside(manifest.manifest_path(to.path).name).write(manifest.manifest_path(to.path).read_bytes())
            for path in sides:
                to.remote.beside(path.name).send(path) if path.exists() else to.remote.beside(path.name).remove()
            to.remote.below(file.name).send(self.staged)
        else:
            with writing(to.path):
                to.path.mkdir(exist_ok=True)
                self.staged.replace(to.path / file.name)
                sync_folder(to.path)
        try:
            delta.commit_delta(self.target, self.current, file, about)
        except OutputError:
            # The engine raises as well for what it does after the commit, such as a checkpoint.
            self.current = delta.current_delta(self.target)
            if not self.complete():
                _unmove(to, self.transaction)
                raise
        else:
            self.current = delta.current_delta(self.target)
            self.complete()
        with writing(to.path):
            for path in (self.staged, *(sides if to.remote else ())):
                path.unlink(missing_ok=True)

    def _refuse(self, schema: pa.Schema) -> None:
        if self.current is not None:
            delta.refuse_features(self.target, self.current)
            delta.refuse_times(self.target, self.current, schema)

    def complete(self) -> bool:
        """Write the manifest with the version of the transaction; False if it is not in the log."""
        to, table = self.job.destination, self.current
        version = None if table is None else delta.committed_version(self.target, table, self.transaction)
        if version is None:
            return False
        path = manifest.manifest_path(to.path)
        found = _pending(to, self.made_from)
        if found is None:
            return False
        manifest.committed(to.path, found, version)
        if to.remote:
            to.remote.beside(path.name).write(path.read_bytes())
            with writing(to.path):
                path.unlink()
        return True


@contextmanager
def claim_table(job: ScoreJob, source: Source) -> Iterator[Slot]:
    """Claim the table of a job for this process; when the block ends, what was written there is committed.

    A job that was killed goes on, and a table that this request has written and nobody changed is left as it is: with ``overwrite`` too, so
    that a job that is started again makes one commit whenever it was killed. Raises OutputError when another process writes there from
    this machine, and for a table that may not be replaced.
    """
    to, made_from = job.destination, job.made_from(source)
    with score_workdir.claim(to.path) as unfinished:
        target = delta.delta_target(to)
        pending = _pending(to, made_from)
        transaction = secrets.token_hex(8) if pending is None else pending.table["transaction"]
        names = _names(to, target)
        current = delta.current_delta(target)
        slot = TableSlot(job=job, made_from=made_from, unfinished=unfinished, target=target, current=current, transaction=transaction)
        counts = None if pending is None else counts_of(pending)
        if pending is not None and slot.complete():
            slot.counts, slot.resumed_rows = counts, pending.counts["rows"]
        elif current is not None:
            slot.counts = _unchanged(to, target, current, made_from, overwrite=job.overwrite)
        if slot.counts is None:
            if current is not None:
                delta.refuse_features(target, current)
            elif names - {_data_file(transaction)}:
                raise OutputError(f"{to} is a folder with files and no Delta table. Name another folder with -o.")
            _unmove(to, transaction)
            if pending is not None and _size(slot.staged) == pending.bytes:
                slot.commit()
                slot.counts, slot.resumed_rows = counts, pending.counts["rows"]
        if slot.counts is not None:
            yield slot
            return
        refuse_existing(to.path, job.request.on_error, overwrite=job.overwrite)
        slot.checkpoints = unfinished.begin({**made_from, "install": install()}, restart=False)
        yield slot
        slot.commit()


def version_written(to: Destination) -> int | None:
    """Return the version that the manifest of a table names."""
    found = manifest.manifest_of(to)
    return None if found is None else found.table.get("version")


def _pending(to: Destination, made_from: Mapping[str, Any]) -> Manifest | None:
    """Return the manifest of this request whose commit may not have been made; of a remote table also that of another machine."""
    for found in (manifest.read_manifest(to.path), manifest.manifest_of(to)):
        committing = found is not None and not found.complete and found.table and found.made_from == made_from
        if found is not None and committing and counts_of(found) is not None:
            return found
    return None


def _unchanged(
    to: Destination, target: Listed, current: "delta.DeltaTable", made_from: Mapping[str, Any], *, overwrite: bool
) -> Counts | None:
    """Return the counts of a table that is what this request would write; None for another one, where that may be overwritten.

    Raises OutputError for another one.
    """
    found = manifest.manifest_of(to)
    version = None if found is None else found.table.get("version")
    if found is None or version is None:
        error = _exists(f"{to} is a Delta table and no manifest says what it is.")
    elif other := [name for name, value in made_from.items() if found.made_from.get(name) != value]:
        error = _exists(f"{to} is a Delta table with the scores of another request (other {' and '.join(other)}).")
    elif (counts := counts_of(found)) is not None and not delta.changed_after(target, current, version):
        return counts
    else:
        error = delta.changed_error(str(to))
    if overwrite:
        return None
    raise error


def _exists(text: str) -> OutputError:
    return OutputError(f"{text} Name another with -o, or give --overwrite to write a new version of it.")


def _names(to: Destination, target: Listed) -> set[str]:
    """Return the names in the folder of a table, empty if it is not there yet. Raises OutputError for a file."""
    names = destinations.names_in(target.filesystem, target.location, str(to))
    if names is None:
        raise OutputError(f"{to} is a file and no Delta table. Name another folder with -o.")
    return names


def _data_file(transaction: str) -> str:
    return f"part-00000-{transaction}.zstd.parquet"


def _staged(to: Destination) -> Path:
    path = to.path.resolve()  # a link may lead to another file system, where nothing can be moved to
    return path.with_name(f".{path.name}.delta.parquet")


def _unmove(to: Destination, transaction: str) -> None:
    """Move a file that no version has back from a local table to the place beside it."""
    path = to.path / _data_file(transaction)
    if to.remote is None and path.is_file():
        with writing(to.path):
            path.replace(_staged(to))
        with suppress(OSError):
            to.path.rmdir()


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
