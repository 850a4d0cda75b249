import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import beta, betabinom, kstest

from vae_anomaly.calibration.conformal import calibration_rows_needed, conformal_quantile, finest_alpha, quantile_rank
from vae_anomaly.calibration.threshold import AS_FEW, Threshold, calibrate, too_few_alarms
from vae_anomaly.errors import ConfigError, NotCalibrated

QUICK = settings(deadline=None, max_examples=200, derandomize=True)


@st.composite
def _rates(draw: st.DrawFn) -> Fraction:
    """False-alarm rates as people write them: fractions with a short denominator."""
    below = draw(st.integers(2, 2000))
    return Fraction(draw(st.integers(1, below - 1)), below)


# The rank


@QUICK
@given(rows=st.integers(1, 3000), rate=_rates())
def test_the_threshold_is_the_conformal_rank_in_exact_arithmetic(rows: int, rate: Fraction) -> None:
    rank = math.ceil((rows + 1) * (1 - rate))
    assume(rank <= rows)
    assert conformal_quantile(np.arange(1.0, rows + 1.0), float(rate)) == rank


@QUICK
@given(rows=st.integers(1, 3000), rate=_rates())
def test_the_rows_needed_are_those_with_which_one_alarm_is_allowed(rows: int, rate: Fraction) -> None:
    assert (calibration_rows_needed(float(rate)) <= rows) == (math.floor((rows + 1) * rate) >= 1)
    assert quantile_rank(rows, float(rate)) == math.floor((rows + 1) * rate)


@pytest.mark.parametrize(("alpha", "rows"), [(0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99), (0.001, 999), (1e-4, 9_999), (1e-6, 999_999)])
def test_rows_needed_are_exact_at_round_rates(alpha: float, rows: int) -> None:
    assert calibration_rows_needed(alpha) == rows
    assert finest_alpha(rows) == pytest.approx(alpha, rel=1e-12)
    assert calibration_rows_needed(finest_alpha(rows)) == rows


@pytest.mark.parametrize("alpha", [1e-19, 1e-308, 1e-320, 5e-324])
def test_a_rate_that_is_hardly_a_number_needs_more_rows_than_anybody_has(alpha: float) -> None:
    assert calibration_rows_needed(alpha) == 10**18 - 1


# P-values and flags

_scores = st.lists(st.integers(0, 12), min_size=1, max_size=60)  # few values, many ties


@QUICK
@given(calibration=_scores, new=_scores)
def test_a_p_value_counts_the_calibration_scores_that_are_no_lower(calibration: list[int], new: list[int]) -> None:
    threshold = Threshold(method="split", alpha=0.5, value=0.0, calibration=np.sort(np.array(calibration, float)))
    expected = [(1 + sum(c >= s for c in calibration)) / (len(calibration) + 1) for s in new]
    assert threshold.p_values(np.array(new, float)).tolist() == expected


@QUICK
@given(calibration=_scores, new=_scores, rate=_rates())
def test_a_row_is_flagged_where_its_p_value_is_at_most_alpha(calibration: list[int], new: list[int], rate: Fraction) -> None:
    assume((len(calibration) + 1) * rate >= 1)
    threshold = calibrate(np.array(calibration, float), float(rate))
    scores = np.array(new, float)
    allowed = [(1 + sum(c >= s for c in calibration)) <= (len(calibration) + 1) * rate for s in new]
    assert threshold.flags(scores).tolist() == allowed


def test_a_row_without_a_score_has_no_p_value_and_no_flag() -> None:
    threshold = calibrate(np.arange(1.0, 20.0), 0.1)
    scores = np.array([math.nan, 100.0])
    assert np.isnan(threshold.p_values(scores)).tolist() == [True, False]
    assert threshold.flags(scores).tolist() == [False, True]


def test_calibration_sorts_a_copy() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    threshold = calibrate(scores, 0.5)
    assert threshold.calibration.tolist() == [1.0, 2.0, 3.0]
    assert scores.tolist() == [3.0, 1.0, 2.0]
    assert (threshold.value, threshold.alpha, threshold.method) == (2.0, 0.5, "split")


def test_another_rate_gives_another_value_and_leaves_the_first_alone() -> None:
    first = calibrate(np.arange(1.0, 100.0), 0.05)
    second = first.at(0.01)
    assert (first.alpha, first.value) == (0.05, 95.0)
    assert (second.alpha, second.value) == (0.01, 99.0)


def test_a_rate_finer_than_the_rows_allow_is_refused_with_the_finest_that_they_do() -> None:
    with pytest.raises(NotCalibrated) as caught:
        calibrate(np.arange(1.0, 41.0), 0.5).at(0.01)
    assert str(caught.value) == (
        "alpha 0.01 needs at least 99 calibration rows; this model has 40. "
        "Finest alpha possible: 0.0244. Ask for that, or calibrate on more normal rows."
    )


