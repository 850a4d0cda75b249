"""Fit a detector on normal rows: split the rows, train the networks, choose exemplars, weight the networks, calibrate.

Everything a network learns comes from its own training rows: scaling, levels, parameters, exemplars and its weight in the ensemble.

Letters of shapes: g networks, n rows, e exemplars, w steps of a window (1), d columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vae_anomaly.calibration.groups import calibrate_groups
from vae_anomaly.calibration.threshold import Threshold, calibrate
from vae_anomaly.config import Config, TrainConfig
from vae_anomaly.detector.card import Card, are_measured
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError, TooFewRows
from vae_anomaly.fitting.checkpointing import Progress, Stage
from vae_anomaly.fitting.diagnostics import calibration_stability, column_quality, usual_contributions, with_doubts
from vae_anomaly.fitting.held_out import FitRecord, cross_fit_scores
from vae_anomaly.fitting.robust import exemplar_limit, first_pass_scores, first_pass_split, robust_note, trim_rows
from vae_anomaly.fitting.series import (
    SERIES_RECONSTRUCTION,
    SeriesRows,
    assign_series,
    calibrate_series,
    fit_past,
    series_rows,
    series_views,
    split_series,
)
from vae_anomaly.fitting.splits import NetworkAssignment, RowSplit, assign_networks, copied_rows, split_rows
from vae_anomaly.messages import quote
from vae_anomaly.model.constants import FLOAT64, is_close
from vae_anomaly.model.ensemble import ConstantColumns, Ensemble, score_rows, single_threaded_products
from vae_anomaly.model.imputation import choose_exemplars
from vae_anomaly.model.scaling import Views, gather_cells, learn_views
from vae_anomaly.model.training import History, TrainingData, device_of, fit_weights, is_small_step, trial
from vae_anomaly.model.vae import START_ROWS, Layout, Vae, init_linear
from vae_anomaly.model.weighting import unit_weights, with_learned_weights
from vae_anomaly.schema.encoding import Batch, concatenate, encode, model_order
from vae_anomaly.schema.history import Times
from vae_anomaly.schema.schema import Schema, conform

# Largest absolute number: the sum of squared differences of 10¹⁰ such numbers is still a finite float64.
LARGEST = 1e148

# The training of a fit that nobody watches or resumes.
ONE_TRAINING = Stage()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedEnsemble:
    """A trained ensemble, not calibrated yet; ``exemplar_rows`` int64 ``[g, e]`` are the rows of its exemplars, −1 = padding."""

    ensemble: Ensemble
    networks: NetworkAssignment
    exemplar_rows: Tensor
    history: History


def fit_detector(
    table: pa.Table,
    schema: Schema,
    config: Config,
    *,
    times: Times | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Detector:
    """Fit and calibrate a detector on normal rows.

    With ``times`` the rows are time series, which blocks of their time calibrate (``fitting.series``). Raises before training: TooFewRows
    if ``alpha`` needs more calibration rows, SchemaMismatch if a row does not fit the schema, DataError if all columns are constant or a
    number is too large, ConfigError if the device is not available.
    """
    return fit_rows(table, schema, config, times=times, stage=Stage(on_progress=on_progress)).detector


def fit_rows(table: pa.Table, schema: Schema, config: Config, *, times: Times | None = None, stage: Stage = ONE_TRAINING) -> FitRecord:
    """Fit as ``fit_detector`` does and return the rows as well; resume from the states in the checkpoint of ``stage``, if it has any."""
    if times is not None:
        return _fit_series(table, schema, config, times, stage)
    split = split_rows(config.calibration, table.num_rows, config.seed)
    check_device(device_of(config.train.device))
    batch = _encode_table(schema, table)
    if config.train.contamination_robust:
        split = _trim(batch, schema, split, config, replace(stage, name="first pass"))
    learned = _learn(batch, schema, split, assign_networks(split, config), config, stage)
    stage.on_progress(Progress(stage="calibrate", done=0, total=1))
    ensemble, threshold = _calibrate(learned.ensemble, batch, split, learned.networks, config)
    quality = with_doubts(column_quality(ensemble, batch, schema, learned.networks.validation), schema, table, config.data, None)
    copied = copied_rows(batch, split) if are_measured(quality) else 0
    detector = Detector(
        schema=schema,
        config=config,
        ensemble=ensemble,
        threshold=threshold.with_copies_counted() if are_measured(quality) else threshold,
        quality=quality,
        card=replace(_card(split, config, learned.history, ensemble.constants), copied_rows=copied),
        usual=usual_contributions(ensemble, batch, split, learned.networks.held_out_fold),
        blocks=calibration_stability(ensemble, batch, split, threshold),
    )
    return FitRecord(
        detector=detector, split=split, batch=batch, held_out_fold=learned.networks.held_out_fold, exemplar_rows=learned.exemplar_rows
    )


def _fit_series(table: pa.Table, schema: Schema, config: Config, times: Times, stage: Stage) -> FitRecord:
    """Fit on rows in time: the networks of contiguous folds, of which each row is scored by their mean."""
    if config.train.contamination_robust:
        raise ConfigError("train.contamination_robust trims single rows and is for rows without a time; leave it or --time-column out.")
    # In the order of time: a model does not depend on the order in which the rows came.
    batch = _encode_table(schema, table).rows(torch.from_numpy(times.order))
    rows = series_rows(batch, config, times)
    split = split_series(config, rows)
    check_device(device_of(config.train.device))
    batch = fit_past(batch, rows, config.series.lags)
    learned = _learn(batch, schema, split, assign_series(split, rows, config.series.lags), config, stage, rows)
    stage.on_progress(Progress(stage="calibrate", done=0, total=1))
    folds = learned.networks.held_out_fold
    found = calibrate_series(learned.ensemble, batch, split, folds, rows, config)
    quality = column_quality(found.ensemble, batch, schema, learned.networks.validation)
    card = _card(split, config, learned.history, found.ensemble.constants)
    detector = Detector(
        schema=schema,
        config=config,
        ensemble=found.ensemble,
        threshold=found.threshold,
        quality=with_doubts(quality, schema, table, config.data, times.value),
        card=replace(card, notes=(*card.notes, *rows.clock.notes())),
        usual=usual_contributions(found.ensemble, batch, split, folds),
        series=found.series,
    )
    return FitRecord(
        detector=detector, split=split, batch=batch, held_out_fold=folds, exemplar_rows=learned.exemplar_rows, smoothed=found.scores
    )


def _trim(batch: Batch, schema: Schema, split: RowSplit, config: Config, stage: Stage) -> RowSplit:
    """Return the split without the rows that the first pass of a robust fit trims."""
    trimmed = stage.checkpoint.load_trimmed_rows()
    if trimmed is None:
        first = first_pass_split(split, config.seed)
        learned = _learn(batch, schema, first, assign_networks(first, config), config, stage)
        scores = first_pass_scores(learned.ensemble, batch, first, learned.networks, config.model, config.seed)
        trimmed = trim_rows(split, scores)
        stage.checkpoint.save_trimmed_rows(trimmed)
    return replace(split, excluded=trimmed.excluded, not_exemplar=trimmed.not_exemplar)


def _learn(
    batch: Batch, schema: Schema, split: RowSplit, networks: NetworkAssignment, config: Config, stage: Stage, rows: SeriesRows | None = None
) -> TrainedEnsemble:
    """Train all networks of a split, choose their exemplars and learn their weights; ``rows``: of a time series."""
    constants, numeric, codes = find_constant_columns(batch, torch.from_numpy(split.training))
    read = batch.columns(numeric, codes)
    layout = _layout(schema, numeric, codes, len(split.training))
    generator = torch.Generator().manual_seed(config.seed)
    if rows is None:
        views = learn_views(layout, read, networks.views, networks.rows)
    else:
        views = series_views(read, layout, networks, rows, config, generator)
    unseen = 1.0 / (len(split.training) + 1.0)
    vae = Vae(len(networks.views), layout, config.model, generator)
    with single_threaded_products(wanted=is_small_step(vae, config.train.batch_rows)):
        _start(vae, views, read, networks.rows)
        data = TrainingData(batch=read, views=views, rows=networks.rows, validation=networks.validation, unseen=unseen)
        history = _train(vae, data, config.train, generator, stage)
    limit, sure = exemplar_limit(split, config.model), split.not_exemplar is None
    exemplars, exemplar_rows = choose_exemplars(vae, views, read, networks.exemplars, limit, generator, widen=sure)
    ensemble = Ensemble(
        layout=layout,
        vae=vae,
        views=views,
        exemplars=exemplars,
        **unit_weights(len(networks.views), config.model.sigma),
        constants=constants,
        numeric=numeric,
        codes=codes,
        unseen=unseen,
        prior=config.model.prior,
        likelihood=config.model.likelihood,
        always=_never_missing(batch, networks),
    )
    # Kinds of networks of a time series are weighed by their held-out scores (``calibrate_series``).
    if rows is None:
        ensemble = with_learned_weights(ensemble, read, exemplar_rows, len(config.model.views), generator)
    else:
        ensemble = with_learned_weights(ensemble, read, exemplar_rows, 1, generator, least=SERIES_RECONSTRUCTION)
    return TrainedEnsemble(ensemble=ensemble, networks=networks, exemplar_rows=exemplar_rows, history=history)


def _encode_table(schema: Schema, table: pa.Table) -> Batch:
    """Encode all rows of a table. Its record batches are zero-copy, so the rows are copied once."""
    batches, first = [], 0
    for batch in table.combine_chunks().to_batches():
        batches.append(encode(schema, conform(schema, batch, where="the training rows", first_row=first)))
        first += batch.num_rows
    encoded = concatenate(batches)
    _refuse_too_large(encoded, schema)
    return encoded


def _refuse_too_large(batch: Batch, schema: Schema) -> None:
    """Raise DataError for a number so large that the variance of its column overflows."""
    if not batch.numeric.numel():
        return
    low, high = batch.numeric.flatten(0, 1).aminmax(dim=0)
    for column, *ends in zip(model_order(schema), low.tolist(), high.tolist(), strict=False):
        value = max(ends, key=abs)
        if abs(value) > LARGEST:
            raise DataError(
                f"column {quote(column.name)} holds {value:g} in the training rows; the spread of numbers beyond ±{LARGEST:g} cannot be "
                "computed. Declare it in --missing-values if it means a missing value, give the column in a larger unit, or leave it "
                "out with --exclude."
            )


def find_constant_columns(batch: Batch, training: Tensor) -> tuple[ConstantColumns, Tensor, Tensor]:
    """Return the columns that are constant in the training rows, and the indices of the numeric and of the coded columns that vary."""
    rows = batch.rows(training)
    d_num = rows.numeric.shape[-1]
    numeric, value = _constant(rows.numeric, rows.observed[..., :d_num], partial(is_close, share=FLOAT64))
    code, level = _constant(rows.codes, rows.observed[..., d_num:], torch.eq)
    constants = ConstantColumns(
        numeric=numeric.nonzero().flatten(), value=value[numeric], code=code.nonzero().flatten(), level=level[code], penalty=0.0
    )
    return constants, (~numeric).nonzero().flatten(), (~code).nonzero().flatten()


def _constant(values: Tensor, observed: Tensor, equal: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return for each column of ``[n, w, d]`` whether all observed values are ``equal``, and the first of them, both ``[d]``."""
    flat, seen = values.flatten(0, 1), observed.flatten(0, 1)
    first = seen.to(torch.uint8).argmax(0)
    value = flat.gather(0, first.unsqueeze(0)).squeeze(0)
    return (equal(flat, value) | ~seen).all(0), value


