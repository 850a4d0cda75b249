"""``<output>.manifest.json``: what an output was made from, so that the same job again is known to be done.

Knows no models and no scores: ``made_from`` and ``counts`` are plain JSON values that the caller compares. A job first writes a
manifest with the state *started*, then the output, then the state *complete*; killed in between it may simply run again.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from vae_anomaly.errors import DataError, OutputError
from vae_anomaly.storage.atomic import write_durably, write_text, writing
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.storage.filesystems import as_os_errors, files_below, is_text, no_text, os_error_text
from vae_anomaly.storage.listing import Listed

MANIFEST_FORMAT = 1
SUFFIX = ".manifest.json"
# A manifest lists its inputs; 100,000 files are about 20 MB. What is larger is not ours.
MAX_MANIFEST_BYTES = 128 * 2**20


def complete(output: Path, made_from: Mapping[str, Any], counts: Mapping[str, Any], counted: Mapping[str, Any] | None = None) -> None:
    """Say that an output is whole, and what was counted on the way."""
    size = output.stat().st_size
    found = {
        "format": MANIFEST_FORMAT,
        "state": "complete",
        "made_from": made_from,
        "bytes": size,
        "counts": counts,
        "counted": counted or {},
    }
    _write(output, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that was read: ``made_from`` inputs, model and options; ``bytes`` of the output and ``counts`` once complete.

    ``counted`` is what the counts came from, so that those of several outputs can be put together.
    """

    complete: bool
    made_from: Mapping[str, Any]
    bytes: int
    counts: Mapping[str, Any]
    counted: Mapping[str, Any] = field(default_factory=dict)


def manifest_path(output: Path) -> Path:
    """Return where the manifest of an output lies."""
    return output.with_name(f"{output.name}{SUFFIX}")


def read_manifest(output: Path) -> Manifest | None:
    """Return the manifest of an output; None where there is none, or none that can be read."""
    path = manifest_path(output)
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        return parse_manifest(path.read_bytes())
    except OSError:
        return None


def parse_manifest(content: bytes) -> Manifest | None:
    """Return the manifest in a text; None where it is none."""
    try:
        found = json.loads(content)
        if found["format"] != MANIFEST_FORMAT:
            return None
        return Manifest(
            complete=found["state"] == "complete",
            made_from=dict(found["made_from"]),
            bytes=int(found["bytes"]),
            counts=dict(found["counts"]),
            counted=dict(found.get("counted") or {}),
        )
    except (ValueError, KeyError, TypeError):
        return None


def manifest_of(output: Destination) -> Manifest | None:
    """Return the manifest of an output, wherever the output is; None where there is none, or none that can be read."""
    if output.remote is None:
        return read_manifest(output.path)
    content = output.remote.beside(f"{output.path.name}{SUFFIX}").read(MAX_MANIFEST_BYTES)
    return None if content is None else parse_manifest(content)


def deliver(output: Destination, sides: Sequence[str] = ()) -> None:
    """Upload a finished output with its manifest and its side files, then remove the local copies; no-op for a local output.

    ``sides`` are names of files beside it; one that was not made is removed at the destination. The manifest there says *started*
    until the upload is complete. Raises OutputError, and then the local copies stay to be sent.
    """
    if output.remote is None:
        return
    made = manifest_path(output.path)
    beside = output.remote.beside(made.name)
    beside.write(as_started(made.read_bytes()))
    output.remote.send(output.path)
    local = [output.path.with_name(name) for name in sides]
    for path in local:
        output.remote.beside(path.name).send(path) if path.exists() else output.remote.beside(path.name).remove()
    beside.write(made.read_bytes())
    with writing(output.path):
        for path in (output.path, *local, made):
            path.unlink(missing_ok=True)


def as_started(content: bytes) -> bytes:
    """Return the manifest of an output that is on its way, from that of the whole one."""
    return _text({**json.loads(content), "state": "started", "bytes": 0, "counts": {}, "counted": {}}).encode()


@contextmanager
def started(output: Path, made_from: Mapping[str, Any]) -> Iterator[None]:
    """Say that an output is being made; whatever the block raises, the manifest is then what it was before."""
    path = manifest_path(output)
    before = path.read_bytes() if path.is_file() else None
    _write(output, {"format": MANIFEST_FORMAT, "state": "started", "made_from": made_from, "bytes": 0, "counts": {}, "counted": {}})
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink() if before is None else path.write_bytes(before)
        raise


def _write(output: Path, content: Mapping[str, Any]) -> None:
    """Replace the manifest in one step. Raises OutputError."""
    path = manifest_path(output)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(output):
        try:
            temporary.unlink(missing_ok=True)
            write_durably(temporary, _text(content).encode())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _text(content: Mapping[str, Any]) -> str:
    return f"{json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)}\n"


FOLDER_MANIFEST = "manifest.json"
FOLDER_FORMAT = 1
# 100,000 parts with what was counted in each are about 60 MB. What is larger is not ours.
MAX_FOLDER_MANIFEST_BYTES = 512 * 2**20


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
        head = {"format": FOLDER_FORMAT, **self.made_from, "total": total, "replaces": sorted(self.replaces), "worst": self.worst}
        start = json.dumps(head, ensure_ascii=False, allow_nan=False, indent=1).removesuffix("\n}")
        return f"{start},\n" + ' "parts": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def read_folder_manifest(folder: Destination) -> Dataset | None:
    """Return what an output folder holds; None where there is no manifest. Raises OutputError for one that cannot be read."""
    place = folder.below(FOLDER_MANIFEST)
    size = place.size()
    if size is None:
        return None
    if size > MAX_FOLDER_MANIFEST_BYTES:
        raise OutputError(f"{place} has {size:,} bytes, at most {MAX_FOLDER_MANIFEST_BYTES:,} are read. Name another folder with -o.")
    with writing(place.path):
        content = place.remote.read(MAX_FOLDER_MANIFEST_BYTES) if place.remote else place.path.read_bytes()
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
    return dataset if found["format"] == FOLDER_FORMAT and all(map(_inside, names)) else None


def _inside(name: str) -> bool:
    """Whether a name stays in the folder: parts are replaced and removed by it."""
    return bool(name) and not name.startswith("/") and ".." not in Path(name).parts


def write_folder_manifest(folder: Destination, dataset: Dataset) -> None:
    """Replace the manifest of an output folder in one step. Raises OutputError."""
    place = folder.below(FOLDER_MANIFEST)
    if place.remote:
        place.remote.write(dataset.text().encode())
    else:
        write_text(place.path, dataset.text())


def sizes(folder: Destination) -> dict[str, int]:
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
        raise OutputError(f"{folder} cannot be listed: {os_error_text(error)}.") from error
    return {str(info.path)[len(root.rstrip("/")) + 1 :]: int(info.size) for info in files}


def drop(folder: Destination, names: Iterable[str]) -> None:
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
