"""Which training rows a robust fit does not trust: the oddest in the eyes of the others.

A first pass scores every training row by networks, exemplars and weights that were learned without its fold, so that no row vouches
for itself. Anomalies that lie near each other still vouch for each other across folds; so a row must be near to many: its score by all
exemplars counts, and its score by a few random ones, among which a small clump is hardly ever. A twentieth of the rows, the oddest, are
then no exemplars. They still teach the networks, which a few rows hardly sway and which would otherwise find all rows at the rim odd;
only rows that stand out by far, above ``outlier_limit``, teach nothing. In both passes exemplars are 100 at most, because in a
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
from vae_anomaly.fitting.held_out import cross_fit_scores
from vae_anomaly.fitting.splits import FOLDS, RowSplit
from vae_anomaly.model.ensemble import Ensemble
from vae_anomaly.model.exemplars import choose_exemplars
from vae_anomaly.model.weighting import unit_weights, with_learned_weights
from vae_anomaly.schema.encoding import Batch

# The share of the training rows that are no exemplars, whatever is among them; folds of the first pass, and networks of a view;
# exemplars that are a few, and the most that a network has.
DOUBTED_SHARE = 0.05
FEW = 40
EXEMPLARS = 100
LEAST_COST = 1e-9  # so that there is a logarithm


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstPassScores:
    """Scores of rows, float64 ``[n]``, each without its fold, in units of its median, by all exemplars and by a ``few``; NaN: no score."""

    near: NDArray[np.float64]
    few: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrimmedRows:
    """What a first pass found, bool ``[n]`` each: rows ``excluded`` teach nothing, ``not_exemplar`` ones are no exemplars."""

    excluded: NDArray[np.bool_]
    not_exemplar: NDArray[np.bool_]


def first_pass_split(split: RowSplit, seed: int) -> RowSplit:
    """Deal the training rows of a split out over five folds, none doubted yet; its other rows stand aside."""
    fold = np.full(len(split.fold), -1, dtype=np.int64)
    folds = min(FOLDS, len(split.training))
    fold[np.random.default_rng([seed, 4]).permutation(split.training)] = np.arange(len(split.training)) % folds
    return RowSplit(method="cross", folds=folds, fold=fold, not_exemplar=np.zeros(len(fold), dtype=np.bool_))


def first_pass_scores(
    ensemble: Ensemble,
    batch: Batch,
    split: RowSplit,
    held_out_fold: Sequence[int],
    exemplars: Sequence[Tensor],
    config: ModelConfig,
    seed: int,
) -> FirstPassScores:
    """Score the rows of a first pass; network ``g`` may take exemplars from the rows ``exemplars[g]``."""
    generator = torch.Generator().manual_seed(seed)
    read = ensemble.reads(batch)
    chosen, own = choose_exemplars(ensemble.vae, ensemble.views, read, exemplars, FEW, generator, widen=False)
    flat = unit_weights(len(held_out_fold), config.sigma)
    thin = replace(ensemble, exemplars=chosen, weight=flat["weight"], beta=flat["beta"], noise=flat["noise"])
    thin = with_learned_weights(thin, read, own, len(config.views), generator)
    near, few = (fold_normalized(cross_fit_scores(e, batch, split, held_out_fold).numpy(), split.fold) for e in (ensemble, thin))
    return FirstPassScores(near=near, few=few)


def trim_rows(split: RowSplit, odd: FirstPassScores) -> TrimmedRows:
    """Leave out the training rows that stand out, and doubt the oddest twentieth by log near + log few."""
    rows = split.training
    near, few = (np.nan_to_num(scores[rows], nan=0.0).clip(LEAST_COST) for scores in (odd.near, odd.few))
    excluded, not_exemplar = np.zeros((2, len(split.fold)), dtype=np.bool_)
    excluded[rows] = near > outlier_limit(near)
    not_exemplar[rows[np.argsort(-np.log(near) - np.log(few), kind="stable")[: int(DOUBTED_SHARE * len(rows))]]] = True
    return TrimmedRows(excluded=excluded, not_exemplar=not_exemplar & ~excluded)


def exemplar_limit(split: RowSplit, config: ModelConfig) -> int:
    """Return the most exemplars of a network."""
    return config.exemplars if split.not_exemplar is None else min(config.exemplars, EXEMPLARS)


def robust_note(split: RowSplit) -> str:
    """Say what the split does not trust, and what this does to the promise."""
    excluded, not_exemplar = (0 if rows is None else int(rows.sum()) for rows in (split.excluded, split.not_exemplar))
    return (
        f"contamination-robust: {excluded:,} training rows that stand out teach nothing, {not_exemplar:,} odd ones are no exemplars; rows "
        "that calibrate are not sorted out, so anomalies among them raise the threshold: fewer false alarms than alpha, fewer faults found"
    )


# Rows that are looked at, evenly over the table; rows that are shown.
MOST_COMPARED = 20_000
SUSPECTS_SHOWN = 5
# In one table of a hundred chance alone shows a row, where distances have an exponential tail.
CHANCE = 0.01
FEWEST_COMPARED = 10
LEAST_NATS = 1e-9  # nats, so that there is something to divide by


def screened_rows(rows: int) -> NDArray[np.int64]:
    """Return at most 20,000 of ``rows`` row numbers, evenly spread."""
    return np.arange(0, rows, max(1, -(-rows // MOST_COMPARED)))


def outlier_limit(scores: NDArray[np.float64]) -> float:
    """Return the score that the highest of so many normal rows exceeds with a chance of 1 %, were the tail of √score exponential.

    Scores grow as squares of distances. With r = √score it is the square of r₉₀ + (r₉₀ − r₅₀) / ln 5 · ln(0.1 n / 0.01): a tail
    P(r) = ½ exp(−(r − r₅₀) / b) has r₉₀ − r₅₀ = b ln 5, and n rows have 0.1 n above r₉₀. Both quantiles are hardly moved by a few per
    cent of anomalies.
    """
    middle, high = np.sqrt(np.quantile(scores, [0.5, 0.9])).tolist()
    return float((high + (high - middle) / math.log(5.0) * max(math.log(0.1 * len(scores) / CHANCE), 0.0)) ** 2)


def fold_normalized(scores: NDArray[np.float64], fold: NDArray[np.int64]) -> NDArray[np.float64]:
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


def outlier_positions(scores: NDArray[np.float64], fold: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Return the places of at most five rows above ``threshold`` that stand out, folds normalized, the highest first; NaN: no score."""
    even = fold_normalized(scores, fold)
    known = even[~np.isnan(even)]
    if len(known) < FEWEST_COMPARED:
        return np.empty(0, dtype=np.int64)
    limit = outlier_limit(known)
    out = np.flatnonzero((np.nan_to_num(even, nan=-np.inf) > limit) & (np.nan_to_num(scores, nan=-np.inf) > threshold))
    return out[np.argsort(-even[out], kind="stable")[:SUSPECTS_SHOWN]]
