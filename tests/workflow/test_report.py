"""The report verb, and what evaluate logs and writes: whole or absent, tagged with the model, honest about what is odd."""

import json
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.tiny import encoded
from vae_anomaly import artifact
from vae_anomaly.cli import summaries
from vae_anomaly.cli.app import app
from vae_anomaly.config import CalibrationConfig, Config, DataConfig, ModelConfig, TrackingConfig, TrainConfig
from vae_anomaly.errors import OutputError, SchemaMismatch
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.workflow.evaluate import evaluate_files
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.report import report_files
from vae_anomaly.workflow.requests import EvaluateRequest, FitRequest, ReportRequest, ScoreRequest
from vae_anomaly.workflow.results import FitResult
from vae_anomaly.workflow.score import score_files


def _config(uri: str) -> Config:
    return Config(
        data=DataConfig(id_columns=("id", "clock")),
        model=ModelConfig(views=("standard",), members=1, hidden=(8,), latent=2, exemplars=40),
        train=TrainConfig(steps=10, batch_rows=32, device="cpu"),
        calibration=CalibrationConfig(alpha=0.05, method="split", share=0.3),
        tracking=TrackingConfig(model_name="pump", alias="live", uri=uri),
    )


def _table(rows: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    a = random.normal(size=rows)
    clock = pa.array(1_740_787_200 + 60 * np.arange(rows), pa.timestamp("s"))
    return pa.table({"id": np.arange(rows), "clock": clock, "a": a, "b": a + random.normal(scale=0.1, size=rows)})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("report")
    shutil.copy2(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def uri(place: Path) -> str:
    return f"sqlite:///{place}/mlflow.db"


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logger = logging.getLogger("vae_anomaly")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="module")
def fitted(place: Path, uri: str) -> FitResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        pq.write_table(_table(200, seed=1), "normal.parquet")
        found = fit_files(FitRequest(data=("normal.parquet",), config=_config(uri)))
        rows = _table(60, seed=2).to_pylist()
        rows[7]["b"] = 50.0
        pq.write_table(pa.Table.from_pylist(rows), "new.parquet")
        score_files(ScoreRequest(data=("new.parquet",), model="models:/pump@live", id_columns=("id", "clock"), tracking_uri=uri))
        broken = _table(20, seed=4).set_column(3, "b", pa.array([50.0] * 20))
        labelled = pa.concat_tables([_table(100, seed=5), broken])
        pq.write_table(labelled.append_column("fault", pa.array(["normal"] * 100 + ["leak"] * 12 + ["wear"] * 8)), "labelled.parquet")
        return found


@pytest.fixture
def request_(fitted: FitResult, uri: str, tmp_path: Path) -> ReportRequest:
    assert fitted.model.version == "1"
    return ReportRequest(model="models:/pump@live", output=tmp_path / "page.html", scores="new.scores.parquet", tracking_uri=uri)


# report


def test_a_report_shows_the_scores_of_a_file(request_: ReportRequest) -> None:
    found = report_files(request_)
    page = request_.output.read_text(encoding="utf-8")
    assert (found.output, found.rows, found.bytes) == (str(request_.output), 60, len(page.encode()))
    flags = pq.read_table("new.scores.parquet")["is_anomaly"].to_pylist()
    assert found.alarms == sum(flags)
    assert "<title>pump version 1 – vae-anomaly report</title>" in page
    assert "Row 7, id 7, clock 2025-03-01 00:07:00: score" in page
    assert "Highest score and number of alarms per 1 minute" not in page
    assert "Highest score and number of alarms per minute of clock, 2025-03-01 00:00 to 2025-03-01 00:59." in page
    assert not [c for c in found.cautions if "another" in c]
    assert summaries.report_summary(found).splitlines()[2] == f"  rows         60 scored, {found.alarms} alarms"


def test_columns_at_a_standstill_are_cautions(request_: ReportRequest, fitted: FitResult, uri: str, tmp_path: Path) -> None:
    rows = _table(60, 9)
    name = rows.column_names[-1]
    dead = rows.set_column(rows.num_columns - 1, name, pa.nulls(60, rows[name].type))
    pq.write_table(dead, tmp_path / "dead.parquet")
    for output in (tmp_path / "dead.csv", tmp_path / "parts"):
        score_files(ScoreRequest(data=(str(tmp_path / "dead.parquet"),), model=fitted.model.uri, tracking_uri=uri, output=output))
        report = report_files(replace(request_, scores=str(output), output=tmp_path / "page.html", overwrite=True))
        assert f"{name} has no value in the 60 rows of {tmp_path / 'dead.parquet'}" in report.cautions


def test_a_report_without_scores_is_about_the_model(request_: ReportRequest) -> None:
    found = report_files(replace(request_, scores=None))
    assert (found.rows, found.alarms) == (0, 0)
    assert 'id="alarms"' not in request_.output.read_text(encoding="utf-8")


def test_an_existing_page_stays_unless_it_may_go(request_: ReportRequest) -> None:
    request_.output.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError) as caught:
        report_files(request_)
    assert str(caught.value) == f"{request_.output} exists. Name another with -o, or give --overwrite to replace it."
    assert request_.output.read_text(encoding="utf-8") == "mine"
    report_files(replace(request_, overwrite=True))
    assert request_.output.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_table_that_is_no_output_of_score_leaves_no_page(request_: ReportRequest) -> None:
    with pytest.raises(SchemaMismatch, match=r"new\.parquet is not an output of score: it lacks 'anomaly_score'"):
        report_files(replace(request_, scores="new.parquet"))
    assert not request_.output.exists()