@pytest.mark.parametrize(("alpha", "shown"), [(0.0, "0"), (1.0, "1"), (5.0, "5"), (-0.1, "-0.1"), (math.nan, "nan")])
def test_a_rate_outside_zero_and_one_is_no_rate(alpha: float, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        calibrate(np.arange(1.0, 41.0), 0.5).at(alpha)
    assert str(caught.value) == f"alpha must be in (0, 1); got {shown}."


def test_realised_false_alarms_are_beta_binomial() -> None:
    """A thousand calibrations on 199 rows, each tried on 100 new ones: the counts follow the exact law."""
    random, rows, new, repeats, alpha = np.random.default_rng(0), 199, 100, 1000, 0.05
    scores = random.gamma(2.0, size=(repeats, rows + new))
    alarms = np.array([calibrate(s[:rows], alpha).flags(s[rows:]).sum() for s in scores])
    law = betabinom(new, quantile_rank(rows, alpha), rows + 1 - quantile_rank(rows, alpha))
    assert law.mean() == pytest.approx(new * alpha)
    assert alarms.mean() == pytest.approx(law.mean(), abs=4.0 * law.std() / math.sqrt(repeats))
    measured = np.array([(alarms <= k).mean() for k in range(new)])
    # Dvoretzky-Kiefer-Wolfowitz: beyond this by chance less than once in ten thousand.
    assert np.abs(measured - law.cdf(np.arange(new))).max() < math.sqrt(math.log(2 / 1e-4) / (2 * repeats))


@QUICK
@given(rows=st.integers(1, 100_000))
def test_the_finest_rate_that_a_refusal_names_is_then_accepted(rows: int) -> None:
    threshold = Threshold(method="split", alpha=0.5, value=0.0, calibration=np.arange(float(rows)))
    with pytest.raises(NotCalibrated) as caught:
        threshold.at(1e-9)
    named = float(str(caught.value).split("Finest alpha possible: ")[1].split(". ")[0])
    assert threshold.at(named).value == rows - 1
    assert named <= finest_alpha(rows) * 1.01


def test_fewer_alarms_than_chance_allows_are_told() -> None:
    threshold = calibrate(np.arange(2000.0), 0.01)
    assert too_few_alarms(threshold, 3000, 0) == (
        "0 alarms are fewer than chance allows: 30.0 are expected of 3,000 normal rows. Rows that repeat, a feed that stands still, "
        "rows that vary less than those of the fit, or rows that the fit has seen look like this"
    )
    for rows, alarms in ((0, 0), (100, 0), (300, 0), (3000, 20), (3000, 3000)):
        assert too_few_alarms(threshold, rows, alarms) == ""
    assert too_few_alarms(replace(threshold, value=np.inf), 3000, 0) == ""


def test_of_normal_batches_few_have_fewer_alarms_than_chance_allows() -> None:
    random, told = np.random.default_rng(0), 0
    for _ in range(2000):
        threshold = calibrate(random.normal(size=400), 0.05)
        told += too_few_alarms(threshold, 1000, int((random.normal(size=1000) > threshold.value).sum())) != ""
    assert told / 2000 < 3 * AS_FEW


@pytest.mark.parametrize(("distinct", "times"), [(99, 1), (99, 2), (250, 3), (40, 5)])
def test_the_law_of_a_threshold_counts_copies_once(distinct: int, times: int) -> None:
    """The rate of uniform scores above the threshold, over calibrations that hold every row several times, follows the stated law."""
    random = np.random.default_rng(distinct + times)
    thresholds = [calibrate(np.repeat(random.random(distinct), times), 0.05).with_copies_counted() for _ in range(1500)]
    laws = {(t.law.a, t.law.b) for t in thresholds}
    assert len(laws) == 1
    assert thresholds[0].copies == distinct * (times - 1)
    rates = np.array([1.0 - t.value for t in thresholds])
    assert kstest(rates, beta(*laws.pop()).cdf).pvalue > 0.001
    one = calibrate(random.random(distinct * times), 0.05)
    assert one.law == one.with_copies_counted().law
    assert times == 1 or thresholds[0].limit > one.limit


def test_flags_and_p_values_do_not_depend_on_copies_being_counted() -> None:
    plain = calibrate(np.repeat(np.arange(60.0), 2), 0.05)
    counted, new = plain.with_copies_counted(), np.array([3.0, 58.5, 70.0])
    assert counted.value == plain.value
    assert counted.p_values(new).tolist() == plain.p_values(new).tolist()
    assert counted.at(0.1).copies == 60
