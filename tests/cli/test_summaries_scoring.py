from dataclasses import replace

import numpy as np

from tests.cli.test_summaries import MODEL, SCORE
from vae_anomaly.calibration.guarantee import guarantee_of
from vae_anomaly.calibration.operating_point import BudgetRow, ChosenAlpha
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.cli import summaries_scoring
from vae_anomaly.tables.csv_rejects import RejectedRows
from vae_anomaly.workflow.results import CalibrateResult, Counts, Discovery, GroupRow, Untypical

CALIBRATED = CalibrateResult(
    rows=1000,
    calibration_rows=200,
    anomalous_rows=0,
    null_scores=0,
    rows_per_day=None,
    alpha_before=0.01,
    threshold_before=12.5,
    promise=guarantee_of(calibrate(np.arange(200.0), 0.05, "split")),
    choice=None,
    table=(BudgetRow(alpha=0.05, limit=0.08, threshold=189.0, false_alarms_per_10000=500.0, alerts_per_day=None, recall=None),),
    groups=(),
    fit_p_value=None,
    model=MODEL,
    next_steps=(),
)


def test_a_scoring_in_words() -> None:
    assert summaries_scoring.scoring_summary(SCORE).splitlines() == [
        "Scored 1,000 rows at 2,000 rows/s.",
        "  alarms       2; 10.0 expected if all rows are normal (alpha 0.01)",
        "  no score     3 rows without observed values",
        "  new values   mode (4)",
        "  missing      flow 50 % (fit: 1 %)",
        "  ignored      comment",
        "  model        pump version 3",
        "  written      x.csv",
        "",
        "Worst rows (the first row is 0):",
        "  row 7, machine M1: score 100, p-value 0.001",
        "    flow: missing, expected 3",
        "    power: 1, expected 2",
    ]


def test_a_scoring_that_was_done_before_says_so() -> None:
    resumed = replace(SCORE, resumed_rows=600)
    assert summaries_scoring.scoring_summary(resumed).startswith(
        "Scored 1,000 rows at 2,000 rows/s. Resumed: 600 rows had been scored before an interruption.\n"
    )
    again = replace(SCORE, unchanged=True, rows_per_second=None)
    assert summaries_scoring.scoring_summary(again).startswith(
        "Nothing to do: x.csv already holds the scores of these inputs, this model and these options."
    )


def facts_of(counts: Counts) -> list[str]:
    """Return the facts of a scoring with these counts, between the first line and the alarms."""
    lines = summaries_scoring.scoring_summary(replace(SCORE, counts=replace(counts, top_alarms=()))).splitlines()
    return lines[1:]


def test_alarms_have_their_interval() -> None:
    counts = replace(SCORE.counts, alarms=1234, likely_alarms=(4, 17))
    assert facts_of(counts)[0] == "  alarms       1,234; 10.0 expected if all rows are normal (alpha 0.01; 95 % interval 4 to 17)"


def test_a_false_discovery_rate_shows_its_cutoff() -> None:
    discovery = Discovery(rate=0.1, cutoff=0.00125, statement="at most 10 % of the alarms are false")
    flagged, none = (facts_of(replace(SCORE.counts, discovery=d)) for d in (discovery, replace(discovery, cutoff=None)))
    assert flagged[:2] == ["  alarms       2; p-value ≤ 0.00125", "  flagged by   at most 10 % of the alarms are false"]
    assert none[:2] == ["  alarms       2", "  flagged by   at most 10 % of the alarms are false; no row flagged"]


def test_rows_without_a_threshold_of_their_group() -> None:
    pooled = replace(SCORE.counts, pooled_rows=5, unseen_groups={"P9": 3})
    assert "  groups       5 use the pooled threshold: groups without calibration rows: 'P9' (3)" in facts_of(pooled)
    assert "  groups       5 use the pooled threshold: no group" in facts_of(replace(pooled, unseen_groups={}))
    assert not any(line.startswith("  groups") for line in facts_of(replace(pooled, pooled_rows=0)))


def test_untypical_and_malformed_rows() -> None:
    rejected = RejectedRows(rows=1, first="a.csv row 3: 2 cells, expected 10", quarantine="o.quarantine.csv")
    facts = facts_of(replace(SCORE.counts, typicality=Untypical(rows=30, low=12), rejected=rejected))
    assert facts[1:3] == [
        "  typicality   30 rows with p ≤ 0.01, 12 of them with low scores",
        "  skipped      1 malformed row, written to o.quarantine.csv; the first, counted from 1: a.csv row 3: 2 cells, expected 10",
    ]


def test_an_output_folder_counts_its_parts() -> None:
    new, more = (summaries_scoring.scoring_summary(replace(SCORE, parts_made=3, parts_before=n)).splitlines() for n in (0, 1200))
    assert "  parts        3 new" in new
    assert "  parts        3 new, 1,200 complete before" in more
    assert summaries_scoring.watch_line("in/a.csv", replace(SCORE.counts, rows=1, alarms=2)) == "in/a.csv: 1 row, 2 alarms"


def test_a_calibration() -> None:
    lines = summaries_scoring.calibrate_summary(CALIBRATED).splitlines()
    assert lines[:4] == [
        "Calibrated pump version 3 on 200 rows.",
        "  rows         200 of 1,000 used for calibration",
        "  previous     12.5 at alpha 0.01",
        "  threshold    190 at alpha 0.05 (split, exact; smallest possible alpha 0.00498)",
    ]
    assert lines[-4:] == [
        "",
        "Alternatives:",
        "  alpha  95 % limit  threshold  per 10,000 normal",
        "  0.05   8 %         189        500",
    ]


def test_a_calibration_on_labels_with_groups_and_a_fitted_tail() -> None:
    choice = ChosenAlpha(
        measure="F1",
        alpha=0.05,
        tried=40,
        anomaly_rate=0.05,
        value=0.9,
        low=0.85,
        high=0.95,
        recall=0.75,
        normal_rows=900,
        anomalous_rows=50,
    )
    groups = tuple(GroupRow(name=f"P{i}", rows=20, threshold=8.0 + i, lent=lent) for i, lent in enumerate((0.0, 0.25, 1.0)))
    table = (replace(CALIBRATED.table[0], limit=None, false_alarms_per_10000=5000.0, alerts_per_day=20.0, recall=0.5),)
    result = replace(
        CALIBRATED, anomalous_rows=100, null_scores=2, rows_per_day=4800.0, choice=choice, groups=groups, fit_p_value=0.31, table=table
    )
    lines = summaries_scoring.calibrate_summary(result).splitlines()
    for line in (
        "  rows         200 of 1,000 used for calibration; 100 anomalous rows not used",
        "  no score     2 rows without observed values",
        "  per day      4,800 rows",
        "  tail         Anderson-Darling p = 0.31",
        (
            "  chosen       best F1 of 40 rates on one half of the labelled rows; on the other half (900 normal, 50 anomalous): "
            "0.9 (95 % interval 0.85 to 0.95), recall 75 %"
        ),
        "  anomaly rate 5 %",
        "  groups       P0 8 (20 rows); P1 9 (20 rows, pooled weight 0.25); P2 10 (20 rows, pooled)",
        "  alpha  threshold  per 10,000 normal  per day  recall",
        "  0.05   189        5,000              20       50 %",
    ):
        assert line in lines
