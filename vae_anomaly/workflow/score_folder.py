"""Many inputs into an output folder: one part for each that has none yet.

Knows nothing about rows; how a part is made is handed in.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from vae_anomaly.errors import OutputError
from vae_anomaly.explain.top_features import Alarm
from vae_anomaly.jobs import manifest, score_workdir
from vae_anomaly.jobs.manifest import Dataset, Entry, Manifest
from vae_anomaly.storage import atomic, listing
from vae_anomaly.storage.destinations import local_path
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables import files
from vae_anomaly.tables.source import Source, open_files, together
from vae_anomaly.workflow.results import Counts
from vae_anomaly.workflow.score_counts import WORST_ALARMS, Counting, tally_from
from vae_anomaly.workflow.score_job import Asked, ScoreTask, check_input_columns, warn


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was scored: ``new_rows`` by this run, None where nothing was to be done; ``resumed_rows`` by a killed one."""

    counts: Counts
    ignored: tuple[str, ...] = ()
    new_rows: int | None = None
    resumed_rows: int = 0
    parts_made: int | None = None
    parts_before: int | None = None


Make = Callable[[ScoreTask], tuple[Counts, int | None]]


def fill(asked: Asked, make: Make) -> Done:
    """Make the parts that are not there; all inputs are opened and their columns checked before the first is scored.

    Raises OutputError where a part cannot be what it should be, and what ``make`` raises; the parts before it stay.
    """
    listed = listing.list_files(asked.request.data)
    refuse_nested(asked, listed)
    root = manifest.common_root(file.root for file in listed)
    with claim_folder(asked, make) as folder:
        before = {file.identity for file in listed if folder.holds(file)}
        todo = [file for file in listed if file.identity not in before]
        sources = open_inputs(asked, todo, rows_needed=not before)
        whole = together(list(sources.values())) if sources else None
        ignored = check_input_columns(asked.opened.detector, whole, asked.request.id_columns) if whole else ()
        new_rows = resumed = 0
        for file in todo:
            if file in sources:
                counts, gone_on = folder.add(file, sources[file], root)
                new_rows += 0 if gone_on is None else counts.rows - gone_on
                resumed += gone_on or 0
        folder.clear()
        if whole:
            warn(ignored, whole)
        return Done(
            counts=folder.counts({file.identity for file in listed}),
            ignored=ignored,
            new_rows=new_rows if sources else None,
            resumed_rows=resumed,
            parts_made=len(sources),
            parts_before=len(before),
        )


def open_inputs(asked: Asked, listed: Sequence[Listed], *, rows_needed: bool) -> dict[Listed, Source]:
    """Open inputs but those that have columns and no rows; with ``rows_needed`` also these where there is no other.

    Raises DataError and SchemaMismatch.
    """
    sources = {file: _opened(asked, file) for file in listed}
    for source in sources.values():
        source.check_present(asked.opened.detector.schema)
    filled = {file: source for file, source in sources.items() if source.rows != 0}
    return filled or (sources if rows_needed else {})


def _opened(asked: Asked, file: Listed) -> Source:
    return open_files([files.table_file(file)], missing_values=asked.missing, on_error=asked.request.on_error)


def refuse_nested(asked: Asked, listed: Sequence[Listed]) -> None:
    """Refuse an output folder that lies in an input folder, or has inputs in it: its parts would be scored as inputs."""
    place = asked.place
    for file in listed:
        if place.holds(file.filesystem, file.location):
            raise OutputError(f"{file.path} lies in {place}, where the scores are to go. Name another folder with -o.")
    for path in asked.request.data:
        folder = None if place.remote else local_path(path)
        if folder is not None and folder.is_dir() and place.path.absolute().is_relative_to(folder.absolute()):
            raise OutputError(f"{place} lies in {path}, and its parts would be scored with it. Name a folder elsewhere with -o.")


# The manifest of the folder is written again after so many seconds; what was made in between has manifests of its own.
FOLD_SECONDS = 60.0


