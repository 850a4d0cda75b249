"""Generalised Pareto tail of the calibration scores, for false-alarm rates below 1/(n + 1), with its uncertainty.

Peaks over a threshold follow a generalised Pareto distribution (GPD; Pickands 1975) with log density −log σ − (1/ξ + 1) log(1 + ξ y/σ) for
the excess y. The parameters have a posterior on a grid, under the prior ξ ~ N(0, 0.5²), 1/σ, which regularises the shape of a few hundred
excesses as in Coles & Dixon (1999) and Martins & Stedinger (2000). The start of the tail is averaged over three values of equal weight.
The posterior gives the rate of normal rows above every score, with limits. Goodness of fit: Anderson-Darling, by parametric bootstrap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import RateLaw, finest_alpha
from vae_anomaly.errors import NotCalibrated

_Floats = NDArray[np.float64]
LEAST_ROWS = 500  # fewer rows have too few excesses to estimate a shape
SHARES = (0.02, 0.04, 0.08)  # candidate starts of the tail, as shares of the rows
LEAST_EXCESSES = 40  # a start with fewer is not used
POOR = 0.005  # p-value below which the fit is refused: one true GPD tail in two hundred
FINER = 0.1  # smallest rate, in units of 1/(n + 1): beyond, the limits are uninformative
SHAPES = np.linspace(-1.0, 1.0, 51)  # grid of ξ
SCALE_STEPS = np.linspace(np.log(3e-4), np.log(8.0), 90)  # grid of log(σ − smallest possible σ), in units of the largest excess
PRIOR_SPREAD = 0.5  # standard deviation of the prior of ξ
SLIGHT = 1e-6  # posterior weights below this share of the largest are dropped
# The threshold for a rate should have a true rate within a factor of five of it. Among the scores whose probability of that is within 0.02
# of the best, the one with the nearest mean rate is taken; otherwise one bounded distribution in ten gets a threshold beyond its end.
FACTOR = 5.0
NEAR_BEST = 0.02
INSIDE = 300  # candidate thresholds between the start of the tail and the largest score
BEYOND = 200  # candidate thresholds above the largest score
WIDENED = 0.025  # posterior quantiles 0.025 and 0.975 serve as the 5 % and 95 % limits of the rate: measured, see ``_matched``
KNOTS = 40  # rates of the interpolated curve
HALVINGS = 45  # bisection steps; they determine log a to 1e-12
GOODNESS_SAMPLES = 399  # bootstrap samples: p-values are multiples of 1/400
# Grid of the profile likelihood in log(1 + θ·largest), θ = ξ/σ, refined three times between the neighbours of the best.
SEARCHED = np.linspace(-14.0, 18.0, 80)
LEAST_SHAPE = -1.0  # below, the likelihood has no maximum (Smith 1985)
LARGEST_SHAPE = 1.0  # above, the distribution has no mean; tied scores look like that
BLOCK = 64  # bootstrap samples at a time, to bound memory
NO_BEND = 1e-7  # |ξ| below this is computed as this: the exponential distribution to float64 precision


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tail:
    """A fitted tail.

    ``curve`` float64 ``[4, m]``: ascending scores, the falling rate above each, and a and b of the Beta distribution of that rate;
    ``exceedances``: excesses of the widest fit; ``shape``: posterior mean of ξ, below 0 for bounded scores; ``fit_p_value``: of its fit.
    """

    curve: _Floats
    exceedances: int
    shape: float
    fit_p_value: float

    @property
    def share(self) -> float:
        """Rate at the start of the tail; larger rates use the conformal quantile."""
        return float(self.curve[1, 0])

    @property
    def finest(self) -> float:
        """Smallest rate of the curve."""
        return float(self.curve[1, -1])

    def value(self, alpha: float) -> float:
        """Return the score that normal rows exceed at the rate ``alpha``, interpolated linearly in the log rate."""
        return float(np.interp(-np.log(alpha), -np.log(self.curve[1]), self.curve[0]))

    def law(self, alpha: float) -> RateLaw:
        """Return the distribution of the false-alarm rate of the threshold for ``alpha``."""
        a, b = (float(np.exp(np.interp(-np.log(alpha), -np.log(self.curve[1]), np.log(row)))) for row in self.curve[2:])
        return RateLaw(a=a, b=b)

    def p_values(self, scores: _Floats, ranks: _Floats, *, flagged: NDArray[np.bool_], alpha: float) -> _Floats:
        """Return p-values ``[n]``: the conformal ``ranks`` below the tail, its rates within; p ≤ ``alpha`` exactly where ``flagged``."""
        within = np.exp(np.interp(scores, self.curve[0], np.log(self.curve[1])))
        p_values = np.where(scores > self.curve[0, 0], within, np.maximum(ranks, self.share))
        return np.where(flagged, np.minimum(p_values, alpha), np.maximum(p_values, np.nextafter(alpha, 1.0)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TailPosterior:
    """Weighted grid points: ``weight``, ``shape``, ``scale``, ``start`` and ``above`` (share of rows above the start), float64 ``[p]``."""

    weight: _Floats
    shape: _Floats
    scale: _Floats
    start: _Floats
    above: _Floats

    def rates(self, score: float) -> _Floats:
        """Return the rate of normal rows above ``score`` at each grid point ``[p]``; 0 beyond the end of a bounded one."""
        return self.above * gpd_survival(score - self.start, self.shape, self.scale)


def finest_tail_alpha(n: int) -> float:
    """Return the smallest false-alarm rate for which a tail fitted to ``n`` calibration rows is used."""
    return FINER * finest_alpha(n)


def gpd_survival(excess: _Floats, shape: _Floats, scale: _Floats) -> _Floats:
    """Return the GPD survival function P(Y > y) = (1 + ξ y/σ)^(−1/ξ), exp(−y/σ) for ξ = 0; 1 for y < 0, 0 beyond the end."""
    bent = np.where(np.abs(shape) < NO_BEND, NO_BEND, shape)
    inside = 1.0 + bent * np.maximum(excess, 0.0) / scale
    above: _Floats = np.where(inside > 0.0, np.maximum(inside, 1e-300) ** (-1.0 / bent), 0.0)
    return above


def fit_tail(ordered: _Floats) -> Tail:
    """Fit a tail to ascending calibration scores ``[n]``. Raises NotCalibrated if there are too few rows or the fit is poor."""
    n = len(ordered)
    if n < LEAST_ROWS:
        raise NotCalibrated(f"--method gpd needs at least {LEAST_ROWS} calibration rows; {n:,} given. Give more normal rows.")
    counts = [k for k in (round(share * n) for share in SHARES) if k >= LEAST_EXCESSES]
    fit = _goodness(ordered, counts)
    posterior = tail_posterior(ordered, counts)
    rates = np.geomspace((counts[0] + 1) / (n + 1), finest_tail_alpha(n), KNOTS)
    scores = _scores_at(posterior, ordered, rates, counts[0])
    laws = [_matched(posterior, score, counts[0]) for score in scores.tolist()]
    curve = np.stack([scores, rates, *np.array(laws).T])
    return Tail(curve=curve, exceedances=counts[-1], shape=float((posterior.weight * posterior.shape).sum()), fit_p_value=fit)


def _goodness(ordered: _Floats, counts: Sequence[int]) -> float:
    """Return the p-value of the fit at the middle start of the tail. Raises NotCalibrated if it is poor."""
    n, k = len(ordered), counts[len(counts) // 2]
    excess = ordered[n - k :] - ordered[n - k - 1]
    different = len(np.unique(excess))
    fit = fit_p_value(excess) if different > 1 else 0.0
    if fit < POOR:
        ties = f" ({different:,} different ones)" if different < k else ""
        raise NotCalibrated(
            f"no tail fits the {k:,} highest of {n:,} calibration scores{ties} (Anderson-Darling p = {fit:.2g}, at least {POOR:g} needed). "
            "Look for anomalies among the calibration rows, give more rows, or use --method conformal."
        )
    return fit


def tail_posterior(ordered: _Floats, counts: Sequence[int]) -> TailPosterior:
    """Return the posterior of the tail over starts below the ``counts`` highest scores, each start with the same weight."""
    n = len(ordered)
    parts = []
    for k in counts:
        start = ordered[n - k - 1]
        weight, shape, scale = _posterior(ordered[n - k :] - start)
        count = np.ones(len(weight))
        parts.append((weight / len(counts), shape, scale, start * count, (k + 1) / (n + 1) * count))
    weight, shape, scale, start, above = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TailPosterior(weight=weight, shape=shape, scale=scale, start=start, above=above)


def _posterior(excess: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Return weights, shapes and scales ``[p]`` of the grid; scales start above the smallest that allows the largest excess."""
    largest = excess.max()
    unit = excess / largest
    scale = np.maximum(-SHAPES, 0.0)[:, None] + np.exp(SCALE_STEPS)
    log_weight = np.stack([gpd_log_likelihood(unit, shape, row) for shape, row in zip(SHAPES, scale, strict=True)])
    # The prior 1/σ dσ on a grid that is uniform in log(σ − smallest).
    log_weight += SCALE_STEPS - np.log(scale) - 0.5 * (SHAPES[:, None] / PRIOR_SPREAD) ** 2
    weight = np.exp(log_weight - log_weight.max())
    relevant = weight > SLIGHT
    return weight[relevant] / weight[relevant].sum(), np.broadcast_to(SHAPES[:, None], scale.shape)[relevant], scale[relevant] * largest


