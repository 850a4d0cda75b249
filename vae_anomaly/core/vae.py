"""The networks and the one formula: negative log-likelihood per column and the Gaussian posterior of every row.

All ``g`` networks of a detector (folds or members times views) live in one module and run as batched products, so one network
and twenty share a code path. Knows nothing of tables, thresholds or files; rows arrive as input units ``[g, n, u]``.

Units are ordered numeric, then one unit a boolean column, then one a level for each category.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_anomaly.config import ModelConfig

# Posterior log-variances are kept in a range that float32 sums survive (REC recipe: clamp(l - 2, -8, 4)).
LOGVAR_SHIFT, LOGVAR_MIN, LOGVAR_MAX = 2.0, -8.0, 4.0
# The second weight of a residual block starts smaller, so that a network starts near its linear part.
RESIDUAL_START = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each column's units are: ``window`` × (``numeric`` numbers, ``booleans``, one group of units per category)."""

    numeric: int
    booleans: int
    levels: tuple[int, ...]
    window: int = 1

    @property
    def units(self) -> int:
        """Width ``u`` of the network's input."""
        return self.window * (self.numeric + self.booleans + sum(self.levels))

    @property
    def cells(self) -> int:
        """Number of cells ``w · d`` of one row."""
        return self.window * (self.numeric + self.booleans + len(self.levels))

    def slices(self) -> tuple[slice, slice, tuple[slice, ...]]:
        """Return the units of the numbers, of the booleans, and of each category in each step of the window."""
        first, second = self.window * self.numeric, self.window * (self.numeric + self.booleans)
        starts = [second]
        for count in self.levels * self.window:
            starts.append(starts[-1] + count)
        categories = tuple(slice(a, b) for a, b in pairwise(starts))
        return slice(0, first), slice(first, second), categories


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """What a row says, in the units of the networks.

    ``units`` float32 ``[g, n, u]``; ``target`` int64 ``[g, n, w·d_cat]`` level codes (a level that the network has not seen: the number
    of levels; 2 for a boolean); ``observed`` bool ``[n, w·d]`` (or with a leading ``g``) in the order numbers, booleans, categories.
    """

    units: Tensor
    target: Tensor
    observed: Tensor


