"""A row of the fit is scored as if it had not been there: without its fold, or without its exemplar."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from tests.tiny import Case
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.fitting.held_out import FitRecord, exemplar_positions
from vae_anomaly.fitting.splits import assign_networks
from vae_anomaly.model.ensemble import score_rows
from vae_anomaly.model.prior import Exemplars
from vae_anomaly.schema.schema import infer_schema

SPLIT = Case(kind="mixed", size="several", method="split", prior="exemplar")
CROSS = Case(kind="mixed", size="several", method="cross", prior="exemplar")


def _fitted(case: Case) -> FitRecord:
    """Every training row is an exemplar of every network that learned from it."""
    rows, config = tiny.normal_rows("mixed"), tiny.config(case)
    config = replace(config, model=replace(config.model, exemplars=tiny.NORMAL_ROWS))
    return fit_rows(rows, infer_schema(rows, config.data), config)


@pytest.fixture(scope="module")
def split() -> FitRecord:
    return _fitted(SPLIT)


@pytest.fixture(scope="module")
def cross() -> FitRecord:
    return _fitted(CROSS)


def test_exemplar_positions_by_hand() -> None:
    own = torch.tensor([[1, 3, -1], [0, 2, 3]])
    assert exemplar_positions(own, 5).tolist() == [[-1, 0, -1, 1, -1], [0, -1, 1, 2, -1]]


def test_under_split_a_row_is_scored_without_its_own_exemplar(split: FitRecord) -> None:
    """The control cuts the exemplar out of the tensors, so that each network has one less; complete rows, which nothing is filled into.

    Without groups, which the cut would move exemplars between; with groups ``kl_to_prior`` has its own test.
    """
    split = replace(split, detector=replace(split.detector, ensemble=replace(split.detector.ensemble, groups=None)))
    complete = split.batch.observed.flatten(1).all(1).numpy()
    rows = split.split.training[complete[split.split.training]][:4]
    ensemble = split.detector.ensemble
    for row, score in zip(rows.tolist(), split.held_out_scores(rows).tolist(), strict=True):
        keep = [(own != row).nonzero().flatten() for own in split.exemplar_rows]
        assert {len(k) for k in keep} == {split.exemplar_rows.shape[1] - 1}
        mu, logvar = (torch.stack([t[g, k] for g, k in enumerate(keep)]) for t in (ensemble.exemplars.mu, ensemble.exemplars.logvar))
        cut = Exemplars(mu=mu, logvar=logvar, log_weight=torch.full(mu.shape[:2], -float(np.log(mu.shape[1]))))
        control = score_rows(replace(ensemble, exemplars=cut), split.batch.rows(slice(row, row + 1)))
        assert score == pytest.approx(float(control.total), rel=1e-5)


def test_under_split_a_calibration_row_is_scored_as_any_other(split: FitRecord) -> None:
    rows = split.split.calibration
    expected = split.detector.scores(split.batch.rows(torch.from_numpy(rows))).total
    np.testing.assert_allclose(split.held_out_scores(rows), expected.numpy(), rtol=1e-12)


def test_an_exemplar_scores_higher_without_itself(split: FitRecord) -> None:
    rows = np.unique(split.exemplar_rows[split.exemplar_rows >= 0].numpy())
    seen = split.detector.scores(split.batch.rows(torch.from_numpy(rows))).total.numpy()
    assert (split.held_out_scores(rows) > seen).all()


@pytest.mark.parametrize("which", ["split", "cross"])
def test_a_row_is_explained_by_the_ensemble_that_scores_it(which: str, request: pytest.FixtureRequest) -> None:
    fitted: FitRecord = request.getfixturevalue(which)
    rows = fitted.split.training[:3]
    for row, score in zip(rows.tolist(), fitted.held_out_scores(rows).tolist(), strict=True):
        cells = fitted.batch.rows(slice(row, row + 1))
        explained = explain_rows(fitted.held_out_ensemble(row), cells).contribution.sum()
        assert float(explained) == pytest.approx(score, rel=1e-5)


def test_under_cross_a_row_is_scored_by_the_networks_of_its_fold(cross: FitRecord) -> None:
    scores = cross.held_out_scores(np.arange(len(cross.batch)))
    np.testing.assert_array_equal(np.sort(scores), cross.detector.threshold.calibration)
    row = 17
    mine = (torch.tensor(assign_networks(cross.split, cross.detector.config).held_out_fold) == cross.split.fold[row]).nonzero().flatten()
    alone = cross.detector.ensemble.nets(mine)
    alone = replace(alone, weight=alone.weight * cross.split.folds)
    assert scores[row] == float(score_rows(alone, cross.batch.rows(slice(row, row + 1))).total)
