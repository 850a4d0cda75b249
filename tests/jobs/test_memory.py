"""``--memory-limit``: what it allows a scoring and a fit, and what is refused."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from vae_anomaly.errors import ConfigError
from vae_anomaly.jobs import memory
from vae_anomaly.jobs.memory import (
    FIT_MIN_ROWS,
    Bound,
    FitStart,
    MemoryPlan,
    excess_cautions,
    max_fit_rows,
    plan_memory,
    sampling_notes,
    watched,
)
from vae_anomaly.tables.reader import SizeEstimate

MB = 10**6
MiB = 2**20
# Of 20 columns, as README and benchmarks state them: what the first batch takes, and a row of numbers in all its copies.
START_OF_20 = (136 + 20 * 5) * MiB
ROW_OF_20 = 16 * (20 * 8 + 64)
TWENTY = SizeEstimate(rows=1e9, row_bytes=160.0)
# What a fit takes besides its rows, with the libraries that were measured.
MEASURED = FitStart(held=300 * MB)


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> int:
    """A process of 400 MB without a limit of its address space."""
    monkeypatch.setattr(memory, "resident", lambda: 400 * MB)
    monkeypatch.setattr(memory, "space_left", lambda: math.inf)
    return 400 * MB


def test_chunk_rows_follow_from_free_memory(resident: int) -> None:
    free = 5000 * ROW_OF_20
    limit = resident + START_OF_20 + free
    plan = plan_memory(limit, chunk_rows=65_536, columns=20, all_explained=False)
    assert plan == MemoryPlan(chunk_rows=5000, chunk_bytes=free // 12, part_bytes=free // 12)
    assert plan_memory(limit, chunk_rows=100, columns=20, all_explained=False).chunk_rows == 100
    assert plan_memory(limit, chunk_rows=65_536, columns=20, all_explained=True).chunk_rows == free // (ROW_OF_20 + 6144)
    assert plan_memory(100 * 10**9, chunk_rows=65_536, columns=20, all_explained=True) == MemoryPlan(chunk_rows=65_536)


def test_hundreds_of_columns_do_not_take_more_than_400_mib_at_the_start(resident: int) -> None:
    row = 16 * (500 * 8 + 64)
    limit = resident + (136 + 400) * MiB + 2000 * row
    assert plan_memory(limit, chunk_rows=65_536, columns=500, all_explained=False).chunk_rows == 2000


def test_a_limit_below_the_least_names_the_least(resident: int) -> None:
    least = math.ceil((resident + START_OF_20 + 1024 * ROW_OF_20) / MB)
    with pytest.raises(ConfigError) as error:
        plan_memory(450 * MB, chunk_rows=65_536, columns=20, all_explained=False)
    assert str(error.value) == f"--memory-limit 450 MB is less than this model and its libraries need; give at least {least} MB."
    assert plan_memory(least * MB, chunk_rows=65_536, columns=20, all_explained=False).chunk_rows >= 1024


@pytest.mark.usefixtures("resident")
def test_a_limit_of_the_address_space_bounds_a_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "space_left", lambda: START_OF_20 + 5000 * ROW_OF_20)
    assert plan_memory(9000 * MB, chunk_rows=65_536, columns=20, all_explained=False).chunk_rows == 5000
    monkeypatch.setattr(memory, "space_left", lambda: 100 * MB)
    with pytest.raises(ConfigError) as error:
        plan_memory(9000 * MB, chunk_rows=65_536, columns=20, all_explained=False)
    assert str(error.value) == "the address space has a limit (ulimit -v) that leaves 100 MB; 251 MB are needed. Raise it."


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 GB."""
    monkeypatch.setattr(memory, "available", lambda: 8e9)
    monkeypatch.setattr(memory, "space_left", lambda: math.inf)


@pytest.mark.usefixtures("machine")
def test_rows_of_a_fit() -> None:
    # Half of 8 GB without 500 MB for libraries and 350 MB for scaled cells: 3.15 GB, at 4 × 160 + 48 × 20 + 200 bytes a row.
    assert max_fit_rows(TWENTY, 20, None, MEASURED) == 1_700_000
    assert max_fit_rows(TWENTY, 20, 1_500 * MB, MEASURED) == 360_000
    # A small table is scaled once: 120 bytes a cell more.
    assert max_fit_rows(TWENTY, 20, 600 * MB, MEASURED) == 23_000
    assert max_fit_rows(SizeEstimate(rows=1_700_000, row_bytes=160.0), 20, None, MEASURED) is None
    assert max_fit_rows(SizeEstimate(rows=math.inf, row_bytes=160.0), 20, None, MEASURED) == 1_700_000
    assert max_fit_rows(SizeEstimate(rows=0.0, row_bytes=0.0), 20, 501 * MB, MEASURED) is None


@pytest.mark.usefixtures("machine")
def test_too_little_memory_for_a_fit_names_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as error:
        max_fit_rows(TWENTY, 20, 300 * MB, MEASURED)
    assert str(error.value) == "--memory-limit 300 MB is less than a fit of 20 columns needs; give at least 521 MB."
    assert max_fit_rows(TWENTY, 20, 521 * MB, MEASURED) == 5000
    # Without a limit the fewest rows are tried.
    monkeypatch.setattr(memory, "available", lambda: 4e8)
    assert max_fit_rows(TWENTY, 20, None, MEASURED) == 5000


