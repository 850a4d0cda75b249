"""Minibatches without replacement, the same ones after a resume: random permutations of the rows of every network.

Letters of shapes: g networks, b rows of a minibatch, r rows left over from an epoch. All draws come from the generator passed in.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplerState:
    """Position of ``Epochs``: column ``next`` of the current order, which starts with ``rest`` int64 ``[g, r]``, left over before it.

    ``drawn_at`` is the generator's state (uint8) before the permutations were drawn: they are drawn again instead of being stored.
    """

    rest: Tensor
    drawn_at: Tensor
    next: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampler:
    """Minibatches without replacement: slices ``[g, b]`` of random permutations of each network's rows.

    Networks with more rows than the smallest one use a random subset of that size in each epoch.
    """

    rows: tuple[Tensor, ...]
    batch: int
    generator: torch.Generator

    def epochs(self) -> "Epochs":
        """Return an endless iterator of row indices ``[g, b]``."""
        return Epochs(self)


class Epochs:
    """Endless iterator of a sampler, one permutation of every network's rows after the other; its position can be saved."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.shortest = min(len(r) for r in sampler.rows)
        self.order = self.rest = torch.empty(len(sampler.rows), 0, dtype=torch.int64)
        self.drawn_at = sampler.generator.get_state()
        self.next = 0

    def __next__(self) -> Tensor:
        """Return the next slice; the remainder of an epoch comes before the next permutation."""
        size = min(self.sampler.batch, self.shortest)
        if self.next + size > self.order.shape[1]:
            self._draw(self.order[:, self.next :])
        self.next += size
        return self.order[:, self.next - size : self.next]

    def __iter__(self) -> "Epochs":
        """Return self."""
        return self

    def state(self) -> SamplerState:
        """Return the position of the next slice; call it after the first slice."""
        return SamplerState(rest=self.rest.clone(), drawn_at=self.drawn_at, next=self.next)

    def restore(self, state: SamplerState) -> None:
        """Continue from a position; draws its permutations again, which moves the generator."""
        self.sampler.generator.set_state(state.drawn_at)
        self._draw(state.rest)
        self.next = state.next

    def _draw(self, rest: Tensor) -> None:
        self.rest, self.drawn_at, self.next = rest, self.sampler.generator.get_state(), 0
        self.order = torch.cat([rest, torch.stack([self._shuffled(r) for r in self.sampler.rows])], dim=1)

    def _shuffled(self, rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=self.sampler.generator)[: self.shortest]]
