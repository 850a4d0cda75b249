import numpy as np
import pytest

from vae_anomaly.calibration.conformal import conformal_quantile
from vae_anomaly.calibration.threshold import Threshold, calibrate, calibrate_blocks
from vae_anomaly.evaluation.score_summary import ScoreSummary, alpha_grid
from vae_anomaly.explain.contributions import Alarm


def _threshold(n: int = 999) -> Threshold:
    return calibrate(np.random.default_rng(0).exponential(10.0, n), 0.01)


def _gathered(scores: np.ndarray, *, pieces: int = 1, times: np.ndarray | None = None) -> ScoreSummary:
    threshold = _threshold()
    gathering = ScoreSummary(threshold=threshold, worst_rows=3, time_column="clock")
    for index in np.array_split(np.arange(len(scores)), pieces):
        part = scores[index]
        gathering.add(part, threshold.flags(part), times=None if times is None else times[index])
    return gathering


def test_steps_go_from_the_finest_rate_and_hold_the_one_in_use() -> None:
    threshold = _threshold()
    alphas, values = alpha_grid(threshold)
    assert alphas[0] == pytest.approx(1 / 1000)
    assert alphas[-1] == pytest.approx(0.5)
    assert (np.diff(alphas) > 0).all()
    assert values[alphas.tolist().index(0.01)] == threshold.value
    assert [conformal_quantile(threshold.calibration, float(a)) for a in alphas] == values.tolist()


def test_what_each_rate_flags_is_counted_as_the_threshold_would() -> None:
    scores = np.random.default_rng(1).exponential(12.0, 5000).round(1)
    scores[7] = np.nan
    gathering = _gathered(scores, pieces=7)
    threshold = _threshold()
    for step in gathering.steps():
        at = threshold if step.alpha == 0.01 else threshold.at(step.alpha)
        assert step.above == {
            "calibration": int(at.flags(threshold.calibration).sum()),
            "rows": int(at.flags(scores).sum()),
        }, step.alpha
    assert (gathering.rows, gathering.unscored, gathering.alarms) == (5000, 1, int(threshold.flags(scores).sum()))


def test_a_score_at_a_threshold_is_not_above_it() -> None:
    threshold = _threshold()
    gathering = _gathered(np.array([threshold.value, np.nextafter(threshold.value, np.inf)]))
    assert next(step.above["rows"] for step in gathering.steps() if step.alpha == 0.01) == 1


def test_bins_hold_every_score_once_and_are_few() -> None:
    scores = np.append(np.random.default_rng(1).exponential(12.0, 5000), 1e9)
    found = _gathered(scores, pieces=3).histogram()
    assert 20 < len(found.counts["rows"]) <= 80
    counted, _ = np.histogram(scores, bins=np.array(found.edges))
    assert found.counts["rows"] == tuple(counted.tolist())
    assert sum(found.counts["calibration"]) == 999
    assert np.allclose(np.diff(np.arcsinh(np.array(found.edges) / found.linear), 2), 0.0, atol=1e-9)


def test_equal_calibration_scores_have_bins_too() -> None:
    gathering = ScoreSummary(threshold=calibrate(np.ones(99), 0.05), worst_rows=1)
    assert sum(gathering.histogram().counts["calibration"]) == 99


def test_pieces_make_no_difference() -> None:
    scores, times = np.random.default_rng(2).exponential(12.0, 3000), np.arange(3000) * 37
    one, many = (_gathered(scores, pieces=k, times=times) for k in (1, 11))
    assert (one.steps(), one.histogram(), one.time_line()) == (many.steps(), many.histogram(), many.time_line())


@pytest.mark.parametrize(("seconds", "width"), [(1, 1), (1000, 10), (86_400, 900), (400 * 86_400, 604_800)])
def test_the_time_line_stays_short_and_complete(seconds: int, width: int) -> None:
    times = np.linspace(1_700_000_000, 1_700_000_000 + seconds, 2000).astype(np.int64)
    scores = np.random.default_rng(3).exponential(12.0, 2000)
    found = _gathered(scores, pieces=5, times=times).time_line()
    assert found is not None
    assert (found.column, found.width) == ("clock", width)
    assert len(found.spans) <= 241
    assert sum(span.rows for span in found.spans) == 2000
    assert sum(span.alarms for span in found.spans) == int(_threshold().flags(scores).sum())
    assert max(span.highest for span in found.spans) == scores.max()
    for span in (found.spans[0], found.spans[-1]):
        inside = (times >= span.start) & (times < span.start + width)
        assert (span.rows, span.highest) == (int(inside.sum()), float(scores[inside].max()))


def test_rows_without_a_time_are_not_on_the_line() -> None:
    times = np.array([0, 1000, np.iinfo(np.int64).min])
    found = _gathered(np.array([1.0, 2.0, 3.0]), times=times).time_line()
    assert found is not None
    assert sum(span.rows for span in found.spans) == 2
    assert _gathered(np.ones(3), times=np.zeros(3, dtype=np.int64)).time_line() is None
    assert _gathered(np.ones(3)).time_line() is None


def test_the_highest_scores_are_stored_the_earliest_of_equal_ones_first() -> None:
    gathering = ScoreSummary(threshold=_threshold(), worst_rows=3)
    for row, score in enumerate([5.0, 9.0, 7.0, 9.0, 1.0, 8.0]):
        gathering.offer(Alarm(row=row, ids={}, score=score, p_value=0.1, reasons=()))
    assert [(row.row, row.score) for row in gathering.worst()] == [(1, 9.0), (3, 9.0), (5, 8.0)]
    assert (gathering.wants(8.0), gathering.wants(8.5)) == (False, True)


def test_the_steps_of_a_time_series_have_the_thresholds_of_its_blocks() -> None:
    random = np.random.default_rng(0)
    block = np.repeat(np.arange(5), 100)
    threshold = calibrate_blocks(random.gamma(2.0, size=500) * np.array([1, 1, 3, 1, 1])[block], block, 0.05, effective_rows=50.0)
    gathering = ScoreSummary(threshold=threshold, worst_rows=3)
    scores = random.gamma(3.0, size=400)
    gathering.add(scores, threshold.flags(scores))
    for step in gathering.steps():
        assert step.threshold == pytest.approx(threshold.at(step.alpha).value)
        assert step.above["rows"] == (scores > step.threshold).sum()
