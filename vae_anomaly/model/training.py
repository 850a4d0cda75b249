"""Training: minibatch AdamW on the ELBO for all networks of an ensemble at once, each on its own rows.

Letters of shapes: g networks, n rows, b rows of a minibatch, u input units, m latent units, p parameters of one network. Losses are in
nats per row. Every random number comes from the generator passed in. Gradients are clipped per network, so that networks stay
independent of each other's rows.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor

from vae_anomaly.config import TrainConfig
from vae_anomaly.errors import VaeAnomalyError
from vae_anomaly.model.minibatches import Epochs, Sampler, SamplerState
from vae_anomaly.model.scaling import Views, minibatch_cells
from vae_anomaly.model.vae import Cells, Vae, cell_nll, gaussian_kl, training_loss
from vae_anomaly.schema.encoding import Batch

CURVE_POINTS = 20  # points of the learning curve, enough to see whether it is still falling
# Default budget in steps, so that the time of a fit does not grow with the number of rows.
MAX_STEPS = 200
# Default budget in epochs: with few rows, more epochs overfit.
MOST_EPOCHS = 60
# Learning rate schedule: linear warm-up over these steps (a quarter of a shorter training), then a cosine down to a share of the peak.
WARM_UP_STEPS = 50
FINAL_RATE = 0.05
CLIP_NORM = 20.0  # largest gradient norm of one network
# Floating point operations of a step that one thread does in about 20 ms; below that, threads cost more than they save.
SMALL_STEP = 1e9
# PyTorch's defaults for AdamW.
BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8
# Validation rows of a point of the learning curve: the mean over 1,000 rows is good to a few per cent.
VALIDATION_ROWS = 1000
# A latent unit is active when the variance of its posterior mean over rows exceeds this (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A point of the learning curve: means over networks in nats per row, and the mean number of active latent units of a network."""

    step: int
    train_loss: float
    val_reconstruction: float
    val_kl: float
    active_units: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Learning curve of a training, its number of steps and why it stopped.

    ``blocks`` are the points of the curve, evenly spaced in steps; the name is that of the stored key.
    """

    blocks: tuple[CurvePoint, ...]
    steps: int
    stopped: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingState:
    """State of a training after ``step`` steps: with the same data and settings, the next steps depend on nothing else.

    ``weights`` and the AdamW moments ``first`` and ``second`` are float32 ``[g, p]``, ``generator`` is the generator's state (uint8),
    ``blocks`` the learning curve so far and ``loss_sum`` the sum of the losses since its last point. All tensors are on the CPU.
    """

    step: int
    weights: Tensor
    first: Tensor
    second: Tensor
    generator: Tensor
    sampler: SamplerState
    blocks: tuple[CurvePoint, ...]
    loss_sum: float


# Called after every step with the steps done, their total and a function that returns the state; calling that copies the weights.
OnStep = Callable[[int, int, Callable[[], TrainingState]], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """Rows of a training: network ``g`` learns from ``rows[g]`` of ``batch``, scaled by its view, and is validated on ``validation[g]``.

    ``unseen`` is the probability of a level that was never met.
    """

    batch: Batch
    views: Views
    rows: Sequence[Tensor]
    validation: Sequence[Tensor]
    unseen: float

    def to(self, device: torch.device) -> "TrainingData":
        """Return the data with the batch and the views on a device; the indices stay on the CPU, where they are drawn."""
        return replace(self, batch=self.batch.map(lambda t: t.to(device)), views=self.views.map(lambda t: t.to(device)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One step of a training that is about to begin: ``run()`` does its work and changes nothing, so that it can be timed.

    The training takes about ``steps`` such steps, its learning curve counted in, and ``operations`` floating point operations.
    """

    steps: int
    operations: float
    run: Callable[[], None]


