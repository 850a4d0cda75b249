"""Find Delta, Iceberg and Hudi tables among folders and files, by the folder that each keeps its log in.

The files of such a table hold rows that were deleted, compacted or renamed since; which of them count is written in the log alone. So a
path in or around such a table never stands for its files.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Literal

import pyarrow.fs as pafs

LakeFormat = Literal["delta", "iceberg", "hudi"]
LAKE_NAMES: dict[LakeFormat, str] = {"delta": "Delta table", "iceberg": "Iceberg table", "hudi": "Hudi table"}
# Folder of the log in the folder of a table. A table may have several, for engines that read another format: the first one counts.
_LOGS: dict[str, LakeFormat] = {"_delta_log": "delta", "metadata": "iceberg", ".hoodie": "hudi"}
LOG_FOLDERS = tuple(_LOGS)
# ``metadata`` is a common name: only these files in it make an Iceberg table. ``v3.gz.metadata.json`` is compressed.
_ICEBERG_FILE = re.compile(r"version-hint\.text|.+\.metadata\.json(\.gz)?")
# Name of the file system of web pages, which have no folders above them.
_WEB = "py::fsspec+('http'"


def log_folder(path: str) -> bool:
    """Whether a folder has the name of a folder with a log."""
    return PurePosixPath(path).name in _LOGS


def in_log(path: str) -> tuple[str, LakeFormat] | None:
    """Return the folder of the table whose log the file ``path`` belongs to, and its format; None for any other file."""
    parent = PurePosixPath(path).parent
    lake = _LOGS.get(parent.name)
    if lake is None or (lake == "iceberg" and not _ICEBERG_FILE.fullmatch(PurePosixPath(path).name)):
        return None
    return str(parent.parent), lake


def is_metadata_file(location: str) -> bool:
    """Whether a file is the metadata of an Iceberg table as a catalog names it, such as ``t/metadata/v3.metadata.json``."""
    path = PurePosixPath(location)
    return path.parent.name == "metadata" and path.name != "version-hint.text" and _ICEBERG_FILE.fullmatch(path.name) is not None


def outermost(found: Iterable[tuple[str, LakeFormat]]) -> dict[str, LakeFormat]:
    """Return the format of each table by its folder; tables within a table, such as Hudi's own about itself, are left out.

    >>> outermost([("a", "hudi"), ("a/b", "hudi"), ("a", "delta"), ("ab", "iceberg")])
    {'a': 'delta', 'ab': 'iceberg'}
    """
    ranks = list(_LOGS.values())
    tables: dict[str, LakeFormat] = {}
    for folder, lake in sorted(set(found), key=lambda entry: (entry[0], ranks.index(entry[1]))):
        if table_of(folder, tables) is None:
            tables[folder] = lake
    return tables


def table_of(path: str, tables: dict[str, LakeFormat]) -> str | None:
    """Return the one of these tables that ``path`` is, or is in."""
    return next((str(folder) for folder in _folders(path) if str(folder) in tables), None)


def lake_format(filesystem: pafs.FileSystem, folder: str) -> LakeFormat | None:
    """Return the format of the table in a folder, None if it holds none."""
    names = list(_LOGS)
    infos = filesystem.get_file_info([f"{folder.rstrip('/')}/{name}" for name in names])
    for name, info in zip(names, infos, strict=True):
        if info.type == pafs.FileType.Directory and (name != "metadata" or _has_metadata(filesystem, info.path)):
            return _LOGS[name]
    return None


def enclosing_table(filesystem: pafs.FileSystem, location: str) -> tuple[str, LakeFormat] | None:
    """Return the innermost table that a file or folder is in, and its format; a table is not in itself."""
    if filesystem.type_name.startswith(_WEB):
        return None
    for folder in list(_folders(location))[1:]:
        try:
            lake = lake_format(filesystem, str(folder))
        except OSError:
            # The right to read a folder does not include those above it, and what cannot be listed cannot be told.
            return None
        if lake is not None:
            return str(folder), lake
    return None


def _folders(path: str) -> Iterator[PurePosixPath]:
    """Yield a path and the folders above it, without the root or the working folder."""
    pure = PurePosixPath(path)
    yield pure
    yield from (folder for folder in pure.parents if folder.name)


def _has_metadata(filesystem: pafs.FileSystem, folder: str) -> bool:
    return any(in_log(info.path) is not None for info in filesystem.get_file_info(pafs.FileSelector(folder)))
