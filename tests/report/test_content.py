from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.score_summary import ScoreSummary
from vae_anomaly.explain.contributions import Alarm, Reason
from vae_anomaly.report.content import model_facts, overview, reasons_in_context
from vae_anomaly.schema.inference import Dropped


@pytest.fixture
def detector() -> Detector:
    return tiny.detector(Case(kind="mixed", size="several", method="split", prior="exemplar"))


def _gathering(detector: Detector) -> ScoreSummary:
    return ScoreSummary(threshold=detector.threshold, worst_rows=10)


def test_a_report_without_rows_is_about_the_model(detector: Detector) -> None:
    found = overview(detector, _gathering(detector), title="pump")
    assert (found.scored, found.quality, found.title) == (None, None, "pump")
    assert {q.name for q in found.columns} == {q.name for q in detector.quality}
    known = [q.r2 for q in found.columns if q.r2 is not None]
    assert known == sorted(known)
    assert [q.r2 for q in found.columns[len(known) :]] == [None, None]  # constants last
    assert sum(found.histogram.counts["calibration"]) == found.calibration_rows == 72
    assert "few rows" in found.cautions[0]


def test_columns_and_left_out_ones_are_cut(detector: Detector) -> None:
    dropped = tuple(Dropped(name=f"x{i}", reason="excluded") for i in range(201))
    wide = replace(detector, quality=detector.quality * 23, schema=replace(detector.schema, dropped=dropped))
    found = overview(wide, _gathering(detector), title="")
    assert (len(found.columns), found.more_columns, len(found.left_out), found.more_left_out) == (200, 7, 200, 1)


def test_too_few_alarms_are_said(detector: Detector) -> None:
    gathering = _gathering(detector)
    gathering.add(np.zeros(5000), np.zeros(5000, dtype=np.bool_))
    assert overview(detector, gathering, title="").cautions[0].startswith("0 alarms are fewer than chance allows: 500.0 are expected")


def test_rows_are_counted_and_too_many_alarms_are_said(detector: Detector) -> None:
    gathering = _gathering(detector)
    gathering.source = "new.csv"
    scores = np.append(np.full(50, 1e6), np.full(50, np.nan))
    gathering.add(scores, detector.threshold.flags(scores))
    gathering.offer(Alarm(row=3, ids={}, score=1e6, p_value=0.01, reasons=()))
    found = overview(detector, gathering, title="", notes=("a note",))
    assert found.scored is not None
    assert (found.scored.rows, found.scored.unscored, found.scored.alarms, found.scored.source) == (100, 50, 50, "new.csv")
    assert found.scored.expected == pytest.approx(5.0)
    assert [alarm.row for alarm, _ in found.scored.worst] == [3]
    assert found.cautions[:2] == (
        "a note",
        (
            "50 of 100 rows are flagged where 5.0 are expected if all were normal: either many are anomalous, or normal rows have changed "
            "since the fit"
        ),
    )


def test_reasons_get_the_range_and_the_z_of_their_column(detector: Detector) -> None:
    reasons = [
        Reason(column="pressure", value="9e5", expected="1e5", contribution=7.5),
        Reason(column="mode", value=None, expected="low (50%)", contribution=1.0),
        Reason(column="nowhere", value="1", expected="1", contribution=1.0),
    ]
    pressure, mode = reasons_in_context(detector, reasons)
    quality = next(q for q in detector.quality if q.name == "pressure")
    assert detector.usual is not None
    assert (pressure.low, pressure.high) == (quality.low, quality.high)
    assert pressure.z == pytest.approx((7.5 - float(detector.usual.middle[1])) / float(detector.usual.spread[1]))
    assert (mode.value, mode.expected, mode.low) == (None, "low (50%)", None)
    assert reasons_in_context(replace(detector, usual=None), reasons)[0].z is None
    assert len(reasons_in_context(detector, reasons * 4)) == 4


def test_facts_say_what_a_model_was_made_from(detector: Detector) -> None:
    card = replace(detector.card, source=tuple(f"{i}.csv" for i in range(7)), created="", versions=(("torch", "2"), ("numpy", "3")))
    found = dict(model_facts(replace(detector, card=card)))
    assert found["data"] == "0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 2 more"
    assert found["rows"] == "240: 168 for training, 72 for calibration"
    assert found["networks"] == "6, on the views standard, minmax, robust"
    assert found["versions"] == "torch 2, numpy 3"
    assert "fitted" not in found
