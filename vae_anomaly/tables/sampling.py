"""How much a table weighs before it is read, and a random part of its rows where it weighs too much.

Knows neither formats nor what the limit is. Every row is read once, in the order of the files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.tables.csv_rejects import OnBad
from vae_anomaly.tables.files import TableFile

# Rows of text can be so many times shorter further down than at the beginning.
DOUBT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """``rows`` at most, infinite where they cannot be estimated, and the bytes of one as it is read."""

    rows: float
    row_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Rows drawn from ``seen`` ones, with their ``numbers`` int64 ``[n]`` among them, from 0."""

    table: pa.Table
    numbers: NDArray[np.int64]
    seen: int


# Told how many rows have gone by.
OnRows = Callable[[int], None]


def ignore_rows(_: int) -> None:
    """Take no notice of rows that go by."""


class Reader(Protocol):
    """One opened file, which is read in pieces: record batches or lists of records."""

    @property
    def file(self) -> TableFile:
        """Where it lies."""

    @property
    def rows(self) -> int | None:
        """How many rows it has; None if only reading tells."""

    def weight(self) -> Weight:
        """Return what it weighs, as far as its beginning tells."""

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[Any]:
        """Yield all rows."""

    def pick(self, piece: Any, places: NDArray[np.int64]) -> Any:
        """Return the rows of a piece at these places."""

    def count(self, piece: Any) -> int:
        """Return the rows of a piece."""


def weight(parts: Sequence[Reader]) -> Weight:
    """Return what all parts weigh; those that do not say how many rows they have are taken to be as the first one."""
    first = parts[0].weight()
    ratio = first.rows / max(1, parts[0].file.size)
    return Weight(rows=sum(ratio * p.file.size if p.rows is None else p.rows for p in parts), row_bytes=first.row_bytes)


_HIGHEST = np.uint64(2**64 - 1)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece(Generic[_T]):
    """Rows of one group as they came, with what each drew, uint64 ``[n]``, and its number over all groups, int64 ``[n]``."""

    group: int
    rows: _T
    drawn: NDArray[np.uint64]
    numbers: NDArray[np.int64]


@dataclass(kw_only=True, eq=False)
class Subset(Generic[_T]):
    """Keeps ``most`` of the rows that are added, in their order, each as likely as any other; all of them where they are no more.

    ``pick`` returns the rows of a piece of a group at places int64 ``[n]``. ``seen`` rows have gone by, ``held`` of them are held: at
    most a quarter more than are kept.

    >>> subset = Subset(most=2, seed=0, pick=lambda group, rows, places: [rows[i] for i in places])
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
    _bar: np.uint64 = _HIGHEST
    _pieces: list[_Piece[_T]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)

    def add(self, group: int, piece: _T, count: int) -> None:
        """Let the next ``count`` rows, a piece of a group, go by."""
        drawn = self._generator.integers(0, _HIGHEST, size=count, dtype=np.uint64, endpoint=True)
        numbers = np.arange(self.seen, self.seen + count)
        self.seen += count
        self._keep(_Piece(group=group, rows=piece, drawn=drawn, numbers=numbers))
        if self.held > self.most * (1 + SLACK):
            self._thin()

    def pieces(self, group: int) -> list[_T]:
        """Return what is kept of a group, in order."""
        self._thin()
        return [piece.rows for piece in self._pieces if piece.group == group]

    def numbers(self) -> NDArray[np.int64]:
        """Return the numbers ``[n]`` of the rows that are kept, from 0 over all that were added, ascending."""
        self._thin()
        return np.concatenate([np.empty(0, dtype=np.int64), *(piece.numbers for piece in self._pieces)])

    def _thin(self) -> None:
        """Keep ``most`` rows of what is held."""
        if self.held <= self.most:
            return
        drawn = np.concatenate([piece.drawn for piece in self._pieces])
        self._bar = np.partition(drawn, self.most - 1)[self.most - 1]
        held, self._pieces, self.held = self._pieces, [], 0
        # The list is given up as it goes, so that no row is held twice.
        held.reverse()
        while held:
            self._keep(held.pop())

    def _keep(self, piece: _Piece[_T]) -> None:
        """Hold the rows of a piece that are not above the bar."""
        places = np.flatnonzero(piece.drawn <= self._bar)
        if not len(places):
            return
        if len(places) < len(piece.drawn):
            rows, drawn, numbers = self.pick(piece.group, piece.rows, places), piece.drawn[places], piece.numbers[places]
            piece = _Piece(group=piece.group, rows=rows, drawn=drawn, numbers=numbers)
        self._pieces.append(piece)
        self.held += len(places)


def sample_files(parts: Sequence[Reader], most: int, seed: int, pieces: Callable[[Reader], Iterator[Any]], on_rows: OnRows) -> Subset[Any]:
    """Return ``most`` rows of the pieces of all parts, each as likely as any other; its groups are the parts."""
    subset = Subset[Any](most=most, seed=seed, pick=lambda i, piece, places: parts[i].pick(piece, places))
    for i, part in enumerate(parts):
        for piece in pieces(part):
            subset.add(i, piece, part.count(piece))
            on_rows(subset.seen)
    return subset


# What is held beyond ``most`` before it is thinned out, as a share of it.
SLACK = 0.25
