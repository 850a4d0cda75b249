"""Additive contributions of the columns to the score of a row, and the values that the model expected.

``contribution_j = reconstruction_j + kl_j``; the contributions of a row sum to its score exactly. The reconstruction term is a sum over
columns by definition. The KL is attributed by occlusion: in proportion to its decrease when cell ``j`` is replaced by its expected value
given the other cells. Rows are processed in blocks of a fixed size, so that a row has the same bits in any batch (``model.ensemble``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.model.ensemble import MOST_NUMBERS, Ensemble, block_rows, blocks_of, kl_of, net_terms, single_threaded_products
from vae_anomaly.model.imputation import CellBank, kernel_costs, kernel_mean, unit_observed
from vae_anomaly.model.prior import NAT_IN_BITS
from vae_anomaly.model.vae import ROWS, Cells, Layout, by_column, row_product
from vae_anomaly.schema.encoding import Batch, model_order
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema

CANDIDATE_COLUMNS = 8  # columns furthest from expectation, among which the KL is attributed; each costs a pass of encoder and prior
CANDIDATES_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """Contributions and expected values of rows; columns in ``schema.encoding.model_order``.

    ``reconstruction``, ``kl`` float64 ``[n, d]`` in weighted nats, their sum over columns is the score; ``number`` float64 ``[n, d_num]``:
    the value expected given the other cells, in raw units; ``level`` int64 ``[n, d_cat]``: the most likely level, ``probability`` float64
    ``[n, d_cat]`` its probability.
    """

    reconstruction: Tensor
    kl: Tensor
    number: Tensor
    level: Tensor
    probability: Tensor

    @property
    def contribution(self) -> Tensor:
        """Contribution of each column to the score, float64 ``[n, d]``; larger = more anomalous."""
        return self.reconstruction + self.kl


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Usual:
    """Typical contributions on held-out normal rows: median ``middle`` and ``spread``, float64 ``[d]``, weighted nats."""

    middle: Tensor
    spread: Tensor

    def z(self, contribution: Tensor) -> Tensor:
        """Return the z-scores (contribution − middle) / spread, ``[..., d]``; larger = more unusual for this column.

        A column that always contributes much has a small z; the order by z differs from the order by contribution.
        """
        return (contribution - self.middle) / self.spread


@torch.no_grad()
def explain_rows(ensemble: Ensemble, batch: Batch, *, threads: int = 1) -> Explanation:
    """Explain rows, in blocks on ``threads``. The result of a row does not depend on the other rows or the threads, to the bit."""
    d_num, d_cat = batch.numeric.shape[-1], batch.codes.shape[-1]
    modelled = torch.cat([ensemble.numeric, d_num + ensemble.codes])  # the other columns are constants
    none = torch.zeros(0, d_num + d_cat, dtype=torch.float64)
    if len(batch) == 0:
        return Explanation(reconstruction=none, kl=none, number=none[:, :d_num], level=none[:, d_num:].long(), probability=none[:, d_num:])
    _ = ensemble.bank, ensemble.prior_product  # cached properties: computed here, because several threads would compute them at once
    with single_threaded_products(), ThreadPoolExecutor(max(1, threads)) as pool:
        terms = pool.map(torch.no_grad()(_terms), repeat(ensemble), blocks_of(batch, block_rows(ensemble, len(batch), threads)))
        cost, total_kl = _join(list(terms), len(batch))
        # The fewest rows: several tensors are [g, rows, exemplars].
        shares = pool.map(torch.no_grad()(_share_and_expect), repeat(ensemble), blocks_of(batch, ROWS))
        share, number, level, probability = _join(list(shares), len(batch))
    reconstruction, kl = ensemble.cell_cost(batch), torch.zeros(len(batch), d_num + d_cat, dtype=torch.float64)
    reconstruction[:, modelled] += cost
    kl[:, modelled] = share * total_kl.unsqueeze(-1)
    return Explanation(reconstruction=reconstruction, kl=kl, number=number, level=level, probability=probability)


def _join(parts: Sequence[tuple[Tensor, ...]], rows: int) -> list[Tensor]:
    return [torch.cat(part)[:rows] for part in zip(*parts, strict=True)]


def _terms(ensemble: Ensemble, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the reconstruction cost of each modelled column, float64 ``[n, d]``, and the KL ``[n]``, in weighted nats."""
    nll, kl = net_terms(ensemble, ensemble.cells(batch))
    weight = ensemble.weight.view(-1, 1)
    return (by_column(ensemble.layout, nll) * weight.unsqueeze(-1)).sum(0), (kl * weight).sum(0)