def test_scores_of_another_model_and_another_rule_are_said(request_: ReportRequest, tmp_path: Path) -> None:
    table = pq.read_table("new.scores.parquet")
    table = table.set_column(table.column_names.index("model_version"), "model_version", pa.array(["9"] * 60))
    table = table.set_column(table.column_names.index("is_anomaly"), "is_anomaly", pa.array([False] * 60))
    pq.write_table(table, tmp_path / "other.parquet")
    found = report_files(replace(request_, scores=str(tmp_path / "other.parquet")))
    above = sum(s > 0 for s in pq.read_table("new.scores.parquet")["is_anomaly"].to_pylist())
    assert found.cautions[:2] == (
        "the rows were scored by pump version 9, and this report is of pump version 1: scores of different models do not compare",
        f"the rows were flagged by another rule: 0 are flagged, and {above} are above the threshold of this model",
    )


def test_the_command_writes_where_it_is_told(fitted: FitResult, uri: str, tmp_path: Path) -> None:
    words = ["report", "-m", fitted.model.uri, "--tracking-uri", uri, "-o", str(tmp_path / "r.html"), "--json"]
    found = json.loads(CliRunner().invoke(app, words).stdout)
    assert (found["output"], found["model"]["version"]) == (str(tmp_path / "r.html"), "1")
    again = CliRunner().invoke(app, words[:-1])
    assert (again.exit_code, again.stderr.startswith("error: ")) == (7, True)


# fit and evaluate


