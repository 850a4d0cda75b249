"""Ensemble scores: reconstruction + KL in weighted nats, higher = more anomalous, a pure function of each row.

Matrix products round differently for different shapes. Rows are therefore scored in padded blocks of a multiple of 128 rows, with padded
outputs (``row_product``), one thread a block, with sums in float64: a row gets the same bits whatever the batch, the order of the rows
or the number of threads.

Letters of shapes: g networks, n rows, w steps of a window (1), d columns of a batch, u input units, m latent units, e exemplars.
"""

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional

from vae_anomaly.config import Likelihood, Prior
from vae_anomaly.model.constants import NEAREST, is_unchanged
from vae_anomaly.model.imputation import CellBank, cell_bank, fill_missing
from vae_anomaly.model.prior import Exemplars, PriorProduct, kl_to_prior, prior_product
from vae_anomaly.model.scaling import Views, to_cells
from vae_anomaly.model.vae import ROWS, Cells, Layout, Vae, by_column, cell_nll, gaussian_kl, unseen_cost
from vae_anomaly.schema.encoding import Batch

# Rows of a block at most: the overhead of the calls, during which other threads wait, then no longer counts.
MOST_ROWS = 2048
# Numbers of one activation of a block at most, so that wide tables keep their memory.
MOST_NUMBERS = 2**21
LEAST_WIDTH = 64  # of the activations: hidden layers are about as wide
# Share of missing cells in the rows that ``rounds_alike`` is tried with.
MADE_HOLES = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConstantColumns:
    """Columns with one value in the training rows. They contribute nothing to a score until they change, see ``is_unchanged``.

    ``numeric`` int64 indices among the numeric columns and their ``value`` float64; ``code`` int64 indices among the coded columns and
    their ``level`` codes. ``penalty``: nats of a changed cell, the largest calibration score + 1, so that the row is flagged.
    """

    numeric: Tensor
    value: Tensor
    code: Tensor
    level: Tensor
    penalty: float = 0.0

    def cost(self, batch: Batch) -> Tensor:
        """Return the contribution of changed constant columns, nats, float64 ``[n, d]``."""
        cost = torch.zeros(len(batch), batch.observed.shape[-1], dtype=torch.float64)
        if not len(self.numeric) and not len(self.code):
            return cost
        d_num = batch.numeric.shape[-1]
        values = batch.numeric[..., self.numeric]
        numbers = (values != self.value) & batch.observed[..., self.numeric]
        if bool((numbers & ((values - self.value).abs() <= NEAREST * self.value.abs())).any()):
            numbers &= ~is_unchanged(values, self.value)
        codes = (batch.codes[..., self.code] != self.level) & batch.observed[..., d_num + self.code]
        cost[:, self.numeric] = numbers.any(1).to(torch.float64) * self.penalty
        cost[:, d_num + self.code] = codes.any(1).to(torch.float64) * self.penalty
        return cost


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Scores float64 ``[n]`` in weighted nats, higher = more anomalous; NaN for a row without any observed cell."""

    reconstruction: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        """The anomaly score, exactly ``reconstruction + kl``."""
        return self.reconstruction + self.kl


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Everything needed to score rows: ``g`` networks with their views, exemplars and weights.

    ``weight`` float64 ``[g]``: w_v / members, so that the score is a plain weighted sum over networks. ``beta`` float64 ``[g]``: weight
    of the KL relative to the reconstruction, ≤ 1. ``noise`` float32 ``[g]``: decoder scale of numbers, in units of
    the view. ``numeric`` and ``codes`` int64: indices of the columns that the networks read; all others are ``constants``. ``unseen``:
    probability of a level, or of a missing cell, that was never met. ``always`` bool ``[g, d]``: columns without a missing cell in the rows
    that the network learned from; None: fitted by a version to which missing cells cost nothing. ``groups`` int64 ``[g]``: groups of
    exemplars whose least KLs are averaged, 0 = the variational bound (``prior``); None: 0 for all.
    """

    layout: Layout
    vae: Vae
    views: Views
    exemplars: Exemplars
    weight: Tensor
    beta: Tensor
    noise: Tensor
    constants: ConstantColumns
    numeric: Tensor
    codes: Tensor
    unseen: float
    prior: Prior
    likelihood: Likelihood
    always: Tensor | None = None
    groups: Tensor | None = None

    @cached_property
    def prior_product(self) -> PriorProduct:
        """Exemplars in the form that ``kl_to_prior`` multiplies with."""
        return prior_product(self.exemplars, self.groups)

    @cached_property
    def bank(self) -> CellBank:
        """Decoded exemplars, from which missing cells are imputed."""
        return cell_bank(self.vae, self.views, self.exemplars)

    @cached_property
    def rounds_alike(self) -> bool:
        """Whether a row has the same bits in every batch on this processor, tried with rows made for it.

        Networks have one shape, so that two of them say it for all.
        """
        few = self.nets(torch.arange(min(2, len(self.weight))))
        rows = trial_rows(few, 2 * ROWS)
        whole = score_rows(few, rows).total
        parts = [slice(first, last) for first, last in ((1, ROWS + 1), (ROWS - 9, 2 * ROWS))]
        return all(torch.equal(score_rows(few, rows.rows(part)).total.view(torch.int64), whole[part].view(torch.int64)) for part in parts)

    def nets(self, index: Tensor) -> "Ensemble":
        """Return the ensemble of the networks at ``index``; weights are not rescaled."""
        vae = copy.deepcopy(self.vae)
        for parameter in vae.parameters():
            parameter.data = parameter.data[index]
        return replace(
            self,
            vae=vae,
            views=self.views.nets(index),
            exemplars=self.exemplars.nets(index),
            weight=self.weight[index],
            beta=self.beta[index],
            noise=self.noise[index],
            always=None if self.always is None else self.always[index],
            groups=None if self.groups is None else self.groups[index],
        )

    def cell_cost(self, batch: Batch) -> Tensor:
        """Return what cells cost beside the networks, weighted nats, float64 ``[n, d]``: changed constants, and silence.

        A missing cell of a column that ``always`` had values costs as a level that was never met, for every network that met none.
        """
        cost = self.constants.cost(batch)
        if self.always is None or batch.complete:
            return cost
        silence = (self.weight.unsqueeze(-1) * self.always).sum(0) * unseen_cost(self.unseen)
        return cost + (~batch.observed).any(1) * silence

    def select_columns(self, batch: Batch) -> Batch:
        """Return the columns of a batch that the networks read."""
        return batch.columns(self.numeric, self.codes)

    def cells(self, batch: Batch) -> Cells:
        """Return the input units of every row for each network, missing cells imputed from the exemplars given the observed cells."""
        cells = to_cells(self.views, self.layout, self.select_columns(batch))
        return cells if cells.complete else fill_missing(cells, self.layout, self.bank)


