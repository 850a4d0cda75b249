"""Minibatches become weights: all networks of a detector train at once, each on rows of its own.

Knows the rows a network may see only as an index; knows nothing of folds, thresholds or files. Every random number comes from the
generator that is passed in. Gradients are clipped per network, so no network feels the rows of another.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from vae_anomaly.config import TrainConfig
from vae_anomaly.errors import VaeAnomalyError
from vae_anomaly.model.scaling import Views, drawn_cells
from vae_anomaly.model.vae import Cells, Vae, gaussian_kl, training_loss
from vae_anomaly.schema.encoding import Batch

# Blocks of the learning curve.
BLOCKS = 20
# The budget where none is asked for: the time of a fit does not grow with the rows.
MAX_STEPS = 200
MOST_EPOCHS = 60
WARM_UP_STEPS = 50
FINAL_RATE = 0.05  # of the peak, by a cosine
CLIP_NORM = 20.0
# Operations of a step, two for each weight and row in each of three products, that one thread does in about 20 ms.
SMALL_STEP = 1e9
BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8
# Validation rows looked at in a block: the mean of 1,000 rows is good to a few per cent.
VALIDATION_ROWS = 1000
# A latent unit is active when the variance of its posterior mean over rows exceeds this (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One twentieth of training: means over networks, nats per row; ``active_units`` is the mean number a network uses."""

    step: int
    train_loss: float
    val_reconstruction: float
    val_kl: float
    active_units: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The learning curve and why training ended."""

    blocks: tuple[CurvePoint, ...]
    steps: int
    stopped: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplerState:
    """Where ``Epochs`` are: the ``next`` column of an order that begins with ``rest`` int64 ``[g, r]``, what was left before it was drawn.

    ``drawn_at`` is the generator's state (uint8) before the drawing, so that a place takes no memory by the row.
    """

    rest: Tensor
    drawn_at: Tensor
    next: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """A training after so many steps: all that the next ones depend on, besides the rows and the settings.

    ``weights`` and the moments of AdamW ``first`` and ``second`` are float32 ``[g, p]``, ``generator`` is its state (uint8), ``running``
    the sum of the losses since the last block. On the CPU, wherever it trains.
    """

    step: int
    weights: Tensor
    first: Tensor
    second: Tensor
    generator: Tensor
    place: SamplerState
    blocks: tuple[CurvePoint, ...]
    running: float


# Told after every step: how many are done, of how many, and a function that returns the state, which costs a copy of the weights.
OnStep = Callable[[int, int, Callable[[], Training]], None]


def fit_weights(  # noqa: PLR0913  (seven facts, all needed, all named)
    vae: Vae,
    views: Views,
    batch: Batch,
    *,
    rows: Sequence[Tensor],
    validation: Sequence[Tensor],
    config: TrainConfig,
    unseen: float,
    generator: torch.Generator,
    start: Training | None = None,
    on_step: OnStep = lambda _done, _total, _training: None,
) -> History:
    """Train ``vae`` in place; ``rows[g]`` and ``validation[g]`` are the rows that network ``g`` learns from and is watched on.

    AdamW with a warm-up and a cosine to 5 %. Loss: reconstruction + KL to N(0, I) in nats, divided by the number of units (a constant
    for the optimizer). From ``start``, a state of this same training, it goes on as if it had never stopped. Raises VaeAnomalyError when
    the loss is no longer finite.
    """
    weights = _side_by_side(vae)
    moments = torch.zeros_like(weights), torch.zeros_like(weights)
    epochs = Sampler(rows=tuple(rows), batch=config.batch_rows, generator=generator).epochs()
    blocks: list[CurvePoint] = []
    total, why = budget(config, epochs)
    first, running = 0, 0.0
    if start is not None:
        first, running, blocks = start.step, start.running, list(start.blocks)
        _go_on(start, (weights, *moments), epochs)
    draw = drawn_cells(views, vae.layout, batch)
    watched = torch.stack([v[: min(VALIDATION_ROWS, *(len(v) for v in validation))] for v in validation])
    ends = {round(total * (b + 1) / BLOCKS) for b in range(BLOCKS)} - {0}
    for step in range(first, total):
        loss = _step(vae, draw(next(epochs)), config, unseen, generator)
        rate = config.learning_rate * _rate(step, total)
        adamw_step(weights, _clipped_gradient(vae), moments, step + 1, rate=rate, decay=config.weight_decay)
        running += loss
        if step + 1 in ends:
            since = step + 1 - (blocks[-1].step if blocks else 0)
            blocks.append(_watch(vae, draw(watched), unseen, step + 1, running / since))
            running = 0.0
        on_step(step + 1, total, partial(_state, step + 1, (weights, *moments), epochs, tuple(blocks), running))
    _apart(vae)
    return History(blocks=tuple(blocks), steps=total, stopped=why)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampler:
    """Slices of fresh permutations: row ``[g, b]`` indices, the same number of rows for each network in an epoch."""

    rows: tuple[Tensor, ...]
    batch: int
    generator: torch.Generator

    def epochs(self) -> "Epochs":
        """Return an endless stream of index blocks ``[g, batch]``."""
        return Epochs(self)


class Epochs:
    """Iterator of a sampler: permute every network's rows, cut into slices, again."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.shortest = min(len(r) for r in sampler.rows)
        self.order = self.rest = torch.empty(len(sampler.rows), 0, dtype=torch.int64)
        self.drawn_at = sampler.generator.get_state()
        self.next = 0

    def __next__(self) -> Tensor:
        """Return the next slice; the last, shorter part of an epoch is put before the next permutation."""
        size = min(self.sampler.batch, self.shortest)
        if self.next + size > self.order.shape[1]:
            self._draw(self.order[:, self.next :])
        self.next += size
        return self.order[:, self.next - size : self.next]

    def __iter__(self) -> "Epochs":
        """Return self."""
        return self

    def place(self) -> SamplerState:
        """Return where the next slice begins; there is no place before the first one."""
        return SamplerState(rest=self.rest.clone(), drawn_at=self.drawn_at, next=self.next)

    def go_to(self, place: SamplerState) -> None:
        """Go on from a place; the generator is then where it was after the drawing."""
        self.sampler.generator.set_state(place.drawn_at)
        self._draw(place.rest)
        self.next = place.next

    def _draw(self, rest: Tensor) -> None:
        self.rest, self.drawn_at, self.next = rest, self.sampler.generator.get_state(), 0
        self.order = torch.cat([rest, torch.stack([self._shuffled(r) for r in self.sampler.rows])], dim=1)

    def _shuffled(self, rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=self.sampler.generator)[: self.shortest]]


