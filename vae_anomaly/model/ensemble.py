"""Rows become scores: reconstruction + KL in weighted nats, higher = more anomalous, a pure function of each row.

Matrix products round differently for different shapes, so rows are scored in padded blocks of one fixed size, each block on one
thread, threads over blocks, sums in float64: bit for bit the same whatever the batch, order or number of threads.
Knows nothing of thresholds, tables or files.
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
from vae_anomaly.model.imputation import CellBank, cell_bank, fill_missing
from vae_anomaly.model.prior import Exemplars, PriorProduct, kl_to_prior, prior_product
from vae_anomaly.model.scaling import Views, to_cells
from vae_anomaly.model.vae import Cells, Layout, Vae, cell_nll, gaussian_kl
from vae_anomaly.schema.encoding import Batch

# Rows of a block: large enough for full speed of the matrix products, small enough that one row alone is cheap and that what a block
# holds for every exemplar stays in the cache. Without exemplars there is less to hold and calls weigh more.
SCORE_BLOCK_ROWS = {"exemplar": 128, "standard": 2048}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constants:
    """Columns that never changed in training, by their place in a batch: they cost nothing until they change.

    ``numeric`` int64 places and ``value`` float64; ``code`` int64 places among the categorical columns and ``level`` codes;
    ``penalty`` nats for each changed cell: the largest calibration score + 1, so that the row is flagged.
    """

    numeric: Tensor
    value: Tensor
    code: Tensor
    level: Tensor
    penalty: float = 0.0

    def cost(self, batch: Batch) -> Tensor:
        """Return what changed constants contribute, float64 ``[n, d]``."""
        cost = torch.zeros(len(batch), batch.observed.shape[-1], dtype=torch.float64)
        if not len(self.numeric) and not len(self.code):
            return cost
        d_num = batch.numeric.shape[-1]
        numbers = (batch.numeric[..., self.numeric] != self.value) & batch.observed[..., self.numeric]
        codes = (batch.codes[..., self.code] != self.level) & batch.observed[..., d_num + self.code]
        cost[:, self.numeric] = numbers.any(1).to(torch.float64) * self.penalty
        cost[:, d_num + self.code] = codes.any(1).to(torch.float64) * self.penalty
        return cost


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """``total = reconstruction + kl`` exactly, float64 ``[n]``, weighted nats, higher = more anomalous; NaN where no cell is observed."""

    reconstruction: Tensor
    kl: Tensor

    @property
    def total(self) -> Tensor:
        """The anomaly score."""
        return self.reconstruction + self.kl


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Everything that turns rows into scores: ``g`` networks with their views, exemplars and weights.

    ``weight`` float64 ``[g]``: w_v / members, so the score is a plain weighted sum over networks. ``beta`` float64 ``[g]``: how
    much a nat of KL counts beside a nat of reconstruction, ≤ 1. ``noise`` float32 ``[g]``: the scale of a number around its
    reconstruction, in units of the view. ``numeric`` and ``codes`` are the places of the columns that the
    networks read; the others are ``constants``. ``unseen`` is the probability of a level never met.
    """

    layout: Layout
    vae: Vae
    views: Views
    exemplars: Exemplars
    weight: Tensor
    beta: Tensor
    noise: Tensor
    constants: Constants
    numeric: Tensor
    codes: Tensor
    unseen: float
    prior: Prior
    likelihood: Likelihood

    @cached_property
    def prior_product(self) -> PriorProduct:
        """Exemplars arranged for one matrix product a block."""
        return prior_product(self.exemplars)

    @cached_property
    def bank(self) -> CellBank:
        """What the exemplars look like in the units of the networks."""
        return cell_bank(self.vae, self.views, self.exemplars)

    def nets(self, index: Tensor) -> "Ensemble":
        """Return the ensemble of the networks at ``index``; their weights are kept as they are."""
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
        )

    def reads(self, batch: Batch) -> Batch:
        """Return the columns that the networks read."""
        return batch.columns(self.numeric, self.codes)

    def cells(self, batch: Batch) -> Cells:
        """Return the units of every row for each network, missing cells filled with what the exemplars say given the others."""
        cells = to_cells(self.views, self.layout, self.reads(batch))
        return cells if cells.complete else fill_missing(cells, self.layout, self.bank)


def kl_of(ensemble: Ensemble, mu: Tensor, logvar: Tensor, own: Tensor | None = None) -> Tensor:
    """KL of every row's posterior to the prior of its network, nats, float64 ``[g, n]``."""
    if ensemble.prior == "standard":
        return gaussian_kl(mu, logvar).to(torch.float64)
    return kl_to_prior(mu, logvar, ensemble.prior_product, own).to(torch.float64)


