"""Robust fit on contaminated training rows: trim the rows that look anomalous to networks that did not learn from them.

A first pass scores every training row by networks, exemplars and weights learned without its fold. Similar anomalies in other folds can
still make each other look normal, so a row is scored twice: against all exemplars, and against a few random ones, which rarely include
a member of a small cluster. Two sets of rows follow from that:

- The 5 % with the highest product of both scores are not used as exemplars. They stay in the training, which a few rows hardly change
  and which without them would score all rows at the edge of the data as anomalous.
- Rows above ``outlier_limit`` are excluded from training as well.

Networks have at most 100 exemplars in both passes: in a small random sample a row has fewer similar rows, an anomaly above all (Sugiyama
& Borgwardt 2013); for the same reason isolated exemplars are not widened. Few exemplars vary from draw to draw, so each view has at least
five networks. Calibration rows are never trimmed, because that would break the guarantee.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from vae_anomaly.config import ModelConfig
from vae_anomaly.fitting.held_out import cross_fit_scores
from vae_anomaly.fitting.splits import ROBUST_FOLDS, NetworkAssignment, RowSplit
from vae_anomaly.model.ensemble import Ensemble
from vae_anomaly.model.imputation import choose_exemplars
from vae_anomaly.model.weighting import unit_weights, with_learned_weights
from vae_anomaly.schema.encoding import Batch

# Share of the training rows that are not used as exemplars, whatever the contamination is.
TRIMMED_SHARE = 0.05
# Exemplars of the second score of the first pass.
FEW_EXEMPLARS = 40
# Most exemplars of a network in a robust fit.
ROBUST_EXEMPLARS = 100
# Smallest score, so that its logarithm is finite.
LEAST_SCORE = 1e-9
# Smallest median of a fold in nats, so that it can be divided by.
LEAST_MEDIAN = 1e-9
# Probability that the largest score of a table without anomalies exceeds ``outlier_limit``, if distances have an exponential tail.
CHANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstPassScores:
    """Cross-fitted scores of rows against ``all_exemplars`` and against a ``few``, float64 ``[n]``, in units of the median of the fold.

    Higher = more anomalous; NaN: no score.
    """

    all_exemplars: NDArray[np.float64]
    few: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrimmedRows:
    """Masks bool ``[n]`` of disjoint sets of rows: ``excluded`` from training, and ``not_exemplar`` but trained on."""

    excluded: NDArray[np.bool_]
    not_exemplar: NDArray[np.bool_]


def first_pass_split(split: RowSplit, seed: int) -> RowSplit:
    """Return a split of the training rows into five folds for the first pass; all other rows are in no fold (−1)."""
    fold = np.full(len(split.fold), -1, dtype=np.int64)
    folds = min(ROBUST_FOLDS, len(split.training))
    fold[np.random.default_rng([seed, 4]).permutation(split.training)] = np.arange(len(split.training)) % folds
    return RowSplit(method="cross", folds=folds, fold=fold, not_exemplar=np.zeros(len(fold), dtype=np.bool_))


def first_pass_scores(
    ensemble: Ensemble, batch: Batch, split: RowSplit, networks: NetworkAssignment, config: ModelConfig, seed: int
) -> FirstPassScores:
    """Score the training rows by the ensemble of a first pass, and by the same networks with few exemplars and weights of their own."""
    generator = torch.Generator().manual_seed(seed)
    read = ensemble.select_columns(batch)
    chosen, own = choose_exemplars(ensemble.vae, ensemble.views, read, networks.exemplars, FEW_EXEMPLARS, generator, widen=False)
    equal = unit_weights(len(networks.held_out_fold), config.sigma)
    thin = replace(ensemble, exemplars=chosen, weight=equal["weight"], beta=equal["beta"], noise=equal["noise"])
    thin = with_learned_weights(thin, read, own, len(config.views), generator)
    folds = networks.held_out_fold
    all_exemplars, few = (fold_normalized(cross_fit_scores(e, batch, split, folds).numpy(), split.fold) for e in (ensemble, thin))
    return FirstPassScores(all_exemplars=all_exemplars, few=few)


def trim_rows(split: RowSplit, scores: FirstPassScores) -> TrimmedRows:
    """Exclude the training rows above ``outlier_limit`` and use the 5 % with the largest product of scores not as exemplars."""
    rows = split.training
    all_exemplars, few = (np.nan_to_num(s[rows], nan=0.0).clip(LEAST_SCORE) for s in (scores.all_exemplars, scores.few))
    excluded, not_exemplar = np.zeros((2, len(split.fold)), dtype=np.bool_)
    excluded[rows] = all_exemplars > outlier_limit(all_exemplars)
    highest = np.argsort(-np.log(all_exemplars) - np.log(few), kind="stable")[: int(TRIMMED_SHARE * len(rows))]
    not_exemplar[rows[highest]] = True
    return TrimmedRows(excluded=excluded, not_exemplar=not_exemplar & ~excluded)


def exemplar_limit(split: RowSplit, config: ModelConfig) -> int:
    """Return the largest number of exemplars of a network, lower in a robust fit."""
    return config.exemplars if split.not_exemplar is None else min(config.exemplars, ROBUST_EXEMPLARS)


def robust_note(split: RowSplit) -> str:
    """Return the note of the card on how many rows were trimmed and what this means for the threshold."""
    excluded, not_exemplar = (0 if rows is None else int(rows.sum()) for rows in (split.excluded, split.not_exemplar))
    return (
        f"contamination-robust: {excluded:,} outlying training rows were excluded and {not_exemplar:,} more are not used as exemplars; "
        "calibration rows are not trimmed, so anomalies among them raise the threshold: fewer false alarms than alpha, fewer faults found"
    )


def outlier_limit(scores: NDArray[np.float64]) -> float:
    """Return the score that the largest of n scores exceeds with a probability of 1 %, if √score has an exponential tail.

    Scores grow as squares of distances. With r = √score it is the square of r₉₀ + (r₉₀ − r₅₀) / ln 5 · ln(0.1 n / 0.01): a tail
    P(r) = ½ exp(−(r − r₅₀) / b) has r₉₀ − r₅₀ = b ln 5, and n rows have 0.1 n above r₉₀. A few per cent of anomalies hardly change
    either quantile.
    """
    middle, high = np.sqrt(np.quantile(scores, [0.5, 0.9])).tolist()
    return float((high + (high - middle) / math.log(5.0) * max(math.log(0.1 * len(scores) / CHANCE), 0.0)) ** 2)


def fold_normalized(scores: NDArray[np.float64], fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return scores in units of the median of their ``fold`` ``[n]``; NaN: no score.

    A gross anomaly widens the scales of all views estimated from it. Only the networks that leave out its fold have unaffected scales, so
    that they score all rows of this fold higher than other networks score the other rows.
    """
    normalized = np.full(len(scores), np.nan)
    for k in np.unique(fold):
        here = (fold == k) & ~np.isnan(scores)
        if here.any():
            normalized[here] = scores[here] / max(float(np.median(scores[here])), LEAST_MEDIAN)
    return normalized
