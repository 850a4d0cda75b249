"""Imputation: the expected value of a cell given the observed cells of its row; and the exemplars from which it is imputed.

Kernel regression over the decoded exemplars in the input units of each network, with weights exp(−‖x − x_e‖² / 2h²) over observed cells
only (Nadaraya 1964; Watson 1964).

Letters of shapes: g networks, n rows, e exemplars, u input units, w·d cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_anomaly.model.prior import NAT_IN_BITS, Exemplars, adapt_bandwidths, equal_log_weights, relative_powers, rows_at_once
from vae_anomaly.model.scaling import Views, gather_cells
from vae_anomaly.model.vae import Cells, Layout, Vae, expected_units, row_product
from vae_anomaly.schema.encoding import Batch

# Exemplars used for the bandwidth: the mean of 500 nearest-neighbour distances is good to a few per cent.
BANDWIDTH_ROWS = 500
# Rounds of decoding and filling for rows with missing cells, which have no exemplars yet to be imputed from.
FILL_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellBank:
    """Decoded exemplars: ``units`` float32 ``[g, e, u]``, ``log_weight`` ``[g, e]`` and the kernel's ``variance`` h² ``[g, 1, 1]``."""

    units: Tensor
    log_weight: Tensor
    variance: Tensor


@torch.no_grad()
def cell_bank(vae: Vae, views: Views, exemplars: Exemplars) -> CellBank:
    """Decode the exemplars; the variance of the kernel is their mean squared distance to the nearest other exemplar."""
    units = expected_units(vae.layout, vae.decode(exemplars.mu))
    numeric = units.shape[-1] - views.mean.shape[-1]
    units[..., numeric:] = (units[..., numeric:] - views.mean.unsqueeze(1)) / views.spread.unsqueeze(1)
    step = max(1, units.shape[1] // BANDWIDTH_ROWS)
    distance = torch.cdist(units[:, ::step], units).square()
    distance.masked_fill_(torch.isinf(exemplars.log_weight).unsqueeze(1), torch.inf)
    same = torch.arange(0, units.shape[1], step, device=units.device)
    distance[:, torch.arange(len(same), device=units.device), same] = torch.inf
    nearest = distance.amin(-1)
    nearest = torch.where(torch.isfinite(nearest) & torch.isfinite(exemplars.log_weight[:, ::step]), nearest, torch.nan)
    variance = nearest.nanmean(-1).nan_to_num(1.0).clamp_min(1e-6)
    return CellBank(units=units, log_weight=exemplars.log_weight, variance=variance.view(-1, 1, 1))


def conditional_units(units: Tensor, observed: Tensor, bank: CellBank) -> Tensor:
    """Return the expected units ``[g, n, u]`` given the units that are ``observed`` (bool ``[g or 1, n, u]``)."""
    seen = observed.to(units.dtype).expand(units.shape)
    rows = rows_at_once(bank.log_weight.numel())
    parts = zip(torch.split(units * seen, rows, dim=1), torch.split(seen, rows, dim=1), strict=True)
    return torch.cat([kernel_mean(kernel_costs(known, here, bank), bank.units) for known, here in parts], dim=1)


def kernel_costs(known: Tensor, seen: Tensor, bank: CellBank) -> Tensor:
    """Return −log2 of the weight of every exemplar, up to a constant of the row, ``[g, n, e]``; ``known``: units, 0 where not ``seen``."""
    there = bank.units.transpose(1, 2)
    distance = row_product(known, there, row_product(seen, there.square()), alpha=-2.0)
    return torch.addcmul(-NAT_IN_BITS * bank.log_weight.unsqueeze(1), distance, 0.5 * NAT_IN_BITS / bank.variance)


def kernel_mean(costs: Tensor, values: Tensor) -> Tensor:
    """Return the mean of ``values`` ``[g, e, v]`` with weights 2^−costs, ``[g, n, e] → [g, n, v]``; overwrites ``costs``."""
    _, weight = relative_powers(costs)
    if values.shape[-1] == 1:  # products with one or few outputs are many times slower
        return ((weight * values.transpose(1, 2)).sum(-1) / weight.sum(-1)).unsqueeze(-1)
    sums = row_product(weight, torch.cat([values, torch.ones_like(values[..., :1])], dim=-1))
    return sums[..., :-1] / sums[..., -1:]


def unit_observed(observed: Tensor, layout: Layout) -> Tensor:
    """Expand a mask, or other values, of cells ``[..., w·d]`` to their input units ``[..., u]``."""
    single = layout.window * (layout.numeric + layout.booleans)
    sizes = torch.tensor((1,) * single + layout.levels * layout.window, device=observed.device)
    return observed.repeat_interleave(sizes, dim=-1)


def fill_missing(cells: Cells, layout: Layout, bank: CellBank) -> Cells:
    """Return the cells with the units of missing ones imputed from the exemplars given the observed ones."""
    observed = unit_observed(cells.observed, layout)
    observed = observed if observed.dim() == cells.units.dim() else observed.unsqueeze(0)
    filled = torch.where(observed, cells.units, conditional_units(cells.units, observed, bank))
    return Cells(units=filled, target=cells.target, observed=cells.observed)


@torch.no_grad()
def impute_by_decoding(vae: Vae, views: Views, cells: Cells) -> Cells:
    """Return the cells with missing units imputed by encoding and decoding a few times (Rezende et al. 2014, appendix F).

    For the exemplars themselves, before there are any to impute from.
    """
    if cells.complete or bool(cells.observed.all()):
        return cells
    observed = unit_observed(cells.observed, vae.layout)
    observed = observed if observed.dim() == cells.units.dim() else observed.unsqueeze(0)
    numeric = cells.units.shape[-1] - views.mean.shape[-1]
    units = cells.units
    for _ in range(FILL_ROUNDS):
        expected = expected_units(vae.layout, vae.decode(vae.encode(units)[0]))
        expected[..., numeric:] = (expected[..., numeric:] - views.mean.unsqueeze(1)) / views.spread.unsqueeze(1)
        units = torch.where(observed, cells.units, expected)
    return Cells(units=units, target=cells.target, observed=cells.observed)


@torch.no_grad()
def choose_exemplars(
    vae: Vae, views: Views, read: Batch, rows: Sequence[Tensor], limit: int, generator: torch.Generator, *, widen: bool = True
) -> tuple[Exemplars, Tensor]:
    """Return the exemplars of each network and their rows of the batch ``read``, int64 ``[g, e]``, −1 = padding.

    Draws at most ``limit`` of the rows ``rows[g]`` for network ``g``; complete rows first, because an imputed cell is a guess. With
    ``widen``, posteriors get an adaptive bandwidth (``adapt_bandwidths``).
    """
    complete = read.observed.flatten(1).all(1)
    chosen = []
    for index in rows:
        shuffled = index[torch.randperm(len(index), generator=generator)]
        chosen.append(shuffled[(~complete[shuffled]).to(torch.uint8).argsort(stable=True)][:limit].sort().values)
    counts = torch.tensor([len(index) for index in chosen])
    own = torch.full((len(rows), int(counts.max())), -1)
    for g, index in enumerate(chosen):
        own[g, : counts[g]] = index
    cells = impute_by_decoding(vae, views, gather_cells(views, vae.layout, read, own.clamp_min(0)))
    mu, logvar = vae.encode(cells.units)
    exemplars = Exemplars(mu=mu, logvar=logvar, log_weight=equal_log_weights(counts, own.shape[1]))
    return adapt_bandwidths(exemplars) if widen else exemplars, own
