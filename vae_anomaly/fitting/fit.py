"""Normal rows become a detector: deal the rows out, train, choose exemplars, weigh the views, calibrate.

What each network learns, it learns from its own rows only: scaling, levels, weights, exemplars and the weight of its view. Knows
nothing of files, MLflow or the clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.calibration.threshold import Threshold, calibrate
from vae_anomaly.config import Config, TrainConfig
from vae_anomaly.detector.card import Card
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError, TooFewRows
from vae_anomaly.fitting.checkpointing import Forgetful, Memory, Progress, Stage
from vae_anomaly.fitting.diagnostics import calibration_blocks, column_quality, usual_contributions
from vae_anomaly.fitting.held_out import Fitted, scores_across
from vae_anomaly.fitting.robust import doubting, doubts, exemplar_limit, first_pass, oddness
from vae_anomaly.fitting.splits import Assignment, RowSplit, assign, split_rows
from vae_anomaly.messages import quote
from vae_anomaly.model.ensemble import Constants, Ensemble, score_rows, single_threaded_products
from vae_anomaly.model.exemplars import choose_exemplars
from vae_anomaly.model.scaling import Views, gather_cells, learn_views
from vae_anomaly.model.training import History, device_of, fit_weights, is_small
from vae_anomaly.model.vae import START_ROWS, Layout, Vae, start_linear
from vae_anomaly.model.weighting import unweighed, weighed
from vae_anomaly.schema.encoding import Batch, encode, joined, model_order
from vae_anomaly.schema.schema import Schema, conform

# The sum of 10¹⁰ squares of differences of such numbers is still a float64.
LARGEST = 1e148


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """Networks that have learned: ``own`` int64 ``[g, n]`` are the rows that are exemplars of each, −1 = padding."""

    ensemble: Ensemble
    nets: Assignment
    own: Tensor
    history: History


def fit_detector(
    table: pa.Table,
    schema: Schema,
    config: Config,
    *,
    time: NDArray[np.int64] | None = None,
    group: NDArray[np.int64] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Detector:
    """Fit and calibrate a detector on normal rows.

    ``time`` and ``group`` int64 ``[n]`` make the calibration part the last block of each group. Raises before training: TooFewRows when
    ``alpha`` asks for more rows than there are, SchemaMismatch when a row does not fit the schema, DataError when no column changes or
    one is too large, ConfigError when the device cannot be used.
    """
    return fit_rows(table, schema, config, time=time, group=group, on_progress=on_progress).detector


def fit_rows(
    table: pa.Table,
    schema: Schema,
    config: Config,
    *,
    time: NDArray[np.int64] | None = None,
    group: NDArray[np.int64] | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    memory: Memory | None = None,
) -> Fitted:
    """Do what ``fit_detector`` does, and keep what is known of the rows; with a ``memory`` of the same fit, go on from there."""
    memory = memory or Forgetful()
    plan = split_rows(config.calibration, table.num_rows, config.seed, time=time, group=group)
    reachable(device_of(config.train.device))
    batch = _encode_table(schema, table)
    if config.train.contamination_robust:
        plan = _doubting(batch, schema, plan, config, Stage(name="first pass", on_progress=on_progress, memory=memory))
    learned = _learn(batch, schema, plan, config, Stage(name="train", on_progress=on_progress, memory=memory))
    on_progress(Progress(stage="calibrate", done=0, total=1))
    ensemble, threshold = _calibrate(learned.ensemble, batch, plan, learned.nets, config)
    detector = Detector(
        schema=schema,
        config=config,
        ensemble=ensemble,
        threshold=threshold,
        quality=column_quality(ensemble, batch, schema, learned.nets.validation),
        card=_card(plan, config, learned.history, ensemble.constants, schema),
        usual=usual_contributions(ensemble, batch, plan, learned.nets.part),
        blocks=calibration_blocks(ensemble, batch, plan, threshold, time),
    )
    return Fitted(detector=detector, plan=plan, batch=batch, part=learned.nets.part, own=learned.own)


def _doubting(batch: Batch, schema: Schema, plan: RowSplit, config: Config, stage: Stage) -> RowSplit:
    """Return the plan that does not trust the rows that a first pass finds oddest."""
    found = stage.memory.doubts()
    if found is None:
        first = first_pass(plan, config.seed)
        learned = _learn(batch, schema, first, config, stage)
        odd = oddness(learned.ensemble, batch, first, learned.nets.part, learned.nets.exemplars, config.model, config.seed)
        found = doubting(plan, odd)
        stage.memory.keep_doubts(found)
    return replace(plan, left_out=found.left_out, doubted=found.doubted)


def _learn(batch: Batch, schema: Schema, plan: RowSplit, config: Config, stage: Stage) -> Learned:
    """Let all networks of a plan learn from their rows; nothing is calibrated yet."""
    constants, numeric, codes = find_constants(batch, torch.from_numpy(plan.training))
    read = batch.columns(numeric, codes)
    layout = _layout(schema, numeric, codes, len(plan.training))
    nets = assign(plan, config)
    generator = torch.Generator().manual_seed(config.seed)
    views = learn_views(layout, read, nets.views, nets.rows)
    unseen = 1.0 / (len(plan.training) + 1.0)
    vae = Vae(len(nets.views), layout, config.model, generator)
    with single_threaded_products(wanted=is_small(vae, config.train.batch_rows)):
        _start(vae, views, read, nets.rows)
        history = _train(vae, views, read, nets, config.train, unseen, generator, stage)
    limit, sure = exemplar_limit(plan, config.model), plan.doubted is None
    exemplars, own = choose_exemplars(vae, views, read, nets.exemplars, limit, generator, widen=sure)
    ensemble = Ensemble(
        layout=layout,
        vae=vae,
        views=views,
        exemplars=exemplars,
        **unweighed(len(nets.views), config.model.sigma),
        constants=constants,
        numeric=numeric,
        codes=codes,
        unseen=unseen,
        prior=config.model.prior,
        likelihood=config.model.likelihood,
    )
    ensemble = weighed(ensemble, read, own, len(config.model.views), generator)
    return Learned(ensemble=ensemble, nets=nets, own=own, history=history)


def _encode_table(schema: Schema, table: pa.Table) -> Batch:
    """Encode all rows of a table; the record batches of a table are views, so this copies once."""
    parts, first = [], 0
    for batch in table.combine_chunks().to_batches():
        parts.append(encode(schema, conform(schema, batch, where="the training rows", first_row=first)))
        first += batch.num_rows
    encoded = joined(parts)
    _refuse_too_large(encoded, schema)
    return encoded


def _refuse_too_large(batch: Batch, schema: Schema) -> None:
    """Raise DataError for a number so large that the spread of its column, a mean of squares, is infinite."""
    if not batch.numeric.numel():
        return
    low, high = batch.numeric.flatten(0, 1).aminmax(dim=0)
    for column, *ends in zip(model_order(schema), low.tolist(), high.tolist(), strict=False):
        value = max(ends, key=abs)
        if abs(value) > LARGEST:
            raise DataError(
                f"column {quote(column.name)} holds {value:g} in the training rows; the spread of numbers beyond ±{LARGEST:g} cannot be "
                "computed. Declare it in --missing-values if it stands for a missing value, give the column in a larger unit, or leave it "
                "out with --exclude."
            )


def find_constants(batch: Batch, training: Tensor) -> tuple[Constants, Tensor, Tensor]:
    """Return the columns that do not change over the training rows, and the places of the numbers and codes that do."""
    rows = batch.rows(training)
    d_num = rows.numeric.shape[-1]
    numeric, value = _unchanging(rows.numeric, rows.observed[..., :d_num])
    code, level = _unchanging(rows.codes, rows.observed[..., d_num:])
    constants = Constants(
        numeric=numeric.nonzero().flatten(), value=value[numeric], code=code.nonzero().flatten(), level=level[code], penalty=0.0
    )
    return constants, (~numeric).nonzero().flatten(), (~code).nonzero().flatten()


def _unchanging(values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each column ``[n, w, d]`` holds one value only, and its first observed value."""
    flat, seen = values.flatten(0, 1), observed.flatten(0, 1)
    first = seen.to(torch.uint8).argmax(0)
    value = flat.gather(0, first.unsqueeze(0)).squeeze(0)
    return ((flat == value) | ~seen).all(0), value


