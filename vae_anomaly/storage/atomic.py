"""A folder that appears whole or not at all, whatever kills the process that writes it.

Knows nothing of what is in the folder. The content is written to a sibling ``.<name>.<random>.partial``, made durable and renamed.
To replace a folder, the old one first steps aside as ``.<name>.old``: two renames, and ``present`` and the next ``publish`` put
right what a kill between them leaves. Renames are atomic on one file system, and siblings share one.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vae_anomaly.errors import OutputError
from vae_anomaly.storage.filesystems import one_line

_SAID = {
    errno.ENOSPC: "the disk is full. Free some space or write elsewhere with -o",
    errno.EDQUOT: "the disk quota is used up. Free some space or write elsewhere with -o",
    errno.EROFS: "the file system is read-only. Write elsewhere with -o",
    errno.EACCES: "permission denied. Write elsewhere with -o",
    errno.EPERM: "permission denied. Write elsewhere with -o",
    errno.ENOENT: "its folder does not exist. Make the folder or write elsewhere with -o",
    errno.ENOTDIR: "its folder is a file. Write elsewhere with -o",
    errno.EEXIST: "what is there is no folder. Write elsewhere with -o",
    errno.EISDIR: "it is a folder. Name a file with -o",
    errno.ENAMETOOLONG: "its name is too long. Give it a shorter one with -o",
    errno.EFBIG: "the file would be larger than this file system allows. Write elsewhere with -o",
}


def write_text(path: Path, text: str) -> None:
    """Write a text to ``path``, replacing it in one step. Raises OutputError, and then nothing was changed."""
    with writing(path), _whole_or_absent(path) as stream:
        stream.write(text.encode())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while writing into one line; readers have translated their own errors."""
    try:
        yield
    except OSError as error:
        said = _SAID.get(error.errno or 0, one_line(error))
        if error.errno == errno.ENOENT and path.parent.is_dir():  # as /proc
            said = "no file can be made in its folder. Write elsewhere with -o"
        raise OutputError(f"{path} cannot be written: {said}.") from error


@contextlib.contextmanager
def _whole_or_absent(path: Path) -> Iterator[BinaryIO]:
    """Give a stream that becomes ``path`` if the block ends well, and vanishes otherwise."""
    sweep(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the new name last; some file systems cannot, and then the file is as safe as it gets."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(path: Path) -> None:
    """Remove what killed processes left of earlier attempts at the same output."""
    for left in path.parent.glob(f".{path.name}.*.part"):
        owner = re.fullmatch(r"(\d+)\.part", left.name.removeprefix(f".{path.name}."))
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
    """Let ``write`` fill a new folder, then give it the name ``folder``; on any error nothing has changed.

    A folder that exists is an error unless it is empty or ``replaces`` says that it may go. Raises OutputError.
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
            _sync(stage)
            _swap(stage, folder)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise


def present(folder: Path) -> Path:
    """Return where the content of ``folder`` is now: there, or aside if a replacement was killed half-way."""
    old = _old(folder.resolve())
    return old if old.is_dir() and not folder.exists() else folder


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")


def _recover(folder: Path) -> None:
    """Finish what killed processes left beside ``folder``."""
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
    _sync(folder.parent)
    if old.exists():
        _discard(old, folder)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable; Windows cannot open folders and does not need it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else (error.strerror or str(error)).lower()
        where = f" at {folder.parent}" if error.filename == str(folder.parent) else ""
        raise OutputError(f"{folder} cannot be written: {why}{where}. Nothing was changed there.") from error


@contextmanager
def durably(path: Path) -> Iterator[Path]:
    """Give a name to write to; what is there when the block ends well is forced to disk and becomes ``path``."""
    temporary = path.with_suffix(".part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
