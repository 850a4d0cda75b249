import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, betabinom

from vae_anomaly.calibration.conformal import MOST_TERMS, RateLaw, conformal_law
from vae_anomaly.messages import percent

QUICK = settings(deadline=None, max_examples=100, derandomize=True)


@QUICK
@given(a=st.floats(0.3, 400), b=st.floats(5, 1e5), confidence=st.floats(0.5, 0.999))
def test_the_limit_is_a_quantile_of_the_beta_law(a: float, b: float, confidence: float) -> None:
    law = RateLaw(a=a, b=b)
    assert law.upper(confidence) == pytest.approx(beta(a, b).ppf(confidence), rel=1e-6)
    assert law.at_most(law.upper(confidence)) == pytest.approx(confidence, rel=1e-6)
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


def test_of_very_many_rows_only_the_rate_is_uncertain() -> None:
    law, rows = RateLaw(a=20.0, b=1981.0), 10**10
    low, high = law.alarms(rows)
    assert high - low > MOST_TERMS
    assert (low / rows, high / rows) == pytest.approx(tuple(beta(20, 1981).ppf([0.025, 0.975])), rel=1e-6)


def test_the_rate_of_a_conformal_threshold_is_beta() -> None:
    assert conformal_law(18_000, 0.001) == RateLaw(a=18.0, b=17_983.0)
    assert math.ceil(1e4 * 100 * conformal_law(18_000, 0.001).upper()) / 1e4 == pytest.approx(0.1417, abs=5e-4)


def test_a_share_as_per_cent() -> None:
    assert [percent(x) for x in (0.01, 0.0123456, 1e-5)] == ["1 %", "1.23 %", "0.001 %"]
