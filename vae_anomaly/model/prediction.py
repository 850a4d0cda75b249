"""One-step predictions of rows in time: what a number would be if it only followed its past.

A network of a time series reads numbers as they are (``values``), or their residuals: number − prediction, from the past of the same
column (``own``) or of all columns (``ar``, a vector autoregression). Levels of a process drift in and out of what a training time shows;
residuals do not. Both predictions are linear in the last rows, in units of the column's standard deviation, by ridge regression (Hoerl &
Kennard 1970), and learned from the training rows of the network only.

Letters of shapes: g networks, n rows, b rows of a minibatch, l lags, d numeric columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae_anomaly.config import SeriesView
from vae_anomaly.model.vae import row_product
from vae_anomaly.schema.encoding import Batch

SERIES_KINDS: tuple[SeriesView, ...] = ("values", "own", "ar")
VALUES, OWN, ACROSS = range(3)
# Standard deviations beyond which a past value says no more.
PAST_CLIP = 20.0
# Ridge penalty of a column's own lags, for each hundred rows.
OWN_PENALTY = 0.1
# Penalties, for each hundred rows, of the lags of all columns; contiguous folds choose among them, and above these rows it is 1.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
USUAL_PENALTY, CHOSEN_BELOW, FOLDS = 1.0, 3000, 5
# Rows that a predictor is learned from, at most: its coefficients are then known to a per cent.
LEARNED_ROWS = 200_000
# A spread below this share of the mean is a rounding error.
LEAST_DEVIATION = 1e-9
# Pairs of columns whose relation is computed at once.
MOST_PAIRS = 2**22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictors:
    """Predictors of ``g`` networks: ``kind`` int64 ``[g]``, an index into ``SERIES_KINDS``; all others float64.

    ``centre``, ``spread`` ``[g, d]`` standardise a column; ``own`` ``[g, l, d]``: coefficients of the lags of the same column; ``across``
    ``[a, l·d, d]``: those of all columns, for the ``a`` networks of kind ``ar``, in order.
    """

    kind: Tensor
    centre: Tensor
    spread: Tensor
    own: Tensor
    across: Tensor

    @property
    def lags(self) -> int:
        """Number of rows that a prediction takes."""
        return self.own.shape[1]

    def nets(self, index: Tensor) -> "Predictors":
        """Return the predictors of the networks at ``index``."""
        place = torch.cumsum(self.kind == ACROSS, 0) - 1
        across = self.across[place[index[self.kind[index] == ACROSS]]]
        return Predictors(kind=self.kind[index], centre=self.centre[index], spread=self.spread[index], own=self.own[index], across=across)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Predictors":
        """Return the predictors with every tensor changed."""
        return Predictors(**{name: change(getattr(self, name)) for name in Predictors.__slots__})

    def predict(self, past: Tensor) -> Tensor:
        """Return the predicted numbers, 0 for networks that read values; ``past`` ``[n, l, d]`` or ``[g, b, l, d]`` → ``[g, n, d]``.

        A missing past value counts as the mean of its column.
        """
        kinds = self.kind.tolist()
        own, across = ([g for g, kind in enumerate(kinds) if kind == which] for which in (OWN, ACROSS))
        shared = past.dim() == 3  # noqa: PLR2004  ([n, l, d])
        out = torch.zeros(len(kinds), past.shape[-3], past.shape[-1], dtype=past.dtype, device=past.device)
        for nets, is_own in ((own, True), (across, False)):
            if not nets:
                continue
            centre, spread = self.centre[nets], self.spread[nets]
            lagged = past.unsqueeze(0) if shared else past[nets]
            z = ((lagged - centre[:, None, None]) / spread[:, None, None]).clamp_(-PAST_CLIP, PAST_CLIP).nan_to_num_(0.0)
            if is_own:  # one lag after the other, so that the sum is rounded alike for every row
                step = z[:, :, 0] * self.own[nets][:, None, 0]
                for lag in range(1, self.lags):
                    step += z[:, :, lag] * self.own[nets][:, None, lag]
            else:
                step = row_product(z.flatten(2), self.across)
            out[nets] = step.mul_(spread.unsqueeze(1)).add_(centre.unsqueeze(1))
        return out

    def drivers(self, past: Tensor) -> Tensor:
        """Return the other column whose past moves a prediction most, int64 ``[n, d]`` of ``[n, l, d]``; −1 without ``ar``."""
        count, lags, columns = past.shape
        found = torch.full((count, columns), -1, dtype=torch.int64)
        nets = (self.kind == ACROSS).nonzero().flatten()
        if not len(nets) or columns < 2:  # noqa: PLR2004  # a column alone is related to none
            return found
        coefficients = self.across.view(-1, lags, columns, columns)
        diagonal = torch.arange(columns)
        for first in range(0, count, max(1, MOST_PAIRS // (len(nets) * columns * columns))):
            rows = slice(first, first + max(1, MOST_PAIRS // (len(nets) * columns * columns)))
            z = (
                ((past[rows] - self.centre[nets][:, None, None]) / self.spread[nets][:, None, None])
                .clamp(-PAST_CLIP, PAST_CLIP)
                .nan_to_num(0.0)
            )
            moved = torch.einsum("anli,alij->anij", z, coefficients).mean(0).abs()
            moved[:, diagonal, diagonal] = -1.0
            found[rows] = moved.argmax(1)
        return found


def residuals(predictors: Predictors, batch: Batch) -> Tensor:
    """Return the numbers of a batch minus their predictions, ``[g, n, d]`` of ``[n, 1, d]`` or ``[g, b, 1, d]``."""
    assert batch.past is not None
    numbers = batch.numeric.flatten(-2)
    return (numbers.unsqueeze(0) if numbers.dim() == 2 else numbers) - predictors.predict(batch.past)  # noqa: PLR2004  ([n, d])


def learn_predictors(batch: Batch, kinds: Sequence[int], rows: Sequence[Tensor]) -> Predictors:
    """Learn the predictor of each network from its rows ``rows[g]`` of the batch, which are in the order of time, one entity after another.

    Networks with the same rows share one.
    """
    learned: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
    for index in rows:
        if id(index) not in learned:
            learned[id(index)] = _learn(batch, index[:: max(1, -(-len(index) // LEARNED_ROWS))], across=ACROSS in kinds)
    found = [learned[id(index)] for index in rows]
    _, _, own, across = found[0]
    every = [one[3] for one, kind in zip(found, kinds, strict=True) if kind == ACROSS]
    return Predictors(
        kind=torch.tensor(list(kinds), dtype=torch.int64),
        centre=torch.stack([one[0] for one in found]),
        spread=torch.stack([one[1] for one in found]),
        own=torch.stack([one[2] for one in found]),
        across=torch.stack(every) if every else own.new_zeros(0, *across.shape),
    )


def _learn(batch: Batch, index: Tensor, *, across: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return centre and spread ``[d]``, the coefficients of a column's own lags ``[l, d]`` and those of all columns ``[l·d, d]``."""
    picked = batch.rows(index)
    assert picked.past is not None
    count = picked.numeric.shape[-1]
    seen = picked.observed[:, -1, :count]
    values = picked.numeric[:, -1].masked_fill(~seen, torch.nan)
    centre = values.nanmean(0).nan_to_num(0.0)
    spread = (values - centre).square().nanmean(0).nan_to_num(0.0).sqrt()
    spread = torch.where(spread > LEAST_DEVIATION * centre.abs().clamp_min(1e-300), spread, 1.0)
    lagged = ((picked.past - centre) / spread).clamp(-PAST_CLIP, PAST_CLIP).nan_to_num(0.0)
    # A missing number is taken to be the last one: it then says nothing against standing still.
    target = torch.where(seen, ((picked.numeric[:, -1] - centre) / spread).clamp(-PAST_CLIP, PAST_CLIP), lagged[:, 0])
    rows, lags = len(index), lagged.shape[1]
    gram = torch.einsum("nlj,nmj->jlm", lagged, lagged) + (OWN_PENALTY * rows / 100) * torch.eye(lags, dtype=torch.float64)
    own = torch.linalg.solve(gram, torch.einsum("nlj,nj->jl", lagged, target)).T.contiguous()
    flat = lagged.flatten(1)
    if not across:
        return centre, spread, own, flat.new_zeros(flat.shape[1], count)
    penalty = _chosen_penalty(flat, target) if rows <= CHOSEN_BELOW else USUAL_PENALTY
    return centre, spread, own, _ridge(flat.T @ flat, flat.T @ target, penalty * rows / 100)