def _state(step: int, tensors: tuple[Tensor, ...], epochs: Epochs, blocks: tuple[CurvePoint, ...], running: float) -> Training:
    weights, first, second = (tensor.detach().to("cpu", copy=True) for tensor in tensors)
    return Training(
        step=step,
        weights=weights,
        first=first,
        second=second,
        generator=epochs.sampler.generator.get_state(),
        place=epochs.place(),
        blocks=blocks,
        running=running,
    )


def _go_on(start: Training, tensors: tuple[Tensor, ...], epochs: Epochs) -> None:
    """Put weights, moments, sampler and generator where they were."""
    for tensor, kept in zip(tensors, (start.weights, start.first, start.second), strict=True):
        tensor.copy_(kept)
    epochs.go_to(start.place)
    epochs.sampler.generator.set_state(start.generator)


def is_small(vae: Vae, batch: int) -> bool:
    """Return whether a step over ``batch`` rows for each network is too little work to split over threads."""
    return 6 * batch * sum(p.numel() for p in vae.parameters()) < SMALL_STEP


def budget(config: TrainConfig, epochs: Epochs) -> tuple[int, str]:
    """Return how many steps to train, and why no more: what was asked for, or 200 but no row more than 60 times.

    Few rows are learned by heart when they are seen more often, and a step over hundreds of columns is dear.
    """
    if config.steps is not None:
        return config.steps, f"the budget of {config.steps:,} steps was used up"
    enough = -(-MOST_EPOCHS * epochs.shortest // min(epochs.sampler.batch, epochs.shortest))
    if enough < MAX_STEPS:
        return enough, f"every row was seen {MOST_EPOCHS} times"
    return MAX_STEPS, f"the budget of {MAX_STEPS} steps was used up"


def _rate(step: int, total: int) -> float:
    warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(1, total // 4)))
    return warm * (FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * step / total)))


