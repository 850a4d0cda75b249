"""A record batch that fits the schema becomes tensors: numbers, level codes and a mask of what was observed.

Nothing here is learned from data, and nothing knows views, networks or scores. Letters in shapes, here and everywhere:
``n`` rows, ``w`` window, ``d`` columns, ``m`` latent, ``k`` members, ``v`` views, ``g`` networks, ``u`` input units.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Rows as tensors; a table is a window of one row.

    ``numeric`` float64 ``[n, w, d_num]`` in raw units, 0 where missing; ``codes`` int64 ``[n, w, d_cat]``, the place of the level,
    ``len(levels)`` for a level never seen; ``observed`` bool ``[n, w, d]``. Columns stand as ``model_order`` says.
    """

    numeric: Tensor
    codes: Tensor
    observed: Tensor

    def __len__(self) -> int:
        """Return the number of rows ``n``."""
        return self.observed.shape[0]

    @property
    def complete(self) -> bool:
        """Whether no cell is missing."""
        return bool(self.observed.all())

    def rows(self, index: Tensor | slice) -> "Batch":
        """Return the rows at ``index``."""
        return Batch(numeric=self.numeric[index], codes=self.codes[index], observed=self.observed[index])

    def columns(self, numeric: Tensor, codes: Tensor) -> "Batch":
        """Return the columns at these places among the numbers and among the codes; the batch itself when these are all."""
        if len(numeric) + len(codes) == self.observed.shape[-1]:
            return self
        observed = torch.cat([numeric, self.numeric.shape[-1] + codes])
        return Batch(numeric=self.numeric[..., numeric], codes=self.codes[..., codes], observed=self.observed[..., observed])


def model_order(schema: Schema) -> tuple[Column, ...]:
    """Return the columns as tensors hold them: numbers, then booleans, then categories, each in the schema's order."""
    kinds = ("numeric", "boolean", "category")
    return tuple(sorted(schema.columns, key=lambda c: kinds.index(c.kind)))


def encode(schema: Schema, batch: pa.RecordBatch) -> Batch:
    """Turn a conformed record batch (``core.schema.conform``) into tensors of window 1.

    Nulls and NaN become 0 with ``observed`` False. Levels that the schema does not hold get the code ``len(levels)``.
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


def joined(batches: Iterable[Batch]) -> Batch:
    """Put batches of one schema together, in order."""
    parts = list(batches)
    return Batch(**{name: torch.cat([getattr(part, name) for part in parts]) for name in Batch.__slots__})


def _stack(columns: list[np.ndarray], n: int, dtype: type[np.generic]) -> np.ndarray:
    out = np.empty((n, len(columns)), dtype=dtype)
    for j, column in enumerate(columns):
        out[:, j] = column
    return out


def _numbers(values: pa.Array) -> np.ndarray:
    """Return float64 ``[n]`` with NaN where the cell is missing."""
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _codes(column: Column, values: pa.Array) -> np.ndarray:
    """Return int64 ``[n]``: the place of the level, ``len(levels)`` if unseen, -1 if missing."""
    place = pc.index_in(values, value_set=pa.array(column.levels, values.type))
    unseen = pc.fill_null(place, len(column.levels))
    return np.asarray(pc.if_else(pc.is_null(values), -1, unseen).to_numpy(zero_copy_only=False), dtype=np.int64)
