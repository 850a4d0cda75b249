"""Thresholds of time series, against independent calculations."""

import numpy as np
import pytest
from scipy import stats

from vae_anomaly.calibration.blocks import autocorrelation_time, block_rates, block_threshold, effective_rows
from vae_anomaly.calibration.guarantee import guarantee_of, guarantee_statement
from vae_anomaly.calibration.threshold import calibrate_blocks, too_few_alarms
from vae_anomaly.errors import NotCalibrated


def scores(rows: int = 1000, blocks: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    block = np.arange(rows) * blocks // rows
    return random.gamma(4.0, size=rows) * np.exp(random.normal(scale=0.2, size=blocks))[block], block


def test_the_threshold_is_the_upper_prediction_limit_of_the_log_quantiles() -> None:
    values, block = scores()
    logs = [np.log(np.quantile(values[block == b], 0.98)) for b in range(5)]
    # statsmodels' and scipy's interval of one more observation: mean ± t · sd · √(1 + 1/n), here one-sided at 95 %.
    expected = np.mean(logs) + stats.t.ppf(0.95, 4) * np.std(logs, ddof=1) * np.sqrt(1 + 1 / 5)
    assert block_threshold(values, block, 0.02) == pytest.approx(np.exp(expected), rel=1e-12)


def test_blocks_that_differ_more_have_a_higher_threshold() -> None:
    values, block = scores()
    apart = values * np.array([1.0, 3.0, 1.0, 0.4, 1.0])[block]
    assert block_threshold(apart, block, 0.01) > 2 * block_threshold(values, block, 0.01)


def test_the_next_block_exceeds_the_limit_in_one_of_twenty_cases() -> None:
    """The coverage of the limit, where log quantiles are normal over blocks: 5 % of next blocks have a higher quantile."""
    random, above, trials = np.random.default_rng(3), 0, 400
    for _ in range(trials):
        level = np.exp(random.normal(scale=0.5, size=6))
        rows = np.abs(random.normal(size=(6, 400))) * level[:, None]
        limit = block_threshold(rows[:5].ravel(), np.repeat(np.arange(5), 400), 0.05)
        above += np.quantile(rows[5], 0.95) > limit
    assert stats.binomtest(int(above), trials, 0.05).pvalue > 0.01


def test_the_rates_of_the_blocks_are_those_above_the_pooled_quantile() -> None:
    values, block = scores()
    found = block_rates(values, block, 0.02, effective_rows=40.0)
    pooled = np.quantile(values, 0.98)
    own = [(values[block == b] > pooled).mean() for b in range(5)]
    assert (found.lowest, found.highest) == (min(own), max(own))
    assert (found.blocks, found.rows, found.effective_rows) == (5, 1000, 40.0)
    assert found.low <= (values > block_threshold(values, block, 0.02)).mean() <= found.high
    medians = [np.median(values[block == b]) for b in (0, 4)]
    assert found.drift == pytest.approx(np.log(medians[1] / medians[0]))


def test_the_autocorrelation_time_of_an_ar1_series_is_known() -> None:
    random = np.random.default_rng(0)
    for share in (0.0, 0.5, 0.9):
        values, level = np.empty(200_000), 0.0
        noise = random.normal(size=len(values))
        for i, shock in enumerate(noise.tolist()):
            level = share * level + shock
            values[i] = level
        assert autocorrelation_time(values) == pytest.approx((1 + share) / (1 - share), rel=0.1)
    assert autocorrelation_time(np.ones(10)) == autocorrelation_time(np.zeros(0)) == 1.0
    assert effective_rows([np.ones(10), np.ones(5)]) == 15.0


def test_a_threshold_of_blocks_answers_for_another_alpha_and_says_that_it_is_an_estimate() -> None:
    values, block = scores()
    shuffled = np.random.default_rng(1).permutation(len(values))
    threshold = calibrate_blocks(values[shuffled], block[shuffled], 0.02, effective_rows=30.0)
    assert threshold.value == pytest.approx(block_threshold(values, block, 0.02))
    assert threshold.at(0.05).value == pytest.approx(block_threshold(values, block, 0.05))
    assert (np.diff(threshold.calibration) >= 0).all()
    assert threshold.p_values(np.array([np.inf]))[0] == pytest.approx(1 / 1001)
    with pytest.raises(NotCalibrated, match="alpha 1e-05 needs at least"):
        threshold.at(1e-5)
    with pytest.raises(NotCalibrated, match="--fdr needs exact p-values, and those of rows in time are estimates"):
        threshold.refuse_unless_exact("--fdr")
    assert too_few_alarms(threshold, 100_000, 0) == ""
    promise = guarantee_of(threshold)
    assert (promise.exact, promise.limit, promise.low) == (False, None, None)
    assert "estimated from 5 blocks of 1,000 rows" in promise.words


def test_the_statement_names_the_blocks_the_rows_they_are_worth_and_the_range() -> None:
    values, block = scores()
    threshold = calibrate_blocks(values, block, 0.01, effective_rows=41.7)
    rates = threshold.rates
    assert rates is not None
    assert guarantee_statement(threshold) == (
        "alpha 0.01 is set from 5 contiguous blocks of your training time. Its rows resemble their neighbours: 1,000 rows are worth about "
        "42 independent ones, fewer than the 100 of which one would be a false alarm. Inside that time the blocks' own rates were "
        f"{100 * rates.lowest:.3g} % to {100 * rates.highest:.3g} %. In the next stretch of the same kind expect between "
        f"{100 * rates.low:.3g} % and {100 * rates.high:.3g} %; if the process drifts beyond what these blocks show, more. "
        "This is an estimate, not a guarantee"
    )
    plenty = guarantee_statement(calibrate_blocks(values, block, 0.01, effective_rows=400.0))
    assert "400 independent ones. Inside" in plenty


def test_events_begin_above_the_highest_quantile_of_a_block() -> None:
    values, block = scores()
    threshold = calibrate_blocks(values, block, 0.02, effective_rows=30.0)
    highest = max(np.quantile(values[block == b], 0.98) for b in range(5))
    assert threshold.event_value == pytest.approx(min(highest, threshold.value))
    even = calibrate_blocks(np.tile(np.linspace(1, 2, 200), 5), np.repeat(np.arange(5), 200), 0.02, effective_rows=30.0)
    assert even.event_value == even.value
