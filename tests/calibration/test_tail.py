import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from vae_anomaly.calibration.tail import LEAST_ROWS, SHAPES, Tail, exceedance, finest_with_tail, fit_tail, log_likelihood, weigh
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.errors import NotCalibrated

ROWS = 2000


@pytest.fixture(scope="module")
def ordered() -> NDArray[np.float64]:
    return np.sort(np.random.default_rng(0).gamma(3.0, size=ROWS))


@pytest.fixture(scope="module")
def tail(ordered: NDArray[np.float64]) -> Tail:
    return fit_tail(ordered)


def threshold(ordered: NDArray[np.float64], tail: Tail, alpha: float) -> Threshold:
    return Threshold(method="gpd", alpha=tail.share, value=0.0, calibration=ordered, tail=tail).at(alpha)


@pytest.mark.parametrize("shape", [-0.5, 0.0, 0.4])
def test_the_law_is_that_of_scipy(shape: float) -> None:
    excess, scale = np.linspace(-1.0, 8.0, 50), np.full(50, 2.0)
    expected = stats.genpareto(shape, scale=2.0).sf(excess)
    assert exceedance(excess, np.full(50, shape), scale).tolist() == pytest.approx(expected.tolist(), abs=1e-7)
    inside = np.array([0.0, 0.3, 1.0, 3.5])
    scales = np.array([1.9, 2.0, 5.0])
    densities = [stats.genpareto(shape, scale=s).logpdf(inside).sum() for s in scales]
    assert log_likelihood(inside, shape, scales).tolist() == pytest.approx(densities, abs=1e-6)


@pytest.mark.parametrize("k", [5, 100])
def test_weights_are_likelihood_times_prior(ordered: NDArray[np.float64], k: int) -> None:
    """Posterior means on the grid against importance sampling from the prior with scipy's densities; with five excesses the prior tells."""
    found = weigh(ordered, [k])
    excess = ordered[-k:] - ordered[-k - 1]
    random, draws = np.random.default_rng(1), 20_000 if k > 5 else 100_000
    shape = random.normal(0.0, 0.5, draws)
    # Uniform in log σ is the prior 1/σ.
    scale = np.exp(random.uniform(np.log(0.05), np.log(8.0), draws)) * excess.max()
    inside = np.abs(shape) <= 1.0
    shape, scale = shape[inside], scale[inside]
    with np.errstate(divide="ignore"):
        log_weight = sum(stats.genpareto.logpdf(y, shape, scale=scale) for y in excess.tolist())
    weight = np.exp(log_weight - np.max(log_weight))
    weight /= weight.sum()
    rate = (k + 1) / (ROWS + 1) * stats.genpareto.sf(excess[-1], shape, scale=scale)
    assert (found.weight * found.rates(float(ordered[-1]))).sum() == pytest.approx((weight * rate).sum(), rel=0.05)
    assert (found.weight * found.shape).sum() == pytest.approx((weight * shape).sum(), abs=0.02)
    assert (found.weight * np.log(found.scale)).sum() == pytest.approx((weight * np.log(scale)).sum(), abs=0.03)
    assert found.weight.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "law", [stats.norm(), stats.expon(), stats.lognorm(1.0), stats.t(4), stats.beta(2, 5)], ids=lambda law: law.dist.name
)
def test_a_tail_says_what_its_law_does(law: "stats.rv_continuous") -> None:
    scores = np.sort(law.rvs(ROWS, random_state=4))
    found = fit_tail(scores)
    for alpha in (0.01, 0.001, 0.00025):
        realised = float(law.sf(threshold(scores, found, alpha).value))
        assert alpha / 6 < realised < alpha * 6
        assert found.law(alpha).at_most(realised) < 0.999


def test_a_tail_moves_and_stretches_with_its_scores(ordered: NDArray[np.float64], tail: Tail) -> None:
    moved = fit_tail(ordered * 7.0 - 3.0)
    np.testing.assert_allclose(moved.curve[1:], tail.curve[1:], rtol=1e-5)
    np.testing.assert_allclose(moved.curve[0], tail.curve[0] * 7.0 - 3.0, rtol=1e-9)


