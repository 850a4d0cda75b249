"""Exemplar prior: the aggregated posterior of exemplar training rows, and the KL of a row's posterior to it.

The prior of network ``g`` is the mixture Σ_e π_e N(mu_e, s_e²) over its exemplars. The KL of a Gaussian to a mixture has no closed form;
one of two upper bounds is used, deterministic and ≥ 0 because every term is:

- the variational one of Hershey & Olsen (2007, eq. 20), which the nearest exemplar dominates;
- the mean over b groups of exemplars of the least KL in each, by Jensen's inequality a bound of the KL to the equal mixture of these b
  exemplars. It is the nearest neighbour in b subsamples (Sugiyama & Borgwardt 2013), about a mean over the b nearest exemplars with weights
  that fall geometrically, and depends less on single exemplars.

Which of them a network uses is learned at fit (``weighting``).

Letters of shapes: g networks, n rows, e exemplars, m latent units. Costs and KLs are in nats, larger = further from the training rows.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from vae_anomaly.model.vae import OUTPUTS, ROWS, row_product

# Products give costs in bits: a power of 2 takes a third of the time of one of e. Terms 86 bits (60 nats) below the largest add less than
# 1e-22 of a sum; they are cut there because powers that underflow take ten times as long as others.
NAT_IN_BITS = 1.0 / math.log(2.0)
NEGLIGIBLE_BITS = -86.0
# Costs computed at once, as many networks as fit: 4 MB stay in the cache and are not reallocated for every call.
COSTS_AT_ONCE = 1_000_000
# Adaptive bandwidth: nearest neighbours whose mean distance counts.
BANDWIDTH_NEIGHBOURS = 5
# Power of the distance for variances, 0.3 for standard deviations.
LOCAL_POWER = 0.6
# Share of the median distance added to every distance, so that duplicate rows do not get a variance near 0.
LEAST_SHARE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exemplars:
    """Posteriors of exemplar rows: ``mu``, ``logvar`` float32 ``[g, e, m]``, ``log_weight`` float32 ``[g, e]``, −inf for padding."""

    mu: Tensor
    logvar: Tensor
    log_weight: Tensor

    def nets(self, index: Tensor) -> "Exemplars":
        """Return the exemplars of the networks at ``index``."""
        return Exemplars(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriorProduct:
    """Exemplars arranged so that all KLs of a block, in bits, are one matrix product: ``right`` ``[g, 2m, e]``, ``offset`` ``[g, 1, e]``.

    ``centre`` ``[g, 1, m]`` is subtracted from both factors first: squares of smaller numbers lose less precision in float32.
    ``groups`` is the b of each network, 0 = the variational bound, whose costs include −log π_e. Exemplars are padded to a multiple of 4
    (``row_product``) and of b, and with b groups stand group by group: exemplar e is in group e mod b, which spreads neighbours in time
    over the groups.
    """

    right: Tensor
    offset: Tensor
    centre: Tensor
    groups: tuple[int, ...]


def prior_product(exemplars: Exemplars, groups: Tensor | None = None) -> PriorProduct:
    """Arrange exemplars for ``kl_to_prior``; computed in float64, stored in float32.

    ``groups`` int64 ``[g]``: 0 or one number b for all; None: 0.
    """
    used = exemplars.log_weight.exp().to(torch.float64).unsqueeze(-1)
    mu, logvar = exemplars.mu.to(torch.float64), exemplars.logvar.to(torch.float64)
    centre = (mu * used).sum(1, keepdim=True)
    mu, precision = mu - centre, (-logvar).exp()
    right = torch.cat([0.5 * precision, -mu * precision], dim=-1).transpose(1, 2)
    offset = 0.5 * (mu.square() * precision + logvar - 1.0).sum(-1) - exemplars.log_weight.to(torch.float64)
    each = (0,) * len(mu) if groups is None else tuple(groups.tolist())
    if groups is not None:
        offset = offset + torch.where(groups > 0, exemplars.log_weight.amax(-1).to(torch.float64), 0.0).unsqueeze(-1)
    right, offset = right * NAT_IN_BITS, offset * NAT_IN_BITS
    extra = 0, -mu.shape[1] % math.lcm(max(*each, 1), OUTPUTS)
    return PriorProduct(
        right=by_group(functional.pad(right.to(torch.float32), extra), max(each), 0.0).contiguous(),
        offset=by_group(functional.pad(offset.to(torch.float32), extra, value=torch.inf).unsqueeze(1), max(each), torch.inf).contiguous(),
        centre=centre.to(torch.float32),
        groups=each,
    )


def by_group(values: Tensor, groups: int, padding: float) -> Tensor:
    """Pad the last axis to a multiple of ``groups`` and order it group by group, exemplar e in group e mod ``groups``."""
    if not groups:
        return values
    padded = functional.pad(values, (0, -values.shape[-1] % groups), value=padding)
    return padded.view(*values.shape[:-1], -1, groups).transpose(-1, -2).flatten(-2)


def _place(own: Tensor, prior: PriorProduct) -> Tensor:
    """Return where exemplars ``own`` stand in the product; −1 stays."""
    groups = max(prior.groups)
    if not groups:
        return own
    return torch.where(own >= 0, own % groups * (prior.offset.shape[-1] // groups) + own // groups, own)


def adapt_bandwidths(exemplars: Exemplars) -> Exemplars:
    """Return the exemplars with adaptive bandwidths (Breiman, Meisel & Purcell 1977): variances times (ρ_e / median ρ)^0.6.

    ρ_e is the mean over the five nearest other exemplars of √(2 KL(q_e ‖ q_k)), a distance in posterior standard deviations. The same
    step away from the data is then less surprising where data are sparse.
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
    """Return the KL of N(mu, e^logvar) to the mixture of exemplars, nats, ``[g, n, m] → [g, n]``.

    −log Σ_e π_e exp(−KL(q ‖ q_e)) (Hershey & Olsen 2007), or for a network with b ``groups`` the mean over them of the least KL(q ‖ q_e).
    ``own`` int64 ``[g, n]``: position of a training row among the exemplars, −1 = none; a row leaves its own exemplar out, and the weights
    of the others are rescaled to sum to 1.
    """
    place = None if own is None else _place(own, prior)
    rows = rows_at_once(prior.offset.shape[-1])
    left = torch.split(_left(mu, logvar, prior), rows, dim=1)
    places = [None] * len(left) if place is None else torch.split(place, rows, dim=1)
    one = left[0].shape[1] * prior.offset.shape[-1]  # costs of a network
    buffer = mu.new_empty(max(one, min(COSTS_AT_ONCE, len(mu) * one)))  # allocated again and again it is slow
    least = torch.cat([_least_costs(some, prior, at, buffer) for some, at in zip(left, places, strict=True)], dim=1)
    if own is not None:
        count = torch.isfinite(prior.offset).sum(-1).clamp_min(2).to(mu.dtype)
        mixed = torch.tensor(prior.groups, device=own.device).unsqueeze(-1) == 0
        least = least - torch.where((own >= 0) & mixed, (count / (count - 1.0)).log(), 0.0)
    return least - _entropy(logvar)


