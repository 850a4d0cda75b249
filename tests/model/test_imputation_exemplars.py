import pytest
import torch

from tests import tiny
from tests.tiny import Case
from vae_anomaly.fitting.splits import NetworkAssignment, assign_networks, split_rows
from vae_anomaly.model.imputation import choose_exemplars
from vae_anomaly.schema.encoding import Batch

SPLIT = Case(kind="mixed", size="several", method="split", prior="exemplar")
CROSS = Case(kind="mixed", size="several", method="cross", prior="exemplar")
ONE = Case(kind="mixed", size="one", method="split", prior="exemplar")


def _nets(case: Case) -> tuple[NetworkAssignment, Batch]:
    detector = tiny.detector(case)
    plan = split_rows(tiny.config(case).calibration, tiny.NORMAL_ROWS, 0)
    read = detector.ensemble.select_columns(tiny.encoded(detector.schema, tiny.normal_rows(case.kind)))
    return assign_networks(plan, detector.config), read


@pytest.mark.parametrize("case", [SPLIT, CROSS, ONE], ids=str)
@pytest.mark.parametrize("limit", [1, 40, 10_000])
def test_exemplars_are_rows_of_the_network_up_to_the_limit(case: Case, limit: int) -> None:
    ensemble, (nets, read) = tiny.detector(case).ensemble, _nets(case)
    exemplars, own = choose_exemplars(ensemble.vae, ensemble.views, read, nets.exemplars, limit, torch.Generator().manual_seed(0))
    for g, allowed in enumerate(nets.exemplars):
        chosen = own[g][own[g] >= 0].tolist()
        assert len(chosen) == len(set(chosen)) == min(limit, len(allowed))
        assert set(chosen) <= set(allowed.tolist())
        weight = exemplars.log_weight[g].exp()
        torch.testing.assert_close(weight[own[g] >= 0], torch.full((len(chosen),), 1 / len(chosen)))
        assert weight[own[g] < 0].sum() == 0, "padding has no weight"


def test_networks_take_different_exemplars() -> None:
    ensemble, (nets, read) = tiny.detector(CROSS).ensemble, _nets(CROSS)
    _, own = choose_exemplars(ensemble.vae, ensemble.views, read, nets.exemplars, 40, torch.Generator().manual_seed(0))
    assert len({tuple(rows.tolist()) for rows in own}) == len(own)


def test_complete_rows_become_exemplars_first() -> None:
    ensemble, (nets, read) = tiny.detector(SPLIT).ensemble, _nets(SPLIT)
    complete = read.observed.flatten(1).all(1)
    rows = nets.exemplars[0]
    count = int(complete[rows].sum())
    assert 0 < count < len(rows)
    _, own = choose_exemplars(ensemble.vae, ensemble.views, read, nets.exemplars, count, torch.Generator().manual_seed(0))
    assert bool(complete[own].all())
