"""The largest contributions of a row as shown to people: column, cell, expected value and contribution.

The caller chooses the rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from vae_anomaly.explain.contributions import Explanation, explain_rows
from vae_anomaly.model.ensemble import Ensemble
from vae_anomaly.schema.encoding import Batch, model_order
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema

FEATURE = pa.struct([("column", pa.string()), ("value", pa.string()), ("expected", pa.string()), ("contribution", pa.float64())])
REST = "(other)"  # the entry of the columns that are not listed


def top_features(
    ensemble: Ensemble, schema: Schema, batch: Batch, rows: NDArray[np.int64], top: int | None, *, threads: int = 1
) -> pa.Array:
    """Return a list array ``[n]`` of ``FEATURE``: for ``rows`` (ascending indices) the ``top`` largest contributions, else null.

    The contributions of the other columns are summed as ``(other)``, so that a list adds up to the score; ``top=None`` lists all columns.
    """
    picked = batch.rows(torch.from_numpy(rows))
    explanation = explain_rows(ensemble, picked, threads=threads)
    contribution = explanation.contribution.numpy()
    order = np.argsort(-contribution, axis=1, kind="stable")
    shown = order if top is None else order[:, :top]
    rest = np.take_along_axis(contribution, order[:, shown.shape[1] :], axis=1)
    parts = np.take_along_axis(contribution, shown, axis=1)
    columns = model_order(schema)
    value, expect = value_texts(columns, picked), expected_texts(columns, explanation)
    other: list[tuple[str, str | None, str | None]] = [(REST, None, None)] if rest.shape[1] else []
    cells: list[tuple[str, str | None, str | None]] = []
    for i, indices in enumerate(shown.tolist()):
        cells += [(columns[j].name, value(i, j), expect(i, j)) for j in indices]
        cells += other
    if rest.shape[1]:
        parts = np.concatenate([parts, rest.sum(1, keepdims=True)], axis=1)
    lengths, explained = np.zeros(len(batch), dtype=np.int32), np.zeros(len(batch), dtype=np.bool_)
    lengths[rows], explained[rows] = parts.shape[1], True
    texts = [pa.array([cell[k] for cell in cells], pa.string()) for k in range(3)]
    features = pa.StructArray.from_arrays([*texts, pa.array(parts.ravel())], fields=list(FEATURE))
    offsets = np.concatenate([np.zeros(1, np.int32), lengths.cumsum(dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), features, type=pa.list_(FEATURE), mask=pa.array(~explained))


def value_texts(columns: Sequence[Column], batch: Batch) -> Callable[[int, int], str | None]:
    """Return a function (i, j) → text of the cell in row i and column j: None if missing, ``(unseen)`` for a level not in the schema.

    The tensors are converted to lists once: indexing a tensor takes microseconds per cell.
    """
    d_num = batch.numeric.shape[-1]
    observed, numeric, codes = (t[:, -1].tolist() for t in (batch.observed, batch.numeric, batch.codes))

    def text(i: int, j: int) -> str | None:
        if not observed[i][j]:
            return None
        if j < d_num:
            return f"{numeric[i][j]:.10g}"
        code, levels = codes[i][j - d_num], columns[j].levels
        return levels[code] if code < len(levels) else "(unseen)"

    return text


def expected_texts(columns: Sequence[Column], explanation: Explanation) -> Callable[[int, int], str]:
    """Return a function (i, j) → text of the expected value: a number, or the most likely level with its probability."""
    d_num = explanation.number.shape[1]
    number, level, chance = (t.tolist() for t in (explanation.number, explanation.level, explanation.probability))

    def text(i: int, j: int) -> str:
        if j < d_num:
            return f"{number[i][j]:.6g}"
        return f"{columns[j].levels[level[i][j - d_num]]} ({chance[i][j - d_num]:.0%})"

    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One column's contribution to a score, in weighted nats; value and expectation as text in raw units."""

    column: str
    value: str | None
    expected: str | None
    contribution: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A flagged or suspicious row with its reasons, largest contribution first."""

    row: int  # number over all inputs, from 0, as in the output
    ids: Mapping[str, str | None]
    score: float
    p_value: float
    reasons: tuple[Reason, ...]
    part: str = ""  # of an output folder; rows are then numbered from 0 in each


def reasons_of(features: Iterable[Mapping[str, object]]) -> tuple[Reason, ...]:
    """Convert one value of the ``top_features`` column to reasons, without the ``(other)`` entry."""
    return tuple(
        Reason(
            column=str(feature["column"]),
            value=None if feature["value"] is None else str(feature["value"]),
            expected=None if feature["expected"] is None else str(feature["expected"]),
            contribution=float(str(feature["contribution"])),
        )
        for feature in features
        if feature["column"] != REST
    )
