"""Columns that are constant among normal rows and carry most of the score of the anomalous ones: often labels, or written after the fault.

An evaluation with them measures how well a flag is read, not how well a fault is detected.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.metrics import ranking_metrics
from vae_anomaly.evaluation.results import Revealing
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.messages import listed, option_names, percent
from vae_anomaly.schema.encoding import Batch, model_order

SAME_VALUE = 0.995  # share of the normal rows with one value, from which on a column counts as constant: labels have errors
MOST_OF_SCORE = 0.5  # share of the score of the anomalous rows
NAMED_SHARE = 0.02  # of that score, from which on a column is named
ROWS_EXPLAINED = 400  # of each class
CELLS_EXPLAINED = 20_000  # of each class, but of at least a hundred rows: rows of wide tables take longer
FEWEST_EXPLAINED = 100


def revealing_columns(detector: Detector, normal: Batch, anomalous: Batch) -> Revealing | None:
    """Return the columns that give the anomalous rows away, measured on a sample of each class; None if others carry the score."""
    if not len(normal) or not len(anomalous):
        return None
    columns = model_order(detector.schema)
    most = max(FEWEST_EXPLAINED, min(ROWS_EXPLAINED, CELLS_EXPLAINED // max(len(columns), 1)))
    random = np.random.default_rng([detector.config.seed, 6])
    normal, anomalous = (part.rows(torch.from_numpy(np.sort(random.permutation(len(part))[:most]))) for part in (normal, anomalous))
    found = _constant_among(normal, anomalous)
    if not found.any():
        return None
    usual, odd = (explain_rows(detector.ensemble, part).contribution.numpy() for part in (normal, anomalous))
    means, total = odd.mean(0), max(float(odd.sum(1).mean()), 1e-12)
    share = float(means[found].sum()) / total
    if share <= MOST_OF_SCORE:
        return None
    order = [j for j in np.argsort(-means, kind="stable").tolist() if found[j] and means[j] >= NAMED_SHARE * total]
    names = tuple(columns[j].name for j in order)
    whole, without = (ranking_metrics("", usual[:, kept].sum(1), odd[:, kept].sum(1)).auroc for kept in (slice(None), ~found))
    return Revealing(columns=names, share=share, auroc=whole, auroc_without=without, words=_words(names, share, whole, without))


def _words(names: tuple[str, ...], share: float, whole: float, without: float) -> str:
    verbs = ("is", "carries") if len(names) == 1 else ("are", "carry")
    return (
        f"{listed(names)} {verbs[0]} constant among the normal rows and {verbs[1]} "
        f"{percent(share)} of the score of the anomalous ones: AUROC {whole:.4f}, {without:.4f} by the other columns. If a fault is not "
        f"measured there but written down, fit again with --exclude {option_names(names)}"
    )


def _constant_among(normal: Batch, anomalous: Batch) -> NDArray[np.bool_]:
    """Return which columns, in model order, have one value in nearly all normal rows and another one in anomalous rows, bool ``[d]``."""
    usual, odd = _cells(normal), _cells(anomalous)
    known = ~np.isnan(usual).all(0)
    value = np.zeros(usual.shape[1])
    value[known] = np.nanquantile(usual[:, known], 0.5, axis=0, method="lower")
    same = (np.isnan(usual) | (usual == value)).mean(0)
    return np.asarray(known & (same >= SAME_VALUE) & (~np.isnan(odd) & (odd != value)).any(0))


def _cells(batch: Batch) -> NDArray[np.float64]:
    """Return the cells of the last step of each row as numbers, NaN where missing, float64 ``[n, d]``."""
    cells: Tensor = torch.cat([batch.numeric[:, -1].double(), batch.codes[:, -1].double()], dim=-1)
    return np.asarray(cells.masked_fill(~batch.observed[:, -1], torch.nan).numpy())
