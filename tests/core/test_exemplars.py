from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from tests.tiny import Case
from vae_anomaly.config import ModelConfig
from vae_anomaly.core.encode import Batch
from vae_anomaly.core.exemplars import choose_exemplars, view_weights
from vae_anomaly.core.fit import Assignment, assign
from vae_anomaly.core.score import net_terms
from vae_anomaly.core.threshold import plan_rows
from vae_anomaly.core.views import gather_cells

SPLIT = Case(kind="mixed", size="several", method="split", prior="exemplar")
CROSS = Case(kind="mixed", size="several", method="cross", prior="exemplar")
ONE = Case(kind="mixed", size="one", method="split", prior="exemplar")
STANDARD = Case(kind="mixed", size="several", method="split", prior="standard")


def _nets(case: Case) -> tuple[Assignment, Batch, ModelConfig]:
    detector = tiny.detector(case)
    plan = plan_rows(tiny.config(case).calibration, tiny.NORMAL_ROWS, 0)
    read = detector.ensemble.reads(tiny.encoded(detector.schema, tiny.normal_rows(case.kind)))
    return assign(plan, detector.config), read, detector.config.model


@pytest.mark.parametrize("case", [SPLIT, CROSS, ONE], ids=str)
@pytest.mark.parametrize("limit", [1, 40, 10_000])
def test_exemplars_are_rows_of_the_network_and_at_most_as_many_as_asked_for(case: Case, limit: int) -> None:
    """A network that is alone in its view takes all its rows, one of several the share."""
    ensemble, (nets, read, model) = tiny.detector(case).ensemble, _nets(case)
    asked = replace(model, exemplars=limit, exemplar_share=0.5)
    exemplars, own = choose_exemplars(ensemble.vae, ensemble.views, read, nets.exemplars, asked, torch.Generator().manual_seed(0))
    for g, allowed in enumerate(nets.exemplars):
        chosen = own[g][own[g] >= 0].tolist()
        wanted = len(allowed) if case == ONE else -(-len(allowed) // 2)
        assert len(chosen) == len(set(chosen)) == min(limit, wanted)
        assert set(chosen) <= set(allowed.tolist())
        weight = exemplars.log_weight[g].exp()
        torch.testing.assert_close(weight[own[g] >= 0], torch.full((len(chosen),), 1 / len(chosen)))
        assert weight[own[g] < 0].sum() == 0, "padding has no weight"


def test_networks_take_different_exemplars() -> None:
    ensemble, (nets, read, model) = tiny.detector(CROSS).ensemble, _nets(CROSS)
    _, own = choose_exemplars(ensemble.vae, ensemble.views, read, nets.exemplars, model, torch.Generator().manual_seed(0))
    assert len({tuple(rows.tolist()) for rows in own}) == len(own)


def test_complete_rows_become_exemplars_first() -> None:
    ensemble, (nets, read, model) = tiny.detector(SPLIT).ensemble, _nets(SPLIT)
    complete = read.observed.flatten(1).all(1)
    rows = nets.exemplars[0]
    count = int(complete[rows].sum())
    assert 0 < count < len(rows)
    asked = replace(model, exemplars=count, exemplar_share=1.0)
    _, own = choose_exemplars(ensemble.vae, ensemble.views, read, nets.exemplars, asked, torch.Generator().manual_seed(0))
    assert bool(complete[own].all())


@pytest.mark.parametrize("case", [SPLIT, CROSS, STANDARD], ids=str)
def test_each_prior_speaks_as_loud_as_asked_and_on_average_in_nats(case: Case) -> None:
    """The 90 % quantile of reconstruction + KL, times its part of the weight: the same for every network, ``broad`` of it for the broad."""
    e, (nets, read, model) = tiny.detector(case).ensemble, _nets(case)
    exemplars, own = choose_exemplars(e.vae, e.views, read, nets.exemplars, model, torch.Generator().manual_seed(0))
    fresh = replace(e, exemplars=exemplars, broad=torch.ones_like(e.broad))
    weight, share = view_weights(fresh, read, own, model)
    count = int((own >= 0).sum(-1).min())
    fine: list[float] = []
    broad: list[float] = []
    for g, rows in enumerate(own):
        cells = gather_cells(e.views.nets(torch.tensor([g])), e.layout, read, rows[:count].unsqueeze(0))
        for only, found in ((0.0, fine), (1.0, broad)):
            alone = replace(fresh.nets(torch.tensor([g])), broad=torch.tensor([only], dtype=torch.float64))
            nll, kl = net_terms(alone, cells, torch.arange(count).unsqueeze(0))
            found.append(float(np.quantile((nll.sum(-1) + kl).numpy(), 0.9)))
    views = len(model.views)
    loud = (weight * (1 - share)).numpy() * np.array(fine)
    by_view = loud.reshape(views, -1)
    if case == STANDARD:
        assert float(share.abs().max()) == 0.0
        np.testing.assert_allclose(by_view / by_view.mean(0), 1.0, rtol=1e-6)
    else:
        np.testing.assert_allclose(((weight * share).numpy() * np.array(broad)).tolist(), (model.broad * loud).tolist(), rtol=1e-6)
    np.testing.assert_allclose(weight.view(views, -1).sum(0) * by_view.shape[1], views, rtol=1e-12)
