"""Score inputs into an output folder: one part per input, and one manifest of all parts.

An input whose part is complete is not scored again; the manifest of the folder is the checkpoint of the job.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from vae_anomaly.errors import OutputError
from vae_anomaly.explain.contributions import Alarm
from vae_anomaly.jobs import manifest, score_workdir
from vae_anomaly.jobs.manifest import Dataset, Entry, Manifest
from vae_anomaly.jobs.state_file import after_of
from vae_anomaly.storage import atomic, listing
from vae_anomaly.storage.destinations import local_path
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables import files
from vae_anomaly.tables.source import Source, as_one_table, open_files
from vae_anomaly.workflow.models import known_files, rows_of_fit
from vae_anomaly.workflow.results import Counts, FoundEvents
from vae_anomaly.workflow.score_counts import WORST_ALARMS, Counting, peak_from, standstill_from, tally_from
from vae_anomaly.workflow.score_job import ScoreJob, check_input_columns, warn
from vae_anomaly.workflow.score_output import Done, score_output


def fill(job: ScoreJob) -> Done:
    """Score the inputs that have no part yet; all of them are opened and their columns checked before the first is scored.

    Raises OutputError if a part cannot be replaced or written, and the errors of ``score_output``; finished parts are kept.
    """
    listed = files.with_versions(listing.list_files(job.request.data), job.reading.at)
    refuse_nested(job, listed)
    root = manifest.common_root(file.root for file in listed)
    with claim_folder(job) as folder:
        scored_before = {file.identity for file in listed if folder.holds(file)}
        pending = [file for file in listed if file.identity not in scored_before]
        sources = open_inputs(job, pending, rows_needed=not scored_before)
        combined = as_one_table(list(sources.values())) if sources else None
        ignored = check_input_columns(job, combined) if combined else ()
        new_rows = resumed = 0
        _refuse_late(job, listed, scored_before)
        start: Mapping[str, Any] | None = None
        for file in listed:
            if file in sources:
                counts, rows_before = folder.add(file, sources[file], root, start)
                new_rows += 0 if rows_before is None else counts.rows - rows_before
                resumed += rows_before or 0
            if job.detector.series is not None and file.identity in folder.dataset.entries:
                start = after_of(folder.dataset.entries[file.identity].counted)
        folder.clear()
        if combined:
            warn(ignored, combined)
        return Done(
            counts=folder.counts({file.identity for file in listed}, rows_of_fit(known_files(job.detector, listed), len(listed))),
            ignored=ignored,
            new_rows=new_rows if sources else None,
            resumed_rows=resumed,
            parts_made=len(sources),
            parts_before=len(scored_before),
            events=_folder_events(job, folder, listed),
        )


def _refuse_late(job: ScoreJob, listed: Sequence[Listed], scored_before: Collection[str]) -> None:
    """Refuse rows in time whose series would begin anew.

    Raises OutputError where an input without scores comes before one with: the series of that one began without it.
    """
    if job.detector.series is None:
        return
    order = [file.identity in scored_before for file in listed]
    if False in order and any(order[order.index(False) :]):
        late = listed[order.index(False)].path
        raise OutputError(
            f"{late} comes before files whose scores are in {job.destination}, and rows in time continue the file before. "
            "Give --overwrite to score all of them again, or name another folder with -o."
        )


def _folder_events(job: ScoreJob, folder: "Folder", listed: Sequence[Listed]) -> FoundEvents | None:
    if job.detector.series is None:
        return None
    from vae_anomaly.workflow.score_events import finish_series

    entries = [folder.dataset.entries[file.identity] for file in listed if file.identity in folder.dataset.entries]
    return finish_series(job, "", [entry.counted for entry in entries])


def open_inputs(job: ScoreJob, listed: Sequence[Listed], *, rows_needed: bool) -> dict[Listed, Source]:
    """Open the inputs that have rows; with ``rows_needed``, and if none has rows, open the empty ones.

    Raises DataError and SchemaMismatch.
    """
    sources = {file: _opened(job, file) for file in listed}
    for source in sources.values():
        source.check_present(job.detector.schema)
    filled = {file: source for file, source in sources.items() if source.rows != 0}
    return filled or (sources if rows_needed else {})


def _opened(job: ScoreJob, file: Listed) -> Source:
    return open_files([files.detect_table(file)], job.reading, expected=job.detector.schema.names)


def refuse_nested(job: ScoreJob, listed: Sequence[Listed]) -> None:
    """Refuse an output folder inside an input folder, or around inputs: its parts would be scored as inputs. Raises OutputError."""
    to = job.destination
    for file in listed:
        if to.holds(file.filesystem, file.location):
            raise OutputError(f"{file.path} is inside the output folder {to}. Name another folder with -o.")
    for path in job.request.data:
        folder = None if to.remote else local_path(path)
        if folder is not None and folder.is_dir() and to.path.absolute().is_relative_to(folder.absolute()):
            raise OutputError(f"{to} is inside the input folder {path}, so its parts would be scored too. Name a folder elsewhere with -o.")


# Between two writes of the folder's manifest; parts finished in between have manifests of their own.
FOLD_SECONDS = 60.0


@dataclass(kw_only=True, eq=False)
class Folder:
    """A claimed output folder: ``sizes`` of its files in bytes, ``inputs`` by part, ``unfolded`` parts not yet in its manifest."""

    job: ScoreJob
    dataset: Dataset
    sizes: dict[str, int]
    inputs: dict[str, str] = field(default_factory=dict)
    unfolded: list[str] = field(default_factory=list)
    folded_at: float = field(default_factory=time.monotonic)

    def holds(self, file: Listed, *, again: bool = False) -> bool:
        """Whether the part of an input is complete; False for an input without one, and with ``again`` for a changed input.

        Raises OutputError for a changed input without ``again``, and for a changed part.
        """
        entry = self.dataset.entries.get(file.identity)
        if entry is None:
            return False
        part = self.job.destination.below(entry.part)
        size = self.sizes.get(entry.part)
        if size is not None and not entry.of(file) and not again:
            raise OutputError(
                f"{file.path} has changed since its scores were written to {part}. "
                "Remove that part to have this file scored again, or give --overwrite to score all of them again."
            )
        if size is None or not entry.of(file):
            self.dataset.forget(file.identity)
            self.dataset.replaces += [] if size is None else [entry.part]
            return False
        if size != entry.bytes:
            raise OutputError(f"{part} was changed after it was written. Remove it to have the input scored again, or give --overwrite.")
        return True

    def add(self, file: Listed, source: Source, root: str, start: Mapping[str, Any] | None = None) -> tuple[Counts, int | None]:
        """Score an input into its part; return what ``score_output`` returns and raise what it raises.

        ``start``: the state that the rows in time of the input continue.
        """
        part = self._name(file, source, root)
        to = self.job.destination.below(part)
        with atomic.writing(to.path):
            to.path.parent.mkdir(parents=True, exist_ok=True)
        overwrite = self.job.overwrite or part in self.dataset.replaces
        scored = score_output(replace(self.job, destination=to, overwrite=overwrite, start=start), source)
        self._add_entry(part, manifest.manifest_of(to))
        if time.monotonic() - self.folded_at > FOLD_SECONDS:
            self.fold()
        return scored

    def fold(self) -> None:
        """Write the manifest of the folder and remove the manifests of the parts that it now lists. Raises OutputError."""
        if not self.unfolded:
            return
        manifest.write_folder_manifest(self.job.destination, self.dataset)
        manifest.drop(self.job.destination, map(manifest.side_manifest, self.unfolded))
        self.unfolded, self.folded_at = [], time.monotonic()

    def counts(self, locations: Collection[str], seen: str = "") -> Counts:
        """Return the total counts of the parts of these inputs, with the caution ``seen`` on those that the fit has read."""
        entries = sorted((self.dataset.entries[name] for name in locations if name in self.dataset.entries), key=lambda e: e.part)
        counting, parts = Counting(ids=self.job.request.id_columns), {entry.part for entry in entries}
        for entry in entries:
            counting.add(tally_from(entry.counted))
            counting.standstill = counting.standstill.plus(standstill_from(entry.counted))
            counting.peak = max(counting.peak, peak_from(entry.counted))
        total = counting.done(self.job.detector, self.job.threshold, typicality=self.job.request.typicality, seen=seen)
        worst = TypeAdapter(tuple[Alarm, ...]).validate_python([a for a in self.dataset.worst if a["part"] in parts])
        return replace(total, top_alarms=worst)

    def recover(self) -> None:
        """Add the parts that an interrupted job finished after its last ``fold``."""
        unlisted = [name.removesuffix(manifest.SUFFIX) for name in self.sizes if name.endswith(manifest.SUFFIX)]
        for part in sorted(unlisted):
            of_part = manifest.manifest_of(self.job.destination.below(part))
            if part in self.sizes and of_part is not None and of_part.complete and of_part.bytes == self.sizes[part]:
                self._add_entry(part, of_part)

    def invalidate(self) -> None:
        """Mark all parts for replacement."""
        self.dataset.replaces = sorted({*self.dataset.replaces, *(entry.part for entry in self.dataset.entries.values())})
        self.dataset.entries, self.dataset.worst, self.inputs = {}, [], {}

    def clear(self) -> None:
        """Remove the parts of another request that were not replaced. Raises OutputError."""
        if self.dataset.replaces:
            outdated, self.dataset.replaces = self.dataset.replaces, []
            manifest.write_folder_manifest(self.job.destination, self.dataset)
            manifest.drop(self.job.destination, outdated)

    def _add_entry(self, part: str, of_part: Manifest | None) -> None:
        """Add the entry of a part, from its own manifest."""
        made_from = self.job.settings()
        if of_part is None or any(of_part.made_from.get(name) != value for name, value in made_from.items()):
            return
        (location, (size, modified, *version)) = next(iter(of_part.made_from["inputs"].items()))
        rows, counted = (0, int(of_part.counts["rows"])), dict(of_part.counted)
        file = {"input": location, "size": size, "modified": modified, "version": "".join(version)}
        entry = Entry(part=part, **file, rows=rows, bytes=of_part.bytes, counted=counted)
        self.dataset.add(entry)
        self.sizes[part], self.inputs[part] = of_part.bytes, location
        alarms = [{**alarm, "part": part} for alarm in of_part.counts["top_alarms"]]
        others = [alarm for alarm in self.dataset.worst if alarm["part"] != part]
        self.dataset.worst = sorted([*others, *alarms], key=lambda a: (-a["score"], a["part"], a["row"]))[:WORST_ALARMS]
        self.unfolded.append(part)

    def _name(self, file: Listed, source: Source, root: str) -> str:
        ending = self.job.request.format or ("csv" if source.format == "delimited" else "parquet")
        part = manifest.part_name(file, root, ending)
        other = self.inputs.get(part, file.identity)
        if other != file.identity:
            raise OutputError(
                f"{self.job.destination.below(part)} holds the scores of {other}; those of {file.path} would have the same name. "
                "Name another folder with -o."
            )
        return part


@contextmanager
def claim_folder(job: ScoreJob) -> Iterator[Folder]:
    """Claim the output folder of a job for this process; when the block ends or raises, its manifest is written.

    The folder is *done* for the inputs that it ``holds``; for the others, each part is claimed when it is scored. Raises OutputError if it
    holds the parts of another request, or another process is writing to it.
    """
    to = job.destination
    with atomic.writing(to.path):
        is_new = not to.path.exists()
        to.path.mkdir(parents=True, exist_ok=True)
    try:
        with score_workdir.claim(to.path / manifest.FOLDER_MANIFEST):
            folder = _open_folder(job)
            try:
                yield folder
            except BaseException:
                with suppress(OutputError):
                    folder.fold()
                raise
            folder.fold()
    finally:
        to.tidy()
        if is_new:
            with suppress(OSError):
                to.path.rmdir()


def _read_manifest(job: ScoreJob) -> Dataset | None:
    """Return the manifest of the output folder, None if there is none. Raises OutputError if it is that of another request."""
    dataset = manifest.read_folder_manifest(job.destination)
    if dataset is None or job.overwrite:
        return dataset
    other = [name for name, value in job.settings().items() if dataset.made_from.get(name) != value]
    if other:
        raise OutputError(
            f"{job.destination} holds the scores of another request (other {' and '.join(other)}). "
            "Name another folder with -o, or give --overwrite to replace what is in it."
        )
    return dataset


def _open_folder(job: ScoreJob) -> Folder:
    dataset = _read_manifest(job) or Dataset(made_from=job.settings())
    inputs = {entry.part: entry.input for entry in dataset.entries.values()}
    folder = Folder(job=job, dataset=dataset, sizes=manifest.sizes(job.destination), inputs=inputs)
    if job.overwrite:
        folder.invalidate()
        folder.dataset = replace(folder.dataset, made_from=job.settings())
        manifest.write_folder_manifest(job.destination, folder.dataset)
    else:
        folder.recover()
    return folder
