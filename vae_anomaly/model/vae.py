"""The variational autoencoder: encoder, decoder, negative log-likelihood of every cell and Gaussian KL.

All ``g`` networks of an ensemble (views times members or folds) are one module that runs as batched matrix products.

Letters of shapes: g networks, n rows, w steps of a window (1), d columns, u input units, m latent units. Units are ordered numbers, one
unit for each boolean, one unit for each level of each category; cells w·d are ordered numbers, booleans, categories.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_anomaly.config import Activation, Likelihood, ModelConfig
from vae_anomaly.schema.encoding import boolean_distance

# Subtracted from the encoder output, so that posteriors start narrow.
LOGVAR_SHIFT = 2.0
# Posterior log-variances stay in a range that float32 sums survive: at sigma 0.1, a direction of variance 220 still fits.
LOGVAR_MIN = -10.0
LOGVAR_MAX = 4.0
# Initial scale of the second weight of a residual layer, so that a network starts near its linear part.
RESIDUAL_START = 0.3
# Initial scale of the hidden layers beside a linear initialization, for the same reason.
CURVED_START = 0.3
# Rows used for the linear initialization: principal axes of 2,000 rows are accurate enough to start from.
START_ROWS = 2000
# Degrees of freedom of the Student-t decoder: close to a Gaussian for usual errors, logarithmic in rare large ones.
FREEDOM = 8.0
# Derivative of the logit with respect to the probability at one half.
LOGIT_SLOPE = 4.0
# Smallest initial probability of a level, so that its logit is finite.
RAREST = 1e-3
# Softmax over few levels is several times faster with the levels before the columns; where these fill whole vectors the bits are the same.
SHORT_SOFTMAX = 7
MANY_COLUMNS = 32
VECTOR = 16
# Outputs of a product are padded to a multiple of this, and the rows of a block to one of that: see ``row_product``.
OUTPUTS = 4
ROWS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Order of the input units: ``window`` × (``numeric`` numbers, ``booleans``, one group of ``levels[c]`` units for each category)."""

    numeric: int
    booleans: int
    levels: tuple[int, ...]
    window: int = 1

    @property
    def units(self) -> int:
        """Number of input units ``u``."""
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
    """Rows as the networks read them.

    ``units`` float32 ``[g, n, u]``; ``target`` int64 ``[g, n, w·d_cat]`` level codes (of a level unseen in training: the number of
    levels, 2 for a boolean); ``observed`` bool ``[n, w·d]`` or ``[g, n, w·d]``. ``complete``: known to have no missing cell; False means
    unknown.
    """

    units: Tensor
    target: Tensor
    observed: Tensor
    complete: bool = False


def row_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, alpha: float = 1.0, out: Tensor | None = None) -> Tensor:
    """Return ``bias + alpha · rows @ weight``, ``[g, n, a] · [g, a, b] → [g, n, b]``; ``bias`` ``[g, n or 1, b]``.

    In blocks of a multiple of ``ROWS`` rows a row has the same bits whatever its place and the number of rows, where
    ``Ensemble.rounds_alike``. Libraries of matrix products choose their code by the shape: MKL on AMD processors computes 5 to 11 outputs
    in two ways, by the row's place, and a few rows in a third; padded shapes have one way (``benchmarks/row_position.py``). ``out`` may
    hold the result.
    """
    width, extra = weight.shape[-1], -weight.shape[-1] % OUTPUTS
    if extra:
        weight = functional.pad(weight, (0, extra))
        bias = None if bias is None else functional.pad(bias, (0, extra))
    if bias is None:
        product = torch.bmm(rows, weight).mul_(alpha) if alpha != 1.0 else torch.bmm(rows, weight)
    else:
        product = torch.baddbmm(bias, rows, weight, alpha=alpha, out=None if extra else out)
    return product[..., :width] if extra else product


