import pytest

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.detector import Detector
from vae_anomaly.explain import counterfactual
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.explain.counterfactual import find_counterfactual
from vae_anomaly.schema.encoding import Batch, model_order

MIXED = Case(kind="mixed", size="several", method="split", prior="exemplar")


def _row(place: int, rows: Batch) -> Batch:
    return rows.rows(slice(place, place + 1))


def _odd() -> tuple[Detector, Batch]:
    detector = tiny.detector(MIXED)
    return detector, tiny.encoded(detector.schema, tiny.odd_rows("mixed"))


def _changed(before: Batch, after: Batch) -> set[int]:
    d_num = before.numeric.shape[-1]
    numbers = (before.numeric != after.numeric).flatten().nonzero().flatten().tolist()
    codes = (before.codes != after.codes).flatten().nonzero().flatten().tolist()
    return {*numbers, *(d_num + j for j in codes)}


def test_one_wild_number_is_the_one_change_and_moves_only_as_far_as_it_must() -> None:
    detector, rows = _odd()
    row, limit = _row(tiny.OUTLIER, rows), detector.threshold.value
    change = find_counterfactual(detector.ensemble, row, limit)
    pressure = [c.name for c in model_order(detector.schema)].index("pressure")
    assert (change.reached, change.columns, _changed(row, change.row)) == (True, (pressure,), {pressure})
    assert float(detector.scores(change.row).total[0]) == change.score <= limit
    before, after = float(row.numeric[0, 0, pressure]), float(change.row.numeric[0, 0, pressure])
    expected = float(explain_rows(detector.ensemble, row).number[0, pressure])
    assert expected < after < before
    # Two per cent less of the way leave the row flagged, and the number is short.
    numeric = change.row.numeric.clone()
    numeric[0, 0, pressure] = before + 0.98 * (after - before)
    assert float(detector.scores(Batch(numeric=numeric, codes=row.codes, observed=row.observed)).total[0]) > limit
    assert len(f"{after:.15g}") <= 7


@pytest.mark.parametrize(("place", "name", "value"), [(tiny.CHANGED_NUMBER, "rated", 50.5), (tiny.CHANGED_LEVEL, "site", 0)])
def test_a_changed_constant_goes_back_to_what_it_was(place: int, name: str, value: float) -> None:
    detector, rows = _odd()
    row = _row(place, rows)
    change = find_counterfactual(detector.ensemble, row, detector.threshold.value)
    columns = [c.name for c in model_order(detector.schema)]
    assert columns[change.columns[0]] == name
    j, d_num = columns.index(name), row.numeric.shape[-1]
    assert float(change.row.numeric[0, 0, j] if j < d_num else change.row.codes[0, 0, j - d_num]) == value


def test_a_row_under_the_limit_needs_no_change() -> None:
    detector, rows = _odd()
    row = _row(0, rows)
    score = float(detector.scores(row).total[0])
    change = find_counterfactual(detector.ensemble, row, score)
    assert (change.reached, change.columns, change.score) == (True, (), score)
    assert change.row is row


def test_none_is_found_where_no_change_helps() -> None:
    detector, rows = _odd()
    change = find_counterfactual(detector.ensemble, _row(tiny.OUTLIER, rows), -1.0)
    assert not change.reached
    assert change.score > -1.0
    assert len(change.columns) >= 1  # what lowered it most is still told


def test_a_missing_cell_is_changed_only_where_it_costs_something() -> None:
    detector, rows = _odd()
    row = _row(tiny.HOLES, rows)
    change = find_counterfactual(detector.ensemble, row, 0.0)
    holes = {j for j in range(row.observed.shape[-1]) if not bool(row.observed[0, 0, j])}
    rated = [c.name for c in model_order(detector.schema)].index("rated")
    assert len(holes) > 1
    assert holes & set(change.columns) == {rated}  # the others were missing now and then in the fit


