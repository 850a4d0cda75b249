"""Ensemble weights: the weight of each network in the score and the weight of its KL term (beta), estimated from training rows.

The KL to the exemplars is a distance to the nearest training rows. It separates anomalies where rows form clusters or lie on a manifold.
It separates little where rows are few for their dimension or fill a region evenly: the midpoint of two unrelated rows is then as near to
the exemplars as a normal row. There the reconstruction gets more weight.

Letters of shapes: g networks, n rows, e exemplars, w steps of a window (1), d columns. "Weights" here are weights of networks in the score.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vae_anomaly.model.ensemble import Ensemble, net_terms
from vae_anomaly.model.imputation import impute_by_decoding
from vae_anomaly.model.scaling import cells_per_network
from vae_anomaly.schema.encoding import Batch

# Exemplars whose leave-one-out scores set the weights.
WEIGHING_ROWS = 2000
# Quantile of these scores that measures the level of a term.
HIGH = 0.9
# Least decoder scale in units of the view: a smaller error means that the network memorized its rows.
LEAST_NOISE = 0.05
# Weight of the reconstruction relative to the KL, both at their 90 % quantiles, when a midpoint is nearer than a row in half of the cases.
EVEN_SHARE = 0.3
# Power of the odds that a midpoint is nearer.
POWER = 4
# Largest weight of the reconstruction relative to the KL.
MOST_SHARE = 3.0


def unit_weights(nets: int, sigma: float) -> dict[str, Tensor]:
    """Return weight, beta and noise of ``nets`` networks before they are learned: equal weights and the literal ELBO."""
    ones = torch.ones(nets, dtype=torch.float64)
    return {"weight": ones, "beta": ones, "noise": torch.full((nets,), sigma)}


def with_learned_weights(ensemble: Ensemble, read: Batch, own: Tensor, views: int, generator: torch.Generator) -> Ensemble:
    """Return an ensemble of unit weights with the noise, then the weights and betas learned from its exemplars ``own`` ``[g, e]``."""
    if ensemble.likelihood == "student-t":
        ensemble = replace(ensemble, noise=learn_noise(ensemble, read, own))
    weight, beta = learn_weights(ensemble, read, own, views, generator)
    return replace(ensemble, weight=weight, beta=beta)


@torch.no_grad()
def learn_noise(ensemble: Ensemble, read: Batch, own: Tensor) -> Tensor:
    """Return the root mean square error of numbers over the exemplars ``own`` ``[g, e]``, in units of the view, float32 ``[g]``, ≥ 0.05."""
    numbers = slice(0, ensemble.layout.window * ensemble.layout.numeric)
    count = min(WEIGHING_ROWS, int((own >= 0).sum(-1).min()))
    cells = cells_per_network(ensemble.views, ensemble.layout, read.rows(own[:, :count]))
    out = ensemble.vae.decode(ensemble.vae.encode(impute_by_decoding(ensemble.vae, ensemble.views, cells).units)[0])
    seen = cells.observed[..., numbers]
    square = (out[..., numbers] - cells.units[..., numbers]).square().to(torch.float64) * seen
    return (square.sum((1, 2)) / seen.sum((1, 2)).clamp_min(1)).sqrt().clamp_min(LEAST_NOISE).to(torch.float32)


@torch.no_grad()
def learn_weights(ensemble: Ensemble, read: Batch, own: Tensor, views: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the weight of every network, w_v / members, and its beta, both float64 ``[g]``.

    ``ensemble`` has weights and betas of 1. ``own`` int64 ``[g, e]`` are the rows of ``read`` that are its exemplars, −1 = padding; scores
    are measured on them, each leaving itself out. A weight is 1 / (90 % quantile of the network's score), scaled so that the mean of w_v
    over the ``views`` is 1: scores are in nats of the average view. Beta is 1, the literal ELBO, or less where the KL separates little.
    """
    count = min(WEIGHING_ROWS, int((own >= 0).sum(-1).min()))
    picked, position = read.rows(own[:, :count]), torch.arange(count).expand(len(own), count)
    reconstruction, kl = _terms(ensemble, picked, position)
    beta = torch.ones(len(own), dtype=torch.float64)
    if ensemble.prior == "exemplar" and count > 1:
        _, between = _terms(ensemble, midpoints(picked, generator), position)
        beta = 1.0 / (1.0 + reconstruction_share(kl, between) * _quantile_90(kl) / _quantile_90(reconstruction))
    inverse = (1.0 / _quantile_90(reconstruction + beta.unsqueeze(-1) * kl)).view(views, -1)
    return (inverse / inverse.mean(0, keepdim=True) / inverse.shape[1]).flatten(), beta


def reconstruction_share(kl: Tensor, between: Tensor) -> Tensor:
    """Return the weight of the reconstruction relative to the KL, ``[g]``, from the KL of rows and of midpoints, both ``[g, n]``.

    0.3 · (q / (1 − q))⁴, at most 3, with q the probability that a midpoint has a smaller KL than a row (the Mann-Whitney statistic).
    """
    nearer = 1.0 - torch.searchsorted(kl.sort(-1).values, between).to(torch.float64).mean(-1) / kl.shape[-1]
    return (EVEN_SHARE * (nearer / (1.0 - nearer).clamp_min(1e-9)).pow(POWER)).clamp_max(MOST_SHARE)


def midpoints(picked: Batch, generator: torch.Generator) -> Batch:
    """Return the midpoint of each row ``[g, n, w, d]`` and another random row of its network; a level is that of either row.

    A cell is observed if it is in both rows.
    """
    nets, count = picked.observed.shape[:2]
    shift = torch.randint(1, count, (nets, count), generator=generator)
    other = (torch.arange(count) + shift) % count
    far = Batch(**{name: _each(getattr(picked, name), other) for name in Batch.__slots__})
    either = torch.randint(2, picked.codes.shape, generator=generator) > 0
    return Batch(
        numeric=0.5 * picked.numeric + 0.5 * far.numeric,
        codes=torch.where(either, picked.codes, far.codes),
        observed=picked.observed & far.observed,
    )


def _each(values: Tensor, index: Tensor) -> Tensor:
    return values[torch.arange(len(index)).unsqueeze(1), index]


def _terms(ensemble: Ensemble, picked: Batch, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return reconstruction and KL of separate rows for each network, nats, float64 ``[g, n]``; ``own``: their exemplar positions."""
    cells = impute_by_decoding(ensemble.vae, ensemble.views, cells_per_network(ensemble.views, ensemble.layout, picked))
    nll, kl = net_terms(ensemble, cells, own)
    return nll.sum(-1), kl


def _quantile_90(values: Tensor) -> Tensor:
    return torch.quantile(values, HIGH, dim=-1).clamp_min(1e-9)
