"""A model on labelled rows: the metrics, the rows that the baselines are fitted on, contributions by label, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv as pacsv
from sklearn.metrics import average_precision_score, roc_auc_score

from tests import tiny
from tests.tiny import Case
from vae_anomaly import artifact
from vae_anomaly.cli.summaries import evaluate_summary
from vae_anomaly.config import DataConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError, OutputError
from vae_anomaly.report.content import Report
from vae_anomaly.tables.source import open_source
from vae_anomaly.workflow import evaluate
from vae_anomaly.workflow.calibrate import calibrate_files
from vae_anomaly.workflow.evaluate import evaluate_files
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.requests import CalibrateRequest, EvaluateRequest, FitRequest, ScoreRequest
from vae_anomaly.workflow.score import score_files

NORMAL, LEAKS, WORN = 60, 12, 8


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Normal rows, one of them without a cell, leaks with a wrong pressure and worn pumps with a wrong flow."""
    rows = tiny.table("mixed", NORMAL + LEAKS + WORN, seed=11).to_pylist()
    rows[5] = dict.fromkeys(rows[5])
    for i in range(NORMAL, NORMAL + LEAKS):
        rows[i]["pressure"] = 1e5 + 400.0 * (i - NORMAL + 1)  # the first of them among the normal ones
    for i in range(NORMAL + LEAKS, len(rows)):
        rows[i]["flow"] = 90.0
    labels = ["normal"] * NORMAL + ["leak"] * LEAKS + ["wear"] * WORN
    return pa.Table.from_pylist(rows, schema=tiny.table("mixed", 1, seed=11).schema).append_column("fault", pa.array(labels))


@pytest.fixture
def request_(tmp_path: Path, table: pa.Table, tiny_detector: Detector) -> EvaluateRequest:
    """An evaluation of a model whose training rows are not there any more."""
    pq.write_table(table, tmp_path / "labelled.parquet", row_group_size=32)
    artifact.save(tiny_detector, tmp_path / "m")
    return EvaluateRequest(data=(str(tmp_path / "labelled.parquet"),), model=str(tmp_path / "m"), label_column="fault", no_tracking=True)


def save_as_fitted_on(detector: Detector, data: Path, model: Path) -> None:
    """Save a model whose card says that it was fitted on a file."""
    source = open_source([str(data)])
    card = replace(detector.card, source=(str(data),), data_digest=source.digest(), contents_digest=source.contents())
    artifact.save(replace(detector, card=card), model)


def test_metrics_are_those_of_the_scores(request_: EvaluateRequest, table: pa.Table, tiny_detector: Detector) -> None:
    result = evaluate_files(request_)
    scores = tiny_detector.scores(tiny.encoded(tiny_detector.schema, table.drop_columns(["fault"]))).total.numpy()
    known = ~np.isnan(scores)
    anomalous = np.array([label != "normal" for label in table["fault"].to_pylist()])
    quality = result.quality
    assert quality.auroc == pytest.approx(roc_auc_score(anomalous[known], scores[known]))
    assert 0.5 < quality.auroc < 1.0
    assert quality.average_precision == pytest.approx(average_precision_score(anomalous[known], scores[known]))
    flagged = scores > tiny_detector.threshold.value
    assert quality.recall == pytest.approx(flagged[anomalous].mean())
    assert [(f.label, f.rows, f.flagged) for f in quality.by_label] == [
        ("leak", LEAKS, int(flagged[NORMAL : NORMAL + LEAKS].sum())),
        ("wear", WORN, int(flagged[NORMAL + LEAKS :].sum())),
    ]
    assert (result.rows, result.null_scores, quality.normal_rows, result.notes) == (len(table), 1, NORMAL - 1, ())


def test_contributions_name_the_columns_of_each_label(request_: EvaluateRequest) -> None:
    by_label = evaluate_files(request_).by_label
    assert set(by_label) == {"normal", "leak", "wear"}
    assert (next(iter(by_label["leak"])), next(iter(by_label["wear"]))) == ("pressure", "flow")
    assert all(len(shares) == 5 and 0 < sum(shares.values()) <= 1.0 for shares in by_label.values())


def test_without_training_rows_baselines_are_fitted_on_half_of_the_normal_rows(request_: EvaluateRequest) -> None:
    comparison = evaluate_files(request_).quality.comparison
    assert comparison is not None
    half = (NORMAL - 1) // 2
    assert (comparison.peer_rows, comparison.test_rows) == (half, NORMAL - 1 - half + LEAKS + WORN)


