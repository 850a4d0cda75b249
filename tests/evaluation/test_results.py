from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.evaluation.results import missing_changes
from vae_anomaly.messages import percent


def test_missing_rates_change_by_more_than_chance() -> None:
    def column(name: str, missing: float) -> ColumnQuality:
        return ColumnQuality(name=name, kind="numeric", r2=0.5, missing=missing)

    fitted = [column("same", 0.01), column("gone", 0.01), column("back", 0.5), column("chance", 0.01)]
    found = missing_changes(fitted, 10_000, {"same": 10, "gone": 1000, "chance": 14}, 1000)
    assert [(c.column, c.at_fit, c.now) for c in found] == [("gone", 0.01, 1.0), ("back", 0.5, 0.0)]
    assert missing_changes(fitted, 10_000, {}, 0) == ()
    # Certain, but too small to matter.
    assert missing_changes([column("same", 0.010)], 10**8, {"same": 12 * 10**5}, 10**8) == ()


def test_percent_has_three_digits() -> None:
    assert [percent(x) for x in (0.5, 0.000123456, 1.0)] == ["50 %", "0.0123 %", "100 %"]