class Team(Protocol):
    """Processes that train together: each computes the gradients of every ``size``-th row of a minibatch, from row ``rank`` on."""

    @property
    def rank(self) -> int:
        """Number of this process; 0 watches the training, and what is made of it is made there."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def training(
        self, vae: Vae, data: TrainingData, config: TrainConfig, generator: torch.Generator, start: TrainingState | None
    ) -> AbstractContextManager[None]:
        """Entered by process 0 for a training: the others train with it from the same state."""

    def add(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the processes, the same bits in each of them; called by all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """A team of one process."""

    rank: int = 0
    size: int = 1

    def training(self, *_: object) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def add(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values


ALONE = Alone()


def trial(vae: Vae, data: TrainingData, config: TrainConfig, done: int = 0) -> Trial:
    """Return a step of the training that ``fit_weights`` does after ``done`` steps, on the device of ``data``."""
    generator = torch.Generator().manual_seed(0)
    epochs = Sampler(rows=tuple(data.rows), batch=config.batch_rows, generator=generator).epochs()
    steps = max(0, step_budget(config, epochs)[0] - done)
    rows = min(config.batch_rows, epochs.shortest)
    # A point of the learning curve is a forward pass; a step is three times that for its rows.
    curve = min(CURVE_POINTS, steps) * min(VALIDATION_ROWS, *(len(v) for v in data.validation)) / (3 * rows)
    return Trial(
        steps=steps + round(curve), operations=_operations(vae, rows) * (steps + curve), run=partial(_try, vae, data, config, epochs)
    )


def _try(vae: Vae, data: TrainingData, config: TrainConfig, epochs: "Epochs") -> None:
    """Do the work of a step with copies of the weights and noise of its own."""
    weights = torch.cat([p.detach().flatten(1) for p in vae.parameters()], dim=1)
    draw = minibatch_cells(data.views, vae.layout, data.batch)
    gradient, _ = _step(vae, draw, next(epochs), config, data.unseen, epochs.sampler.generator)
    moments = torch.zeros_like(weights), torch.zeros_like(weights)
    adamw_step(weights, gradient, moments, 1, rate=config.learning_rate, decay=config.weight_decay)


def fit_weights(
    vae: Vae,
    data: TrainingData,
    config: TrainConfig,
    generator: torch.Generator,
    *,
    start: TrainingState | None = None,
    on_step: OnStep = lambda _done, _total, _training: None,
    team: Team = ALONE,
) -> History:
    """Train ``vae`` in place on the device of ``data`` and return the learning curve, which is empty but in process 0 of a ``team``.

    AdamW with warm-up and a cosine learning rate schedule. Loss: negative ELBO, reconstruction + KL to N(0, I) in nats, times 4 over the
    number of units (a constant for the optimizer). Resuming from ``start``, a state of this same training, gives the same bits as an
    uninterrupted training. Raises VaeAnomalyError when the loss is not finite.
    """
    weights = _flatten_parameters(vae)
    moments = torch.zeros_like(weights), torch.zeros_like(weights)
    epochs = Sampler(rows=tuple(data.rows), batch=config.batch_rows, generator=generator).epochs()
    blocks: list[CurvePoint] = []
    total, why = step_budget(config, epochs)
    first, loss_sum = 0, 0.0
    if start is not None:
        first, loss_sum, blocks = start.step, start.loss_sum, list(start.blocks)
        _restore(start, (weights, *moments), epochs)
    draw = minibatch_cells(data.views, vae.layout, data.batch)
    watched: Cells | None = None
    ends = {round(total * (b + 1) / CURVE_POINTS) for b in range(CURVE_POINTS)} - {0}
    for step in range(first, total):
        gradient, loss = _step(vae, draw, next(epochs), config, data.unseen, generator, team)
        rate = config.learning_rate * _learning_rate_factor(step, total)
        adamw_step(weights, gradient, moments, step + 1, rate=rate, decay=config.weight_decay)
        loss_sum += loss
        if step + 1 in ends and team.rank == 0:
            since = step + 1 - (blocks[-1].step if blocks else 0)
            watched = watched or draw(_validation_rows(data))  # scaling wide rows anew for each point takes as long as the point itself
            blocks.append(_validate(vae, watched, data.unseen, step + 1, loss_sum / since))
            loss_sum = 0.0
        on_step(step + 1, total, partial(_state, step + 1, (weights, *moments), epochs, tuple(blocks), loss_sum))
    _unflatten_parameters(vae)
    return History(blocks=tuple(blocks), steps=total, stopped=why)


def _state(step: int, tensors: tuple[Tensor, ...], epochs: Epochs, blocks: tuple[CurvePoint, ...], loss_sum: float) -> TrainingState:
    weights, first, second = (tensor.detach().to("cpu", copy=True) for tensor in tensors)
    return TrainingState(
        step=step,
        weights=weights,
        first=first,
        second=second,
        generator=epochs.sampler.generator.get_state(),
        sampler=epochs.state(),
        blocks=blocks,
        loss_sum=loss_sum,
    )


def _restore(start: TrainingState, tensors: tuple[Tensor, ...], epochs: Epochs) -> None:
    """Restore weights, moments, sampler and generator from a state."""
    for tensor, stored in zip(tensors, (start.weights, start.first, start.second), strict=True):
        tensor.copy_(stored)
    epochs.restore(start.sampler)
    epochs.sampler.generator.set_state(start.generator)


def is_small_step(vae: Vae, batch: int) -> bool:
    """Return whether a step with ``batch`` rows a network is too little work to split over threads."""
    return _operations(vae, batch) < SMALL_STEP


def _operations(vae: Vae, batch: int) -> int:
    """Return two for each weight and row in each of three matrix products: forward, and backward to inputs and to weights."""
    return 6 * batch * sum(p.numel() for p in vae.parameters())


def step_budget(config: TrainConfig, epochs: Epochs) -> tuple[int, str]:
    """Return the number of steps and the reason for stopping there: ``config.steps``, or else 200 steps or 60 epochs, whichever is less."""
    if config.steps is not None:
        return config.steps, f"the budget of {config.steps:,} steps was used up"
    enough = -(-MOST_EPOCHS * epochs.shortest // min(epochs.sampler.batch, epochs.shortest))
    if enough < MAX_STEPS:
        return enough, f"every row was seen {MOST_EPOCHS} times"
    return MAX_STEPS, f"the budget of {MAX_STEPS} steps was used up"


def _learning_rate_factor(step: int, total: int) -> float:
    warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(1, total // 4)))
    return warm * (FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * step / total)))


def _step(
    vae: Vae,
    draw: Callable[[Tensor], Cells],
    index: Tensor,
    config: TrainConfig,
    unseen: float,
    generator: torch.Generator,
    team: Team = ALONE,
) -> tuple[Tensor, float]:
    """Return the clipped gradient ``[g, p]`` of the minibatch ``index`` ``[g, b]`` and its mean loss in nats per row."""
    part = slice(team.rank, None, team.size)
    cells = draw(index[:, part])
    device, rows = cells.units.device, index.shape[1]
    # Every process draws the noise of all rows: the numbers are those of a training in one process.
    noisy = cells.units + config.input_noise * _normal((*index.shape, cells.units.shape[-1]), generator)[:, part].to(device)
    noise = _normal((*index.shape, vae.latent), generator)[:, part].to(device)
    reconstruction, kl = training_loss(vae, cells, noisy, noise, unseen=unseen)
    per_net = (reconstruction + kl).sum(-1) / rows
    (per_net.sum() * (4.0 / vae.layout.units)).backward()  # type: ignore[no-untyped-call]
    parts = [cast("Tensor", p.grad).flatten(1) for p in vae.parameters()]
    for parameter in vae.parameters():
        parameter.grad = None
    if team.size == 1:
        gradient, per_net = torch.cat(parts, dim=1), per_net.detach()
    else:
        both = team.add(torch.cat([*parts, per_net.detach().unsqueeze(1)], dim=1))
        gradient, per_net = both[:, :-1].contiguous(), both[:, -1]
    loss = float(per_net.mean())
    if not math.isfinite(loss):
        msg = "training diverged: the loss is no longer finite. Lower train.learning_rate or look for extreme values in the data."
        raise VaeAnomalyError(msg)
    return _clipped(gradient), loss


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw standard normal noise on the generator's device, from where it is moved: training devices get the same numbers."""
    return torch.randn(*shape, generator=generator, device=generator.device)


