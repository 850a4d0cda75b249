"""A uniform random subset of rows that go by once, so many as fit: every row draws a number, and the smallest stay.

Known as bottom-k sampling (Cohen and Kaplan 2007, "Summarizing data using bottom-k sketches"). What a row draws depends on the seed and
on its place alone, not on the pieces that rows come in. Knows no tables: the caller says how rows are picked from a piece.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
# What is held beyond ``most`` before it is thinned out, as a share of it.
SLACK = 0.25
_HIGHEST = np.uint64(2**64 - 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece(Generic[T]):
    """Rows of one group as they came, with what each drew, uint64 ``[n]``, and its number over all groups, int64 ``[n]``."""

    group: int
    rows: T
    drawn: NDArray[np.uint64]
    numbers: NDArray[np.int64]


@dataclass(kw_only=True, eq=False)
class Subset(Generic[T]):
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
    pick: Callable[[int, T, NDArray[np.int64]], T]
    seen: int = 0
    held: int = 0
    _bar: np.uint64 = _HIGHEST
    _pieces: list[_Piece[T]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)

    def add(self, group: int, piece: T, count: int) -> None:
        """Let the next ``count`` rows, a piece of a group, go by."""
        drawn = self._generator.integers(0, _HIGHEST, size=count, dtype=np.uint64, endpoint=True)
        numbers = np.arange(self.seen, self.seen + count)
        self.seen += count
        self._keep(_Piece(group=group, rows=piece, drawn=drawn, numbers=numbers))
        if self.held > self.most * (1 + SLACK):
            self._thin()

    def pieces(self, group: int) -> list[T]:
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

    def _keep(self, piece: _Piece[T]) -> None:
        """Hold the rows of a piece that are not above the bar."""
        places = np.flatnonzero(piece.drawn <= self._bar)
        if not len(places):
            return
        if len(places) < len(piece.drawn):
            rows, drawn, numbers = self.pick(piece.group, piece.rows, places), piece.drawn[places], piece.numbers[places]
            piece = _Piece(group=piece.group, rows=rows, drawn=drawn, numbers=numbers)
        self._pieces.append(piece)
        self.held += len(places)
