"""Events against a plain reading of their definition, and the same however the rows are cut."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.events.episodes import (
    Event,
    EventColumn,
    EventLog,
    EventRules,
    Mute,
    ScoredTimes,
    event_columns,
    log_from,
    without_muted,
)

RULES = EventRules(threshold=10.0, merge=6, least=2, max_gap=50.0)


def rows(scores: list[float], *, first: int = 0, entity: list[int] | None = None, step: float = 1.0) -> ScoredTimes:
    count = len(scores)
    return ScoredTimes(
        scores=np.array(scores, dtype=np.float64),
        time=(first + np.arange(count, dtype=np.float64)) * step,
        entity=np.zeros(count, np.int64) if entity is None else np.array(entity),
        names=("a", "b"),
        numbers=first + np.arange(count),
        explain=lambda peaks: [
            ({"column": f"c{i}", "value": "3.5 (1 row before)", "expected": "2 (own past)", "contribution": 1.0},) for i in peaks
        ],
    )


def spans(scores: list[float], rules: EventRules = RULES) -> list[tuple[float, float, float]]:
    log = EventLog()
    log.add(rows(scores), rules)
    return [(event.start, event.peak, event.end) for event in log.events(rules)]


def test_an_event_lasts_until_the_score_falls_below_0_8_of_the_threshold() -> None:
    assert spans([0, 11, 9, 8.0, 7.9, 0, 0, 0, 0, 0, 0]) == [(1, 1, 3)]
    assert spans([0, 9.9, 9.9]) == []


def test_pieces_less_than_three_spans_apart_are_one_and_short_ones_are_none() -> None:
    assert spans([11, 12, 0, 0, 0, 0, 0, 13, 11, *[0] * 7]) == [(0, 7, 8)]
    assert spans([11, 12, 0, 0, 0, 0, 0, 0, 13, 11, *[0] * 7]) == [(0, 1, 1), (8, 8, 9)]
    assert spans([11, 0, *[0] * 9]) == []
    # A piece that is too short alone makes an event with the next one.
    assert spans([11, 0, 0, 11, *[0] * 9]) == [(0, 0, 3)]


def test_between_pieces_only_a_score_above_the_threshold_begins_another() -> None:
    assert spans([11, 11, 0, 9, 9, 9, *[0] * 7]) == [(0, 0, 1)]


def test_a_gap_of_time_ends_an_event() -> None:
    log = EventLog()
    log.add(rows([11, 12, 13]), RULES)
    log.add(replace(rows([14, 15, 16]), time=np.array([100.0, 101.0, 102.0])), RULES)
    assert [(e.start, e.end, e.ongoing) for e in log.events(RULES)] == [(0, 2, False), (100, 102, True)]


def test_an_event_knows_its_peak_its_severity_its_columns_and_whether_it_goes_on() -> None:
    log = EventLog()
    log.add(rows([0, 11, 30, 12]), RULES)
    (event,) = log.events(RULES)
    column = EventColumn(column="c2", direction="high", value="3.5 (1 row before)", expected="2 (own past)", contribution=1.0)
    assert event == Event(
        entity="a", start=1, peak=2, end=3, rows=3, peak_score=30, severity=3, columns=(column,), ongoing=True, first=1, last=3
    )  # fmt: skip
    log.add(rows([0], first=4), RULES)
    assert not log.events(RULES)[0].ongoing


def test_a_row_without_a_score_changes_nothing() -> None:
    nan = float("nan")
    log = EventLog()
    log.add(rows([11, nan, nan, nan, nan, nan, nan, nan, 12]), RULES)
    assert [(e.start, e.end, e.rows) for e in log.events(RULES)] == [(0, 8, 2)]


def test_rows_without_a_score_are_no_gap_of_time() -> None:
    nan = float("nan")
    log = EventLog()
    log.add(rows([11, nan, nan, nan, 12], step=20.0), RULES)
    assert [(e.start, e.end) for e in log.events(RULES)] == [(0, 80)]


def test_a_range_of_a_file_of_microseconds_acknowledges_its_event() -> None:
    event = Event(entity="a", start=1.000000123, peak=1.0, end=2.0, rows=2, peak_score=1.0, severity=1.0)
    assert without_muted([event], [Mute(entity="a", start=1.0000005, end=2.0)]) == ((), 1)


def test_the_rules_are_in_spans_of_the_smoothing() -> None:
    assert EventRules.of(1.0, 20, 9.0) == EventRules(threshold=1.0, merge=60, least=5, max_gap=9.0)
    assert EventRules.of(1.0, 1, 9.0).least == 1


def plain_events(scores: list[float]) -> list[tuple[int, int]]:
    """The definition once more: pieces by hysteresis, merged, short ones dropped."""
    pieces: list[list[int]] = []
    inside = False
    for i, score in enumerate(scores):
        was, inside = inside, score > 10 or (inside and score >= 8)
        if inside and was:
            pieces[-1][1] = i
        elif inside:
            pieces.append([i, i])
    merged: list[list[int]] = []
    for piece in pieces:
        if merged and piece[0] - merged[-1][1] <= 6:
            merged[-1][1] = piece[1]
        else:
            merged.append(piece)
    return [(a, b) for a, b in merged if b - a + 1 >= 2]


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 7.0, 9.0, 11.0, 15.0]), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4).map(sorted),
)
def test_events_are_those_of_the_definition_wherever_the_rows_are_cut(scores: list[float], cuts: list[int]) -> None:
    log = EventLog()
    for begin, end in zip([0, *cuts], [*cuts, len(scores)], strict=True):
        if scores[begin:end]:
            log.add(rows(scores[begin:end], first=begin), RULES)
            log = log_from(json.loads(json.dumps(log.plain())))
    assert [(event.first, event.last) for event in log.events(RULES)] == plain_events(scores)


def test_entities_have_events_of_their_own() -> None:
    log = EventLog()
    log.add(rows([11, 0, 11, 11, 12, 0], entity=[0, 1, 0, 1, 1, 1]), RULES)
    assert [(e.entity, e.start, e.end) for e in log.events(RULES)] == [("a", 0, 2), ("b", 3, 4)]


def test_acknowledged_events_are_left_out() -> None:
    log = EventLog()
    log.add(rows([11, 11, *[0] * 8, 12, 12, *[0] * 8]), RULES)
    events = log.events(RULES)
    assert without_muted(events, [Mute(entity="a", start=0, end=5)]) == (events[1:], 1)
    assert without_muted(events, [Mute(entity="b", start=0, end=99), Mute(entity="a", start=1, end=9)]) == (events, 0)
    assert without_muted(events, [Mute(entity=None, start=0, end=99)]) == ((), 2)


@pytest.mark.parametrize(
    ("value", "expected", "direction"),
    [
        ("1", "2", "low"),
        ("-1.5e3 (2 rows before)", "-2e3 (relation to x)", "high"),
        ("run", "idle (90%)", ""),
        (None, "2", ""),
        ("2", "2", ""),
    ],
)
def test_the_direction_of_a_column(value: str | None, expected: str, direction: str) -> None:
    feature = {"column": "c", "value": value, "expected": expected, "contribution": 1.0}
    (column,) = event_columns([feature, {"column": "(other)", "value": None, "expected": None, "contribution": 9.0}])
    assert column.direction == direction


def test_reasons_are_found_once_for_all_events_of_a_batch() -> None:
    asked: list[list[int]] = []

    def find(peaks: Sequence[int]) -> list[tuple[()]]:
        asked.append(list(peaks))
        return [()] * len(peaks)

    log, many = EventLog(), rows([11, 12, 13, *[0] * 8, 14, 15, *[0] * 8, 11, 12])
    log.add(replace(many, explain=find), RULES)
    assert asked == [[2, 12]]
    assert len(log.events(RULES)) == 3
    assert asked == [[2, 12], [22]]
