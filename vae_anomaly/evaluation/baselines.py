"""Baseline detectors of scikit-learn: Isolation Forest, k nearest neighbours and PCA. Scores: higher = more anomalous.

Letters of shapes: n rows, d columns, u features after one-hot encoding.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from vae_anomaly.schema.encoding import Batch

Matrix = NDArray[np.float64]
# Rows the baselines are fitted on: enough for all three to converge, few enough for a neighbour search in seconds.
REFERENCE_ROWS = 10_000
# Neighbour whose distance is the score: the default of PyOD and ADBench.
BASELINE_NEIGHBOURS = 5
# Share of the variance that the PCA plane explains.
PCA_VARIANCE = 0.9


def matrix(rows: Batch, reference: Batch, levels: tuple[int, ...]) -> Matrix:
    """Return the features of ``rows``, float64 ``[n, u]``, with the statistics of ``reference``.

    Numbers are standardized and missing ones imputed by the mean; a column with ``levels[c]`` levels is one-hot encoded, all 0 for unseen
    and missing levels.
    """
    numeric, codes = rows.numeric.numpy(), rows.codes.numpy()
    observed = rows.observed.numpy()
    width = numeric.shape[-1]
    mean, scale = _centre(reference)
    numbers = np.where(observed[:, 0, :width], (numeric[:, 0] - mean) / scale, 0.0)
    one_hot = [(codes[:, 0, c, None] == np.arange(count)) & observed[:, 0, width + c, None] for c, count in enumerate(levels)]
    return np.concatenate([numbers, *one_hot], axis=1).astype(np.float64)


def _centre(reference: Batch) -> tuple[Matrix, Matrix]:
    """Return mean and standard deviation of the observed numbers, ``[d_num]``; the deviation of a constant column is 1."""
    numeric = reference.numeric.numpy()[:, 0]
    seen = reference.observed.numpy()[:, 0, : numeric.shape[-1]]
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, numeric, 0.0).sum(0) / count
    scale = np.sqrt(np.where(seen, (numeric - mean) ** 2, 0.0).sum(0) / count)
    return mean, np.where(scale > 0, scale, 1.0)


def baseline_scores(reference: Batch, rows: Batch, levels: tuple[int, ...], seed: int) -> dict[str, Matrix]:
    """Fit every baseline on at most 10,000 random rows of ``reference`` and score ``rows``: name → scores ``[n]``."""
    chosen = np.random.default_rng([seed, 2]).permutation(len(reference))[:REFERENCE_ROWS]
    sample = reference.rows(torch.from_numpy(np.sort(chosen)))
    train, test = matrix(sample, sample, levels), matrix(rows, sample, levels)
    return {name: score(train, test, seed) for name, score in BASELINES.items()}


def isolation_forest(reference: Matrix, rows: Matrix, seed: int) -> Matrix:
    """Return the negated score of scikit-learn's Isolation Forest (Liu et al. 2008)."""
    scores: Matrix = -IsolationForest(random_state=seed % 2**32).fit(reference).score_samples(rows)
    return scores


def nearest_neighbours(reference: Matrix, rows: Matrix, _seed: int) -> Matrix:
    """Return the distance to the fifth nearest reference row (Ramaswamy et al. 2000), or to the farthest of fewer rows."""
    distances, _ = NearestNeighbors(n_neighbors=min(BASELINE_NEIGHBOURS, len(reference))).fit(reference).kneighbors(rows)
    farthest: Matrix = distances[:, -1]
    return farthest


def pca(reference: Matrix, rows: Matrix, seed: int) -> Matrix:
    """Return the squared distance to the plane that explains 90 % of the variance; for constant rows, to that point."""
    if not np.ptp(reference, axis=0).any():
        from_point: Matrix = ((rows - reference[0]) ** 2).sum(1)
        return from_point
    plane = PCA(n_components=PCA_VARIANCE, svd_solver="full", random_state=seed % 2**32).fit(reference)
    residual = rows - plane.inverse_transform(plane.transform(rows))
    squares: Matrix = (residual**2).sum(1)
    return squares


BASELINES: dict[str, Callable[[Matrix, Matrix, int], Matrix]] = {
    "Isolation Forest": isolation_forest,
    f"{BASELINE_NEIGHBOURS} nearest neighbours": nearest_neighbours,
    "PCA": pca,
}