def _never_missing(batch: Batch, networks: NetworkAssignment) -> Tensor:
    """Return for each network the columns without a missing cell in its training rows and exemplars, bool ``[g, d]``.

    Rows that calibrate do not count, as for levels, so that the cost of silence does not depend on them.
    """
    complete: dict[int, Tensor] = {}

    def columns(rows: Tensor) -> Tensor:
        if id(rows) not in complete:  # networks share their rows
            observed = batch.observed[rows].flatten(0, 1)
            complete[id(rows)] = observed[observed.any(1)].all(0)  # a row without any cell is no silence of one column
        return complete[id(rows)]

    return torch.stack([columns(rows) & columns(more) for rows, more in zip(networks.rows, networks.exemplars, strict=True)])


def _layout(schema: Schema, numeric: Tensor, codes: Tensor, rows: int) -> Layout:
    coded = [c for c in model_order(schema) if c.kind != "numeric"]
    varying = [coded[j] for j in codes.tolist()]
    levels = tuple(len(c.levels) for c in varying if c.kind == "category")
    layout = Layout(numeric=len(numeric), booleans=len(varying) - len(levels), levels=levels, window=schema.window)
    if not layout.units:
        raise DataError(
            f"all columns are constant in the {rows:,} training row(s); expected at least one that varies. Give rows with normal variation."
        )
    return layout


