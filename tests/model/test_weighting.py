import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, norm
from torch import Tensor

from tests import tiny
from tests.tiny import Case
from vae_anomaly.config import ModelConfig
from vae_anomaly.fitting.splits import assign_networks, split_rows
from vae_anomaly.model.ensemble import Ensemble, net_terms
from vae_anomaly.model.imputation import choose_exemplars
from vae_anomaly.model.scaling import gather_cells
from vae_anomaly.model.vae import Layout, cell_nll
from vae_anomaly.model.weighting import (
    EVIDENCE,
    FARTHER,
    LEAST_RECONSTRUCTION,
    MOST_BETA,
    SEVERAL,
    choose_bounds,
    columns_of,
    evidence_of,
    learn_noise,
    learn_weights,
    log_odds,
    made_rows,
    with_learned_weights,
)
from vae_anomaly.schema.encoding import Batch

SPLIT = Case(kind="mixed", size="several", method="split", prior="exemplar")
CROSS = Case(kind="mixed", size="several", method="cross", prior="exemplar")
STANDARD = Case(kind="mixed", size="several", method="split", prior="standard")
CASES = pytest.mark.parametrize("case", [SPLIT, CROSS, STANDARD], ids=str)


def _fresh(case: Case) -> tuple[Ensemble, Batch, Tensor, ModelConfig]:
    """An ensemble as it is before it has weights, the rows it reads, and which of them are its exemplars."""
    detector = tiny.detector(case)
    e, model = detector.ensemble, detector.config.model
    nets = assign_networks(split_rows(tiny.config(case).calibration, tiny.NORMAL_ROWS, 0), detector.config)
    read = e.select_columns(tiny.encoded(detector.schema, tiny.normal_rows(case.kind)))
    exemplars, own = choose_exemplars(e.vae, e.views, read, nets.exemplars, model.exemplars, torch.Generator().manual_seed(0))
    ones = torch.ones_like(e.weight)
    return replace(e, exemplars=exemplars, weight=ones, beta=ones), read, own, model


