"""Diagnostics of a fit: reconstruction of every column on validation rows, cautions, stability of the alarm rate, usual contributions.

Letters of shapes: g networks, n rows, d columns.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.config import DataConfig
from vae_anomaly.detector.card import Blocks, ColumnQuality, alarm_stability
from vae_anomaly.detector.detector import Detector
from vae_anomaly.explain.contributions import Usual, explain_rows
from vae_anomaly.fitting.splits import RowSplit
from vae_anomaly.messages import percent
from vae_anomaly.model.ensemble import Ensemble, score_rows
from vae_anomaly.model.imputation import impute_by_decoding
from vae_anomaly.model.scaling import QUANTILE_ROWS, gather_cells
from vae_anomaly.model.vae import Cells, by_column, cell_nll
from vae_anomaly.schema.encoding import Batch, model_order
from vae_anomaly.schema.inference import NUMBER_LEVELS, Column
from vae_anomaly.schema.schema import Schema

# Most validation rows for R² of a column.
QUALITY_ROWS = 2000
# Total nats of a column on these rows below which it was constant there, so that a ratio would be meaningless.
UNCHANGED = 1e-9
# Rows whose distinct values are counted.
COUNTED_ROWS = 10_000


@torch.no_grad()
def column_quality(ensemble: Ensemble, batch: Batch, schema: Schema, validation: Sequence[Tensor]) -> tuple[ColumnQuality, ...]:
    """Describe every column: reconstruction on the validation rows (mean over networks) and its cells in all rows of the fit.

    ``validation[g]``: rows of ``batch`` that network ``g`` did not learn from.
    """
    count = min(QUALITY_ROWS, *(len(v) for v in validation))
    read = ensemble.select_columns(batch)
    cells = gather_cells(ensemble.views, ensemble.layout, read, torch.stack([v[:count] for v in validation]))
    explained = _explained(ensemble, impute_by_decoding(ensemble.vae, ensemble.views, cells))
    read_columns = torch.cat([ensemble.numeric, batch.numeric.shape[-1] + ensemble.codes]).tolist()
    r2_of = dict(zip(read_columns, explained.tolist(), strict=True))
    return tuple(_describe(column, j, batch, r2_of.get(j)) for j, column in enumerate(model_order(schema)))


# A block that flags more than so many times alpha, or a change of the median score over the time by this log ratio, is a caution.
WORST_TIMES, MOST_DRIFT = 3.0, 0.3
USUAL_ROWS = 400  # rows for the usual contributions: enough for a 90 % quantile
FEWEST_USUAL_ROWS = 100  # of wide tables, whose rows take longer to explain
USUAL_CELLS = 20_000  # rows × columns between these limits
NORMAL_90 = 1.2815515655446004  # 90 % quantile of N(0, 1): the spread reads as a standard deviation
LEAST_SPREAD = 0.01  # of the mean spread: a column that never contributes has a spread of 0


def _explained(ensemble: Ensemble, cells: Cells) -> Tensor:
    """Return 1 − SSE/SST of numbers and 1 − nll/(nll of the frequencies) of the others, mean over networks, float64 ``[d]``.

    0 for a column that is constant on these rows.
    """
    layout = ensemble.layout
    out = ensemble.vae.decode(ensemble.vae.encode(cells.units)[0])
    error = cell_nll(layout, out, cells, sigma=ensemble.vae.sigma, unseen=ensemble.unseen, full=True).double()
    baseline = torch.zeros_like(out)
    numeric = layout.window * layout.numeric
    baseline[..., numeric:] = ensemble.views.mean.clamp(1e-6, 1 - 1e-6).unsqueeze(1).expand_as(baseline[..., numeric:]).log()
    odds = slice(numeric, numeric + layout.window * layout.booleans)
    baseline[..., odds] -= (1.0 - baseline[..., odds].exp()).log()
    seen = cells.observed[..., :numeric]
    centre = (cells.units[..., :numeric] * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1)
    baseline[..., :numeric] = centre
    base = cell_nll(layout, baseline, cells, sigma=ensemble.vae.sigma, unseen=ensemble.unseen, full=True).double()
    total = base.sum(1)
    ratio = torch.where(total > UNCHANGED, 1.0 - error.sum(1) / total.clamp_min(UNCHANGED), 0.0)
    return by_column(layout, ratio.mean(0, keepdim=True)).squeeze(0) / layout.window


def _describe(column: Column, index: int, batch: Batch, r2: float | None) -> ColumnQuality:
    observed = batch.observed[..., index].flatten()
    missing, gap = 1.0 - float(observed.to(torch.float64).mean()), longest_run(observed.numpy(), of=False)
    if column.kind != "numeric":
        code = int(batch.codes[..., index - batch.numeric.shape[-1]].flatten()[int(observed.to(torch.uint8).argmax())])
        constant = column.levels[code] if r2 is None and code < len(column.levels) else None
        return ColumnQuality(name=column.name, kind=column.kind, r2=r2, missing=missing, constant=constant, longest_gap=gap)
    values = batch.numeric[..., index].flatten()[observed]
    step = max(1, len(values) // QUANTILE_ROWS)
    low, middle, high = np.quantile(values[::step].numpy(), [0.01, 0.5, 0.99]).tolist() if len(values) else (None, None, None)
    constant = f"{middle:g}" if r2 is None and middle is not None else None
    return ColumnQuality(
        name=column.name,
        kind=column.kind,
        r2=r2,
        missing=missing,
        constant=constant,
        low=low,
        middle=middle,
        high=high,
        longest_run=longest_run(values.numpy()) if r2 is not None and _has_many_values(values.numpy()) else None,
        longest_gap=gap,
    )


def longest_run(values: NDArray[Any], *, of: Any = None) -> int:
    """Return the most equal ``values`` in a row, or the most that are ``of`` this value.

    >>> longest_run(np.array([1.0, 1.0, 2.0, 1.0])), longest_run(np.array([True, False]), of=False)
    (2, 1)
    """
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else np.empty(0, np.int64)
    runs = np.diff(ends, prepend=-1)
    return int((runs if of is None else runs[values[ends] == of]).max(initial=0))


def _has_many_values(values: NDArray[np.float64]) -> bool:
    """Whether a number is a measurement rather than a code: more than 20 distinct values among up to 10,000."""
    return len(np.unique(values[:: max(1, len(values) // COUNTED_ROWS)])) > NUMBER_LEVELS


# R² below which a column is hardly predictable from the others: its faults are detected only if they are gross.
WEAK = 0.1
# Training rows for each column, and at least, below which there is a caution.
ROWS_A_COLUMN = 10
ROWS_AT_LEAST = 200
# p-value of the test for an even alarm rate below which there is a caution: one exchangeable table in a thousand.
UNEVEN = 0.001


DOUBTS_SHOWN = 5  # columns whose doubt is a caution of its own


def with_doubts(
    quality: tuple[ColumnQuality, ...], schema: Schema, table: pa.Table, data: DataConfig, time: NDArray[np.float64] | None
) -> tuple[ColumnQuality, ...]:
    """Add to the description of a column why it may be no measurement, unless the user has included it by name."""
    from vae_anomaly.schema.doubts import doubts  # noqa: PLC0415  # only a fit asks for it

    order = None if time is None else np.argsort(time, kind="stable")
    found = doubts((c for c in schema.columns if c.name not in data.include), table, order)
    return tuple(replace(q, doubt=found.get(q.name, "")) for q in quality)


def cautions(detector: Detector) -> tuple[str, ...]:
    """Return the known weaknesses of a model and of the table of its fit, one sentence each, the most serious first."""
    texts = (
        *detector.card.cautions,
        _copied(detector),
        _drifting(detector),
        *_doubtful(detector),
        _collapse(detector),
        _few_rows(detector),
        _uneven(detector),
        _weak(detector),
    )
    return tuple(text for text in texts if text)


def _drifting(detector: Detector) -> str:
    """Return a caution where the blocks of a time series say that its next stretch may be of another kind."""
    rates = detector.threshold.rates
    if rates is None:
        return ""
    alpha = detector.threshold.alpha
    if rates.worst > WORST_TIMES * alpha:
        return (
            f"one of {rates.blocks} blocks of the time flags {percent(rates.worst)} of its rows at alpha {alpha:g}: a next stretch like it "
            "has as many false alarms. Fit on a longer time"
        )
    if abs(rates.drift) > MOST_DRIFT:
        return (
            f"the scores drift: the median of the last of {rates.blocks} blocks of the time is {math.exp(rates.drift):.2g} times that of "
            "the first. If the process goes on drifting, many more rows than alpha are flagged. Fit on a longer or a later time"
        )
    return ""


def _copied(detector: Detector) -> str:
    card = detector.card
    if not card.copied_rows or card.calibrated:
        return ""
    return (
        f"{percent(card.copied_rows / card.calibration_rows)} of the {card.calibration_rows:,} calibration rows are copies of rows that "
        "the networks learned from and score too low: more new rows than alpha will be flagged. Was a table appended twice? "
        "Leave the copies out and fit again"
    )


def _doubtful(detector: Detector) -> tuple[str, ...]:
    doubts = [q.doubt for q in detector.quality if q.doubt]
    more = (
        f"{len(doubts) - DOUBTS_SHOWN:,} more columns may be no measurements; info --json names them" if len(doubts) > DOUBTS_SHOWN else ""
    )
    return (*doubts[:DOUBTS_SHOWN], more)


def active_units(detector: Detector) -> float:
    """Return the number of active latent units at the end of training, mean over networks."""
    curve = detector.card.history.blocks
    return curve[-1].active_units if curve else 0.0


def _collapse(detector: Detector) -> str:
    """Posterior collapse (Bowman et al. 2016): the decoder ignores the latent units."""
    active, latent = active_units(detector), detector.ensemble.vae.latent
    known = [q.r2 for q in detector.quality if q.r2 is not None]
    if not detector.card.history.blocks or not known:
        return ""
    if active < 1.0:
        return (
            "posterior collapse: no latent unit is active, so the model has learned each column alone and no relation between columns. "
            "Train longer with --steps; if that does not help, the columns are unrelated"
        )
    if median(known) < WEAK and len(known) > 1:
        return (
            f"near posterior collapse: {active:.3g} of {latent} latent units are active, and less than {percent(WEAK)} of the variation of "
            "half of the columns is reconstructed. Train longer with --steps; if that does not help, the columns are unrelated"
        )
    return ""


def _few_rows(detector: Detector) -> str:
    rows, columns = detector.card.training_rows, len(detector.quality)
    need = max(ROWS_AT_LEAST, ROWS_A_COLUMN * columns)
    if rows >= need:
        return ""
    return f"few rows: {rows:,} training rows for {columns:,} columns, {need:,} recommended; the threshold is valid, but faults are missed"


def _uneven(detector: Detector) -> str:
    stability = detector.blocks
    if stability is None or stability.p_value >= UNEVEN:
        return ""
    return (
        f"alarms on normal rows are clustered: {percent(min(stability.rates))} to {percent(max(stability.rates))} of the rows in "
        f"{len(stability.rates)} consecutive stretches of the calibration rows, more uneven than chance (p = {stability.p_value:.1g}). "
        "The false-alarm rate holds over long periods, not for every hour"
    )


def _weak(detector: Detector) -> str:
    known = [q.r2 for q in detector.quality if q.r2 is not None]
    weak = sum(r2 < WEAK for r2 in known)
    if not known or 2 * weak <= len(known):
        return ""
    return (
        f"{weak:,} of {len(known):,} columns are hardly predictable from the others: a fault in one of them is detected only if its value "
        "is extreme by itself"
    )


def calibration_stability(ensemble: Ensemble, batch: Batch, split: RowSplit, threshold: Threshold) -> Blocks | None:
    """Return the alarm rates over consecutive stretches of the calibration rows, ordered as in the table.

    None under ``cross``, and if there are too few alarms.
    """
    if split.method == "cross":
        return None
    rows = split.calibration
    totals = score_rows(ensemble, batch.rows(torch.from_numpy(rows)), threads=torch.get_num_threads()).total
    return alarm_stability(totals.numpy(), threshold.value)


def usual_contributions(ensemble: Ensemble, batch: Batch, split: RowSplit, held_out_fold: Sequence[int]) -> Usual:
    """Return median and spread of the contribution of each column over a few hundred calibration rows, explained held out.

    ``held_out_fold[g]`` is the fold that network ``g`` leaves out under ``cross``. The spread is (90 % quantile − median) / 1.28, so that
    z reads as standard deviations on the side of large contributions, the only side that matters and the one with a long tail.
    """
    most = min(USUAL_ROWS, max(FEWEST_USUAL_ROWS, USUAL_CELLS // max(batch.observed.shape[-1], 1)))
    rows = split.calibration[:: max(1, -(-len(split.calibration) // most))]
    contributions = []
    for k in range(split.folds if split.method == "cross" else 1):
        here = rows if split.method == "split" else rows[split.fold[rows] == k]
        nets = ensemble
        if split.method == "cross":
            nets = ensemble.nets((torch.tensor(held_out_fold) == k).nonzero().flatten())
            nets = replace(nets, weight=nets.weight * split.folds)
        contributions.append(explain_rows(nets, batch.rows(torch.from_numpy(here)), threads=torch.get_num_threads()).contribution)
    middle, high = np.quantile(torch.cat(contributions).numpy(), [0.5, 0.9], axis=0)
    spread = (high - middle) / NORMAL_90
    least = max(LEAST_SPREAD * float(spread.mean()), 1e-9)
    return Usual(middle=torch.from_numpy(middle), spread=torch.from_numpy(np.maximum(spread, least)))