def test_a_sensor_that_went_silent_is_given_its_expected_value() -> None:
    detector, _ = _odd()
    normal = tiny.encoded(detector.schema, tiny.normal_rows("mixed"))
    row = _row(int(detector.scores(normal).total.argmin()), normal)  # nothing but the silence is unusual
    crew = [c.name for c in model_order(detector.schema)].index("crew")
    silent = Batch(numeric=row.numeric, codes=row.codes.clone(), observed=row.observed.clone())
    silent.observed[0, 0, crew] = False
    limit = float(detector.scores(silent).total[0]) - 1.0
    change = find_counterfactual(detector.ensemble, silent, limit)
    assert (change.reached, change.columns) == (True, (crew,))
    assert bool(change.row.observed[0, 0, crew])
    assert not bool(silent.observed[0, 0, crew])
    assert float(detector.scores(change.row).total[0]) == change.score <= limit


def test_changes_that_later_ones_make_unnecessary_are_reverted() -> None:
    detector, rows = _odd()
    row = _row(tiny.OUTLIER, rows)
    columns = [c.name for c in model_order(detector.schema)]
    flow, power, pressure = (columns.index(name) for name in ("flow", "power", "pressure"))
    expected, numeric = explain_rows(detector.ensemble, row).number, row.numeric.clone()
    for j in (flow, power, pressure):
        numeric[0, 0, j] = expected[0, j]
    now = Batch(numeric=numeric, codes=row.codes, observed=row.observed)
    assert _changed(row, now) == {flow, power, pressure}
    # Any limit that the pressure alone brings the row under, whatever else has changed.
    totals = []
    for others in ((), (flow,), (power,), (flow, power)):
        some = row.numeric.clone()
        some[0, 0, [pressure, *others]] = numeric[0, 0, [pressure, *others]]
        totals.append(float(detector.scores(Batch(numeric=some, codes=row.codes, observed=row.observed)).total))
    limit = max(totals)
    assert limit < float(detector.scores(row).total)
    back, kept = counterfactual._without_unnecessary(detector.ensemble, row, now, [flow, power, pressure], limit)  # noqa: SLF001
    assert (kept, _changed(row, back)) == ([pressure], {pressure})


@pytest.mark.parametrize(
    ("value", "up", "first"),
    [(506.2345, True, [600.0, 510.0, 507.0]), (506.2345, False, [500.0, 500.0, 506.0]), (-0.0123, True, [-0.01, -0.012, -0.0123])],
)
def test_numbers_are_rounded_away_from_the_limit(value: float, up: bool, first: list[float]) -> None:  # noqa: FBT001
    found = counterfactual._rounded(value, up=up)  # noqa: SLF001
    assert found[:3] == first
    assert found[-1] == pytest.approx(value, rel=1e-12)
    assert all((x >= value - 1e-12) if up else (x <= value + 1e-12) for x in found)
    assert counterfactual._rounded(0.0, up=True) == [0.0]  # noqa: SLF001


def test_no_more_than_ten_columns_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counterfactual, "MAX_CHANGED_COLUMNS", 2)
    detector, rows = _odd()
    change = find_counterfactual(detector.ensemble, _row(tiny.OUTLIER, rows), 1e-9)
    assert (len(change.columns), change.reached) == (2, False)


def test_the_last_number_moves_to_the_limit_to_one_part_in_128_cubed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against bisection of the score along the way; digits are then dropped for at most one per cent of the way."""
    detector, rows = _odd()
    row, limit = _row(tiny.OUTLIER, rows), detector.threshold.value
    j = [c.name for c in model_order(detector.schema)].index("pressure")
    before, expected = float(row.numeric[0, 0, j]), float(explain_rows(detector.ensemble, row).number[0, j])

    def score(value: float) -> float:
        numeric = row.numeric.clone()
        numeric[0, 0, j] = value
        return float(detector.scores(Batch(numeric=numeric, codes=row.codes, observed=row.observed)).total[0])

    outside, inside = before, expected
    while abs(outside - inside) > 1e-9 * abs(before - expected):
        middle = (outside + inside) / 2
        outside, inside = (outside, middle) if score(middle) <= limit else (middle, inside)

    rounded = float(find_counterfactual(detector.ensemble, row, limit).row.numeric[0, 0, j])
    assert 0.0 <= inside - rounded <= 0.01 * (before - inside)
    monkeypatch.setattr(counterfactual, "ROUNDING", 0.0)
    exact = float(find_counterfactual(detector.ensemble, row, limit).row.numeric[0, 0, j])
    assert abs(exact - inside) <= (before - expected) / 128**3
