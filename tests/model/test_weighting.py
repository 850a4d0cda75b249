import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from torch import Tensor

from tests import tiny
from tests.tiny import Case
from vae_anomaly.config import ModelConfig
from vae_anomaly.fitting.splits import assign_networks, split_rows
from vae_anomaly.model.ensemble import Ensemble, net_terms
from vae_anomaly.model.exemplars import choose_exemplars
from vae_anomaly.model.scaling import gather_cells
from vae_anomaly.model.vae import cell_nll
from vae_anomaly.model.weighting import learn_noise, learn_weights, midpoints, reconstruction_share
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


def _weights(e: Ensemble, read: Batch, own: Tensor, model: ModelConfig) -> tuple[Tensor, Tensor]:
    return learn_weights(e, read, own, len(model.views), torch.Generator().manual_seed(3))


@CASES
def test_every_network_has_the_same_level_and_the_average_is_in_nats(case: Case) -> None:
    """The 90 % quantile of what a network adds to the score of its own exemplar rows is the same for all members and views."""
    e, read, own, model = _fresh(case)
    weight, beta = _weights(e, read, own, model)
    done, count = replace(e, beta=beta), int((own >= 0).sum(-1).min())
    loud = []
    for g, rows in enumerate(own):
        one = done.nets(torch.tensor([g]))
        cells = gather_cells(one.views, e.layout, read, rows[:count].unsqueeze(0))
        nll, kl = net_terms(one, cells, torch.arange(count).unsqueeze(0))
        loud.append(float(np.quantile((nll.sum(-1) + kl).numpy(), 0.9)))
    views = len(model.views)
    by_view = (weight.numpy() * np.array(loud)).reshape(views, -1)
    np.testing.assert_allclose(by_view / by_view.mean(0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(weight.view(views, -1).sum(0) * by_view.shape[1], views, rtol=1e-12)


@CASES
def test_a_nat_of_kl_counts_at_most_one_and_exactly_one_with_a_standard_prior(case: Case) -> None:
    beta = _weights(*_fresh(case))[1]
    assert 0.0 < float(beta.min()) <= float(beta.max()) <= 1.0
    assert (float(beta.min()) == 1.0) == (case == STANDARD)


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


def test_reconstruction_has_little_weight_for_clusters_and_much_for_an_even_cloud() -> None:
    """In one direction of two clumps a midpoint is far from every row; in many directions it is nearer than any row."""
    random = np.random.default_rng(0)
    clumps = np.repeat([-5.0, 5.0], 100)[:, None] + 0.1 * random.normal(size=(200, 1))
    cloud = random.normal(size=(200, 60))
    found = []
    for rows in (clumps, cloud):
        other = rows[random.permutation(200)]
        alone = ((rows[:, None] - rows[None]) ** 2).sum(-1) + np.where(np.eye(200) > 0, np.inf, 0.0)
        between = ((0.5 * (rows + other)[:, None] - rows[None]) ** 2).sum(-1) + np.where(np.eye(200) > 0, np.inf, 0.0)
        found.append(float(reconstruction_share(torch.from_numpy(alone.min(1))[None], torch.from_numpy(between.min(1))[None])))
    assert found[0] < 0.5 < found[1] == 3.0


@given(st.lists(st.floats(0.0, 10.0), min_size=3, max_size=30), st.lists(st.floats(0.0, 10.0), min_size=3, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_share_is_that_of_the_mann_whitney_odds(kl: list[float], between: list[float]) -> None:
    """SciPy's statistic counts ties half; without ties both agree."""
    if len(set(kl) | set(between)) < len(kl) + len(between):
        return
    got = float(reconstruction_share(torch.tensor([kl], dtype=torch.float64), torch.tensor([between], dtype=torch.float64)))
    nearer = mannwhitneyu(kl, between).statistic / (len(kl) * len(between))
    assert got == pytest.approx(min(3.0, 0.3 * (nearer / max(1.0 - nearer, 1e-9)) ** 4), rel=1e-9)


def test_a_midpoint_is_half_way_to_another_row_of_the_same_network() -> None:
    numeric = torch.arange(24, dtype=torch.float64).view(2, 4, 1, 3) ** 2
    codes = torch.arange(8).view(2, 4, 1, 1)
    observed = torch.ones(2, 4, 1, 4, dtype=torch.bool)
    observed[0, 1, 0, 2] = observed[1, 0, 0, 3] = False
    made = midpoints(Batch(numeric=numeric, codes=codes, observed=observed), torch.Generator().manual_seed(0))
    for g in range(2):
        for i in range(4):
            twice = 2 * made.numeric[g, i] - numeric[g, i]
            other = [j for j in range(4) if j != i and torch.equal(twice, numeric[g, j])]
            assert len(other) == 1
            assert int(made.codes[g, i, 0, 0]) in {int(codes[g, i, 0, 0]), int(codes[g, other[0], 0, 0])}
            assert torch.equal(made.observed[g, i], observed[g, i] & observed[g, other[0]])
