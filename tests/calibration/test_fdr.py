import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from vae_anomaly.calibration.conformal import CONDITIONAL_DELTA, conditional_p_values, marginal_p_values
from vae_anomaly.calibration.fdr import benjamini_hochberg_cutoff, rank_counts
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.errors import NotCalibrated

QUICK = settings(deadline=None, max_examples=200, derandomize=True)


@QUICK
@given(
    ranks=st.lists(st.integers(1, 41), min_size=1, max_size=60), low=st.integers(0, 20), rate=st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.9])
)
def test_the_cutoff_rejects_what_scipy_rejects(ranks: list[int], low: int, rate: float) -> None:
    n = 40
    p_values = np.array([*ranks, *[1] * low]) / (n + 1)
    found = benjamini_hochberg_cutoff(rank_counts(p_values, n), marginal_p_values(n), rate)
    rejected = false_discovery_control(p_values) <= rate * (1 + 1e-12)
    assert (p_values <= found if found is not None else np.zeros(len(p_values), bool)).tolist() == rejected.tolist()


def test_a_row_without_a_score_is_no_row() -> None:
    assert rank_counts(np.array([0.25, np.nan, 1.0, 0.25]), 3).tolist() == [2, 0, 0, 1]


@QUICK
@given(scores=st.lists(st.integers(0, 30), min_size=5, max_size=40), new=st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_flags_at_the_cutoff_are_its_p_values(scores: list[int], new: list[int]) -> None:
    threshold, tried = calibrate(np.array(scores, float), 0.5), np.array(new, float)
    p_values = threshold.p_values(tried)
    found = benjamini_hochberg_cutoff(rank_counts(p_values, len(scores)), marginal_p_values(len(scores)), 0.4)
    if found is not None:
        assert threshold.at(found).flags(tried).tolist() == (p_values <= found).tolist()


def test_conditional_p_values_follow_the_published_formula() -> None:
    n, delta, k = 7, 0.1, 4
    expected = []
    for i in range(n, 0, -1):
        top = math.prod(i - j for j in range(k))  # 0 for i < k
        expected.append(1 - delta ** (1 / k) * (top / math.prod(n - j for j in range(k))) ** (1 / k))
    assert conditional_p_values(n, delta).tolist() == pytest.approx([*expected, 1.0])


@pytest.mark.parametrize("n", [20, 500])
def test_conditional_p_values_hold_for_nine_in_ten_calibrations(n: int) -> None:
    """P(U_(i) ≤ b_i for all i) ≥ 1 - delta: the rate of a p-value of at most b_i is the i-th smallest of n uniforms."""
    random, repeats = np.random.default_rng(0), 4000
    ordered = np.sort(random.random((repeats, n)), axis=1)
    holds = float((ordered <= conditional_p_values(n)[:n]).all(1).mean())
    assert holds >= 1 - CONDITIONAL_DELTA - 4 * np.sqrt(0.09 / repeats)


def test_conditional_p_values_are_larger_and_in_order() -> None:
    table = conditional_p_values(1000)
    assert (np.diff(table) >= 0).all()
    assert (table >= marginal_p_values(1000) - 1e-12).all()
    assert (table[0], table[-1]) == (pytest.approx(1 - 0.1 ** (1 / 500)), 1.0)


def test_a_conditional_threshold_flags_its_own_p_values() -> None:
    scores, tried = np.arange(500.0), np.linspace(0, 600, 1201)
    threshold = calibrate(scores, 0.05).conditional().at(0.05)
    assert threshold.flags(tried).tolist() == (threshold.p_values(tried) <= 0.05).tolist()
    assert threshold.value > calibrate(scores, 0.05).value
    # The law of the rate is that of the rank it stands at.
    rank = int((conditional_p_values(500) <= 0.05).sum())
    assert (threshold.law.a, threshold.law.b) == (rank, 501 - rank)


def test_conditional_p_values_are_refused_where_they_are_too_coarse() -> None:
    with pytest.raises(NotCalibrated) as caught:
        calibrate(np.arange(500.0), 0.01).conditional().at(0.005)
    assert str(caught.value) == (
        "alpha 0.005 is finer than conditional p-values of 500 calibration rows can be. Finest alpha possible: 0.00917. "
        "Ask for that, calibrate on more normal rows, or use --p-values marginal."
    )


def test_conditional_p_values_need_an_exact_calibration() -> None:
    with pytest.raises(NotCalibrated) as caught:
        calibrate(np.arange(500.0), 0.05, "cross").conditional()
    assert str(caught.value) == (
        "--p-values conditional needs the p-values of one exact split calibration; this model has cross-fitted ones, which are "
        "approximate. Calibrate it on normal rows that it has not seen: vae-anomaly calibrate DATA."
    )
