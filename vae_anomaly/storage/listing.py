"""Whether a file is compressed as its name says: by its first bytes, before anything is unpacked.

Knows names and bytes. Text is unpacked by the ending of its name; Parquet and Arrow compress inside.
"""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow.fs as pafs

from vae_anomaly.errors import DataError
from vae_anomaly.redaction import redacted
from vae_anomaly.storage.filesystems import as_os_errors, files_below, home, os_error_text, resolve_uri, shown_path

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

# What Arrow calls that by which text is unpacked, by the ending.
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}

COMPRESSED = tuple(CODECS)
# Scores of an earlier run lie beside their input, and rows that it left out; a folder or glob must not score them again.
_OWN = re.compile(r"(\.scores\.(csv|parquet)|\.quarantine\.csv)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file by its name, size (bytes) and time of change (ns since 1970), not opened; ``root`` is the folder that was named."""

    path: str
    location: str
    root: str
    size: int
    modified: int
    filesystem: pafs.FileSystem = field(repr=False, compare=False)

    @property
    def key(self) -> PurePosixPath:
        """The path below what the user named."""
        return PurePosixPath(self.location).relative_to(self.root)

    @property
    def identity(self) -> str:
        """``location`` without the secrets of a URI: what manifests say, and what a file is known again by."""
        return redacted(self.location)


def list_files(paths: Sequence[str], *, none_yet: bool = False) -> tuple[Listed, ...]:
    """Return what ``find_files`` would open; with ``none_yet`` a folder may be empty and a glob match nothing. Raises DataError."""
    listed: dict[tuple[str, str], Listed] = {}
    for path in map(str, paths):
        here, complaint = _list(path)
        if complaint and not none_yet:
            raise DataError(complaint)
        listed |= {(file.filesystem.type_name, file.location): file for file in here}
    if not listed and not none_yet:
        raise DataError("no data file was given; name a CSV or Parquet file, a folder or a glob.")
    return tuple(listed.values())


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what the operating system says while reading ``path`` into one line."""
    try:
        with as_os_errors():
            yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there any more; it was when reading began.") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read: permission denied. Give this user the right to read it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {os_error_text(error)}{advice(error, path)}") from error


def roots(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the folders that paths name, as their file systems do: of a file that which it is in, of a glob what stands before it."""
    return tuple(_named(str(path))[2] for path in paths)


def _list(path: str) -> tuple[list[Listed], str | None]:
    """Return the files behind a path, and what to say where there is none yet."""
    filesystem, info, root = _named(path)
    shown = shown_path(path)
    with reading(shown):
        if info.type == pafs.FileType.File:
            return [_listed(filesystem, info, root=root, shown=shown)], None
        if info.type == pafs.FileType.Directory:
            return _folder(filesystem, root, shown)
        return _glob(filesystem, info.path, root, shown)


def _named(path: str) -> tuple[pafs.FileSystem, pafs.FileInfo, str]:
    """Return the file system of a path, what is there, and the folder that it names."""
    filesystem, location = resolve_uri(path)
    shown = shown_path(path)
    with reading(shown):
        info = filesystem.get_file_info(location)
    if info.type == pafs.FileType.File:
        return filesystem, info, str(PurePosixPath(location).parent)
    if info.type == pafs.FileType.Directory:
        return filesystem, info, location.rstrip("/")
    if info.type == pafs.FileType.Unknown:
        raise DataError(f"{shown} is no regular file; expected a file, a folder or a glob.")
    if re.search(r"[*?\[]", location):
        return filesystem, info, re.split(r"[*?\[]", location)[0].rpartition("/")[0] or "/"
    # fsspec says the same of a page that is not there and of a server that is not.
    silent = ", or its server does not answer" if shown.startswith(("http://", "https://")) else ""
    raise DataError(f"{shown} does not exist{silent or _near(shown)}.")


def _folder(filesystem: pafs.FileSystem, location: str, shown: str) -> tuple[list[Listed], str | None]:
    def seen(path: str) -> bool:
        return not hidden(path, location)

    infos = files_below(filesystem, location, lambda path: _by_suffix(path) is not None and seen(path), seen)
    complaint = f"{shown} holds no data file; expected {', '.join(_SUFFIXES)} in it or below."
    names = [f"{shown.rstrip('/')}/{PurePosixPath(i.path).relative_to(location)}" for i in infos]
    return [_listed(filesystem, i, root=location, shown=name) for i, name in zip(infos, names, strict=True)], None if infos else complaint


def _glob(filesystem: pafs.FileSystem, location: str, plain: str, path: str) -> tuple[list[Listed], str | None]:
    """Match ``*``, ``?`` and ``[…]`` within a path segment and ``**`` over several; a matched folder gives its files."""
    pattern = re.compile(_glob_pattern(location))

    def wanted(path: str) -> bool:
        return pattern.match(path) is not None and _by_suffix(path) is not None and not hidden(path, plain)

    matched = files_below(filesystem, plain, wanted, lambda folder: not hidden(folder, plain) and _reaches(location, folder))
    # What was typed may lack the folder we are in, or have a scheme in front.
    names = [path[: max(0, len(path) - len(location))] + i.path[max(0, len(location) - len(path)) :] for i in matched]
    found = [_listed(filesystem, i, root=plain, shown=name) for i, name in zip(matched, names, strict=True)]
    return found, None if matched else f"{path} matches no data file."


def _glob_pattern(location: str) -> str:
    """Return a regular expression for the glob; it also matches what lies below a match."""
    tokens = re.split(r"(\*\*/?|\*|\?|\[[^\]]+\])", location)
    known = {"*": "[^/]*", "?": "[^/]", "**": ".*", "**/": "(?:.*/)?"}
    parts = [known.get(t) or (t.replace("[!", "[^", 1) if t.startswith("[") else re.escape(t)) for t in tokens]
    return "".join(parts).rstrip("/") + r"(?:/|$)"


def _reaches(location: str, folder: str) -> bool:
    """Whether what a glob matches may lie in a folder, which it names the beginning of, or which lies below a match."""
    for token, name in zip(location.split("/"), folder.split("/"), strict=False):
        if "**" in token:
            return True
        if not re.match(_glob_pattern(token), name):
            return False
    return True


def hidden(path: str, root: str) -> bool:
    """Whether a file below ``root`` is scores of ours, or side files as Spark writes them: a dot or underscore in front."""
    return bool(_OWN.search(path)) or any(p.startswith((".", "_")) and "=" not in p for p in PurePosixPath(path).relative_to(root).parts)


def _by_suffix(path: str) -> Format | None:
    suffixes = [s for s in PurePosixPath(path.lower()).suffixes if s not in COMPRESSED]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _listed(filesystem: pafs.FileSystem, info: pafs.FileInfo, *, root: str, shown: str) -> Listed:
    return Listed(path=shown, location=info.path, root=root, size=info.size, modified=info.mtime_ns or 0, filesystem=filesystem)


def _near(path: str) -> str:
    """Return a hint at a file of a similar name in the same local folder."""
    folder = home(path).parent
    if not folder.is_dir():
        return f"; nor does its folder {folder}" if "://" not in path else ""
    stem = Path(path).stem
    near = [p.name for p in sorted(folder.iterdir()) if p.is_file() and fnmatch.fnmatch(p.name.lower(), f"{stem.lower()}*")]
    return f"; there is {near[0]!r} in its folder" if near else ""


# How a compressed file begins, what that is, and the ending by which it is unpacked.
_KINDS = (
    (rb"\x1f\x8b", "gzip", ".gz"),
    (rb"\(\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "Zstandard", ".zst"),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P)", "bzip2", ".bz2"),
    (rb"\xfd7zXZ\0", "xz", ""),
    (rb"\x1f\x9d", "compress", ""),
)
_UNPACKED = {ending: kind for _, kind, ending in _KINDS if ending}

_INSIDE = re.compile(r"\.(parquet|pq|arrows?|feather|ipc)$", re.IGNORECASE)
_OF_CONTENT = re.compile("inflate failed|decompress failed|Truncated compressed stream|deserialize thrift", re.IGNORECASE)


def complaint(head: bytes, location: str) -> str:
    """Return what is wrong with a file of this name that begins so, for the end of an error; empty if nothing is.

    >>> complaint(b"a,b", "x.csv.gz")
    'is not compressed with gzip as its name says. Name it x.csv, or copy it again'
    """
    path = PurePosixPath(location)
    ending = path.suffix
    kind, by = next(((kind, by) for begin, kind, by in _KINDS if re.match(begin, head)), ("", ""))
    if not kind:
        said = _UNPACKED.get(ending.lower())
        return f"is not compressed with {said} as its name says. Name it {path.stem}, or copy it again" if said else ""
    if not by:
        return f"is compressed with {kind}, which is not read. Unpack it, or compress it with gzip"
    plain = path.stem if ending.lower() in _UNPACKED else path.name
    if _INSIDE.search(plain):
        return f"is compressed with {kind} as a whole; Parquet and Arrow compress inside. Unpack it"
    return "" if ending.lower() == by else f"is compressed with {kind}, and its name does not end in {by}. Name it {plain}{by}"


def advice(error: OSError, path: str) -> str:
    """Return what to do, with a full stop in front, where the content of a file is at fault and not the way to it."""
    # What the operating system says has a number; an object store has none either.
    local = error.errno is None and "://" not in path
    return ". Write or copy it again." if local or _OF_CONTENT.search(str(error)) else ""
