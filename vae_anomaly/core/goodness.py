"""How well a generalised Pareto law fits excesses: Anderson-Darling by parametric bootstrap.

Knows excesses only. Critical values depend on the shape when it is estimated (Choulakian & Stephens 2001), so the statistic is held against
that of samples of the fitted law, each fitted again (Stute, Manteiga & Quindimil 1993). The samples come from a fixed seed.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SAMPLES = 399
# The profile likelihood is searched in log(1 + θ·largest), θ = ξ/σ, first coarsely and then between the neighbours of the best.
SEARCHED = np.linspace(-14.0, 18.0, 80)
# Below −1 the likelihood has no maximum (Smith 1985); above 1 the law has no mean, and scores that tie look like that.
LEAST_SHAPE = -1.0
LARGEST_SHAPE = 1.0
BLOCK = 64
# Shapes nearer to 0 than this are the exponential law to the last digit that matters.
NO_BEND = 1e-7


def fit_p_value(excess: Floats) -> float:
    """Return the share of samples of the fitted law that fit no better than ``excess`` ``[k]``, from 1/400 on; small = poor."""
    ordered = np.sort(excess)[None]
    shape, scale = most_likely(ordered)
    seen = anderson_darling(ordered, shape, scale)[0]
    uniform = np.random.default_rng(5).random((SAMPLES, ordered.shape[1]))
    drawn = np.sort(_quantiles(uniform, shape[0], scale[0]), axis=1)
    worse = sum(int((anderson_darling(part, *most_likely(part)) >= seen).sum()) for part in np.split(drawn, range(BLOCK, SAMPLES, BLOCK)))
    return (1 + worse) / (SAMPLES + 1)


def most_likely(excess: Floats) -> tuple[Floats, Floats]:
    """Return the maximum-likelihood ξ and σ ``[s]`` of samples ``[s, k]``, −1 ≤ ξ ≤ 1, by the profile in θ = ξ/σ (Grimshaw 1993)."""
    largest = np.maximum(excess.max(1, keepdims=True), 1e-300)
    unit = excess / largest
    searched = np.tile(SEARCHED, (len(unit), 1))
    for _ in range(3):
        likelihood = np.stack([_profile(unit, at) for at in searched.T], axis=1)
        best = likelihood.argmax(1)
        row = np.arange(len(unit))
        low = searched[row, np.maximum(best - 1, 0)]
        high = searched[row, np.minimum(best + 1, searched.shape[1] - 1)]
        found = searched[row, best]
        searched = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, 17)
    theta = _theta(found)
    shape = np.maximum(np.log1p(theta[:, None] * unit).mean(1), LEAST_SHAPE)
    return shape, shape / theta * largest[:, 0]


def _theta(place: Floats) -> Floats:
    theta = np.expm1(place)
    bent: Floats = np.where(np.abs(theta) < NO_BEND, NO_BEND, theta)
    return bent


def _profile(unit: Floats, place: Floats) -> Floats:
    """Return the log-likelihood per excess with the best ξ for each θ ``[s]``; ξ(θ) = mean log(1 + θ y)."""
    theta = _theta(place)
    shape = np.log1p(theta[:, None] * unit).mean(1)
    likelihood: Floats = np.where((shape < LEAST_SHAPE) | (shape > LARGEST_SHAPE), -np.inf, -np.log(shape / theta) - shape - 1.0)
    return likelihood


def anderson_darling(ordered: Floats, shape: Floats, scale: Floats) -> Floats:
    """Return A² = −k − Σ_i (2i − 1)(log F(y_i) + log(1 − F(y_{k+1−i})))/k of ascending samples ``[s, k]`` (Anderson & Darling 1954)."""
    k = ordered.shape[1]
    bent = np.where(np.abs(shape) < NO_BEND, NO_BEND, shape)[:, None]
    inside = np.maximum(1.0 + bent * ordered / scale[:, None], 1e-300)
    log_above = np.minimum(-np.log(inside) / bent, -1e-15)
    log_below = np.log(-np.expm1(log_above))
    odd = 2.0 * np.arange(1, k + 1) - 1.0
    found: Floats = -k - ((log_below + np.maximum(log_above, -700.0)[:, ::-1]) * odd).mean(1)
    return found


def _quantiles(uniform: Floats, shape: float, scale: float) -> Floats:
    """Return σ (u^(−ξ) − 1)/ξ."""
    bent = shape if abs(shape) > NO_BEND else NO_BEND
    return scale * np.expm1(-bent * np.log(uniform)) / bent