def net_terms(ensemble: Ensemble, cells: Cells, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Reconstruction of every cell ``[g, n, w·d]`` and β times the KL ``[g, n]`` of each network at the posterior mean, nats, float64.

    β as in the β-VAE (Higgins et al. 2017), here in the score alone.
    """
    mu, logvar = ensemble.vae.encode(cells.units)
    nll = reconstruction_cells(ensemble, ensemble.vae.decode(mu), cells)
    return nll.to(torch.float64), kl_of(ensemble, mu, logvar, own) * ensemble.beta.unsqueeze(-1)


def reconstruction_cells(ensemble: Ensemble, out: Tensor, cells: Cells) -> Tensor:
    """Return what every cell costs ``[g, n, w·d]`` when ``out`` was decoded, nats."""
    noise = ensemble.noise.view(-1, 1, 1)
    return cell_nll(ensemble.layout, out, cells, sigma=noise, unseen=ensemble.unseen, likelihood=ensemble.likelihood)


def _score_block(ensemble: Ensemble, batch: Batch, own: Tensor | None = None) -> Scores:
    """Score one block of the fixed size."""
    nll, kl = net_terms(ensemble, ensemble.cells(batch), own)
    weight = ensemble.weight.unsqueeze(-1)
    scores = Scores(
        reconstruction=(nll.sum(-1) * weight).sum(0) + ensemble.constants.cost(batch).sum(-1),
        kl=(kl * weight).sum(0),
    )
    if batch.complete:
        return scores
    empty = ~batch.observed.flatten(1).any(1)
    return Scores(reconstruction=scores.reconstruction.masked_fill(empty, torch.nan), kl=scores.kl.masked_fill(empty, torch.nan))


@torch.no_grad()
def score_rows(ensemble: Ensemble, batch: Batch, *, threads: int = 1, own: Tensor | None = None) -> Scores:
    """Score any number of rows; the same bits for a row whatever the others are.

    ``own`` int64 ``[g, n]`` is the place of a row among the exemplars of each network, which it leaves out, −1 = none.
    """
    if len(batch) == 0:
        return Scores(reconstruction=torch.zeros(0, dtype=torch.float64), kl=torch.zeros(0, dtype=torch.float64))
    if not batch.complete:
        _ = ensemble.bank  # made once, before threads ask for it at the same time
    _ = ensemble.prior_product
    size, n = SCORE_BLOCK_ROWS[ensemble.prior], len(batch)
    both = torch.empty(2, n, dtype=torch.float64)
    with single_threaded_products():
        for block, part in enumerate(_over_blocks(ensemble, batch, threads, own)):
            # Copied at once: kept, a small result would pin the memory of the large ones around it.
            place = slice(block * size, min(n, (block + 1) * size))
            both[:, place] = torch.stack([part.reconstruction, part.kl])[:, : place.stop - place.start]
    return Scores(reconstruction=both[0], kl=both[1])


def _over_blocks(ensemble: Ensemble, batch: Batch, threads: int, own: Tensor | None) -> Iterator[Scores]:
    size = SCORE_BLOCK_ROWS[ensemble.prior]
    blocks = list(blocks_of(batch, size))
    short = len(blocks) * size - len(batch)
    places: Sequence[Tensor | None] = [None] * len(blocks)
    if own is not None:
        places = torch.split(functional.pad(own, (0, short), value=-1), size, dim=1)
    if threads <= 1 or len(blocks) == 1:
        yield from map(_score_block, repeat(ensemble), blocks, places)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(torch.no_grad()(_score_block), repeat(ensemble), blocks, places)


def blocks_of(batch: Batch, size: int) -> Iterator[Batch]:
    """Cut a batch into blocks of exactly ``size`` rows; the last is filled up with rows of zeros."""
    for start in range(0, len(batch), size):
        block = batch.rows(slice(start, start + size))
        short = size - len(block)
        if short:
            block = Batch(
                numeric=functional.pad(block.numeric, (0, 0, 0, 0, 0, short)),
                codes=functional.pad(block.codes, (0, 0, 0, 0, 0, short)),
                observed=functional.pad(block.observed, (0, 0, 0, 0, 0, short), value=True),
            )
        yield block


@contextmanager
def single_threaded_products(*, wanted: bool = True) -> Iterator[None]:
    """Run matrix products on the calling thread only; where that is not ``wanted``, change nothing.

    Threads wait for each other by spinning: on a busy machine, small products on two threads take ten times as long as on one.
    """
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
