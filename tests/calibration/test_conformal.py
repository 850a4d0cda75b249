import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, betabinom

from vae_anomaly.calibration.conformal import (
    MOST_TERMS,
    RateLaw,
    calibration_rows_needed,
    conformal_law,
    conformal_quantile,
    finest_alpha,
    quantile_rank,
    rounded_up,
)

QUICK = settings(deadline=None, max_examples=100, derandomize=True)


@QUICK
@given(a=st.floats(0.3, 400), b=st.floats(5, 1e5), confidence=st.floats(0.5, 0.999))
def test_the_limit_is_a_quantile_of_the_beta_law(a: float, b: float, confidence: float) -> None:
    law = RateLaw(a=a, b=b)
    assert law.upper(confidence) == pytest.approx(beta(a, b).ppf(confidence), rel=1e-6)
    assert beta(a, b).cdf(law.upper(confidence)) == pytest.approx(confidence, rel=1e-6)
    assert law.mean == pytest.approx(beta(a, b).mean())


@QUICK
@given(a=st.integers(1, 300), rest=st.integers(1, 30_000), rows=st.integers(1, 20_000), share=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_alarms_are_the_central_interval_of_the_beta_binomial(a: int, rest: int, rows: int, share: float) -> None:
    law = betabinom(rows, a, rest)
    low, high = RateLaw(a=a, b=rest).alarms(rows, share)
    tail = (1 - share) / 2
    assert law.cdf(high) - (law.cdf(low - 1) if low else 0.0) >= share - 1e-6
    # One alarm fewer on either side would leave out more than its tail.
    assert low == 0 or law.cdf(low) > tail - 1e-6
    assert law.cdf(high - 1) < 1 - tail + 1e-6


def test_no_rows_have_no_alarms() -> None:
    assert RateLaw(a=1.0, b=99.0).alarms(0) == (0, 0)


@QUICK
@given(a=st.integers(1, 300), rest=st.integers(1, 30_000), rows=st.integers(1, 20_000), share=st.floats(0.0, 1.0))
def test_few_alarms_are_the_lower_tail_of_the_beta_binomial(a: int, rest: int, rows: int, share: float) -> None:
    alarms = int(share * rows)
    assert RateLaw(a=a, b=rest).as_few(rows, alarms) == pytest.approx(betabinom(rows, a, rest).cdf(alarms), rel=1e-5, abs=1e-9)


def test_few_of_very_many_alarms_are_few_by_their_rate() -> None:
    assert RateLaw(a=20.0, b=1981.0).as_few(10**10, 10**8) == pytest.approx(beta(20, 1981).cdf(0.01), rel=1e-6)


def test_of_very_many_rows_only_the_rate_is_uncertain() -> None:
    law, rows = RateLaw(a=20.0, b=1981.0), 10**10
    low, high = law.alarms(rows)
    assert high - low > MOST_TERMS
    assert (low / rows, high / rows) == pytest.approx(tuple(beta(20, 1981).ppf([0.025, 0.975])), rel=1e-6)


def test_the_rate_of_a_conformal_threshold_is_beta() -> None:
    assert conformal_law(18_000, 0.001) == RateLaw(a=18.0, b=17_983.0)
    assert math.ceil(1e4 * 100 * conformal_law(18_000, 0.001).upper()) / 1e4 == pytest.approx(0.1417, abs=5e-4)


@QUICK
@given(a=st.floats(0.3, 400), b=st.floats(5, 1e5), share=st.floats(0.01, 0.999))
def test_the_central_interval_has_equal_tails(a: float, b: float, share: float) -> None:
    low, high = RateLaw(a=a, b=b).central(share)
    assert (beta(a, b).cdf(low), beta(a, b).sf(high)) == pytest.approx(((1 - share) / 2, (1 - share) / 2), rel=1e-5)


def test_the_central_interval_contains_the_rates_of_simulated_calibrations() -> None:
    n, rank = 199, 10
    low, high = conformal_law(n, 0.05).central(0.99)
    rates = 1.0 - np.sort(np.random.default_rng(0).random((4000, n)), axis=1)[:, n - rank]
    assert 0.985 < np.mean((rates >= low) & (rates <= high)) < 0.995
    assert betabinom(10**6, rank, n + 1 - rank).cdf(low * 10**6) == pytest.approx(0.005, rel=0.01)


@QUICK
@given(n=st.integers(1, 3000), denominator=st.integers(2, 3000), numerator=st.integers(1, 2999))
def test_ranks_are_those_of_exact_fractions(n: int, denominator: int, numerator: int) -> None:
    alpha = Fraction(numerator % denominator or 1, denominator)
    assert quantile_rank(n, float(alpha)) == math.floor((n + 1) * alpha)
    assert calibration_rows_needed(float(alpha)) == math.ceil(1 / alpha) - 1
    if (n + 1) * alpha >= 1:
        assert conformal_quantile(np.arange(1.0, n + 1), float(alpha)) == math.ceil((n + 1) * (1 - alpha))


@QUICK
@given(n=st.integers(1, 10**6))
def test_the_finest_rate_as_text_is_possible_and_hardly_larger(n: int) -> None:
    text = rounded_up(finest_alpha(n))
    assert calibration_rows_needed(float(text)) <= n
    assert finest_alpha(n) <= float(text) * (1 + 1e-9) <= 1.01 * finest_alpha(n)
    assert len(text.replace(".", "").lstrip("0").split("e")[0]) <= 3


def test_a_rate_that_falls_on_a_rank_has_that_rank() -> None:
    """In floating point 100 · 0.29 is less than 29 and 1 / (1 / 49) more than 49."""
    assert all(quantile_rank(n - 1, j / n) == j for n in range(2, 200) for j in range(1, n))
    assert all(calibration_rows_needed(1 / n) == n - 1 for n in range(2, 200))
    assert all(float(rounded_up(rate)) == rate for rate in (float(f"{j}e-{e}") for j in range(100, 1000) for e in (3, 4, 5, 6)))