def _least_costs(left: Tensor, prior: PriorProduct, place: Tensor | None, buffer: Tensor) -> Tensor:
    """Return what ``_least`` gives for rows ``[g, n, 2m]``, in nats, ``[g, n]``: as many networks at once as the ``buffer`` holds."""
    costs = left.shape[1], prior.offset.shape[-1]
    nets = len(buffer) // (costs[0] * costs[1])
    split = (torch.split(t, nets) for t in (left, prior.right, prior.offset))
    places = [None] * -(-len(left) // nets) if place is None else torch.split(place, nets)
    outs = (buffer[: len(x) * costs[0] * costs[1]].view(len(x), *costs) for x in torch.split(left, nets))
    parts = (_without_own(row_product(x, r, o, out=out), at) for x, r, o, out, at in zip(*split, outs, places, strict=True))
    return torch.cat([_least(costs, prior.groups[i * nets : (i + 1) * nets]) for i, costs in enumerate(parts)]).div_(NAT_IN_BITS)


def _least(costs: Tensor, groups: tuple[int, ...]) -> Tensor:
    """Return the soft minimum of costs in bits ``[g, n, e]``, or with groups the mean of their minima; overwrites ``costs``."""
    if not any(groups):
        return _soft_minimum(costs)
    parts = zip(torch.split(costs, 1), groups, strict=True)
    return torch.cat([one.view(*one.shape[:2], b, -1).amin(-1).mean(-1) if b else _soft_minimum(one) for one, b in parts])


def _without_own(costs: Tensor, own: Tensor | None) -> Tensor:
    """Return costs ``[g, n, e]`` with those of a row to its own exemplar set to infinity."""
    if own is None:
        return costs
    return costs.scatter_add(-1, own.clamp_min(0).unsqueeze(-1), torch.where(own >= 0, torch.inf, 0.0).unsqueeze(-1))


def _soft_minimum(costs: Tensor) -> Tensor:
    """Return −log2 Σ 2^(−costs) over the last axis; overwrites ``costs``."""
    least, powers = relative_powers(costs)
    return least.squeeze(-1) - powers.sum(-1).log2()


def relative_powers(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least of costs in bits ``[g, n, e]``, ``[g, n, 1]``, and 2^(least − cost) of each; overwrites ``costs``."""
    least = costs.amin(-1, keepdim=True)
    return least, torch.sub(least, costs, out=costs).clamp_min_(NEGLIGIBLE_BITS).exp2_()


def rows_at_once(costs: int) -> int:
    """Return of how many rows ``COSTS_AT_ONCE`` holds the costs, so many of each: a multiple of ``ROWS``, ``ROWS`` at least."""
    return max(1, COSTS_AT_ONCE // (costs * ROWS)) * ROWS


def exemplar_costs(mu: Tensor, logvar: Tensor, prior: PriorProduct) -> Tensor:
    """Return KL(q ‖ q_e) − log π_e for every row and exemplar, nats, ``[g, n, e]``."""
    return row_product(_left(mu, logvar, prior), prior.right, prior.offset) / NAT_IN_BITS - _entropy(logvar).unsqueeze(-1)


def _left(mu: Tensor, logvar: Tensor, prior: PriorProduct) -> Tensor:
    centred = mu - prior.centre
    return torch.cat([logvar.exp() + centred.square(), centred], dim=-1)


def _entropy(logvar: Tensor) -> Tensor:
    """Return the entropy of each row's posterior up to a constant, ``[g, n]``."""
    return 0.5 * logvar.sum(-1)


def equal_log_weights(counts: Tensor, width: int) -> Tensor:
    """Return log weights ``[g, width]``: those of 1/counts[g] for the first ``counts[g]`` exemplars, −inf for padding."""
    position = torch.arange(width).unsqueeze(0)
    return torch.where(position < counts.unsqueeze(1), -counts.to(torch.float32).log().unsqueeze(1), -math.inf)
