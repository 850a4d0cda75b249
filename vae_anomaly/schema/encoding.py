"""Encoding of a conformed record batch as tensors: numbers, level codes and a mask of observed cells. Nothing is fitted.

Letters of shapes, in the whole package: ``n`` rows, ``w`` window, ``d`` columns, ``m`` latent units, ``k`` members, ``v`` views,
``g`` networks, ``u`` input units.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.parsing import numbers as numbers_of
from vae_anomaly.schema.schema import Schema

# Resolution and range of the distance that a code of a boolean column holds for a number other than 0 and 1.
FINEST, FURTHEST = 2.0**-20, 2.0**62


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Rows as tensors; rows of a table have window ``w`` = 1.

    ``numeric`` float64 ``[n, w, d_num]`` in raw units, 0 where missing; ``codes`` int64 ``[n, w, d_cat]``, the index of the level,
    ``len(levels)`` for an unseen level, larger for a number in a boolean column the further it is from 0 and 1, see ``boolean_distance``;
    ``observed`` bool ``[n, w, d]``. Columns are in ``model_order``. ``past`` float64 ``[n, l, d_num]``: the numbers of the l rows before,
    the latest first, as ``model.prediction`` takes them; None for rows that are not a time series.
    """

    numeric: Tensor
    codes: Tensor
    observed: Tensor
    past: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of rows ``n``."""
        return self.observed.shape[0]

    @property
    def complete(self) -> bool:
        """Whether no cell is missing."""
        return bool(self.observed.all())

    def rows(self, index: Tensor | slice) -> "Batch":
        """Return the rows at ``index``."""
        past = None if self.past is None else self.past[index]
        return Batch(numeric=self.numeric[index], codes=self.codes[index], observed=self.observed[index], past=past)

    def columns(self, numeric: Tensor, codes: Tensor) -> "Batch":
        """Return the columns with these indices into ``numeric`` and ``codes``; the batch itself if these are all."""
        if len(numeric) + len(codes) == self.observed.shape[-1]:
            return self
        observed = torch.cat([numeric, self.numeric.shape[-1] + codes])
        past = None if self.past is None else self.past[..., numeric]
        return Batch(numeric=self.numeric[..., numeric], codes=self.codes[..., codes], observed=self.observed[..., observed], past=past)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with every tensor changed."""
        past = None if self.past is None else change(self.past)
        return Batch(numeric=change(self.numeric), codes=change(self.codes), observed=change(self.observed), past=past)


def model_order(schema: Schema) -> tuple[Column, ...]:
    """Return the columns in tensor order: numbers, then booleans, then categories, each in the schema's order."""
    kinds = ("numeric", "boolean", "category")
    return tuple(sorted(schema.columns, key=lambda c: kinds.index(c.kind)))


def encode(schema: Schema, batch: pa.RecordBatch) -> Batch:
    """Encode a record batch from ``schema.conform`` as tensors of window 1.

    Nulls and NaN become 0 with ``observed`` False. Levels that are not in the schema get the code ``len(levels)``.
    """
    n = batch.num_rows
    columns = model_order(schema)
    numeric = [_numbers(batch.column(c.name)) for c in columns if c.kind == "numeric"]
    codes = [_codes(c, batch.column(c.name)) for c in columns if c.kind != "numeric"]
    observed = [~np.isnan(x) for x in numeric] + [x >= 0 for x in codes]
    return Batch(
        numeric=torch.from_numpy(np.nan_to_num(_stack(numeric, n, np.float64), nan=0.0)).unsqueeze(1),
        codes=torch.from_numpy(np.maximum(_stack(codes, n, np.int64), 0)).unsqueeze(1),
        observed=torch.from_numpy(_stack(observed, n, np.bool_)).unsqueeze(1),
    )


def concatenate(batches: Iterable[Batch]) -> Batch:
    """Concatenate batches of one schema along the rows."""
    parts = list(batches)
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("numeric", "codes", "observed")}
    pasts = [part.past for part in parts if part.past is not None]
    return Batch(**joined, past=torch.cat(pasts) if pasts else None)


def _stack(columns: list[np.ndarray], n: int, dtype: type[np.generic]) -> np.ndarray:
    out = np.empty((n, len(columns)), dtype=dtype)
    for j, column in enumerate(columns):
        out[:, j] = column
    return out


def _numbers(values: pa.Array) -> np.ndarray:
    """Return float64 ``[n]`` with NaN where the cell is missing."""
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _codes(column: Column, values: pa.Array) -> np.ndarray:
    """Return int64 ``[n]``: the index of the level, ``len(levels)`` or more if unseen, -1 if missing."""
    index = pc.index_in(values, value_set=pa.array(column.levels, values.type))
    unseen = pc.fill_null(index, len(column.levels))
    codes = np.asarray(pc.if_else(pc.is_null(values), -1, unseen).to_numpy(zero_copy_only=False), dtype=np.int64)
    return codes + _steps(values) if column.kind == "boolean" and (codes >= len(column.levels)).any() else codes


def _steps(values: pa.Array) -> np.ndarray:
    """Return int64 ``[n]``: the distance of a number from the nearer of 0 and 1 in ``FINEST``, rounded up; 0 for other text."""
    numbers = _numbers(numbers_of(values))
    steps = np.ceil(np.minimum(np.abs(numbers), np.abs(numbers - 1.0)) / FINEST)
    return np.where(np.isnan(steps), 0.0, np.minimum(steps, FURTHEST)).astype(np.int64)


def boolean_distance(codes: Tensor) -> Tensor:
    """Return how far the number behind each code of a boolean column is from 0 and 1, float64; 0 for a level and for other text."""
    return (codes - 2).clamp_min(0).to(torch.float64) * FINEST
