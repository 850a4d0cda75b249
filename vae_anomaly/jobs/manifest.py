"""Manifests: ``<output>.manifest.json`` records the request that made an output, ``manifest.json`` the parts of an output folder.

A job writes a manifest with the state *started*, then the output, then the state *complete*. The same request finds a complete output and
does nothing; after an interruption in between it runs again. A Delta table has no state *started*: its manifest is *committing* until the
log has the transaction that the manifest names. ``made_from`` and ``counts`` are plain JSON values that the caller compares.
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
from vae_anomaly.storage.atomic import replacing, write_text, writing
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.storage.filesystems import as_os_errors, files_below, is_unicode, not_unicode_error, os_error_text
from vae_anomaly.storage.listing import Listed

MANIFEST_FORMAT = 1
SUFFIX = ".manifest.json"
# A manifest lists its inputs: about 20 MB for 100,000 files. A larger file is not a manifest.
MAX_MANIFEST_BYTES = 128 * 2**20


def complete(output: Path, made_from: Mapping[str, Any], counts: Mapping[str, Any], counted: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of a finished output, with its counts. Raises OutputError."""
    _write(output, _content("complete", made_from, output.stat().st_size, counts, counted))


def committing(output: Path, found: "Manifest") -> None:
    """Write the manifest of a Delta table before its commit. Raises OutputError."""
    _write(output, {**_content("committing", found.made_from, found.bytes, found.counts, found.counted), "table": found.table})


def committed(output: Path, found: "Manifest", version: int) -> None:
    """Write the manifest of a Delta table with the version that the commit made. Raises OutputError."""
    content = _content("complete", found.made_from, found.bytes, found.counts, found.counted)
    _write(output, {**content, "table": {**found.table, "version": version}})


