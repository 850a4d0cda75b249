"""A detector against labelled rows, with the peers beside it on the same rows: shared by fit and evaluate.

Knows encoded rows, not where they come from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.baselines import REFERENCE_ROWS, Matrix, peer_scores
from vae_anomaly.evaluation.metrics import compare, measure, rank
from vae_anomaly.evaluation.results import Comparison, Quality
from vae_anomaly.fitting.splits import RowSplit
from vae_anomaly.schema.encoding import Batch, encode, joined, model_order
from vae_anomaly.schema.keys import Labels
from vae_anomaly.schema.schema import Schema, conform

OURS = "vae-anomaly"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineSplit:
    """Normal rows that the peers learn from, and other normal rows that they are tried on."""

    learned: Batch
    tried: Batch


def encoded(schema: Schema, batches: Iterable[pa.RecordBatch]) -> Batch:
    """Encode rows and put them together."""
    return joined(encode(schema, conform(schema, batch, where="the labelled rows")) for batch in batches)


def after_fit(detector: Detector, plan: RowSplit, normal: Batch, anomalous: Batch, labels: Labels) -> Quality | None:
    """Hold a new detector against the anomalous rows that its fit left out; None if none of them has a score.

    The normal scores are those of the calibration, which no network learned from; ``labels`` are those of the anomalous rows.
    """
    scores = detector.scores(anomalous).total.numpy()
    scored = ~np.isnan(scores)
    if not scored.any():
        return None
    calibration = detector.threshold.calibration
    quality = measure(calibration, scores[scored], detector.threshold, labels.where(scored), seed=detector.config.seed, calibrated_on=True)
    comparison = beside_peers(detector, _parts(plan, normal), anomalous.rows(torch.from_numpy(scored)), calibration, scores[scored])
    return replace(quality, comparison=comparison)


def _parts(plan: RowSplit, normal: Batch) -> list[BaselineSplit]:
    """Deal the rows to the peers as the fit did to our networks: one part, or one for each fold."""
    if plan.method == "split":
        pairs = [(plan.training, plan.calibration)]
    else:
        pairs = [(np.flatnonzero(plan.learning & (plan.fold != k)), np.flatnonzero(plan.fold == k)) for k in range(plan.folds)]
    return [BaselineSplit(learned=normal.rows(torch.from_numpy(a)), tried=normal.rows(torch.from_numpy(b))) for a, b in pairs]


def beside_peers(
    detector: Detector, parts: Sequence[BaselineSplit], anomalous: Batch, our_normal: Matrix, our_anomalous: Matrix
) -> Comparison:
    """Rank ours and the peers on the same rows: the tried rows of all parts, in their order, and the anomalous ones.

    With several parts a peer's score of an anomalous row is its mean over them, as ours is.
    """
    levels = tuple(len(column.levels) for column in model_order(detector.schema) if column.kind != "numeric")
    found = [peer_scores(part.learned, joined([part.tried, anomalous]), levels, detector.config.seed) for part in parts]
    rankings = [rank(OURS, our_normal, our_anomalous)]
    for name in found[0]:
        tried = np.concatenate([scores[name][: len(part.tried)] for part, scores in zip(parts, found, strict=True)])
        rest = np.mean([scores[name][len(part.tried) :] for part, scores in zip(parts, found, strict=True)], axis=0)
        rankings.append(rank(name, tried, rest))
    return compare(
        rankings,
        OURS,
        peer_rows=min(REFERENCE_ROWS, *(len(part.learned) for part in parts)),
        test_rows=sum(len(part.tried) for part in parts) + len(anomalous),
    )
