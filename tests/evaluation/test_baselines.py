import numpy as np
import pytest
import torch

from vae_anomaly.evaluation.baselines import PEERS, matrix, peer_scores
from vae_anomaly.schema.encoding import Batch


def batch(numeric: list[list[float]], codes: list[list[int]], missing: list[tuple[int, int]] = []) -> Batch:  # noqa: B006  # not changed
    numbers = torch.tensor(numeric, dtype=torch.float64).reshape(len(numeric), 1, -1)
    levels = torch.tensor(codes, dtype=torch.int64).reshape(len(numeric), 1, -1)
    observed = torch.ones(len(numeric), 1, numbers.shape[-1] + levels.shape[-1], dtype=torch.bool)
    for row, column in missing:
        observed[row, 0, column] = False
    return Batch(numeric=numbers, codes=levels, observed=observed)


def test_matrix_by_hand() -> None:
    """Mean 2 and deviation 1 of the observed numbers; a constant is not scaled; unseen and missing levels are no level."""
    rows = batch([[1.0, 5.0], [3.0, 5.0], [9.0, 5.0], [0.0, 6.0]], [[0], [1], [2], [0]], missing=[(2, 0), (3, 2)])
    reference = rows.rows(torch.tensor([0, 1, 2]))
    expected = [[-1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [-2.0, 1.0, 0.0, 0.0]]
    assert matrix(rows, reference, levels=(2,)).tolist() == expected


@pytest.mark.parametrize("name", PEERS)
def test_a_far_row_scores_highest(name: str) -> None:
    random = np.random.default_rng(0)
    normal = random.normal(size=(300, 1)) @ np.ones((1, 3)) + random.normal(scale=0.1, size=(300, 3))
    codes = [[0]] * 300
    asked = batch([*normal[:50].tolist(), [3.0, -3.0, 3.0]], codes[:51])
    scores = peer_scores(batch(normal.tolist(), codes), asked, (1,), seed=7)[name]
    assert scores.argmax() == 50
    assert np.array_equal(scores, peer_scores(batch(normal.tolist(), codes), asked, (1,), seed=7)[name])


@pytest.mark.parametrize("name", PEERS)
def test_one_row_and_equal_rows_are_learned_from_without_a_warning(name: str) -> None:
    for reference in ([[1.0, 2.0]], [[1.0, 2.0]] * 3):
        scores = peer_scores(batch(reference, [[0]] * len(reference)), batch([[1.0, 2.0], [4.0, 6.0]], [[0], [0]]), (1,), seed=7)[name]
        assert np.isfinite(scores).all()
        if name == "PCA":
            assert scores.tolist() == [0.0, 25.0]