def _validation_rows(data: TrainingData) -> Tensor:
    return torch.stack([v[: min(VALIDATION_ROWS, *(len(v) for v in data.validation))] for v in data.validation])


def _flatten_parameters(vae: Vae) -> Tensor:
    """Make all parameters views of one tensor ``[g, p]`` and return it: one optimizer update instead of dozens."""
    parameters = list(vae.parameters())
    whole = torch.cat([p.detach().flatten(1) for p in parameters], dim=1)
    parts = torch.split(whole, [p[0].numel() for p in parameters], dim=1)
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.view(parameter.shape)
    return whole


def _unflatten_parameters(vae: Vae) -> None:
    """Give every parameter its own contiguous memory again, as a loaded model has it."""
    for parameter in vae.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


def _clipped(gradient: Tensor) -> Tensor:
    """Clip the norm of each network's gradient ``[g, p]`` to ``CLIP_NORM``, in place, and return it."""
    return gradient.mul_(CLIP_NORM / torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp_min(CLIP_NORM))


def adamw_step(weights: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int, *, rate: float, decay: float) -> None:
    """Update ``weights`` and ``moments`` ``[g, p]`` in place by AdamW (Loshchilov & Hutter 2019, algorithm 2); ``step`` starts at 1.

    Not ``torch.optim.AdamW``, because creating the first optimizer imports torch's compiler, which takes two seconds.
    """
    first, second = moments
    first.lerp_(gradient, 1.0 - BETA_1)
    second.mul_(BETA_2).addcmul_(gradient, gradient, value=1.0 - BETA_2)
    spread = second.sqrt().div_(math.sqrt(1.0 - BETA_2**step)).add_(EPSILON)
    weights.mul_(1.0 - rate * decay).addcdiv_(first, spread, value=-rate / (1.0 - BETA_1**step))


@torch.no_grad()
def _validate(vae: Vae, cells: Cells, unseen: float, step: int, loss: float) -> CurvePoint:
    """Return reconstruction, KL to N(0, I) and active units of validation rows at the posterior mean, without noise."""
    mu, logvar = vae.encode(cells.units)
    reconstruction = cell_nll(vae.layout, vae.decode(mu), cells, sigma=vae.sigma, unseen=unseen, full=True).sum(-1)
    active = (mu.var(dim=1, correction=0) > ACTIVE_VARIANCE).sum(-1).to(torch.float64).mean()
    return CurvePoint(
        step=step,
        train_loss=loss,
        val_reconstruction=float(reconstruction.mean()),
        val_kl=float(gaussian_kl(mu, logvar).mean()),
        active_units=float(active),
    )


def device_of(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA, else MPS, else the CPU, whichever is available first."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