def _ridge(gram: Tensor, product: Tensor, penalty: float) -> Tensor:
    """Return the coefficients ``[k, d]`` that minimise ‖target − rows · coefficients‖² + penalty ‖coefficients‖²."""
    found: Tensor = torch.linalg.solve(gram + max(penalty, 1e-12) * torch.eye(len(gram), dtype=gram.dtype), product)
    return found


def _chosen_penalty(rows: Tensor, target: Tensor) -> float:
    """Return the penalty, for each hundred rows, with the least squared error over contiguous folds."""
    parts = list(zip(torch.tensor_split(rows, FOLDS), torch.tensor_split(target, FOLDS), strict=True))
    grams, products = [part.T @ part for part, _ in parts], [part.T @ goal for part, goal in parts]
    whole, product = torch.stack(grams).sum(0), torch.stack(products).sum(0)
    errors = [
        sum(
            float((goal - part @ _ridge(whole - gram, product - own, penalty * (len(rows) - len(part)) / 100)).square().sum())
            for (part, goal), gram, own in zip(parts, grams, products, strict=True)
        )
        for penalty in PENALTIES
    ]
    return PENALTIES[errors.index(min(errors))]


def column_resolution(batch: Batch, rows: Tensor) -> Tensor:
    """Return the least step between two different numbers of each column, float64 ``[d]``; 0 where it is a rounding error."""
    picked = batch.rows(rows)
    steps = []
    for j in range(picked.numeric.shape[-1]):
        values = torch.from_numpy(np.unique(picked.numeric[:, -1, j][picked.observed[:, -1, j]].numpy()))
        step = values.diff()
        step = step[step > LEAST_DEVIATION * values.abs().max()] if len(values) > 1 else step
        steps.append(float(step.min()) if len(step) else 0.0)
    return torch.tensor(steps, dtype=torch.float64)
