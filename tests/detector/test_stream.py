from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import GATHER_ROWS, RESULT_FIELDS, ScoreOptions, Tally, result_schema, score_batches
from vae_anomaly.errors import ConfigError, NotCalibrated, SchemaMismatch
from vae_anomaly.explain.contributions import REST

CASE = Case(kind="mixed", size="one", method="split", prior="exemplar")
ALL = ScoreOptions(explain="all", top=None)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return tiny.detector(CASE)


def _score(detector: Detector, rows: pa.Table, options: ScoreOptions = ALL) -> pa.Table:
    return pa.Table.from_batches(score_batches(detector, [tiny.one_batch(rows)], options))


def test_every_row_gives_one_row_in_order_with_the_columns_of_the_score(detector: Detector) -> None:
    out = _score(detector, tiny.odd_rows("mixed"))
    assert out.schema == result_schema([]) == pa.schema([pa.field("row", pa.int64()), *RESULT_FIELDS])
    assert out["row"].to_pylist() == list(range(tiny.ODD_ROWS))


def test_scores_p_values_and_flags_are_those_of_the_detector(detector: Detector) -> None:
    rows = tiny.odd_rows("mixed")
    out, total = _score(detector, rows), detector.scores(tiny.encoded(detector.schema, rows)).total.numpy()
    np.testing.assert_array_equal(out["anomaly_score"].to_numpy(), total)
    np.testing.assert_array_equal(out["p_value"].to_numpy(), detector.threshold.p_values(total))
    np.testing.assert_array_equal(out["is_anomaly"].to_numpy(), detector.threshold.flags(total))
    assert out["is_anomaly"][tiny.OUTLIER].as_py()


def test_another_alpha_moves_the_flags_only(detector: Detector) -> None:
    rows = tiny.odd_rows("mixed")
    strict, loose = (_score(detector, rows, ScoreOptions(alpha=alpha, explain="none")) for alpha in (0.05, 0.5))
    assert pc.sum(strict["is_anomaly"]).as_py() < pc.sum(loose["is_anomaly"]).as_py()
    assert strict["anomaly_score"].equals(loose["anomaly_score"])
    scored = np.nan_to_num(strict["p_value"].to_numpy(), nan=1.0)
    assert strict["is_anomaly"].to_pylist() == (scored <= 0.05).tolist()


def test_an_alpha_finer_than_the_calibration_is_refused_before_anything_is_read(detector: Detector) -> None:
    def never() -> Iterator[pa.RecordBatch]:
        yield pytest.fail("read a batch")

    with pytest.raises(NotCalibrated, match=r"alpha 0\.0001 needs at least 9,999 calibration rows; this model has 72"):
        next(score_batches(detector, never(), ScoreOptions(alpha=1e-4)))


# Reasons


@pytest.mark.parametrize(("explain", "who"), [("flagged", "is_anomaly"), ("all", "anomaly_score"), ("none", None)])
def test_reasons_are_given_to_those_who_are_asked_for(detector: Detector, explain: str, who: str | None) -> None:
    options = {"flagged": ScoreOptions(explain="flagged"), "all": ScoreOptions(explain="all"), "none": ScoreOptions(explain="none")}
    out = _score(detector, tiny.odd_rows("mixed"), options[explain])
    has = out["top_features"].is_valid().to_pylist()
    expected = [False] * tiny.ODD_ROWS if who is None else [bool(x) for x in out[who].to_pylist()]
    assert has == expected


def test_the_largest_contributions_come_first_and_the_rest_is_one_entry(detector: Detector) -> None:
    rows = tiny.odd_rows("mixed")
    whole, short = _score(detector, rows)["top_features"], _score(detector, rows, ScoreOptions(explain="all", top=2))["top_features"]
    for full, few in zip(whole.to_pylist(), short.to_pylist(), strict=True):
        if full is None:
            assert few is None
            continue
        contributions = [reason["contribution"] for reason in full]
        assert contributions == sorted(contributions, reverse=True)
        assert sorted(reason["column"] for reason in full) == sorted(detector.schema.names)
        assert few[:2] == full[:2]
        assert (few[2]["column"], few[2]["value"], few[2]["expected"], len(few)) == (REST, None, None, 3)
        assert few[2]["contribution"] == pytest.approx(sum(contributions[2:]), rel=1e-9, abs=1e-12)


def test_reasons_say_the_value_and_what_was_expected(detector: Detector) -> None:
    out = _score(detector, tiny.odd_rows("mixed"))["top_features"].to_pylist()
    reasons = [{reason["column"]: reason for reason in row} if row else {} for row in out]
    assert out[tiny.OUTLIER][0]["column"] == "pressure"
    assert out[tiny.OUTLIER][0]["value"] == "900000"
    assert float(out[tiny.OUTLIER][0]["expected"]) == pytest.approx(1e5, rel=0.2)
    assert (reasons[tiny.UNSEEN]["mode"]["value"], reasons[tiny.CHANGED_LEVEL]["site"]["value"]) == ("reverse (unseen)", "south (unseen)")
    assert (reasons[tiny.CHANGED_NUMBER]["rated"]["value"], reasons[tiny.CHANGED_NUMBER]["rated"]["expected"]) == ("60", "50.5")
    assert reasons[tiny.CHANGED_LEVEL]["site"]["expected"] == "north (100%)"
    assert (reasons[tiny.HOLES]["flow"]["value"], reasons[tiny.HOLES]["mode"]["value"]) == (None, None)
    assert {row["open"]["value"] for row in reasons if row} == {"true", "false", None}


