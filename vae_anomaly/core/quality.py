"""How well each column is reconstructed on rows that were watched, not learned from, and how its cells were at fit.

Describes a fitted ensemble, changes nothing. Knows nothing of training, thresholds or files.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vae_anomaly.core.conditional import settle_missing
from vae_anomaly.core.detector import ColumnQuality
from vae_anomaly.core.encode import Batch, model_order
from vae_anomaly.core.schema import Column, Schema
from vae_anomaly.core.score import Ensemble
from vae_anomaly.core.vae import Cells, best_log_loss, by_column, cell_nll
from vae_anomaly.core.views import QUANTILE_ROWS, gather_cells

# Validation rows for the quality of a column.
QUALITY_ROWS = 2000
# Nats of all these rows together, below which a column stood still.
UNCHANGED = 1e-9


@torch.no_grad()
def column_quality(ensemble: Ensemble, batch: Batch, schema: Schema, validation: Sequence[Tensor]) -> tuple[ColumnQuality, ...]:
    """Describe every column: reconstruction on validation rows (mean over networks) and its cells at fit."""
    count = min(QUALITY_ROWS, *(len(v) for v in validation))
    read = ensemble.reads(batch)
    cells = gather_cells(ensemble.views, ensemble.layout, read, torch.stack([v[:count] for v in validation]))
    explained = _explained(ensemble, settle_missing(ensemble.vae, ensemble.views, cells))
    places = torch.cat([ensemble.numeric, batch.numeric.shape[-1] + ensemble.codes]).tolist()
    by_place = dict(zip(places, explained.tolist(), strict=True))
    return tuple(_describe(column, j, batch, by_place.get(j)) for j, column in enumerate(model_order(schema)))


def _explained(ensemble: Ensemble, cells: Cells) -> Tensor:
    """Return 1 − SSE/SST for numbers and 1 − nll/nll of the frequencies for the rest, mean over networks, float64 ``[d]``.

    0 where the column does not change on these rows: there was nothing to explain.
    """
    layout = ensemble.layout
    out = ensemble.vae.decode(ensemble.vae.encode(cells.units)[0])
    error = (cell_nll(layout, out, cells, sigma=ensemble.vae.sigma, unseen=ensemble.unseen) + best_log_loss(layout, out, cells)).double()
    flat = torch.zeros_like(out)
    numeric = layout.window * layout.numeric
    flat[..., numeric:] = ensemble.views.mean.clamp(1e-6, 1 - 1e-6).unsqueeze(1).expand_as(flat[..., numeric:]).log()
    odds = slice(numeric, numeric + layout.window * layout.booleans)
    flat[..., odds] -= (1.0 - flat[..., odds].exp()).log()
    seen = cells.observed[..., :numeric]
    centre = (cells.units[..., :numeric] * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1)
    flat[..., :numeric] = centre
    base = (cell_nll(layout, flat, cells, sigma=ensemble.vae.sigma, unseen=ensemble.unseen) + best_log_loss(layout, flat, cells)).double()
    total = base.sum(1)
    ratio = torch.where(total > UNCHANGED, 1.0 - error.sum(1) / total.clamp_min(UNCHANGED), 0.0)
    return by_column(layout, ratio.mean(0, keepdim=True)).squeeze(0) / layout.window


def _describe(column: Column, place: int, batch: Batch, r2: float | None) -> ColumnQuality:
    observed = batch.observed[..., place].flatten()
    missing = 1.0 - float(observed.to(torch.float64).mean())
    if column.kind != "numeric":
        code = int(batch.codes[..., place - batch.numeric.shape[-1]].flatten()[int(observed.to(torch.uint8).argmax())])
        constant = column.levels[code] if r2 is None and code < len(column.levels) else None
        return ColumnQuality(name=column.name, kind=column.kind, r2=r2, missing=missing, constant=constant)
    values = batch.numeric[..., place].flatten()[observed]
    step = max(1, len(values) // QUANTILE_ROWS)
    low, middle, high = np.quantile(values[::step].numpy(), [0.01, 0.5, 0.99]).tolist() if len(values) else (None, None, None)
    constant = f"{middle:g}" if r2 is None and middle is not None else None
    return ColumnQuality(name=column.name, kind=column.kind, r2=r2, missing=missing, constant=constant, low=low, middle=middle, high=high)
