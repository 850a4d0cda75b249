"""Which normal rows stand out: further out than the highest of so many would be."""

import math

import numpy as np

from vae_anomaly.fitting.robust import CHANCE, MOST_COMPARED, evened, looked_at, outer_limit, suspects


def test_the_limit_is_the_quantile_of_the_highest_of_n_exponential_distances() -> None:
    """P(highest of n > r) ≈ n exp(−r) = 1 % at r = ln(n / 0.01), whatever the scale; a score is the square of a distance."""
    n = 2000
    distances = -7.0 * np.log(1.0 - (np.arange(n) + 0.5) / n)
    np.testing.assert_allclose(outer_limit(distances**2), (7.0 * math.log(n / CHANCE)) ** 2, rtol=4e-3)


def test_of_tables_with_exponential_distances_hardly_any_has_a_suspect() -> None:
    random = np.random.default_rng(0)
    found = [len(suspects(random.exponential(size=500) ** 2, np.zeros(500, dtype=np.int64), 0.0)) > 0 for _ in range(400)]
    assert sum(found) <= 16, "1 % is the nominal chance; 16 of 400 allow for the quantiles being estimated"


def test_suspects_are_the_five_highest_above_both_limits_the_highest_first() -> None:
    scores, one = np.linspace(1.0, 2.0, 100), np.zeros(100, dtype=np.int64)
    scores[[3, 50, 97, 12, 60, 7]] = [40.0, 50.0, 30.0, 60.0, 45.0, 35.0]
    scores[20] = np.nan
    assert suspects(scores, one, 0.0).tolist() == [12, 50, 60, 3, 7]
    assert suspects(scores, one, 45.0).tolist() == [12, 50]
    assert suspects(np.linspace(1.0, 2.0, 100), one, 0.0).tolist() == []


def test_few_rows_or_none_have_no_suspects() -> None:
    assert suspects(np.array([1.0, 1.0, 900.0]), np.zeros(3, dtype=np.int64), 0.0).tolist() == []
    assert suspects(np.full(50, np.nan), np.zeros(50, dtype=np.int64), 0.0).tolist() == []


def test_rows_are_looked_at_evenly_and_not_too_many() -> None:
    assert looked_at(5).tolist() == [0, 1, 2, 3, 4]
    rows = looked_at(3 * MOST_COMPARED - 1)
    assert len(rows) == MOST_COMPARED
    assert set(np.diff(rows).tolist()) == {3}


def test_a_fold_that_is_scored_higher_as_a_whole_has_no_suspects_for_that() -> None:
    scores, fold = np.linspace(1.0, 2.0, 100), np.arange(100) % 20
    scores[fold == 3] *= 20.0
    np.testing.assert_allclose(evened(scores, fold)[[3, 23]], scores[[3, 23]] / np.median(scores[3::20]))
    assert suspects(scores, fold, 0.0).tolist() == []
    assert len(suspects(scores, np.zeros(100, dtype=np.int64), 0.0)) == 5, "the control: without folds they stand out"
    scores[[10, 11]] = [30.0, np.nan]
    assert suspects(scores, fold, 0.0).tolist() == [10]
    assert suspects(scores, fold, 30.0).tolist() == []