def _layout(schema: Schema, numeric: Tensor, codes: Tensor, rows: int) -> Layout:
    rest = [c for c in model_order(schema) if c.kind != "numeric"]
    changing = [rest[j] for j in codes.tolist()]
    levels = tuple(len(c.levels) for c in changing if c.kind == "category")
    layout = Layout(numeric=len(numeric), booleans=len(changing) - len(levels), levels=levels, window=schema.window)
    if not layout.units:
        raise DataError(f"no column changes in the {rows:,} row(s) to learn from. Give rows in which something happens.")
    return layout


def reachable(device: torch.device) -> torch.device:
    """Return the device. Raises ConfigError where this installation of torch cannot compute on it."""
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"train.device {str(device)!r} cannot be used here: {why}. Use auto or cpu.") from error
    return device


def _start(vae: Vae, views: Views, read: Batch, rows: Sequence[Tensor]) -> None:
    """Start every network at the best linear one on the rows that it learns from."""
    for net, index in enumerate(rows):
        cells = gather_cells(views.nets(torch.tensor([net])), vae.layout, read, index[:START_ROWS].unsqueeze(0))
        start_linear(vae, net, cells.units[0], views.mean[net])


def _train(  # noqa: PLR0913, PLR0917
    vae: Vae,
    views: Views,
    read: Batch,
    nets: Assignment,
    config: TrainConfig,
    unseen: float,
    generator: torch.Generator,
    stage: Stage,
) -> History:
    """Train on the device and bring the weights back."""
    device = device_of(config.device)
    there = Batch(**{name: getattr(read, name).to(device) for name in Batch.__slots__})
    history = fit_weights(
        vae.to(device),
        Views(**{name: getattr(views, name).to(device) for name in Views.__slots__}),
        there,
        rows=nets.rows,
        validation=nets.validation,
        config=config,
        unseen=unseen,
        generator=generator,
        start=stage.start(),
        on_step=stage.step,
    )
    vae.cpu().requires_grad_(requires_grad=False).eval()
    return history