def check_device(device: torch.device) -> torch.device:
    """Return the device. Raises ConfigError if this installation of torch cannot use it."""
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"train.device {str(device)!r} cannot be used here: {why}. Use auto or cpu.") from error
    return device


def _start(vae: Vae, views: Views, read: Batch, rows: Sequence[Tensor]) -> None:
    """Initialize every network at the optimal linear VAE of its training rows."""
    for net, index in enumerate(rows):
        cells = gather_cells(views.nets(torch.tensor([net])), vae.layout, read, index[:START_ROWS].unsqueeze(0))
        init_linear(vae, net, cells.units[0], views.mean[net])


def _train(vae: Vae, data: TrainingData, config: TrainConfig, generator: torch.Generator, stage: Stage) -> History:
    """Train on the configured device, then move the weights back to the CPU."""
    device = device_of(config.device)
    vae, data, start = vae.to(device), data.to(device), stage.start()
    stage.on_trial(trial(vae, data, config, start.step if start else 0))
    with stage.team.training(vae, data, config, generator, start):
        history = fit_weights(vae, data, config, generator, start=start, on_step=stage.step, team=stage.team)
    vae.cpu().requires_grad_(requires_grad=False).eval()
    return history


def _calibrate(
    ensemble: Ensemble, batch: Batch, split: RowSplit, networks: NetworkAssignment, config: Config
) -> tuple[Ensemble, Threshold]:
    """Set the threshold from held-out scores of the calibration rows, and the penalty of changed constants above all of them."""
    rows = torch.from_numpy(split.calibration)
    if split.method == "split":
        totals = score_rows(ensemble, batch.rows(rows), threads=torch.get_num_threads()).total
    else:
        totals = cross_fit_scores(ensemble, batch, split, networks.held_out_fold)
    totals = totals[~totals.isnan()]
    if not len(totals):
        raise TooFewRows("no calibration row has an observed value in any model column; give rows with fewer missing values.")
    constants = replace(ensemble.constants, penalty=float(totals.max()) + 1.0)
    totals = totals + constants.cost(batch.rows(rows)).sum(-1)[batch.observed[rows].flatten(1).any(1)]
    return replace(ensemble, constants=constants), calibrate(totals.numpy(), config.calibration.alpha, split.method)


