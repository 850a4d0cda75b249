"""Record batches in, record batches of scores out: one row for each row, in order, whatever the sizes of the batches.

The same function serves files, pyfunc and Spark's ``mapInArrow``. Knows nothing of where batches come from or go to.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from vae_anomaly.calibration.groups import group_names
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, SchemaMismatch
from vae_anomaly.explain.top_features import FEATURE, top_features
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.encoding import Batch, encode, model_order
from vae_anomaly.schema.schema import conform

# Small batches are put together up to this many rows, so that --chunk-rows 1 does not score one padded block a row.
GATHER_ROWS = 1024
RESULT_FIELDS = (
    pa.field("anomaly_score", pa.float64()),
    pa.field("reconstruction", pa.float64()),
    pa.field("kl", pa.float64()),
    pa.field("p_value", pa.float64()),
    pa.field("is_anomaly", pa.bool_()),
    pa.field("top_features", pa.list_(FEATURE)),
    pa.field("model", pa.string()),
    pa.field("model_version", pa.string()),
)
# Stands after p_value where it is asked for.
TYPICALITY = pa.field("typicality", pa.float64())
AFTER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """How to score: another ``alpha``, which rows to explain with how many columns (``top`` None = all), what to copy through.

    ``typicality`` adds the two-sided p-value 2·min(upper, lower), at most 1: small also where a row scores lower than normal rows do.
    ``row_numbers``: the column with the numbers of the rows, where some were left out; without it they count from ``first_row``.
    Raises ConfigError for id columns that the output could not tell from its own.
    """

    alpha: float | None = None
    typicality: bool = False
    explain: Literal["flagged", "all", "none"] = "flagged"
    top: int | None = 5
    id_columns: tuple[str, ...] = ()
    model: str = ""
    model_version: str = ""
    threads: int = 1
    first_row: int = 0
    row_numbers: str = ""
    where: str = "the batch"

    def __post_init__(self) -> None:
        """Refuse names that would stand twice in the output."""
        own = [field.name for field in RESULT_FIELDS]
        twice = [name for i, name in enumerate(self.id_columns) if name in own or name in self.id_columns[:i]]
        if twice:
            raise ConfigError(f"{twice[0]!r} cannot be an id column: the output has a column of that name already. Rename it in the input.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts over one output batch: rows, alarms, rows without a score; ``unseen`` and ``missing`` cells by column name.

    ``untypical`` rows have a typicality of at most alpha, ``low`` of them because they score too low. ``pooled`` rows have the threshold of
    all groups, those of ``unseen_groups`` by name among them. ``numbers`` are those of the rows in the input, ascending [rows].
    """

    rows: int
    alarms: int
    unscored: int
    unseen: dict[str, int]
    missing: dict[str, int]
    untypical: int = 0
    low: int = 0
    pooled: int = 0
    unseen_groups: Mapping[str, int] = field(default_factory=dict)
    numbers: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)


def result_schema(key_fields: Sequence[pa.Field], *, typicality: bool = False) -> pa.Schema:
    """Return the schema of the output: the keys (``row`` int64 where none is given), then the columns of the score."""
    extra = (TYPICALITY,) if typicality else ()
    return pa.schema([*(key_fields or [pa.field("row", pa.int64())]), *RESULT_FIELDS[:AFTER], *extra, *RESULT_FIELDS[AFTER:]])


def score_batches(
    detector: Detector,
    batches: Iterable[pa.RecordBatch],
    options: ScoreOptions = ScoreOptions(),
    *,
    threshold: Threshold | None = None,
    on_batch: Callable[[Tally], None] = lambda _: None,
) -> Iterator[pa.RecordBatch]:
    """Score batches as they come; memory does not grow with their number.

    ``threshold``: another than the detector's, at the alpha it has. One with groups reads their column.

    ``anomaly_score`` is in weighted nats, higher = more anomalous, null where no cell of the row is observed. Raises SchemaMismatch when
    a batch does not fit the schema and NotCalibrated when ``options.alpha`` is finer than the calibration allows.
    """
    if threshold is None:
        threshold = detector.threshold if options.alpha is None else detector.threshold.at(options.alpha)
    row = options.first_row
    for batch in _gathered(batches):
        yield _score_one(detector, threshold, batch, options, row, on_batch)
        row += batch.num_rows


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Put small batches together, as long as their columns have the same order and types."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if rows and batch.schema != held[0].schema:
            yield pa.concat_batches(held)
            held, rows = [], 0
        held.append(batch)
        rows += batch.num_rows
        if rows >= GATHER_ROWS:
            yield pa.concat_batches(held) if len(held) > 1 else held[0]
            held, rows = [], 0
    if rows:
        yield pa.concat_batches(held)