@dataclass(kw_only=True, eq=False)
class Folder:
    """An output folder that this process alone fills; ``sizes`` are the bytes of the files in it."""

    asked: Asked
    make: Make
    dataset: Dataset
    sizes: dict[str, int]
    inputs: dict[str, str] = field(default_factory=dict)  # by part
    unfolded: list[str] = field(default_factory=list)
    folded_at: float = field(default_factory=time.monotonic)

    def holds(self, file: Listed, *, again: bool = False) -> bool:
        """Whether the part of an input is there; a changed input is an error, or with ``again`` one that is not there.

        Raises OutputError.
        """
        entry = self.dataset.entries.get(file.identity)
        if entry is None:
            return False
        part = self.asked.place.below(entry.part)
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
            raise OutputError(f"{part} was changed after it was written. Remove it to have it made again, or give --overwrite.")
        return True

    def add(self, file: Listed, source: Source, root: str) -> tuple[Counts, int | None]:
        """Make the part of an input. Raises what ``make`` raises."""
        part = self._name(file, source, root)
        place = self.asked.place.below(part)
        with atomic.writing(place.path):
            place.path.parent.mkdir(parents=True, exist_ok=True)
        overwrite = self.asked.request.overwrite or part in self.dataset.replaces
        made = self.make(ScoreTask(asked=self.asked, place=place, source=source, overwrite=overwrite))
        self._take(part, manifest.manifest_of(place))
        if time.monotonic() - self.folded_at > FOLD_SECONDS:
            self.fold()
        return made

    def fold(self) -> None:
        """Write the manifest of the folder, and remove those of its parts."""
        if not self.unfolded:
            return
        manifest.write_folder_manifest(self.asked.place, self.dataset)
        manifest.drop(self.asked.place, map(manifest.side_manifest, self.unfolded))
        self.unfolded, self.folded_at = [], time.monotonic()

    def counts(self, locations: Collection[str]) -> Counts:
        """Return what was counted over the parts of these inputs."""
        entries = sorted((self.dataset.entries[name] for name in locations if name in self.dataset.entries), key=lambda e: e.part)
        counting, parts = Counting(ids=self.asked.request.id_columns), {entry.part for entry in entries}
        for entry in entries:
            counting.add(tally_from(entry.counted))
        total = counting.done(self.asked.opened.detector, self.asked.threshold, typicality=self.asked.request.typicality)
        worst = TypeAdapter(tuple[Alarm, ...]).validate_python([a for a in self.dataset.worst if a["part"] in parts])
        return replace(total, top_alarms=worst)

    def take_in(self) -> None:
        """Take in the parts that a killed job had finished."""
        ours = [name.removesuffix(manifest.SUFFIX) for name in self.sizes if name.endswith(manifest.SUFFIX)]
        for part in sorted(ours):
            found = manifest.manifest_of(self.asked.place.below(part))
            if part in self.sizes and found is not None and found.complete and found.bytes == self.sizes[part]:
                self._take(part, found)

    def give_up(self) -> None:
        """Regard all parts as such that are to be replaced."""
        self.dataset.replaces = sorted({*self.dataset.replaces, *(entry.part for entry in self.dataset.entries.values())})
        self.dataset.entries, self.dataset.worst, self.inputs = {}, [], {}

    def clear(self) -> None:
        """Remove the parts of another request that nothing has replaced."""
        if self.dataset.replaces:
            left, self.dataset.replaces = self.dataset.replaces, []
            manifest.write_folder_manifest(self.asked.place, self.dataset)
            manifest.drop(self.asked.place, left)

    def _take(self, part: str, found: Manifest | None) -> None:
        """Make an entry of what the manifest of a part says."""
        made_from = self.asked.made_from()
        if found is None or any(found.made_from.get(name) != value for name, value in made_from.items()):
            return
        (location, (size, modified)) = next(iter(found.made_from["inputs"].items()))
        rows, counted = (0, int(found.counts["rows"])), dict(found.counted)
        entry = Entry(part=part, input=location, size=size, modified=modified, rows=rows, bytes=found.bytes, counted=counted)
        self.dataset.add(entry)
        self.sizes[part], self.inputs[part] = found.bytes, location
        alarms = [{**alarm, "part": part} for alarm in found.counts["top_alarms"]]
        kept = [alarm for alarm in self.dataset.worst if alarm["part"] != part]
        self.dataset.worst = sorted([*kept, *alarms], key=lambda a: (-a["score"], a["part"], a["row"]))[:WORST_ALARMS]
        self.unfolded.append(part)

    def _name(self, file: Listed, source: Source, root: str) -> str:
        ending = self.asked.request.format or ("csv" if source.files[0].format == "delimited" else "parquet")
        part = manifest.part_name(file, root, ending)
        other = self.inputs.get(part, file.identity)
        if other != file.identity:
            raise OutputError(
                f"{self.asked.place.below(part)} holds the scores of {other}, and those of {file.path} would go there too. "
                "Name another folder with -o."
            )
        return part


@contextmanager
def claim_folder(asked: Asked, make: Make) -> Iterator[Folder]:
    """Give the output folder of a request to this process alone; however the block ends, its manifest then says what is there.

    Raises OutputError: it holds the parts of another request, or another run fills it.
    """
    place = asked.place
    with atomic.writing(place.path):
        is_new = not place.path.exists()
        place.path.mkdir(parents=True, exist_ok=True)
    try:
        with score_workdir.claim(place.path / manifest.FOLDER_MANIFEST):
            folder = _begun(asked, make)
            try:
                yield folder
            except BaseException:
                with suppress(OutputError):
                    folder.fold()
                raise
            folder.fold()
    finally:
        place.tidy()
        if is_new:
            with suppress(OSError):
                place.path.rmdir()


def found(asked: Asked) -> Dataset | None:
    """Return what the folder of a request holds already; None: nothing. Raises OutputError where it is of another request."""
    there = manifest.read_folder_manifest(asked.place)
    if there is None or asked.request.overwrite:
        return there
    other = [name for name, value in asked.made_from().items() if there.made_from.get(name) != value]
    if other:
        raise OutputError(
            f"{asked.place} holds the scores of another request (other {' and '.join(other)}). "
            "Name another folder with -o, or give --overwrite to replace what is in it."
        )
    return there


def _begun(asked: Asked, make: Make) -> Folder:
    there = found(asked) or Dataset(made_from=asked.made_from())
    inputs = {entry.part: entry.input for entry in there.entries.values()}
    folder = Folder(asked=asked, make=make, dataset=there, sizes=manifest.sizes(asked.place), inputs=inputs)
    if asked.request.overwrite:
        folder.give_up()
        folder.dataset = replace(folder.dataset, made_from=asked.made_from())
        manifest.write_folder_manifest(asked.place, folder.dataset)
    else:
        folder.take_in()
    return folder
