import math
import threading
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import tiny
from tests.contract import silence
from tests.tiny import Case
from vae_anomaly.config import CalibrationConfig, Config, ModelConfig, TrainConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.model.ensemble import (
    ConstantColumns,
    Ensemble,
    block_rows,
    blocks_of,
    kl_of,
    net_terms,
    score_rows,
    single_threaded_products,
)
from vae_anomaly.model.prior import kl_to_prior
from vae_anomaly.model.vae import gaussian_kl, row_product
from vae_anomaly.schema.encoding import Batch

MIXED = Case(kind="mixed", size="several", method="split", prior="exemplar")


@cache
def _wide() -> tuple[Detector, Batch]:
    """A detector of the size that people use, hardly trained, and 300 rows of every sort: here products do round by their shape."""
    random = np.random.default_rng(0)
    cause = random.normal(size=(1300, 4))
    numbers = cause @ random.normal(size=(4, 20)) + 0.1 * random.normal(size=(1300, 20))
    numbers[1000::10] *= 5.0
    numbers[random.random(numbers.shape) < 0.01] = np.nan
    numbers[5] = np.nan
    levels = np.array(list("abcde"))[np.clip(np.round(cause[:, :3] + 2), 0, 4).astype(int)]
    columns = {f"x{j}": pa.array(numbers[:, j], from_pandas=True) for j in range(20)}
    rows = pa.table(columns | {f"c{j}": pa.array(levels[:, j]) for j in range(3)})
    settings = Config(
        model=ModelConfig(views=("standard", "minmax"), members=2, hidden=(96,), residual_blocks=1, latent=None, sigma=0.1, exemplars=500),
        train=TrainConfig(steps=20, batch_rows=64, learning_rate=2e-3, weight_decay=1e-4, input_noise=0.02, device="cpu"),
        calibration=CalibrationConfig(alpha=0.05, method="split", share=0.2, max_rows=1000),
        seed=0,
    )
    detector = tiny.fit(rows.slice(0, 1000), settings)
    return detector, tiny.encoded(detector.schema, rows.slice(1000))


def _bits(ensemble: Ensemble, batch: Batch, threads: int = 1) -> bytes:
    scores = score_rows(ensemble, batch, threads=threads)
    return torch.stack([scores.total, scores.reconstruction, scores.kl], 1).numpy().tobytes()


@pytest.mark.parametrize("size", [1, 7, 100, 300])
def test_a_row_has_the_same_bits_whatever_comes_with_it(size: int) -> None:
    detector, batch = _wide()
    starts = range(0, 300, size) if size > 1 else range(0, 300, 12)
    whole = [_bits(detector.ensemble, batch)[24 * i : 24 * (i + size)] for i in starts]
    assert whole == [_bits(detector.ensemble, batch.rows(slice(i, i + size))) for i in starts]


def test_permuted_rows_have_permuted_bits() -> None:
    detector, batch = _wide()
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    total = score_rows(detector.ensemble, batch).total
    assert score_rows(detector.ensemble, batch.rows(order)).total.numpy().tobytes() == total[order].numpy().tobytes()


@pytest.mark.parametrize("torch_threads", [1, 2])
def test_threads_change_no_bit_and_are_given_back(torch_threads: int) -> None:
    detector, batch = _wide()
    before, expected = torch.get_num_threads(), _bits(detector.ensemble, batch)
    torch.set_num_threads(torch_threads)
    try:
        for threads in (1, 2, 5):
            fresh = replace(detector.ensemble)  # with nothing prepared, as after loading
            assert _bits(fresh, batch, threads) == expected
            assert torch.get_num_threads() == torch_threads
    finally:
        torch.set_num_threads(before)


def _fail_inside() -> None:
    with single_threaded_products():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError


def test_threads_are_given_back_after_an_error_too() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        _fail_inside()
    assert torch.get_num_threads() == before


def test_two_callers_at_once_get_what_each_gets_alone() -> None:
    detector, batch = _wide()
    expected, got = _bits(detector.ensemble, batch), dict[int, bytes]()

    def call(i: int) -> None:
        got[i] = _bits(detector.ensemble, batch)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert got == dict.fromkeys(range(3), expected)


