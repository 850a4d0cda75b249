"""List the data files behind paths, folders, globs and URIs; formats and compressions by name.

Works on names and sizes; ``compression_error`` also gets the first bytes of a file. Nothing here opens a file.
"""

import fnmatch
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow.fs as pafs

from vae_anomaly.errors import DataError
from vae_anomaly.redaction import redacted
from vae_anomaly.storage.filesystems import expand_home, files_below, reading, resolve_uri, shown_path

Format = Literal["delimited", "parquet", "arrow"]

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
    """A file that was listed and not opened.

    ``path`` is its name in messages, ``location`` its name on the file system, ``root`` the folder that the user named. ``size`` is in
    bytes, ``modified`` in nanoseconds since 1970.
    """

    path: str
    location: str
    root: str
    size: int
    modified: int
    filesystem: pafs.FileSystem = field(repr=False, compare=False)

    @property
    def key(self) -> PurePosixPath:
        """The path relative to the folder that the user named."""
        return PurePosixPath(self.location).relative_to(self.root)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 over name, size and modification time, by which a later job knows the file again."""
        return hashlib.sha256(f"{self.key.name}\0{self.size}\0{self.modified}".encode()).hexdigest()[:16]

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
            return [_listed(filesystem, info, root=root, display=display)], None
        if info.type == pafs.FileType.Directory:
            return _folder(filesystem, root, display)
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


def _folder(filesystem: pafs.FileSystem, location: str, display: str) -> tuple[list[Listed], str | None]:
    def visible(path: str) -> bool:
        return not is_hidden(path, location)

    infos = files_below(filesystem, location, lambda path: format_of_name(path) is not None and visible(path), visible)
    absence = f"{display} holds no data file; expected {', '.join(_SUFFIXES)} in it or below."
    names = [f"{display.rstrip('/')}/{PurePosixPath(i.path).relative_to(location)}" for i in infos]
    return [_listed(filesystem, i, root=location, display=name) for i, name in zip(infos, names, strict=True)], None if infos else absence


def _glob(filesystem: pafs.FileSystem, location: str, plain: str, path: str) -> tuple[list[Listed], str | None]:
    """Match ``*``, ``?`` and ``[…]`` within a path segment and ``**`` across segments; a matched folder gives its files."""
    pattern = re.compile(_glob_pattern(location))

    def wanted(path: str) -> bool:
        return pattern.match(path) is not None and format_of_name(path) is not None and not is_hidden(path, plain)

    matched = files_below(filesystem, plain, wanted, lambda folder: not is_hidden(folder, plain) and _reaches(location, folder))
    # The typed path may be relative, or have a scheme that locations lack: messages name files as the user would.
    names = [path[: max(0, len(path) - len(location))] + i.path[max(0, len(location) - len(path)) :] for i in matched]
    files = [_listed(filesystem, i, root=plain, display=name) for i, name in zip(matched, names, strict=True)]
    return files, None if matched else f"{path} matches no data file."


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
