"""A fit of rows in time: folds that are contiguous blocks, networks that read residuals, and a threshold from smoothed held-out scores.

Everything that a network learns comes from its own rows: its predictor too. Rows are scored by the mean of the folds' networks.

Letters of shapes: g networks, n rows, t kinds of networks, d columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.calibration.blocks import effective_rows
from vae_anomaly.calibration.threshold import Threshold, calibrate_blocks
from vae_anomaly.config import Config, SeriesView, ViewName
from vae_anomaly.detector.series import Series, SeriesScores, SeriesState, kind_nets, no_state, smooth
from vae_anomaly.errors import TooFewRows
from vae_anomaly.fitting.held_out import ensemble_without_fold
from vae_anomaly.fitting.splits import NetworkAssignment, RowSplit, calibration_size
from vae_anomaly.model.ensemble import Ensemble, column_terms
from vae_anomaly.model.imputation import unit_observed
from vae_anomaly.model.prediction import SERIES_KINDS, VALUES, column_resolution, learn_predictors
from vae_anomaly.model.scaling import Views, gather_cells, learn_views
from vae_anomaly.model.vae import Layout
from vae_anomaly.model.weighting import GROUPS, columns_of, evidence_of, log_odds
from vae_anomaly.schema.encoding import Batch
from vae_anomaly.schema.history import Clock, Stretch, Times, clock_of, stretches, with_past

# Rows of a block, at least: its (1 − alpha) quantile is then more than chance.
LEAST_BLOCK_ROWS = 20
# Columns up to which a number is predicted from the past of all of them: the coefficients of more would outweigh the networks.
MOST_ACROSS = 300
# Quantile of a kind's held-out scores that measures its level, in the worst fold.
HIGHEST_QUANTILE = 0.99
# Independent held-out rows, by the autocorrelation of their costs, from which on values count as much as residuals; fewer count by the
# square of their share. Where levels drift, a training time shows few of them, and their networks alarm at the next one
# (``benchmarks/sensors.py``).
VALUES_ROWS = 500.0
# Least weight of the reconstruction relative to the KL. Residuals have little left to be close to: what a network cannot reconstruct says
# as much as where the row lies (``benchmarks/sensors.py``).
SERIES_RECONSTRUCTION = 0.5
# Rows that tell which scaling of a kind separates made anomalies.
JUDGED_ROWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesRows:
    """The rows of a fit as time series, by entity and time: ``entity`` int64 ``[n]``, ``clock``, ``parts``, and the views to learn."""

    entity: NDArray[np.int64]
    clock: Clock
    parts: tuple[Stretch, ...]
    views: tuple[SeriesView, ...]


def series_rows(batch: Batch, config: Config, times: Times) -> SeriesRows:
    """Return the rows of a fit as time series; ``batch`` is in the order of ``times``, whose rows may come in any order."""
    clock, order = clock_of(times, config.series.max_gap), times.order
    entity = times.entity[order]
    last = np.full(int(entity[-1]) + 1, np.nan)
    parts = tuple(stretches(entity, times.value[order], last, clock.max_gap))
    numbers = batch.numeric.shape[-1]
    views = tuple(v for v in config.series.views if v == "values" or (numbers and (v == "own" or numbers <= MOST_ACROSS)))
    return SeriesRows(entity=entity, clock=clock, parts=parts, views=views or ("values",))


def split_series(config: Config, rows: SeriesRows) -> RowSplit:
    """Return a split into contiguous folds: the first, second, … part of every entity's rows. Raises TooFewRows."""
    n, folds = len(rows.entity), config.series.folds
    calibration_size(replace(config.calibration, method="cross"), n)
    if n < folds * LEAST_BLOCK_ROWS:
        raise TooFewRows(
            f"a time series needs at least {folds * LEAST_BLOCK_ROWS:,} rows, {LEAST_BLOCK_ROWS} for each of {folds} blocks of its time; "
            f"{n:,} given. Give more rows, or leave --time-column out."
        )
    fold = np.empty(n, dtype=np.int64)
    for entity in np.unique(rows.entity):
        here = np.flatnonzero(rows.entity == entity)
        fold[here] = np.arange(len(here)) * folds // len(here)
    return RowSplit(method="cross", folds=folds, fold=fold)


