"""Columns at a standstill: no value in a whole file, or one number in a whole file, where the fit makes neither likely.

A fold over the batches of each file. A number is stuck after three times the longest run of one value in the fit: if rows are independent,
the longest run of n rows is about log n / log 1/p for a value of probability p, and three times as many in a row have the probability n⁻³.
If they are not, the run says how long the column stands still of itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.messages import shorten

RUNS = 3  # times the longest run of the fit
LEAST_ROWS = 20  # of a file whose numbers may be called stuck, or that lacks the values of a column that lacked some in the fit
MOST_FOUND = 100  # columns that are named; thousands of files may have lost the same sensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StillColumn:
    """A column at a standstill in all ``rows`` of a ``file`` that have a value there; ``value`` None: no row has one."""

    column: str
    file: str
    rows: int
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """Standstill up to a row of the input: ``found`` in the files before, the first 100 of ``count``, and the state of this ``file``.

    ``value`` holds the columns of the model that have not moved in its ``rows`` so far: their only number, None where no cell has a value;
    ``cells``: how many have one.
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
        return Standstill(found=(*self.found, *here)[:MOST_FOUND], count=self.count + len(here))

    def plus(self, other: "Standstill") -> "Standstill":
        """Return what was found in either."""
        return Standstill(found=(*self.found, *other.found)[:MOST_FOUND], count=self.count + other.count)

    def _next(self, file: str, quality: Sequence[ColumnQuality]) -> "Standstill":
        return replace(self.end(quality), file=file, value={q.name: None for q in quality})


def _unlikely(usual: ColumnQuality, value: float | None, rows: int, cells: int) -> bool:
    """Return whether the rows of a file without a value, or the ``cells`` with one ``value``, are more than the fit lets expect."""
    if value is not None:
        return usual.longest_run is not None and cells >= max(LEAST_ROWS, RUNS * usual.longest_run)
    if usual.missing == 0.0:
        return rows > 0
    return usual.longest_gap is not None and rows >= max(LEAST_ROWS, RUNS * usual.longest_gap)


def standstill_texts(found: Sequence[StillColumn]) -> list[str]:
    """Return one sentence about each column at a standstill.

    >>> standstill_texts([StillColumn(column="flow", file="b.csv", rows=90, value=12.5)])
    ['flow is 12.5 in all 90 rows of b.csv']
    """
    return [
        f"{shorten(one.column)} has no value in the {one.rows:,} rows of {one.file}"
        if one.value is None
        else f"{shorten(one.column)} is {one.value:.6g} in all {one.rows:,} rows of {one.file}"
        for one in found
    ]