def gpd_log_likelihood(excess: _Floats, shape: float, scale: _Floats) -> _Floats:
    """Return the GPD log-likelihood Σ_i −log σ − (1/ξ + 1) log(1 + ξ y_i/σ) for every ``scale`` ``[s]``; −log σ − y/σ for ξ = 0."""
    k = len(excess)
    logs = excess.sum() / scale if abs(shape) < NO_BEND else (1.0 / shape + 1.0) * np.log1p(shape * excess / scale[:, None]).sum(-1)
    likelihood: _Floats = -k * np.log(scale) - logs
    return likelihood


def _scores_at(posterior: TailPosterior, ordered: _Floats, rates: _Floats, k: int) -> _Floats:
    """Return the threshold for each of the falling ``rates`` ``[r]``, ascending from the start of the tail."""
    start, largest = float(ordered[len(ordered) - k - 1]), float(ordered[-1])
    beyond = largest + (largest - start) * np.geomspace(1e-4, 100.0, BEYOND)
    scores = np.concatenate([np.linspace(start, largest, INSIDE), beyond])
    means, chances = _means_and_chances(posterior, scores, rates)
    thresholds = np.array([_chosen(scores, means, chance, rate) for chance, rate in zip(chances.T, rates, strict=True)])
    # Equal scores would make the inverse of the curve ambiguous.
    steps = np.arange(len(rates)) * 1e-12 * max(abs(start), largest - start)
    ascending: _Floats = np.maximum.accumulate(thresholds) + steps
    return ascending


