"""Words of the summaries that the commands' own tests do not meet."""

from dataclasses import replace

import numpy as np
import pytest

from vae_anomaly.calibration.guarantee import guarantee_of
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.cli import summaries, summaries_scoring
from vae_anomaly.detector.card import Blocks, ColumnQuality
from vae_anomaly.evaluation.results import Comparison, FalseAlarms, Interval, Intervals, LabelFound, MissingChange, Quality, Ranking
from vae_anomaly.explain.contributions import Alarm, Reason
from vae_anomaly.schema.inference import Dropped
from vae_anomaly.tracking.registry import RegisteredVersion
from vae_anomaly.workflow.results import Counts, EvaluateResult, FitResult, ModelName, ModelsResult, ScoreResult, UiResult

MODEL = ModelName(name="pump", version="3", alias="live", run_id="r1", uri="models:/pump/3")
COLUMNS = (
    ColumnQuality(name="flow", kind="numeric", r2=0.99, missing=0.0, low=1.0, middle=2.0, high=3.0),
    ColumnQuality(name="noise", kind="numeric", r2=-0.2, missing=0.0),
    ColumnQuality(name="site", kind="category", r2=None, missing=0.0, constant="north"),
)
QUALITY = Quality(
    normal_rows=100,
    anomalous_rows=20,
    auroc=0.95,
    average_precision=0.9,
    precision=None,
    recall=0.0,
    false_alarms=FalseAlarms(rows=0, rate=0.0, low=0.0, high=0.036),
    by_label=(LabelFound(label="leak", rows=20, flagged=0),),
    comparison=Comparison(
        rankings=(Ranking(name="PCA", auroc=0.96, average_precision=0.9), Ranking(name="ours", auroc=0.95, average_precision=0.9)),
        peer_rows=1000,
        test_rows=120,
        words="PCA ranks better here: AUROC 0.9600, ours 0.9500",
    ),
)
FIT = FitResult(
    rows_read=1220,
    rows_used=1200,
    labels_left_out={"leak": 20},
    columns=COLUMNS,
    left_out=tuple(Dropped(name=f"c{i}", reason="excluded") for i in range(12)),
    seconds=1.25,
    steps=400,
    resumed_steps=0,
    stopped="the budget of 400 steps was used up",
    active_units=7.5,
    latent_units=8,
    promise=guarantee_of(calibrate(np.arange(200.0), 0.05, "cross")),
    blocks=Blocks(rates=(0.04, 0.06), p_value=0.5),
    cautions=("be careful",),
    notes=("a note",),
    quality=QUALITY,
    suspicious=(),
    model=MODEL,
    next_steps=("do this",),
)
COUNTS = Counts(
    rows=1000,
    alarms=2,
    expected_alarms=10.0,
    null_scores=3,
    unseen={"mode": 4},
    missing_changes=(MissingChange(column="flow", at_fit=0.01, now=0.5),),
    top_alarms=(
        Alarm(
            row=7,
            ids={"machine": "M1"},
            score=100.0,
            p_value=0.001,
            reasons=(
                Reason(column="flow", value=None, expected="3", contribution=90.0),
                Reason(column="power", value="1", expected="2", contribution=6.0),
                Reason(column="noise", value="1", expected="1", contribution=0.5),
            ),
        ),
    ),
)
SCORE = ScoreResult(
    output="x.csv",
    unchanged=False,
    counts=COUNTS,
    seconds=0.5,
    rows_per_second=2000.0,
    alpha=0.01,
    threshold=5.0,
    ignored_columns=("comment",),
    model=MODEL,
    next_steps=(),
)


def test_a_fit_in_words() -> None:
    lines = summaries.fit_summary(FIT).splitlines()
    assert lines[:15] == [
        "Fitted on 1,200 of 1,220 rows, 3 columns, in 1.2 s.",
        "  columns      2 numeric, 1 category",
        "  dropped      " + "; ".join(f"c{i} (excluded)" for i in range(10)) + " and 2 more",
        "  constant     site = north",
        "  explained    median R² 49.5 %; lowest: noise (0 %), flow (99 %)",
        "  weak         poorly reconstructed: noise (0 %)",
        "  labels       not used for the fit: 'leak' (20)",
        "  latent       7.5 of 8 units active",
        "  stopped      the budget of 400 steps was used up",
        "  threshold    190 at alpha 0.05 (cross-fitted, approximate; smallest possible alpha 0.00498)",
        "  guarantee    about 5 % of normal rows like these are flagged (cross-fitted on 200 rows: approximate, at most 10 % is proven)",
        "  calibration  4 % to 6 % flagged in 2 consecutive segments; p-value 0.5 for a constant rate",
        "  caution      be careful",
        "  note         a note",
        "  registered   pump version 3, alias live",
    ]
    assert lines[-3:] == ["", "Next:", "  do this"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("when", "when: --time-column when"),
        ("", "'': --time-column ''"),
        ("Date Time", "Date Time: --time-column 'Date Time'"),
        ("t\nx", "t\\nx: --time-column with its name"),
    ],
)
def test_a_time_is_offered_with_its_option_as_a_shell_takes_it(name: str, shown: str) -> None:
    said = summaries.fit_summary(replace(FIT, left_out=(Dropped(name=name, reason="timestamp", time=True),)))
    assert f"{shown} calibrates on the latest rows" in said
    assert f"dropped      {shown.partition(':')[0]} (timestamp)" in said