def test_p_values_fall_and_a_flag_is_a_p_value_of_at_most_alpha(ordered: NDArray[np.float64], tail: Tail) -> None:
    scores = np.sort(np.concatenate([np.linspace(0.0, 40.0, 4001), ordered, tail.curve[0]]))
    for alpha in (0.2, tail.share, *np.geomspace(0.03, 0.0001, 40).tolist(), tail.finest):
        at = threshold(ordered, tail, alpha)
        p_values = at.p_values(scores)
        assert (np.diff(p_values) <= 0).all()
        assert at.flags(scores).tolist() == (p_values <= alpha).tolist()
        near = np.array([np.nextafter(at.value, -np.inf), at.value, np.nextafter(at.value, np.inf)])
        assert (at.p_values(near) <= alpha).tolist() == [False, False, True]
        assert at.flags(np.array([np.nextafter(at.value, np.inf), at.value])).tolist() == [True, False]


def test_below_the_tail_p_values_are_ranks(ordered: NDArray[np.float64], tail: Tail) -> None:
    at = threshold(ordered, tail, 0.001)
    scores = ordered[: ROWS - round(0.08 * ROWS)]
    at_least = ROWS - np.searchsorted(ordered, scores, side="left")
    assert at.p_values(scores).tolist() == pytest.approx(((1 + at_least) / (ROWS + 1)).tolist())
    coarse = threshold(ordered, tail, 0.2)
    assert coarse.value == ordered[ROWS - 400]
    assert (coarse.law.a, coarse.law.b) == (400.0, 1601.0)


def test_limits_lie_above_the_rate_and_are_wider_the_finer_it_is(ordered: NDArray[np.float64], tail: Tail) -> None:
    ratios = [threshold(ordered, tail, alpha).limit / alpha for alpha in (0.01, 0.001, 0.0001)]
    assert 1.0 < ratios[0] < ratios[1] < ratios[2]


def test_the_law_of_a_rate_is_as_wide_as_the_posterior(ordered: NDArray[np.float64], tail: Tail) -> None:
    """Its 5 % and 95 % limits are the 2.5 % and 97.5 % limits of the posterior rate, a little wider for the count at the start."""
    posterior, least = weigh(ordered, [40, 80, 160]), 40
    for alpha in (0.01, 0.002, 0.0005):
        rates = posterior.rates(tail.value(alpha))
        order = np.argsort(rates)
        shares = np.cumsum(posterior.weight[order])
        low, high = (float(rates[order][np.searchsorted(shares, share)]) for share in (0.025, 0.975))
        law = tail.law(alpha)
        alone = stats.gamma(1.0 / (1.0 / law.a - 1.0 / least))
        assert alone.ppf(0.95) / alone.ppf(0.05) == pytest.approx(high / max(low, 1e-300), rel=0.05)
        assert high <= law.upper() <= 1.3 * high


def test_rates_much_finer_than_the_rows_are_refused(ordered: NDArray[np.float64], tail: Tail) -> None:
    assert tail.finest == pytest.approx(finest_with_tail(ROWS)) == pytest.approx(0.1 / 2001)
    with pytest.raises(NotCalibrated) as caught:
        threshold(ordered, tail, 1e-5)
    assert str(caught.value) == (
        "alpha 1e-05 is finer than the tail fitted to 2,000 calibration rows can say. Finest alpha possible: 5e-05. "
        "Ask for that, or calibrate on more normal rows."
    )


def test_too_few_rows_have_no_tail() -> None:
    with pytest.raises(NotCalibrated) as caught:
        fit_tail(np.arange(LEAST_ROWS - 1.0))
    assert str(caught.value) == "--method gpd needs at least 500 calibration rows; 499 given. Give more normal rows."


def test_a_poor_fit_is_refused() -> None:
    random = np.random.default_rng(0)
    scores = np.sort(np.concatenate([random.gamma(3.0, size=1960), 60 + random.normal(size=40)]))
    with pytest.raises(NotCalibrated) as caught:
        fit_tail(scores)
    assert str(caught.value) == (
        "no tail fits the 80 highest of 2,000 calibration scores (Anderson-Darling p = 0.0025, at least 0.005 needed). "
        "Look for anomalies among the calibration rows, give more rows, or use --method conformal."
    )


def test_scores_that_tie_have_no_tail() -> None:
    scores = np.sort(np.concatenate([np.zeros(1900), np.full(60, 1.0), np.full(40, 2.0)]))
    with pytest.raises(NotCalibrated) as caught:
        fit_tail(scores)
    assert str(caught.value).startswith("no tail fits the 80 highest of 2,000 calibration scores (2 different ones) (Anderson-Darling p = ")


def test_the_grid_of_shapes_has_the_exponential_law() -> None:
    assert np.abs(SHAPES).min() < 1e-12
