"""Fits of rows in time: contiguous folds, nothing learned from held-out rows, and the threshold of smoothed held-out scores."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.series import COLUMNS, config_of, detector_of, record_of, rows_of
from vae_anomaly.calibration.blocks import block_threshold, effective_rows
from vae_anomaly.detector.in_time import times_of
from vae_anomaly.detector.series import kind_nets
from vae_anomaly.errors import ConfigError, TooFewRows
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.fitting.series import (
    VALUES_ROWS,
    assign_series,
    fit_past,
    held_out_terms,
    series_rows,
    split_series,
    weigh_kinds,
)
from vae_anomaly.model.prediction import SERIES_KINDS, VALUES
from vae_anomaly.schema.history import Times
from vae_anomaly.schema.schema import infer_schema


def ordered() -> pa.Table:
    """Return the rows of the fit in the order of its batch: by machine and time."""
    return rows_of(400).sort_by([("machine", "ascending"), ("t", "ascending")])


def test_folds_are_the_same_part_of_every_machine_and_keep_a_gap_of_the_lags() -> None:
    record, table = record_of(), ordered()
    machine, lags = np.array(table["machine"].to_pylist()), 2
    rows = series_rows(record.batch, config_of(), Times(value=table["t"].to_numpy(), entity=(machine == "b").astype(np.int64)))
    networks = assign_series(record.split, rows, lags)
    for name in ("a", "b"):
        here = np.flatnonzero(machine == name)
        np.testing.assert_array_equal(record.split.fold[here], np.arange(len(here)) * 5 // len(here))
    for net, fold in enumerate(networks.held_out_fold):
        held = np.flatnonzero(record.split.fold == fold)
        learned = networks.rows[net].numpy()
        for code in (0, 1):
            mine, beside = (index[rows.entity[index] == code] for index in (learned, held))
            assert np.abs(mine[:, None] - beside[None]).min() == lags + 1
        assert (np.diff(learned) > 0).all()
        assert networks.exemplars[net] is networks.rows[net]


def test_nothing_is_learned_from_the_held_out_block() -> None:
    """A fit whose first block holds other rows has the same networks for that fold: scaling, predictors, weights, exemplars and noise."""
    config, table = replace(config_of(), model=replace(config_of().model, views=("robust",))), ordered()
    machine = np.array(table["machine"].to_pylist())
    first = record_of().split.fold == 0
    first &= np.array([np.flatnonzero(machine == name)[0] <= i for i, name in enumerate(machine)])
    changed = table
    for name in ("flow", "power", "heat"):
        values = table[name].to_numpy().copy()
        values[first] = values[first] * 1.01 + 0.3
        changed = changed.set_column(changed.column_names.index(name), name, pa.array(values))
    schema = infer_schema(table, config.data)
    one, other = (fit_rows(t, schema, config, times=times_of(t, schema, None)).detector.ensemble for t in (table, changed))
    nets = (torch.tensor(record_of().held_out_fold) == 0).nonzero().flatten()
    left, right = one.nets(nets), other.nets(nets)
    for name, tensor in left.vae.state_dict().items():
        assert torch.equal(tensor, right.vae.state_dict()[name]), name
    assert torch.equal(left.views.centre, right.views.centre)
    assert left.views.predictors is not None
    assert right.views.predictors is not None
    for name in ("centre", "spread", "own", "across"):
        assert torch.equal(getattr(left.views.predictors, name), getattr(right.views.predictors, name)), name
    assert torch.equal(left.exemplars.mu, right.exemplars.mu)
    assert torch.equal(left.noise, right.noise)


def test_the_threshold_is_that_of_the_smoothed_held_out_scores() -> None:
    record = record_of()
    assert record.smoothed is not None
    threshold, fold = record.detector.threshold, record.split.fold
    np.testing.assert_array_equal(np.sort(record.smoothed), threshold.calibration)
    assert threshold.value == pytest.approx(block_threshold(record.smoothed, fold, 0.02))
    assert threshold.method == "blocks"
    np.testing.assert_array_equal(record.held_out_scores(np.array([3, 5])), record.smoothed[[3, 5]])
    # Smoothed over the whole series of a machine, from the mean of the held-out terms on.
    table = ordered()
    terms = held_out_terms(record.detector.ensemble, record.batch, record.split, record.held_out_fold)
    assert record.detector.series is not None
    np.testing.assert_allclose(record.detector.series.start.numpy(), terms.mean(0), rtol=1e-9)
    for name in ("a", "b"):
        here = np.flatnonzero(np.array(table["machine"].to_pylist()) == name)
        level = terms.mean(0).sum()
        for i in here:
            level += 2 / 11 * (terms[i].sum() - level)
            assert record.smoothed[i] == pytest.approx(level, rel=1e-9)


def test_kinds_are_weighed_by_their_worst_fold_and_values_count_little() -> None:
    record = record_of()
    ensemble, split, table = record.detector.ensemble, record.split, ordered()
    times = times_of(table, record.detector.schema, None)
    assert times is not None
    rows = series_rows(record.batch, config_of(), times)
    unit = replace(ensemble, weight=torch.full_like(ensemble.weight, 1.0 / len(ensemble.weight)))
    terms = held_out_terms(unit, record.batch, split, record.held_out_fold)
    weight = weigh_kinds(unit, terms, split, rows)
    scores = terms.sum(-1)
    worst = np.array([max(np.quantile(scores[split.fold == k, t], 0.99) for k in range(5)) for t in range(3)])
    independent = effective_rows([np.log1p(scores[part.rows, VALUES]) for part in rows.parts])
    share = np.array([min(1.0, independent / VALUES_ROWS) ** 2, 1.0, 1.0])
    np.testing.assert_allclose(weight / weight[1], share / worst * worst[1], rtol=1e-9)
    found = np.array([float(ensemble.weight[nets].sum()) for nets in kind_nets(ensemble)])
    np.testing.assert_allclose(found / found[1], weight / weight[1], rtol=1e-6)


def test_a_kind_alone_has_its_full_share() -> None:
    detector = detector_of(10, ("values",))
    assert detector.ensemble.views.predictors is not None
    assert detector.ensemble.views.predictors.kind.tolist() == [VALUES] * 5
    assert len(kind_nets(detector.ensemble)) == 1


def test_a_table_without_numbers_has_values_only() -> None:
    config, table = config_of(), ordered().select(["t", "machine", "mode"])
    schema = infer_schema(table, config.data)
    detector = fit_rows(table, schema, config, times=times_of(table, schema, None)).detector
    assert detector.ensemble.views.predictors is not None
    assert {SERIES_KINDS[k] for k in detector.ensemble.views.predictors.kind.tolist()} == {"values"}


def test_rows_in_any_order_give_the_same_model() -> None:
    config, table = config_of(), ordered()
    schema = infer_schema(table, config.data)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(400)))
    detector = fit_rows(shuffled, schema, config, times=times_of(shuffled, schema, None)).detector
    assert detector.threshold.value == detector_of().threshold.value
    assert torch.equal(detector.ensemble.exemplars.mu, detector_of().ensemble.exemplars.mu)
    assert any("not in the order of time; they were sorted" in note for note in detector.card.notes)


def test_few_rows_are_refused_before_training() -> None:
    config, table = config_of(alpha=0.1), rows_of(60)
    schema = infer_schema(table, config.data)
    with pytest.raises(TooFewRows, match="a time series needs at least 100 rows, 20 for each of 5 blocks of its time; 60 given"):
        fit_rows(table, schema, config, times=times_of(table, schema, None))
    with pytest.raises(TooFewRows, match=r"alpha 0\.001 needs at least 999 calibration rows; 400 given"):
        fit_rows(ordered(), schema, config_of(alpha=0.001), times=times_of(ordered(), schema, None))


def test_a_robust_fit_of_rows_in_time_is_refused() -> None:
    config, table = config_of(), ordered()
    config = replace(config, train=replace(config.train, contamination_robust=True))
    schema = infer_schema(table, config.data)
    with pytest.raises(ConfigError, match=r"train\.contamination_robust trims single rows and is for rows without a time"):
        fit_rows(table, schema, config, times=times_of(table, schema, None))


def test_the_past_of_a_fit_is_that_of_each_machine() -> None:
    record, table = record_of(), ordered()
    assert record.batch.past is not None
    machine, flow = np.array(table["machine"].to_pylist()), table["flow"].to_numpy()
    here = np.flatnonzero(machine == "b")
    index = [c.name for c in record.detector.schema.columns if c.kind == "numeric"].index("flow")
    np.testing.assert_array_equal(record.batch.past[here[5], :, index].numpy(), flow[here[[4, 3]]])
    times = times_of(table, record.detector.schema, None)
    assert times is not None
    again = fit_past(replace(record.batch, past=None), series_rows(record.batch, config_of(), times), 2)
    assert again.past is not None
    assert torch.equal(again.past, record.batch.past)
    assert len(COLUMNS) == len(record.detector.schema.columns)
    assert split_series(config_of(), series_rows(record.batch, config_of(), times)).folds == 5


def test_short_series_are_refused_before_training_and_a_margin_stays_in_its_series() -> None:
    config = config_of(alpha=0.1)
    short = pa.table({"t": [float(i % 3) for i in range(150)], "machine": [f"m{i // 3:02d}" for i in range(150)]} | {
        name: np.random.default_rng(0).normal(size=150) for name in ("flow", "power")
    })  # fmt: skip
    schema = infer_schema(short, config.data)
    with pytest.raises(TooFewRows, match=r"the series are too short: block [1-5] of 5 leaves \d+ rows to learn from"):
        fit_rows(short, schema, config, times=times_of(short, schema, None))
    record = record_of()
    times = times_of(ordered(), record.detector.schema, None)
    assert times is not None
    networks = assign_series(record.split, series_rows(record.batch, config_of(), times), 2)
    # The first block of the second machine begins right after the last of the first, which still learns its last rows.
    first_of_b = int(np.flatnonzero(np.array(ordered()["machine"].to_pylist()) == "b")[0])
    assert first_of_b - 1 in set(networks.rows[0].tolist())