def _means_and_chances(posterior: TailPosterior, scores: _Floats, rates: _Floats) -> tuple[_Floats, _Floats]:
    """Return the geometric mean rate above each score ``[s]``, and the probability that it is within ``FACTOR`` of each rate ``[s, r]``."""
    floor = float(rates[-1]) / 100.0
    means, chances = np.empty(len(scores)), np.empty((len(scores), len(rates)))
    for i, score in enumerate(scores.tolist()):
        above = posterior.rates(score)
        means[i] = np.exp((posterior.weight * np.log(np.maximum(above, floor))).sum())
        order = np.argsort(above, kind="stable")
        below = np.concatenate([[0.0], np.cumsum(posterior.weight[order])])
        most = np.searchsorted(above[order], rates * FACTOR, side="right")
        least = np.searchsorted(above[order], rates / FACTOR, side="left")
        chances[i] = below[most] - below[least]
    return means, chances


def _chosen(scores: _Floats, means: _Floats, chance: _Floats, rate: float) -> float:
    """Return the score whose mean rate is ``rate``, clipped to the scores of nearly the best probability (see ``FACTOR``)."""
    exact = float(np.interp(-np.log(rate), -np.log(means), scores))
    good = scores[chance >= chance.max() - NEAR_BEST]
    return min(max(exact, float(good[0])), float(good[-1]))


def _quantile(values: _Floats, weight: _Floats, share: float) -> float:
    """Return the weighted quantile of ``values`` ``[p]``."""
    order = np.argsort(values, kind="stable")
    return float(values[order][min(int(np.searchsorted(np.cumsum(weight[order]), share)), len(order) - 1)])