class BatchedLinear(nn.Module):
    """``g`` affine maps at once: ``[g, n, a] → [g, n, b]``; weights start uniform in ±1/√a."""

    def __init__(self, nets: int, inputs: int, outputs: int, generator: torch.Generator | None, scale: float = 1.0) -> None:
        super().__init__()
        bound = scale / max(inputs, 1) ** 0.5
        self.weight = nn.Parameter((torch.rand(nets, inputs, outputs, generator=generator) * 2 - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(nets, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[g, n, a]`` to ``[g, n, b]``."""
        return torch.baddbmm(self.bias, x, self.weight)


class Body(nn.Module):
    """Hidden layers, then residual blocks ``h + W2 silu(W1 h)``, then a linear output with an optional linear skip."""

    def __init__(
        self, nets: int, widths: tuple[int, ...], blocks: int, outputs: int, *, skip: bool, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        pairs = pairwise(widths)
        self.layers = nn.ModuleList([BatchedLinear(nets, a, b, generator) for a, b in pairs])
        last = widths[-1]
        self.inner = nn.ModuleList([BatchedLinear(nets, last, last, generator) for _ in range(blocks)])
        self.outer = nn.ModuleList([BatchedLinear(nets, last, last, generator, RESIDUAL_START) for _ in range(blocks)])
        self.out = BatchedLinear(nets, last, outputs, generator)
        self.skip = BatchedLinear(nets, widths[0], outputs, generator) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[g, n, widths[0]]`` to ``[g, n, outputs]``."""
        h = x
        for layer in self.layers:
            h = functional.silu(layer(h))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + outer(functional.silu(inner(h)))
        out = cast("Tensor", self.out(h))
        return out if self.skip is None else out + self.skip(x)


class Vae(nn.Module):
    """``g`` variational autoencoders with diagonal Gaussian posteriors (Kingma & Welling 2014)."""

    def __init__(self, nets: int, layout: Layout, model: ModelConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.layout = layout
        self.sigma = model.sigma
        self.latent = model.latent or max(2, min(layout.units, 64))
        hidden, blocks, skip = model.hidden, model.residual_blocks, model.linear_skip
        self.encoder = Body(nets, (layout.units, *hidden), blocks, 2 * self.latent, skip=skip, generator=generator)
        self.decoder = Body(nets, (self.latent, *hidden[::-1]), blocks, layout.units, skip=skip, generator=generator)

    def encode(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance ``[g, n, m]`` of the posterior of each row."""
        mu, raw = self.encoder(units).chunk(2, dim=-1)
        return mu, (raw - LOGVAR_SHIFT).clamp(LOGVAR_MIN, LOGVAR_MAX)

    def decode(self, z: Tensor) -> Tensor:
        """Return means of the numbers and logits of the rest, ``[g, n, u]``."""
        return cast("Tensor", self.decoder(z))


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) ‖ N(0, I)) in nats, ``[..., m] → [...]``: ½ Σ (mu² + e^l − 1 − l) (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar).sum(-1)


def cell_nll(layout: Layout, out: Tensor, cells: Cells, *, sigma: float, unseen: float) -> Tensor:
    """Negative log-likelihood of every cell minus its minimum over that cell's values, nats, ``[g, n, w·d]``; 0 where missing.

    Numbers are Gaussian with standard deviation ``sigma`` of the view: (x − x̂)²/(2 sigma²). A boolean is Bernoulli and a category
    softmax, mixed with a probability ``unseen`` for all levels never met, so a seen level costs log max p − log p(x).
    """
    numbers, booleans, categories = layout.slices()
    parts = [(out[..., numbers] - cells.units[..., numbers]).square() * (0.5 / (sigma * sigma))]
    if not cells.target.shape[-1]:
        return parts[0].masked_fill(~cells.observed, 0.0)
    target, count = cells.target, booleans.stop - booleans.start
    parts.append(_boolean_nll(out[..., booleans], target[..., :count], unseen))
    parts.extend(_category_nll(out[..., s], target[..., count + j], unseen).unsqueeze(-1) for j, s in enumerate(categories))
    return torch.cat(parts, dim=-1).masked_fill(~cells.observed, 0.0)


def _boolean_nll(logit: Tensor, target: Tensor, unseen: float) -> Tensor:
    sign = target.to(logit.dtype) * 2.0 - 1.0
    best = functional.logsigmoid(logit.abs())
    seen = best - functional.logsigmoid(sign * logit)
    return torch.where(target > 1, best + _unseen_cost(unseen), seen)


def _category_nll(logits: Tensor, target: Tensor, unseen: float) -> Tensor:
    log_p = functional.log_softmax(logits, dim=-1)
    best = log_p.max(-1).values
    levels = logits.shape[-1]
    seen = best - log_p.gather(-1, target.clamp_max(levels - 1).unsqueeze(-1)).squeeze(-1)
    return torch.where(target >= levels, best + _unseen_cost(unseen), seen)


def _unseen_cost(unseen: float) -> float:
    return float(torch.tensor((1.0 - unseen) / unseen, dtype=torch.float64).log())


def training_loss(vae: Vae, clean: Cells, noisy_units: Tensor, noise: Tensor, *, unseen: float) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL to N(0, I) of one posterior sample ``mu + sigma · noise``, nats, both ``[g, n]``.

    The categorical part is the full negative log-likelihood (its minimum over x depends on the weights and must not be subtracted
    when learning). Kingma & Welling 2014, eq. 10.
    """
    mu, logvar = vae.encode(noisy_units)
    out = vae.decode(mu + (0.5 * logvar).exp() * noise)
    nll = cell_nll(vae.layout, out, clean, sigma=vae.sigma, unseen=unseen) + best_log_loss(vae.layout, out, clean)
    return nll.sum(-1), gaussian_kl(mu, logvar)


def best_log_loss(layout: Layout, out: Tensor, cells: Cells) -> Tensor:
    """Return −log max p of every cell ``[g, n, w·d]``, 0 for numbers and where missing."""
    numbers, booleans, categories = layout.slices()
    if not cells.target.shape[-1]:
        return torch.zeros_like(out)
    parts = [torch.zeros_like(out[..., numbers]), -functional.logsigmoid(out[..., booleans].abs())]
    parts.extend(-functional.log_softmax(out[..., s], dim=-1).max(-1, keepdim=True).values for s in categories)
    return torch.cat(parts, dim=-1).masked_fill(~cells.observed, 0.0)


def expected_units(layout: Layout, out: Tensor) -> Tensor:
    """Turn decoder outputs into expected units ``[g, n, u]``: means, probabilities of true, probabilities of each level."""
    numbers, booleans, categories = layout.slices()
    parts = [out[..., numbers], torch.sigmoid(out[..., booleans])]
    parts.extend(torch.softmax(out[..., s], dim=-1) for s in categories)
    return torch.cat(parts, dim=-1)


def by_column(layout: Layout, cells: Tensor) -> Tensor:
    """Sum what belongs to cells ``[..., w·d]`` over the steps of the window, ``[..., d]``; columns as numbers, booleans, categories."""
    sizes = [layout.window * layout.numeric, layout.window * layout.booleans, layout.window * len(layout.levels)]
    parts = [p.reshape(*p.shape[:-1], layout.window, p.shape[-1] // layout.window).sum(-2) for p in torch.split(cells, sizes, dim=-1)]
    return torch.cat(parts, dim=-1)
