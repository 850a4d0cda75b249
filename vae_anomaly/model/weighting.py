"""How loud each network speaks, and how loud its reconstruction beside its KL; from normal rows alone.

The KL to the exemplars is a distance to the nearest rows. Where the rows lie in clumps or on a curve, the way to the nearest row says
how odd a row is. Where there are too few rows for their number of directions, or where they fill a region evenly, it says little: the
midpoint of two rows that have nothing to do with each other is then as near to the exemplars as a normal row. There what the network
can reconstruct must say more.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vae_anomaly.model.ensemble import Ensemble, net_terms
from vae_anomaly.model.imputation import settle_missing
from vae_anomaly.model.scaling import cells_of_each
from vae_anomaly.schema.encoding import Batch

# Training rows whose leave-one-out scores set the weights, by this quantile of them.
WEIGHING_ROWS = 2000
HIGH = 0.9
# Less noise than this, in units of the view, is a network that knows its rows by heart.
LEAST_NOISE = 0.05
# Reconstruction counts this much of the KL, both at their 90 % quantiles, where a midpoint is as often nearer than a row as further; it
# follows the fourth power of the odds, and three times the KL is the most.
EVEN_SHARE = 0.3
POWER = 4
MOST_SHARE = 3.0


def unweighed(nets: int, sigma: float) -> dict[str, Tensor]:
    """Return what an ensemble of ``nets`` networks has before it is weighed: the literal score, every network alike."""
    ones = torch.ones(nets, dtype=torch.float64)
    return {"weight": ones, "beta": ones, "noise": torch.full((nets,), sigma)}


def weighed(ensemble: Ensemble, read: Batch, own: Tensor, views: int, generator: torch.Generator) -> Ensemble:
    """Return an ensemble whose weights and betas were 1 with those that ``learn_weights`` finds; the noise first, they depend on it."""
    if ensemble.likelihood == "student-t":
        ensemble = replace(ensemble, noise=learn_noise(ensemble, read, own))
    weight, beta = learn_weights(ensemble, read, own, views, generator)
    return replace(ensemble, weight=weight, beta=beta)


@torch.no_grad()
def learn_noise(ensemble: Ensemble, read: Batch, own: Tensor) -> Tensor:
    """Return the root mean square of x − x̂ over the numbers of the rows ``own`` ``[g, n]`` of each network, float32 ``[g]``.

    In units of the view, at least 0.05.
    """
    numbers = slice(0, ensemble.layout.window * ensemble.layout.numeric)
    count = min(WEIGHING_ROWS, int((own >= 0).sum(-1).min()))
    cells = cells_of_each(ensemble.views, ensemble.layout, read.rows(own[:, :count]))
    out = ensemble.vae.decode(ensemble.vae.encode(settle_missing(ensemble.vae, ensemble.views, cells).units)[0])
    seen = cells.observed[..., numbers]
    square = (out[..., numbers] - cells.units[..., numbers]).square().to(torch.float64) * seen
    return (square.sum((1, 2)) / seen.sum((1, 2)).clamp_min(1)).sqrt().clamp_min(LEAST_NOISE).to(torch.float32)


@torch.no_grad()
def learn_weights(ensemble: Ensemble, read: Batch, own: Tensor, views: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the weight of every network, w_v / members, and the beta of its KL, float64 ``[g]``.

    ``ensemble`` has weights and betas of 1. ``own`` int64 ``[g, n]`` are the rows of ``read`` that are its exemplars, −1 = padding; all
    is measured on them, each leaving itself out. A weight is one over the 90 % quantile of the score of its network, scaled so that the
    mean of w_v over the ``views`` is 1: nats of the average view. A beta is 1, the literal ELBO, and less where distances say little;
    so a score stays in nats of what can be reconstructed there, which all networks of a view agree on.
    """
    count = min(WEIGHING_ROWS, int((own >= 0).sum(-1).min()))
    picked, place = read.rows(own[:, :count]), torch.arange(count).expand(len(own), count)
    reconstruction, kl = _terms(ensemble, picked, place)
    beta = torch.ones(len(own), dtype=torch.float64)
    if ensemble.prior == "exemplar" and count > 1:
        _, between = _terms(ensemble, midpoints(picked, generator), place)
        beta = 1.0 / (1.0 + share_of_reconstruction(kl, between) * _high(kl) / _high(reconstruction))
    loud = (1.0 / _high(reconstruction + beta.unsqueeze(-1) * kl)).view(views, -1)
    return (loud / loud.mean(0, keepdim=True) / loud.shape[1]).flatten(), beta


def share_of_reconstruction(kl: Tensor, between: Tensor) -> Tensor:
    """Return how loud reconstruction should be beside the KL, ``[g]``, from the KL of rows ``[g, n]`` and of midpoints ``[g, n]``.

    0.3 · (q / (1 − q))⁴, at most 3, with q the chance that a midpoint is nearer to the exemplars than a row (Mann & Whitney's statistic).
    """
    nearer = 1.0 - torch.searchsorted(kl.sort(-1).values, between).to(torch.float64).mean(-1) / kl.shape[-1]
    return (EVEN_SHARE * (nearer / (1.0 - nearer).clamp_min(1e-9)).pow(POWER)).clamp_max(MOST_SHARE)


def midpoints(picked: Batch, generator: torch.Generator) -> Batch:
    """Return, for each row of ``[g, n, w, d]``, the midpoint to another row of its network drawn at random; levels come from either.

    A cell is observed where it is in both.
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


def _terms(ensemble: Ensemble, picked: Batch, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return reconstruction and KL ``[g, n]`` of rows of which every network has its own, nats, float64."""
    cells = settle_missing(ensemble.vae, ensemble.views, cells_of_each(ensemble.views, ensemble.layout, picked))
    nll, kl = net_terms(ensemble, cells, place)
    return nll.sum(-1), kl


def _high(values: Tensor) -> Tensor:
    return torch.quantile(values, HIGH, dim=-1).clamp_min(1e-9)
