"""Columns at a standstill: the fold is that of a whole file, however it is cut into batches, and chance does not fire."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.detector.stream import STILL_NAMED, STILL_ROWS, STILL_RUNS, Standstill, StillColumn


def quality(name: str, *, run: int | None = 1, gap: int | None = 0, missing: float = 0.0) -> ColumnQuality:
    return ColumnQuality(name=name, kind="numeric", r2=0.5, missing=missing, longest_run=run, longest_gap=gap)


def batch(**columns: Sequence[float | None]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({name: pa.array(values, pa.float64()) for name, values in columns.items()})


def found(files: dict[str, list[pa.RecordBatch]], usual: list[ColumnQuality]) -> tuple[StillColumn, ...]:
    state = Standstill()
    for file, batches in files.items():
        for rows in batches:
            state = state.after(file, rows, usual)
    return state.end(usual).found


def test_a_number_is_stuck_and_a_column_silent_only_over_a_whole_file() -> None:
    usual = [quality("a"), quality("b"), quality("c")]
    moving = list(map(float, range(30)))
    files = {
        "1": [batch(a=[5.0] * 30, b=moving, c=[None] * 30)],
        "2": [batch(a=[5.0] * 29 + [6.0], b=[None] * 29 + [1.0], c=moving)],
        "3": [batch(a=[5.0] * 30, b=moving, c=moving), batch(a=[5.5] * 30, b=moving, c=moving)],
    }
    assert [(s.file, s.column, s.rows, s.value) for s in found(files, usual)] == [("1", "a", 30, 5.0), ("1", "c", 30, None)]


def test_a_stuck_number_may_have_missing_cells() -> None:
    files = {"1": [batch(a=[None, 5.0] * 30), batch(a=[None] * 9), batch(a=[5.0])]}
    assert [(s.rows, s.value) for s in found(files, [quality("a")])] == [(31, 5.0)]


@pytest.mark.parametrize(
    ("run", "rows", "stuck"),
    [(1, STILL_ROWS, True), (1, STILL_ROWS - 1, False), (50, STILL_RUNS * 50, True), (50, STILL_RUNS * 50 - 1, False), (None, 1000, False)],
)
def test_a_number_is_stuck_after_three_times_its_longest_run(run: int | None, rows: int, *, stuck: bool) -> None:
    assert bool(found({"1": [batch(a=[5.0] * rows)]}, [quality("a", run=run)])) == stuck


@pytest.mark.parametrize(
    ("missing", "gap", "rows", "silent"),
    [(0.0, 0, 1, True), (0.0, None, 1, True), (0.2, 2, 19, False), (0.2, 2, 20, True), (0.2, 40, 119, False), (0.2, None, 10**5, False)],
)
def test_a_column_is_silent_where_the_fit_makes_that_unlikely(missing: float, gap: int | None, rows: int, *, silent: bool) -> None:
    assert bool(found({"1": [batch(a=[None] * rows)]}, [quality("a", gap=gap, missing=missing)])) == silent


def test_a_category_is_never_stuck_but_may_be_silent() -> None:
    usual = [quality("mode", run=None)]
    texts = pa.RecordBatch.from_pydict({"mode": ["on"] * 500}), pa.RecordBatch.from_pydict({"mode": pa.nulls(500, pa.string())})
    assert [s.file for s in found({"1": [texts[0]], "2": [texts[1]]}, usual)] == ["2"]


def test_independent_rows_seldom_stand_still_by_chance() -> None:
    random = np.random.default_rng(0)
    for p in (0.3, 0.9, 0.99):
        draws = (random.random((400, 2000)) < p).astype(int)
        ends = [np.flatnonzero(np.diff(row, append=-1)) for row in draws]
        longest = np.array([np.diff(e, prepend=-1).max() for e in ends])
        assert (p ** (STILL_RUNS * longest.astype(float))).mean() < 2e-3  # that the next file has one value only


@settings(max_examples=40, deadline=None)
@given(
    files=st.lists(st.lists(st.sampled_from([None, 1.0, 2.0]), min_size=1, max_size=60), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=8),
)
def test_the_cut_into_batches_changes_nothing(files: list[list[float | None]], cuts: list[int]) -> None:
    usual, state = [quality("a")], Standstill()
    expected: list[tuple[str, int, float | None]] = []
    for number, cells in enumerate(files):
        first = 0
        while first < len(cells):
            step = cuts[(first + number) % len(cuts)]
            state, first = state.after(str(number), batch(a=cells[first : first + step]), usual), first + step
        seen = [cell for cell in cells if cell is not None]
        if not seen:
            expected.append((str(number), len(cells), None))
        elif len(set(seen)) == 1 and len(seen) >= STILL_ROWS:
            expected.append((str(number), len(seen), seen[0]))
    assert [(s.file, s.rows, s.value) for s in state.end(usual).found] == expected


def test_of_many_files_the_first_are_named_and_all_are_counted() -> None:
    usual, state = [quality("a")], Standstill()
    for number in range(STILL_NAMED + 5):
        state = state.after(str(number), batch(a=[None]), usual)
    whole = state.end(usual)
    assert (len(whole.found), whole.count) == (STILL_NAMED, STILL_NAMED + 5)
    both = whole.plus(whole)
    assert (len(both.found), both.count) == (STILL_NAMED, 2 * STILL_NAMED + 10)


def test_the_sentences() -> None:
    still = (StillColumn(column="flow", file="b.csv", rows=1200, value=None), StillColumn(column="x" * 200, file="c", rows=30, value=0.5))
    first, second, more = Standstill(found=still, count=9).cautions()
    assert first == "flow has no value in the 1,200 rows of b.csv"
    assert second.endswith("… is 0.5 in all 30 rows of c")
    assert more == "7 more columns have no value, or one number, in a whole file"
    assert len(Standstill(found=still, count=2).cautions()) == 2
    assert Standstill().cautions() == ()
