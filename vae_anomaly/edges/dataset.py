"""``manifest.json`` of an output folder: which part was made from which input, with which model and options.

Knows no models and no scores: model, options and counts are plain JSON values that the caller compares. The folder is this machine's or
one at a URI; parts that a killed job had finished still have manifests of their own beside them, and are taken in by the next one.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from vae_anomaly.edges.files import Listed
from vae_anomaly.edges.listing import files_below, is_text, no_text
from vae_anomaly.edges.manifest import SUFFIX
from vae_anomaly.edges.outputs import write_text, writing
from vae_anomaly.edges.places import Place
from vae_anomaly.edges.uris import as_os_errors, said
from vae_anomaly.errors import DataError, OutputError

NAME = "manifest.json"
FORMAT = 1
# 100,000 parts with what was counted in each are about 60 MB. What is larger is not ours.
MAX_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One part: ``rows`` [first, end) of its input that are in it, ``bytes`` of the part, sizes in bytes, ``modified`` in ns since 1970."""

    part: str
    input: str
    size: int
    modified: int
    rows: tuple[int, int]
    bytes: int
    counted: Mapping[str, Any]

    def of(self, file: Listed) -> bool:
        """Whether the input is as it was when the part was made."""
        return (self.size, self.modified) == (file.size, file.modified)


@dataclass(slots=True, kw_only=True)
class Dataset:
    """What lies in an output folder: ``made_from`` model and options, ``entries`` by input, ``worst`` alarms of all.

    ``replaces`` are parts of another request that ``--overwrite`` gave up and that are still there.
    """

    made_from: Mapping[str, Any]
    entries: dict[str, Entry] = field(default_factory=dict)
    replaces: list[str] = field(default_factory=list)
    worst: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Take in a part that was made."""
        self.entries[entry.input] = entry
        self.replaces = [name for name in self.replaces if name != entry.part]

    def forget(self, location: str) -> None:
        """Give up a part; it stays until it is replaced."""
        entry = self.entries.pop(location)
        self.worst = [alarm for alarm in self.worst if alarm["part"] != entry.part]

    def text(self) -> str:
        """Return it as JSON, one part a line, the same whatever the order in which the parts were made."""
        parts = sorted(self.entries.values(), key=lambda entry: entry.part)
        lines = [json.dumps(asdict(entry), ensure_ascii=False, allow_nan=False) for entry in parts]
        total = {
            "parts": len(parts),
            "rows": sum(e.rows[1] - e.rows[0] for e in parts),
            "alarms": sum(e.counted.get("alarms", 0) for e in parts),
        }
        head = {"format": FORMAT, **self.made_from, "total": total, "replaces": sorted(self.replaces), "worst": self.worst}
        start = json.dumps(head, ensure_ascii=False, allow_nan=False, indent=1).removesuffix("\n}")
        return f"{start},\n" + ' "parts": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def read(folder: Place) -> Dataset | None:
    """Return what an output folder holds; None where there is no manifest. Raises OutputError for one that cannot be read."""
    place = folder.below(NAME)
    size = place.size()
    if size is None:
        return None
    if size > MAX_BYTES:
        raise OutputError(f"{place} has {size:,} bytes, at most {MAX_BYTES:,} are read. Name another folder with -o.")
    with writing(place.path):
        content = place.remote.read(MAX_BYTES) if place.remote else place.path.read_bytes()
    dataset = _parsed(content or b"")
    if dataset is None:
        raise OutputError(f"{place} is not the manifest of an output folder. Name another folder with -o.")
    return dataset


def _parsed(content: bytes) -> Dataset | None:
    try:
        found = json.loads(content)
        parts = [Entry(**{**entry, "rows": tuple(entry["rows"])}) for entry in found["parts"]]
        dataset = Dataset(
            made_from={"model": found["model"], "options": found["options"]},
            entries={entry.input: entry for entry in parts},
            replaces=[str(name) for name in found["replaces"]],
            worst=list(found["worst"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
    names = [*dataset.replaces, *(entry.part for entry in parts)]
    return dataset if found["format"] == FORMAT and all(map(_inside, names)) else None


def _inside(name: str) -> bool:
    """Whether a name stays in the folder: parts are replaced and removed by it."""
    return bool(name) and not name.startswith("/") and ".." not in Path(name).parts


def write(folder: Place, dataset: Dataset) -> None:
    """Replace the manifest of an output folder in one step. Raises OutputError."""
    place = folder.below(NAME)
    if place.remote:
        place.remote.write(dataset.text().encode())
    else:
        write_text(place.path, dataset.text())


def sizes(folder: Place) -> dict[str, int]:
    """Return the bytes of the files in and below an output folder, by their names in it. Raises OutputError."""
    filesystem = folder.remote.filesystem if folder.remote else pafs.LocalFileSystem()
    root = folder.remote.location if folder.remote else str(folder.path.absolute())
    if not is_text(root):
        raise OutputError(no_text(root))
    try:
        with as_os_errors():
            files = files_below(filesystem, root, is_text)  # no part has a name that is none
    except DataError as error:  # of a folder in it, which it names
        raise OutputError(str(error)) from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be listed: {said(error)}.") from error
    return {str(info.path)[len(root.rstrip("/")) + 1 :]: int(info.size) for info in files}


def drop(folder: Place, names: Iterable[str]) -> None:
    """Remove files of an output folder, and folders in it that are then empty. Raises OutputError."""
    for name in names:
        place = folder.below(name)
        if place.remote:
            place.remote.remove()
            continue
        with writing(place.path):
            place.path.unlink(missing_ok=True)
        with suppress(OSError):
            for above in list(Path(name).parents)[:-1]:
                (folder.path / above).rmdir()


def side_manifest(part: str) -> str:
    """Return the name of the manifest that a part has of its own until it is taken in."""
    return f"{part}{SUFFIX}"


def part_name(file: Listed, root: str, ending: str) -> str:
    """Return the name of the part of an input: its own below ``root``, and the ending of the format if it has another.

    It depends on nothing but the input, so that a killed job finds its parts again.
    """
    name = file.identity.removeprefix(f"{root.rstrip('/')}/").lstrip("/")
    same = name.lower().endswith((".parquet", ".pq")) if ending == "parquet" else name.lower().endswith(".csv")
    return name if same else f"{name}.{ending}"


def common_root(roots: Iterable[str]) -> str:
    """Return the folder that all folders that were named have in common, empty where there is none."""
    try:
        return os.path.commonpath(set(roots))
    except ValueError:
        return ""