def test_the_score_is_the_weighted_sum_over_networks_and_the_cost_of_changed_constants() -> None:
    detector = tiny.detector(MIXED)
    e, batch = detector.ensemble, tiny.encoded(detector.schema, tiny.odd_rows("mixed"))
    nll, kl = net_terms(e, e.cells(batch))
    scores = score_rows(e, batch)
    there = ~scores.total.isnan()
    constants = e.constants.cost(batch).sum(1)
    assert float(constants.sum()) == 2 * e.constants.penalty
    expected = sum(float(e.weight[g]) * nll[g].sum(-1) for g in range(len(e.weight))) + constants
    expected = expected + (~batch.observed[:, 0] * silence(detector)).sum(1)
    torch.testing.assert_close(scores.reconstruction[there], expected[there], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores.kl[there], (e.weight.unsqueeze(1) * kl).sum(0)[there], rtol=1e-5, atol=1e-5)
    assert scores.total.dtype == torch.float64


def test_a_missing_cell_costs_as_a_level_that_was_never_met_where_no_cell_was_missing() -> None:
    detector = tiny.detector(MIXED)
    e, rows = detector.ensemble, tiny.normal_rows("mixed").slice(0, 40)
    before = score_rows(e, tiny.encoded(detector.schema, rows)).total
    crew = rows.column_names.index("crew")  # no column depends on it, so that its own cell costs next to nothing
    unseen = score_rows(e, tiny.encoded(detector.schema, rows.set_column(crew, "crew", pa.array(["z"] * 40)))).total - before
    missing = score_rows(e, tiny.encoded(detector.schema, rows.set_column(crew, "crew", pa.nulls(40, pa.string())))).total - before
    cost = float(e.weight.sum()) * math.log(detector.card.training_rows)
    assert float(missing.median()) == pytest.approx(cost, rel=0.3)
    assert float(unseen.median()) == pytest.approx(float(missing.median()), rel=0.5)


def test_missing_cells_cost_nothing_to_a_model_that_was_fitted_before_they_did() -> None:
    detector = tiny.detector(MIXED)
    e, batch = detector.ensemble, tiny.encoded(detector.schema, tiny.odd_rows("mixed"))
    now, before = score_rows(e, batch).reconstruction, score_rows(replace(e, always=None), batch).reconstruction
    changed = (now != before) & ~now.isnan()
    assert changed.nonzero().flatten().tolist() == [tiny.HOLES]


def test_networks_that_met_a_missing_cell_do_not_count_it_as_silence() -> None:
    detector = tiny.detector(MIXED)
    e, batch = detector.ensemble, tiny.encoded(detector.schema, tiny.odd_rows("mixed"))
    assert e.always is not None
    some = e.always.clone()
    some[1:] = False
    row = batch.rows(slice(tiny.HOLES, tiny.HOLES + 1))
    cost = replace(e, always=some).cell_cost(row).sum()
    assert float(cost) == pytest.approx(float(e.weight[0]) * math.log(detector.card.training_rows))


def test_the_score_of_networks_taken_out_adds_up_to_the_whole() -> None:
    detector = tiny.detector(MIXED)
    e, batch = detector.ensemble, tiny.encoded(detector.schema, tiny.table("mixed", 50, seed=5))
    parts = [score_rows(e.nets(torch.tensor([g])), batch).total for g in range(len(e.weight))]
    torch.testing.assert_close(torch.stack(parts).sum(0), score_rows(e, batch).total, rtol=1e-5, atol=1e-5)
    assert score_rows(e, batch).total.isfinite().all()  # and taking networks out leaves the whole as it was


def test_the_prior_of_the_ensemble_chooses_the_kl() -> None:
    detector = tiny.detector(MIXED)
    e = detector.ensemble
    mu, logvar = e.vae.encode(e.cells(tiny.encoded(detector.schema, tiny.table("mixed", 20, seed=5))).units)
    assert torch.equal(kl_of(e, mu, logvar), kl_to_prior(mu, logvar, e.prior_product).double())
    assert torch.equal(kl_of(replace(e, prior="standard"), mu, logvar), gaussian_kl(mu, logvar).double())