def assign_series(split: RowSplit, rows: SeriesRows, lags: int) -> NetworkAssignment:
    """Assign networks to kinds and folds; none learns from rows of its fold, or from rows whose past reaches into it or from it.

    The scalings are not chosen yet (``series_views``).
    """
    learning = []
    for k in range(split.folds):
        near, held = np.zeros(len(split.fold), dtype=np.bool_), np.flatnonzero(split.fold == k)
        for shift in range(-lags, lags + 1):
            beside = np.clip(held + shift, 0, len(near) - 1)
            near[beside[rows.entity[beside] == rows.entity[held]]] = True
        learning.append(torch.from_numpy(np.flatnonzero(split.trainable & ~near)))
        if len(learning[-1]) < LEAST_BLOCK_ROWS:
            raise TooFewRows(
                f"the series are too short: block {k + 1} of {split.folds} leaves {len(learning[-1]):,} rows to learn from that are not "
                f"beside it, {LEAST_BLOCK_ROWS} are needed. Give longer series, or leave --time-column out."
            )
    validation = [torch.from_numpy(np.flatnonzero(split.trainable & (split.fold == k))) for k in range(split.folds)]
    which = [k for _ in rows.views for k in range(split.folds)]
    standard: ViewName = "standard"
    return NetworkAssignment(
        views=(standard,) * len(which),
        held_out_fold=tuple(which),
        rows=tuple(learning[k] for k in which),
        validation=tuple(validation[k] for k in which),
        exemplars=tuple(learning[k] for k in which),
    )


def series_views(
    read: Batch, layout: Layout, networks: NetworkAssignment, rows: SeriesRows, config: Config, generator: torch.Generator
) -> Views:
    """Learn the predictor and the scaling of every network; a kind has one scaling, the one that tells made anomalies best."""
    folds = len(set(networks.held_out_fold))
    kinds = [SERIES_KINDS.index(view) for view in rows.views for _ in range(folds)]
    everything = torch.arange(len(read))
    finest = column_resolution(read, everything)
    names = [_scaling(read, layout, SERIES_KINDS.index(view), everything, config.model.views, finest, generator) for view in rows.views]
    predictors = learn_predictors(read, kinds, networks.rows)
    return learn_views(layout, read, [name for name in names for _ in range(folds)], networks.rows, predictors=predictors, finest=finest)


