"""The estimated size of a table before it is read, and a uniform sample of its rows if it is too large.

The caller compares the estimate with its memory limit. A sample reads every row once, in file order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.tables.reader import Reader, SizeEstimate

# Rows held beyond the wanted number before they are thinned out, as a share of it.
SLACK = 0.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A sample of ``seen`` rows; ``numbers`` int64 ``[n]`` are the numbers of its rows among them, from 0."""

    table: pa.Table
    numbers: NDArray[np.int64]
    seen: int


# Called with the number of rows read so far.
OnRows = Callable[[int], None]


def ignore_rows(_: int) -> None:
    """Do nothing."""


def estimated_size(readers: Sequence[Reader]) -> SizeEstimate:
    """Estimate the size of all files together; a file of unknown rows is taken to have as many rows a byte as the first one."""
    first = readers[0].estimated_size()
    rows_per_byte = first.rows / max(1, readers[0].file.listed.size)
    rows = sum(rows_per_byte * r.file.listed.size if r.rows is None else r.rows for r in readers)
    return SizeEstimate(rows=rows, row_bytes=first.row_bytes)


_HIGHEST = np.uint64(2**64 - 1)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece(Generic[_T]):
    """Consecutive rows of one group, the random key of each (uint64 ``[n]``) and its number over all groups (int64 ``[n]``)."""

    group: int
    rows: _T
    keys: NDArray[np.uint64]
    numbers: NDArray[np.int64]


@dataclass(kw_only=True, eq=False)
class Subset(Generic[_T]):
    """Uniform sample without replacement of ``most`` rows of a stream, in order; all rows of a shorter stream.

    Every row draws a random key; the rows with the ``most`` smallest keys are kept, so how the stream is cut changes nothing. ``pick``
    returns the rows of a piece of a group at indices int64 ``[n]``. ``seen`` counts the rows of the stream, ``held`` those in memory: at
    most a quarter more than ``most``.

    >>> subset = Subset(most=2, seed=0, pick=lambda group, rows, indices: [rows[i] for i in indices])
    >>> for piece in (["a", "b", "c"], ["d", "e"]):
    ...     subset.add(0, piece, len(piece))
    >>> subset.seen, sum(subset.pieces(0), [])
    (5, ['c', 'd'])
    """

    most: int
    seed: int
    pick: Callable[[int, _T, NDArray[np.int64]], _T]
    seen: int = 0
    held: int = 0
    _largest_key: np.uint64 = _HIGHEST
    _pieces: list[_Piece[_T]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)

    def add(self, group: int, piece: _T, count: int) -> None:
        """Add the next ``count`` rows of the stream, a piece of a group."""
        keys = self._generator.integers(0, _HIGHEST, size=count, dtype=np.uint64, endpoint=True)
        numbers = np.arange(self.seen, self.seen + count)
        self.seen += count
        self._hold(_Piece(group=group, rows=piece, keys=keys, numbers=numbers))
        if self.held > self.most * (1 + SLACK):
            self._thin()

    def pieces(self, group: int) -> list[_T]:
        """Return the sampled rows of a group, in order."""
        self._thin()
        return [piece.rows for piece in self._pieces if piece.group == group]

    def numbers(self) -> NDArray[np.int64]:
        """Return the numbers ``[n]`` of the sampled rows in the stream, from 0, ascending."""
        self._thin()
        return np.concatenate([np.empty(0, dtype=np.int64), *(piece.numbers for piece in self._pieces)])

    def _thin(self) -> None:
        """Reduce the rows in memory to ``most``."""
        if self.held <= self.most:
            return
        keys = np.concatenate([piece.keys for piece in self._pieces])
        self._largest_key = np.partition(keys, self.most - 1)[self.most - 1]
        waiting, self._pieces, self.held = self._pieces[::-1], [], 0
        # Emptying the list while copying holds no row twice.
        while waiting:
            self._hold(waiting.pop())

    def _hold(self, piece: _Piece[_T]) -> None:
        """Hold the rows of a piece whose keys are not above the largest one."""
        indices = np.flatnonzero(piece.keys <= self._largest_key)
        if not len(indices):
            return
        if len(indices) < len(piece.keys):
            rows, keys, numbers = self.pick(piece.group, piece.rows, indices), piece.keys[indices], piece.numbers[indices]
            piece = _Piece(group=piece.group, rows=rows, keys=keys, numbers=numbers)
        self._pieces.append(piece)
        self.held += len(indices)


def sample_files(
    readers: Sequence[Reader], most: int, seed: int, pieces: Callable[[Reader], Iterator[Any]], on_rows: OnRows
) -> Subset[Any]:
    """Return a uniform sample of ``most`` rows of the ``pieces`` of all files; group ``i`` is file ``i``."""
    subset = Subset[Any](most=most, seed=seed, pick=lambda i, piece, indices: readers[i].pick(piece, indices))
    for i, reader in enumerate(readers):
        for piece in pieces(reader):
            subset.add(i, piece, reader.count(piece))
            on_rows(subset.seen)
    return subset