def test_a_fit_logs_its_report(fitted: FitResult, uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    path = MlflowClient(uri).download_artifacts(fitted.model.run_id, "report.html", str(tmp_path))
    page = Path(path).read_text(encoding="utf-8")
    assert "<h1>pump</h1>" in page
    assert page.endswith("</html>")


def _evaluation(uri: str) -> EvaluateRequest:
    return EvaluateRequest(data=("labelled.parquet",), model="models:/pump@live", label_column="fault", tracking_uri=uri)


@pytest.mark.usefixtures("fitted")
def test_an_evaluation_is_a_run_of_its_own(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    found = evaluate_files(replace(_evaluation(uri), output=tmp_path / "e.html"))
    client = MlflowClient(uri)
    run = client.get_run(found.run_id)
    assert (run.info.run_name, run.info.status) == ("evaluate pump version 1", "FINISHED")
    assert (run.data.tags["model"], run.data.tags["model_version"], run.data.tags["vae_anomaly.verb"]) == ("pump", "1", "evaluate")
    assert run.data.metrics["auroc"] == found.quality.auroc
    assert found.quality.intervals is not None
    assert run.data.metrics["recall_low"] == found.quality.intervals.recall.low
    assert run.data.metrics["false_alarm_rate_high"] > run.data.metrics["false_alarm_rate"]
    pictures = {Path(f.path).stem for f in client.list_artifacts(found.run_id, "figures")}
    assert pictures == {"roc", "precision_recall", "score_by_class", "p_values", "contributions"}
    assert run.inputs is not None
    assert [tag.value for tag in run.inputs.dataset_inputs[0].tags] == ["evaluation"]
    logged = Path(client.download_artifacts(found.run_id, "report.html", str(tmp_path))).read_text(encoding="utf-8")
    assert logged == (tmp_path / "e.html").read_text(encoding="utf-8")
    assert "label leak" in logged
    assert "are flagged where" not in logged  # with labels it is known which rows are anomalous


@pytest.mark.usefixtures("fitted")
def test_nothing_is_logged_when_nobody_wants_it(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    experiment = [MlflowClient(uri).get_experiment_by_name("vae-anomaly").experiment_id]  # type: ignore[union-attr]  # it exists
    before = len(MlflowClient(uri).search_runs(experiment))
    found = evaluate_files(replace(_evaluation(uri), no_tracking=True))
    assert (found.run_id, found.output, len(MlflowClient(uri).search_runs(experiment))) == ("", "", before)
    fit_files(
        FitRequest(data=("normal.parquet",), config=replace(_config(uri), tracking=TrackingConfig(enabled=False)), output=tmp_path / "m")
    )
    monkeypatch.chdir(tmp_path)
    data = pq.read_table(Path(uri.removeprefix("sqlite:///")).parent / "labelled.parquet")
    pq.write_table(data, "labelled.parquet")
    assert evaluate_files(replace(_evaluation(uri), model="m", tracking_uri=None)).run_id == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labelled.parquet", "m"]


@pytest.mark.usefixtures("fitted")
def test_an_existing_page_is_refused_before_anything_is_scored(uri: str, tmp_path: Path) -> None:
    (tmp_path / "e.html").write_text("mine", encoding="utf-8")
    request = replace(_evaluation(uri), output=tmp_path / "e.html", no_tracking=True)
    with pytest.raises(OutputError) as caught:
        evaluate_files(replace(request, data=("nowhere.parquet",)))
    assert str(caught.value) == f"{tmp_path / 'e.html'} exists. Name another with -o, or give --overwrite to replace it."
    evaluate_files(replace(request, overwrite=True))
    assert "Evaluation on labelled rows" in (tmp_path / "e.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("fitted")
def test_what_makes_the_score_of_each_label(uri: str, tmp_path: Path) -> None:
    fit_files(
        FitRequest(data=("normal.parquet",), config=replace(_config(uri), tracking=TrackingConfig(enabled=False)), output=tmp_path / "m")
    )
    found = evaluate_files(replace(_evaluation(uri), model=str(tmp_path / "m")))
    detector = artifact.load(tmp_path / "m")
    leaks = encoded(detector.schema, pq.read_table("labelled.parquet").slice(100, 12))
    mean = explain_rows(detector.ensemble, leaks).contribution.mean(0)
    names = [c.name for c in detector.schema.columns]
    assert set(found.by_label) == {"normal", "leak", "wear"}
    expected = {name: float(m / mean.sum()) for name, m in zip(names, mean, strict=True)}
    assert dict(found.by_label["leak"]) == pytest.approx(expected, rel=1e-9)
    assert next(iter(found.by_label["leak"])) == max(expected, key=lambda name: expected[name])


@pytest.mark.usefixtures("fitted")
def test_rows_keep_their_numbers_where_others_have_no_score(uri: str, tmp_path: Path) -> None:
    rows = pq.read_table("labelled.parquet").slice(90, 12).to_pylist()
    rows[2] |= {"a": None, "b": None}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "few.parquet")
    request = replace(_evaluation(uri), data=(str(tmp_path / "few.parquet"),), no_tracking=True, output=tmp_path / "few.html")
    assert evaluate_files(request).null_scores == 1
    flagged = re.findall(r"Row (\d+), label leak: score ", (tmp_path / "few.html").read_text(encoding="utf-8"))
    assert sorted(flagged) == ["10", "11"]