def _share_and_expect(ensemble: Ensemble, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each column's share of the KL ``[n, d]`` and the expected number, level and probability."""
    cells = ensemble.cells(batch)
    expected = expected_given_others(cells, ensemble.layout, ensemble.bank)
    return _kl_share(ensemble, cells, expected), *_to_raw(ensemble, batch, expected)


def unit_columns(layout: Layout) -> Tensor:
    """Return the column index of each input unit, int64 ``[u]``, over all steps of the window."""
    numbers = torch.arange(layout.numeric).repeat(layout.window)
    booleans = torch.arange(layout.booleans).repeat(layout.window) + layout.numeric
    sizes = torch.tensor(layout.levels * layout.window, dtype=torch.int64)
    categories = torch.arange(len(layout.levels)).repeat(layout.window).repeat_interleave(sizes) + layout.numeric + layout.booleans
    return torch.cat([numbers, booleans, categories])


def expected_given_others(cells: Cells, layout: Layout, bank: CellBank) -> Tensor:
    """Return the expected units ``[g, n, u]``, each column by kernel regression on the other columns (``model.imputation``)."""
    seen = unit_observed(cells.observed, layout).to(cells.units.dtype).unsqueeze(0).expand(cells.units.shape)
    known, there = cells.units * seen, bank.units.transpose(1, 2)
    costs = kernel_costs(known, seen, bank)
    # The cost without column j is that of all columns minus Σ half·(there² − 2·here·there) over the units of j that are seen.
    half = 0.5 * NAT_IN_BITS / bank.variance
    has, here = seen * -half, known * (2.0 * half)
    expected, column, buffer = torch.empty_like(cells.units), unit_columns(layout), torch.empty_like(costs)
    for j in range(int(column.max()) + 1 if len(column) else 0):
        own = (column == j).nonzero().flatten()
        left, right = torch.cat([has[..., own], here[..., own]], dim=-1), torch.cat([there[:, own].square(), there[:, own]], dim=1)
        expected[..., own] = kernel_mean(row_product(left, right, costs, out=buffer), bank.units[..., own])
    return expected


def _kl_share(ensemble: Ensemble, cells: Cells, expected: Tensor) -> Tensor:
    """Return each column's share of the KL, float64 ``[n, d]``, rows sum to 1; the share of a missing cell is 0."""
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
    at_once = min(CANDIDATES_AT_ONCE, max(1, MOST_NUMBERS // cells.units.numel()))
    for some in torch.split(candidates, at_once, dim=1):
        replaced = torch.where(column == some.unsqueeze(-1), expected.unsqueeze(2), cells.units.unsqueeze(2))
        without = kl_of(ensemble, *ensemble.vae.encode(replaced.flatten(1, 2))).view(-1, *some.shape)
        fall.scatter_(1, some, ((kl.unsqueeze(-1) - without) * weight).sum(0).clamp_min(0.0))
    fall = fall.masked_fill(~observed, 0.0)
    # Equal shares of the observed columns if no replacement lowers the KL, of all columns if none is observed.
    fall = torch.where(fall.sum(1, keepdim=True) > 0, fall, observed.to(torch.float64))
    fall = torch.where(fall.sum(1, keepdim=True) > 0, fall, 1.0)
    return fall / fall.sum(1, keepdim=True)


def _to_raw(ensemble: Ensemble, batch: Batch, expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return expected numbers, levels and their probabilities in raw units, averaged over networks, of the last step of the window."""
    layout, views, n = ensemble.layout, ensemble.views, len(batch)
    numbers, rest = layout.window * layout.numeric, expected.shape[-1]
    raw = (expected[..., :numbers].to(torch.float64) * views.scale.unsqueeze(1) + views.centres(ensemble.select_columns(batch))).mean(0)
    number = torch.full((n, batch.numeric.shape[-1]), torch.nan, dtype=torch.float64)
    number[:, ensemble.numeric] = raw[:, numbers - layout.numeric :]
    number[:, ensemble.constants.numeric] = ensemble.constants.value
    chance = (expected[..., numbers:rest] * views.spread.unsqueeze(1) + views.mean.unsqueeze(1)).mean(0).to(torch.float64)
    level = torch.zeros(n, batch.codes.shape[-1], dtype=torch.int64)
    probability = torch.ones(n, batch.codes.shape[-1], dtype=torch.float64)
    for j, group in zip(ensemble.codes.tolist(), _last_step(layout), strict=True):
        chances = chance[:, group]
        pair = torch.cat([1.0 - chances, chances], dim=1) if chances.shape[1] == 1 else chances
        probability[:, j], level[:, j] = pair.max(1)
    level[:, ensemble.constants.code] = ensemble.constants.level
    return number, level, probability


def _last_step(layout: Layout) -> list[slice]:
    """Return the units of each boolean and category in the last step of the window, counted after the numeric units."""
    booleans = [
        slice((layout.window - 1) * layout.booleans + j, (layout.window - 1) * layout.booleans + j + 1) for j in range(layout.booleans)
    ]
    first = layout.window * layout.booleans + (layout.window - 1) * sum(layout.levels)
    categories = []
    for count in layout.levels:
        categories.append(slice(first, first + count))
        first += count
    return booleans + categories


FEATURE = pa.struct([("column", pa.string()), ("value", pa.string()), ("expected", pa.string()), ("contribution", pa.float64())])
CellText = Callable[[int, int], str | None]  # of the cell in row i and column j
REST = "(other)"  # the entry of the columns that are not listed


def top_features(
    ensemble: Ensemble,
    schema: Schema,
    batch: Batch,
    rows: NDArray[np.int64],
    top: int | None,
    *,
    threads: int = 1,
    cells: pa.RecordBatch | None = None,
) -> pa.Array:
    """Return a list array ``[n]`` of ``FEATURE``: for ``rows`` (ascending indices) the ``top`` largest contributions, else null.

    The contributions of the other columns are summed as ``(other)``, so that a list adds up to the score; ``top=None`` lists all columns.
    ``cells``: the conformed rows of the batch, for the texts of unseen levels.
    """
    picked = batch.rows(torch.from_numpy(rows))
    explanation, columns = explain_rows(ensemble, picked, threads=threads), model_order(schema)
    value = value_texts(columns, picked, None if cells is None else cells.take(pa.array(rows)))
    return feature_lists(explanation.contribution.numpy(), columns, value, expected_texts(columns, explanation), rows, len(batch), top)


def feature_lists(
    contribution: NDArray[np.float64],
    columns: Sequence[Column],
    value: "CellText",
    expect: "CellText",
    rows: NDArray[np.int64],
    count: int,
    top: int | None,
) -> pa.Array:
    """Return the list array of ``top_features`` of ``count`` rows, of which ``rows`` have contributions ``[m, d]`` and texts (i, j)."""
    order = np.argsort(-contribution, axis=1, kind="stable")
    shown = order if top is None else order[:, :top]
    rest = np.take_along_axis(contribution, order[:, shown.shape[1] :], axis=1)
    parts = np.take_along_axis(contribution, shown, axis=1)
    other: list[tuple[str, str | None, str | None]] = [(REST, None, None)] if rest.shape[1] else []
    shown_cells: list[tuple[str, str | None, str | None]] = []
    for i, indices in enumerate(shown.tolist()):
        shown_cells += [(columns[j].name, value(i, j), expect(i, j)) for j in indices]
        shown_cells += other
    if rest.shape[1]:
        parts = np.concatenate([parts, rest.sum(1, keepdims=True)], axis=1)
    lengths, explained = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.bool_)
    lengths[rows], explained[rows] = parts.shape[1], True
    texts = [pa.array([cell[k] for cell in shown_cells], pa.string()) for k in range(3)]
    features = pa.StructArray.from_arrays([*texts, pa.array(parts.ravel())], fields=list(FEATURE))
    offsets = np.concatenate([np.zeros(1, np.int32), lengths.cumsum(dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), features, type=pa.list_(FEATURE), mask=pa.array(~explained))


def value_texts(columns: Sequence[Column], batch: Batch, cells: pa.RecordBatch | None = None) -> Callable[[int, int], str | None]:
    """Return a function (i, j) → text of the cell in row i and column j, None if missing.

    A level that is not in the schema is its text from ``cells``, the conformed rows, and ``(unseen)``; a number in a boolean column is that
    number. The tensors are converted to lists once: indexing a tensor takes microseconds per cell.
    """
    d_num = batch.numeric.shape[-1]
    observed, numeric, codes = (t[:, -1].tolist() for t in (batch.observed, batch.numeric, batch.codes))

    def text(i: int, j: int) -> str | None:
        if not observed[i][j]:
            return None
        if j < d_num:
            return f"{numeric[i][j]:.10g}"
        code, levels = int(codes[i][j - d_num]), columns[j].levels
        if code < len(levels):
            return str(levels[code])
        if cells is None:
            return "(unseen)"
        cell = str(cells.column(columns[j].name)[i].as_py())
        return cell if columns[j].kind == "boolean" and code > len(levels) else f"{cell} (unseen)"

    return text


def expected_texts(columns: Sequence[Column], explanation: Explanation) -> Callable[[int, int], str]:
    """Return a function (i, j) → text of the expected value: a number, or the most likely level with its probability."""
    d_num = explanation.number.shape[1]
    number, level, chance = (t.tolist() for t in (explanation.number, explanation.level, explanation.probability))

    def text(i: int, j: int) -> str:
        if j < d_num:
            return f"{number[i][j]:.6g}"
        return f"{columns[j].levels[level[i][j - d_num]]} ({chance[i][j - d_num]:.0%})"

    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One column's contribution to a score, in weighted nats; value and expectation as text in raw units."""

    column: str
    value: str | None
    expected: str | None
    contribution: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A flagged or suspicious row with its reasons, largest contribution first."""

    row: int  # number over all inputs, from 0, as in the output
    ids: Mapping[str, str | None]
    score: float
    p_value: float
    reasons: tuple[Reason, ...]
    part: str = ""  # of an output folder; rows are then numbered from 0 in each


def reasons_of(features: Iterable[Mapping[str, object]]) -> tuple[Reason, ...]:
    """Convert one value of the ``top_features`` column to reasons, without the ``(other)`` entry."""
    return tuple(
        Reason(
            column=str(feature["column"]),
            value=None if feature["value"] is None else str(feature["value"]),
            expected=None if feature["expected"] is None else str(feature["expected"]),
            contribution=float(str(feature["contribution"])),
        )
        for feature in features
        if feature["column"] != REST
    )
