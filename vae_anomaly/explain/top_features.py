"""The columns that made the score of a row, as output and texts show them: the cell, what was expected, and its contribution.

Knows nothing of thresholds: it is told which rows to explain.
"""

from collections.abc import Callable, Mapping, Sequence
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
REST = "(other)"


def top_features(
    ensemble: Ensemble, schema: Schema, batch: Batch, rows: NDArray[np.int64], top: int | None, *, threads: int = 1
) -> pa.Array:
    """Return the ``top`` largest contributions of ``rows``, None = all, and one ``(other)`` with the rest; null for the other rows."""
    picked = batch.rows(torch.from_numpy(rows))
    explanation = explain_rows(ensemble, picked, threads=threads)
    contribution = explanation.contribution.numpy()
    order = np.argsort(-contribution, axis=1, kind="stable")
    shown = order if top is None else order[:, :top]
    rest = np.take_along_axis(contribution, order[:, shown.shape[1] :], axis=1)
    parts = np.take_along_axis(contribution, shown, axis=1)
    columns = model_order(schema)
    value, expect = value_texts(columns, picked), expected_texts(columns, explanation)
    names: list[str] = []
    values: list[str | None] = []
    expected: list[str | None] = []
    for i, places in enumerate(shown.tolist()):
        for j in places:
            names.append(columns[j].name)
            values.append(value(i, j))
            expected.append(expect(i, j))
        if rest.shape[1]:
            names.append(REST)
            values.append(None)
            expected.append(None)
    if rest.shape[1]:
        parts = np.concatenate([parts, rest.sum(1, keepdims=True)], axis=1)
    lengths, has = np.zeros(len(batch), dtype=np.int32), np.zeros(len(batch), dtype=np.bool_)
    lengths[rows], has[rows] = parts.shape[1], True
    texts = [pa.array(x, pa.string()) for x in (names, values, expected)]
    features = pa.StructArray.from_arrays([*texts, pa.array(parts.ravel())], fields=list(FEATURE))
    offsets = np.concatenate([np.zeros(1, np.int32), lengths.cumsum(dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), features, type=pa.list_(FEATURE), mask=pa.array(~has))


def value_texts(columns: Sequence[Column], batch: Batch) -> Callable[[int, int], str | None]:
    """Return what says the cell of row ``i`` and column ``j``: None where missing, ``(unseen)`` for a level that the schema does not hold.

    It reads Python lists: to ask a tensor for one number takes microseconds.
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
    """Return what says what was expected in row ``i`` and column ``j``: a number, or the most likely level with its probability."""
    d_num = explanation.number.shape[1]
    number, level, chance = (t.tolist() for t in (explanation.number, explanation.level, explanation.probability))

    def text(i: int, j: int) -> str:
        if j < d_num:
            return f"{number[i][j]:.6g}"
        return f"{columns[j].levels[level[i][j - d_num]]} ({chance[i][j - d_num]:.0%})"

    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One column of an alarm, raw units as text."""

    column: str
    value: str | None
    expected: str | None
    contribution: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One flagged or suspicious row and the columns that did it."""

    row: int  # number over all inputs, from 0, as in the output
    ids: Mapping[str, str | None]
    score: float
    p_value: float
    reasons: tuple[Reason, ...]
    part: str = ""  # of an output folder; rows are then numbered from 0 in each