def test_no_rows_have_no_scores() -> None:
    detector = tiny.detector(MIXED)
    scores = score_rows(detector.ensemble, tiny.encoded(detector.schema, tiny.odd_rows("mixed").slice(0, 0)), threads=2)
    assert scores.total.shape == scores.kl.shape == scores.reconstruction.shape == (0,)


def test_a_row_of_which_only_constants_are_observed_has_a_score() -> None:
    detector = tiny.detector(MIXED)
    rows = tiny.odd_rows("mixed").slice(0, 1).to_pylist()
    only = dict.fromkeys(rows[0]) | {"rated": 50.5}
    table = pa.Table.from_pylist([only, only | {"rated": 51.0}], schema=tiny.odd_rows("mixed").schema)
    total = score_rows(detector.ensemble, tiny.encoded(detector.schema, table)).total
    assert float(total[1] - total[0]) == pytest.approx(detector.ensemble.constants.penalty)


def _constants() -> ConstantColumns:
    return ConstantColumns(
        numeric=torch.tensor([1]),
        value=torch.tensor([2.5], dtype=torch.float64),
        code=torch.tensor([0]),
        level=torch.tensor([1]),
        penalty=9.0,
    )


def test_each_changed_constant_costs_the_penalty_and_a_missing_one_nothing() -> None:
    batch = Batch(
        numeric=torch.tensor([[[0.0, 2.5]], [[7.0, 2.6]], [[0.0, 0.0]], [[0.0, 2.5]]], dtype=torch.float64),
        codes=torch.tensor([[[1, 0]], [[0, 5]], [[0, 0]], [[2, 0]]]),
        observed=torch.tensor([[[True] * 4], [[True] * 4], [[True, False, False, True]], [[True] * 4]]),
    )
    expected = [[0.0, 0.0, 0.0, 0.0], [0.0, 9.0, 9.0, 0.0], [0.0] * 4, [0.0, 0.0, 9.0, 0.0]]
    assert _constants().cost(batch).tolist() == expected


def test_blocks_have_one_size_and_hold_the_rows_in_order() -> None:
    _, batch = _wide()
    blocks = list(blocks_of(batch, 128))
    assert [len(block) for block in blocks] == [128, 128, 128]
    assert torch.equal(torch.cat([block.numeric for block in blocks])[:300], batch.numeric)
    assert torch.equal(torch.cat([block.observed for block in blocks])[:300], batch.observed)
    assert [len(block) for block in blocks_of(batch.rows(slice(0, 128)), 128)] == [128]
    assert list(blocks_of(batch.rows(slice(0, 0)), 128)) == []


def test_a_block_is_a_multiple_of_128_rows_for_every_thread_and_bounded() -> None:
    ensemble = _wide()[0].ensemble  # four networks, 35 units
    got = [block_rows(ensemble, rows, threads) for rows, threads in ((1, 1), (128, 2), (129, 1), (300, 2), (4000, 4), (100_000, 1))]
    assert got == [128, 128, 256, 256, 1024, 2048]
    wide = replace(ensemble, layout=replace(ensemble.layout, numeric=5000))
    assert block_rows(wide, 100_000, 1) == 128


@pytest.mark.parametrize("missing", [False, True])
def test_one_column_has_the_same_bits_in_every_batch(*, missing: bool) -> None:
    """A row that is made for the trial has at least one cell: one without has no score to compare."""
    random = np.random.default_rng(0)
    values = random.normal(size=300)
    values[::9] = np.nan if missing else 1.0
    rows = pa.table({"x": pa.array(values, from_pandas=True), "same": pa.array(np.full(300, 2.0))})
    assert tiny.fit(rows, tiny.usual_sizes()).ensemble.rounds_alike


@pytest.mark.parametrize("size", ["one", "several"])
def test_whether_a_row_has_the_same_bits_in_every_batch_is_tried(size: tiny.Size, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(kind="mixed", size=size, method="split", prior="exemplar")
    assert replace(tiny.detector(case).ensemble).rounds_alike

    def by_place(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **rest: Any) -> torch.Tensor:
        product = row_product(x, weight, bias, **rest)
        product[:, 1::2] += 1e-6 * product[:, 1::2].abs()
        return product

    monkeypatch.setattr("vae_anomaly.model.vae.row_product", by_place)
    assert not replace(tiny.detector(case).ensemble).rounds_alike
