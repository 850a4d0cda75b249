"""Which columns made the score of a row, and what the model expected there.

``contribution_j = reconstruction_j + kl_j`` adds up to the score exactly. The reconstruction is a sum over columns by nature. The KL is
shared out by occlusion: in proportion to how much it falls when cell ``j`` is replaced by what the exemplars say about it given the
other cells. Rows are worked on in blocks of one fixed size, for the same reason as in ``core.score``. Knows no threshold; of the plan
of a fit only which rows calibrate.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from vae_anomaly.model.ensemble import SCORE_BLOCK_ROWS as SCORE_ROWS
from vae_anomaly.model.ensemble import Ensemble, blocks_of, kl_of, net_terms, single_threaded_products
from vae_anomaly.model.imputation import CellBank, unit_observed
from vae_anomaly.model.vae import Cells, Layout, by_column
from vae_anomaly.schema.encoding import Batch

# Rows of a block: explaining holds [g, rows, exemplars] a few times.
EXPLAIN_BLOCK_ROWS = 32
# Columns of a row that are tried in turn; the KL is shared among these, the furthest from expectation.
CANDIDATE_COLUMNS = 32
# Of these so many at once: as many rows as a block of the score.
CANDIDATES_AT_ONCE = 4
# Calibration rows that say how much a column usually contributes: enough for a 90 % quantile, and fewer of wide tables, whose rows take
# longer to explain.
USUAL_ROWS = 400
FEWEST_USUAL_ROWS = 100
USUAL_CELLS = 20_000
# The 90 % quantile of a standard normal: a spread measured there reads as one standard deviation.
NORMAL_90 = 1.2815515655446004
# No spread is taken to be smaller than this share of the average one: a column that never contributes has a spread of 0.
LEAST_SPREAD = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """Why rows score as they do; columns stand as ``core.encode.model_order`` says.

    ``reconstruction``, ``kl`` float64 ``[n, d]`` in weighted nats, their sum over columns is the score; ``number`` float64 ``[n, d_num]``:
    the value expected given the other cells, raw units; ``level`` int64 and ``probability`` float64 ``[n, d_cat]``: the level expected.
    """

    reconstruction: Tensor
    kl: Tensor
    number: Tensor
    level: Tensor
    probability: Tensor

    @property
    def contribution(self) -> Tensor:
        """What each column adds to the score, float64 ``[n, d]``; larger = more of the anomaly lies there."""
        return self.reconstruction + self.kl


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Usual:
    """What each column contributes on normal rows that nothing has learned from: ``middle`` and ``spread`` float64 ``[d]``, nats."""

    middle: Tensor
    spread: Tensor

    def z(self, contribution: Tensor) -> Tensor:
        """Return (contribution − middle) / spread, ``[..., d]``: how unusual a contribution is for its column; larger = more unusual.

        A column that always contributes much has no large z for that; the largest contributions need not have the largest z.
        """
        return (contribution - self.middle) / self.spread


@torch.no_grad()
def explain_rows(ensemble: Ensemble, batch: Batch, *, threads: int = 1) -> Explanation:
    """Explain rows of any number, blocks of them on ``threads``; the same bits for a row whatever the others and the threads are."""
    d_num, d_cat = batch.numeric.shape[-1], batch.codes.shape[-1]
    places = torch.cat([ensemble.numeric, d_num + ensemble.codes])
    none = torch.zeros(0, d_num + d_cat, dtype=torch.float64)
    if len(batch) == 0:
        return Explanation(reconstruction=none, kl=none, number=none[:, :d_num], level=none[:, d_num:].long(), probability=none[:, d_num:])
    _ = ensemble.bank, ensemble.prior_product  # made once, before threads ask for them at the same time
    with single_threaded_products(), ThreadPoolExecutor(max(1, threads)) as pool:
        # What adds up to the score is computed in the blocks of the score: products of another shape round otherwise.
        terms = pool.map(torch.no_grad()(_terms), repeat(ensemble), blocks_of(batch, SCORE_ROWS[ensemble.prior]))
        cost, total_kl = _join(list(terms), len(batch))
        shares = pool.map(torch.no_grad()(_share_and_expect), repeat(ensemble), blocks_of(batch, EXPLAIN_BLOCK_ROWS))
        share, number, level, probability = _join(list(shares), len(batch))
    reconstruction, kl = ensemble.constants.cost(batch), torch.zeros(len(batch), d_num + d_cat, dtype=torch.float64)
    reconstruction[:, places] += cost
    kl[:, places] = share * total_kl.unsqueeze(-1)
    return Explanation(reconstruction=reconstruction, kl=kl, number=number, level=level, probability=probability)


def _join(parts: Sequence[tuple[Tensor, ...]], rows: int) -> list[Tensor]:
    return [torch.cat(part)[:rows] for part in zip(*parts, strict=True)]


def _terms(ensemble: Ensemble, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return what each column that the networks read costs, float64 ``[n, d]``, and the KL ``[n]``, both in weighted nats."""
    nll, kl = net_terms(ensemble, ensemble.cells(batch))
    weight = ensemble.weight.view(-1, 1)
    return (by_column(ensemble.layout, nll) * weight.unsqueeze(-1)).sum(0), (kl * weight).sum(0)


