from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.schema.time_text import kind_of_text, read_times, strptime_pattern

MARCH = datetime(2024, 3, 1, 10, 15)  # noqa: DTZ001  # as a table holds it


@pytest.mark.parametrize(
    "text",
    [
        "01-Mar-24 10:15:00", "2024-03-01T10:15:00.000Z", "2024/03/01 10:15", "01.03.2024 10:15:00", "1. März 2024 10:15",
        "20240301T101500",
        "2024年3月1日 10:15",
        "Fri, 01 Mar 2024 10:15:00", "March 1, 2024 10:15 AM", "2024-03-01 12:15:00+02:00", "01.03.2024 10:15:00,000",
        "1 mars 2024 10:15", "2024-Mar-01 10:15:00", "01-MAR-2024 10:15:00.000000",
        "Mar 1, 2024 @ 10:15:00.000",
    ],
)  # fmt: skip
def test_styles_of_historians_and_countries(text: str) -> None:
    assert read_times(pa.array([text])).values.to_pylist() == [MARCH]
    assert kind_of_text(pa.array([text])) == "dates or times as text"


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["2024-01", "2024-02"], "months, quarters or weeks as text"),
        (["2024Q1", "2024Q2"], "months, quarters or weeks as text"),
        (["2024-W05", "2024-W06"], "months, quarters or weeks as text"),
        (["10:15:00", "10:16:00.250"], "times of day as text"),
        (["3 days 04:05:06", "0 days 00:00:01"], "durations as text"),
        (["P1DT2H", "PT5M"], "durations as text"),
        (["auto", "manual"], None),
        (["A-12-7", "B-3-4"], None),
        (["1.5.2", "2.0.1"], None),
        (["192.168.1.20", "10.0.0.1"], None),
        (["M1", "M2", "M3"], None),
        (["99-0001-17", "99-0002-18"], None),
    ],
)
def test_kind_of_a_column_of_text(texts: list[str], kind: str | None) -> None:
    assert kind_of_text(pa.array(texts)) == kind


@settings(max_examples=60, deadline=None)
@given(st.lists(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2067, 1, 1)), min_size=1, max_size=5))  # noqa: DTZ001
@pytest.mark.parametrize(
    "form", ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%d-%b-%y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%Y%m%d%H%M%S", "%j %Y %H:%M:%S"]
)
def test_a_format_is_read_as_strptime_reads_it(form: str, moments: list[datetime]) -> None:
    texts = [moment.strftime(form) for moment in moments]
    expected = [datetime.strptime(text, form) for text in texts]  # noqa: DTZ007
    assert read_times(pa.array(texts), form).values.to_pylist() == expected


@settings(max_examples=60, deadline=None)
@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2067, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_an_offset_is_subtracted(moment: datetime, minutes: int) -> None:
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    text = f"{moment:%Y-%m-%dT%H:%M:%S.%f}{sign}{hours:02}:{rest:02}"
    assert read_times(pa.array([text])).values.to_pylist() == [moment - timedelta(minutes=minutes)]
    assert datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None) == moment - timedelta(minutes=minutes)


def test_day_and_month_are_decided_by_the_column_or_unsure() -> None:
    sure = read_times(pa.array(["03/01/2024", "13/01/2024"]))
    assert sure.values.to_pylist() == [datetime(2024, 1, 3), datetime(2024, 1, 13)]  # noqa: DTZ001
    assert not sure.unsure.any()
    assert read_times(pa.array(["03/01/2024", None])).unsure.tolist() == [True, False]
    month_first = read_times(pa.array(["03/01/2024"]), "month-first")
    assert (month_first.values.to_pylist(), month_first.unsure.tolist()) == ([datetime(2024, 3, 1)], [False])  # noqa: DTZ001


@pytest.mark.parametrize("text", ["2024-02-30", "31.04.2024", "2024-03-01 25:00", "12-Mrc-24", "2024-03-01 10:15 IST", ""])
def test_what_no_calendar_or_clock_shows_is_no_time(text: str) -> None:
    assert read_times(pa.array([text])).values.to_pylist() == [None]


def test_an_unknown_directive_is_an_error() -> None:
    with pytest.raises(KeyError):
        strptime_pattern("%Q")
