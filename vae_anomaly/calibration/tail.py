"""The upper tail of calibration scores beyond what their ranks can say: a generalised Pareto tail with its uncertainty.

Knows scores only. Peaks over a threshold follow a generalised Pareto law (Pickands 1975), log density −log σ − (1/ξ + 1) log(1 + ξ y/σ)
for the excess y. Its parameters are not picked but weighed: posterior weights on a grid under the prior ξ ~ N(0, 0.5²), 1/σ, which keeps
the shape of a few hundred excesses bearable as Coles & Dixon (1999) and Martins & Stedinger (2000) do. Where the tail begins is not known
either, so three beginnings count alike. Of every score the posterior gives the rate of normal rows above it, with limits.
Goodness of fit: ``core.goodness``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaincinv

from vae_anomaly.calibration.conformal import RateLaw, finest_alpha
from vae_anomaly.errors import NotCalibrated

_Floats = NDArray[np.float64]
# Fewer rows have too few excesses for a shape.
LEAST_ROWS = 500
# The tail begins at these shares of the rows, as far as that leaves so many excesses.
SHARES = (0.02, 0.04, 0.08)
LEAST_EXCESSES = 40
# A fit this poor happens to one true tail in two hundred.
POOR = 0.005
# Rates ten times finer than 1/(n + 1) can be asked for: beyond that the limits say nothing.
FINER = 0.1
# The grid of shapes, and of scales above the smallest possible one in units of the largest excess.
SHAPES = np.linspace(-1.0, 1.0, 51)
SCALE_STEPS = np.linspace(np.log(3e-4), np.log(8.0), 90)
PRIOR_SPREAD = 0.5
# Weights below this share of the largest are left out.
SLIGHT = 1e-6
# A threshold is meant to have a rate within a factor of five of what was asked; of the scores whose chance of that is within 0.02 of the
# best, the one whose mean rate is nearest to it. A bounded law would otherwise get a threshold beyond its end in every tenth case.
FACTOR = 5.0
NEAR_BEST = 0.02
# Scores between the start of the tail and the largest, and beyond it, among which a threshold is looked for.
INSIDE = 300
BEYOND = 200
# Limits of the posterior that count as the 5 % and the 95 % limit of the rate.
WIDENED = 0.025
KNOTS = 40
HALVINGS = 45


def fit_p_value(excess: _Floats) -> float:
    """Return the share of samples of the fitted law that fit no better than ``excess`` ``[k]``, from 1/400 on; small = poor."""
    ordered = np.sort(excess)[None]
    shape, scale = most_likely(ordered)
    seen = anderson_darling(ordered, shape, scale)[0]
    uniform = np.random.default_rng(5).random((GOODNESS_SAMPLES, ordered.shape[1]))
    drawn = np.sort(_quantiles(uniform, shape[0], scale[0]), axis=1)
    worse = sum(
        int((anderson_darling(part, *most_likely(part)) >= seen).sum()) for part in np.split(drawn, range(BLOCK, GOODNESS_SAMPLES, BLOCK))
    )
    return (1 + worse) / (GOODNESS_SAMPLES + 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tail:
    """A fitted tail. ``curve`` float64 ``[4, m]``: ascending scores, the falling rate above each, and the a and b of the rate's Beta law.

    ``exceedances`` of the widest of the fits, ``shape`` ξ (posterior mean; below 0 the scores end), ``fit_p_value`` of its goodness of fit.
    """

    curve: _Floats
    exceedances: int
    shape: float
    fit_p_value: float

    @property
    def share(self) -> float:
        """The rate at which the tail begins; coarser ones are ranks."""
        return float(self.curve[1, 0])

    @property
    def finest(self) -> float:
        """The finest rate that the tail can say."""
        return float(self.curve[1, -1])

    def value(self, alpha: float) -> float:
        """Return the score above which normal rows are with the rate ``alpha``; linear in log rate between the knots."""
        return float(np.interp(-np.log(alpha), -np.log(self.curve[1]), self.curve[0]))

    def law(self, alpha: float) -> RateLaw:
        """Return what is known of the rate of the threshold for ``alpha``."""
        a, b = (float(np.exp(np.interp(-np.log(alpha), -np.log(self.curve[1]), np.log(row)))) for row in self.curve[2:])
        return RateLaw(a=a, b=b)

    def p_values(self, scores: _Floats, ranks: _Floats, *, flagged: NDArray[np.bool_], alpha: float) -> _Floats:
        """Return p-values: ``ranks`` (conformal ones) below the tail, its rates within; a flag is p ≤ ``alpha`` to the last bit."""
        within = np.exp(np.interp(scores, self.curve[0], np.log(self.curve[1])))
        found = np.where(scores > self.curve[0, 0], within, np.maximum(ranks, self.share))
        return np.where(flagged, np.minimum(found, alpha), np.maximum(found, np.nextafter(alpha, 1.0)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posterior:
    """Weighed tails: ``weight``, ``shape``, ``scale``, ``start`` and ``above`` (the share of rows above the start), float64 ``[p]``."""

    weight: _Floats
    shape: _Floats
    scale: _Floats
    start: _Floats
    above: _Floats

    def rates(self, score: float) -> _Floats:
        """Return the share of normal rows above ``score`` under each tail; 0 beyond the end of one."""
        return self.above * exceedance(score - self.start, self.shape, self.scale)


def finest_with_tail(n: int) -> float:
    """Return the finest false-alarm rate that a tail fitted to ``n`` calibration rows may be asked for."""
    return FINER * finest_alpha(n)


def exceedance(excess: _Floats, shape: _Floats, scale: _Floats) -> _Floats:
    """Return P(Y > y) = (1 + ξ y/σ)^(−1/ξ) of the generalised Pareto law, exp(−y/σ) for ξ = 0; 1 below 0, 0 beyond its end."""
    bent = np.where(np.abs(shape) < NO_BEND, NO_BEND, shape)
    inside = 1.0 + bent * np.maximum(excess, 0.0) / scale
    above: _Floats = np.where(inside > 0.0, np.maximum(inside, 1e-300) ** (-1.0 / bent), 0.0)
    return above


def fit_tail(ordered: _Floats) -> Tail:
    """Fit a tail to ascending calibration scores.

    Raises NotCalibrated when there are too few rows or the fit is poor, with what to do.
    """
    n = len(ordered)
    if n < LEAST_ROWS:
        raise NotCalibrated(f"--method gpd needs at least {LEAST_ROWS} calibration rows; {n:,} given. Give more normal rows.")
    counts = [k for k in (round(share * n) for share in SHARES) if k >= LEAST_EXCESSES]
    fit = _goodness(ordered, counts)
    posterior = weigh(ordered, counts)
    rates = np.geomspace((counts[0] + 1) / (n + 1), finest_with_tail(n), KNOTS)
    scores = _scores_at(posterior, ordered, rates, counts[0])
    laws = [_matched(posterior, score, counts[0]) for score in scores.tolist()]
    curve = np.stack([scores, rates, *np.array(laws).T])
    return Tail(curve=curve, exceedances=counts[-1], shape=float((posterior.weight * posterior.shape).sum()), fit_p_value=fit)


def _goodness(ordered: _Floats, counts: Sequence[int]) -> float:
    """Return the p-value of the fit in the middle. Raises NotCalibrated when it is poor."""
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


def weigh(ordered: _Floats, counts: Sequence[int]) -> Posterior:
    """Return the posterior of the tails that begin below the ``counts`` highest scores, each beginning with the same weight."""
    n = len(ordered)
    parts = []
    for k in counts:
        start = ordered[n - k - 1]
        weight, shape, scale = _posterior(ordered[n - k :] - start)
        count = np.ones(len(weight))
        parts.append((weight / len(counts), shape, scale, start * count, (k + 1) / (n + 1) * count))
    weight, shape, scale, start, above = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Posterior(weight=weight, shape=shape, scale=scale, start=start, above=above)


def _posterior(excess: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Return weights, shapes and scales of a grid; scales in steps above the smallest that lets the largest excess be."""
    largest = excess.max()
    unit = excess / largest
    scale = np.maximum(-SHAPES, 0.0)[:, None] + np.exp(SCALE_STEPS)
    log_weight = np.stack([log_likelihood(unit, shape, row) for shape, row in zip(SHAPES, scale, strict=True)])
    # Prior 1/σ dσ, in steps of log(σ − smallest).
    log_weight += SCALE_STEPS - np.log(scale) - 0.5 * (SHAPES[:, None] / PRIOR_SPREAD) ** 2
    weight = np.exp(log_weight - log_weight.max())
    kept = weight > SLIGHT
    return weight[kept] / weight[kept].sum(), np.broadcast_to(SHAPES[:, None], scale.shape)[kept], scale[kept] * largest


