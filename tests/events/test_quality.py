"""Events against labels, on cases that can be counted by hand."""

import numpy as np

from vae_anomaly.events.episodes import Event
from vae_anomaly.events.quality import EventQuality, LabelledTimes, event_quality


def event(start: float, end: float, entity: str | None = "a") -> Event:
    return Event(entity=entity, start=start, peak=start, end=end, rows=1, peak_score=1.0, severity=1.0)


def rows(anomalous: list[int], entity: list[int] | None = None) -> LabelledTimes:
    count = len(anomalous)
    return LabelledTimes(
        time=np.arange(count, dtype=np.float64) * 60,
        entity=np.zeros(count, np.int64) if entity is None else np.array(entity),
        names=("a", "b"),
        anomalous=np.array(anomalous, dtype=np.bool_),
    )


def test_stretches_are_found_by_events_that_overlap_them() -> None:
    labels = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    found = event_quality([event(180, 240), event(600, 660)], rows(labels), 1, is_clock=True)
    # The first stretch is found a minute late; the second, row 8, is not; the event of rows 10 and 11 is false.
    assert (found.labelled, found.found, found.events, found.false, found.delay) == (2, 1, 2, 1, 60.0)
    # Normal time: the steps to rows 1, 5, 6, 7, 10 and 11; rows 4 and 9 follow a label.
    assert found.a_day is not None
    np.testing.assert_allclose(found.a_day, 1 / (6 * 60 / 86_400))


def test_an_event_right_after_a_label_is_not_false() -> None:
    labels = [0, 1, 0, 0, 0, 0]
    assert event_quality([event(120, 120)], rows(labels), 1, is_clock=True).false == 0
    assert event_quality([event(180, 180)], rows(labels), 1, is_clock=True).false == 1


def test_entities_do_not_answer_for_each_other() -> None:
    labels, entity = [1, 0, 0, 0], [0, 1, 0, 1]
    found = event_quality([event(0, 0, "b")], rows(labels, entity), 1, is_clock=False)
    assert found == EventQuality(labelled=1, found=0, events=1, false=1, a_day=None, delay=None)


def test_an_event_that_ran_already_has_no_delay() -> None:
    assert event_quality([event(0, 300)], rows([0, 0, 1, 1, 0, 0]), 1, is_clock=True).delay == 0.0