class BatchedLinear(nn.Module):
    """``g`` linear layers at once, ``[g, n, a] → [g, n, b]``: weights uniform in ±scale/√a, or uninitialized without a generator."""

    def __init__(self, nets: int, inputs: int, outputs: int, generator: torch.Generator | None, scale: float = 1.0) -> None:
        super().__init__()
        bound = scale / max(inputs, 1) ** 0.5
        shape = nets, inputs, outputs
        # Random numbers on torch's meta device import torch's compiler, more than a second each time a model is loaded to score.
        start = torch.empty(shape) if generator is None else (torch.rand(shape, generator=generator) * 2 - 1) * bound
        self.weight = nn.Parameter(start)
        self.bias = nn.Parameter(torch.zeros(nets, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[g, n, a]`` to ``[g, n, b]``."""
        return torch.baddbmm(self.bias, x, self.weight) if torch.is_grad_enabled() else row_product(x, self.weight, self.bias)


class ResidualMlp(nn.Module):
    """Hidden layers, residual layers ``h + W2 act(W1 h)`` and a linear output, plus an optional linear skip from input to output."""

    def __init__(self, nets: int, widths: tuple[int, ...], outputs: int, model: ModelConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.activation: Activation = model.activation
        pairs = pairwise(widths)
        self.layers = nn.ModuleList([BatchedLinear(nets, a, b, generator) for a, b in pairs])
        last = widths[-1]
        self.inner = nn.ModuleList([BatchedLinear(nets, last, last, generator) for _ in range(model.residual_blocks)])
        self.outer = nn.ModuleList([BatchedLinear(nets, last, last, generator, RESIDUAL_START) for _ in range(model.residual_blocks)])
        self.out = BatchedLinear(nets, last, outputs, generator)
        self.skip = BatchedLinear(nets, widths[0], outputs, generator) if model.linear_skip else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[g, n, widths[0]]`` to ``[g, n, outputs]``."""
        h = x
        for layer in self.layers:
            h = self._activate(layer(h))
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + outer(self._activate(inner(h)))
        out = cast("Tensor", self.out(h))
        return out if self.skip is None else out + self.skip(x)

    def _activate(self, h: Tensor) -> Tensor:
        """Apply the activation, in place when gradients are off: allocating large tensors is slow."""
        in_place = not torch.is_grad_enabled()
        return functional.relu(h, inplace=in_place) if self.activation == "relu" else functional.silu(h, inplace=in_place)


class Vae(nn.Module):
    """``g`` variational autoencoders with diagonal Gaussian posteriors (Kingma & Welling 2014)."""

    def __init__(self, nets: int, layout: Layout, model: ModelConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.layout = layout
        self.settings = model
        self.sigma = model.sigma
        self.latent = model.latent or max(2, min(layout.units, 64))
        self.encoder = ResidualMlp(nets, (layout.units, *model.hidden), 2 * self.latent, model, generator)
        self.decoder = ResidualMlp(nets, (self.latent, *model.hidden[::-1]), layout.units, model, generator)

    def encode(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the posterior of each row, ``[g, n, u] → [g, n, m]``."""
        mu, raw = self.encoder(units).chunk(2, dim=-1)
        return mu, (raw - LOGVAR_SHIFT).clamp(LOGVAR_MIN, LOGVAR_MAX)

    def decode(self, z: Tensor) -> Tensor:
        """Return means of numbers and logits of booleans and categories, ``[g, n, m] → [g, n, u]``."""
        return cast("Tensor", self.decoder(z))


@torch.no_grad()
def init_linear(vae: Vae, net: int, units: Tensor, frequency: Tensor) -> None:
    """Initialize network ``net`` at the optimal linear VAE of ``units`` ``[n, u]``; does nothing without linear skips or rows.

    With principal variances λ and axes v of the centred units, the optimum is z = v·x √(λ − σ²)/λ with posterior variance σ²/λ and
    x̂ = v √(λ − σ²) z; an axis with λ ≤ σ² is not used (Tipping & Bishop 1999; Lucas et al. 2019). The output of the hidden layers is
    scaled down. Categories start at the logits of their ``frequency`` ``[u_cat]``.
    """
    encoder, decoder = vae.encoder.skip, vae.decoder.skip
    if encoder is None or decoder is None or not len(units):
        return
    mean, variance, axes = principal_axes(units[:START_ROWS], vae.latent)
    used, noise = len(variance), vae.sigma * vae.sigma
    stretch = (variance - noise).clamp_min(0.0).sqrt()
    squeeze = stretch / variance.clamp_min(noise)
    logvar = (noise / variance.clamp_min(noise)).log()
    for linear in (encoder, decoder):
        linear.weight[net] = 0.0
        linear.bias[net] = 0.0
    encoder.weight[net, :, :used] = (axes * squeeze).float()
    encoder.bias[net, 0, :used] = -((mean @ axes) * squeeze).float()
    encoder.bias[net, 0, vae.latent :] = LOGVAR_SHIFT
    encoder.bias[net, 0, vae.latent : vae.latent + used] += logvar.float()
    decoder.weight[net, :used] = (axes * stretch).T.float()
    decoder.bias[net, 0] = mean.float()
    numbers = vae.layout.window * vae.layout.numeric
    if len(frequency):
        decoder.weight[net, :, numbers:] *= LOGIT_SLOPE
        decoder.bias[net, 0, numbers:] = _start_logits(vae.layout, frequency)
    vae.encoder.out.weight[net] *= CURVED_START
    vae.decoder.out.weight[net] *= CURVED_START


def principal_axes(rows: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean ``[u]``, the k ≤ ``most`` largest principal variances ``[k]``, descending, and their axes ``[u, k]``; float64."""
    x = rows.to(torch.float64)
    mean = x.mean(0)
    x = (x - mean) / max(1, len(x)) ** 0.5
    if len(x) < x.shape[1]:  # the Gram matrix is smaller and has the same variances
        variance, left = torch.linalg.eigh(x @ x.T)
        variance, left = variance[-most:], left[:, -most:]
        axes = (x.T @ left) / variance.clamp_min(1e-12).sqrt()
    else:
        variance, axes = torch.linalg.eigh(x.T @ x)
        variance, axes = variance[-most:], axes[:, -most:]
    return mean, variance.flip(0).clamp_min(0.0), axes.flip(1)


def _start_logits(layout: Layout, frequency: Tensor) -> Tensor:
    chance = frequency.clamp(RAREST, 1.0 - RAREST)
    booleans = layout.window * layout.booleans
    return torch.cat([torch.logit(chance[:booleans]), chance[booleans:].log()])


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) ‖ N(0, I)) in nats, ``[..., m] → [...]``: ½ Σ (mu² + e^l − 1 − l) (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar).sum(-1)


def cell_nll(
    layout: Layout,
    out: Tensor,
    cells: Cells,
    *,
    sigma: float | Tensor,
    unseen: float,
    likelihood: Likelihood = "gaussian",
    full: bool = False,
) -> Tensor:
    """Return the negative log-likelihood of every cell minus its minimum over the cell's values, nats, ``[g, n, w·d]``; 0 where missing.

    Numbers have the scale ``sigma`` in units of the view, a scalar or ``[g, 1, 1]``: Gaussian (x − x̂)²/(2 sigma²), or Student-t with
    ν = 8 degrees of freedom ½(ν + 1) log(1 + (x − x̂)²/(ν sigma²)) (Lange, Little & Taylor 1989). Booleans are Bernoulli, categories
    categorical; unseen levels share the probability ``unseen``, so that a seen level costs log max p − log p(x). A number other than 0
    and 1 in a boolean column costs, besides, what a number that far from its expected value costs. ``full``: that minimum is left in.
    """
    numbers, booleans, categories = layout.slices()
    parts = [_number_nll((out[..., numbers] - cells.units[..., numbers]).square(), sigma, likelihood)]
    if not cells.target.shape[-1]:
        return parts[0] if cells.complete else parts[0].masked_fill(~cells.observed, 0.0)
    target, count = cells.target, booleans.stop - booleans.start
    parts.append(_boolean_nll(out[..., booleans], target[..., :count], unseen))
    if count and bool((target[..., :count] > 2).any()):  # noqa: PLR2004  # 2 is an unseen text
        parts[-1] = parts[-1] + _number_nll(boolean_distance(target[..., :count]).to(out.dtype).square(), sigma, likelihood)
    if full:
        parts[-1] = parts[-1] - functional.logsigmoid(out[..., booleans].abs())
    codes = target[..., count:]
    parts.append(
        _of_categories(categories, out, lambda logits, which, axis: _category_nll(logits, codes[..., which], unseen, axis, full=full))
    )
    return torch.cat(parts, dim=-1).masked_fill_(~cells.observed, 0.0)


def _of_categories(categories: Sequence[slice], out: Tensor, measure: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """Return ``measure(logits, which, axis)`` of all categories, ``[..., c]``.

    It gets the logits ``[..., k, l]``, or ``[..., l, k]`` where ``axis`` is −2, of the k columns ``which``, which have l levels each. One
    product for all of them: a thousand slices cost minutes in the backward pass, each as large as the whole output.
    """
    if not categories:
        return out[..., :0]
    widths = [units.stop - units.start for units in categories]
    parts, order = [], []
    for width in sorted(set(widths)):
        which = [j for j, w in enumerate(widths) if w == width]
        order += which
        count, axis = len(which), -1
        if width <= SHORT_SOFTMAX and count >= MANY_COLUMNS:
            which, axis = [*which, *which[-1:] * (-count % VECTOR)], -2
        units = torch.tensor([range(categories[j].start, categories[j].stop) for j in which], device=out.device)
        units = units if axis == -1 else units.T
        logits = out.index_select(-1, units.flatten()).reshape(*out.shape[:-1], *units.shape)
        parts.append(measure(logits, torch.tensor(which, device=out.device), axis)[..., :count])
    if order == sorted(order):
        return torch.cat(parts, dim=-1)
    return torch.cat(parts, dim=-1).index_select(-1, torch.tensor(order, device=out.device).argsort())


def _number_nll(square: Tensor, sigma: float | Tensor, likelihood: Likelihood) -> Tensor:
    if likelihood == "gaussian":
        return square * (0.5 / (sigma * sigma))
    return torch.log1p(square * (1.0 / (FREEDOM * sigma * sigma))) * (0.5 * (FREEDOM + 1.0))


def _boolean_nll(logit: Tensor, target: Tensor, unseen: float) -> Tensor:
    sign = target.to(logit.dtype) * 2.0 - 1.0
    best = functional.logsigmoid(logit.abs())
    seen = best - functional.logsigmoid(sign * logit)
    return torch.where(target > 1, best + unseen_cost(unseen), seen)


def _category_nll(logits: Tensor, target: Tensor, unseen: float, axis: int, *, full: bool) -> Tensor:
    log_p = functional.log_softmax(logits, dim=axis)
    best = log_p.max(axis).values
    levels = logits.shape[axis]
    seen = best - log_p.gather(axis, target.clamp_max(levels - 1).unsqueeze(axis)).squeeze(axis)
    cost = torch.where(target >= levels, best + unseen_cost(unseen), seen)
    if not full:
        return cost
    # Its gradient comes from a softmax of its own: from one for both it would be rounded otherwise than in the models that there are.
    return cost - (functional.log_softmax(logits, dim=axis).max(axis).values if torch.is_grad_enabled() else best)


def unseen_cost(unseen: float) -> float:
    """Return the nats log((1 − unseen) / unseen) by which a value of probability ``unseen`` costs more than the most likely one."""
    return float(torch.tensor((1.0 - unseen) / unseen, dtype=torch.float64).log())


def training_loss(vae: Vae, clean: Cells, noisy_units: Tensor, noise: Tensor, *, unseen: float) -> tuple[Tensor, Tensor]:
    """Return the two terms of the negative ELBO, reconstruction and KL to N(0, I), nats, both ``[g, n]`` (Kingma & Welling 2014, eq. 10).

    The reconstruction is that of one posterior sample ``mu + sigma · noise``. Its categorical part is the full negative log-likelihood,
    because the minimum that ``cell_nll`` subtracts depends on the weights.
    """
    mu, logvar = vae.encode(noisy_units)
    out = vae.decode(mu + (0.5 * logvar).exp() * noise)
    nll = cell_nll(vae.layout, out, clean, sigma=vae.sigma, unseen=unseen, full=True)
    return nll.sum(-1), gaussian_kl(mu, logvar)


def expected_units(layout: Layout, out: Tensor) -> Tensor:
    """Return the expected units of decoder outputs, ``[g, n, u]``: means, probabilities of true, probabilities of each level."""
    numbers, booleans, categories = layout.slices()
    parts = [out[..., numbers], torch.sigmoid(out[..., booleans])]
    for levels, same in groupby(categories, key=lambda units: units.stop - units.start):
        columns = list(same)
        logits = out[..., columns[0].start : columns[-1].stop]
        parts.append(torch.softmax(logits.reshape(*out.shape[:-1], len(columns), levels), dim=-1).flatten(-2))
    return torch.cat(parts, dim=-1)


def by_column(layout: Layout, cells: Tensor) -> Tensor:
    """Sum values of cells ``[..., w·d]`` over the steps of the window to columns ``[..., d]``: numbers, booleans, categories."""
    sizes = [layout.window * layout.numeric, layout.window * layout.booleans, layout.window * len(layout.levels)]
    parts = [p.reshape(*p.shape[:-1], layout.window, p.shape[-1] // layout.window).sum(-2) for p in torch.split(cells, sizes, dim=-1)]
    return torch.cat(parts, dim=-1)
