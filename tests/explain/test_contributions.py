from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from tests import tiny
from tests.contract import silence
from tests.tiny import Case
from vae_anomaly.config import CalibrationConfig, Config, ModelConfig, TrainConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.explain.contributions import Explanation, Usual, expected_given_others, explain_rows, unit_columns
from vae_anomaly.fitting.splits import split_rows
from vae_anomaly.model.ensemble import kl_of, score_rows
from vae_anomaly.model.imputation import conditional_units, unit_observed
from vae_anomaly.model.vae import Layout
from vae_anomaly.schema.encoding import Batch, model_order

CASES = [
    Case(kind="mixed", size="several", method="split", prior="exemplar"),
    Case(kind="numeric", size="one", method="cross", prior="exemplar"),
    Case(kind="mixed", size="one", method="split", prior="standard"),
]
MIXED = CASES[0]


def _explained(case: Case, rows: pa.Table) -> tuple[Detector, Batch, Explanation]:
    detector = tiny.detector(case)
    batch = tiny.encoded(detector.schema, rows)
    return detector, batch, explain_rows(detector.ensemble, batch)


def _place(detector: Detector, name: str) -> int:
    return [c.name for c in model_order(detector.schema)].index(name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contributions_add_up_to_the_score_and_their_parts_to_its_parts(case: Case) -> None:
    detector, batch, explanation = _explained(case, tiny.odd_rows(case.kind))
    scores = score_rows(detector.ensemble, batch)
    there = ~scores.total.isnan()
    sums = (explanation.contribution.sum(1), explanation.reconstruction.sum(1), explanation.kl.sum(1))
    for found, expected in zip(sums, (scores.total, scores.reconstruction, scores.kl), strict=True):
        np.testing.assert_allclose(found[there].numpy(), expected[there].numpy(), rtol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_contribution_is_negative_and_a_missing_cell_has_only_that_of_silence(case: Case) -> None:
    detector, batch, explanation = _explained(case, tiny.odd_rows(case.kind))
    assert float(explanation.contribution.min()) >= 0.0
    missing = batch.observed.flatten(1).any(1, keepdim=True) & ~batch.observed[:, -1]
    torch.testing.assert_close(explanation.contribution[missing], (missing * silence(detector))[missing], rtol=1e-12, atol=0.0)


def test_the_reasons_of_a_row_do_not_depend_on_the_other_rows() -> None:
    detector, batch, whole = _explained(MIXED, tiny.odd_rows("mixed"))
    for rows in (slice(0, 1), slice(3, 9), slice(139, 150)):
        part = explain_rows(detector.ensemble, batch.rows(rows))
        for name in ("reconstruction", "kl", "number", "level", "probability"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name


def test_the_reasons_do_not_depend_on_the_number_of_threads() -> None:
    detector, batch, whole = _explained(MIXED, tiny.odd_rows("mixed"))
    shared = explain_rows(detector.ensemble, batch, threads=3)
    for name in ("reconstruction", "kl", "number", "level", "probability"):
        assert torch.equal(getattr(shared, name), getattr(whole, name)), name


def test_a_changed_constant_contributes_its_penalty_and_was_expected_as_it_was() -> None:
    detector, _, explanation = _explained(MIXED, tiny.odd_rows("mixed"))
    rated, site = _place(detector, "rated"), _place(detector, "site")
    penalty = detector.ensemble.constants.penalty
    assert float(explanation.contribution[tiny.CHANGED_NUMBER, rated]) == penalty
    assert float(explanation.contribution[tiny.CHANGED_LEVEL, site]) == penalty
    assert float(explanation.contribution[tiny.OUTLIER, rated]) == 0.0
    d_num = explanation.number.shape[1]
    assert set(explanation.number[:, rated].tolist()) == {50.5}
    assert set(explanation.level[:, site - d_num].tolist()) == {0}
    assert set(explanation.probability[:, site - d_num].tolist()) == {1.0}


def test_what_is_expected_of_a_column_is_the_kernel_regression_on_the_others() -> None:
    detector = tiny.detector(MIXED)
    e, batch = detector.ensemble, tiny.encoded(detector.schema, tiny.odd_rows("mixed").slice(0, 10))
    cells = e.cells(batch)
    expected = expected_given_others(cells, e.layout, e.bank)
    column, seen = unit_columns(e.layout), unit_observed(cells.observed, e.layout).unsqueeze(0)
    for j in range(int(column.max()) + 1):
        others = seen & (column != j)
        alone = conditional_units(cells.units, others, e.bank)
        own = column == j
        torch.testing.assert_close(expected[..., own], alone[..., own], rtol=1e-3, atol=1e-3)


def test_the_value_of_a_cell_has_no_say_in_what_is_expected_of_it() -> None:
    rows = tiny.table("mixed", 12, seed=4)
    before = _explained(MIXED, rows)[2]
    changed = rows.set_column(1, "pressure", pa.array([1e5 + 1e3 * i for i in range(12)]))
    detector, _, after = _explained(MIXED, changed)
    flow, pressure = _place(detector, "flow"), _place(detector, "pressure")
    np.testing.assert_allclose(after.number[:, pressure], before.number[:, pressure], rtol=1e-4)
    assert not np.allclose(after.number[:, flow], before.number[:, flow], rtol=1e-4)


def test_expected_levels_are_likely_ones_with_their_probability() -> None:
    detector, batch, explanation = _explained(MIXED, tiny.table("mixed", 200, seed=4))
    d_num = explanation.number.shape[1]
    mode = _place(detector, "mode") - d_num
    assert 0.0 < float(explanation.probability.min()) <= float(explanation.probability.max()) <= 1.0 + 1e-6
    assert float(explanation.probability[:, mode].min()) > 0.33  # the likeliest of three
    seen = batch.observed[:, 0, d_num + mode]
    right = explanation.level[:, mode] == batch.codes[:, 0, mode]
    assert float(right[seen].double().mean()) > 0.6  # a third by guessing


@pytest.mark.parametrize("layout", [Layout(numeric=2, booleans=1, levels=(3, 2)), Layout(numeric=2, booleans=1, levels=(3, 2), window=2)])
def test_units_know_their_column(layout: Layout) -> None:
    one = {1: [0, 1, 2, 3, 3, 3, 4, 4], 2: [0, 1, 0, 1, 2, 2, 3, 3, 3, 4, 4, 3, 3, 3, 4, 4]}
    assert unit_columns(layout).tolist() == one[layout.window]


# How unusual a contribution is


def _by_numpy(contribution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and (90 % quantile − median) / Φ⁻¹(0.9), not below a hundredth of the average column's."""
    middle = np.median(contribution, axis=0)
    spread = (np.quantile(contribution, 0.9, axis=0) - middle) / norm.ppf(0.9)
    return middle, np.maximum(spread, spread.mean() / 100)


def test_what_is_usual_is_learned_from_the_calibration_rows() -> None:
    detector = tiny.detector(MIXED)
    rows = tiny.encoded(detector.schema, tiny.normal_rows("mixed"))
    plan = split_rows(detector.config.calibration, len(rows), detector.config.seed)
    contribution = explain_rows(detector.ensemble, rows.rows(torch.from_numpy(plan.calibration))).contribution
    middle, spread = _by_numpy(contribution.numpy())
    assert detector.usual is not None
    np.testing.assert_allclose(detector.usual.middle, middle, rtol=1e-9)
    np.testing.assert_allclose(detector.usual.spread, spread, rtol=1e-9)
    assert float(spread[_place(detector, "rated")]) == pytest.approx(float(spread.min()))  # it never contributed


def test_under_cross_every_row_is_explained_by_the_networks_that_have_not_seen_it() -> None:
    detector = tiny.detector(CASES[1])
    rows = tiny.encoded(detector.schema, tiny.normal_rows("numeric"))
    plan = split_rows(detector.config.calibration, len(rows), detector.config.seed)
    found = np.empty((len(rows), 4))
    for k in range(plan.folds):  # one view: network k is that of fold k
        ensemble = detector.ensemble.nets(torch.tensor([k]))
        here = np.flatnonzero(plan.fold == k)
        found[here] = explain_rows(
            replace(ensemble, weight=torch.ones(1, dtype=torch.float64)), rows.rows(torch.from_numpy(here))
        ).contribution
    middle, spread = _by_numpy(found)
    assert detector.usual is not None
    np.testing.assert_allclose(detector.usual.middle, middle, rtol=1e-9)
    np.testing.assert_allclose(detector.usual.spread, spread, rtol=1e-9)


def test_a_heavy_column_has_no_large_z_for_being_heavy() -> None:
    usual = Usual(middle=torch.tensor([50.0, 0.0]), spread=torch.tensor([20.0, 0.5]))
    assert usual.z(torch.tensor([[60.0, 5.0]])).tolist() == [[0.5, 10.0]]


# Planted faults


@cache
def _pump() -> tuple[Detector, pa.Table]:
    """Six columns that two causes move; any of them can be told from the others."""

    def rows(count: int, seed: int) -> pa.Table:
        random = np.random.default_rng(seed)
        cause = random.normal(size=(count, 2))
        mix = np.array([[1.0, 0.8, 0.0, 0.6, -1.0, 0.4], [0.0, 0.6, 1.0, -0.8, 0.3, 0.9]])
        x = cause @ mix + 0.05 * random.normal(size=(count, 6))
        return pa.table({f"x{j}": x[:, j] * 10.0 ** (j - 2) for j in range(6)})

    settings = Config(
        model=ModelConfig(
            views=("standard",),
            members=2,
            hidden=(32,),
            residual_blocks=1,
            linear_skip=True,
            latent=6,
            sigma=0.1,
            prior="exemplar",
            exemplars=500,
        ),
        train=TrainConfig(steps=150, batch_rows=64, learning_rate=5e-3, weight_decay=1e-4, input_noise=0.02, device="cpu"),
        calibration=CalibrationConfig(alpha=0.05, method="split", share=0.2, max_rows=1000),
        seed=0,
    )
    return tiny.fit(rows(700, 0), settings), rows(90, 1)


def _planted() -> tuple[Detector, Batch, Batch, Tensor]:
    """Move one cell of every row by four deviations of its column; return both batches and the place of the fault."""
    detector, rows = _pump()
    clean = tiny.encoded(detector.schema, rows)
    place = torch.arange(len(clean)) % 6
    faulty = clean.numeric.clone()
    spread = clean.numeric.std(dim=0)[0]
    sign = torch.where(torch.arange(len(clean)) % 4 < 2, 4.0, -4.0)
    faulty[torch.arange(len(clean)), 0, place] += sign * spread[place]
    return detector, clean, Batch(numeric=faulty, codes=clean.codes, observed=clean.observed), place


def test_the_cell_at_fault_is_the_first_reason() -> None:
    detector, _, faulty, place = _planted()
    first = explain_rows(detector.ensemble, faulty).contribution.argmax(1)
    assert float((first == place).double().mean()) >= 0.85


def test_what_was_expected_is_nearer_the_truth_than_the_fault() -> None:
    detector, clean, faulty, place = _planted()
    at = torch.arange(len(place))
    expected = explain_rows(detector.ensemble, faulty).number[at, place]
    truth, fault = clean.numeric[at, 0, place], faulty.numeric[at, 0, place]
    assert float(((expected - truth).abs() < (fault - truth).abs()).double().mean()) >= 0.9


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kl_is_attributed_by_occlusion(case: Case) -> None:
    """One column after the other is replaced by its expected units; the shares are the decreases of the weighted KL."""
    detector, batch, explanation = _explained(case, tiny.odd_rows(case.kind).slice(0, 20))
    ensemble, weight = detector.ensemble, (detector.ensemble.weight * detector.ensemble.beta).unsqueeze(-1)
    cells = ensemble.cells(batch)
    expected, column = expected_given_others(cells, ensemble.layout, ensemble.bank), unit_columns(ensemble.layout)
    modelled = torch.cat([ensemble.numeric, batch.numeric.shape[-1] + ensemble.codes]).tolist()

    def weighted_kl(units: Tensor) -> Tensor:
        return (kl_of(ensemble, *ensemble.vae.encode(units)) * weight).sum(0)

    decrease = torch.zeros(len(batch), batch.observed.shape[-1], dtype=torch.float64)
    for k, j in enumerate(modelled):
        occluded = weighted_kl(torch.where(column == k, expected, cells.units))
        decrease[:, j] = (weighted_kl(cells.units) - occluded).clamp_min(0.0) * batch.observed[:, -1, j]
    there = decrease.sum(1) > 1e-6
    assert int(there.sum()) >= 10
    shares = explanation.kl / explanation.kl.sum(1, keepdim=True)
    np.testing.assert_allclose(shares[there].numpy(), (decrease / decrease.sum(1, keepdim=True))[there].numpy(), atol=1e-4)