def test_baselines_are_fitted_on_the_training_rows_while_their_files_are_unchanged(
    request_: EvaluateRequest, tmp_path: Path, tiny_detector: Detector
) -> None:
    pq.write_table(tiny.normal_rows("mixed"), tmp_path / "fit.parquet")
    save_as_fitted_on(tiny_detector, tmp_path / "fit.parquet", tmp_path / "again")
    request = replace(request_, model=str(tmp_path / "again"))
    comparison = evaluate_files(request).quality.comparison
    assert comparison is not None
    assert (comparison.peer_rows, comparison.test_rows) == (tiny.NORMAL_ROWS, NORMAL - 1 + LEAKS + WORN)
    pq.write_table(tiny.normal_rows("mixed").slice(1), tmp_path / "fit.parquet")
    changed = evaluate_files(request).quality.comparison
    assert changed is not None
    assert changed.peer_rows == (NORMAL - 1) // 2


def test_a_reference_is_what_baselines_are_fitted_on(request_: EvaluateRequest, tmp_path: Path) -> None:
    pq.write_table(tiny.table("mixed", 37, seed=2), tmp_path / "reference.parquet")
    comparison = evaluate_files(replace(request_, reference=(str(tmp_path / "reference.parquet"),))).quality.comparison
    assert comparison is not None
    assert (comparison.peer_rows, comparison.test_rows) == (37, NORMAL - 1 + LEAKS + WORN)


def test_one_normal_row_is_too_few_to_fit_baselines(request_: EvaluateRequest, table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(table.slice(NORMAL - 1), tmp_path / "one.parquet")
    quality = evaluate_files(replace(request_, data=(str(tmp_path / "one.parquet"),))).quality
    assert (quality.normal_rows, quality.anomalous_rows, quality.comparison) == (1, LEAKS + WORN, None)


def test_an_evaluation_on_the_training_rows_is_noted(request_: EvaluateRequest, tmp_path: Path, tiny_detector: Detector) -> None:
    data = replace(tiny_detector.config.data, label_column="fault")
    fitted = replace(tiny_detector, config=replace(tiny_detector.config, data=data))
    save_as_fitted_on(fitted, tmp_path / "labelled.parquet", tmp_path / "seen")
    result = evaluate_files(replace(request_, model=str(tmp_path / "seen"), label_column=None))
    assert result.notes == (
        (
            "these are the rows that the model was fitted on: they score lower than new ones, so that alarms and p-values say little, and "
            "the figures are too good"
        ),
    )
    assert result.quality.comparison is not None
    assert result.quality.comparison.peer_rows == NORMAL  # of the training rows those labelled normal


def test_the_report_has_the_numbers_and_labels_of_the_worst_rows(
    request_: EvaluateRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Report] = []
    monkeypatch.setattr(evaluate, "write_report", lambda report, _: reports.append(report))  # drawing it takes seconds
    result = evaluate_files(replace(request_, output=tmp_path / "e.html"))
    assert (result.output, result.next_steps) == (str(tmp_path / "e.html"), (f"open {tmp_path / 'e.html'} in a browser",))
    assert reports[0].scored is not None
    worst = {alarm.row: alarm for alarm, _ in reports[0].scored.worst}
    worn = range(NORMAL + LEAKS, NORMAL + LEAKS + WORN)
    assert set(worn) <= set(worst)
    assert all(worst[row].ids == {"label": "wear"} and worst[row].reasons[0].column == "flow" for row in worn)
    assert reports[0].quality == result.quality


def test_the_report_shows_the_text_of_levels_that_were_unseen(
    request_: EvaluateRequest, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Report] = []
    monkeypatch.setattr(evaluate, "write_report", lambda report, _: reports.append(report))
    rows = table.to_pylist()
    for i in range(NORMAL, len(rows), 3):
        rows[i]["mode"] = f"reverse {i}"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "labelled.parquet", row_group_size=32)
    evaluate_files(replace(request_, output=tmp_path / "e.html"))
    assert reports[0].scored is not None
    shown = {(alarm.row, r.value) for alarm, _ in reports[0].scored.worst for r in alarm.reasons if r.column == "mode" and r.value}
    assert {(row, value) for row, value in shown if "unseen" in value} <= {(i, f"reverse {i} (unseen)") for i in range(len(rows))}
    assert any("unseen" in value for _, value in shown)


def test_a_report_is_not_written_over_a_file(request_: EvaluateRequest, tmp_path: Path) -> None:
    (tmp_path / "e.html").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"e\.html exists\. Name another with -o, or give --overwrite to replace it\."):
        evaluate_files(replace(request_, output=tmp_path / "e.html"))
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        evaluate_files(replace(request_, output=tmp_path / "e.csv"))


