"""Pivots against pandas: the last value by pivot and ffill, intervals by resample, however the samples are cut."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.errors import ConfigError
from vae_anomaly.schema.pivoting import Held, PivotRoles, Samples, Tags, as_kind, ids_of_pivot, joined, parse_pivot

MINUTE = 60 * 10**6
ROLES: dict[str, Any] = {"tag": "a", "value": "b", "time": "c"}


def test_the_option_in_full() -> None:
    assert parse_pivot(" tag = Tag Name, value=V ,time=TS,every=10s,agg=mean,hold=1h") == PivotRoles(
        tag="Tag Name", value="V", time="TS", every=10**7, agg="mean", hold=3600 * 10**6
    )
    assert ids_of_pivot("tag=a,value=b,time=c", ()) == ("c",)
    assert ids_of_pivot("tag=a,value=b,time=c", ("k",)) == ("k",)
    assert ids_of_pivot(None, ()) == ()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("tag=a,value=b", "--pivot is 'tag=a,value=b'; expected tag=TAG,value=VALUE,time=TIME with three different columns"),
        ("tag=a,value=b,time=b", "three different columns"),
        ("tag=a,value=b,time=c,tag=d", "three different columns"),
        ("tag=a,value=b,time=c,step=1s", "expected tag=TAG"),
        ("tag=a,value=b,time=c,every", "expected tag=TAG"),
        ("tag=a,value=b,time=c,every=1 week", "--pivot has every=1 week; expected a number and a unit, as in 500ms, 10s, 1min, 1h or 1d."),
        ("tag=a,value=b,time=c,every=0s", "expected a number and a unit"),
        ("tag=a,value=b,time=c,agg=mean", "expected last, or mean together with every=."),
        ("tag=a,value=b,time=c,every=1s,agg=sum", "--pivot has agg=sum; expected last, or mean"),
    ],
)
def test_an_option_that_says_something_else_is_refused(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pivot(text)
    assert error in str(caught.value)


@st.composite
def long_tables(draw: st.DrawFn) -> pd.DataFrame:
    """Rows in time order, with times and tags that repeat and values that are missing."""
    rows = draw(st.integers(1, 60))
    steps = draw(st.lists(st.sampled_from([0, 1, 7, 45, 200]), min_size=rows, max_size=rows))
    return pd.DataFrame(
        {
            "time": pd.to_datetime(np.cumsum(steps), unit="s"),
            "tag": draw(st.lists(st.sampled_from(["x", "y", "z"]), min_size=rows, max_size=rows)),
            "value": np.array(draw(st.lists(st.sampled_from([np.nan, 1.0, 2.5, -3.0]), min_size=rows, max_size=rows))),
        }
    )


def wide(long: pd.DataFrame, pivot: PivotRoles, cuts: list[int], *, text: bool = False) -> pd.DataFrame:
    """Make the wide table as the reader does, from samples in pieces of these lengths."""
    tags = Tags()
    kinds = pa.string() if text else pa.float64()
    values = [None if pd.isna(v) else (str(v) if text else v) for v in long["value"]]
    for name in long["tag"]:
        tags.code.setdefault(name, len(tags.code))
    whole = Samples(
        time=long["time"].astype("datetime64[us]").to_numpy().astype(np.int64),
        tag=np.array([tags.code[name] for name in long["tag"]]),
        value=pa.array(values, kinds),
    )
    tags.add(whole, "long.csv", 0, pivot.every)
    held, frames, waiting, first = Held(count=len(tags.code), pivot=pivot, tags=tags), [], list[Samples](), 0
    while first < len(long):
        end = first + cuts[first % len(cuts)]
        samples = joined([*waiting, whole.slice(first, end)])
        stamps = held.stamps(samples.time)
        last = int(np.searchsorted(stamps, stamps[-1]))
        frames.append(held.rows(samples.slice(0, last)) if last else None)
        waiting, first = [samples.slice(last, len(stamps))], end
    frames.append(held.rows(joined(waiting)))
    parts = [
        pd.DataFrame({name: as_kind(columns[code], pa.float64()).to_numpy(zero_copy_only=False) for name, code in tags.code.items()},
                     index=pd.to_datetime(stamps, unit="us"))
        for stamps, columns in filter(None, frames)
    ]  # fmt: skip
    assert tags.rows == sum(map(len, parts))
    return pd.concat(parts).astype(float).sort_index(axis=1)


CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
MISSING = -1e9


@settings(max_examples=60, deadline=None, derandomize=True)
@given(long=long_tables(), cuts=CUTS, text=st.booleans())
def test_a_row_a_time_stamp_holds_the_last_values(long: pd.DataFrame, cuts: list[int], *, text: bool) -> None:
    # A missing value is a value: it ends what was held. pandas would skip it, so that it stands for a number here.
    last = long.fillna({"value": MISSING}).groupby(["time", "tag"])["value"].last().unstack()
    expected = last.ffill().replace(MISSING, np.nan)
    found = wide(long, PivotRoles(**ROLES), cuts, text=text)
    pd.testing.assert_frame_equal(found, expected, check_names=False, check_freq=False, check_index_type=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(long=long_tables(), cuts=CUTS)
def test_an_interval_is_that_of_resample(long: pd.DataFrame, cuts: list[int]) -> None:
    filled = long.fillna({"value": MISSING}).assign(time=long["time"].dt.floor("1min"))
    expected = filled.groupby(["time", "tag"])["value"].last().unstack().ffill().replace(MISSING, np.nan)
    found = wide(long, PivotRoles(**ROLES, every=MINUTE), cuts)
    pd.testing.assert_frame_equal(found, expected, check_names=False, check_freq=False, check_index_type=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(long=long_tables(), cuts=CUTS, text=st.booleans())
def test_a_mean_is_that_of_resample_and_the_last_value_where_there_is_none(long: pd.DataFrame, cuts: list[int], *, text: bool) -> None:
    floored = long.assign(time=long["time"].dt.floor("1min"))
    means = pd.pivot_table(floored, index="time", columns="tag", values="value", aggfunc="mean", dropna=False)
    held = floored.fillna({"value": MISSING}).groupby(["time", "tag"])["value"].last().unstack().ffill().replace(MISSING, np.nan)
    expected = means.reindex(index=held.index, columns=held.columns).fillna(held)
    found = wide(long, PivotRoles(**ROLES, every=MINUTE, agg="mean"), cuts, text=text)
    pd.testing.assert_frame_equal(found, expected, check_names=False, check_freq=False, check_index_type=False)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(long=long_tables(), cuts=CUTS)
def test_a_value_holds_as_long_as_it_may(long: pd.DataFrame, cuts: list[int]) -> None:
    found = wide(long, PivotRoles(**ROLES, hold=MINUTE), cuts)
    for stamp, row in found.iterrows():
        for tag in found.columns:
            before = long[(long["tag"] == tag) & (long["time"] <= stamp)].tail(1)
            fresh = len(before) and (stamp - before["time"].iloc[0]) <= pd.Timedelta("1min")
            expected = before["value"].iloc[0] if fresh else np.nan
            assert row[tag] == expected or (np.isnan(row[tag]) and np.isnan(expected))


def test_what_a_pass_finds_about_tags() -> None:
    tags = Tags(code={"n": 0, "w": 1, "t": 2})
    value = pa.array(["1.5", "7", "on", "NaN", None, "8", "off"])
    time = np.array([10, 10, 20, 40, 30, 50, 50]) * 10**6
    tags.add(Samples(time=time, tag=np.array([0, 1, 2, 0, 1, 1, 2]), value=value), "a.csv", 100, None)
    assert (tags.is_number, tags.is_whole) == ([True, True, False], [False, True, False])
    assert (tags.samples, tags.begin, tags.end, tags.unit) == (7, 10**7, 5 * 10**7, 10**6)
    assert tags.falls == "a.csv row 105"
    assert tags.start == 10**7  # tag t comes late


def test_rows_begin_where_the_tags_of_the_first_tenth_of_the_time_have_values() -> None:
    tags = Tags(code={"a": 0, "b": 1, "late": 2})
    samples = Samples(time=np.array([0, 50, 600, 1000]), tag=np.array([0, 1, 2, 0]), value=pa.array([1.0, 2.0, 3.0, 4.0]))
    tags.add(samples, "a.csv", 0, None)
    assert (tags.start, tags.unit, tags.falls) == (50, 1, "")


def test_samples_of_several_types_are_numbers_or_text() -> None:
    def one(value: pa.Array) -> Samples:
        return Samples(time=np.zeros(1, dtype=np.int64), tag=np.zeros(1, dtype=np.int64), value=value)

    assert joined([one(pa.array([1])), one(pa.array([2.5]))]).value.to_pylist() == [1.0, 2.5]
    assert joined([one(pa.array([1])), one(pa.array(["on"]))]).value.to_pylist() == ["1", "on"]
