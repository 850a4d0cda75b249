"""Which files lie below a folder, here or in a store, and names that nobody can open.

Arrow has no text for a name that is not UTF-8, and nothing else to know it by; a folder with such a name below it is walked.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NoReturn

import pyarrow.fs as pafs

from vae_anomaly.errors import DataError


def files_below(filesystem: pafs.FileSystem, location: str, wanted: Callable[[str], bool]) -> list[pafs.FileInfo]:
    """Return the wanted files below a folder, sorted by path; none where there is no folder.

    Raises DataError for a wanted file whose name is not UTF-8; where such a name is that of a file nobody wants, it is passed over.
    """
    selector = pafs.FileSelector(location, recursive=True, allow_not_found=True)
    infos = filesystem.get_file_info(selector)
    try:
        return _sorted(infos, wanted)
    except UnicodeDecodeError:
        if filesystem.type_name != "local":
            raise
        return _sorted(_walked(location, wanted), wanted)


def _sorted(infos: Iterable[pafs.FileInfo], wanted: Callable[[str], bool]) -> list[pafs.FileInfo]:
    return sorted((i for i in infos if i.type == pafs.FileType.File and wanted(i.path)), key=lambda i: str(i.path))


def _walked(location: str, wanted: Callable[[str], bool]) -> Iterator[pafs.FileInfo]:
    for folder, _, names in os.walk(location, onerror=_raise, followlinks=True):
        for path in sorted(os.path.join(folder, name) for name in names):  # noqa: PTH118  # as many as there are files
            if is_text(path):
                with suppress(FileNotFoundError):  # it went while we looked
                    yield _info(path)
            elif wanted(path):
                raise DataError(no_text(path))


def _raise(error: OSError) -> NoReturn:
    raise error


def _info(path: str) -> pafs.FileInfo:
    found = os.stat(path)  # noqa: PTH116  # as many as there are files
    kind = pafs.FileType.File if stat.S_ISREG(found.st_mode) else pafs.FileType.Unknown
    return pafs.FileInfo(path, kind, mtime_ns=found.st_mtime_ns, size=found.st_size)


def is_text(path: str) -> bool:
    """Whether a path is text; Python gives the bytes that are none as halves of characters."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def no_text(path: str) -> str:
    r"""Say what to do about a path that is no text: rename it, or let Python read names as what they are.

    >>> no_text("in/M\udcfc.csv")
    'in/M\\xfc.csv has a name that is not UTF-8; rename it.'
    """
    name = os.fsencode(path)
    shown = name.decode(errors="backslashreplace")
    if shown.encode() != name:
        return f"{shown} has a name that is not UTF-8; rename it."
    return f"{shown} has a name that is not {sys.getfilesystemencoding()}, as the locale says that names are; set LC_ALL=C.UTF-8."