def _calibrate(ensemble: Ensemble, batch: Batch, plan: RowSplit, nets: Assignment, config: Config) -> tuple[Ensemble, Threshold]:
    """Score the calibration rows by networks that have not seen them, then set the cost of a changed constant above them all."""
    rows = torch.from_numpy(plan.calibration)
    whole = plan.method == "split"
    totals = score_rows(ensemble, batch.rows(rows)).total if whole else scores_across(ensemble, batch, plan, nets.part)
    totals = totals[~totals.isnan()]
    if not len(totals):
        raise TooFewRows("no calibration row has an observed value in any model column; give rows with fewer missing values.")
    constants = replace(ensemble.constants, penalty=float(totals.max()) + 1.0)
    totals = totals + constants.cost(batch.rows(rows)).sum(-1)[batch.observed[rows].flatten(1).any(1)]
    return replace(ensemble, constants=constants), calibrate(totals.numpy(), config.calibration.alpha, plan.method)


def _card(plan: RowSplit, config: Config, history: History, constants: Constants, schema: Schema) -> Card:
    notes = []
    if plan.method == "cross":
        notes.append(f"cross-fitted, approximate: {plan.folds} folds; the false-alarm rate is near alpha and at most twice it in theory")
    if plan.doubted is not None:
        notes.append(doubts(plan))
    if schema.time is not None:
        notes.append("calibrated on the last block of each group; the promise is for exchangeable rows, which a time series is not")
    count = len(constants.numeric) + len(constants.code)
    if count:
        notes.append(f"{count} constant column(s): cost nothing while unchanged; a change flags the row")
    return Card(
        rows=len(plan.fold),
        training_rows=len(plan.training),
        calibration_rows=len(plan.calibration),
        seed=config.seed,
        history=history,
        notes=tuple(notes),
    )
