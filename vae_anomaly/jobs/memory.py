"""Memory limits: turn one into chunk sizes of a scoring or into the number of rows of a fit.

The constants are peak resident memory of whole processes, measured with numeric and text tables, one network and the default ensemble.
Sizes are in bytes.
"""

import ctypes
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow as pa

from vae_anomaly.errors import ConfigError
from vae_anomaly.tables.reader import SizeEstimate

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
MiB = 2**20

# Scoring: peak memory = resident memory with the model loaded + SCORE_START + columns × SCORE_COLUMN + rows × bytes of a row.
SCORE_START = 136 * MiB  # allocated once by the first batch, even by one of the smallest size
SCORE_COLUMN = 5 * MiB  # Parquet pages, buffers and dictionaries of one column
SCORE_COLUMNS_MAX = 400 * MiB  # of all columns: with hundreds of them each takes less
SCORE_COPIES = 16  # copies of a number between file and score, including the batches that wait for the next step
SCORE_ROW = 64  # of a row besides its numbers; copied as often
SCORE_TEXT_COPIES = 12  # copies of text that is passed through, including what is held for the next checkpoint
SCORE_EXPLAINED_ROW = 6 * 2**10  # an explained row passes through Python objects
SCORE_MIN_ROWS = 1024  # smaller chunks are too slow; a limit below this is refused
SCORE_CHUNK = 32 * MiB  # read, and held for a checkpoint, at a time when memory suffices

# Fitting: peak memory = FIT_START + rows × (FIT_COPIES × bytes read + columns × FIT_CELL + FIT_ROW) + the scaled cells.
FIT_START = 500 * 10**6  # libraries and networks
FIT_COPIES = 4  # copies of a row as it is read
FIT_CELL = 48  # of each cell, encoded
FIT_ROW = 200  # of each row besides
FIT_SCALED_CELL = 120  # small tables are scaled once for all steps
FIT_SCALED_MAX = 350 * 10**6  # of all scaled cells; larger tables are not
FIT_MIN_ROWS = 5_000  # fewer are not worth a sample; a limit below this is refused
FIT_SHARE = 0.5  # of the machine's memory, without a limit
FIT_ADDRESS_SPACE = 250 * 10**6  # mapped besides the rows, of the address space left at the start


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Sizes of one scoring: at most ``chunk_rows`` and ``chunk_bytes`` are read at a time; a checkpoint holds at most ``part_bytes``."""

    chunk_rows: int
    chunk_bytes: int = SCORE_CHUNK
    part_bytes: int = SCORE_CHUNK


def plan_memory(limit: int, *, chunk_rows: int, columns: int, all_explained: bool) -> MemoryPlan:
    """Return sizes with which a scoring stays below ``limit``, given what the process holds with its model loaded.

    Raises ConfigError for a limit below what model and libraries need.
    """
    held, start = resident(), SCORE_START + min(columns * SCORE_COLUMN, SCORE_COLUMNS_MAX)
    row = SCORE_COPIES * (8 * columns + SCORE_ROW) + (SCORE_EXPLAINED_ROW if all_explained else 0)
    free = int(min(limit - held, space_left())) - start
    if free < SCORE_MIN_ROWS * row:
        raise _too_small(limit, held, start + SCORE_MIN_ROWS * row)
    chunk_bytes = min(SCORE_CHUNK, free // SCORE_TEXT_COPIES)
    return MemoryPlan(chunk_rows=min(chunk_rows, free // row), chunk_bytes=chunk_bytes, part_bytes=chunk_bytes)


def _too_small(limit: int, resident: int, needed: int) -> ConfigError:
    if limit >= resident + needed:
        return _no_address_space(needed)
    least = math.ceil((resident + needed) / 1e6)
    return ConfigError(f"--memory-limit {limit / 1e6:,.0f} MB is less than this model and its libraries need; give at least {least} MB.")


def _no_address_space(needed: float) -> ConfigError:
    left = space_left() / 1e6
    return ConfigError(
        f"the address space has a limit (ulimit -v) that leaves {left:,.0f} MB; {needed / 1e6:,.0f} MB are needed. Raise it."
    )


def max_fit_rows(weight: SizeEstimate, columns: int, limit: int | None) -> int | None:
    """Return how many rows a fit can hold in memory; None: all of them.

    The limit defaults to half of the machine's memory. The result is rounded down to two digits, so that a resumed fit samples the same
    rows although free memory differs a little. Raises ConfigError for a limit below what libraries and the fewest rows need.
    """
    row = FIT_COPIES * weight.row_bytes + FIT_CELL * columns + FIT_ROW
    scaled_row = row + FIT_SCALED_CELL * columns
    allowed = (FIT_SHARE * available() if limit is None else limit) - FIT_START
    space = space_left() - FIT_ADDRESS_SPACE
    free = min(allowed, space)
    rows = max(free / scaled_row, (free - FIT_SCALED_MAX) / row)
    if weight.rows <= rows or (limit is None and weight.rows <= FIT_MIN_ROWS):
        return None
    least = FIT_MIN_ROWS * scaled_row
    if space < least:
        raise _no_address_space(FIT_ADDRESS_SPACE + least)
    if limit is not None and allowed < least:
        raise ConfigError(
            f"--memory-limit {limit / 1e6:,.0f} MB is less than a fit of {columns:,} columns needs; "
            f"give at least {math.ceil((FIT_START + least) / 1e6)} MB."
        )
    most = max(FIT_MIN_ROWS, int(rows))
    digits = int(10 ** (len(str(most)) - 2))
    return most // digits * digits


def sampling_notes(used: int, read: int, seed: int) -> tuple[str, ...]:
    """Return, and log, a note that a fit used a sample of the rows; empty if it used all."""
    if used == read:
        return ()
    note = f"learned from {used:,} of {read:,} rows, drawn at random (seed {seed}): all of them would be too much for the memory"
    _logger.warning("%s", note)
    return (note,)


def watched(items: Iterator[_T], limit: int) -> Iterator[_T]:
    """Yield the items; near the limit return free memory to the system, and warn once if more is still in use."""
    warned = False
    for item in items:
        yield item
        if resident() > 0.9 * limit:
            give_back()
            held = resident()
            if held > limit and not warned:
                _logger.warning("the process holds %s MB, more than --memory-limit allows", f"{held / 1e6:,.0f}")
                warned = True


def resident() -> int:
    """Return the bytes of memory that this process holds now; where the system does not say, the most that it has held."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:
        return 0


def available() -> float:
    """Return the bytes of memory that there are for this process: the machine's, or less where its group has a limit; infinite if unknown.

    What others hold does not count, so that it is the same from run to run.
    """
    found = [math.inf]
    with suppress(ValueError, OSError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
        for _, controllers, group in (line.split(":", 2) for line in lines):
            found += group_limits(controllers, group)
    return min(found)


def group_limits(controllers: str, group: str, root: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Yield the limits of a control group and of those that it is in, as version 1 and version 2 keep them."""
    folder, name = (root / "memory", "memory.limit_in_bytes") if controllers == "memory" else (root, "memory.max")
    if controllers not in {"", "memory"}:
        return
    inside = PurePosixPath(group.lstrip("/"))
    for place in (inside, *inside.parents):
        with suppress(OSError, ValueError):
            yield float((folder / place / name).read_text(encoding="ascii"))


def space_left() -> float:
    """Return the bytes of address space that this process may still reserve (``ulimit -v``); infinite without such a limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ImportError):
        return math.inf
    return math.inf if limit == resource.RLIM_INFINITY else max(0, limit - pages * resource.getpagesize())


def give_back() -> None:
    """Return memory to the system that is free inside the process."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
