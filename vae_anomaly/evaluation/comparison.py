"""Comparison of a detector with the baselines on the same labelled rows, for ``fit`` and ``evaluate``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.baselines import REFERENCE_ROWS, Matrix, baseline_scores
from vae_anomaly.evaluation.metrics import detection_quality, rank_detectors, ranking_metrics
from vae_anomaly.evaluation.results import Comparison, Quality
from vae_anomaly.evaluation.revealing import revealing_columns
from vae_anomaly.fitting.splits import RowSplit
from vae_anomaly.schema.encoding import Batch, concatenate, encode, model_order
from vae_anomaly.schema.keys import Labels
from vae_anomaly.schema.schema import Schema, conform

OURS = "vae-anomaly"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineSplit:
    """Normal rows that the baselines are fitted on, and other normal rows that they are tested on."""

    train: Batch
    test: Batch


def encode_batches(schema: Schema, batches: Iterable[pa.RecordBatch]) -> Batch:
    """Encode record batches and concatenate them."""
    return concatenate(encode(schema, conform(schema, batch, where="the labelled rows")) for batch in batches)


def evaluate_fit(detector: Detector, split: RowSplit, normal: Batch, anomalous: Batch, labels: Labels) -> Quality | None:
    """Evaluate a new detector on the anomalous rows that its labels kept out of the fit; None if none of them has a score.

    The normal scores are the held-out calibration scores. ``normal``: all rows of the fit; ``labels``: those of the anomalous rows.
    """
    scores = detector.scores(anomalous).total.numpy()
    scored = ~np.isnan(scores)
    if not scored.any():
        return None
    calibration = detector.threshold.calibration
    quality = detection_quality(
        calibration, scores[scored], detector.threshold, labels.where(scored), seed=detector.config.seed, calibrated_on=True
    )
    comparison = compare_with_baselines(
        detector, _baseline_splits(split, normal), anomalous.rows(torch.from_numpy(scored)), calibration, scores[scored]
    )
    held_out = normal.rows(torch.from_numpy(split.calibration))
    return replace(quality, comparison=comparison, revealing=revealing_columns(detector, held_out, anomalous))


def _baseline_splits(split: RowSplit, normal: Batch) -> list[BaselineSplit]:
    """Split the rows for the baselines as the fit did for the networks: once, or once for each fold."""
    if split.method == "split":
        pairs = [(split.training, split.calibration)]
    else:
        pairs = [(np.flatnonzero(split.trainable & (split.fold != k)), np.flatnonzero(split.fold == k)) for k in range(split.folds)]
    return [BaselineSplit(train=normal.rows(torch.from_numpy(a)), test=normal.rows(torch.from_numpy(b))) for a, b in pairs]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InTime:
    """When the test rows and then the anomalous rows were, of rows in time: ``position`` ``[n]`` in their order, ``entity`` ``[n]``.

    ``newest``: weight of the newest row in an exponentially weighted mean.
    """

    position: NDArray[np.int64]
    entity: NDArray[np.int64]
    newest: float

    def smoothed(self, scores: Matrix) -> Matrix:
        """Return the exponentially weighted mean of the scores of each entity, from their mean on: what the detector does to its own."""
        out, order = np.empty_like(scores), np.lexsort((self.position, self.entity))
        level, before = 0.0, -1
        for i in order.tolist():
            if self.entity[i] != before:
                level, before = float(scores.mean()), int(self.entity[i])
            level += self.newest * (float(scores[i]) - level)
            out[i] = level
        return out


def compare_with_baselines(
    detector: Detector,
    splits: Sequence[BaselineSplit],
    anomalous: Batch,
    our_normal: Matrix,
    our_anomalous: Matrix,
    *,
    in_time: InTime | None = None,
) -> Comparison:
    """Rank the detector and the baselines on the same rows: the test rows of all ``splits`` in order, and the anomalous rows.

    With several splits the baseline score of an anomalous row is the mean over them, like that of the ensemble. ``our_normal`` and
    ``our_anomalous`` are the scores of the detector. ``in_time``: of rows in time, of which the baselines get the same smoothing.
    """
    levels = tuple(len(column.levels) for column in model_order(detector.schema) if column.kind != "numeric")
    seed, sizes = detector.config.seed, [len(split.test) for split in splits]
    scores = [baseline_scores(split.train, concatenate([split.test, anomalous]), levels, seed) for split in splits]
    if in_time is not None:
        scores = [{name: in_time.smoothed(values) for name, values in found.items()} for found in scores]
    rankings = [ranking_metrics(OURS, our_normal, our_anomalous)]
    for name in scores[0]:
        normal = np.concatenate([found[name][:size] for found, size in zip(scores, sizes, strict=True)])
        mean = np.mean([found[name][size:] for found, size in zip(scores, sizes, strict=True)], axis=0)
        rankings.append(ranking_metrics(name, normal, mean))
    return rank_detectors(
        rankings,
        OURS,
        peer_rows=min(REFERENCE_ROWS, *(len(split.train) for split in splits)),
        test_rows=sum(sizes) + len(anomalous),
    )
