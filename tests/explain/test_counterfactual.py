import pytest

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.detector import Detector
from vae_anomaly.explain import counterfactual
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.explain.counterfactual import smallest_change
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
    found = smallest_change(detector.ensemble, row, limit)
    pressure = [c.name for c in model_order(detector.schema)].index("pressure")
    assert (found.found, found.places, _changed(row, found.row)) == (True, (pressure,), {pressure})
    assert float(detector.scores(found.row).total[0]) == found.score <= limit
    before, after = float(row.numeric[0, 0, pressure]), float(found.row.numeric[0, 0, pressure])
    expected = float(explain_rows(detector.ensemble, row).number[0, pressure])
    assert expected < after < before
    # Two per cent less of the way leave the row flagged, and the number is short.
    numeric = found.row.numeric.clone()
    numeric[0, 0, pressure] = before + 0.98 * (after - before)
    assert float(detector.scores(Batch(numeric=numeric, codes=row.codes, observed=row.observed)).total[0]) > limit
    assert len(f"{after:.15g}") <= 7


@pytest.mark.parametrize(("place", "name", "value"), [(tiny.CHANGED_NUMBER, "rated", 50.5), (tiny.CHANGED_LEVEL, "site", 0)])
def test_a_changed_constant_goes_back_to_what_it_was(place: int, name: str, value: float) -> None:
    detector, rows = _odd()
    row = _row(place, rows)
    found = smallest_change(detector.ensemble, row, detector.threshold.value)
    columns = [c.name for c in model_order(detector.schema)]
    assert columns[found.places[0]] == name
    j, d_num = columns.index(name), row.numeric.shape[-1]
    assert float(found.row.numeric[0, 0, j] if j < d_num else found.row.codes[0, 0, j - d_num]) == value


def test_a_row_under_the_limit_needs_no_change() -> None:
    detector, rows = _odd()
    row = _row(0, rows)
    score = float(detector.scores(row).total[0])
    found = smallest_change(detector.ensemble, row, score)
    assert (found.found, found.places, found.score) == (True, (), score)
    assert found.row is row


def test_none_is_found_where_no_change_helps() -> None:
    detector, rows = _odd()
    found = smallest_change(detector.ensemble, _row(tiny.OUTLIER, rows), -1.0)
    assert not found.found
    assert found.score > -1.0
    assert len(found.places) >= 1  # what lowered it most is still told


def test_a_missing_cell_is_never_changed() -> None:
    detector, rows = _odd()
    row = _row(tiny.HOLES, rows)
    found = smallest_change(detector.ensemble, row, 0.0)
    holes = {j for j in range(row.observed.shape[-1]) if not bool(row.observed[0, 0, j])}
    assert holes
    assert not holes & set(found.places)


def test_what_later_changes_make_needless_is_put_back() -> None:
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
    back, kept = counterfactual._without_the_needless(detector.ensemble, row, now, [flow, power, pressure], limit)  # noqa: SLF001
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
    monkeypatch.setattr(counterfactual, "MOST_COLUMNS", 2)
    detector, rows = _odd()
    found = smallest_change(detector.ensemble, _row(tiny.OUTLIER, rows), 1e-9)
    assert (len(found.places), found.found) == (2, False)
