"""One folder for each fit that goes on at the same time, the same one again for a fit that was cut off, and nothing left behind.

Knows locks and names; what lies in a folder is known by ``edges.checkpoint``.
"""

import glob
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from vae_anomaly.edges import resume
from vae_anomaly.edges.checkpoint import Checkpoint, request_in
from vae_anomaly.edges.interrupts import Interruption
from vae_anomaly.edges.outputs import writing
from vae_anomaly.errors import DataError, Interrupted, OutputError, TrackingError, VaeAnomalyError

logger = logging.getLogger(__name__)
# Takes what is to be done when the process ends.
AtExit = Callable[[Callable[[], None]], object]
# Kinds of errors that the same command may not meet again.
PASSING = (DataError, OutputError, TrackingError)


@contextmanager
def claimed(
    place: Path, made_from: Mapping[str, Any], interruption: Interruption, *, needed: bool, at_exit: AtExit | None = None
) -> Iterator[Checkpoint]:
    """Claim a folder for one process: that of the same fit if it was cut off here, or else one that nobody has.

    While others fit under the same name, numbered ones lie beside ``place``. The folder is removed when the block ends, and also after an
    error if there is nothing in it to go on from, or if the same command would meet the error again. With ``at_exit`` it is removed then:
    a process that is killed after its fit has ended and before it could say so has not ended for whoever started it, and will be run
    again. Where no folder can be made, nothing is kept or, if it is ``needed``, that is an OutputError.
    """
    digests = {name: resume.digest_of(value) for name, value in made_from.items()}
    folder, handle = _found(place, digests, needed=needed)
    kept = Checkpoint(place=place, folder=folder, digests=digests, interruption=interruption)
    try:
        yield kept
    except BaseException as error:
        if folder is not None and not _stays(kept, error):
            resume.remove(folder)
        elif isinstance(error, KeyboardInterrupt) and kept.begun:
            raise Interrupted(f"interrupted; what was done is kept in {folder}. Run the same command again to go on.") from None
        raise
    else:
        if folder is not None and at_exit is not None:
            at_exit(partial(_leave, folder, handle))
            handle = None
        elif folder is not None:
            resume.remove(folder)
    finally:
        if handle is not None:
            os.close(handle)


def _leave(folder: Path, handle: int | None) -> None:
    """Remove a folder and let go of its lock."""
    resume.remove(folder)
    if handle is not None:
        os.close(handle)


def _stays(kept: Checkpoint, error: BaseException) -> bool:
    """Whether the folder is of use to another run: it is that of another fit, has steps to go on from, or names an open run."""
    if not kept.begun:
        return kept.earlier() is not None
    passing = not isinstance(error, VaeAnomalyError) or type(error) in PASSING
    return passing and (kept.holds_something() or (kept.run_open and isinstance(error, TrackingError)))


def _found(place: Path, digests: Mapping[str, str], *, needed: bool) -> tuple[Path | None, int | None]:
    """Return the folder to work in and its lock."""
    try:
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            return _claim(place, digests)
    except OutputError as error:
        if needed:
            raise
        logger.warning("this fit cannot go on if it is cut off: %s", str(error).rstrip("."))
        return None, None


def _claim(place: Path, digests: Mapping[str, str]) -> tuple[Path, int]:
    """Lock the folder that holds the same fit, or a folder that is free, or a new one."""
    numbered = re.compile(rf"{re.escape(place.name)}-\d+")
    beside = [path for path in sorted(place.parent.glob(f"{glob.escape(place.name)}-*")) if numbered.fullmatch(path.name)]
    free: tuple[Path, int] | None = None
    for folder in [place, *beside]:
        handle = _lock(folder) if folder.is_dir() else None
        if handle is None:
            continue
        request = request_in(folder)
        if request is not None and request.digests == digests:
            if free is not None:
                os.close(free[1])
            return folder, handle
        if free is None:
            free = folder, handle
        else:
            os.close(handle)
    return free or next(found for found in map(_locked, _names(place)) if found is not None)


def _names(place: Path) -> Iterator[Path]:
    yield place
    yield from (place.with_name(f"{place.name}-{number}") for number in count(2))


def _locked(folder: Path) -> tuple[Path, int] | None:
    handle = _lock(folder)
    return None if handle is None else (folder, handle)


def _lock(folder: Path) -> int | None:
    """Return the lock of a folder; None: another process has it."""
    try:
        return resume.lock(folder)
    except resume.Taken:
        return None
