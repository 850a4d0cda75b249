"""Hold a model against labelled rows, with three other detectors on the same rows.

Knows nothing about networks or file formats. All labelled rows are held in memory, encoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from vae_anomaly.config import DataConfig
from vae_anomaly.core.detector import Detector
from vae_anomaly.core.encode import Batch, encode
from vae_anomaly.core.labels import Labels, read_labels, refuse_one_class
from vae_anomaly.core.metrics import measure
from vae_anomaly.core.peers import Matrix
from vae_anomaly.core.report import Quality, promise
from vae_anomaly.core.schema import absent_text
from vae_anomaly.edges import tables
from vae_anomaly.errors import ConfigError, DataError, VaeAnomalyError
from vae_anomaly.workflow.detection import Part, beside_peers, joined
from vae_anomaly.workflow.opening import cores, open_model
from vae_anomaly.workflow.progress import Tell, tell_nobody
from vae_anomaly.workflow.results import EvaluateResult

SEEN = "the model was fitted on these very files: it has seen their normal rows, and the figures are too good"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """Which rows, which model, and what the labels mean; None: what the fit said."""

    data: tuple[str, ...]
    model: str
    label_column: str | None = None
    normal_labels: tuple[str, ...] | None = None
    missing_values: tuple[str, ...] | None = None
    reference: tuple[str, ...] = ()
    threads: int | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """Rows that have a score, with their labels; ``null_scores`` rows had none."""

    batch: Batch
    scores: Matrix
    labels: Labels
    null_scores: int

    def side(self, *, normal: bool) -> tuple[Batch, Matrix]:
        """Return the rows and scores of one class."""
        rows = self.labels.normal == normal
        return self.batch.rows(torch.from_numpy(rows)), self.scores[rows]


def evaluate(request: EvaluateRequest, *, tell: Tell = tell_nobody) -> EvaluateResult:
    """Score labelled rows and measure ranking, detection and false alarms.

    Raises ConfigError without a label column, DataError unless there are rows of both classes.
    """
    opened = open_model(request.model, uri=request.tracking_uri)
    detector = opened.detector
    column = request.label_column or detector.config.data.label_column
    if column is None:
        raise ConfigError("which column holds the labels? Name it with --label-column.")
    missing = detector.config.data.missing_values if request.missing_values is None else request.missing_values
    wanted = request.normal_labels or detector.config.data.normal_labels
    source = tables.open_source(request.data, missing_values=missing)
    if column not in source.names:
        raise ConfigError(f"--label-column names a column that is not in the data: {absent_text([column], source.names)}")
    scored = _scored(detector, source, column, wanted, request.threads or cores(), tell)
    refuse_one_class(scored.labels, column, wanted)
    tell("other detectors", 0, None)
    return EvaluateResult(
        rows=len(scored.batch) + scored.null_scores,
        null_scores=scored.null_scores,
        promise=promise(detector.threshold),
        notes=(SEEN,) if source.digest() == detector.card.data_digest else (),
        quality=_quality(detector, scored, _reference(detector, request, missing)),
        model=opened.name,
        next_steps=(),
    )


def _scored(detector: Detector, source: tables.Source, column: str, wanted: Sequence[str], threads: int, tell: Tell) -> Scored:
    """Encode and score all rows; labels are read from the column as the file has it."""
    batches, scores, labels = [], [], []
    done = 0
    for chunk in source.batches(detector.schema, extra=[column]):
        batch = encode(detector.schema, chunk.select(list(detector.schema.names)))
        batches.append(batch)
        scores.append(detector.scores(batch, threads=threads).total.numpy())
        labels.append(chunk.column(column))
        done += chunk.num_rows
        tell("scoring", done, source.rows)
    everything = np.concatenate(scores)
    there = ~np.isnan(everything)
    if not there.any():
        raise DataError(f"no row of {source.files[0].path} has a value in any column of the model.")
    found = read_labels(pa.chunked_array(labels), wanted)
    rows = joined(batches).rows(torch.from_numpy(there))
    return Scored(batch=rows, scores=everything[there], labels=found.where(there), null_scores=int((~there).sum()))


def _reference(detector: Detector, request: EvaluateRequest, missing: Sequence[str]) -> Batch | None:
    """Encode the normal rows that the peers learn from: those asked for, or those of the fit where its files are as they were."""
    card, data = detector.card, detector.config.data
    if request.reference:
        source = tables.open_source(request.reference, missing_values=missing)
        return joined(encode(detector.schema, chunk) for chunk in source.batches(detector.schema))
    try:
        source = tables.open_source(card.source, missing_values=data.missing_values)
    except VaeAnomalyError:
        return None
    if source.digest() != card.data_digest:
        return None
    extra = [data.label_column] if data.label_column else []
    return joined(_normal_rows(detector, chunk, data) for chunk in source.batches(detector.schema, extra=extra))


def _normal_rows(detector: Detector, chunk: pa.RecordBatch, data: DataConfig) -> Batch:
    batch = encode(detector.schema, chunk.select(list(detector.schema.names)))
    if data.label_column is None:
        return batch
    return batch.rows(torch.from_numpy(read_labels(chunk.column(data.label_column), data.normal_labels).normal))


def _quality(detector: Detector, scored: Scored, reference: Batch | None) -> Quality:
    """Measure on all rows, and compare on those that the peers did not learn from."""
    normal, normal_scores = scored.side(normal=True)
    anomalous, anomalous_scores = scored.side(normal=False)
    labels = scored.labels.where(~scored.labels.normal)
    quality = measure(normal_scores, anomalous_scores, detector.threshold, labels, seed=detector.config.seed)
    part, tried = Part(learned=reference, tried=normal) if reference else None, normal_scores
    if part is None:
        order = torch.from_numpy(np.random.default_rng([detector.config.seed, 3]).permutation(len(normal)))
        half = len(normal) // 2
        if not half:
            return quality
        part, tried = Part(learned=normal.rows(order[:half]), tried=normal.rows(order[half:])), normal_scores[order[half:].numpy()]
    return replace(quality, comparison=beside_peers(detector, [part], anomalous, tried, anomalous_scores))
