"""Scoring as a stream: record batches in, one output row per input row out, in order, whatever the sizes of the batches.

``scored_batches`` is the one scoring engine: files, the MLflow pyfunc and Spark's ``mapInArrow`` use it. Knows nothing of where batches
come from or go to.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import two_sided, untypical_rows
from vae_anomaly.calibration.groups import group_names
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.choices import PREFETCH_THREADS, ExplainedRows
from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.in_time import PeakReasons, score_in_time, series_features
from vae_anomaly.detector.series import RowTimes, SeriesScores, SeriesState
from vae_anomaly.errors import ConfigError, SchemaMismatch
from vae_anomaly.explain.contributions import FEATURE, top_features
from vae_anomaly.messages import absent_text, shorten
from vae_anomaly.model.ensemble import Scores
from vae_anomaly.schema.encoding import Batch, encode, model_order
from vae_anomaly.schema.parsing import mask_tokens
from vae_anomaly.schema.schema import conform

_T = TypeVar("_T")
_END = object()
# Small batches are concatenated up to this many rows: with --chunk-rows 1 every row would cost a padded block.
GATHER_ROWS = 1024
# A number is stuck after three times the longest run of one value in the fit. If rows are independent, the longest run of n rows is about
# log n / log(1/p) for a value of probability p, and three times as many rows in a row have a probability of about n⁻³. If they are not, the
# run says how long the column stands still of itself.
STILL_RUNS = 3
STILL_ROWS = 20  # of a file whose numbers may be called stuck, or that lacks the values of a column that lacked some in the fit
STILL_NAMED = 100  # columns that are named; thousands of files may have lost the same sensor
STILL_CAUTIONS = 10  # sentences of a summary
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
TYPICALITY = pa.field("typicality", pa.float64())
AFTER = 4  # the optional column typicality follows p_value


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """How to score: another ``alpha``, which rows to explain with how many columns (``top`` None = all), what to copy through.

    ``typicality`` adds the two-sided p-value 2·min(upper, lower), at most 1: it is also small where a row scores lower than normal rows.
    ``row_numbers``: the column with the row numbers where malformed rows were skipped; without it they count from ``first_row``.
    Raises ConfigError for id columns whose names the output already has.
    """

    alpha: float | None = None
    typicality: bool = False
    explain: ExplainedRows = "flagged"
    top: int | None = 5
    id_columns: tuple[str, ...] = ()
    model: str = ""
    model_version: str = ""
    threads: int = 1
    first_row: int = 0
    row_numbers: str = ""
    where: str = "the batch"

    def __post_init__(self) -> None:
        """Refuse names that would appear twice in the output."""
        own = [field.name for field in RESULT_FIELDS]
        twice = [name for i, name in enumerate(self.id_columns) if name in own or name in self.id_columns[:i]]
        if twice:
            raise ConfigError(f"{twice[0]!r} cannot be an id column: the output has a column of that name already. Rename it in the input.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts over one batch: rows, alarms, rows without a score; ``unseen`` and ``missing`` cells by column name.

    ``untypical`` rows have a typicality of at most alpha, ``low`` of them because they score too low. ``pooled`` rows are flagged with the
    pooled threshold, those of ``unseen_groups`` by name among them. ``numbers`` int64 [rows]: row numbers in the input, ascending.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejections:
    """Malformed input rows skipped so far: how many, where the ``first`` one was, and the ``bytes`` of the quarantine file up to here."""

    rows: int = 0
    first: str = ""
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StillColumn:
    """A column at a standstill in all ``rows`` of a ``file`` that have a value there; ``value`` None: no row has one."""

    column: str
    file: str
    rows: int
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """Columns without a value, or with one number, in a whole file where the fit makes neither likely, up to a row of the input.

    ``found`` in the files before, the first 100 of ``count``, and the state of this ``file``: ``value`` holds the columns of the model that
    have not moved in its ``rows`` so far, their only number, None where no cell has a value; ``cells``: how many have one.
    """

    found: tuple[StillColumn, ...] = ()
    count: int = 0
    file: str = ""
    rows: int = 0
    value: Mapping[str, float | None] = field(default_factory=dict)
    cells: Mapping[str, int] = field(default_factory=dict)

    def after(self, file: str, batch: pa.RecordBatch, quality: Sequence[ColumnQuality]) -> "Standstill":
        """Return the state after a batch of ``file`` with the columns of the model; another file than before starts anew."""
        before = self if file == self.file else self._next(file, quality)
        numbers = {q.name for q in quality if q.longest_run is not None}
        value, cells = dict[str, float | None](), dict[str, int]()
        for name, so_far in before.value.items():
            column = batch.column(name)
            seen = len(column) - column.null_count
            if seen and name not in numbers:
                continue
            low, high = pc.min_max(column).as_py().values() if seen else (so_far, so_far)
            if low == high and so_far in {None, low}:
                value[name], cells[name] = low, before.cells.get(name, 0) + seen
        return replace(before, rows=before.rows + batch.num_rows, value=value, cells=cells)

    def end(self, quality: Sequence[ColumnQuality]) -> "Standstill":
        """Return the state after the last row of a file: its columns at a standstill are found."""
        usual = {q.name: q for q in quality}
        here = [
            StillColumn(column=name, file=self.file, rows=self.rows if value is None else self.cells[name], value=value)
            for name, value in self.value.items()
            if _unlikely(usual[name], value, self.rows, self.cells.get(name, 0))
        ]
        return Standstill(found=(*self.found, *here)[:STILL_NAMED], count=self.count + len(here))

    def cautions(self, most: int = STILL_CAUTIONS) -> tuple[str, ...]:
        """Return one sentence about each column that was found, ``most`` at most, and the number of the others."""
        texts = [
            f"{shorten(one.column)} has no value in the {one.rows:,} rows of {one.file}"
            if one.value is None
            else f"{shorten(one.column)} is {one.value:.6g} in all {one.rows:,} rows of {one.file}"
            for one in self.found[:most]
        ]
        more = self.count - len(texts)
        return (*texts, f"{more:,} more columns have no value, or one number, in a whole file") if more else tuple(texts)

    def plus(self, other: "Standstill") -> "Standstill":
        """Return what was found in either."""
        return Standstill(found=(*self.found, *other.found)[:STILL_NAMED], count=self.count + other.count)

    def _next(self, file: str, quality: Sequence[ColumnQuality]) -> "Standstill":
        return replace(self.end(quality), file=file, value={q.name: None for q in quality})


def _unlikely(usual: ColumnQuality, value: float | None, rows: int, cells: int) -> bool:
    """Return whether the rows of a file without a value, or the ``cells`` with one ``value``, are more than the fit lets expect."""
    if value is not None:
        return usual.longest_run is not None and cells >= max(STILL_ROWS, STILL_RUNS * usual.longest_run)
    if usual.missing == 0.0:
        return rows > 0
    return usual.longest_gap is not None and rows >= max(STILL_ROWS, STILL_RUNS * usual.longest_gap)


NO_STANDSTILL = Standstill()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputBatch:
    """Rows to score, and the rejections and the standstill up to their end."""

    rows: pa.RecordBatch
    rejections: Rejections = Rejections()
    standstill: Standstill = NO_STANDSTILL


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredBatch:
    """Output rows with their counts, and the rejections, the standstill and the state of the series up to their end.

    Of rows in time: ``times``, and what finds the ``reasons`` of any row.
    """

    rows: pa.RecordBatch
    tally: Tally
    rejections: Rejections
    standstill: Standstill = NO_STANDSTILL
    series: SeriesState | None = None
    times: RowTimes | None = None
    reasons: PeakReasons | None = None


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
    """Yield the output rows of ``scored_batches``; ``on_batch`` is called with the counts of each batch before it is yielded."""
    for scored in scored_batches(detector, (InputBatch(rows=rows) for rows in batches), options, threshold=threshold):
        on_batch(scored.tally)
        yield scored.rows


def scored_batches(
    detector: Detector,
    batches: Iterable[InputBatch],
    options: ScoreOptions,
    *,
    threshold: Threshold | None = None,
    state: SeriesState | None = None,
) -> Iterator[ScoredBatch]:
    """Score batches as they come; memory does not grow with their number.

    ``threshold``: another than the detector's, at its own alpha; one with groups reads the group column. ``state``: where the series of
    rows in time stand, None: at their start; their time and group columns are read.

    ``anomaly_score`` is in weighted nats, higher = more anomalous, null where no cell of the row is observed. Raises SchemaMismatch when
    a batch does not fit the schema and NotCalibrated when ``options.alpha`` is finer than the calibration allows.
    """
    if threshold is None:
        threshold = detector.threshold if options.alpha is None else detector.threshold.at(options.alpha)
    row = options.first_row
    for batch in _gathered(batches):
        _refuse_without_ids(batch.rows, options)
        cells = conform(detector.schema, batch.rows, where=options.where, first_row=row)
        scored = _score(detector, threshold, batch, cells, options, row, state)
        state = scored.series
        yield scored
        row += batch.rows.num_rows


def _gathered(batches: Iterable[InputBatch]) -> Iterator[InputBatch]:
    """Concatenate small batches as long as their columns have the same order and types."""
    held: list[InputBatch] = []
    rows = 0
    for batch in batches:
        if rows and batch.rows.schema != held[0].rows.schema:
            yield _joined(held)
            held, rows = [], 0
        held.append(batch)
        rows += batch.rows.num_rows
        if rows >= GATHER_ROWS:
            yield _joined(held)
            held, rows = [], 0
    if rows:
        yield _joined(held)


def _joined(held: Sequence[InputBatch]) -> InputBatch:
    """Return batches of one schema as one; rejections and standstill are cumulative, so the last ones count."""
    return held[0] if len(held) == 1 else replace(held[-1], rows=pa.concat_batches([batch.rows for batch in held]))


def _refuse_without_ids(rows: pa.RecordBatch, options: ScoreOptions) -> None:
    absent = [name for name in options.id_columns if name not in rows.schema.names]
    if absent:
        raise SchemaMismatch(f"{options.where} lacks the id columns {absent_text(absent, rows.schema.names)}")


def _score(
    detector: Detector,
    threshold: Threshold,
    batch: InputBatch,
    cells: pa.RecordBatch,
    options: ScoreOptions,
    row: int,
    state: SeriesState | None,
) -> ScoredBatch:
    raw, encoded = batch.rows, encode(detector.schema, cells)
    in_time: SeriesScores | None = None
    if detector.series is not None:
        numbers = raw.column(options.row_numbers).to_numpy() if options.row_numbers else None
        in_time, state = score_in_time(detector, raw, encoded, state, threads=options.threads, first_row=row, numbers=numbers)
    scores: Scores | SeriesScores = in_time or detector.scores(encoded, threads=options.threads)
    total, *parts = (np.asarray(values) for values in (scores.total, scores.reconstruction, scores.kl))
    codes, pooled, unseen_groups = _groups_of(threshold, raw, detector.config.data.missing_values, options.where)
    flags, p_values = threshold.flags(total, codes), threshold.p_values(total, codes)
    typicality = [two_sided(p_values, threshold.low_p_values(total, codes))] if options.typicality else []
    explained = {"flagged": np.flatnonzero(flags), "all": np.flatnonzero(~np.isnan(total)), "none": np.empty(0, np.int64)}[options.explain]
    if in_time is None:
        features = top_features(detector.ensemble, detector.schema, encoded, explained, options.top, threads=options.threads, cells=cells)
    else:
        features = series_features(detector, in_time, explained, options.top, threads=options.threads)
    numbers = raw.column(options.row_numbers).to_numpy() if options.row_numbers else np.arange(row, row + raw.num_rows)
    keys = [raw.column(name) for name in options.id_columns] or [pa.array(numbers)]
    names = options.id_columns or ("row",)
    columns = [
        *keys,
        *(pa.array(x, from_pandas=True) for x in (total, *parts, p_values, *typicality)),
        pa.array(flags),
        features,
        pa.repeat(options.model, raw.num_rows),
        pa.repeat(options.model_version, raw.num_rows),
    ]
    tally = replace(_tally(detector, encoded, total, flags), pooled=pooled, unseen_groups=unseen_groups, numbers=numbers)
    if typicality:
        untypical, low = untypical_rows(typicality[0], p_values, threshold.alpha)
        tally = replace(tally, untypical=untypical, low=low)
    fields = [pa.field(n, k.type) for n, k in zip(names, keys, strict=True)]
    rows = pa.RecordBatch.from_arrays(columns, schema=result_schema(fields, typicality=options.typicality))
    return ScoredBatch(
        rows=rows,
        tally=tally,
        rejections=batch.rejections,
        standstill=batch.standstill,
        series=state,
        times=None if in_time is None else in_time.times,
        reasons=None if in_time is None else PeakReasons(detector=detector, scores=in_time, features=features, top=options.top),
    )


def _groups_of(
    threshold: Threshold, raw: pa.RecordBatch, missing: Sequence[str], where: str
) -> tuple[NDArray[np.int64] | None, int, dict[str, int]]:
    """Return each row's group code (−1: unseen), how many rows use the pooled threshold, and those of unseen groups by name."""
    groups = threshold.groups
    if groups is None:
        return None, 0, {}
    if groups.column not in raw.schema.names:
        raise SchemaMismatch(f"{where} lacks the group column of the threshold: {absent_text([groups.column], raw.schema.names)}")
    column = mask_tokens(raw.column(groups.column), missing)
    codes = groups.codes(column)
    names, index = group_names(column, groups.column)
    counts = np.bincount(index[codes < 0], minlength=len(names)).tolist()
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


def prefetch(items: Iterator[_T], *, depth: int = 1) -> Generator[_T, None, None]:
    """Yield the items of a generator that is at most ``depth`` finished items ahead; an exception of it is raised in the place of its item.

    Exhaust or close the result: its thread has then ended, and the generator is not advanced any more.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=PREFETCH_THREADS) as worker:
        # One future more than ``depth``: the item that is being computed while the finished ones wait.
        pending: deque[Future[_T | object]] = deque()
        try:
            for _ in range(depth + 1):
                pending.append(worker.submit(next, items, _END))
            while (item := pending.popleft().result()) is not _END:
                pending.append(worker.submit(next, items, _END))
                yield cast("_T", item)
        finally:
            worker.shutdown(cancel_futures=True)
