import pytest

from tests import tiny
from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.detector.stream import Rejections
from vae_anomaly.model.ensemble import Ensemble
from vae_anomaly.tables.csv_rejects import Rejected
from vae_anomaly.workflow.score_counts import Counting, RejectLog, missing_changes


def test_missing_rates_change_by_more_than_chance() -> None:
    def column(name: str, missing: float) -> ColumnQuality:
        return ColumnQuality(name=name, kind="numeric", r2=0.5, missing=missing)

    fitted = [column("same", 0.01), column("gone", 0.01), column("back", 0.5), column("chance", 0.01)]
    found = missing_changes(fitted, 10_000, {"same": 10, "gone": 1000, "chance": 14}, 1000)
    assert [(c.column, c.at_fit, c.now) for c in found] == [("gone", 0.01, 1.0), ("back", 0.5, 0.0)]
    assert missing_changes(fitted, 10_000, {}, 0) == ()
    # Certain, but too small to matter.
    assert missing_changes([column("same", 0.010)], 10**8, {"same": 12 * 10**5}, 10**8) == ()


def rejected(number: int) -> Rejected:
    return Rejected(number=number, file="a.csv", row=number + 1, reason="3 cells instead of 2", text="1,2,3")


def test_rejections_count_for_the_rows_that_follow_them() -> None:
    log = RejectLog(quarantine=None, before=Rejections(rows=2, first="an earlier one"))
    for number in (4, 5, 9):
        log.add(rejected(number))
    assert [log.up_to(position).rows for position in (4, 5, 6, 9, 10, 20)] == [2, 2, 4, 4, 5, 5]
    assert log.up_to(20).first == "an earlier one"


def test_a_streak_of_rejections_takes_the_memory_of_one() -> None:
    log = RejectLog(quarantine=None, before=Rejections())
    for number in range(10_000):
        log.add(rejected(number))
    assert len(log.ahead) == 1
    # The whole streak lies before the next good row, so that no position inside it is ever asked for.
    assert log.up_to(10_000) == Rejections(rows=10_000, first=rejected(0).where)


@pytest.mark.parametrize("position", [3, 6])
def test_resumed_rejections_are_those_of_a_straight_pass(position: int) -> None:
    straight, first = RejectLog(quarantine=None, before=Rejections()), RejectLog(quarantine=None, before=Rejections())
    numbers = (1, 2, 4, 5, 8)
    for number in numbers:
        straight.add(rejected(number))
        if number < position + 2:  # the killed job had read further than it had scored
            first.add(rejected(number))
    counting = Counting(ids=())
    counting.reject(first.up_to(position))
    resumed = RejectLog(quarantine=None, before=Rejections(rows=counting.rejected, first=counting.first_rejected))
    for number in numbers:
        if number >= position:
            resumed.add(rejected(number))
    assert resumed.up_to(9) == straight.up_to(9)


def test_a_processor_on_which_the_batch_matters_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny.detector(tiny.CASES[0])
    assert Counting(ids=(), rows=10).done(detector, detector.threshold).cautions == ()
    monkeypatch.setattr(Ensemble, "rounds_alike", property(lambda _: False))
    told = Counting(ids=(), rows=10).done(detector, detector.threshold).cautions
    assert told == ("on this processor the last digits of a score can depend on the rows that are scored with it",)
