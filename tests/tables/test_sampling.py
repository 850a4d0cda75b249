"""Bottom-k sampling: what is kept, against drawing and sorting all at once, and that every row is as likely as any other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vae_anomaly.tables.sampling import SLACK, Subset

Rows = NDArray[np.int64]


def pick(_: int, rows: Rows, places: Rows) -> Rows:
    return rows[places]


def subset_of(sizes: list[int], most: int, seed: int = 0) -> Subset[Rows]:
    """Rows that are their own numbers, in pieces of these sizes, each a group."""
    subset, first = Subset[Rows](most=most, seed=seed, pick=pick), 0
    for group, size in enumerate(sizes):
        subset.add(group, np.arange(first, first + size), size)
        first += size
    return subset


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12), most=st.integers(1, 60), seed=st.integers(0, 5))
def test_those_that_drew_least_stay_in_order_however_rows_are_cut(sizes: list[int], most: int, seed: int) -> None:
    subset, n = subset_of(sizes, most, seed), sum(sizes)
    drawn = np.random.default_rng(seed).integers(0, 2**64 - 1, size=n, dtype=np.uint64, endpoint=True)
    expected = np.sort(np.argsort(drawn, kind="stable")[:most])
    kept = [subset.pieces(group) for group in range(len(sizes))]
    assert subset.seen == n
    assert subset.numbers().tolist() == expected.tolist()
    assert [int(x) for group in kept for rows in group for x in rows] == expected.tolist()
    ends = np.cumsum(sizes)
    for group, pieces in enumerate(kept):
        assert all(ends[group] - sizes[group] <= x < ends[group] for rows in pieces for x in rows)


def test_no_more_is_held_than_a_quarter_above_what_is_kept() -> None:
    held: list[int] = []

    def counted(_: int, rows: Rows, places: Rows) -> Rows:
        held.append(len(places))
        return rows[places]

    subset = Subset[Rows](most=1000, seed=0, pick=counted)
    for _ in range(100):
        subset.add(0, np.arange(500), 500)
        assert subset.held <= 1000 * (1 + SLACK)
    assert held


def test_every_row_is_as_likely() -> None:
    """1,000 seeds, 30 of 100 rows: what each place is kept, against the binomial's 5 standard deviations; and the pairs of neighbours."""
    kept = np.zeros((1000, 100), dtype=bool)
    for seed in range(1000):
        kept[seed, subset_of([37, 0, 50, 13], 30, seed).numbers()] = True
    assert (kept.sum(1) == 30).all()
    assert np.abs(kept.mean(0) - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 1000)
    together = (kept[:, 1:] & kept[:, :-1]).mean()
    assert together == pytest.approx(30 / 100 * 29 / 99, abs=5 * np.sqrt(0.087 * 0.913 / 99_000))
