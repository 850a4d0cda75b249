"""Which training rows a robust fit does not trust: the oddest in the eyes of the others.

A first pass scores every training row by networks, exemplars and weights that were learned without its fold, so that no row vouches
for itself. Anomalies that lie near each other still vouch for each other across folds; so a row must be near to many: its score by all
exemplars counts, and its score by a few random ones, among which a small clump is hardly ever. A twentieth of the rows, the oddest, are
then no exemplars. They still teach the networks, which a few rows hardly sway and which would otherwise find all rows at the rim odd;
only rows that stand out by far, as ``core.suspects`` has it, teach nothing. In both passes exemplars are 100 at most, because in a
small random sample a row has fewer like it nearby, anomalies above all (Sugiyama & Borgwardt 2013), and lonely ones are not widened.
So few differ from draw to draw; every view has five networks then, each with exemplars of its own.
Calibration is not trimmed: that would break its promise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.config import ModelConfig
from vae_anomaly.fitting.held_out import scores_across
from vae_anomaly.fitting.splits import FOLDS, RowSplit
from vae_anomaly.model.ensemble import Ensemble
from vae_anomaly.model.exemplars import choose_exemplars
from vae_anomaly.model.weighting import unweighed, weighed
from vae_anomaly.schema.encoding import Batch

# The share of the training rows that are no exemplars, whatever is among them; folds of the first pass, and networks of a view;
# exemplars that are a few, and the most that a network has.
DOUBTED_SHARE = 0.05
FEW = 40
EXEMPLARS = 100
LEAST_COST = 1e-9  # so that there is a logarithm


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Oddness:
    """Scores of rows, float64 ``[n]``, each without its fold, in units of its median, by all exemplars and by a ``few``; NaN: no score."""

    near: NDArray[np.float64]
    few: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Doubts:
    """What a first pass found, bool ``[n]`` each: rows ``left_out`` teach nothing, ``doubted`` ones are no exemplars."""

    left_out: NDArray[np.bool_]
    doubted: NDArray[np.bool_]


def first_pass(plan: RowSplit, seed: int) -> RowSplit:
    """Deal the training rows of a plan out over five folds, none doubted yet; its other rows stand aside."""
    fold = np.full(len(plan.fold), -1, dtype=np.int64)
    folds = min(FOLDS, len(plan.training))
    fold[np.random.default_rng([seed, 4]).permutation(plan.training)] = np.arange(len(plan.training)) % folds
    return RowSplit(method="cross", folds=folds, fold=fold, doubted=np.zeros(len(fold), dtype=np.bool_))


def oddness(
    ensemble: Ensemble, batch: Batch, plan: RowSplit, part: Sequence[int], exemplars: Sequence[Tensor], config: ModelConfig, seed: int
) -> Oddness:
    """Score the rows of a first pass; network ``g`` has left out fold ``part[g]`` and may take exemplars from the rows ``exemplars[g]``."""
    generator = torch.Generator().manual_seed(seed)
    read = ensemble.reads(batch)
    chosen, own = choose_exemplars(ensemble.vae, ensemble.views, read, exemplars, FEW, generator, widen=False)
    flat = unweighed(len(part), config.sigma)
    thin = replace(ensemble, exemplars=chosen, weight=flat["weight"], beta=flat["beta"], noise=flat["noise"])
    thin = weighed(thin, read, own, len(config.views), generator)
    near, few = (evened(scores_across(e, batch, plan, part).numpy(), plan.fold) for e in (ensemble, thin))
    return Oddness(near=near, few=few)


def doubting(plan: RowSplit, odd: Oddness) -> Doubts:
    """Leave out the training rows that stand out, and doubt the oddest twentieth by log near + log few."""
    rows = plan.training
    near, few = (np.nan_to_num(scores[rows], nan=0.0).clip(LEAST_COST) for scores in (odd.near, odd.few))
    left_out, doubted = np.zeros((2, len(plan.fold)), dtype=np.bool_)
    left_out[rows] = near > outer_limit(near)
    doubted[rows[np.argsort(-np.log(near) - np.log(few), kind="stable")[: int(DOUBTED_SHARE * len(rows))]]] = True
    return Doubts(left_out=left_out, doubted=doubted & ~left_out)


def exemplar_limit(plan: RowSplit, config: ModelConfig) -> int:
    """Return the most exemplars of a network."""
    return config.exemplars if plan.doubted is None else min(config.exemplars, EXEMPLARS)


def doubts(plan: RowSplit) -> str:
    """Say what the plan does not trust, and what this does to the promise."""
    left_out, doubted = (0 if rows is None else int(rows.sum()) for rows in (plan.left_out, plan.doubted))
    return (
        f"contamination-robust: {left_out:,} training rows that stand out teach nothing, {doubted:,} odd ones are no exemplars; rows "
        "that calibrate are not sorted out, so anomalies among them raise the threshold: fewer false alarms than alpha, fewer faults found"
    )


# Rows that are looked at, evenly over the table; rows that are shown.
MOST_COMPARED = 20_000
SUSPECTS_SHOWN = 5
# In one table of a hundred chance alone shows a row, where distances have an exponential tail.
CHANCE = 0.01
FEWEST_COMPARED = 10
LEAST_NATS = 1e-9  # nats, so that there is something to divide by


def looked_at(rows: int) -> NDArray[np.int64]:
    """Return at most 20,000 of ``rows`` row numbers, evenly spread."""
    return np.arange(0, rows, max(1, -(-rows // MOST_COMPARED)))


def outer_limit(scores: NDArray[np.float64]) -> float:
    """Return the score that the highest of so many normal rows exceeds with a chance of 1 %, were the tail of √score exponential.

    Scores grow as squares of distances. With r = √score it is the square of r₉₀ + (r₉₀ − r₅₀) / ln 5 · ln(0.1 n / 0.01): a tail
    P(r) = ½ exp(−(r − r₅₀) / b) has r₉₀ − r₅₀ = b ln 5, and n rows have 0.1 n above r₉₀. Both quantiles are hardly moved by a few per
    cent of anomalies.
    """
    middle, high = np.sqrt(np.quantile(scores, [0.5, 0.9])).tolist()
    return float((high + (high - middle) / math.log(5.0) * max(math.log(0.1 * len(scores) / CHANCE), 0.0)) ** 2)


def evened(scores: NDArray[np.float64], fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return scores in units of the median of their ``fold`` ``[n]``; NaN is no score.

    A gross fault stretches the scales that are learned from it. The networks of its own fold have not seen it, and give all rows of this
    fold higher scores than the others do.
    """
    found = np.full(len(scores), np.nan)
    for k in np.unique(fold):
        here = (fold == k) & ~np.isnan(scores)
        if here.any():
            found[here] = scores[here] / max(float(np.median(scores[here])), LEAST_NATS)
    return found


def suspects(scores: NDArray[np.float64], fold: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Return the places of at most five rows above ``threshold`` that stand out when folds are evened, the highest first; NaN: no score."""
    even = evened(scores, fold)
    known = even[~np.isnan(even)]
    if len(known) < FEWEST_COMPARED:
        return np.empty(0, dtype=np.int64)
    limit = outer_limit(known)
    out = np.flatnonzero((np.nan_to_num(even, nan=-np.inf) > limit) & (np.nan_to_num(scores, nan=-np.inf) > threshold))
    return out[np.argsort(-even[out], kind="stable")[:SUSPECTS_SHOWN]]
