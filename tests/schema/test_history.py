"""The past of rows in time: lags, stretches and gaps, the same however the rows are cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.errors import BadCell
from vae_anomaly.schema.encoding import Batch
from vae_anomaly.schema.history import Times, clock_of, past_of, stretches, usual_step, with_past

NAN = np.nan


def batch_of(numbers: np.ndarray) -> Batch:
    values = torch.from_numpy(numbers).unsqueeze(1)
    return Batch(numeric=values.nan_to_num(0.0), codes=torch.zeros(len(numbers), 1, 0, dtype=torch.int64), observed=~values.isnan())


def test_the_past_is_the_rows_before_the_latest_first() -> None:
    past, last = past_of(np.array([[1.0], [2.0], [3.0], [4.0]]), None, 2)
    assert past[:, :, 0].tolist() == [[1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 2.0]]
    assert last[:, 0].tolist() == [4.0, 3.0]
    after, _ = past_of(np.array([[5.0], [6.0]]), last, 2)
    assert after[:, :, 0].tolist() == [[4.0, 3.0], [5.0, 4.0]]


def test_a_missing_number_of_the_past_is_the_last_known_one() -> None:
    past, last = past_of(np.array([[1.0, NAN], [NAN, NAN], [3.0, 7.0], [NAN, 8.0]]), None, 1)
    np.testing.assert_array_equal(past[:, 0], [[1.0, NAN], [1.0, NAN], [1.0, NAN], [3.0, 7.0]])
    np.testing.assert_array_equal(last[0], [3.0, 8.0])


def test_entities_interleave_and_a_gap_starts_anew() -> None:
    entity, time = np.array([0, 1, 0, 1, 0, 0]), np.array([0.0, 100.0, 1.0, 101.0, 50.0, 51.0])
    parts = stretches(entity, time, np.array([NAN, 99.0]), 10.0)
    assert [(p.entity, p.rows.tolist(), p.continues) for p in parts] == [(0, [0, 2], False), (0, [4, 5], False), (1, [1, 3], True)]


def test_a_gap_before_the_first_row_starts_anew_too() -> None:
    parts = stretches(np.array([0, 0]), np.array([100.0, 101.0]), np.array([5.0]), 10.0)
    assert [(p.rows.tolist(), p.continues) for p in parts] == [([0, 1], False)]


def test_time_that_goes_back_is_an_error_with_the_first_such_row() -> None:
    with pytest.raises(BadCell, match="time goes back in the data row 4") as error:
        stretches(np.array([1, 0, 1, 0, 1]), np.array([5.0, 9.0, 6.0, 8.0, 1.0]), np.array([NAN, NAN]), 10.0)
    assert error.value.row == 3
    with pytest.raises(BadCell, match="row 1 "):
        stretches(np.array([0]), np.array([5.0]), np.array([6.0]), 10.0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_past_does_not_depend_on_where_rows_are_cut(data: st.DataObject) -> None:
    rows, entities, lags = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    numbers = np.where(random.random((rows, 2)) < 0.3, NAN, random.normal(size=(rows, 2)))
    entity, time = random.integers(0, entities, rows), np.cumsum(random.choice([0.0, 1.0, 30.0], rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))

    def pasts(bounds: list[int]) -> np.ndarray:
        last, before, found = np.full(entities, NAN), np.full((entities, lags, 2), NAN), []
        for begin, end in zip([0, *bounds], [*bounds, rows], strict=True):
            parts = stretches(entity[begin:end], time[begin:end], last, 10.0)
            batch, before = with_past(batch_of(numbers[begin:end]), parts, before, lags)
            for part in parts:
                last[part.entity] = time[begin:end][part.rows[-1]]
            assert batch.past is not None
            found.append(batch.past.numpy())
        return np.concatenate(found)

    np.testing.assert_array_equal(pasts(cuts), pasts([]))


def test_the_clock_reports_gaps_repeated_times_uneven_steps_and_unsorted_rows() -> None:
    time = np.array([0.0, 60.0, 120.0, 120.0, 200.0, 5000.0, 5060.0, 5000.0])
    clock = clock_of(Times(value=time, entity=np.array([0, 0, 0, 0, 0, 0, 0, 1])), None)
    assert (clock.entities, clock.step, clock.max_gap) == (2, 60.0, 1200.0)
    assert (clock.gaps, clock.repeated, clock.unsorted) == (1, 1, 0)
    assert clock.uneven == pytest.approx(1 / 4)
    assert clock.notes() == (
        "1 gap(s) of more than 20 minutes in time: the series starts anew after each",
        "1 row(s) have the time of the row before, of the same series",
        "25% of the steps of time differ from the usual 60 seconds: uneven sampling",
    )
    back = clock_of(Times(value=np.array([3.0, 1.0, 2.0]), entity=np.zeros(3, np.int64), is_clock=False), 5.0)
    assert back.notes() == ("1 row(s) were not in the order of time; they were sorted",)
    assert back.max_gap == 5.0


def test_one_row_has_no_usual_step() -> None:
    assert usual_step(np.array([1.0]), np.array([0])) == np.inf
