"""List the data files and lakehouse tables behind paths, folders, globs and URIs; formats and compressions by name.

Works on names and sizes; ``compression_error`` also gets the first bytes of a file. Nothing here opens a file.
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow.fs as pafs

from vae_anomaly.errors import DataError
from vae_anomaly.redaction import redacted
from vae_anomaly.storage import lakehouse
from vae_anomaly.storage.filesystems import expand_home, files_below, reading, resolve_uri, shown_path
from vae_anomaly.storage.lakehouse import LAKE_NAMES, LakeFormat

Format = Literal["delimited", "parquet", "arrow", "delta", "iceberg"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "delimited",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}

# Suffix of compressed text: Arrow's name of the codec.
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}

COMPRESSED = tuple(CODECS)
# Outputs of ``score`` are written beside their input by default; a folder or glob must not score them again.
_OUTPUTS = re.compile(r"(\.scores\.(csv|parquet)|\.quarantine\.csv)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file or a lakehouse table that was listed and not opened.

    ``path`` is its name in messages, ``location`` its name on the file system, ``root`` the folder that the user named. ``size`` is in
    bytes, ``modified`` in nanoseconds since 1970. A table has a ``lake`` format and, once its log was read, a ``version``.
    """

    path: str
    location: str
    root: str
    size: int
    modified: int
    filesystem: pafs.FileSystem = field(repr=False, compare=False)
    lake: LakeFormat | None = None
    version: str = ""

    @property
    def key(self) -> PurePosixPath:
        """The path relative to the folder that the user named."""
        return PurePosixPath(self.location).relative_to(self.root)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 over name, size and modification time, by which a later job knows the file again."""
        version = f"\0{self.version}" if self.version else ""
        return hashlib.sha256(f"{self.key.name}\0{self.size}\0{self.modified}{version}".encode()).hexdigest()[:16]

    @property
    def identity(self) -> str:
        """``location`` without secrets: the key of a file in manifests."""
        return redacted(self.location)


def list_files(paths: Sequence[str], *, none_yet: bool = False) -> tuple[Listed, ...]:
    """Return the data files behind paths, in the order given; those of folders and globs are sorted by path.

    ``none_yet``: accept empty folders and globs without a match.

    Raises
    ------
    DataError
        Nothing is there, or it may not be read.
    """
    listed: dict[tuple[str, str], Listed] = {}
    for path in map(str, paths):
        matches, absence = _list(path)
        if absence and not none_yet:
            raise DataError(absence)
        listed |= {(file.filesystem.type_name, file.location): file for file in matches}
    if not listed and not none_yet:
        raise DataError("no data file was given; name a CSV or Parquet file, a folder or a glob.")
    return tuple(listed.values())


def root_folders(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the folder of each path, as a location: the parent of a file, the part of a glob before its first wildcard."""
    return tuple(_named(str(path))[2] for path in paths)


def _list(path: str) -> tuple[list[Listed], str | None]:
    """Return the files behind a path, and the error text if there are none."""
    filesystem, info, root = _named(path)
    display = shown_path(path)
    with reading(display):
        if info.type == pafs.FileType.File:
            return [_file(filesystem, info, root, display)], None
        if info.type == pafs.FileType.Directory:
            _refuse_inside(filesystem, root, display)
            lake = lakehouse.lake_format(filesystem, root)
            return ([_table(filesystem, root, lake, display)], None) if lake else _folder(filesystem, root, display)
        _refuse_inside(filesystem, f"{root}/*", display)
        return _glob(filesystem, info.path, root, display)


def _named(path: str) -> tuple[pafs.FileSystem, pafs.FileInfo, str]:
    """Return the file system of a path, the kind of entry there, and the folder that ``root_folders`` describes."""
    filesystem, location = resolve_uri(path)
    display = shown_path(path)
    with reading(display):
        info = filesystem.get_file_info(location)
    if info.type == pafs.FileType.File:
        return filesystem, info, str(PurePosixPath(location).parent)
    if info.type == pafs.FileType.Directory:
        return filesystem, info, location.rstrip("/")
    if info.type == pafs.FileType.Unknown:
        raise DataError(f"{display} is not a regular file; expected a file, a folder or a glob.")
    if re.search(r"[*?\[]", location):
        return filesystem, info, re.split(r"[*?\[]", location)[0].rpartition("/")[0] or "/"
    # fsspec reports a missing page and an unreachable server alike.
    unreachable = ", or its server does not answer" if display.startswith(("http://", "https://")) else ""
    raise DataError(f"{display} does not exist{unreachable or _near(display)}.")


