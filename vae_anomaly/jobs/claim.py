"""Work folders: ``.NAME.resume/`` holds the lock, the request and the checkpoints of a job that is not finished.

A job claims its work folder, alone, and is then in one of three states:

    claim ──► done        the result of the same request is complete: nothing to do
          ├─► resumable   checkpoints of the same request: the job continues after them
          └─► fresh       nothing, or what another request left, which is removed
    the job ends          the result is whole, then the folder is removed
    the job raises        the folder stays if the same command can continue from it, else it is removed
    the process is killed the lock is released and the folder is unchanged

Fits, scorings and output folders follow it (``fit_workdir``, ``score_workdir``, ``workflow.score_folder``). Requests, counts and notes are
plain JSON values here; every file is whole or absent.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from vae_anomaly.storage.atomic import replacing, sweep_folder, writing

if sys.platform != "win32":
    import fcntl

_logger = logging.getLogger(__name__)
State = Literal["done", "resumable", "fresh"]
# Files that every work folder has; without another one there is nothing to continue from.
LOCK_FILE = "lock"
REQUEST_FILE = "request.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFolder:
    """The work ``folder`` of the job that makes ``output``."""

    output: Path
    folder: Path

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Write JSON values under a name, replacing older ones in one step. Raises OutputError."""
        path = self.folder / f"{name}.json"
        with writing(self.output), replacing(path) as temporary:
            temporary.write_text(json.dumps(value), encoding="utf-8")

    def noted(self, name: str) -> dict[str, Any] | None:
        """Return the values under a name; None where there are none, or none that can be read."""
        try:
            return dict(json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def holds_other_than(self, *names: str) -> bool:
        """Whether there is a file besides these."""
        return self.folder.is_dir() and any(path.name not in names for path in self.folder.iterdir())


def folder_of(output: Path) -> Path:
    """Return the work folder of an output."""
    return output.with_name(f".{output.name}.resume")


def digests_of(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 digest (hex) of each JSON value of a request."""
    return {name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for name, value in request.items()}


def differences(digests: Mapping[str, str], earlier: Mapping[str, Any]) -> list[str]:
    """Return the names whose digests differ between a request and an earlier one, sorted."""
    return sorted(name for name in {*digests, *earlier} if earlier.get(name) != digests.get(name))


def install() -> dict[str, str]:
    """Return what the last bit of a score may depend on besides model and input: checkpoints of another install are not used."""
    return {
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }


class Taken(Exception):
    """Another process holds the lock; its process id is the text."""


def lock(folder: Path) -> int:
    """Return the open lock of a folder, creating both; the lock is free as soon as this process ends. Raises Taken, OSError."""
    path = folder / LOCK_FILE
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
    with suppress(OSError):
        sweep_folder(folder)
    return handle


def _alone(handle: int) -> bool:
    """Lock an open file; False if another process holds it. On a file system without locks, processes cannot be told apart."""
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
    """Remove a claimed folder: the lock last and the request before it, so that until then the folder can be attributed."""
    with suppress(OSError):
        _empty(folder, but={LOCK_FILE, REQUEST_FILE})
        (folder / REQUEST_FILE).unlink(missing_ok=True)
        (folder / LOCK_FILE).unlink()
        folder.rmdir()


def clear(folder: Path) -> None:
    """Remove everything but the lock; the request first, because without it nothing else counts."""
    (folder / REQUEST_FILE).unlink(missing_ok=True)
    _empty(folder, but={LOCK_FILE})


def _empty(folder: Path, but: set[str]) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in but:
            path.unlink()