def log_likelihood(excess: _Floats, shape: float, scale: _Floats) -> _Floats:
    """Return Σ_i −log σ − (1/ξ + 1) log(1 + ξ y_i/σ) for every ``scale`` ``[s]``; −log σ − y/σ for ξ = 0."""
    k = len(excess)
    logs = excess.sum() / scale if abs(shape) < NO_BEND else (1.0 / shape + 1.0) * np.log1p(shape * excess / scale[:, None]).sum(-1)
    likelihood: _Floats = -k * np.log(scale) - logs
    return likelihood


def _scores_at(posterior: Posterior, ordered: _Floats, rates: _Floats, k: int) -> _Floats:
    """Return the score for each rate, ascending, from the start of the tail on."""
    start, largest = float(ordered[len(ordered) - k - 1]), float(ordered[-1])
    beyond = largest + (largest - start) * np.geomspace(1e-4, 100.0, BEYOND)
    scores = np.concatenate([np.linspace(start, largest, INSIDE), beyond])
    means, chances = _means_and_chances(posterior, scores, rates)
    found = np.array([_chosen(scores, means, chance, rate) for chance, rate in zip(chances.T, rates, strict=True)])
    # Equal scores would make the curve ambiguous.
    steps = np.arange(len(rates)) * 1e-12 * max(abs(start), largest - start)
    ascending: _Floats = np.maximum.accumulate(found) + steps
    return ascending


