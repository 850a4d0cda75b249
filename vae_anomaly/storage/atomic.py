"""Files and folders that appear whole or not at all, whatever kills the process that writes them.

A file is written to ``.<name>.<process>.part`` beside it, forced to disk and renamed (``replacing``); what a killed process leaves is
swept away by the next writer of the same file. A folder is written to a sibling ``.<name>.<random>.partial``, forced to disk and renamed
(``publish``). To replace a folder, the old one is first renamed to ``.<name>.old``: two renames, and ``present`` and the next ``publish``
repair what a kill between them leaves. Renames are atomic within one file system, and siblings share one.
"""

import errno
import glob
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vae_anomaly.errors import OutputError
from vae_anomaly.messages import one_line

_REASONS = {
    errno.ENOSPC: "the disk is full. Free some space or write elsewhere with -o",
    errno.EDQUOT: "the disk quota is used up. Free some space or write elsewhere with -o",
    errno.EROFS: "the file system is read-only. Write elsewhere with -o",
    errno.EACCES: "permission denied. Write elsewhere with -o",
    errno.EPERM: "permission denied. Write elsewhere with -o",
    errno.ENOENT: "its folder does not exist. Make the folder or write elsewhere with -o",
    errno.ENOTDIR: "its folder is a file. Write elsewhere with -o",
    errno.EEXIST: "it exists and is not a folder. Write elsewhere with -o",
    errno.EISDIR: "it is a folder. Name a file with -o",
    errno.ENAMETOOLONG: "its name is too long. Give it a shorter one with -o",
    errno.EFBIG: "the file would be larger than this file system allows. Write elsewhere with -o",
}


def write_text(path: Path, text: str) -> None:
    """Write a text to ``path``, replacing it in one step. Raises OutputError, and then nothing was changed."""
    sweep(path)
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(text.encode())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating-system error while writing into an OutputError of one line; errors of readers have been translated before."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, one_line(error))
        if error.errno == errno.ENOENT and path.parent.is_dir():  # as /proc
            reason = "no file can be made in its folder. Write elsewhere with -o"
        raise OutputError(f"{path} cannot be written: {reason}.") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; the file written there durably replaces ``path`` if the block ends well."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system and the platform can (Windows opens no folders)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(path: Path) -> None:
    """Remove temporary files that killed processes left beside ``path``."""
    _remove_orphans(path.parent, glob.escape(path.name))


def sweep_folder(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder, whatever file they were for."""
    _remove_orphans(folder, "*")


def _remove_orphans(folder: Path, name: str) -> None:
    for left in folder.glob(f".{name}.*.part"):
        owner = re.search(r"\.(\d+)\.part$", left.name)
        if owner and not _alive(int(owner[1])):
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


Write = Callable[[Path], None]
Test = Callable[[Path], bool]


def publish(folder: Path, write: Write, *, replaces: Test | None = None) -> None:
    """Call ``write`` with a new folder, then rename that to ``folder``; after an error nothing has changed.

    An existing folder is an error unless it is empty or ``replaces`` returns True for it. Raises OutputError.
    """
    folder = folder.resolve()
    with _output_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recover(folder)
        _refuse(folder, replaces)
        stage = _aside(folder)
        stage.mkdir()
        try:
            write(stage)
            sync_folder(stage)
            _swap(stage, folder)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise


def present(folder: Path) -> Path:
    """Return the folder that holds the content of ``folder``: itself, or the renamed one if a replacement was killed half-way."""
    old = _old(folder.resolve())
    return old if old.is_dir() and not folder.exists() else folder


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and force it to disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")


def _recover(folder: Path) -> None:
    """Complete or undo replacements of ``folder`` that were killed."""
    old = _old(folder)
    if old.is_dir() and folder.exists():
        _discard(old, folder)
    elif old.is_dir():
        old.rename(folder)
    left = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{12}}\.partial")
    for path in list(folder.parent.iterdir()):
        if left.fullmatch(path.name):
            _discard(path, folder)


def _discard(path: Path, folder: Path) -> None:
    """Remove a folder. It is renamed first, so that a process which still writes it cannot publish the half that is left."""
    aside = _aside(folder)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _refuse(folder: Path, replaces: Test | None) -> None:
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, and a folder is to be written there. Choose another name.")
    if any(folder.iterdir()) and not (replaces and replaces(folder)):
        raise OutputError(f"{folder} exists and is not empty. Choose another folder, or remove this one first.")


def _swap(stage: Path, folder: Path) -> None:
    old = _old(folder)
    if folder.exists():
        folder.rename(old)
    try:
        stage.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    if old.exists():
        _discard(old, folder)


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else (error.strerror or str(error)).lower()
        where = f" at {folder.parent}" if error.filename == str(folder.parent) else ""
        raise OutputError(f"{folder} cannot be written: {why}{where}. Nothing was changed there.") from error
