"""What a robust fit does not trust: planted anomalies, little else, and never a row that calibrates."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from tests import tiny
from tests.tiny import Case
from vae_anomaly.config import Config
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.fitting.held_out import Fitted
from vae_anomaly.fitting.robust import DOUBTED_SHARE, Oddness, doubting, doubts, exemplar_limit, first_pass
from vae_anomaly.fitting.splits import RowSplit, assign, members, split_rows
from vae_anomaly.schema.schema import infer_schema

SPLIT = Case(kind="numeric", size="several", method="split", prior="exemplar")
CROSS = replace(SPLIT, method="cross")


def _config(case: Case) -> Config:
    config = tiny.config(case)
    return replace(config, train=replace(config.train, contamination_robust=True))


def _fit(rows: pa.Table, case: Case) -> Fitted:
    config = _config(case)
    return fit_rows(rows, infer_schema(rows, config.data), config)


def _planted(rows: pa.Table, places: NDArray[np.int64], columns: tuple[str, ...]) -> pa.Table:
    """Return the rows with gross faults at these places, in these columns in turn."""
    for i, place in enumerate(places.tolist()):
        name = columns[i % len(columns)]
        values = rows[name].to_pylist()
        spread = float(np.nanstd(np.array(values, dtype=np.float64)))
        values[place] = (values[place] or 0.0) + (40.0 + 20.0 * i) * spread
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    return rows


def _marked(rows: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    assert rows is not None
    return np.flatnonzero(rows)


@pytest.mark.parametrize("case", [SPLIT, CROSS], ids=str)
def test_gross_faults_are_found_and_not_learned_from(case: Case) -> None:
    clean, config = tiny.normal_rows("numeric"), _config(case)
    places = split_rows(config.calibration, clean.num_rows, 0).training[[3, 30, 60, 90]]
    fitted = _fit(_planted(clean, places, tuple(clean.column_names)), case)
    assert set(places.tolist()) <= set(_marked(fitted.plan.left_out).tolist())
    nets = assign(fitted.plan, config)
    for learned, watched, exemplars in zip(nets.rows, nets.validation, nets.exemplars, strict=True):
        assert not set(places.tolist()) & {*learned.tolist(), *watched.tolist(), *exemplars.tolist()}
    assert not set(places.tolist()) & set(fitted.own.flatten().tolist())


@pytest.mark.parametrize("case", [SPLIT, CROSS], ids=str)
def test_clean_rows_stay_nearly_whole(case: Case) -> None:
    fitted = _fit(tiny.normal_rows("numeric"), case)
    left_out, doubted = _marked(fitted.plan.left_out), _marked(fitted.plan.doubted)
    trained = len(fitted.plan.training) + len(left_out)
    assert len(left_out) <= 0.02 * trained
    assert len(doubted) <= DOUBTED_SHARE * trained
    assert doubts(fitted.plan) in fitted.detector.card.notes


def test_nothing_is_sorted_out_of_the_calibration() -> None:
    """Other calibration rows change nothing that is learned or doubted, so that ``split`` stays exact."""
    clean, config = tiny.normal_rows("numeric"), _config(SPLIT)
    calibration = split_rows(config.calibration, clean.num_rows, 0).calibration
    first, second = _fit(clean, SPLIT), _fit(_planted(clean, calibration[:10], ("pressure",)), SPLIT)
    assert first.plan.calibration.tolist() == second.plan.calibration.tolist() == calibration.tolist()
    assert len(second.detector.threshold.calibration) == len(calibration)
    states = [f.detector.state()[1] for f in (first, second)]
    changed = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert sorted(changed) == ["calibration", "usual.middle", "usual.spread"]


def test_under_cross_a_doubted_row_calibrates() -> None:
    fitted = _fit(tiny.normal_rows("numeric"), CROSS)
    assert len(fitted.detector.threshold.calibration) == tiny.NORMAL_ROWS


def test_a_first_pass_deals_out_the_training_rows_alone() -> None:
    fold = np.full(30, -1)
    fold[10:] = np.arange(20) % 10
    found = first_pass(RowSplit(method="split", folds=10, fold=fold), 0)
    assert (found.method, found.folds) == ("cross", 5)
    assert np.bincount(found.fold[10:]).tolist() == [4] * 5
    assert (found.fold[:10] == -1).all()
    assert not _marked(found.doubted).size


def test_the_oddest_are_those_far_from_all_and_from_a_few() -> None:
    """By hand: of 40 training rows two are doubted, those with the largest product; what stands out is left out instead."""
    near, few = np.linspace(1.0, 1.5, 50), np.linspace(1.0, 1.5, 50)
    near[[0, 20, 30]], few[[0, 20, 30]] = [99.0, 1.9, 1.8], [99.0, 0.7, 9.0]
    near[5] = np.nan
    plan = RowSplit(method="split", folds=10, fold=np.where(np.arange(50) >= 10, np.arange(50) % 10, -1))
    found = doubting(plan, Oddness(near=near, few=few))
    assert (_marked(found.left_out).tolist(), _marked(found.doubted).tolist()) == ([], [30, 49])
    near[40] = 99.0
    found = doubting(plan, Oddness(near=near, few=few))
    assert (_marked(found.left_out).tolist(), _marked(found.doubted).tolist()) == ([40], [30])


def test_exemplars_are_fewer_and_networks_more_where_rows_are_doubted() -> None:
    config, plan = Config().model, RowSplit(method="split", folds=10, fold=np.arange(10))
    assert (exemplar_limit(plan, config), members(plan, config)) == (2000, 1)
    doubted = replace(plan, doubted=np.zeros(10, dtype=np.bool_))
    assert (exemplar_limit(doubted, config), exemplar_limit(doubted, replace(config, exemplars=64))) == (100, 64)
    assert (members(doubted, config), members(doubted, replace(config, members=7))) == (5, 7)


def test_the_note_says_what_is_not_trusted_and_what_the_threshold_still_promises() -> None:
    marked = np.arange(10) < 3
    plan = RowSplit(method="split", folds=10, fold=np.arange(10), left_out=marked, doubted=np.arange(10) == 7)
    assert doubts(plan) == (
        "contamination-robust: 3 training rows that stand out teach nothing, 1 odd ones are no exemplars; rows "
        "that calibrate are not sorted out, so anomalies among them raise the threshold: fewer false alarms than alpha, fewer faults found"
    )
