"""How well each column is reconstructed on rows that were watched, not learned from, and how its cells were at fit.

Describes a fitted ensemble, changes nothing. Knows nothing of training, thresholds or files.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.card import Blocks, ColumnQuality, block_rates
from vae_anomaly.detector.detector import Detector
from vae_anomaly.explain.contributions import FEWEST_USUAL_ROWS, LEAST_SPREAD, NORMAL_90, USUAL_CELLS, USUAL_ROWS, Usual, explain_rows
from vae_anomaly.fitting.splits import RowSplit
from vae_anomaly.messages import percent
from vae_anomaly.model.ensemble import Ensemble, score_rows
from vae_anomaly.model.imputation import settle_missing
from vae_anomaly.model.scaling import QUANTILE_ROWS, gather_cells
from vae_anomaly.model.vae import Cells, best_log_loss, by_column, cell_nll
from vae_anomaly.schema.encoding import Batch, model_order
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema

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


# Below this the other columns say next to nothing about a column: its faults are seen only when they are gross.
WEAK = 0.1
# Rows for each column, and rows at least, from which on a row of normal rows is dense enough to learn from.
ROWS_A_COLUMN = 10
ROWS_AT_LEAST = 200
# Alarms so unevenly spread come once in a thousand exchangeable tables.
UNEVEN = 0.001


def cautions(detector: Detector) -> tuple[str, ...]:
    """Return what to be careful about, the gravest first; empty for a model without a known weakness."""
    found = (_collapse(detector), _few_rows(detector), _uneven(detector), _weak(detector))
    return tuple(text for text in found if text)


def active_units(detector: Detector) -> float:
    """Return the latent units in use at the end of training, mean over networks."""
    blocks = detector.card.history.blocks
    return blocks[-1].active_units if blocks else 0.0


def _collapse(detector: Detector) -> str:
    """Posterior collapse (Bowman et al. 2016): the decoder does without the latent units."""
    active, latent = active_units(detector), detector.ensemble.vae.latent
    known = [q.r2 for q in detector.quality if q.r2 is not None]
    if not detector.card.history.blocks or not known:
        return ""
    if active < 1.0:
        return (
            "posterior collapse: no latent unit is in use, so the model knows each column by itself and not how columns go together. "
            "Give it more --steps; if that does not help, the columns are unrelated"
        )
    if median(known) < WEAK and len(known) > 1:
        return (
            f"near collapse: {active:.3g} of {latent} latent units are in use and half of the columns are reconstructed to less than "
            f"{percent(WEAK)}. Give it more --steps; if that does not help, the columns are unrelated"
        )
    return ""


def _few_rows(detector: Detector) -> str:
    rows, columns = detector.card.training_rows, len(detector.quality)
    need = max(ROWS_AT_LEAST, ROWS_A_COLUMN * columns)
    if rows >= need:
        return ""
    return f"few rows: {rows:,} to learn {columns:,} columns from, {need:,} are safer; the threshold holds, but more faults are missed"


def _uneven(detector: Detector) -> str:
    blocks = detector.blocks
    if blocks is None or blocks.p_value >= UNEVEN:
        return ""
    return (
        f"alarms on normal rows come in bursts: {percent(min(blocks.rates))} to {percent(max(blocks.rates))} of the rows in "
        f"{len(blocks.rates)} consecutive parts of the calibration rows, more uneven than chance (p = {blocks.p_value:.1g}). "
        "The rate holds over long spans, not for every hour"
    )


def _weak(detector: Detector) -> str:
    known = [q.r2 for q in detector.quality if q.r2 is not None]
    weak = sum(r2 < WEAK for r2 in known)
    if not known or 2 * weak <= len(known):
        return ""
    return (
        f"{weak:,} of {len(known):,} columns are hardly explained by the others: a fault in one of them is seen only when its value is "
        "far off by itself"
    )


def calibration_blocks(
    ensemble: Ensemble, batch: Batch, plan: RowSplit, threshold: Threshold, time: NDArray[np.int64] | None = None
) -> Blocks | None:
    """Return the rates in consecutive parts of the calibration rows, in the order of ``time`` or of the table; None under ``cross``."""
    if plan.method == "cross":
        return None
    rows = plan.calibration if time is None else plan.calibration[np.argsort(time[plan.calibration], kind="stable")]
    return block_rates(score_rows(ensemble, batch.rows(torch.from_numpy(rows))).total.numpy(), threshold.value)


def usual_contributions(ensemble: Ensemble, batch: Batch, plan: RowSplit, part: Sequence[int]) -> Usual:
    """Learn what columns usually contribute from a few hundred calibration rows, each explained by networks that have not seen it.

    ``part[g]`` is the fold of network ``g`` under ``cross``. The spread is (90 % quantile − median) / 1.28, so that a z reads as a number
    of standard deviations on the side of large contributions, which is the only side that matters and the one with a long tail.
    """
    most = min(USUAL_ROWS, max(FEWEST_USUAL_ROWS, USUAL_CELLS // max(batch.observed.shape[-1], 1)))
    rows = plan.calibration[:: max(1, -(-len(plan.calibration) // most))]
    found = []
    for k in range(plan.folds if plan.method == "cross" else 1):
        here = rows if plan.method == "split" else rows[plan.fold[rows] == k]
        nets = ensemble
        if plan.method == "cross":
            nets = ensemble.nets((torch.tensor(part) == k).nonzero().flatten())
            nets = replace(nets, weight=nets.weight * plan.folds)
        found.append(explain_rows(nets, batch.rows(torch.from_numpy(here))).contribution)
    middle, high = np.quantile(torch.cat(found).numpy(), [0.5, 0.9], axis=0)
    spread = (high - middle) / NORMAL_90
    least = max(LEAST_SPREAD * float(spread.mean()), 1e-9)
    return Usual(middle=torch.from_numpy(middle), spread=torch.from_numpy(np.maximum(spread, least)))