# Keys, names and order


def test_id_columns_are_copied_through_instead_of_the_row_number(detector: Detector) -> None:
    rows = tiny.odd_rows("mixed").append_column("when", pa.array([f"day {i}" for i in range(tiny.ODD_ROWS)]))
    out = _score(detector, rows, ScoreOptions(explain="none", id_columns=("when", "flow")))
    assert out.column_names[:3] == ["when", "flow", "anomaly_score"]
    assert out["when"].equals(rows["when"])
    assert out["flow"].to_pylist() == rows["flow"].to_pylist()


def test_an_id_column_that_is_not_there_is_named(detector: Detector) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        _score(detector, tiny.odd_rows("mixed").select([*detector.schema.names]), ScoreOptions(id_columns=("floe",), where="new.csv"))
    assert str(caught.value) == (
        "new.csv lacks the id columns 'floe' (did you mean 'flow'?). "
        "Available columns: 'flow', 'pressure', 'power', 'celsius', 'mode', 'open', 'rated', 'crew', 'site'."
    )


def test_row_numbers_and_model_names_are_those_that_were_given(detector: Detector) -> None:
    options = ScoreOptions(explain="none", first_row=1000, model="models:/pump@champion", model_version="7")
    out = _score(detector, tiny.odd_rows("mixed").slice(0, 3), options)
    assert out["row"].to_pylist() == [1000, 1001, 1002]
    assert set(out["model"].to_pylist()) == {"models:/pump@champion"}
    assert set(out["model_version"].to_pylist()) == {"7"}


def test_batches_may_differ_in_the_order_and_the_types_of_their_columns(detector: Detector) -> None:
    rows = tiny.table("mixed", 30, seed=8)
    rows = rows.set_column(0, "flow", pa.array([30.0] * 30))
    first, second, third = (rows.slice(i, 10) for i in (0, 10, 20))
    integers = second.set_column(0, "flow", pa.array([30] * 10))
    turned = third.select(third.column_names[::-1])
    mixed = [tiny.one_batch(part) for part in (first, integers, turned)]
    assert pa.Table.from_batches(score_batches(detector, mixed, ALL)).combine_chunks().equals(_score(detector, rows).combine_chunks())


def test_a_row_that_does_not_fit_is_named_by_its_place_in_all_batches(detector: Detector) -> None:
    rows = tiny.table("mixed", 30, seed=8)
    bad = rows.set_column(0, "flow", pa.array([30.0] * 27 + [float("inf")] + [30.0] * 2))
    with pytest.raises(SchemaMismatch, match=r"column 'flow' must be finite but is inf in new\.csv row 28 \(counted from 1\)\."):
        list(score_batches(detector, bad.to_batches(max_chunksize=10), ScoreOptions(where="new.csv")))


# Flow


def test_batches_are_taken_as_they_are_needed(detector: Detector) -> None:
    taken = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield tiny.one_batch(tiny.odd_rows("mixed"))

    stream = score_batches(detector, batches(), ScoreOptions(explain="none"))
    first = next(stream)
    assert first.num_rows < GATHER_ROWS + tiny.ODD_ROWS
    assert taken * tiny.ODD_ROWS <= first.num_rows + tiny.ODD_ROWS


def test_what_a_batch_held_is_counted(detector: Detector) -> None:
    tallies: list[Tally] = []
    rows = tiny.odd_rows("mixed")
    out = pa.Table.from_batches(score_batches(detector, rows.to_batches(max_chunksize=40), ALL, on_batch=tallies.append))
    assert sum(t.rows for t in tallies) == tiny.ODD_ROWS
    assert sum(t.alarms for t in tallies) == pc.sum(out["is_anomaly"]).as_py()
    assert sum(t.unscored for t in tallies) == 1
    assert sum(t.unseen.get("mode", 0) for t in tallies) == 1
    assert sum(t.unseen.get("site", 0) for t in tallies) == 1
    for name in ("flow", "mode", "open"):
        assert sum(t.missing.get(name, 0) for t in tallies) == rows[name].null_count


@pytest.mark.parametrize(("names", "name"), [(("p_value",), "p_value"), (("when", "flow", "when"), "when")])
def test_an_id_column_may_not_have_the_name_of_another_output_column(names: tuple[str, ...], name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        ScoreOptions(id_columns=names)
    assert str(refused.value) == f"{name!r} cannot be an id column: the output has a column of that name already. Rename it in the input."
