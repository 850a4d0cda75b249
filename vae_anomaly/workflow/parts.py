"""Many inputs into an output folder: one part for each that has none yet.

Knows nothing about rows; how a part is made is handed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vae_anomaly.edges import dataset, files, tables
from vae_anomaly.edges.files import Listed
from vae_anomaly.edges.tables import Source
from vae_anomaly.edges.uris import home, is_uri
from vae_anomaly.errors import OutputError
from vae_anomaly.workflow.asked import Asked, check_columns, warn
from vae_anomaly.workflow.folder import Make, claimed
from vae_anomaly.workflow.results import Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was scored: ``new_rows`` by this run, None where nothing was to be done; ``resumed_rows`` by a killed one."""

    counts: Counts
    ignored: tuple[str, ...] = ()
    new_rows: int | None = None
    resumed_rows: int = 0
    parts_made: int | None = None
    parts_before: int | None = None


def fill(asked: Asked, make: Make) -> Done:
    """Make the parts that are not there; all inputs are opened and their columns checked before the first is scored.

    Raises OutputError where a part cannot be what it should be, and what ``make`` raises; the parts before it stay.
    """
    listed = files.list_files(asked.request.data)
    refuse_nested(asked, listed)
    root = dataset.common_root(file.root for file in listed)
    with claimed(asked, make) as folder:
        before = {file.identity for file in listed if folder.holds(file)}
        todo = [file for file in listed if file.identity not in before]
        sources = opened(asked, todo, rows_needed=not before)
        whole = tables.together(list(sources.values())) if sources else None
        ignored = check_columns(asked.opened.detector, whole, asked.request.id_columns) if whole else ()
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


def opened(asked: Asked, listed: Sequence[Listed], *, rows_needed: bool) -> dict[Listed, Source]:
    """Open inputs but those that have columns and no rows; with ``rows_needed`` also these where there is no other.

    Raises DataError and SchemaMismatch.
    """
    sources = {file: _opened(asked, file) for file in listed}
    for source in sources.values():
        source.check_present(asked.opened.detector.schema)
    filled = {file: source for file, source in sources.items() if source.rows != 0}
    return filled or (sources if rows_needed else {})


def _opened(asked: Asked, file: Listed) -> Source:
    return tables.open_files([files.table_file(file)], missing_values=asked.missing, on_error=asked.request.on_error)


def refuse_nested(asked: Asked, listed: Sequence[Listed]) -> None:
    """Refuse an output folder that lies in an input folder, or has inputs in it: its parts would be scored as inputs."""
    place = asked.place
    for file in listed:
        if place.holds(file.filesystem, file.location):
            raise OutputError(f"{file.path} lies in {place}, where the scores are to go. Name another folder with -o.")
    for path in asked.request.data:
        folder = home(path).absolute()
        if not place.remote and not is_uri(path) and folder.is_dir() and place.path.absolute().is_relative_to(folder):
            raise OutputError(f"{place} lies in {path}, and its parts would be scored with it. Name a folder elsewhere with -o.")
