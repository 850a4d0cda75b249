from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.schema import clocks
from vae_anomaly.schema.clocks import UNITS, as_timestamps, kind_of_numbers


def read(values: pa.Array, form: str | None) -> list[datetime | None]:
    times = as_timestamps(values, form, "t")
    assert times is not None
    return list(times.to_pylist())


START = datetime(2024, 3, 1)  # noqa: DTZ001  # as a table holds it
# First count of each unit at that moment, and counts a minute, computed apart from the module.
COUNTS = {
    "s": (1_709_251_200, 60), "ms": (1_709_251_200_000, 60_000), "us": (1_709_251_200_000_000, 60_000_000),
    "ns": (1_709_251_200_000_000_000, 60_000_000_000), "labview": (1_709_251_200 + 2_082_844_800, 60), "excel": (45_352, 1 / 1440),
    "matlab": (739_312, 1 / 1440), "julian": (2_460_370.5, 1 / 1440), "filetime": (133_537_248_000_000_000, 600_000_000),
}  # fmt: skip


@pytest.mark.parametrize("unit", COUNTS)
@pytest.mark.parametrize("name", ["time", "x7"])
def test_a_clock_is_known_by_its_range_and_steps(unit: str, name: str) -> None:
    first, step = COUNTS[unit]
    values = first + step * np.repeat(np.arange(200), 2)  # two machines share each time
    assert kind_of_numbers(name, values.astype(np.float64)) == UNITS[unit].words


@pytest.mark.parametrize("unit", COUNTS)
def test_counts_become_times(unit: str) -> None:
    first, step = COUNTS[unit]
    values = [first + step * i for i in range(3)] if unit in clocks.DAYS else [int(first + step * i) for i in range(3)]
    times = read(pa.array(values), None)
    assert all(time is not None and abs(time - START - timedelta(minutes=i)) < timedelta(milliseconds=1) for i, time in enumerate(times))
    assert times == read(pa.array(values), unit)


@settings(max_examples=60, deadline=None)
@given(st.integers(946_684_800, 2_000_000_000), st.sampled_from(["s", "ms", "us", "ns"]))
def test_unix_times_are_exact_in_every_unit(seconds: int, unit: str) -> None:
    value = seconds * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    assert read(pa.array([value]), unit) == [datetime(1970, 1, 1) + timedelta(seconds=seconds)]  # noqa: DTZ001


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([20240229, 20240301, 20240302, 20240303, 20240304], "dates as digits, %Y%m%d"),
        ([20240301101500, 20240301101600], "dates as digits, %Y%m%d%H%M%S"),
        ([20240230, 20240301, 20240302, 20240303, 20240304], None),
    ],
)
def test_dates_as_digits(values: list[int], kind: str | None) -> None:
    assert kind_of_numbers("load_day", np.array(values, dtype=np.float64)) == kind


@pytest.mark.parametrize("name", ["Time [s]", "elapsed_ms", "uptime", "t"])
def test_a_running_clock(name: str) -> None:
    assert kind_of_numbers(name, np.tile(np.arange(0.0, 50.0, 0.25), 2)) == "a running clock"


@pytest.mark.parametrize("name", ["response_time", "temp", "cycle time", "pressure"])
def test_a_measurement_is_no_time(name: str) -> None:
    generator = np.random.default_rng(0)
    for values in (generator.normal(20, 5, 500), generator.integers(0, 50_000, 500), generator.uniform(1.2e9, 1.3e9, 500)):
        assert kind_of_numbers(name, values.astype(np.float64)) is None


def test_a_format_reads_digits_and_their_leading_zeros() -> None:
    assert read(pa.array([1_032_024, None]), "%d%m%Y") == [START, None]


def test_large_floats_in_no_order_are_not_taken_for_times() -> None:
    densities = np.random.default_rng(1).normal(1.5e18, 1e16, 500)
    assert kind_of_numbers("n_e", densities, whole=False) is None
    assert kind_of_numbers("stamp", densities, whole=False) == "Unix time in nanoseconds"
