import math

import numpy as np
import pytest
from scipy.stats import genpareto, goodness_of_fit

from vae_anomaly.calibration.tail import anderson_darling, fit_p_value, most_likely


@pytest.mark.parametrize("shape", [-0.4, -0.1, 0.0, 0.3, 0.8])
def test_the_most_likely_law_is_that_of_a_general_search(shape: float) -> None:
    excess = genpareto(shape, scale=3.0).rvs(400, random_state=1)
    ours = most_likely(np.sort(excess)[None])
    reference = genpareto.fit(excess, floc=0.0)
    likelihood = [genpareto(c, scale=s).logpdf(excess).sum() for c, s in ((ours[0][0], ours[1][0]), (reference[0], reference[2]))]
    assert likelihood[0] >= likelihood[1] - 1e-3
    assert (ours[0][0], ours[1][0]) == (pytest.approx(reference[0], abs=0.02), pytest.approx(reference[2], rel=0.02))


def test_samples_are_fitted_each_by_itself() -> None:
    samples = np.sort(genpareto(0.1, scale=2.0).rvs((5, 80), random_state=2), axis=1)
    together = most_likely(samples)
    for i in range(5):
        alone = most_likely(samples[i : i + 1])
        assert (together[0][i], together[1][i]) == (alone[0][0], alone[1][0])


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.4])
def test_the_statistic_is_that_of_scipy(shape: float) -> None:
    excess = np.sort(genpareto(shape, scale=3.0).rvs(50, random_state=1))
    known = {"c": shape, "loc": 0.0, "scale": 3.0}
    reference = goodness_of_fit(genpareto, excess, known_params=known, statistic="ad", n_mc_samples=9).statistic
    assert anderson_darling(excess[None], np.array([shape]), np.array([3.0]))[0] == pytest.approx(float(reference), rel=1e-5)


def test_true_tails_are_poor_as_often_as_they_should_be() -> None:
    """P-values of 60 samples of the law itself: uniform, so that one in ten is below a tenth."""
    found = [fit_p_value(genpareto(0.1).rvs(100, random_state=i)) for i in range(60)]
    assert 0.01 <= np.mean(np.array(found) < 0.1) <= 0.25
    assert np.mean(found) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 60))


def test_what_is_no_such_tail_is_poor() -> None:
    random = np.random.default_rng(0)
    two_humps = np.concatenate([random.exponential(size=200), 30 + random.normal(size=50)])
    rounded = np.round(random.exponential(size=250))
    assert fit_p_value(two_humps) == pytest.approx(1 / 400)
    assert fit_p_value(rounded) == pytest.approx(1 / 400)
    assert fit_p_value(two_humps) == fit_p_value(two_humps[::-1])