def test_labels_must_be_named_present_and_of_both_classes(request_: EvaluateRequest, table: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^which column holds the labels\? Name it with --label-column\.$"):
        evaluate_files(replace(request_, label_column=None))
    with pytest.raises(ConfigError) as absent:
        evaluate_files(replace(request_, label_column="faults"))
    assert str(absent.value).startswith(
        "--label-column names a column that is not in the data: 'faults' (did you mean 'fault'?). Available columns: 'flow', "
    )
    with pytest.raises(ConfigError) as learned:
        evaluate_files(replace(request_, label_column="flow"))
    assert str(learned.value) == (
        "the label column 'flow' is an input of this model, which would be judged by what it was told. "
        "Fit again with --label-column flow or --exclude flow."
    )
    pq.write_table(table.slice(0, NORMAL), tmp_path / "normal.parquet")
    with pytest.raises(DataError, match="no row is anomalous: column 'fault'"):
        evaluate_files(replace(request_, data=(str(tmp_path / "normal.parquet"),)))
    pq.write_table(table.slice(5, 1), tmp_path / "nothing.parquet")
    with pytest.raises(DataError) as empty:
        evaluate_files(replace(request_, data=(str(tmp_path / "nothing.parquet"),)))
    assert str(empty.value) == f"no row of {tmp_path}/nothing.parquet has a value in any column of the model."


def test_a_flag_written_after_the_fault_is_told_by_fit_evaluation_and_page(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    load, bad = random.normal(size=400), np.arange(400) >= 360
    heat = load + random.normal(scale=0.3, size=400)
    labelled = pa.table({"load": load, "heat": heat, "TWF": bad.astype(float), "fault": bad.astype(int)})
    pq.write_table(labelled, tmp_path / "labelled.parquet")
    config = tiny.config(Case(kind="numeric", size="one", method="cross", prior="exemplar"), steps=10)
    config = replace(config, data=DataConfig(label_column="fault"), tracking=replace(config.tracking, enabled=False))
    fitted = fit_files(FitRequest(data=(str(tmp_path / "labelled.parquet"),), config=config, output=tmp_path / "m"))
    begins = "'TWF' is constant among the normal rows and carries "
    assert fitted.quality is not None
    assert fitted.cautions[0].startswith(begins)
    assert fitted.quality.revealing is not None
    assert (fitted.quality.auroc, fitted.quality.revealing.auroc_without < 0.8) == (1.0, True)
    found = evaluate_files(
        EvaluateRequest(data=(str(tmp_path / "labelled.parquet"),), model=str(tmp_path / "m"), no_tracking=True, output=tmp_path / "e.html")
    )
    assert found.cautions[0].startswith(begins)
    assert "is constant among the normal rows and carries" in (tmp_path / "e.html").read_text()
    assert f"caution      {begins}" in evaluate_summary(found)


@pytest.mark.parametrize(("suffix", "code"), [(".csv", "-"), (".parquet", "-9")])
def test_a_declared_missing_value_is_none_in_labels_and_groups_too(tmp_path: Path, suffix: str, code: str) -> None:
    """As in the fit: such a label is no label, and such a group is none."""
    random, data = np.random.default_rng(0), tmp_path / f"labelled{suffix}"
    labels = np.where(np.arange(400) % 10 == 0, "2", "1").astype(object)
    labels[5::50] = code
    unit = [code if i % 40 == 7 else str(1 + i % 2) for i in range(400)]
    rows = pa.table({"load": random.normal(size=400), "heat": random.normal(size=400), "unit": unit, "fault": labels.tolist()})
    if code == "-9" and suffix == ".parquet":
        rows = rows.set_column(3, "fault", rows["fault"].cast(pa.int64())).set_column(2, "unit", rows["unit"].cast(pa.int8()))
    (pacsv.write_csv if suffix == ".csv" else pq.write_table)(rows, data)
    config = tiny.config(Case(kind="numeric", size="one", method="split", prior="exemplar"), steps=5)
    reading = DataConfig(label_column="fault", normal_labels=("1",), group_by="unit", missing_values=(code,))
    config = replace(config, data=reading, tracking=replace(config.tracking, enabled=False))
    fitted = fit_files(FitRequest(data=(str(data),), config=config, output=tmp_path / "m"))
    assert fitted.labels_left_out == {"2": 40, "": 8}
    model = str(tmp_path / "m")
    found = evaluate_files(EvaluateRequest(data=(str(data),), model=model, no_tracking=True))
    assert set(found.by_label) == {"1", "2", "(empty)"}
    counts = score_files(ScoreRequest(data=(str(data),), model=model, output=tmp_path / "s.parquet")).counts
    assert (counts.unseen_groups, counts.pooled_rows) == ({}, 10)
    other = tmp_path / f"other{suffix}"
    (pacsv.write_csv if suffix == ".csv" else pq.write_table)(rows.slice(0, 399), other)
    done = calibrate_files(CalibrateRequest(data=(str(other),), model=model, group_by="unit"))
    assert (done.calibration_rows, done.anomalous_rows) == (351, 48)
    assert sorted(group.name for group in done.groups) == ["1", "2"]