@pytest.mark.usefixtures("machine")
def test_a_limit_of_the_address_space_bounds_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "space_left", lambda: 1_500 * MB)
    assert max_fit_rows(TWENTY, 20, None, MEASURED) == max_fit_rows(TWENTY, 20, 2_000 * MB, MEASURED) == 500_000
    monkeypatch.setattr(memory, "space_left", lambda: 200 * MB)
    with pytest.raises(ConfigError) as error:
        max_fit_rows(TWENTY, 20, None, MEASURED)
    assert str(error.value) == "the address space has a limit (ulimit -v) that leaves 200 MB; 271 MB are needed. Raise it."
    assert max_fit_rows(SizeEstimate(rows=5000, row_bytes=160.0), 20, None, MEASURED) is None


@pytest.mark.usefixtures("machine")
def test_what_the_process_holds_before_a_fit_counts() -> None:
    """A CUDA build of torch takes 300 MB more than the measured libraries, so that 521 MB are no longer enough."""
    heavy = FitStart(held=620 * MB)
    with pytest.raises(ConfigError) as error:
        max_fit_rows(TWENTY, 20, 560 * MB, heavy)
    assert str(error.value) == "--memory-limit 560 MB is less than a fit of 20 columns needs; give at least 801 MB."
    assert max_fit_rows(TWENTY, 20, 801 * MB, heavy) == 5000
    assert max_fit_rows(TWENTY, 20, 801 * MB, replace(heavy, held=625 * MB)) == 5000, "what is told is enough if a little more is held"
    libraries = replace(heavy, libraries=100 * MB)
    with pytest.raises(ConfigError, match="give at least 901 MB"):
        max_fit_rows(TWENTY, 20, 801 * MB, libraries)
    # Half of the machine is no limit that was asked for.
    assert max_fit_rows(TWENTY, 20, None, heavy) == max_fit_rows(TWENTY, 20, None, MEASURED)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("columns", [20, 300])
def test_the_rows_of_a_sample_do_not_follow_small_changes_of_what_is_held(columns: int) -> None:
    """But at edges 500 MB apart; and beyond the fewest rows no more are taken than fit beside what is held."""
    row, most = 4 * 160 + 48 * columns + 200, FIT_MIN_ROWS
    for limit in range(600, 5000, 17):
        planned = {held: _planned(FitStart(held=held * MB), limit * MB, columns) for held in range(0, 4000, 10)}
        assert len({rows for held, rows in planned.items() if held <= 400} - {None}) <= 1
        assert len({rows for held, rows in planned.items() if 900 < held <= 1400} - {None}) <= 1
        for held, rows in planned.items():
            if held > 400 and rows is not None and rows > FIT_MIN_ROWS:
                assert (500 + held - 350) * MB + rows * row + min(350 * MB, rows * 120 * columns) <= limit * MB
                most = max(most, rows)
    assert most > 10 * FIT_MIN_ROWS


def _planned(start: FitStart, limit: int, columns: int) -> int | None:
    """Return the rows of a sample; None: refused."""
    try:
        return max_fit_rows(TWENTY, columns, limit, start)
    except ConfigError:
        return None


@pytest.mark.usefixtures("machine")
def test_the_networks_of_a_small_wide_table_count() -> None:
    wide = SizeEstimate(rows=1500, row_bytes=8.0 * 3000)
    with pytest.raises(ConfigError, match="a fit of 3,000 columns needs; give at least 3576 MB"):
        max_fit_rows(wide, 3000, 1_500 * MB, MEASURED)
    assert max_fit_rows(wide, 3000, 3_576 * MB, MEASURED) is None


def test_the_peak_of_a_process() -> None:
    before = memory.peak()
    block = np.ones((memory.peak() - memory.resident() + 50 * MB) // 8)
    assert 20 * MB < memory.peak() - before < 120 * MB
    del block
    memory.give_back()
    assert memory.peak() - before > 20 * MB


def test_an_excess_is_what_the_job_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak", lambda: 900 * MB)
    assert Bound(limit=math.inf, before=0).excess() == 0
    assert Bound(limit=900 * MB, before=0).excess() == 0
    assert Bound(limit=560 * MB, before=500 * MB).excess() == 900 * MB
    assert Bound(limit=560 * MB).excess() == 0, "the process had held it before"
    assert excess_cautions(0) == ()
    assert excess_cautions(900 * MB) == ("the process held 900 MB at its peak, more than --memory-limit allows",)


def test_a_sample_is_noted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert sampling_notes(5, 5, seed=1) == ()
    assert caplog.messages == []
    note = "learned from 700 of 3,000 rows, drawn at random (seed 1): all of them would be too much for the memory"
    assert sampling_notes(700, 3000, seed=1) == (note,)
    assert caplog.messages == [note]


def test_near_the_limit_memory_is_returned_and_an_excess_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, sizes = [], iter([50, 95, 60, 120, 110, 130, 120])
    monkeypatch.setattr(memory, "resident", lambda: next(sizes) * MB)
    monkeypatch.setattr(memory, "give_back", lambda: calls.append(1))
    with caplog.at_level(logging.WARNING, logger="vae_anomaly"):
        assert list(watched(iter("abcd"), 100 * MB)) == list("abcd")
    assert len(calls) == 3
    assert caplog.messages == ["the process holds 110 MB, more than --memory-limit allows"]
