"""Lock of a folder: one process at a time, free again as soon as that process ends."""

import logging
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_logger = logging.getLogger(__name__)


class Taken(Exception):
    """Another process has the lock; its number is the text."""


def lock(folder: Path) -> int:
    """Return the open lock of a folder, which is made if need be; it is free again as soon as this process ends. Raises Taken, OSError."""
    path = folder / "lock"
    while True:
        folder.mkdir(exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # another process has just finished and removed the folder
        if not _alone(handle):
            owner = os.read(handle, 20).decode("ascii", "replace") or "unknown"
            os.close(handle)
            raise Taken(owner)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        os.close(handle)  # that was the lock of a folder that is gone
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def _alone(handle: int) -> bool:
    """Lock an open file; False if another process has it. Where a file system has no locks, nobody is told apart."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _logger.warning("this file system has no locks (%s): do not write the same output twice at once", error.strerror)
    return True


def remove(folder: Path) -> None:
    """Remove the claimed folder, its lock last and before it the request, so that until then it is known whose it is."""
    with suppress(OSError):
        _empty(folder, but={"lock", "request.json"})
        (folder / "request.json").unlink(missing_ok=True)
        (folder / "lock").unlink()
        folder.rmdir()


def clear(folder: Path) -> None:
    """Remove all but the lock; the request goes first, because without it nothing else counts."""
    (folder / "request.json").unlink(missing_ok=True)
    _empty(folder, but={"lock"})


def _empty(folder: Path, but: set[str]) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in but:
            path.unlink()
