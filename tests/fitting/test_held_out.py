"""A row of the fit is scored as if it had not been there: without its fold, or without its exemplar."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from tests.tiny import Case
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.fitting.held_out import Fitted, places
from vae_anomaly.fitting.splits import assign
from vae_anomaly.model.ensemble import score_rows
from vae_anomaly.model.prior import Exemplars
from vae_anomaly.schema.schema import infer_schema

SPLIT = Case(kind="mixed", size="several", method="split", prior="exemplar")
CROSS = Case(kind="mixed", size="several", method="cross", prior="exemplar")


def _fitted(case: Case) -> Fitted:
    """Every training row is an exemplar of every network that learned from it."""
    rows, config = tiny.normal_rows("mixed"), tiny.config(case)
    config = replace(config, model=replace(config.model, exemplars=tiny.NORMAL_ROWS))
    return fit_rows(rows, infer_schema(rows, config.data), config)


@pytest.fixture(scope="module")
def split() -> Fitted:
    return _fitted(SPLIT)


@pytest.fixture(scope="module")
def cross() -> Fitted:
    return _fitted(CROSS)


def test_places_say_where_a_row_stands_among_the_exemplars() -> None:
    own = torch.tensor([[1, 3, -1], [0, 2, 3]])
    assert places(own, 5).tolist() == [[-1, 0, -1, 1, -1], [0, -1, 1, 2, -1]]


def test_under_split_a_row_is_scored_without_its_own_exemplar(split: Fitted) -> None:
    """The control cuts the exemplar out of the tensors, so that each network has one less; complete rows, which nothing is filled into."""
    complete = split.batch.observed.flatten(1).all(1).numpy()
    rows = split.plan.training[complete[split.plan.training]][:4]
    ensemble = split.detector.ensemble
    for row, score in zip(rows.tolist(), split.unseen_scores(rows).tolist(), strict=True):
        keep = [(own != row).nonzero().flatten() for own in split.own]
        assert {len(k) for k in keep} == {split.own.shape[1] - 1}
        mu, logvar = (torch.stack([t[g, k] for g, k in enumerate(keep)]) for t in (ensemble.exemplars.mu, ensemble.exemplars.logvar))
        cut = Exemplars(mu=mu, logvar=logvar, log_weight=torch.full(mu.shape[:2], -float(np.log(mu.shape[1]))))
        control = score_rows(replace(ensemble, exemplars=cut), split.batch.rows(slice(row, row + 1)))
        assert score == pytest.approx(float(control.total), rel=1e-5)


def test_under_split_a_calibration_row_is_scored_as_any_other(split: Fitted) -> None:
    rows = split.plan.calibration
    expected = split.detector.scores(split.batch.rows(torch.from_numpy(rows))).total
    np.testing.assert_allclose(split.unseen_scores(rows), expected.numpy(), rtol=1e-12)


def test_an_exemplar_scores_higher_without_itself(split: Fitted) -> None:
    rows = np.unique(split.own[split.own >= 0].numpy())
    seen = split.detector.scores(split.batch.rows(torch.from_numpy(rows))).total.numpy()
    assert (split.unseen_scores(rows) > seen).all()


@pytest.mark.parametrize("which", ["split", "cross"])
def test_a_row_is_explained_by_the_ensemble_that_scores_it(which: str, request: pytest.FixtureRequest) -> None:
    fitted: Fitted = request.getfixturevalue(which)
    rows = fitted.plan.training[:3]
    for row, score in zip(rows.tolist(), fitted.unseen_scores(rows).tolist(), strict=True):
        cells = fitted.batch.rows(slice(row, row + 1))
        explained = explain_rows(fitted.unseen_ensemble(row), cells).contribution.sum()
        assert float(explained) == pytest.approx(score, rel=1e-5)


def test_under_cross_a_row_is_scored_by_the_networks_of_its_fold(cross: Fitted) -> None:
    scores = cross.unseen_scores(np.arange(len(cross.batch)))
    np.testing.assert_array_equal(np.sort(scores), cross.detector.threshold.calibration)
    row = 17
    mine = (torch.tensor(assign(cross.plan, cross.detector.config).part) == cross.plan.fold[row]).nonzero().flatten()
    alone = cross.detector.ensemble.nets(mine)
    alone = replace(alone, weight=alone.weight * cross.plan.folds)
    assert scores[row] == float(score_rows(alone, cross.batch.rows(slice(row, row + 1))).total)