def _scaling(
    read: Batch, layout: Layout, kind: int, rows: Tensor, names: Sequence[ViewName], finest: Tensor, generator: torch.Generator
) -> ViewName:
    """Return the scaling in which the distance to the nearest rows tells made anomalies best from real rows (``model.weighting``)."""
    if len(names) == 1:
        return names[0]
    every = [rows] * len(names)
    views = learn_views(layout, read, names, every, predictors=learn_predictors(read, [kind] * len(names), every), finest=finest)
    some = rows[torch.randperm(len(rows), generator=generator)[:JUDGED_ROWS]]
    cells = gather_cells(views, layout, read, some.expand(len(names), -1))
    units = cells.units * unit_observed(cells.observed, layout)
    groups = min(GROUPS, len(some) // 2)
    odds = [float(log_odds(evidence_of(one, columns_of(layout), groups, generator)).max()) for one in units]
    return names[odds.index(max(odds))]


def held_out_terms(ensemble: Ensemble, batch: Batch, split: RowSplit, held_out_fold: Sequence[int]) -> NDArray[np.float64]:
    """Return the terms ``[n, t, d + 1]`` of every row in the networks that left out its fold (``detector.series``)."""
    out: NDArray[np.float64] | None = None
    for k in range(split.folds):
        here = np.flatnonzero(split.fold == k)
        nets = ensemble_without_fold(ensemble, split, held_out_fold, k)
        terms = column_terms(nets, batch.rows(torch.from_numpy(here)), kind_nets(nets), threads=torch.get_num_threads()).numpy()
        out = np.full((len(batch), *terms.shape[1:]), np.nan) if out is None else out
        out[here] = terms
    assert out is not None
    return out


def weigh_kinds(ensemble: Ensemble, terms: NDArray[np.float64], split: RowSplit, rows: SeriesRows) -> NDArray[np.float64]:
    """Return the weight of each kind ``[t]``: its share over its worst fold's 99 % quantile of held-out scores, in nats of the mean kind.

    Residuals have the share 1, values up to as much (``VALUES_ROWS``).
    """
    predictors = ensemble.views.predictors
    assert predictors is not None
    scores, kinds = terms.sum(-1), [int(predictors.kind[nets[0]]) for nets in kind_nets(ensemble)]
    worst = np.array([
        max(float(np.nanquantile(scores[split.fold == k, t], HIGHEST_QUANTILE)) for k in range(split.folds)) for t in range(len(kinds))
    ])  # fmt: skip
    worst = np.maximum(worst, 1e-9)
    share = np.ones(len(kinds))
    if VALUES in kinds and len(kinds) > 1:
        values = np.nan_to_num(scores[:, kinds.index(VALUES)], nan=0.0)
        independent = effective_rows([np.log1p(values[part.rows]) for part in rows.parts])
        share[kinds.index(VALUES)] = min(1.0, independent / VALUES_ROWS) ** 2
    weight: NDArray[np.float64] = share / worst * float(np.exp(np.log(worst).mean()))
    return weight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibratedSeries:
    """A weighted ensemble of kinds with its threshold; ``scores``: smoothed held-out scores of the rows of the fit ``[n]``."""

    ensemble: Ensemble
    series: Series
    threshold: Threshold
    scores: NDArray[np.float64]


def calibrate_series(
    ensemble: Ensemble, batch: Batch, split: RowSplit, held_out_fold: Sequence[int], rows: SeriesRows, config: Config
) -> CalibratedSeries:
    """Weigh the kinds of networks, smooth the held-out scores in the order of time, and set the threshold from the blocks."""
    terms = held_out_terms(ensemble, batch, split, held_out_fold)
    factor = weigh_kinds(ensemble, terms, split, rows)
    weight = ensemble.weight.clone()
    for nets, times in zip(kind_nets(ensemble), factor.tolist(), strict=True):
        weight[nets] *= times
    ensemble, terms = replace(ensemble, weight=weight), terms * factor[:, None]
    start = torch.from_numpy(np.nanmean(terms, axis=0))
    step = rows.clock.step if np.isfinite(rows.clock.step) else 1.0
    max_gap = rows.clock.max_gap if np.isfinite(rows.clock.max_gap) else 1e300
    series = Series(start=start, span=config.series.span, max_gap=max_gap, step=step, is_clock=rows.clock.is_clock)
    scores = smoothed(series, batch, terms, rows.parts, ensemble).total
    known = ~np.isnan(scores)
    penalty = float(scores[known].max()) + 1.0
    # The smoothed score is above the threshold from the first row on, although the newest row weighs little.
    ensemble = replace(ensemble, constants=replace(ensemble.constants, penalty=penalty / series.newest))
    pieces = [scores[part.rows][known[part.rows]] for part in rows.parts]
    threshold = calibrate_blocks(
        scores[known], split.fold[known], config.calibration.alpha, effective_rows=effective_rows([p for p in pieces if len(p)])
    )
    return CalibratedSeries(ensemble=ensemble, series=series, threshold=threshold, scores=scores)


def smoothed(series: Series, batch: Batch, terms: NDArray[np.float64], parts: Sequence[Stretch], ensemble: Ensemble) -> SeriesScores:
    """Smooth the terms of all rows of a fit from the start of each stretch."""
    state = _blank(ensemble, series, batch, max((part.entity for part in parts), default=-1) + 1)
    return smooth(series, batch, terms, parts, state)[0]


def _blank(ensemble: Ensemble, series: Series, batch: Batch, entities: int) -> SeriesState:
    state = no_state(ensemble, series, batch.numeric.shape[-1], batch.codes.shape[-1])
    return state.codes([str(i) for i in range(entities)], np.zeros(0, dtype=np.int64), series)[0]


def fit_past(batch: Batch, rows: SeriesRows, lags: int) -> Batch:
    """Return the batch with the past of every row."""
    entities = max((part.entity for part in rows.parts), default=-1) + 1
    before = np.full((entities, lags, batch.numeric.shape[-1]), np.nan)
    return with_past(batch, rows.parts, before, lags)[0]
