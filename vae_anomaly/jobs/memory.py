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
from dataclasses import dataclass, field
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

# Fitting: peak memory = start + rows × (FIT_COPIES × bytes read + columns × FIT_CELL + FIT_ROW) + the scaled cells.
FIT_START = 500 * 10**6  # libraries and networks, where the libraries are those that were measured
FIT_HELD = 350 * 10**6  # held of that when a fit begins; what a process holds beyond, such as a CUDA build of torch, adds to the start
FIT_HELD_USUAL = 400 * 10**6  # up to here the rows of a sample do not change with what is held
FIT_HELD_STEP = 500 * 10**6  # and beyond, by such steps: what is held differs a little from run to run, the sample must not
FIT_TRACKING = 130 * 10**6  # MLflow
FIT_LABELS = 60 * 10**6  # scikit-learn, and the evaluation
FIT_SMALL_ROWS = 2_000  # fewer are cross-fitted, with a network for each fold
FIT_SMALL_COLUMN = 750_000  # of these networks, for each column beyond the first FIT_SMALL_COLUMNS
FIT_SMALL_COLUMNS = 100
FIT_TOLD = 10**7  # a least limit is rounded up to this
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FitStart:
    """What a fit takes besides its rows: ``held`` by the process when it begins, and ``libraries`` besides the measured ones."""

    held: int = 0
    libraries: int = 0

    def exact(self) -> float:
        """Return the bytes that this process takes before its first row."""
        return FIT_START + self.libraries + max(0, self.held - FIT_HELD)

    def told(self) -> float:
        """Return ``exact`` rounded up, so that the least limit that is told is enough also when a little more is held."""
        more = max(0, self.held - FIT_HELD)
        return FIT_START + self.libraries + (math.ceil(more / FIT_TOLD) + 1) * FIT_TOLD * (more > 0)

    def stepped(self) -> float:
        """Return what the rows of a sample are planned with: the same in every run on one installation."""
        steps = math.ceil(max(0, self.held - FIT_HELD_USUAL) / FIT_HELD_STEP)
        return FIT_START + self.libraries + (FIT_HELD_USUAL - FIT_HELD) * (steps > 0) + steps * FIT_HELD_STEP


def fit_start(*, tracked: bool, labelled: bool) -> FitStart:
    """Return what a fit takes besides its rows; called before anything is read."""
    return FitStart(held=resident(), libraries=FIT_TRACKING * tracked + FIT_LABELS * labelled)


def max_fit_rows(weight: SizeEstimate, columns: int, limit: int | None, start: FitStart) -> int | None:
    """Return how many rows a fit can hold in memory; None: all of them.

    The limit defaults to half of the machine's memory. The result is rounded down to two digits, so that a resumed fit samples the same
    rows although free memory differs a little. Raises ConfigError for a limit below what libraries and the fewest rows need.
    """
    row = FIT_COPIES * weight.row_bytes + FIT_CELL * columns + FIT_ROW
    scaled_row = row + FIT_SCALED_CELL * columns
    fewest = min(weight.rows, FIT_MIN_ROWS) * scaled_row + (weight.rows < FIT_SMALL_ROWS) * _small_networks(columns)
    if limit is not None and limit < start.exact() + fewest:
        least = math.ceil((start.told() + fewest) / 1e6)
        raise ConfigError(
            f"--memory-limit {limit / 1e6:,.0f} MB is less than a fit of {columns:,} columns needs; give at least {least} MB."
        )
    allowed = FIT_SHARE * available() - FIT_START if limit is None else limit - start.stepped()
    space = space_left() - FIT_ADDRESS_SPACE
    free = min(allowed, space)
    rows = max(free / scaled_row, (free - FIT_SCALED_MAX) / row)
    if weight.rows <= max(rows, FIT_MIN_ROWS if limit is None or space >= fewest else 0):
        return None
    if space < fewest:
        raise _no_address_space(FIT_ADDRESS_SPACE + fewest)
    most = max(FIT_MIN_ROWS, int(rows))
    digits = int(10 ** (len(str(most)) - 2))
    return most // digits * digits


def _small_networks(columns: int) -> int:
    return FIT_SMALL_COLUMN * max(0, columns - FIT_SMALL_COLUMNS)


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


def peak() -> int:
    """Return the most bytes of memory that this process has held; 0 where the system does not say."""
    with suppress(OSError, StopIteration):
        # Not what getrusage says: that counts the memory of the parent that the process was forked from.
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A memory limit of a job, and the most that its process held ``before``: with a large table in a notebook, more than the limit."""

    limit: float
    before: int = field(default_factory=lambda: peak())  # noqa: PLW0108  # looked up when it is called

    def excess(self) -> int:
        """Return the most that the process has held, if that is more than the limit and than before; else 0."""
        most = peak()
        return most if most > max(self.limit, self.before) else 0


def excess_cautions(most: int) -> tuple[str, ...]:
    """Return a caution on a process that held more than its limit."""
    return (f"the process held {most / 1e6:,.0f} MB at its peak, more than --memory-limit allows",) if most else ()


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