def _content(
    state: str, made_from: Mapping[str, Any], size: int, counts: Mapping[str, Any], counted: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "format": MANIFEST_FORMAT,
        "state": state,
        "made_from": made_from,
        "bytes": size,
        "counts": counts,
        "counted": counted or {},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Manifest of one output: ``made_from`` inputs, model and options; ``bytes`` of the output and ``counts`` once complete.

    ``counted`` are the additive counts, from which the totals over several outputs are computed. ``table``: transaction and, once
    committed, version of a Delta table; empty for a file.
    """

    complete: bool
    made_from: Mapping[str, Any]
    bytes: int
    counts: Mapping[str, Any]
    counted: Mapping[str, Any] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)


def manifest_path(output: Path) -> Path:
    """Return the path of the manifest of an output."""
    return output.with_name(f"{output.name}{SUFFIX}")


def read_manifest(output: Path) -> Manifest | None:
    """Return the manifest of a local output; None if it is missing or invalid."""
    path = manifest_path(output)
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        return parse_manifest(path.read_bytes())
    except OSError:
        return None


def parse_manifest(content: bytes) -> Manifest | None:
    """Parse a manifest; None if it is invalid."""
    try:
        values = json.loads(content)
        if values["format"] != MANIFEST_FORMAT:
            return None
        return Manifest(
            complete=values["state"] == "complete",
            made_from=dict(values["made_from"]),
            bytes=int(values["bytes"]),
            counts=dict(values["counts"]),
            counted=dict(values.get("counted") or {}),
            table=dict(values.get("table") or {}),
        )
    except (ValueError, KeyError, TypeError):
        return None


def manifest_of(output: Destination) -> Manifest | None:
    """Return the manifest of a local or remote output; None if it is missing or invalid. Raises OutputError."""
    if output.remote is None:
        return read_manifest(output.path)
    content = output.remote.beside(f"{output.path.name}{SUFFIX}").read(MAX_MANIFEST_BYTES)
    return None if content is None else parse_manifest(content)


def deliver(output: Destination, sides: Sequence[str] = ()) -> None:
    """Upload a finished output with its manifest and its side files, then remove the local copies; no-op for a local output.

    ``sides`` are names of files in the same folder; one that does not exist locally is removed at the destination. The manifest there has
    the state *started* until the upload is complete. Raises OutputError and then keeps the local copies for another attempt.
    """
    if output.remote is None:
        return
    local_manifest = manifest_path(output.path)
    remote_manifest = output.remote.beside(local_manifest.name)
    remote_manifest.write(as_started(local_manifest.read_bytes()))
    output.remote.send(output.path)
    local_sides = [output.path.with_name(name) for name in sides]
    for path in local_sides:
        output.remote.beside(path.name).send(path) if path.exists() else output.remote.beside(path.name).remove()
    remote_manifest.write(local_manifest.read_bytes())
    with writing(output.path):
        for path in (output.path, *local_sides, local_manifest):
            path.unlink(missing_ok=True)


def as_started(content: bytes) -> bytes:
    """Return the content of a complete manifest with the state *started*, without counts."""
    return _text({**json.loads(content), "state": "started", "bytes": 0, "counts": {}, "counted": {}}).encode()


@contextmanager
def started(output: Path, made_from: Mapping[str, Any]) -> Iterator[None]:
    """Write a manifest with the state *started*; if the block raises, restore the previous manifest. Raises OutputError."""
    path = manifest_path(output)
    before = path.read_bytes() if path.is_file() else None
    _write(output, _content("started", made_from, 0, {}, None))
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink() if before is None else path.write_bytes(before)
        raise


def _write(output: Path, content: Mapping[str, Any]) -> None:
    """Replace the manifest atomically. Raises OutputError."""
    with writing(output), replacing(manifest_path(output)) as temporary:
        temporary.write_bytes(_text(content).encode())


def _text(content: Mapping[str, Any]) -> str:
    return f"{json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)}\n"


FOLDER_MANIFEST = "manifest.json"
FOLDER_FORMAT = 1
# About 60 MB for 100,000 parts with their counts. A larger file is not a manifest.
MAX_FOLDER_MANIFEST_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One part and its ``bytes``, with ``rows`` [first, end), ``size`` in bytes and ``modified`` (ns since 1970) of its input.

    ``version``: that of a lakehouse table; empty for a file.
    """

    part: str
    input: str
    size: int
    modified: int
    rows: tuple[int, int]
    bytes: int
    counted: Mapping[str, Any]
    version: str = ""

    def of(self, file: Listed) -> bool:
        """Whether size, modification time and version of the input are those recorded with the part."""
        return (self.size, self.modified, self.version) == (file.size, file.modified, file.version)


@dataclass(slots=True, kw_only=True)
class Dataset:
    """Content of an output folder: ``made_from`` model and options, ``entries`` by input, ``worst`` alarms over all parts.

    ``replaces`` are parts of another request that ``--overwrite`` invalidated and that are not replaced or removed yet.
    """

    made_from: Mapping[str, Any]
    entries: dict[str, Entry] = field(default_factory=dict)
    replaces: list[str] = field(default_factory=list)
    worst: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Add a finished part."""
        self.entries[entry.input] = entry
        self.replaces = [name for name in self.replaces if name != entry.part]

    def forget(self, location: str) -> None:
        """Remove the entry of an input; the file of its part is left until it is replaced."""
        entry = self.entries.pop(location)
        self.worst = [alarm for alarm in self.worst if alarm["part"] != entry.part]

    def text(self) -> str:
        """Return JSON text with one part per line, independent of the order in which the parts were written."""
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
    """Return the content of an output folder, None if it has no manifest. Raises OutputError for an invalid manifest."""
    file = folder.below(FOLDER_MANIFEST)
    size = file.size()
    if size is None:
        return None
    if size > MAX_FOLDER_MANIFEST_BYTES:
        raise OutputError(f"{file} has {size:,} bytes, at most {MAX_FOLDER_MANIFEST_BYTES:,} are read. Name another folder with -o.")
    with writing(file.path):
        content = file.remote.read(MAX_FOLDER_MANIFEST_BYTES) if file.remote else file.path.read_bytes()
    dataset = _parsed(content or b"")
    if dataset is None:
        raise OutputError(f"{file} is not the manifest of an output folder. Name another folder with -o.")
    return dataset


def _parsed(content: bytes) -> Dataset | None:
    try:
        values = json.loads(content)
        parts = [Entry(**{**entry, "rows": tuple(entry["rows"])}) for entry in values["parts"]]
        dataset = Dataset(
            made_from={"model": values["model"], "options": values["options"]},
            entries={entry.input: entry for entry in parts},
            replaces=[str(name) for name in values["replaces"]],
            worst=list(values["worst"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
    names = [*dataset.replaces, *(entry.part for entry in parts)]
    return dataset if values["format"] == FOLDER_FORMAT and all(map(_inside, names)) else None


def _inside(name: str) -> bool:
    """Whether a part name cannot leave the folder: files are replaced and removed by these names."""
    return bool(name) and not name.startswith("/") and ".." not in Path(name).parts


def write_folder_manifest(folder: Destination, dataset: Dataset) -> None:
    """Replace the manifest of an output folder atomically. Raises OutputError."""
    file = folder.below(FOLDER_MANIFEST)
    if file.remote:
        file.remote.write(dataset.text().encode())
    else:
        write_text(file.path, dataset.text())


def sizes(folder: Destination) -> dict[str, int]:
    """Return the sizes in bytes of all files of an output folder, by their path relative to it. Raises OutputError."""
    filesystem = folder.remote.filesystem if folder.remote else pafs.LocalFileSystem()
    root = folder.remote.location if folder.remote else str(folder.path.absolute())
    if not is_unicode(root):
        raise OutputError(not_unicode_error(root))
    try:
        with as_os_errors():
            files = files_below(filesystem, root, is_unicode)  # names of parts are valid Unicode
    except DataError as error:  # about a subfolder, named in the error
        raise OutputError(str(error)) from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be listed: {os_error_text(error)}.") from error
    return {str(info.path)[len(root.rstrip("/")) + 1 :]: int(info.size) for info in files}


def drop(folder: Destination, names: Iterable[str]) -> None:
    """Remove files of an output folder and the subfolders that become empty. Raises OutputError."""
    for name in names:
        file = folder.below(name)
        if file.remote:
            file.remote.remove()
            continue
        with writing(file.path):
            file.path.unlink(missing_ok=True)
        with suppress(OSError):
            for parent in list(Path(name).parents)[:-1]:
                (folder.path / parent).rmdir()


def side_manifest(part: str) -> str:
    """Return the name of the manifest of a part, used until the manifest of the folder lists the part."""
    return f"{part}{SUFFIX}"


def part_name(file: Listed, root: str, ending: str) -> str:
    """Return the name of the part of an input: its path relative to ``root``, plus the suffix of the format if it has another one.

    Depends on the input alone, so that a resumed job finds its parts.
    """
    name = file.identity.removeprefix(f"{root.rstrip('/')}/").lstrip("/")
    same = name.lower().endswith((".parquet", ".pq")) if ending == "parquet" else name.lower().endswith(".csv")
    return name if same else f"{name}.{ending}"


def common_root(roots: Iterable[str]) -> str:
    """Return the longest common parent of these folders, empty if there is none."""
    try:
        return os.path.commonpath(set(roots))
    except ValueError:
        return ""