def _file(filesystem: pafs.FileSystem, info: pafs.FileInfo, root: str, display: str) -> Listed:
    listed = _listed(filesystem, info, root=root, display=display)
    if format_of_name(info.path) not in {"parquet", None}:  # tables hold Parquet; beside their files may be anything
        return listed
    if lakehouse.is_metadata_file(info.path):
        return replace(listed, lake="iceberg")
    _refuse_inside(filesystem, info.path, display)
    return listed


def _refuse_inside(filesystem: pafs.FileSystem, location: str, display: str) -> None:
    """Raise DataError for a path in the folder of a lakehouse table: only the log of the table tells which of its rows count."""
    table = lakehouse.enclosing_table(filesystem, location)
    if table is not None:
        raise _inside(display, *table)


def _inside(display: str, folder: str, lake: LakeFormat) -> DataError:
    return DataError(
        f"{display} is in a {LAKE_NAMES[lake]}, whose files also hold rows that were deleted or replaced since. "
        f"Name the table: {PurePosixPath(folder).name} ({folder})."
    )


def _table(filesystem: pafs.FileSystem, folder: str, lake: LakeFormat, display: str, root: str | None = None) -> Listed:
    """Return a lakehouse table in a folder. Raises DataError for Hudi, which no library for Python reads without Spark."""
    if lake == "hudi":
        raise DataError(
            f"{display} is a Hudi table (.hoodie), which is not supported: its files also hold rows that were replaced since. "
            "Write its current rows as Parquet, Delta or Iceberg."
        )
    root = str(PurePosixPath(folder).parent) if root is None else root
    return Listed(path=display, location=folder, root=root, size=0, modified=0, filesystem=filesystem, lake=lake)


def _folder(filesystem: pafs.FileSystem, location: str, display: str) -> tuple[list[Listed], str | None]:
    def shown(path: str) -> str:
        return f"{display.rstrip('/')}/{PurePosixPath(path).relative_to(location)}"

    def visible(path: str) -> bool:
        return not is_hidden(path, location)

    def enters(folder: str) -> bool:
        return visible(folder) or lakehouse.log_folder(folder)

    infos, tables = _below(filesystem, location, visible, enters)
    absence = f"{display} holds no data file; expected {', '.join(_SUFFIXES)} in it or below."
    listed = [_listed(filesystem, i, root=location, display=shown(i.path)) for i in infos]
    listed += [_table(filesystem, folder, lake, shown(folder), location) for folder, lake in tables.items()]
    return sorted(listed, key=lambda file: file.location), None if listed else absence


def _below(
    filesystem: pafs.FileSystem, location: str, wanted: Callable[[str], bool], enters: Callable[[str], bool]
) -> tuple[list[pafs.FileInfo], dict[str, LakeFormat]]:
    """Return the wanted data files below a folder, and the tables there, whose folders are not hidden; files of these are left out."""

    def of_log(path: str) -> tuple[str, LakeFormat] | None:
        found = lakehouse.in_log(path)
        return found if found is not None and not is_hidden(found[0], location) else None

    def listed(path: str) -> bool:
        return of_log(path) is not None or (format_of_name(path) is not None and wanted(path))

    infos = files_below(filesystem, location, listed, enters)
    tables = lakehouse.outermost(found for info in infos if (found := of_log(info.path)) is not None)
    return [i for i in infos if of_log(i.path) is None and lakehouse.table_of(i.path, tables) is None], tables


def _glob(filesystem: pafs.FileSystem, location: str, plain: str, path: str) -> tuple[list[Listed], str | None]:
    """Match ``*``, ``?`` and ``[…]`` within a path segment and ``**`` across segments; a matched folder gives its files."""
    pattern = re.compile(_glob_pattern(location))

    def shown(found: str) -> str:
        # The typed path may be relative, or have a scheme that locations lack: messages name files as the user would.
        return path[: max(0, len(path) - len(location))] + found[max(0, len(location) - len(path)) :]

    def wanted(path: str) -> bool:
        return pattern.match(path) is not None and not is_hidden(path, plain)

    def enters(folder: str) -> bool:
        if lakehouse.log_folder(folder):
            return _reaches(location, str(PurePosixPath(folder).parent))
        return not is_hidden(folder, plain) and _reaches(location, folder)

    infos, tables = _below(filesystem, plain, wanted, enters)
    files = [_listed(filesystem, i, root=plain, display=shown(i.path)) for i in infos]
    for folder, lake in tables.items():
        if pattern.match(folder):
            files.append(_table(filesystem, folder, lake, shown(folder), plain))
        elif _matches_below(pattern, filesystem, folder):
            raise _inside(path, folder, lake)
    return sorted(files, key=lambda file: file.location), None if files else f"{path} matches no data file."