def _step(vae: Vae, cells: Cells, config: TrainConfig, unseen: float, generator: torch.Generator) -> float:
    """Leave gradients of one minibatch in ``vae`` and return the mean loss in nats per row."""
    shape, device = cells.units.shape, cells.units.device
    noisy = cells.units + config.input_noise * _normal(shape, generator, device)
    noise = _normal((*shape[:-1], vae.latent), generator, device)
    reconstruction, kl = training_loss(vae, cells, noisy, noise, unseen=unseen)
    per_net = (reconstruction + kl).mean(-1)
    (per_net.sum() * (4.0 / vae.layout.units)).backward()  # type: ignore[no-untyped-call]
    loss = float(per_net.detach().mean())
    if not math.isfinite(loss):
        msg = "training diverged: the loss is no longer finite. Lower train.learning_rate or look for extreme values in the data."
        raise VaeAnomalyError(msg)
    return loss


def _normal(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw on the generator's device, then move: the same numbers for every kind of device that shares it."""
    return torch.randn(*shape, generator=generator, device=generator.device).to(device)


def _side_by_side(vae: Vae) -> Tensor:
    """Move the weights of every network into one row of a tensor ``[g, p]`` and return it: one update instead of dozens."""
    parameters = list(vae.parameters())
    whole = torch.cat([p.detach().flatten(1) for p in parameters], dim=1)
    parts = torch.split(whole, [p[0].numel() for p in parameters], dim=1)
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.view(parameter.shape)
    return whole


def _apart(vae: Vae) -> None:
    """Give every parameter memory of its own again, as a loaded model has it."""
    for parameter in vae.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


def _clipped_gradient(vae: Vae) -> Tensor:
    """Take the gradients of ``vae``, ``[g, p]``, each network's norm at most 20; networks stay independent of each other."""
    gradient = torch.cat([cast("Tensor", p.grad).flatten(1) for p in vae.parameters()], dim=1)
    for parameter in vae.parameters():
        parameter.grad = None
    return gradient.mul_(CLIP_NORM / torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp_min(CLIP_NORM))


def adamw_step(weights: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int, *, rate: float, decay: float) -> None:
    """Change ``weights`` and ``moments`` in place by step number ``step``, from 1, of AdamW (Loshchilov & Hutter 2019, algorithm 2).

    Here and not ``torch.optim``, whose first optimizer imports a compiler for two seconds.
    """
    first, second = moments
    first.lerp_(gradient, 1.0 - BETA_1)
    second.mul_(BETA_2).addcmul_(gradient, gradient, value=1.0 - BETA_2)
    spread = second.sqrt().div_(math.sqrt(1.0 - BETA_2**step)).add_(EPSILON)
    weights.mul_(1.0 - rate * decay).addcdiv_(first, spread, value=-rate / (1.0 - BETA_1**step))


@torch.no_grad()
def _watch(vae: Vae, cells: Cells, unseen: float, step: int, loss: float) -> CurvePoint:
    """Measure reconstruction, KL to N(0, I) and active units at the posterior mean on rows not learned from."""
    mu, logvar = vae.encode(cells.units)
    reconstruction, _ = training_loss(vae, cells, cells.units, torch.zeros_like(mu), unseen=unseen)
    active = (mu.var(dim=1, correction=0) > ACTIVE_VARIANCE).sum(-1).to(torch.float64).mean()
    return CurvePoint(
        step=step,
        train_loss=loss,
        val_reconstruction=float(reconstruction.mean()),
        val_kl=float(gaussian_kl(mu, logvar).mean()),
        active_units=float(active),
    )


def device_of(name: str) -> torch.device:
    """Return the device asked for; ``auto`` takes a GPU where there is one."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