def test_a_detection_in_words() -> None:
    result = EvaluateResult(
        rows=120,
        null_scores=1,
        promise=FIT.promise,
        notes=("a note",),
        quality=QUALITY,
        by_label={"leak": {"flow": 0.75, "noise": 0.25}},
        output="",
        run_id="",
        model=MODEL,
        next_steps=(),
    )
    lines = summaries.evaluate_summary(result).splitlines()
    assert lines[0] == "pump version 3 on 120 labelled rows."
    assert lines[1] == "  no score     1 row without observed values, excluded"
    assert lines[4:] == [
        "  note         a note",
        "",
        "Detection:",
        "  rows         100 normal, 20 anomalous",
        "  ranking      AUROC 0.9500, average precision 0.9000",
        "  detection    recall 0 %, no row flagged, F1 0.0000",
        "  false alarms 0, a rate of 0 % (exact 95 % interval 0 % to 3.6 %)",
        "  by label     leak 0 of 20",
        "",
        "Comparison on the same 120 rows (baselines fitted on 1,000 normal rows):",
        "  detector  AUROC   average precision",
        "  PCA       0.9600  0.9000",
        "  ours      0.9500  0.9000",
        "  PCA ranks better here: AUROC 0.9600, ours 0.9500.",
        "",
        "Mean contributions to the score:",
        "  label  columns",
        "  leak   flow 75%, noise 25%",
    ]
    written = summaries.evaluate_summary(replace(result, run_id="r7", output="e.html")).splitlines()
    assert written[5:7] == ["  run          r7", "  written      e.html"]


def test_intervals_in_words() -> None:
    ends = Interval(low=0.25, high=0.75)
    intervals = Intervals(auroc=ends, average_precision=ends, recall=ends, precision=ends, f1=ends)
    for found, precision in ((intervals, ", precision 25 % to 75 %"), (replace(intervals, precision=None), "")):
        lines = summaries.fit_summary(replace(FIT, quality=replace(QUALITY, intervals=found))).splitlines()
        assert (
            "  intervals    AUROC 0.2500 to 0.7500, average precision 0.2500 to 0.7500, F1 0.2500 to 0.7500, recall 25 % to 75 %"
            f"{precision} (95 %, bootstrap)"
        ) in lines


def test_versions_as_a_table() -> None:
    version = RegisteredVersion(
        name="pump", version="3", aliases=("live",), created="2025", run_id="r",
        tags={"rows": "20000000", "alpha": "0.01", "threshold": "86.47940880691763"},
    )  # fmt: skip
    edited = replace(version, version="2", aliases=(), tags={"alpha": "mine"})
    assert summaries.versions_table(ModelsResult(store="s", versions=(version, edited))).splitlines() == [
        "  model  version  alias  created  rows      alpha  threshold",
        "  pump   3        live   2025     20000000  0.01   86.4794",
        "  pump   2               2025               mine",
    ]


def test_where_the_ui_is() -> None:
    assert summaries.ui_summary(UiResult(url="http://h:1", store="s", command=())) == "MLflow UI of s at http://h:1 (Ctrl-C stops it)"


def test_suspicious_rows_are_named_with_reasons_and_what_to_do() -> None:
    lines = summaries.fit_summary(replace(FIT, suspicious=COUNTS.top_alarms)).splitlines()
    at = lines.index("Suspicious rows among the normal rows (the first row is 0):")
    assert lines[at - 1 : at + 7] == [
        "",
        "Suspicious rows among the normal rows (the first row is 0):",
        "  row 7, machine M1: score 100, p-value 0.001",
        "    flow: missing, expected 3",
        "    power: 1, expected 2",
        "  If they are faults, exclude them and fit again; if there may be more, fit with --contamination-robust.",
        "",
        "Next:",
    ]
    assert "Suspicious" not in summaries.fit_summary(FIT)


def test_names_of_others_are_one_line_and_short() -> None:
    odd, long = "\x1b]0;x\x07\n", "n" * 100_000
    alarm = Alarm(
        row=1,
        ids={odd: long},
        score=9.0,
        p_value=0.01,
        part=odd,
        reasons=(Reason(column=long, value=odd, expected=long, contribution=9.0),),
    )
    columns = tuple(
        replace(column, name=name, constant=column.constant and odd) for column, name in zip(COLUMNS, (odd, long, long), strict=True)
    )
    left_out = tuple(Dropped(name=name, reason="excluded") for name in (odd, long))
    said = summaries.fit_summary(replace(FIT, columns=columns, left_out=left_out, labels_left_out={long: 3}, suspicious=(alarm,)))
    assert not any(character in said for character in "\x1b\x07")
    assert max(map(len, said.splitlines())) < 400
    assert r"  row 1 of \x1b]0;x\x07\n, \x1b]0;x\x07\n nnnn" in said
    counts = replace(SCORE.counts, unseen={long: 2}, top_alarms=())
    assert max(map(len, summaries_scoring.scoring_summary(replace(SCORE, counts=counts, ignored_columns=(long, odd))).splitlines())) < 200