def _matches_below(pattern: re.Pattern[str], filesystem: pafs.FileSystem, folder: str) -> bool:
    """Whether a glob that does not match a table matches files of it."""
    return bool(files_below(filesystem, folder, lambda path: pattern.match(path) is not None and format_of_name(path) == "parquet"))


def _glob_pattern(location: str) -> str:
    """Return a regular expression for a glob that also matches everything below a match."""
    tokens = re.split(r"(\*\*/?|\*|\?|\[[^\]]+\])", location)
    known = {"*": "[^/]*", "?": "[^/]", "**": ".*", "**/": "(?:.*/)?"}
    parts = [known.get(t) or (t.replace("[!", "[^", 1) if t.startswith("[") else re.escape(t)) for t in tokens]
    return "".join(parts).rstrip("/") + r"(?:/|$)"


def _reaches(location: str, folder: str) -> bool:
    """Whether a folder may contain matches of a glob: segment by segment, it fits the beginning of the glob."""
    for token, name in zip(location.split("/"), folder.split("/"), strict=False):
        if "**" in token:
            return True
        if not re.match(_glob_pattern(token), name):
            return False
    return True


def is_hidden(path: str, root: str) -> bool:
    """Whether a path below ``root`` is an output of ``score``, or has a segment that starts with a dot or an underscore.

    Spark and Hive write side files with such names; ``_column=value`` is a partition folder all the same.
    """
    parts = PurePosixPath(path).relative_to(root).parts
    return bool(_OUTPUTS.search(path)) or any(p.startswith((".", "_")) and "=" not in p for p in parts)


def format_of_name(path: str) -> Format | None:
    """Return the format given by the suffix of a file name, if any; suffixes of compressions do not count."""
    suffixes = [s for s in PurePosixPath(path.lower()).suffixes if s not in COMPRESSED]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _listed(filesystem: pafs.FileSystem, info: pafs.FileInfo, *, root: str, display: str) -> Listed:
    return Listed(path=display, location=info.path, root=root, size=info.size, modified=info.mtime_ns or 0, filesystem=filesystem)


def _near(path: str) -> str:
    """Return a hint about a missing local file: one of a similar name, or that its folder is missing too."""
    folder = expand_home(path).parent
    if not folder.is_dir():
        return f"; nor does its folder {folder}" if "://" not in path else ""
    stem = Path(path).stem
    near = [p.name for p in sorted(folder.iterdir()) if p.is_file() and fnmatch.fnmatch(p.name.lower(), f"{stem.lower()}*")]
    return f"; there is {near[0]!r} in its folder" if near else ""


# Magic bytes, name of the compression, and its suffix; without a suffix it is not supported.
_COMPRESSIONS = (
    (rb"\x1f\x8b", "gzip", ".gz"),
    (rb"\(\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "Zstandard", ".zst"),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P)", "bzip2", ".bz2"),
    (rb"\xfd7zXZ\0", "xz", ""),
    (rb"\x1f\x9d", "compress", ""),
)
_NAME_OF_SUFFIX = {suffix: name for _, name, suffix in _COMPRESSIONS if suffix}

# Formats that compress their content themselves.
_SELF_COMPRESSED = re.compile(r"\.(parquet|pq|arrows?|feather|ipc)$", re.IGNORECASE)


def compression_error(head: bytes, location: str) -> str:
    """Return the end of an error text if the first bytes of a file contradict the compression given by its suffix.

    >>> compression_error(b"a,b", "x.csv.gz")
    'is not compressed with gzip as its name says. Name it x.csv, or copy it again'
    """
    path = PurePosixPath(location)
    suffix = path.suffix.lower()
    name, expected = next(((name, suffix) for magic, name, suffix in _COMPRESSIONS if re.match(magic, head)), ("", ""))
    if not name:
        by_name = _NAME_OF_SUFFIX.get(suffix)
        return f"is not compressed with {by_name} as its name says. Name it {path.stem}, or copy it again" if by_name else ""
    if not expected:
        return f"is compressed with {name}, which is not supported. Unpack it, or compress it with gzip"
    plain = path.stem if suffix in _NAME_OF_SUFFIX else path.name
    if _SELF_COMPRESSED.search(plain):
        return f"is compressed with {name} as a whole; Parquet and Arrow compress inside. Unpack it"
    return "" if suffix == expected else f"is compressed with {name}, and its name does not end in {expected}. Name it {plain}{expected}"