def _matched(posterior: TailPosterior, score: float, k: int) -> tuple[float, float]:
    """Return a and b of the Beta distribution whose 5 % and 95 % quantiles are the 2.5 % and 97.5 % quantiles of the posterior.

    A fifth wider than the posterior, because tails of real scores are not exactly GPD; with this width the limits hold in simulations.
    Tail rates are small, so Beta(a, b) is close to Gamma(a)/b and the ratio of the quantiles determines a. The share of rows above the
    start is itself estimated from ``k`` rows, which adds 1/k to the relative variance 1/a.
    """
    from scipy.special import betaincinv, gammaincinv

    rates = posterior.rates(score)
    low, high = (_quantile(rates, posterior.weight, share) for share in (WIDENED, 1.0 - WIDENED))
    below, above = np.log(0.2), np.log(1e6)
    for _ in range(HALVINGS):
        middle = (below + above) / 2.0
        wide = gammaincinv(np.exp(middle), 0.95) * low > gammaincinv(np.exp(middle), 0.05) * high
        below, above = (middle, above) if wide else (below, middle)
    a = float(np.exp(above))
    few, many = np.log(1e-3), np.log(1e12)
    for _ in range(2 * HALVINGS):
        middle = (few + many) / 2.0
        few, many = (middle, many) if betaincinv(a, np.exp(middle), 0.95) > high else (few, middle)
    counted = 1.0 / (1.0 + a / k)
    return a * counted, float(np.exp(many)) * counted


def fit_p_value(excess: _Floats) -> float:
    """Return the bootstrap p-value of the GPD fit to ``excess`` ``[k]``, at least 1/400; small = poor fit."""
    ordered = np.sort(excess)[None]
    shape, scale = gpd_maximum_likelihood(ordered)
    seen = anderson_darling(ordered, shape, scale)[0]
    uniform = np.random.default_rng(5).random((GOODNESS_SAMPLES, ordered.shape[1]))
    drawn = np.sort(_quantiles(uniform, shape[0], scale[0]), axis=1)
    worse = sum(
        int((anderson_darling(part, *gpd_maximum_likelihood(part)) >= seen).sum())
        for part in np.split(drawn, range(BLOCK, GOODNESS_SAMPLES, BLOCK))
    )
    return (1 + worse) / (GOODNESS_SAMPLES + 1)


def gpd_maximum_likelihood(excess: _Floats) -> tuple[_Floats, _Floats]:
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
        peak = searched[row, best]
        searched = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, 17)
    theta = _theta(peak)
    shape = np.maximum(np.log1p(theta[:, None] * unit).mean(1), LEAST_SHAPE)
    return shape, shape / theta * largest[:, 0]


def _theta(position: _Floats) -> _Floats:
    theta = np.expm1(position)
    bent: _Floats = np.where(np.abs(theta) < NO_BEND, NO_BEND, theta)
    return bent


def _profile(unit: _Floats, position: _Floats) -> _Floats:
    """Return the profile log-likelihood per excess for each θ ``[s]``, maximised at ξ(θ) = mean log(1 + θ y)."""
    theta = _theta(position)
    shape = np.log1p(theta[:, None] * unit).mean(1)
    likelihood: _Floats = np.where((shape < LEAST_SHAPE) | (shape > LARGEST_SHAPE), -np.inf, -np.log(shape / theta) - shape - 1.0)
    return likelihood


def anderson_darling(ordered: _Floats, shape: _Floats, scale: _Floats) -> _Floats:
    """Return A² = −k − Σ_i (2i − 1)(log F(y_i) + log(1 − F(y_{k+1−i})))/k ``[s]`` of ascending ``[s, k]`` (Anderson & Darling 1954)."""
    k = ordered.shape[1]
    bent = np.where(np.abs(shape) < NO_BEND, NO_BEND, shape)[:, None]
    inside = np.maximum(1.0 + bent * ordered / scale[:, None], 1e-300)
    log_above = np.minimum(-np.log(inside) / bent, -1e-15)
    log_below = np.log(-np.expm1(log_above))
    odd = 2.0 * np.arange(1, k + 1) - 1.0
    statistic: _Floats = -k - ((log_below + np.maximum(log_above, -700.0)[:, ::-1]) * odd).mean(1)
    return statistic


def _quantiles(uniform: _Floats, shape: float, scale: float) -> _Floats:
    """Return the GPD quantiles σ (u^(−ξ) − 1)/ξ for survival probabilities ``uniform``."""
    bent = shape if abs(shape) > NO_BEND else NO_BEND
    return scale * np.expm1(-bent * np.log(uniform)) / bent
