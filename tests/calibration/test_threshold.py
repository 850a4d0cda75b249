import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import betabinom

from vae_anomaly.calibration.conformal import alarms_in, calibration_rows_needed, conformal_value, finest_alpha
from vae_anomaly.calibration.threshold import FEW_FOLDS, Threshold, calibrate
from vae_anomaly.config import CalibrationConfig, CalibrationMethod
from vae_anomaly.errors import ConfigError, NotCalibrated, TooFewRows
from vae_anomaly.fitting.splits import GAP_SHARE, MANY_FOLDS, SPLIT_FROM_ROWS, RowSplit, split_rows

QUICK = settings(deadline=None, max_examples=200, derandomize=True)


def _config(*, alpha: float = 0.01, method: CalibrationMethod = "auto", share: float = 0.2, max_rows: int = 20_000) -> CalibrationConfig:
    return CalibrationConfig(alpha=alpha, method=method, share=share, max_rows=max_rows)


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
    assert conformal_value(np.arange(1.0, rows + 1.0), float(rate)) == rank


@QUICK
@given(rows=st.integers(1, 3000), rate=_rates())
def test_the_rows_needed_are_those_with_which_one_alarm_is_allowed(rows: int, rate: Fraction) -> None:
    assert (calibration_rows_needed(float(rate)) <= rows) == (math.floor((rows + 1) * rate) >= 1)
    assert alarms_in(rows, float(rate)) == math.floor((rows + 1) * rate)


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
    law = betabinom(new, alarms_in(rows, alpha), rows + 1 - alarms_in(rows, alpha))
    assert law.mean() == pytest.approx(new * alpha)
    assert alarms.mean() == pytest.approx(law.mean(), abs=4.0 * law.std() / math.sqrt(repeats))
    measured = np.array([(alarms <= k).mean() for k in range(new)])
    # Dvoretzky-Kiefer-Wolfowitz: beyond this by chance less than once in ten thousand.
    assert np.abs(measured - law.cdf(np.arange(new))).max() < math.sqrt(math.log(2 / 1e-4) / (2 * repeats))


# Which rows are for what


def _counts(plan: RowSplit) -> list[int]:
    return [int((plan.fold == k).sum()) for k in range(plan.folds)]


def test_from_2000_rows_a_fifth_calibrates_and_ten_folds_learn() -> None:
    plan = split_rows(_config(), SPLIT_FROM_ROWS, seed=0)
    assert (plan.method, plan.folds) == ("split", MANY_FOLDS)
    assert (len(plan.calibration), len(plan.training)) == (400, 1600)
    assert _counts(plan) == [160] * 10
    assert sorted([*plan.calibration, *plan.training]) == list(range(2000))


def test_below_2000_rows_every_row_calibrates_by_cross_fitting() -> None:
    plan = split_rows(_config(), SPLIT_FROM_ROWS - 1, seed=0)
    assert (plan.method, plan.folds) == ("cross", FEW_FOLDS)
    assert plan.calibration.tolist() == plan.training.tolist() == list(range(1999))
    assert max(_counts(plan)) - min(_counts(plan)) <= 1


@pytest.mark.parametrize(("rows", "folds"), [(499, 10), (500, 5), (99, 10)])
def test_few_rows_are_cut_into_ten_folds_and_500_into_five(rows: int, folds: int) -> None:
    assert split_rows(_config(), rows, seed=0).folds == folds


def test_calibration_takes_at_most_its_largest_number_of_rows() -> None:
    plan = split_rows(_config(alpha=0.05, method="split", max_rows=300), 5000, seed=0)
    assert len(plan.calibration) == 300


def test_calibration_takes_at_least_what_alpha_needs() -> None:
    plan = split_rows(_config(alpha=0.001), 3000, seed=0)
    assert len(plan.calibration) == 999


