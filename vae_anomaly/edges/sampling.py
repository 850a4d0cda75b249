"""How much a table weighs before it is read, and a random part of its rows where it weighs too much.

Knows neither formats nor what the limit is. Every row is read once, in the order of the files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.core.subset import Subset
from vae_anomaly.edges.files import TableFile
from vae_anomaly.edges.rejects import OnBad

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


class Part(Protocol):
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


def weight(parts: Sequence[Part]) -> Weight:
    """Return what all parts weigh; those that do not say how many rows they have are taken to be as the first one."""
    first = parts[0].weight()
    ratio = first.rows / max(1, parts[0].file.size)
    return Weight(rows=sum(ratio * p.file.size if p.rows is None else p.rows for p in parts), row_bytes=first.row_bytes)


def sampled(parts: Sequence[Part], most: int, seed: int, pieces: Callable[[Part], Iterator[Any]], on_rows: OnRows) -> Subset[Any]:
    """Return ``most`` rows of the pieces of all parts, each as likely as any other; its groups are the parts."""
    subset = Subset[Any](most=most, seed=seed, pick=lambda i, piece, places: parts[i].pick(piece, places))
    for i, part in enumerate(parts):
        for piece in pieces(part):
            subset.add(i, piece, part.count(piece))
            on_rows(subset.seen)
    return subset
