"""Which rows come next: permutations of each network's rows, cut into slices, from a generator that is passed in.

Knows rows as an index only. Where it is can be said in little memory, and gone to again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampler:
    """Slices of fresh permutations: row ``[g, b]`` indices, the same number of rows for each network in an epoch."""

    rows: tuple[Tensor, ...]
    batch: int
    generator: torch.Generator

    def epochs(self) -> "Epochs":
        """Return an endless stream of index blocks ``[g, batch]``."""
        return Epochs(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Where ``Epochs`` are: the ``next`` column of an order that begins with ``rest`` int64 ``[g, r]``, what was left before it was drawn.

    ``drawn_at`` is the generator's state (uint8) before the drawing, so that a place takes no memory by the row.
    """

    rest: Tensor
    drawn_at: Tensor
    next: int


class Epochs:
    """Iterator of a sampler: permute every network's rows, cut into slices, again."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.shortest = min(len(r) for r in sampler.rows)
        self.order = self.rest = torch.empty(len(sampler.rows), 0, dtype=torch.int64)
        self.drawn_at = sampler.generator.get_state()
        self.next = 0

    def __next__(self) -> Tensor:
        """Return the next slice; the last, shorter part of an epoch is put before the next permutation."""
        size = min(self.sampler.batch, self.shortest)
        if self.next + size > self.order.shape[1]:
            self._draw(self.order[:, self.next :])
        self.next += size
        return self.order[:, self.next - size : self.next]

    def __iter__(self) -> "Epochs":
        """Return self."""
        return self

    def place(self) -> Place:
        """Return where the next slice begins; there is no place before the first one."""
        return Place(rest=self.rest.clone(), drawn_at=self.drawn_at, next=self.next)

    def go_to(self, place: Place) -> None:
        """Go on from a place; the generator is then where it was after the drawing."""
        self.sampler.generator.set_state(place.drawn_at)
        self._draw(place.rest)
        self.next = place.next

    def _draw(self, rest: Tensor) -> None:
        self.rest, self.drawn_at, self.next = rest, self.sampler.generator.get_state(), 0
        self.order = torch.cat([rest, torch.stack([self._shuffled(r) for r in self.sampler.rows])], dim=1)

    def _shuffled(self, rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=self.sampler.generator)[: self.shortest]]