def test_rows_are_dealt_out_by_the_seed() -> None:
    first, again, other = (split_rows(_config(), 2500, seed=s).fold for s in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


REFUSED = [
    pytest.param(
        *(40, 0.01, "auto"),
        "alpha 0.01 needs at least 99 calibration rows; 40 given. "
        "Finest alpha possible with these rows: 0.0244. Use --alpha 0.0244 or more rows.",
        id="cross",
    ),
    pytest.param(
        *(100, 0.01, "split"),
        "alpha 0.01 needs at least 99 calibration rows; 50 given (half of the 100 rows at most). "
        "Finest alpha possible with these rows: 0.0197. Use --alpha 0.0197 or more rows.",
        id="split",
    ),
    pytest.param(
        *(5000, 1e-4, "auto"),
        "alpha 0.0001 needs at least 9,999 calibration rows; 2,500 given (half of the 5,000 rows at most). "
        "Finest alpha possible with these rows: 0.0004. Use --alpha 0.0004 or more rows.",
        id="auto-is-split",
    ),
]


@pytest.mark.parametrize(("rows", "alpha", "method", "text"), REFUSED)
def test_too_few_rows_are_refused_with_what_is_possible(rows: int, alpha: float, method: CalibrationMethod, text: str) -> None:
    with pytest.raises(TooFewRows) as caught:
        split_rows(_config(alpha=alpha, method=method), rows, seed=0)
    assert str(caught.value) == text


@QUICK
@given(rows=st.integers(2, 30_000), method=st.sampled_from(["split", "cross"]))
def test_the_rate_that_a_refusal_names_is_then_accepted(rows: int, method: CalibrationMethod) -> None:
    try:
        split_rows(_config(alpha=1e-9, method=method), rows, seed=0)
    except TooFewRows as refusal:
        named = float(str(refusal).split("Use --alpha ")[1].split()[0])
    assert len(split_rows(_config(alpha=named, method=method), rows, seed=0).calibration) >= calibration_rows_needed(named)


@QUICK
@given(rows=st.integers(1, 100_000))
def test_the_finest_rate_that_a_refusal_names_is_then_accepted(rows: int) -> None:
    threshold = Threshold(method="split", alpha=0.5, value=0.0, calibration=np.arange(float(rows)))
    with pytest.raises(NotCalibrated) as caught:
        threshold.at(1e-9)
    named = float(str(caught.value).split("Finest alpha possible: ")[1].split(". ")[0])
    assert threshold.at(named).value == rows - 1
    assert named <= finest_alpha(rows) * 1.01


# Time


def _check_blocks(plan: RowSplit, time: NDArray[np.int64], group: NDArray[np.int64]) -> None:
    """Every group learns first, then leaves a gap, then calibrates."""
    for name in np.unique(group):
        rows = np.flatnonzero(group == name)
        fold = plan.fold[rows[np.argsort(time[rows])]]
        held, gap = int((fold == -1).sum()), int((fold == -2).sum())
        assert (fold[len(fold) - held :] == -1).all()
        assert (fold[len(fold) - held - gap : len(fold) - held] == -2).all()
        assert gap == math.ceil(GAP_SHARE * len(rows))
        assert held == pytest.approx(0.2 * len(rows), abs=1)


def test_with_time_the_last_block_of_each_group_calibrates_after_a_gap() -> None:
    random = np.random.default_rng(0)
    time, group = random.permutation(3000), random.choice(np.array([7, 8, 9]), p=[0.6, 0.3, 0.1], size=3000)
    _check_blocks(split_rows(_config(), 3000, seed=0, time=time, group=group), time, group)
    _check_blocks(split_rows(_config(), 3000, seed=0, time=time), time, np.zeros(3000, np.int64))


def test_the_gap_is_used_for_nothing() -> None:
    plan = split_rows(_config(), 3000, seed=0, time=np.arange(3000))
    left_out = np.flatnonzero(plan.fold == -2)
    assert len(left_out) == 30
    assert not set(left_out) & ({*plan.training} | {*plan.calibration})