def kl_of(ensemble: Ensemble, mu: Tensor, logvar: Tensor, own: Tensor | None = None) -> Tensor:
    """Return KL(posterior of each row ‖ prior of each network), nats, float64 ``[g, n]``; ``own`` as in ``kl_to_prior``."""
    if ensemble.prior == "standard":
        return gaussian_kl(mu, logvar).to(torch.float64)
    return kl_to_prior(mu, logvar, ensemble.prior_product, own).to(torch.float64)


def net_terms(ensemble: Ensemble, cells: Cells, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return reconstruction ``[g, n, w·d]`` and β · KL ``[g, n]`` of each network at the posterior mean, nats, float64.

    β as in the β-VAE (Higgins et al. 2017), but only in the score, not in training.
    """
    mu, logvar = ensemble.vae.encode(cells.units)
    nll = reconstruction_cells(ensemble, ensemble.vae.decode(mu), cells)
    return nll.to(torch.float64), kl_of(ensemble, mu, logvar, own) * ensemble.beta.unsqueeze(-1)


def reconstruction_cells(ensemble: Ensemble, out: Tensor, cells: Cells) -> Tensor:
    """Return the negative log-likelihood of every cell given the decoder output ``out`` ``[g, n, u]``, nats, ``[g, n, w·d]``."""
    noise = ensemble.noise.view(-1, 1, 1)
    return cell_nll(ensemble.layout, out, cells, sigma=noise, unseen=ensemble.unseen, likelihood=ensemble.likelihood)


def _score_block(ensemble: Ensemble, batch: Batch, own: Tensor | None = None) -> Scores:
    """Score one block of fixed size."""
    nll, kl = net_terms(ensemble, ensemble.cells(batch), own)
    weight = ensemble.weight.unsqueeze(-1)
    scores = Scores(
        reconstruction=(nll.sum(-1) * weight).sum(0) + ensemble.cell_cost(batch).sum(-1),
        kl=(kl * weight).sum(0),
    )
    if batch.complete:
        return scores
    empty = ~batch.observed.flatten(1).any(1)
    return Scores(reconstruction=scores.reconstruction.masked_fill(empty, torch.nan), kl=scores.kl.masked_fill(empty, torch.nan))


@torch.no_grad()
def score_rows(ensemble: Ensemble, batch: Batch, *, threads: int = 1, own: Tensor | None = None) -> Scores:
    """Score any number of rows; the bits of a row's score do not depend on the other rows or on ``threads``.

    ``own`` int64 ``[g, n]``: position of a training row among the exemplars of each network, which its score leaves out; −1 = none.
    """
    if len(batch) == 0:
        return Scores(reconstruction=torch.zeros(0, dtype=torch.float64), kl=torch.zeros(0, dtype=torch.float64))
    if not batch.complete:
        _ = ensemble.bank  # computed before the threads start, or each would compute it
    _ = ensemble.prior_product
    n = len(batch)
    size = block_rows(ensemble, n, threads)
    both = torch.empty(2, n, dtype=torch.float64)
    with single_threaded_products():
        for block, scores in enumerate(_over_blocks(ensemble, batch, size, threads, own)):
            # Copied at once: a small result that is kept alive would pin the memory of the large buffers around it.
            target = slice(block * size, min(n, (block + 1) * size))
            both[:, target] = torch.stack([scores.reconstruction, scores.kl])[:, : target.stop - target.start]
    return Scores(reconstruction=both[0], kl=both[1])


@torch.no_grad()
def column_terms(ensemble: Ensemble, batch: Batch, kinds: Sequence[Tensor], *, threads: int = 1) -> Tensor:
    """Return what each column costs in the networks ``kinds[t]``, and their KL, weighted nats, float64 ``[n, t, d + 1]``, the KL last.

    They sum to the score; NaN for a row without an observed cell. Cells' costs beside the networks count for the first kind.
    """
    columns = batch.observed.shape[-1]
    out = torch.zeros(len(batch), len(kinds), columns + 1, dtype=torch.float64)
    if not len(batch):
        return out
    _ = ensemble.bank, ensemble.prior_product  # cached properties: computed here, because several threads would compute them at once
    modelled = torch.cat([ensemble.numeric, batch.numeric.shape[-1] + ensemble.codes])
    size = block_rows(ensemble, len(batch), threads)
    with single_threaded_products(), ThreadPoolExecutor(max(1, threads)) as pool:
        found = pool.map(torch.no_grad()(_kind_terms), repeat(ensemble), blocks_of(batch, size), repeat(kinds))
        for first, (cells, kl) in zip(range(0, len(batch), size), found, strict=True):
            part = out[first : first + size]
            part[:, :, modelled] = cells[:, : len(part)].transpose(0, 1)
            part[:, :, -1] = kl[:, : len(part)].T
    out[:, 0, :-1] += ensemble.cell_cost(batch)
    if not batch.complete:
        out[~batch.observed.flatten(1).any(1)] = torch.nan
    return out


def _kind_terms(ensemble: Ensemble, batch: Batch, kinds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the weighted reconstruction cost of the modelled columns by kind, ``[t, n, d]``, and the weighted KL, ``[t, n]``."""
    nll, kl = net_terms(ensemble, ensemble.cells(batch))
    cells, kl = by_column(ensemble.layout, nll) * ensemble.weight.view(-1, 1, 1), kl * ensemble.weight.unsqueeze(-1)
    return torch.stack([cells[nets].sum(0) for nets in kinds]), torch.stack([kl[nets].sum(0) for nets in kinds])


def block_rows(ensemble: Ensemble, rows: int, threads: int) -> int:
    """Return how many rows to score at once: a multiple of ``ROWS``, so that every thread has some and the memory of a block is bounded."""
    width = len(ensemble.weight) * max(ensemble.layout.units, LEAST_WIDTH)
    most = min(MOST_ROWS, MOST_NUMBERS // width, -(-rows // max(1, threads)))
    return max(1, -(-most // ROWS)) * ROWS


def _over_blocks(ensemble: Ensemble, batch: Batch, size: int, threads: int, own: Tensor | None) -> Iterator[Scores]:
    blocks = list(blocks_of(batch, size))
    short = len(blocks) * size - len(batch)
    owns: Sequence[Tensor | None] = [None] * len(blocks)
    if own is not None:
        owns = torch.split(functional.pad(own, (0, short), value=-1), size, dim=1)
    if threads <= 1 or len(blocks) == 1:
        yield from map(_score_block, repeat(ensemble), blocks, owns)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(torch.no_grad()(_score_block), repeat(ensemble), blocks, owns)


def blocks_of(batch: Batch, size: int) -> Iterator[Batch]:
    """Split a batch into blocks of exactly ``size`` rows; the last is padded with rows of zeros."""
    for start in range(0, len(batch), size):
        block = batch.rows(slice(start, start + size))
        short = size - len(block)
        if short:
            block = Batch(
                numeric=_with_rows(block.numeric, short, 0),
                codes=_with_rows(block.codes, short, 0),
                observed=_with_rows(block.observed, short, 1),
                past=None if block.past is None else _with_rows(block.past, short, 0),
            )
        yield block


def _with_rows(values: Tensor, count: int, value: int) -> Tensor:
    """Append rows of one value; ``functional.pad`` of torch 2.6 does not take tensors without columns."""
    return torch.cat([values, values.new_full((count, *values.shape[1:]), value)])


def trial_rows(ensemble: Ensemble, count: int) -> Batch:
    """Return rows in the ranges of the first network's view, one cell in twenty of the second half missing; the same in every run."""
    generator = torch.Generator().manual_seed(0)
    layout, constants = ensemble.layout, ensemble.constants
    numbers, codes = len(ensemble.numeric) + len(constants.numeric), len(ensemble.codes) + len(constants.code)
    numeric = torch.zeros(count, layout.window, numbers, dtype=torch.float64)
    drawn = torch.randn(count, layout.window * layout.numeric, generator=generator, dtype=torch.float64)
    numeric[..., ensemble.numeric] = (ensemble.views.centre[0] + ensemble.views.scale[0] * drawn).view(count, layout.window, -1)
    numeric[..., constants.numeric] = constants.value
    predictors = ensemble.views.predictors
    past = None if predictors is None else numeric.expand(-1, predictors.lags, -1).clone()
    levels = torch.tensor([*[2] * layout.booleans, *layout.levels], dtype=torch.float64)
    level = torch.zeros(count, layout.window, codes, dtype=torch.int64)
    level[..., ensemble.codes] = (torch.rand(count, layout.window, len(levels), generator=generator, dtype=torch.float64) * levels).long()
    level[..., constants.code] = constants.level
    observed = torch.rand(count, layout.window, numbers + codes, generator=generator) >= MADE_HOLES
    observed[: count // 2] = True
    observed |= ~observed.any(-1, keepdim=True)  # a row without a cell has no score
    return Batch(numeric=numeric.masked_fill(~observed[..., :numbers], 0.0), codes=level, observed=observed, past=past)


@contextmanager
def single_threaded_products(*, wanted: bool = True) -> Iterator[None]:
    """Run matrix products on the calling thread only; do nothing unless ``wanted``.

    Threads of torch wait for each other by spinning: on a busy machine, small products take ten times as long on two threads as on one.
    """
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
