from datetime import datetime

import pyarrow as pa
import pytest

from vae_anomaly.core.order import group_codes, time_order
from vae_anomaly.errors import DataError


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.chunked_array([[3, 1], [2, 3]]), id="numbers"),
        pytest.param(pa.chunked_array([[datetime(2025, 1, d) for d in (3, 1, 2, 3)]]), id="timestamps"),  # noqa: DTZ001  # as in files
        pytest.param(pa.chunked_array([["2025-01-10 00:00:00", "2025-01-02", "2025-01-03T12:00:00", "2025-01-10"]]), id="texts"),
    ],
)
def test_order_of_times(column: pa.ChunkedArray) -> None:
    assert time_order(column, "t").tolist() == [2, 0, 1, 2]


def test_a_missing_time_is_refused() -> None:
    with pytest.raises(DataError) as error:
        time_order(pa.chunked_array([[1, None]]), "t")
    assert str(error.value) == "time column 't' must have a time in every row; row 2 has none. Drop such rows, or leave --time-column out."


def test_a_text_that_is_no_time_is_refused() -> None:
    with pytest.raises(DataError, match=r"^time column 't' must hold times such as 2025-03-03 12:00:00: .*noon"):
        time_order(pa.chunked_array([["2025-01-01", "noon"]]), "t")


def test_groups_are_told_apart_and_no_group_is_one() -> None:
    codes = group_codes(pa.chunked_array([["a", None], ["b", "a", None]])).tolist()
    assert codes[0] == codes[3]
    assert codes[1] == codes[4]
    assert len(set(codes)) == 3
