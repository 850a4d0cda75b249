"""Ensemble weights: how much each network counts, and the KL bound that it uses, learned from training rows alone.

Which view of the rows separates anomalies, and whether the nearest exemplar does it better or the nearest of each of ten groups, differs
from table to table. There are no anomalies to learn it from, but made ones: midpoints of two rows, rows with some cells of another row,
and rows scaled away from the centre. In the input units of each view, the probability that such a row is farther from the exemplars than a
real one is measured for both distances. What these probabilities say about real anomalies was learned once, as ``EVIDENCE``, on tables
with known anomalies (``benchmarks/detection.py``, which also shows what it is worth on tables that were left out).

Letters of shapes: g networks, n rows, e exemplars, w steps of a window (1), d columns, u input units. "Weights" here are weights of
networks in the score.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vae_anomaly.model.ensemble import Ensemble, net_terms
from vae_anomaly.model.imputation import impute_by_decoding, unit_observed
from vae_anomaly.model.prior import by_group
from vae_anomaly.model.scaling import cells_per_network
from vae_anomaly.model.vae import Cells, Layout
from vae_anomaly.schema.encoding import Batch

# Exemplars whose leave-one-out scores set the weights.
WEIGHING_ROWS = 2000
# Rows of which made rows are compared with real ones: a probability is then known to two per cent.
COMPARED_ROWS = 1000
# Quantile of these scores that measures the level of a term.
HIGH = 0.9
# Least decoder scale in units of the view: a smaller error means that the network memorized its rows.
LEAST_NOISE = 0.05
# Groups of exemplars of the second bound of the KL.
GROUPS = 10
# Share of the cells that a swapped row has from another row, at least one and a half of them on average.
SWAPPED = 0.2
# Weight of a nat of KL beside one of reconstruction, at most. A decoder scale of 0.05 makes KLs four times those of 0.1.
MOST_BETA = 0.25
# Least weight of the reconstruction relative to the KL, both at their 90 % quantiles: else it may be a thousandth, and with it the cost of
# an unseen level.
LEAST_RECONSTRUCTION = 0.03
# Probability of either row's level in a midpoint.
HALF = 0.5
# Factor of the distance to the centre in a scaled row.
FARTHER = 1.5
# Log odds of a view and bound for each unit of evidence: the normal quantiles of the probabilities for midpoints, swapped and scaled rows.
EVIDENCE = (8.0, 20.0, 20.0)
# Log odds of the mean over groups before there is any evidence.
SEVERAL = 4.0
# Probabilities are kept this far from 0 and 1, where their normal quantiles would say more than the rows can.
LEAST_CHANCE = 0.002


def unit_weights(nets: int, sigma: float) -> dict[str, Tensor]:
    """Return weight, beta and noise of ``nets`` networks before they are learned: equal weights and the literal ELBO."""
    ones = torch.ones(nets, dtype=torch.float64)
    return {"weight": ones, "beta": ones, "noise": torch.full((nets,), sigma)}


def with_learned_weights(
    ensemble: Ensemble, read: Batch, own: Tensor, views: int, generator: torch.Generator, *, least: float = LEAST_RECONSTRUCTION
) -> Ensemble:
    """Return an ensemble of unit weights with the noise, the KL bounds and the weights learned from its exemplars ``own`` ``[g, e]``.

    ``least``: weight of the reconstruction relative to the KL, at least, both at their 90 % quantiles.
    """
    if ensemble.likelihood == "student-t":
        ensemble = replace(ensemble, noise=learn_noise(ensemble, read, own))
    log_odds = torch.zeros(len(own), dtype=torch.float64)
    if ensemble.prior == "exemplar":
        groups, log_odds = choose_bounds(ensemble, read, own, generator)
        ensemble = replace(ensemble, groups=groups)
    weight, beta = learn_weights(ensemble, read, own, torch.softmax(log_odds.view(views, -1), 0), least=least)
    return replace(ensemble, weight=weight, beta=beta)


@torch.no_grad()
def learn_noise(ensemble: Ensemble, read: Batch, own: Tensor) -> Tensor:
    """Return the root mean square error of numbers over the exemplars ``own`` ``[g, e]``, in units of the view, float32 ``[g]``, ≥ 0.05."""
    numbers = slice(0, ensemble.layout.window * ensemble.layout.numeric)
    count = min(WEIGHING_ROWS, int((own >= 0).sum(-1).min()))
    cells = imputed_cells(ensemble, read, own[:, :count])
    out = ensemble.vae.decode(ensemble.vae.encode(cells.units)[0])
    seen = cells.observed[..., numbers]
    square = (out[..., numbers] - cells.units[..., numbers]).square().to(torch.float64) * seen
    return (square.sum((1, 2)) / seen.sum((1, 2)).clamp_min(1)).sqrt().clamp_min(LEAST_NOISE).to(torch.float32)


@torch.no_grad()
def learn_weights(
    ensemble: Ensemble, read: Batch, own: Tensor, chance: Tensor, *, least: float = LEAST_RECONSTRUCTION
) -> tuple[Tensor, Tensor]:
    """Return the weight of every network, w_v / members, and its beta, both float64 ``[g]``.

    ``ensemble`` has weights and betas of 1; ``chance`` ``[v, members]``: that the view is the best. ``own`` int64 ``[g, e]`` are the rows
    of ``read`` that are its exemplars, −1 = padding; scores are measured on them, each leaving itself out. A weight is chance / (90 %
    quantile of the network's score), scaled so that the mean of w_v over the views is 1: scores are in nats of the average view. Beta is
    1/4 or as much less as gives the reconstruction its ``least`` share; 1 with the standard prior, the literal ELBO.
    """
    count = min(WEIGHING_ROWS, int((own >= 0).sum(-1).min()))
    nll, kl = net_terms(ensemble, imputed_cells(ensemble, read, own[:, :count]), torch.arange(count).expand(len(own), count))
    reconstruction = nll.sum(-1)
    beta = torch.ones(len(own), dtype=torch.float64)
    if ensemble.prior == "exemplar":
        beta = (_quantile_90(reconstruction) / (least * _quantile_90(kl))).clamp_max(MOST_BETA)
    weight = chance / _quantile_90(reconstruction + beta.unsqueeze(-1) * kl).view_as(chance)
    return (weight / weight.mean(0, keepdim=True) / weight.shape[1]).flatten(), beta


@torch.no_grad()
def choose_bounds(ensemble: Ensemble, read: Batch, own: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the groups of the KL of every network, int64 ``[g]``, and the log odds of its view with them, float64 ``[g]``."""
    groups = min(GROUPS, int((own >= 0).sum(-1).min()) // 2)  # a group has an exemplar besides one that is left out
    if not groups:
        return torch.zeros(len(own), dtype=torch.int64), torch.zeros(len(own), dtype=torch.float64)
    odds = []
    for g, rows in enumerate(own):
        one = ensemble.nets(torch.tensor([g]))
        units = imputed_cells(one, read, rows[rows >= 0][:WEIGHING_ROWS].unsqueeze(0)).units[0]
        odds.append(log_odds(evidence_of(units, columns_of(ensemble.layout), groups, generator)))
    best = torch.stack(odds).max(-1)
    return best.indices * groups, best.values


def log_odds(evidence: Tensor) -> Tensor:
    """Return the log odds, up to a constant, that each of the two bounds in a view finds anomalies best, float64 ``[2, 3] → [2]``."""
    prior = torch.tensor([0.0, SEVERAL], dtype=torch.float64)
    return evidence @ torch.tensor(EVIDENCE, dtype=torch.float64) + prior


def evidence_of(units: Tensor, columns: tuple[Tensor, Tensor], groups: int, generator: torch.Generator) -> Tensor:
    """Return how well the distance to one row ``[0]``, or its mean over groups ``[1]``, tells made rows from real ones, float64 ``[2, 3]``.

    The normal quantile of the probability that a made row is farther, for midpoints, swapped and scaled rows. ``units`` float32 ``[n, u]``
    are the rows; ``columns`` as in ``made_rows``.
    """
    some = min(COMPARED_ROWS, len(units))
    real = _distances(units, units[:some], groups)
    made = made_rows(units, columns, some, generator)
    return torch.stack([_probit(real, _distances(units, kind, groups)) for kind in made], -1)


def made_rows(units: Tensor, columns: tuple[Tensor, Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return anomalies made of the first ``count`` of the rows ``[n, u]``: midpoints, swapped cells and scaled rows, each ``[count, u]``.

    ``columns``: those of ``columns_of``. A midpoint has each level of either row; levels are not scaled.
    """
    column, number = columns
    here, there = units[:count], units[(torch.arange(count) + torch.randint(1, len(units), (count,), generator=generator)) % len(units)]
    cells = count, int(column.max()) + 1
    either = (torch.rand(cells, generator=generator) < HALF)[:, column]
    swapped = (torch.rand(cells, generator=generator) < max(SWAPPED, 1.5 / cells[1]))[:, column]
    centre = units.mean(0)
    middle = torch.where(number, 0.5 * (here + there), torch.where(either, here, there))
    return middle, torch.where(swapped, there, here), torch.where(number, centre + FARTHER * (here - centre), here)


def _distances(rows: Tensor, made: Tensor, groups: int) -> Tensor:
    """Return the squared distance of ``made[i]`` to the nearest of all rows but the i-th, and the mean over groups, float64 ``[2, n]``."""
    square = torch.cdist(made.to(torch.float64), rows.to(torch.float64)).square()
    square[torch.arange(len(made)), torch.arange(len(made))] = torch.inf
    least = by_group(square, groups, torch.inf).view(len(made), groups, -1).amin(-1)
    return torch.stack([least.amin(-1), least.mean(-1)])


def _probit(real: Tensor, made: Tensor) -> Tensor:
    """Return the normal quantile of the probability that a made row is farther than a real one, ties half; ``[2, n]`` each, → ``[2]``."""
    ordered = real.sort(-1).values
    below = torch.searchsorted(ordered, made) + torch.searchsorted(ordered, made, right=True)
    chance = 0.5 * below.to(torch.float64).mean(-1) / real.shape[-1]
    quantile: Tensor = torch.special.ndtri(chance.clamp(LEAST_CHANCE, 1.0 - LEAST_CHANCE))
    return quantile


def columns_of(layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the column of each unit, int64 ``[u]``, and whether it is a number, bool ``[u]``."""
    return unit_observed(torch.arange(layout.cells), layout), torch.arange(layout.units) < layout.window * layout.numeric


def imputed_cells(ensemble: Ensemble, read: Batch, rows: Tensor) -> Cells:
    """Return the rows ``rows[g, n]`` as the networks read them, missing cells imputed by decoding."""
    cells = cells_per_network(ensemble.views, ensemble.layout, read.rows(rows))
    return impute_by_decoding(ensemble.vae, ensemble.views, cells)


def _quantile_90(values: Tensor) -> Tensor:
    return torch.quantile(values, HIGH, dim=-1).clamp_min(1e-9)
