from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from vae_anomaly.errors import BadCell, DataError
from vae_anomaly.schema.keys import group_codes, time_values


def ranks(time: NDArray[np.float64]) -> list[int]:
    """Return the dense rank of each time."""
    found: list[int] = np.unique(time, return_inverse=True)[1].tolist()
    return found


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.chunked_array([[3, 1], [2, 3]]), id="numbers"),
        pytest.param(pa.chunked_array([[datetime(2025, 1, d) for d in (3, 1, 2, 3)]]), id="timestamps"),  # noqa: DTZ001  # as in files
        pytest.param(
            pa.chunked_array([pa.array(["2025-01-10", "2025-01-02", "2025-01-03", "2025-01-10"]).dictionary_encode()]), id="dictionary"
        ),
        pytest.param(
            pa.chunked_array([["2025-01-10T01:00:00+01:00", "2025-01-02T00:00:00Z", "2025-01-03T00:00:00Z", "2025-01-10T00:00:00Z"]]),
            id="zones",
        ),
        pytest.param(pa.chunked_array([["10.01.2025 12:00", "02.01.2025 12:00", "03.01.2025 12:00", "10.01.2025 12:00"]]), id="days first"),
        pytest.param(pa.chunked_array([pa.array([3, 1, 2, 3], pa.time64("ns"))]), id="finer than a microsecond"),
        pytest.param(pa.chunked_array([pa.array([3, 1, 2, 3], pa.date32())]), id="dates"),
        pytest.param(pa.chunked_array([pa.array([2**62, -(2**62), 0, 2**62], pa.timestamp("s"))]), id="beyond the year 9999"),
        pytest.param(pa.chunked_array([pa.array([3, 1, 2, 3], pa.timestamp("us", "Nowhere/At all"))]), id="an unknown zone"),
        pytest.param(pa.chunked_array([["2025-01-10 00:00:00", "2025-01-02", "2025-01-03T12:00:00", "2025-01-10"]]), id="texts"),
    ],
)
def test_order_of_times(column: pa.ChunkedArray) -> None:
    assert ranks(time_values(column, "t")[0]) == [2, 0, 1, 2]


def test_a_missing_time_is_refused() -> None:
    with pytest.raises(DataError) as error:
        time_values(pa.chunked_array([[1, None]]), "t")
    assert str(error.value) == (
        "time column 't' must have a time in every row but has none in the data row 2 (counted from 1). "
        "Drop such rows, or leave --time-column out."
    )


@pytest.mark.parametrize(
    ("texts", "row"),
    [
        (["2025-01-01", "noon"], 1),
        (["noon", "2025-01-01"], 0),
        (["2025-01-01"] * 7 + ["noon", "2025-01-01", "late"], 7),
        (["13.02.2025", "2025-02-03", "30.02.2025"], 2),
    ],
)
def test_the_first_text_that_is_no_time_is_refused(texts: list[str], row: int) -> None:
    with pytest.raises(BadCell) as error:
        time_values(pa.chunked_array([texts]), "t")
    assert error.value.row == row
    assert str(error.value) == (
        f"time column 't' must hold times such as 2025-03-03 12:00:00 but is {texts[row]!r} in the data row {row + 1} "
        "(counted from 1). Correct it, give --time-format, or leave --time-column out."
    )


@pytest.mark.parametrize("column", [pa.array([b"a"]), pa.array([[1]]), pa.array([{"x": 1}]), pa.array([True])], ids=lambda c: str(c.type))
def test_what_has_no_order_in_time_is_refused(column: pa.Array) -> None:
    with pytest.raises(DataError) as error:
        time_values(pa.chunked_array([column]), "t")
    assert str(error.value) == f"time column 't' must hold times or numbers; it is {column.type}. Name another with --time-column."


def test_groups_are_told_apart_and_no_group_is_one() -> None:
    codes = group_codes(pa.chunked_array([["a", None], ["b", "a", None]])).tolist()
    assert codes[0] == codes[3]
    assert codes[1] == codes[4]
    assert len(set(codes)) == 3


def test_day_and_month_are_asked_for_and_never_guessed() -> None:
    texts = pa.chunked_array([["03/01/2024", "02/02/2024"]])
    with pytest.raises(DataError) as error:
        time_values(texts, "t")
    assert str(error.value) == (
        "time column 't' holds '03/01/2024', of which either number may be the day: give --time-format day-first or month-first."
    )
    assert ranks(time_values(texts, "t", "day-first")[0]) == [0, 1]
    assert ranks(time_values(texts, "t", "month-first")[0]) == [1, 0]
    assert ranks(time_values(pa.chunked_array([["03/01/2024", "13/02/2024"]]), "t")[0]) == [0, 1]  # the second can only be day first


def test_numbers_that_are_no_times_in_the_format_are_refused() -> None:
    with pytest.raises(DataError) as error:
        time_values(pa.chunked_array([pa.array([float("inf"), 1.0])]), "t", "ms")
    assert str(error.value) == "time column 't' cannot be read with --time-format ms. Name the format or the unit of its numbers."
    assert time_values(pa.chunked_array([["1700000060", "1700000000"]]), "t")[0].tolist() == [1700000060.0, 1700000000.0]


def test_times_are_in_seconds_and_numbers_are_plain() -> None:
    time, is_clock = time_values(pa.chunked_array([pa.array([1_500, 2_000], pa.timestamp("ms"))]), "t")
    assert (time.tolist(), is_clock) == ([1.5, 2.0], True)
    time, is_clock = time_values(pa.array(["3", "1"]), "t")
    assert (time.tolist(), is_clock) == ([3.0, 1.0], False)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_no_time_names_its_row(number: float) -> None:
    with pytest.raises(BadCell, match=r"time column 't' must have a time in every row but has none in the data row 2 "):
        time_values(pa.array([1.0, number]), "t")
