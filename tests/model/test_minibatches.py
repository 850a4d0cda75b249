from collections.abc import Sequence
from itertools import islice

import pytest
import torch
from torch import Tensor

from vae_anomaly.model.minibatches import Sampler


def _slices(rows: Sequence[Tensor], batch: int, count: int, seed: int = 0) -> Tensor:
    sampler = Sampler(rows=tuple(rows), batch=batch, generator=torch.Generator().manual_seed(seed))
    return torch.cat(list(islice(sampler.epochs(), count)), dim=1)


@pytest.mark.parametrize("batch", [1, 7, 10, 30])
def test_every_row_is_visited_once_an_epoch(batch: int) -> None:
    rows = [torch.arange(100, 130), torch.arange(200, 230)]
    epochs = 3
    stream = _slices(rows, batch, -(-30 * epochs // batch))
    for g in range(2):
        for e in range(epochs):
            assert sorted(stream[g, 30 * e : 30 * (e + 1)].tolist()) == rows[g].tolist()
    assert stream[0, :30].tolist() != stream[0, 30:60].tolist()


@pytest.mark.parametrize("taken", [1, 3, 4, 5, 9])
def test_epochs_go_on_from_a_place(taken: int) -> None:
    """Ten rows, three at a time: a drawing comes after every third slice or so, with what was left put before it."""
    rows = (torch.arange(10), torch.arange(20, 35))
    first = Sampler(rows=rows, batch=3, generator=torch.Generator().manual_seed(0)).epochs()
    for _ in range(taken):
        next(first)
    place, generator = first.state(), first.sampler.generator.get_state()
    second = Sampler(rows=rows, batch=3, generator=torch.Generator().manual_seed(1)).epochs()
    second.restore(place)
    second.sampler.generator.set_state(generator)
    assert [next(second).tolist() for _ in range(8)] == [next(first).tolist() for _ in range(8)]


def test_a_slice_is_never_larger_than_the_fewest_rows() -> None:
    stream = Sampler(rows=(torch.arange(5), torch.arange(50)), batch=16, generator=torch.Generator().manual_seed(0)).epochs()
    assert next(stream).shape == (2, 5)


def test_of_many_rows_each_epoch_takes_as_many_as_the_network_with_the_fewest_has() -> None:
    stream = _slices([torch.arange(5), torch.arange(50)], 5, 200)
    assert all(sorted(stream[0, i : i + 5].tolist()) == list(range(5)) for i in range(0, 1000, 5))
    assert set(stream[1].tolist()) == set(range(50))  # yet over many epochs it sees all of its own
