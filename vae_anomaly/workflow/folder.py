"""An output folder: which parts are there, one more made, and one manifest of them all.

A part is made as any output is, by the function that is handed in. Knows nothing about rows.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from vae_anomaly.edges import dataset, manifest, outputs, resume
from vae_anomaly.edges.dataset import Dataset, Entry
from vae_anomaly.edges.files import Listed
from vae_anomaly.edges.manifest import Manifest
from vae_anomaly.edges.tables import Source
from vae_anomaly.errors import OutputError
from vae_anomaly.workflow.asked import Asked
from vae_anomaly.workflow.counting import WORST, Counting, tally_from
from vae_anomaly.workflow.job import Job
from vae_anomaly.workflow.results import Alarm, Counts

# The manifest of the folder is written again after so many seconds; what was made in between has manifests of its own.
FOLD_SECONDS = 60.0

Make = Callable[[Job], tuple[Counts, int | None]]


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
        with outputs.writing(place.path):
            place.path.parent.mkdir(parents=True, exist_ok=True)
        overwrite = self.asked.request.overwrite or part in self.dataset.replaces
        made = self.make(Job(asked=self.asked, place=place, source=source, overwrite=overwrite))
        self._take(part, place.manifest())
        if time.monotonic() - self.folded_at > FOLD_SECONDS:
            self.fold()
        return made

    def fold(self) -> None:
        """Write the manifest of the folder, and remove those of its parts."""
        if not self.unfolded:
            return
        dataset.write(self.asked.place, self.dataset)
        dataset.drop(self.asked.place, map(dataset.side_manifest, self.unfolded))
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
            found = self.asked.place.below(part).manifest()
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
            dataset.write(self.asked.place, self.dataset)
            dataset.drop(self.asked.place, left)

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
        self.dataset.worst = sorted([*kept, *alarms], key=lambda a: (-a["score"], a["part"], a["row"]))[:WORST]
        self.unfolded.append(part)

    def _name(self, file: Listed, source: Source, root: str) -> str:
        ending = self.asked.request.format or ("csv" if source.files[0].format == "delimited" else "parquet")
        part = dataset.part_name(file, root, ending)
        other = self.inputs.get(part, file.identity)
        if other != file.identity:
            raise OutputError(
                f"{self.asked.place.below(part)} holds the scores of {other}, and those of {file.path} would go there too. "
                "Name another folder with -o."
            )
        return part


@contextmanager
def claimed(asked: Asked, make: Make) -> Iterator[Folder]:
    """Give the output folder of a request to this process alone; however the block ends, its manifest then says what is there.

    Raises OutputError: it holds the parts of another request, or another run fills it.
    """
    place = asked.place
    with outputs.writing(place.path):
        is_new = not place.path.exists()
        place.path.mkdir(parents=True, exist_ok=True)
    try:
        with resume.claimed(place.path / dataset.NAME):
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
    there = dataset.read(asked.place)
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
    folder = Folder(asked=asked, make=make, dataset=there, sizes=dataset.sizes(asked.place), inputs=inputs)
    if asked.request.overwrite:
        folder.give_up()
        folder.dataset = replace(folder.dataset, made_from=asked.made_from())
        dataset.write(asked.place, folder.dataset)
    else:
        folder.take_in()
    return folder
