"""A limit of memory: read, held against what model and libraries need, and turned into rows at a time.

Knows what a row costs while it is scored, not how it is scored.
"""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from vae_anomaly.errors import ConfigError
from vae_anomaly.jobs import memory
from vae_anomaly.tables.sampling import Weight

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# Measured with one and with the default networks: what the first batch costs once and for all, be it of the smallest size, and what the
# pages, buffers and dictionaries of a column of Parquet take; where there are hundreds of columns, these are smaller.
START_BYTES = 136 * 2**20
COLUMN_BYTES = 5 * 2**20
COLUMNS_BYTES = 400 * 2**20
# Copies of a row between its file and its score, those that wait for the next step included, and bytes beside its numbers.
COPIES = 16
BESIDE = 64
# The same for bytes of text that is copied through, those kept for the case of a kill included.
COPIES_OF_TEXT = 12
# A row that is explained is made of Python objects on its way.
EXPLAINED_BYTES = 6 * 2**10
FEWEST_CHUNK_ROWS = 1024
# A fit: what libraries and networks take, and what a row costs besides, measured with numbers and with text: times its bytes as it is
# read, by the column, and once. Without a limit rows may take this share of the memory of the machine.
FIT_BYTES = 500 * 10**6
FIT_COPIES = 4
FIT_CELL = 48
FIT_ROW = 200
MEMORY_SHARE = 0.5
# Few rows are scaled once for all steps: by the cell, and at most.
SCALED_CELL = 120
SCALED_BYTES = 350 * 10**6
FEWEST_FIT_ROWS = 5_000
# What a fit maps besides its rows, of the address space that is left when it begins.
FIT_SPACE = 250 * 10**6
MiB = 2**20

BYTE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def size_of(text: str | None) -> int | None:
    """Return a size in bytes: kB, MB, GB are powers of 1,000, KiB, MiB, GiB of 1,024. Raises ConfigError for anything else.

    >>> size_of("1.5GB"), size_of("2GiB")
    (1500000000, 2147483648)
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?i?)b?\s*", text, flags=re.IGNORECASE)
    if found and not found[2] and not text.strip().lower().endswith("b") and 0 < float(found[1]) < BYTE_UNITS["m"]:
        raise ConfigError(f"--memory-limit {found[1]} has no unit, and that many bytes hold nothing; write {found[1]}MB or {found[1]}GB.")
    unit = BYTE_UNITS.get(found[2].lower()) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size < 1:
        raise ConfigError(f"--memory-limit must be a size as 500MB, 1.5GB or 2GiB; got {text!r}")
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Rows and bytes at a time: ``chunk_rows`` and ``chunk_bytes`` read, ``part_bytes`` held back to be kept."""

    chunk_rows: int
    chunk_bytes: int = 32 * MiB
    part_bytes: int = 32 * MiB


def plan_memory(limit: int | None, *, chunk_rows: int, columns: int, all_explained: bool) -> MemoryPlan:
    """Return what keeps within ``limit`` bytes with what this process holds already, its model loaded.

    Raises ConfigError for a limit below what model and libraries need.
    """
    if limit is None:
        return MemoryPlan(chunk_rows=chunk_rows)
    held, start = memory.resident(), START_BYTES + min(columns * COLUMN_BYTES, COLUMNS_BYTES)
    row = COPIES * (8 * columns + BESIDE) + (EXPLAINED_BYTES if all_explained else 0)
    room = int(min(limit - held, memory.space_left())) - start
    if room < FEWEST_CHUNK_ROWS * row:
        _refuse(limit, held, start + FEWEST_CHUNK_ROWS * row)
    part = min(32 * MiB, room // COPIES_OF_TEXT)
    return MemoryPlan(chunk_rows=min(chunk_rows, room // row), chunk_bytes=part, part_bytes=part)


def most_rows(weight: Weight, columns: int, limit: int | None) -> int | None:
    """Return how many rows a fit can hold within ``limit`` bytes; None: as many as there are.

    Without a limit, within half the memory of the machine. Two digits only, so that it is the same where memory differs by little.
    Raises ConfigError for a limit below what libraries and the fewest rows need.
    """
    row = FIT_COPIES * weight.row_bytes + FIT_CELL * columns + FIT_ROW
    room = (MEMORY_SHARE * memory.available() if limit is None else limit) - FIT_BYTES
    space = memory.space_left() - FIT_SPACE
    # Many rows are not scaled once.
    rows = max(min(room, space) / (row + SCALED_CELL * columns), (min(room, space) - SCALED_BYTES) / row)
    if weight.rows <= rows or (limit is None and weight.rows <= FEWEST_FIT_ROWS):
        return None
    fewest = FEWEST_FIT_ROWS * (row + SCALED_CELL * columns)
    if space < fewest:
        raise ConfigError(_no_space(FIT_SPACE + fewest))
    if limit is not None and room < fewest:
        said = f"--memory-limit {limit / 1e6:,.0f} MB is less than a fit of {columns:,} columns needs"
        raise ConfigError(f"{said}; give at least {math.ceil((FIT_BYTES + fewest) / 1e6)} MB.")
    most = max(FEWEST_FIT_ROWS, int(rows))
    digits = int(10 ** (len(str(most)) - 2))
    return most // digits * digits


def _refuse(limit: int, held: int, more: int) -> None:
    least = math.ceil((held + more) / 1e6)
    if limit < held + more:
        raise ConfigError(f"--memory-limit {limit / 1e6:,.0f} MB is less than this model and its libraries need; give at least {least} MB.")
    raise ConfigError(_no_space(more))


def _no_space(needed: float) -> str:
    left = memory.space_left()
    return f"the address space has a limit (ulimit -v) that leaves {left / 1e6:,.0f} MB; {needed / 1e6:,.0f} MB are needed. Raise it."


def watched(items: Iterator[_T], limit: int | None) -> Iterator[_T]:
    """Let items pass; give free memory back where the process comes near the limit, and say so once where that does not help."""
    said = False
    for item in items:
        yield item
        if limit is not None and memory.resident() > 0.9 * limit:
            memory.give_back()
            held = memory.resident()
            if held > limit and not said:
                _logger.warning("the process holds %s MB, more than --memory-limit allows", f"{held / 1e6:,.0f}")
                said = True


def sampled_notes(held: int, seen: int, seed: int) -> tuple[str, ...]:
    """Return a note on the rows that were not held, and say it; nothing where there are none."""
    if held == seen:
        return ()
    note = f"learned from {held:,} of {seen:,} rows, drawn at random (seed {seed}): all of them would be too much for the memory"
    _logger.warning("%s", note)
    return (note,)
