"""Which files lie below a folder, here or in a store, and names that nobody can open.

Folders of this machine are walked: Arrow has no text for a name that is not UTF-8, and goes round and round where a link leads back.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow.fs as pafs

from vae_anomaly.errors import DataError


def files_below(
    filesystem: pafs.FileSystem, location: str, wanted: Callable[[str], bool], enters: Callable[[str], bool] = lambda _: True
) -> list[pafs.FileInfo]:
    """Return the wanted files below a folder, sorted by path; none where there is no folder. ``enters`` says which folders may have some.

    Raises DataError for a wanted file whose name is not UTF-8, and for a folder that may not be read; where such a name is that of a file
    nobody wants, it is passed over, as are links that lead nowhere.
    """
    if filesystem.type_name == "local":
        infos = list(_walked(location, wanted, enters))
    else:
        found = filesystem.get_file_info(pafs.FileSelector(location, recursive=True, allow_not_found=True))
        infos = [info for info in found if wanted(info.path)]
    return sorted((info for info in infos if info.type == pafs.FileType.File), key=lambda info: str(info.path))


def _walked(
    location: str, wanted: Callable[[str], bool], enters: Callable[[str], bool], above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[pafs.FileInfo]:
    """Yield the wanted files in and below a folder; one that is also ``above`` itself, by a link, is not entered again."""
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = []
    with _passing_over(location), os.scandir(location) as entries:
        here = os.stat(location)  # noqa: PTH116  # as many as there are folders
        inside = above | {(here.st_dev, here.st_ino)}
        for entry in entries:
            with _passing_over(entry.path):
                if entry.is_dir():
                    found = entry.stat()
                    if (found.st_dev, found.st_ino) not in inside and enters(entry.path):
                        folders.append((entry.path, inside))
                elif wanted(entry.path):
                    if not is_text(entry.path):
                        raise DataError(no_text(entry.path))
                    yield _info(entry.path)
    for path, seen in folders:
        yield from _walked(path, wanted, enters, seen)


@contextmanager
def _passing_over(path: str) -> Iterator[None]:
    """Pass over what went while we looked, and a link that leads nowhere or to itself."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{path} may not be read: permission denied. Give this user the right to read it.") from error
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP}:
            raise


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