def _card(split: RowSplit, config: Config, history: History, constants: ConstantColumns) -> Card:
    notes = []
    if split.method == "cross" and config.data.time_column is None:
        notes.append(f"cross-fitted, approximate: {split.folds} folds; the false-alarm rate is near alpha and at most twice it in theory")
    if split.not_exemplar is not None:
        notes.append(robust_note(split))
    count = len(constants.numeric) + len(constants.code)
    if count:
        notes.append(f"{count} constant column(s): no effect on the score while unchanged; a change flags the row")
    return Card(
        rows=len(split.fold),
        training_rows=len(split.training),
        calibration_rows=len(split.calibration),
        seed=config.seed,
        history=history,
        notes=tuple(notes),
    )


def with_group_thresholds(record: FitRecord, table: pa.Table, column: str) -> FitRecord:
    """Return the record of a fit of ``table`` with one threshold per group; calibration rows are scored again to pair them with groups."""
    detector, split = record.detector, record.split
    if detector.series is not None:
        note = "the threshold is pooled over the time series: blocks of all of them calibrate it"
        return replace(record, detector=replace(detector, card=replace(detector.card, notes=(*detector.card.notes, note))))
    if split.method != "split":
        note = "the threshold is pooled: one for each group needs split calibration, which takes 2,000 rows or --calibration split"
        return replace(record, detector=replace(detector, card=replace(detector.card, notes=(*detector.card.notes, note))))
    held_out = table.take(pa.array(split.calibration))
    batches = [encode(detector.schema, conform(detector.schema, batch, where="the training rows")) for batch in held_out.to_batches()]
    scores = np.concatenate([detector.scores(batch).total.numpy() for batch in batches])
    has_score, alpha = ~np.isnan(scores), detector.threshold.alpha
    groups = calibrate_groups(column, held_out[column].filter(pa.array(has_score)), scores[has_score], alpha)
    return replace(record, detector=detector.recalibrated(replace(calibrate(scores[has_score], alpha), groups=groups)))