def _means_and_chances(posterior: Posterior, scores: _Floats, rates: _Floats) -> tuple[_Floats, _Floats]:
    """Return the geometric mean of the rate above each score ``[s]``, and the chance that it is within × 5 of each rate, ``[s, r]``."""
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
    """Return the score whose mean rate is ``rate``, or the nearest one that has nearly the best chance of being within × 5 of it."""
    exact = float(np.interp(-np.log(rate), -np.log(means), scores))
    good = scores[chance >= chance.max() - NEAR_BEST]
    return min(max(exact, float(good[0])), float(good[-1]))


def _quantile(values: _Floats, weight: _Floats, share: float) -> float:
    order = np.argsort(values, kind="stable")
    return float(values[order][min(int(np.searchsorted(np.cumsum(weight[order]), share)), len(order) - 1)])


def _matched(posterior: Posterior, score: float, k: int) -> tuple[float, float]:
    """Return a and b of the Beta law whose 5 % and 95 % limits are the 2.5 % and 97.5 % limits of the posterior.

    Wider than the posterior by a fifth, because no tail of real scores is the fitted law exactly; so widened, limits hold in simulations.
    Rates of a tail are small, so that Beta(a, b) is Gamma(a)/b and the ratio of the limits gives a. That the share of rows above the
    start is itself counted on ``k`` rows adds 1/k to the relative variance 1/a.
    """
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


GOODNESS_SAMPLES = 399
# The profile likelihood is searched in log(1 + θ·largest), θ = ξ/σ, first coarsely and then between the neighbours of the best.
SEARCHED = np.linspace(-14.0, 18.0, 80)
# Below −1 the likelihood has no maximum (Smith 1985); above 1 the law has no mean, and scores that tie look like that.
LEAST_SHAPE = -1.0
LARGEST_SHAPE = 1.0
BLOCK = 64
# Shapes nearer to 0 than this are the exponential law to the last digit that matters.
NO_BEND = 1e-7


def most_likely(excess: _Floats) -> tuple[_Floats, _Floats]:
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


def _theta(place: _Floats) -> _Floats:
    theta = np.expm1(place)
    bent: _Floats = np.where(np.abs(theta) < NO_BEND, NO_BEND, theta)
    return bent


def _profile(unit: _Floats, place: _Floats) -> _Floats:
    """Return the log-likelihood per excess with the best ξ for each θ ``[s]``; ξ(θ) = mean log(1 + θ y)."""
    theta = _theta(place)
    shape = np.log1p(theta[:, None] * unit).mean(1)
    likelihood: _Floats = np.where((shape < LEAST_SHAPE) | (shape > LARGEST_SHAPE), -np.inf, -np.log(shape / theta) - shape - 1.0)
    return likelihood


def anderson_darling(ordered: _Floats, shape: _Floats, scale: _Floats) -> _Floats:
    """Return A² = −k − Σ_i (2i − 1)(log F(y_i) + log(1 − F(y_{k+1−i})))/k of ascending samples ``[s, k]`` (Anderson & Darling 1954)."""
    k = ordered.shape[1]
    bent = np.where(np.abs(shape) < NO_BEND, NO_BEND, shape)[:, None]
    inside = np.maximum(1.0 + bent * ordered / scale[:, None], 1e-300)
    log_above = np.minimum(-np.log(inside) / bent, -1e-15)
    log_below = np.log(-np.expm1(log_above))
    odd = 2.0 * np.arange(1, k + 1) - 1.0
    found: _Floats = -k - ((log_below + np.maximum(log_above, -700.0)[:, ::-1]) * odd).mean(1)
    return found


def _quantiles(uniform: _Floats, shape: float, scale: float) -> _Floats:
    """Return σ (u^(−ξ) − 1)/ξ."""
    bent = shape if abs(shape) > NO_BEND else NO_BEND
    return scale * np.expm1(-bent * np.log(uniform)) / bent