def _share_and_expect(ensemble: Ensemble, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return how the KL is shared over the columns, and what was expected as number, level and probability."""
    cells = ensemble.cells(batch)
    expected = expected_given_others(cells, ensemble.layout, ensemble.bank)
    return _kl_share(ensemble, cells, expected), *_to_raw(ensemble, batch, expected)


def unit_columns(layout: Layout) -> Tensor:
    """Return the column ``[u]`` (numbers, booleans, categories) that each unit belongs to, over all steps of the window."""
    numbers = torch.arange(layout.numeric).repeat(layout.window)
    booleans = torch.arange(layout.booleans).repeat(layout.window) + layout.numeric
    sizes = torch.tensor(layout.levels * layout.window, dtype=torch.int64)
    categories = torch.arange(len(layout.levels)).repeat(layout.window).repeat_interleave(sizes) + layout.numeric + layout.booleans
    return torch.cat([numbers, booleans, categories])


def expected_given_others(cells: Cells, layout: Layout, bank: CellBank) -> Tensor:
    """Return the expected units ``[g, n, u]``, each column with itself masked out of the weights (``core.conditional``)."""
    seen = unit_observed(cells.observed, layout).to(cells.units.dtype).unsqueeze(0).expand(cells.units.shape)
    distance = torch.baddbmm(seen @ bank.units.square().transpose(1, 2), cells.units * seen, bank.units.transpose(1, 2), alpha=-2.0)
    # The weight without column j is that of all cells with the part of j taken back, Σ has·(there² − 2·here·there) over its units.
    half = 0.5 / bank.variance
    whole = bank.log_weight.unsqueeze(1) - distance * half
    squares, there = bank.units.square().transpose(1, 2), bank.units.transpose(1, 2)
    has, here = seen * half, cells.units * seen * (-2.0 * half)
    expected, column = torch.empty_like(cells.units), unit_columns(layout)
    for j in range(int(column.max()) + 1 if len(column) else 0):
        own = (column == j).nonzero().flatten()
        left, right = torch.cat([has[..., own], here[..., own]], dim=-1), torch.cat([squares[:, own], there[:, own]], dim=1)
        weight = torch.softmax(torch.baddbmm(whole, left, right), dim=-1)
        expected[..., own] = weight @ bank.units[..., own]
    return expected


def _kl_share(ensemble: Ensemble, cells: Cells, expected: Tensor) -> Tensor:
    """Return how the KL is shared over the columns, float64 ``[n, d]``, each row adding up to 1; a missing cell has no share."""
    observed = by_column(ensemble.layout, cells.observed.to(torch.float64)) > 0
    n, columns = observed.shape
    if columns == 0:
        return torch.zeros(n, 0, dtype=torch.float64)
    column, weight = unit_columns(ensemble.layout), (ensemble.weight * ensemble.beta).view(-1, 1, 1)
    gap = (cells.units - expected).square().sum(0).to(torch.float64)
    distance = torch.zeros(n, columns, dtype=torch.float64).index_add_(1, column, gap)
    candidates = distance.masked_fill(~observed, -1.0).topk(min(CANDIDATE_COLUMNS, columns), dim=1).indices
    fall = torch.zeros(n, columns, dtype=torch.float64)
    kl = kl_of(ensemble, *ensemble.vae.encode(cells.units))
    for some in torch.split(candidates, CANDIDATES_AT_ONCE, dim=1):
        replaced = torch.where(column == some.unsqueeze(-1), expected.unsqueeze(2), cells.units.unsqueeze(2))
        without = kl_of(ensemble, *ensemble.vae.encode(replaced.flatten(1, 2))).view(-1, *some.shape)
        fall.scatter_(1, some, ((kl.unsqueeze(-1) - without) * weight).sum(0).clamp_min(0.0))
    fall = fall.masked_fill(~observed, 0.0)
    # Where no replacement lowers the KL, all observed columns share alike; where none is observed, all.
    fall = torch.where(fall.sum(1, keepdim=True) > 0, fall, observed.to(torch.float64))
    fall = torch.where(fall.sum(1, keepdim=True) > 0, fall, 1.0)
    return fall / fall.sum(1, keepdim=True)


def _to_raw(ensemble: Ensemble, batch: Batch, expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return expected numbers, levels and their probabilities in raw units, mean over networks, of the last step of the window."""
    layout, views, n = ensemble.layout, ensemble.views, len(batch)
    numbers, rest = layout.window * layout.numeric, expected.shape[-1]
    raw = (expected[..., :numbers].to(torch.float64) * views.scale.unsqueeze(1) + views.centre.unsqueeze(1)).mean(0)
    number = torch.full((n, batch.numeric.shape[-1]), torch.nan, dtype=torch.float64)
    number[:, ensemble.numeric] = raw[:, numbers - layout.numeric :]
    number[:, ensemble.constants.numeric] = ensemble.constants.value
    chance = (expected[..., numbers:rest] + views.mean.unsqueeze(1)).mean(0).to(torch.float64)
    level = torch.zeros(n, batch.codes.shape[-1], dtype=torch.int64)
    probability = torch.ones(n, batch.codes.shape[-1], dtype=torch.float64)
    for j, group in zip(ensemble.codes.tolist(), _last_step(layout), strict=True):
        chances = chance[:, group]
        pair = torch.cat([1.0 - chances, chances], dim=1) if chances.shape[1] == 1 else chances
        probability[:, j], level[:, j] = pair.max(1)
    level[:, ensemble.constants.code] = ensemble.constants.level
    return number, level, probability


def _last_step(layout: Layout) -> list[slice]:
    """Return the units after the numbers of each boolean and category in the last step of the window."""
    booleans = [
        slice((layout.window - 1) * layout.booleans + j, (layout.window - 1) * layout.booleans + j + 1) for j in range(layout.booleans)
    ]
    first = layout.window * layout.booleans + (layout.window - 1) * sum(layout.levels)
    categories = []
    for count in layout.levels:
        categories.append(slice(first, first + count))
        first += count
    return booleans + categories
