"""The aggregated posterior of exemplar training rows as the prior, and the KL of a row's posterior to it.

The prior of network ``g`` is the mixture Σ_n π_n N(mu_n, s_n²) over its exemplars. The KL of a Gaussian to a mixture has no closed
form; used is the variational upper bound of Hershey & Olsen (2007, eq. 20), deterministic and ≥ 0 because every term is.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

NEGLIGIBLE_NATS = -60.0
# Costs that are held at once, as many networks as fit: 2 MB stay in the cache, and memory that large is not asked for anew each time.
COSTS_AT_ONCE = 500_000
# How the spread of an exemplar follows the distance to its neighbours: five of them, a power of 0.3 for lengths, and 3 % of the median
# distance, so that twins do not make a needle.
BANDWIDTH_NEIGHBOURS = 5
LOCAL_POWER = 0.6
LEAST_SHARE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exemplars:
    """Posteriors of exemplar rows: ``mu``, ``logvar`` float32 ``[g, n, m]``, ``log_weight`` float32 ``[g, n]`` (−inf: not used)."""

    mu: Tensor
    logvar: Tensor
    log_weight: Tensor

    def nets(self, index: Tensor) -> "Exemplars":
        """Return the exemplars of the networks at ``index``."""
        return Exemplars(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriorProduct:
    """The exemplars arranged so that all KLs of a block are one matrix product: ``right`` ``[g, 2m, n]``, ``offset`` ``[g, 1, n]``.

    ``centre`` ``[g, 1, m]`` is taken from both sides first: squares of smaller numbers lose less in float32.
    """

    right: Tensor
    offset: Tensor
    centre: Tensor


def prior_product(exemplars: Exemplars) -> PriorProduct:
    """Arrange exemplars for ``kl_to_prior``; computed in float64, kept in float32."""
    used = exemplars.log_weight.exp().to(torch.float64).unsqueeze(-1)
    mu, logvar = exemplars.mu.to(torch.float64), exemplars.logvar.to(torch.float64)
    centre = (mu * used).sum(1, keepdim=True)
    mu, precision = mu - centre, (-logvar).exp()
    right = torch.cat([0.5 * precision, -mu * precision], dim=-1).transpose(1, 2)
    offset = 0.5 * (mu.square() * precision + logvar - 1.0).sum(-1) - exemplars.log_weight.to(torch.float64)
    return PriorProduct(
        right=right.to(torch.float32).contiguous(),
        offset=offset.to(torch.float32).unsqueeze(1),
        centre=centre.to(torch.float32),
    )


def widened(exemplars: Exemplars) -> Exemplars:
    """Widen every exemplar where its neighbours are far and narrow it where they are near: variances times (ρ_n / median ρ)^0.6.

    ρ_n is the mean over the five nearest other exemplars of √(2 KL(q_n ‖ q_k)), a distance in posterior standard deviations. An adaptive
    kernel (Breiman, Meisel & Purcell 1977): the same step away from the data is less of a surprise where data are sparse.
    """
    logvar = exemplars.logvar.clone()
    for g, log_weight in enumerate(exemplars.log_weight):
        used = int(torch.isfinite(log_weight).sum())
        if used > 1:
            one = exemplars.nets(torch.tensor([g]))
            logvar[g, :used] += _log_spread(one, used).unsqueeze(-1)
    return Exemplars(mu=exemplars.mu, logvar=logvar, log_weight=exemplars.log_weight)


def _log_spread(one: Exemplars, used: int) -> Tensor:
    costs = exemplar_costs(one.mu[:, :used], one.logvar[:, :used], prior_product(one))[0, :, :used] + one.log_weight[0, :used]
    costs.fill_diagonal_(torch.inf)
    near = (2.0 * costs.topk(min(BANDWIDTH_NEIGHBOURS, used - 1), largest=False).values).clamp_min(0.0).sqrt().mean(-1)
    near = near + LEAST_SHARE * near.median()
    return LOCAL_POWER * (near / near.median().clamp_min(1e-12)).clamp_min(1e-6).log()


def kl_to_prior(mu: Tensor, logvar: Tensor, prior: PriorProduct, own: Tensor | None = None) -> Tensor:
    """KL of N(mu, e^logvar) to the mixture of exemplars, nats, ``[g, n, m] → [g, n]``, larger = further from the training rows.

    −log Σ_n π_n exp(−KL(q ‖ q_n)) (Hershey & Olsen 2007). ``own[g, n]`` is the place of the row among the exemplars, −1 where it is
    none: a training row leaves itself out, the weights of the others then sum to 1 again.
    """
    nets = max(1, COSTS_AT_ONCE // (mu.shape[1] * prior.offset.shape[-1]))
    split = (torch.split(t, nets) for t in (_left(mu, logvar, prior), prior.right, prior.offset))
    places = [None] * -(-len(mu) // nets) if own is None else torch.split(own, nets)
    least = torch.cat([_soft_minimum(_without(torch.baddbmm(o, x, r), at)) for x, r, o, at in zip(*split, places, strict=True)])
    if own is not None:
        count = torch.isfinite(prior.offset).sum(-1).clamp_min(2).to(mu.dtype)
        least = least - torch.where(own >= 0, (count / (count - 1.0)).log(), 0.0)
    return least - _entropy(logvar)


def _without(costs: Tensor, own: Tensor | None) -> Tensor:
    """Return costs ``[g, rows, n]`` in which a row is not near to itself."""
    if own is None:
        return costs
    return costs.scatter_add(-1, own.clamp_min(0).unsqueeze(-1), torch.where(own >= 0, torch.inf, 0.0).unsqueeze(-1))


def _soft_minimum(costs: Tensor) -> Tensor:
    """Return −log Σ exp(−costs) over the last axis; overwrites ``costs``.

    What lies more than 60 nats above the least adds below 1e-22 of the sum; it is cut there because exponentials that underflow cost
    ten times as much as others.
    """
    least = costs.amin(-1, keepdim=True)
    total = torch.sub(least, costs, out=costs).clamp_min_(NEGLIGIBLE_NATS).exp_().sum(-1)
    return least.squeeze(-1) - total.log()


def exemplar_costs(mu: Tensor, logvar: Tensor, prior: PriorProduct) -> Tensor:
    """Return KL(q ‖ q_n) − log π_n for every row and exemplar, nats, ``[g, rows, n]``."""
    return torch.baddbmm(prior.offset, _left(mu, logvar, prior), prior.right) - _entropy(logvar).unsqueeze(-1)


def _left(mu: Tensor, logvar: Tensor, prior: PriorProduct) -> Tensor:
    centred = mu - prior.centre
    return torch.cat([logvar.exp() + centred.square(), centred], dim=-1)


def _entropy(logvar: Tensor) -> Tensor:
    """Return what depends on the row alone, without its constant ``[g, rows]``."""
    return 0.5 * logvar.sum(-1)


def equal_weights(counts: Tensor, width: int) -> Tensor:
    """Return log weights ``[g, width]``: 1/count for the first ``counts[g]`` exemplars, −inf for the padding."""
    place = torch.arange(width).unsqueeze(0)
    return torch.where(place < counts.unsqueeze(1), -counts.to(torch.float32).log().unsqueeze(1), -math.inf)
