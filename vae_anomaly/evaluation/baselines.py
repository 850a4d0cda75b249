"""Three well-known detectors to hold ours against: Isolation Forest, k nearest neighbours and PCA, all of scikit-learn.

Knows batches of cells and nothing about our model. All scores: higher = more anomalous.
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
# Rows the peers learn from: enough for all three to settle, few enough for a search of neighbours in seconds.
REFERENCE_ROWS = 10_000
BASELINE_NEIGHBOURS = 5  # PyOD's and ADBench's default, the distance to the fifth
KEPT_VARIANCE = 0.9


def matrix(rows: Batch, reference: Batch, levels: tuple[int, ...]) -> Matrix:
    """Turn cells into numbers ``[n, u]`` by what ``reference`` looks like.

    Numbers are standardised, a missing one is the mean; a category with ``levels[c]`` levels is one-hot, unseen and missing ones are 0.
    """
    numeric, codes = rows.numeric.numpy(), rows.codes.numpy()
    observed = rows.observed.numpy()
    width = numeric.shape[-1]
    mean, scale = _centre(reference)
    numbers = np.where(observed[:, 0, :width], (numeric[:, 0] - mean) / scale, 0.0)
    one_hot = [(codes[:, 0, c, None] == np.arange(count)) & observed[:, 0, width + c, None] for c, count in enumerate(levels)]
    return np.concatenate([numbers, *one_hot], axis=1).astype(np.float64)


def _centre(reference: Batch) -> tuple[Matrix, Matrix]:
    """Mean and standard deviation of the observed numbers ``[d_num]``; 1 where a column does not vary."""
    numeric = reference.numeric.numpy()[:, 0]
    seen = reference.observed.numpy()[:, 0, : numeric.shape[-1]]
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, numeric, 0.0).sum(0) / count
    scale = np.sqrt(np.where(seen, (numeric - mean) ** 2, 0.0).sum(0) / count)
    return mean, np.where(scale > 0, scale, 1.0)


def peer_scores(reference: Batch, rows: Batch, levels: tuple[int, ...], seed: int) -> dict[str, Matrix]:
    """Let every peer learn from ``reference`` (at most 10,000 rows of it, by ``seed``) and score ``rows``: name → scores ``[n]``."""
    chosen = np.random.default_rng([seed, 2]).permutation(len(reference))[:REFERENCE_ROWS]
    sample = reference.rows(torch.from_numpy(np.sort(chosen)))
    learned, asked = matrix(sample, sample, levels), matrix(rows, sample, levels)
    return {name: score(learned, asked, seed) for name, score in PEERS.items()}


def isolation_forest(reference: Matrix, rows: Matrix, seed: int) -> Matrix:
    """Return minus scikit-learn's score (Liu et al. 2008)."""
    scores: Matrix = -IsolationForest(random_state=seed % 2**32).fit(reference).score_samples(rows)
    return scores


def nearest_neighbours(reference: Matrix, rows: Matrix, _seed: int) -> Matrix:
    """Return the distance to the fifth nearest reference row (Ramaswamy et al. 2000)."""
    distances, _ = NearestNeighbors(n_neighbors=min(BASELINE_NEIGHBOURS, len(reference))).fit(reference).kneighbors(rows)
    farthest: Matrix = distances[:, -1]
    return farthest


def pca(reference: Matrix, rows: Matrix, seed: int) -> Matrix:
    """Return the squared distance to the plane that keeps 90 % of the variance; of one row, or equal ones, the plane is a point."""
    if not np.ptp(reference, axis=0).any():
        from_point: Matrix = ((rows - reference[0]) ** 2).sum(1)
        return from_point
    plane = PCA(n_components=KEPT_VARIANCE, svd_solver="full", random_state=seed % 2**32).fit(reference)
    residual = rows - plane.inverse_transform(plane.transform(rows))
    squares: Matrix = (residual**2).sum(1)
    return squares


PEERS: dict[str, Callable[[Matrix, Matrix, int], Matrix]] = {
    "Isolation Forest": isolation_forest,
    f"{BASELINE_NEIGHBOURS} nearest neighbours": nearest_neighbours,
    "PCA": pca,
}