def _score_one(
    detector: Detector, threshold: Threshold, raw: pa.RecordBatch, options: ScoreOptions, row: int, on_batch: Callable[[Tally], None]
) -> pa.RecordBatch:
    absent = [name for name in options.id_columns if name not in raw.schema.names]
    if absent:
        raise SchemaMismatch(f"{options.where} lacks the id columns {absent_text(absent, raw.schema.names)}")
    batch = encode(detector.schema, conform(detector.schema, raw, where=options.where, first_row=row))
    scores = detector.scores(batch, threads=options.threads)
    total = scores.total.numpy()
    codes, pooled, unseen_groups = _groups_of(threshold, raw, options.where)
    flags, p_values = threshold.flags(total, codes), threshold.p_values(total, codes)
    typicality = [two_sided(p_values, threshold.low_p_values(total, codes))] if options.typicality else []
    explained = {"flagged": np.flatnonzero(flags), "all": np.flatnonzero(~np.isnan(total)), "none": np.empty(0, np.int64)}[options.explain]
    numbers = raw.column(options.row_numbers).to_numpy() if options.row_numbers else np.arange(row, row + raw.num_rows)
    keys = [raw.column(name) for name in options.id_columns] or [pa.array(numbers)]
    names = options.id_columns or ("row",)
    columns = [
        *keys,
        *(pa.array(x, from_pandas=True) for x in (total, scores.reconstruction.numpy(), scores.kl.numpy(), p_values, *typicality)),
        pa.array(flags),
        top_features(detector.ensemble, detector.schema, batch, explained, options.top, threads=options.threads),
        pa.repeat(options.model, raw.num_rows),
        pa.repeat(options.model_version, raw.num_rows),
    ]
    tally = replace(_tally(detector, batch, total, flags), pooled=pooled, unseen_groups=unseen_groups, numbers=numbers)
    if typicality:
        untypical, low = _untypical(typicality[0], p_values, threshold.alpha)
        tally = replace(tally, untypical=untypical, low=low)
    on_batch(tally)
    fields = [pa.field(n, k.type) for n, k in zip(names, keys, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=result_schema(fields, typicality=options.typicality))


def two_sided(upper: NDArray[np.float64], lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return min(1, 2·min(upper, lower)), valid because each p-value is and a half goes to each side; NaN where the score is NaN."""
    return np.minimum(1.0, 2.0 * np.minimum(upper, lower))


def _untypical(typicality: NDArray[np.float64], upper: NDArray[np.float64], alpha: float) -> tuple[int, int]:
    untypical = typicality <= alpha * (1.0 + 1e-12)
    return int(untypical.sum()), int((untypical & (typicality < np.minimum(1.0, 2.0 * upper))).sum())


def _groups_of(threshold: Threshold, raw: pa.RecordBatch, where: str) -> tuple[NDArray[np.int64] | None, int, dict[str, int]]:
    """Return the code of each row's group, how many rows have the pooled threshold, and those of unseen groups by name."""
    groups = threshold.groups
    if groups is None:
        return None, 0, {}
    if groups.column not in raw.schema.names:
        raise SchemaMismatch(f"{where} lacks the group column of the threshold: {absent_text([groups.column], raw.schema.names)}")
    column = raw.column(groups.column)
    codes = groups.codes(column)
    names, place = group_names(column, groups.column)
    counts = np.bincount(place[codes < 0], minlength=len(names)).tolist()
    return codes, int((codes < 0).sum()), {name: count for name, count in zip(names, counts, strict=True) if count and name is not None}


def _tally(detector: Detector, batch: Batch, total: NDArray[np.float64], flags: NDArray[np.bool_]) -> Tally:
    columns = model_order(detector.schema)
    missing = (~batch.observed).any(1).sum(0).tolist()
    sizes = torch.tensor([len(c.levels) for c in columns if c.kind != "numeric"], dtype=torch.int64)
    unseen = (batch.codes >= sizes).any(1).sum(0).tolist()
    rest = [c.name for c in columns if c.kind != "numeric"]
    return Tally(
        rows=len(total),
        alarms=int(flags.sum()),
        unscored=int(np.isnan(total).sum()),
        unseen={name: count for name, count in zip(rest, unseen, strict=True) if count},
        missing={c.name: count for c, count in zip(columns, missing, strict=True) if count},
    )