@CASES
@pytest.mark.parametrize("share", [(1.0, 1.0), (3.0, 0.5)], ids=["even", "uneven"])
def test_a_view_counts_by_its_chance_and_the_average_is_in_nats(case: Case, share: tuple[float, ...]) -> None:
    """What a view adds to the scores of its own exemplar rows, at their 90 % quantile, is in proportion to its chance to be the best."""
    e, read, own, model = _fresh(case)
    views, count = len(model.views), int((own >= 0).sum(-1).min())
    chance = torch.tensor((*share, 1.0)[:views], dtype=torch.float64).unsqueeze(-1).expand(views, len(own) // views)
    weight, beta = learn_weights(e, read, own, chance)
    loud = []
    for g, rows in enumerate(own):
        one = e.nets(torch.tensor([g]))
        cells = gather_cells(one.views, e.layout, read, rows[:count].unsqueeze(0))
        nll, kl = net_terms(one, cells, torch.arange(count).unsqueeze(0))
        loud.append(float(np.quantile((nll.sum(-1) + float(beta[g]) * kl).numpy(), 0.9)))
    by_view = (weight.numpy() * np.array(loud)).reshape(views, -1) / chance.numpy()
    np.testing.assert_allclose(by_view / by_view.mean(0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(weight.view(views, -1).sum(0) * by_view.shape[1], views, rtol=1e-12)


@CASES
def test_the_reconstruction_has_its_least_share_and_a_nat_of_kl_counts_a_quarter_at_most(case: Case) -> None:
    e, read, own, model = _fresh(case)
    done = with_learned_weights(replace(e, groups=None), read, own, len(model.views), torch.Generator().manual_seed(3))
    assert (done.groups is None) == (case == STANDARD)
    if case == STANDARD:
        assert (done.beta == 1.0).all()
        return
    count = int((own >= 0).sum(-1).min())
    for g, rows in enumerate(own):
        one = replace(done, beta=torch.ones_like(done.beta)).nets(torch.tensor([g]))
        nll, kl = net_terms(one, gather_cells(one.views, e.layout, read, rows[:count].unsqueeze(0)), torch.arange(count).unsqueeze(0))
        share = float(np.quantile(nll.sum(-1).numpy(), 0.9) / np.quantile(kl.numpy(), 0.9))
        assert float(done.beta[g]) == pytest.approx(min(MOST_BETA, share / LEAST_RECONSTRUCTION), rel=1e-5)


def test_the_noise_is_the_root_mean_square_around_the_reconstruction() -> None:
    e, read, own, _ = _fresh(SPLIT)
    numbers, noise = e.layout.window * e.layout.numeric, learn_noise(e, read, own)
    for g, rows in enumerate(own):
        one = e.nets(torch.tensor([g]))
        cells = gather_cells(one.views, e.layout, read, rows[rows >= 0].unsqueeze(0))
        assert bool(cells.observed[..., :numbers].all()), "rows with holes need another calculation"
        out = one.vae.decode(one.vae.encode(cells.units)[0])
        cost = cell_nll(e.layout, out, cells, sigma=1.0, unseen=e.unseen)[..., :numbers]
        assert float(noise[g]) == pytest.approx(max(0.05, math.sqrt(2.0 * float(cost.double().mean()))), rel=1e-4)


def test_memorized_rows_still_have_the_least_noise() -> None:
    e, read, own, _ = _fresh(SPLIT)
    exact = replace(e, views=replace(e.views, scale=e.views.scale * 1e9, centre=torch.zeros_like(e.views.centre)))
    assert (learn_noise(exact, read, own) >= torch.tensor(0.05)).all()


def _grid(numbers: int, booleans: int, levels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return columns_of(Layout(numeric=numbers, booleans=booleans, levels=levels))


@given(st.integers(1, 6), st.integers(0, 3), st.lists(st.integers(2, 4), max_size=2), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_made_rows_are_midpoints_swapped_cells_and_scaled_rows(numbers: int, booleans: int, levels: list[int], seed: int) -> None:
    random, columns = torch.Generator().manual_seed(seed), _grid(numbers, booleans, tuple(levels))
    rows = torch.rand(9, len(columns[0]), generator=random)
    middle, swapped, scaled = made_rows(rows, columns, 5, random)
    for i in range(5):
        others = [j for j in range(9) if torch.equal(middle[i, :numbers], 0.5 * (rows[i, :numbers] + rows[j, :numbers])) and j != i]
        assert len(others) == 1
        there = rows[others[0]]
        for made in (middle[i, numbers:], swapped[i]):
            column, first = (columns[0][numbers:], numbers) if made is not swapped[i] and len(made) < len(there) else (columns[0], 0)
            for c in set(column.tolist()):
                cell = column == c
                assert torch.equal(made[cell], rows[i, first:][cell]) or torch.equal(made[cell], there[first:][cell])
        away = (x - rows.mean(0)[:numbers] for x in (scaled[i, :numbers], rows[i, :numbers]))
        torch.testing.assert_close(next(away), FARTHER * next(away), rtol=1e-4, atol=1e-5)
        assert torch.equal(scaled[i, numbers:], rows[i, numbers:])


def test_a_fifth_of_the_cells_is_swapped_and_in_a_narrow_table_one_and_a_half() -> None:
    for columns, expected in ((30, 0.2), (3, 0.5)):
        rows = torch.rand(4000, columns, generator=torch.Generator().manual_seed(1))
        _, swapped, _ = made_rows(rows, _grid(columns, 0, ()), 4000, torch.Generator().manual_seed(2))
        assert float((swapped != rows).double().mean()) == pytest.approx(expected, abs=0.02)


def _distances(made: NDArray[np.float64], rows: NDArray[np.float64], groups: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    square = ((made[:, None] - rows[None]) ** 2).sum(-1)
    np.fill_diagonal(square, np.inf)
    return square.min(1), np.mean([square[:, b::groups].min(1) for b in range(groups)], axis=0)


@given(st.integers(25, 60), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_log_odds_are_normal_quantiles_of_the_mann_whitney_statistic(count: int, width: int, seed: int) -> None:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    found = log_odds(evidence_of(rows, _grid(width, 0, ()), 7, torch.Generator().manual_seed(5)))
    made = made_rows(rows, _grid(width, 0, ()), count, torch.Generator().manual_seed(5))
    expected = np.array([0.0, SEVERAL])
    real = _distances(rows.double().numpy(), rows.double().numpy(), 7)
    for weight, kind in zip(EVIDENCE, made, strict=True):
        far = _distances(kind.double().numpy(), rows.double().numpy(), 7)
        chance = [mannwhitneyu(f, r).statistic / count**2 for f, r in zip(far, real, strict=True)]
        expected += weight * norm.ppf(np.clip(chance, 0.002, 0.998))
    np.testing.assert_allclose(found.numpy(), expected, atol=0.2)


def test_clumps_are_told_by_the_nearest_row_and_a_noisy_cloud_by_groups() -> None:
    """Between clumps only the distance to the nearest row is large; in an even cloud single rows say little about it."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(150, 6, generator=random).repeat(2, 1)
    clumps = centres + 0.02 * torch.randn(300, 6, generator=random)
    cloud = torch.randn(300, 2, generator=random)
    nearest, groups = (log_odds(evidence_of(x, _grid(x.shape[1], 0, ()), 10, torch.Generator().manual_seed(1))) for x in (clumps, cloud))
    assert nearest[0] > nearest[1]
    assert groups[1] > groups[0]


@CASES
def test_the_bound_and_the_chance_of_a_view_depend_on_its_own_rows_alone(case: Case) -> None:
    e, read, own, _ = _fresh(case)
    if e.prior == "standard":
        return
    groups, log_odds = choose_bounds(e, read, own, torch.Generator().manual_seed(3))
    assert set(groups.tolist()) <= {0, 10}
    assert bool(torch.isfinite(log_odds).all())
    numeric = read.numeric.clone()
    outside = torch.ones(len(read), dtype=torch.bool)
    outside[own[own >= 0]] = False
    numeric[outside] += 1e6
    again = choose_bounds(e, replace(read, numeric=numeric), own, torch.Generator().manual_seed(3))
    assert torch.equal(again[0], groups)
    assert torch.equal(again[1], log_odds)


@pytest.mark.parametrize(("rows", "largest"), [(1, 0), (2, 1), (5, 2), (21, 10), (30, 10)])
def test_every_group_has_two_exemplars(rows: int, largest: int) -> None:
    e, read, own, _ = _fresh(SPLIT)
    groups, _ = choose_bounds(e, read, own[:, :rows], torch.Generator().manual_seed(3))
    assert set(groups.tolist()) <= {0, largest}
