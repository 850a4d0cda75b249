"""Cautions about inputs that may be no measurements: they rise with the row number, look like a clock, or hold parts of the calendar.

Such a column makes an alarm of every later row, whatever the machine does. It stays an input, because a value alone does not tell a
counter from a measurement; a sentence of the fit says what it is, why, and how to leave it out or to keep it.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.messages import quote
from vae_anomaly.schema import clocks, parsing
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.roles import calendar_part, in_range

_Floats = NDArray[np.float64]

FEWEST_ROWS = 50  # rows below which an order may be chance
ROWS_RANKED = 5_000  # rows of a large table whose ranks are compared
RISING = 0.95  # rank correlation with the row number
LEAVING = 0.5  # share of the last fifth of the rows beyond all rows before
LAST_SHARE = 0.2
RECENT_YEARS_US = 10 * 365.25 * 86_400e6
FEW_LEVELS = 5  # levels that follow one another, below which they may be chance
# Parts of the calendar, and the numbers that a table of a whole cycle holds; hours and minutes have a cycle within a day.
_WHOLE_CYCLE = {"month": (1, 12), "quarter": (1, 4), "week": (2, 52), "day": (1, 28)}


def doubt_of(column: Column, values: pa.ChunkedArray) -> str:
    """Return a sentence on why an input may be no measurement, empty if nothing says so. ``values`` are in row order."""
    plain = pc.drop_null(parsing.plain_array(values))
    if column.kind == "numeric" and not column.temporal and parsing.is_number_type(plain.type):
        numbers = np.asarray(plain.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        what = _number_doubt(column.name, numbers[np.isfinite(numbers)])
    else:
        what = _new_levels(plain) if column.kind == "category" else ""
    return f"{quote(column.name)} {what}. Leave it out with --exclude, or keep it with --include" if what else ""


def doubts(columns: Iterable[Column], table: pa.Table, order: NDArray[np.int64] | None = None) -> dict[str, str]:
    """Return the doubts about the columns of a table, by name; ``order`` are its rows in time, without which they are taken as they are."""
    rows = None if order is None else pa.array(order)
    found = {c.name: doubt_of(c, table[c.name] if rows is None else table[c.name].take(rows)) for c in columns}
    return {name: doubt for name, doubt in found.items() if doubt}


def _number_doubt(name: str, values: _Floats) -> str:
    if not len(values):
        return ""
    calendar = _calendar(name, values)  # also where it is constant: the rows of one year
    if calendar or values.min() == values.max():
        return calendar
    return _maybe_time(name, values) or _rising(values) or _restarting(values) or _maybe_clock(name, values)


def _maybe_time(name: str, values: _Floats) -> str:
    """Numbers in the range of an epoch, in no order and without a name that says time."""
    low, high = float(values.min()), float(values.max())
    unit = clocks.unit_of(low, high, mjd=False)
    if unit is None or len(np.unique(values)) < FEWEST_ROWS or clocks.is_length(name):
        return ""
    scale = clocks.UNITS[unit]
    if unit in clocks.DAYS or (high - low) * scale.tick > RECENT_YEARS_US:
        return ""
    first, last = (np.datetime64(int((end - scale.at_1970) * scale.tick), "us").astype("datetime64[D]") for end in (low, high))
    return f"may be {scale.words}: its numbers are those of {first} to {last}, and later rows will lie outside"


def _calendar(name: str, values: _Floats) -> str:
    """A part of the calendar of which the rows do not hold a whole cycle."""
    part = calendar_part(name)
    if part is None or not in_range(part, values):
        return ""
    low, high = int(values.min()), int(values.max())
    if part != "year" and (part not in _WHOLE_CYCLE or (low <= _WHOLE_CYCLE[part][0] and high >= _WHOLE_CYCLE[part][1])):
        return ""
    span = f"{low}" if low == high else f"{low} to {high}"
    return f"holds the {part} of a date, {span}: rows of another {part} will lie outside"


def _rising(values: _Floats) -> str:
    """A number that rises or falls with the row number, so that the last rows are beyond all rows before."""
    if len(values) < FEWEST_ROWS:
        return ""
    rank = rank_correlation(values)
    if abs(rank) < RISING:
        return ""
    last = max(1, round(LAST_SHARE * len(values)))
    before, after = values[:-last], values[-last:]
    leaving = float((after > before.max()).mean() if rank > 0 else (after < before.min()).mean())
    if leaving < LEAVING:
        return ""
    way = "rises" if rank > 0 else "falls"
    return (
        f"{way} with the row number (rank correlation {rank:.2f}): {leaving:.0%} of the last fifth of the rows lie outside the range "
        "of all rows before, and later rows will too"
    )


def rank_correlation(values: _Floats) -> float:
    """Return Spearman's rank correlation of ``values`` ``[n]`` with their positions, of some rows of a large table; 0 for a constant.

    >>> rank_correlation(np.array([1.0, 2.0, 2.0, 9.0]))
    0.94868...
    """
    some = values[:: max(1, len(values) // ROWS_RANKED)]
    _, inverse, counts = np.unique(some, return_inverse=True, return_counts=True)
    if len(counts) < 2:  # noqa: PLR2004  # a constant
        return 0.0
    ranks = (np.cumsum(counts) - (counts + 1) / 2.0)[inverse]
    return float(np.corrcoef(ranks, np.arange(len(some)))[0, 1])


def _restarting(values: _Floats) -> str:
    """A number that counts in equal steps and restarts now and then, as a clock does in each file or for each machine."""
    steps = clocks.steps_of(values)
    restarts = min(int((steps < 0).sum()), int((steps > 0).sum()))
    if not restarts or not clocks.runs_on(values) or not clocks.is_even(values) or len(np.unique(values)) < FEWEST_ROWS:
        return ""
    return "counts in equal steps and restarts now and then, as a clock or a row number of each file or machine does"


def _maybe_clock(name: str, values: _Floats) -> str:
    """A name that says time alone, with numbers in no order: a shuffled table."""
    if not clocks.named_as_clock(name) or len(np.unique(values)) < FEWEST_ROWS:
        return ""
    return "is named as a clock: if its numbers grow from file to file, later rows will lie outside their range"


def _new_levels(values: pa.ChunkedArray) -> str:
    """Levels that follow one another, so that the last rows have levels that no row before has."""
    if len(values) < FEWEST_ROWS:
        return ""
    last = max(1, round(LAST_SHARE * len(values)))
    before = pc.unique(values.slice(0, len(values) - last))
    new = 1.0 - pc.mean(pc.is_in(values.slice(len(values) - last), value_set=before).cast(pa.float64())).as_py()
    if new < LEAVING or len(before) < FEW_LEVELS:
        return ""
    return (
        f"changes its levels with the row number: {new:.0%} of the last fifth of the rows have a level that no row before has, "
        "and later rows will too"
    )
