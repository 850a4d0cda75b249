"""How many threads torch's products run on: how a product is split changes its rounding, and small ones are slower when split."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_threaded_products(*, wanted: bool = True) -> Iterator[None]:
    """Run matrix products on the calling thread only; where that is not ``wanted``, change nothing.

    Threads wait for each other by spinning: on a busy machine, small products on two threads take ten times as long as on one.
    """
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
