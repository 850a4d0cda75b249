"""The verbs against a real store: whole or absent, again and again, and what is kept when a server is lost."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vae_anomaly import artifact
from vae_anomaly.config import CalibrationConfig, Config, DataConfig, ModelConfig, TrackingConfig, TrainConfig
from vae_anomaly.detector.stream import RESULT_FIELDS, Rejections, ScoredBatch, Tally
from vae_anomaly.errors import ArtifactError, ConfigError, DataError, OutputError, TooFewRows, TrackingError
from vae_anomaly.jobs import manifest
from vae_anomaly.tables.source import open_source
from vae_anomaly.tracking import runs
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.models import list_models, model_info, tracking_ui
from vae_anomaly.workflow.requests import FitRequest, ScoreRequest
from vae_anomaly.workflow.results import FitResult
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.score_counts import Counting

ROWS = 200


def config(uri: str | None) -> Config:
    return Config(
        data=DataConfig(id_columns=("id",)),
        model=ModelConfig(views=("standard",), members=1, hidden=(8,), latent=2, exemplars=40),
        train=TrainConfig(steps=10, batch_rows=32, device="cpu"),
        calibration=CalibrationConfig(alpha=0.05, method="split", share=0.3),
        tracking=TrackingConfig(enabled=uri is not None, model_name="pump", alias="live", uri=uri),
    )


def table(rows: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    a = random.normal(size=rows)
    mode = random.choice(["on", "off"], rows)
    return pa.table({"id": np.arange(rows), "a": a, "b": a + random.normal(scale=0.1, size=rows), "mode": mode})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("store")
    shutil.copy2(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def uri(store: Path) -> str:
    return f"sqlite:///{store}/mlflow.db"


@pytest.fixture(autouse=True)
def _in_the_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts of a SQLite store go to ./mlruns."""
    monkeypatch.chdir(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def fitted(store: Path, uri: str) -> Iterator[FitResult]:
    """One registered model, for all tests that change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)
        pq.write_table(table(ROWS, seed=1), store / "normal.parquet")
        yield fit_files(FitRequest(data=(str(store / "normal.parquet"),), config=config(uri)))


# ── fit and the registry ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fit_is_registered_and_found_by_its_alias(fitted: FitResult, uri: str) -> None:
    assert (fitted.model.name, fitted.model.version, fitted.model.alias) == ("pump", "1", "live")
    assert fitted.next_steps[0] == "vae-anomaly score NEW.csv --model models:/pump@live"
    found = model_info("models:/pump@live", tracking_uri=uri)
    assert (found.model.version, found.rows, dict(found.versions)["vae-anomaly"]) == ("1", ROWS, found.versions["vae-anomaly"])
    assert found.promise == fitted.promise
    listed = list_models("pump", tracking_uri=uri).versions
    assert [(v.version, v.aliases, v.tags["rows"]) for v in listed] == [("1", ("live",), str(ROWS))]


def test_a_run_has_curve_figures_and_numbers(fitted: FitResult, uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    run = client.get_run(fitted.model.run_id)
    assert {"train/loss", "val/reconstruction", "val/kl", "active_units", "threshold", "fit_seconds"} <= run.data.metrics.keys()
    assert run.data.params["train.steps"] == "10"
    assert [len(client.get_metric_history(fitted.model.run_id, name)) for name in ("train/loss", "threshold")] == [10, 1]
    pictures = {Path(f.path).stem for f in client.list_artifacts(fitted.model.run_id, "figures")}
    assert pictures == {"learning_curve", "score_histogram", "column_quality", "calibration_curve"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"calibration": CalibrationConfig(alpha=0.001)}, TooFewRows, id="too few rows"),
        pytest.param({"data": DataConfig(label_column="mode", normal_labels=("fine",))}, DataError, id="no normal row"),
        pytest.param({"data": DataConfig(exclude=("nothing",))}, ConfigError, id="unknown column"),
    ],
)
def test_what_is_refused_leaves_no_run_and_no_version(
    fitted: FitResult, uri: str, change: dict[str, object], error: type[Exception]
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = [client.get_run(fitted.model.run_id).info.experiment_id]
    before = len(client.search_runs(experiment)), len(list_models(tracking_uri=uri).versions)
    with pytest.raises(error):
        fit_files(FitRequest(data=("normal.parquet",), config=replace(config(uri), **change)))  # type: ignore[arg-type]  # fields of Config
    assert (len(client.search_runs(experiment)), len(list_models(tracking_uri=uri).versions)) == before


def test_a_lost_server_leaves_the_model_in_a_folder(fitted: FitResult, uri: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise TrackingError("MLflow could not log the model: gone.")

    monkeypatch.setattr(runs.Run, "log_model", lost)
    with pytest.raises(TrackingError) as error:
        fit_files(FitRequest(data=("normal.parquet",), config=config(uri)))
    head, kept = "MLflow could not log the model: gone. The model is saved: score with --model ", str(error.value).rpartition(" ")[2]
    assert str(error.value) == f"{head}{kept}, and log it later with: vae-anomaly upload {kept}"
    assert artifact.load(store / kept).card.rows == fitted.rows_used
    assert len(list_models("pump", tracking_uri=uri).versions) == 1


@pytest.mark.parametrize("method", ["split", "cross"])
def test_a_fault_in_the_normal_file_is_listed_by_its_number_with_its_reasons(method: Literal["split", "cross"], tmp_path: Path) -> None:
    """Row 150 of 250; every fifth row is labelled as a fault and left out, so that it is the 120th of the rows that are fitted."""
    data = table(250, seed=3)
    values, labels = data["b"].to_pylist(), ["fault" if i % 5 == 4 else "normal" for i in range(250)]
    values[150] = 70.0
    pq.write_table(data.set_column(2, "b", pa.array(values)).append_column("label", pa.array(labels)), tmp_path / "normal.parquet")
    settings = replace(config(None), data=DataConfig(id_columns=("id",), label_column="label"))
    settings = replace(settings, calibration=replace(settings.calibration, method=method))
    found = fit_files(FitRequest(data=(str(tmp_path / "normal.parquet"),), config=settings, output=tmp_path / "model")).suspicious
    assert [(row.row, row.ids) for row in found] == [(150, {"id": "150"})]
    assert (found[0].reasons[0].column, found[0].reasons[0].value) == ("b", "70")
    assert found[0].score > artifact.load(tmp_path / "model").threshold.value
    assert len(found[0].reasons) == 3


def test_where_no_row_stands_out_none_is_listed(fitted: FitResult) -> None:
    assert fitted.suspicious == ()


@pytest.mark.usefixtures("fitted")
def test_nothing_registered_under_a_name(uri: str) -> None:
    with pytest.raises(ArtifactError) as error:
        list_models("valve", tracking_uri=uri)
    assert str(error.value) == f"no version of 'valve' is registered in {uri}. Fit one here, or give --tracking-uri."


@pytest.mark.usefixtures("fitted")
def test_the_ui_runs_on_the_same_store(uri: str) -> None:
    found = tracking_ui(host="127.0.0.1", port=5001, tracking_uri=uri)
    assert found.url == "http://127.0.0.1:5001"
    assert found.command[1:] == (
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        "5001",
        "--workers",
        "1",
    )


def test_rows_in_time_are_calibrated_by_blocks(tmp_path: Path) -> None:
    rows = table(ROWS, seed=1).append_column("t", pa.array(np.arange(ROWS)[::-1])).append_column("unit", pa.array(["p", "q"] * 100))
    pq.write_table(rows, tmp_path / "x.parquet")
    data = DataConfig(id_columns=("id",), time_column="t", group_by="unit")
    settings = replace(config(None), data=data)
    with pytest.raises(ConfigError, match="--calibration split is for rows that are no time series, which blocks of time calibrate"):
        fit_files(FitRequest(data=(str(tmp_path / "x.parquet"),), config=settings, output=tmp_path / "m"))
    settings = replace(settings, calibration=replace(settings.calibration, method="auto"))
    found = fit_files(FitRequest(data=(str(tmp_path / "x.parquet"),), config=settings, output=tmp_path / "m"))
    assert found.promise.method == "blocks"
    assert found.promise.statement.startswith("alpha 0.05 is set from 5 contiguous blocks of your training time.")
    assert any("198 row(s) were not in the order of time; they were sorted" in note for note in found.notes)
    labels = rows.append_column("fault", pa.array(np.arange(ROWS) > ROWS - 10))
    pq.write_table(labels, tmp_path / "labelled.parquet")
    settings = replace(settings, data=replace(data, label_column="fault"))
    found = fit_files(FitRequest(data=(str(tmp_path / "labelled.parquet"),), config=settings, output=tmp_path / "l"))
    assert found.quality is None
    assert "rows with another label were left out of the series; compare the model with them by vae-anomaly evaluate" in found.notes


def test_without_tracking_nothing_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(ROWS, seed=1), "normal.parquet")
    found = fit_files(FitRequest(data=("normal.parquet",), config=config(None), output=Path("m")))
    assert (found.model.folder, found.model.version, found.next_steps[0]) == ("m", "", "vae-anomaly score NEW.csv --model m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "normal.parquet"]
    again = fit_files(FitRequest(data=("normal.parquet",), config=config(None), output=Path("m"), overwrite=True))
    assert again.promise == found.promise


# ── score ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def request_(fitted: FitResult, uri: str, tmp_path: Path) -> ScoreRequest:
    """Fifty rows: one far off, one with an unseen mode, one with nothing in it."""
    rows = table(50, seed=2).to_pylist()
    rows[3] |= {"b": 50.0}
    rows[4] |= {"mode": "stuck"}
    rows[5] |= {"a": None, "b": None, "mode": None}
    for row in rows[6:30]:
        row["a"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    return ScoreRequest(data=(str(tmp_path / "new.parquet"),), model=fitted.model.uri, id_columns=("id",), tracking_uri=uri)


def test_score_counts_what_went_by(request_: ScoreRequest) -> None:
    found = score_files(replace(request_, chunk_rows=7))
    assert (found.counts.rows, found.counts.null_scores, found.counts.unseen) == (50, 1, {"mode": 1})
    assert found.counts.expected_alarms == pytest.approx(0.05 * 49)
    assert found.counts.top_alarms[0].row == 3
    assert found.counts.top_alarms[0].ids == {"id": "3"}
    assert found.counts.top_alarms[0].reasons[0].column == "b"
    assert [change.column for change in found.counts.missing_changes] == ["a"]
    written = pq.read_table(found.output)
    assert found.output.endswith("new.scores.parquet")
    assert written["id"].to_pylist() == list(range(50))
    assert set(written["model"].to_pylist()) == {"pump"}
    assert sum(written["is_anomaly"].to_pylist()) == found.counts.alarms


def test_worst_rows_come_in_the_order_of_their_scores(request_: ScoreRequest) -> None:
    found = score_files(replace(request_, alpha=0.5, chunk_rows=7))
    scores = [(alarm.score, alarm.row) for alarm in found.counts.top_alarms]
    written = pq.read_table(found.output)
    all_scores = [(s, i) for i, s in enumerate(written["anomaly_score"].to_pylist()) if s is not None]
    assert scores == sorted(all_scores, key=lambda pair: (-pair[0], pair[1]))[:5]


def test_the_worst_of_many_batches_are_kept() -> None:
    """Thirty rows in batches of four, scores in no order, every third flagged, the lowest of them last."""
    scores = np.random.default_rng(0).permutation(30).astype(float)
    scores[27] = -1.0
    counting = Counting(ids=("id",))

    for first in range(0, 30, 4):
        some = scores[first : first + 4]
        flags = (np.arange(first, first + len(some)) % 3 == 0).tolist()
        rows = pa.record_batch({
            "id": pa.array([f"r{i}" for i in range(first, first + len(some))]),
            "anomaly_score": some,
            "p_value": np.full(len(some), 0.5),
            "is_anomaly": pa.array(flags),
            "top_features": pa.nulls(len(some), RESULT_FIELDS[5].type),
        })  # fmt: skip
        tally = Tally(rows=len(some), alarms=sum(flags), unscored=0, unseen={"m": 1}, missing={})
        counting.take(ScoredBatch(rows=rows, tally=tally, rejections=Rejections()))
    flagged = sorted((s, i) for i, s in enumerate(scores) if i % 3 == 0)[::-1]
    kept = sorted(counting.worst, key=lambda entry: -entry[0])
    assert [(score, alarm.row, alarm.ids["id"]) for score, _, alarm in kept] == [(s, i, f"r{i}") for s, i in flagged[:5]]
    assert (counting.rows, counting.alarms, counting.unseen["m"]) == (30, 10, 8)


def test_a_job_killed_before_its_manifest_was_complete_may_run_again(request_: ScoreRequest) -> None:
    first = score_files(request_)
    path = manifest.manifest_path(Path(first.output))
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"state": "started"}), encoding="utf-8")
    again = score_files(request_)
    assert (again.unchanged, again.counts) == (False, first.counts)
    assert score_files(request_).unchanged


def test_an_output_that_was_changed_is_not_taken_for_done(request_: ScoreRequest) -> None:
    first = score_files(request_)
    with Path(first.output).open("ab") as file:
        file.write(b"more")
    with pytest.raises(OutputError) as error:
        score_files(request_)
    assert str(error.value) == f"{first.output} was changed after it was written. Name another with -o, or give --overwrite to replace it."
    assert not score_files(replace(request_, overwrite=True)).unchanged


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"top": 1}, "options"),
        ({"explain": "all"}, "options"),
        ({"missing_values": ("?",)}, "options"),
        ({"model": "folder"}, "model"),
        ({"alpha": 0.2, "model": "folder"}, "model and options"),
    ],
)
def test_another_request_is_told_apart(request_: ScoreRequest, tmp_path: Path, change: dict[str, object], what: str) -> None:
    output = tmp_path / "out.parquet"
    score_files(replace(request_, output=output))
    changed = {"model": model_info(request_.model, tracking_uri=request_.tracking_uri).model.folder} if "model" in change else {}
    with pytest.raises(OutputError, match=f"another request \\(other {what}\\)"):
        score_files(replace(request_, output=output, **change | changed))  # type: ignore[arg-type]  # fields of ScoreRequest


def test_new_input_of_the_same_name_is_another_request(request_: ScoreRequest) -> None:
    score_files(request_)
    pq.write_table(table(20, seed=3), request_.data[0])
    with pytest.raises(OutputError, match=r"another request \(other inputs\)"):
        score_files(request_)


def test_progress_reaches_all_rows(request_: ScoreRequest) -> None:
    told: list[tuple[str, int, int | None]] = []
    score_files(replace(request_, chunk_rows=7), tell=lambda *step: told.append(step))
    assert told[0] == ("scoring", 0, 50)
    assert told[-1] == ("scoring", 50, 50)


def test_a_manifest_whose_counts_are_of_another_version_is_written_again(request_: ScoreRequest) -> None:
    first = score_files(request_)
    path = manifest.manifest_path(Path(first.output))
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"counts": {"rows": 50}}), encoding="utf-8")
    again = score_files(request_)
    assert (again.unchanged, again.counts) == (False, first.counts)


def test_many_more_alarms_than_expected_are_remarked_upon(request_: ScoreRequest) -> None:
    remark = "many more alarms than alpha predicts: if these rows are normal, fit again with rows like them"
    pq.write_table(table(200, seed=2), request_.data[0])
    assert remark not in score_files(request_).next_steps
    pq.write_table(table(50, seed=2).set_column(2, "b", pa.array([50.0] * 50)), request_.data[0])
    assert remark in score_files(replace(request_, overwrite=True)).next_steps


# ── fit ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_goes_while_it_is_learned_from_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(table(ROWS, seed=1), path)
    expected = open_source([str(path)]).contents()

    def gone(stage: str, *_: object) -> None:
        if stage != "reading":
            path.unlink(missing_ok=True)

    fit_files(FitRequest(data=(str(path),), config=config(None), output=tmp_path / "m"), tell=gone)
    assert not path.exists()
    assert artifact.load(tmp_path / "m").card.contents_digest == expected


def test_a_fit_whose_anomalous_rows_are_empty_is_held_against_nothing(tmp_path: Path) -> None:
    rows = table(ROWS, seed=1).to_pylist()
    rows = [row | {"fault": "normal"} for row in rows] + [{"id": 999, "a": None, "b": None, "mode": None, "fault": "leak"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    data = DataConfig(id_columns=("id",), label_column="fault")
    found = fit_files(FitRequest(data=(str(tmp_path / "rows.parquet"),), config=replace(config(None), data=data), output=tmp_path / "m"))
    assert (found.rows_read, found.rows_used, found.labels_left_out, found.quality) == (ROWS + 1, ROWS, {"leak": 1}, None)
