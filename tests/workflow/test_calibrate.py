"""A new threshold without a fit: every way to ask, what is refused word for word, a version or a folder whole or not at all."""

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vae_anomaly import artifact
from vae_anomaly.calibration.conformal import conformal_quantile
from vae_anomaly.cli.app import app
from vae_anomaly.config import CalibrationConfig, Config, DataConfig, ModelConfig, TrackingConfig, TrainConfig
from vae_anomaly.errors import TrackingError, VaeAnomalyError
from vae_anomaly.storage import atomic
from vae_anomaly.tracking import runs, store
from vae_anomaly.workflow.calibrate import calibrate_files
from vae_anomaly.workflow.evaluate import evaluate_files
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.models import list_models, model_info
from vae_anomaly.workflow.requests import CalibrateRequest, EvaluateRequest, FitRequest, ScoreRequest
from vae_anomaly.workflow.results import FitResult
from vae_anomaly.workflow.score import score_files

START = dt.datetime(2025, 3, 3, tzinfo=dt.UTC)


def config(uri: str | None) -> Config:
    return Config(
        data=DataConfig(id_columns=("when", "unit", "state")),
        model=ModelConfig(views=("standard",), members=1, hidden=(8,), latent=2, exemplars=40),
        train=TrainConfig(steps=10, batch_rows=32, device="cpu"),
        calibration=CalibrationConfig(alpha=0.05, method="split", share=0.3),
        tracking=TrackingConfig(enabled=uri is not None, model_name="pump", alias="live", uri=uri),
    )


def table(rows: int, seed: int) -> pa.Table:
    """A little machine in three units, one row a minute and unit; ``state`` tells the anomalous rows, whose ``b`` is off."""
    random = np.random.default_rng(seed)
    a, broken = random.normal(size=rows), np.arange(rows) % 20 == 7
    return pa.table({
        "when": pa.array([START + dt.timedelta(minutes=i // 3) for i in range(rows)]),
        "unit": [f"U{i % 3}" for i in range(rows)],
        "a": a,
        "b": a + random.normal(scale=0.1, size=rows) + np.where(broken, random.normal(2.0, 1.0, rows), 0.0),
        "state": np.where(broken, "leak", "normal"),
    })  # fmt: skip


def normal_rows(rows: int, seed: int) -> pa.Table:
    every = table(rows, seed)
    return every.filter(pa.array(np.array(every["state"]) == "normal"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Rows to fit on, to calibrate on, and with labels of one class."""
    folder = tmp_path_factory.mktemp("calibrate")
    shutil.copy2(empty_store, folder / "mlflow.db")
    pq.write_table(normal_rows(400, seed=1), folder / "fit.parquet")
    shutil.copy(folder / "fit.parquet", folder / "copy.parquet")
    pq.write_table(table(1000, seed=2), folder / "later.parquet")
    pq.write_table(normal_rows(320, seed=3).slice(0, 300).drop_columns(["state"]), folder / "plain.parquet")
    lines = [f"2025-03-03 00:{i % 60:02}:00,U1,0.5,0.5" if i != 40 else "noon,U1,0.5,0.5" for i in range(300)]
    lines[17] = "2025-03-03 00:17:00,U1,a word,0.5"
    (folder / "times.csv").write_text("\n".join(["when,unit,a,b", *lines]), encoding="utf-8")
    fine = table(40, seed=4)
    pq.write_table(fine.set_column(4, "state", pa.array(["normal"] * 40)), folder / "fine.parquet")
    return folder


@pytest.fixture(scope="module")
def uri(place: Path) -> str:
    return f"sqlite:///{place}/mlflow.db"


@pytest.fixture(autouse=True)
def _at_the_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def fitted(place: Path, uri: str) -> Iterator[FitResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield fit_files(FitRequest(data=("fit.parquet",), config=config(uri), output=place / "model"))


@pytest.fixture
def folder(fitted: FitResult, tmp_path: Path) -> Path:
    """A copy of the fitted model that a test may change."""
    artifact.save(artifact.load(Path(fitted.model.folder)), tmp_path / "mine")
    return tmp_path / "mine"


def scores_of(model: Path, data: str) -> dict[str, Any]:
    """Scores and states of the rows of ``data``, by the scoring verb."""
    out = model.parent / "scores.parquet"
    score_files(ScoreRequest(data=(data,), model=str(model), output=out, explain="none", overwrite=True, id_columns=("state",)))
    found: dict[str, Any] = pq.read_table(out).to_pydict()
    return found


# ── ways to ask ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_rows_labelled_normal_become_the_calibration(folder: Path) -> None:
    before = artifact.load(folder)
    found = scores_of(folder, "later.parquet")
    normal = np.sort([s for s, state in zip(found["anomaly_score"], found["state"], strict=True) if state == "normal"])
    done = calibrate_files(CalibrateRequest(data=("later.parquet",), model=str(folder), alpha=0.01, label_column="state"))
    after = artifact.load(folder)
    assert after.threshold.calibration.tolist() == normal.tolist()
    assert (after.threshold.method, after.threshold.alpha, after.threshold.value) == ("split", 0.01, conformal_quantile(normal, 0.01))
    assert (done.rows, done.calibration_rows, done.anomalous_rows, done.alpha_before) == (1000, 950, 50, 0.05)
    assert done.promise.exact
    assert (after.card.data_digest, after.card.calibration_rows) == (before.card.data_digest, 950)
    assert (after.card.calibration_source, before.card.calibration_source) == (("later.parquet",), ())
    assert after.ensemble.constants.penalty == normal[-1] + 1.0


def test_without_a_wish_the_rate_stays(folder: Path) -> None:
    done = calibrate_files(CalibrateRequest(data=("plain.parquet",), model=str(folder)))
    assert (done.promise.alpha, done.calibration_rows, done.choice, done.rows_per_day) == (0.05, 300, None, None)
    assert done.model.folder == str(folder)


@pytest.mark.parametrize(
    ("change", "rows_per_day"),
    [({"time_column": "when"}, 300 * 1440 / 106), ({"rows_per_day": 2000.0}, 2000.0)],
    ids=["timestamps", "given"],
)
def test_a_budget_of_alerts_is_a_rate(folder: Path, change: dict[str, Any], rows_per_day: float) -> None:
    done = calibrate_files(CalibrateRequest(data=("plain.parquet",), model=str(folder), alerts_per_day=20.0, **change))
    assert done.rows_per_day == pytest.approx(rows_per_day, rel=0.01)
    assert done.promise.alpha == pytest.approx(20.0 / rows_per_day, rel=0.01)
    row = next(row for row in done.table if row.alpha == done.promise.alpha)
    assert row.alerts_per_day == pytest.approx(20.0)


def test_labels_choose_a_rate_and_are_reported_on_the_other_half(folder: Path) -> None:
    request = CalibrateRequest(data=("later.parquet",), model=str(folder), label_column="state", maximize="f1")
    done = calibrate_files(request)
    assert done.choice is not None
    assert (done.choice.normal_rows, done.choice.anomalous_rows, done.choice.measure) == (475, 25, "F1")
    assert done.choice.low <= done.choice.value <= done.choice.high
    assert done.promise.alpha == done.choice.alpha
    assert f"whichever of {done.choice.tried} rates the labels had chosen" in done.promise.statement
    assert artifact.load(folder).threshold.tried == done.choice.tried
    assert all(row.recall is not None for row in done.table)
    rows = pq.read_table("later.parquet")
    near = pc.add(rows["a"], pc.multiply(pc.subtract(rows["b"], rows["a"]), pc.if_else(pc.equal(rows["state"], "leak"), 0.1, 1.0)))
    pq.write_table(rows.set_column(3, "b", near), "near.parquet")  # faults among the normal rows, so that finding more of them costs
    request = replace(request, data=("near.parquet",))
    costly = calibrate_files(replace(request, maximize=None, cost_false_alarm=1.0, cost_miss=1000.0))
    cheap = calibrate_files(replace(request, maximize=None, cost_false_alarm=1.0, cost_miss=1.0))
    assert cheap.promise.alpha < costly.promise.alpha
    rare = calibrate_files(replace(request, maximize=None, cost_false_alarm=1.0, cost_miss=1000.0, anomaly_rate=1e-5))
    assert rare.promise.alpha < costly.promise.alpha


def test_a_tail_reaches_finer_rates(folder: Path) -> None:
    done = calibrate_files(CalibrateRequest(data=("later.parquet",), model=str(folder), label_column="state", method="gpd", alpha=0.0003))
    assert (done.promise.method, done.promise.exact, done.fit_p_value is not None) == ("gpd", False, True)
    assert "if normal scores go on as that tail does" in done.promise.statement
    again = artifact.load(folder)
    assert again.threshold.value > again.threshold.calibration[-50]
    assert model_info(str(folder)).promise == done.promise
    found = scores_of(folder, "later.parquet")
    flagged = [p <= 0.0003 for p in found["p_value"]]
    assert flagged == found["is_anomaly"]


# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_groups_have_thresholds_of_their_own(folder: Path, tmp_path: Path) -> None:
    request = CalibrateRequest(data=("later.parquet",), model=str(folder), label_column="state", alpha=0.01, group_by="unit")
    done = calibrate_files(request)
    assert sorted((row.name, row.lent) for row in done.groups) == [("U0", 0.0), ("U1", 0.0), ("U2", 0.0)]
    assert sum(row.rows for row in done.groups) == 950
    new = pa.table({"unit": ["U1", "U9", None, "U9"], "a": [0.0] * 4, "b": [9.0] * 4})
    pq.write_table(new, tmp_path / "new.parquet")
    scored = score_files(ScoreRequest(data=(str(tmp_path / "new.parquet"),), model=str(folder)))
    assert (scored.counts.unseen_groups, scored.counts.pooled_rows, scored.ignored_columns) == ({"U9": 2}, 3, ())
    again = calibrate_files(replace(request, group_by=None, alpha=0.02))
    assert [row.name for row in again.groups] == [row.name for row in done.groups]
    pq.write_table(new.drop_columns(["unit"]), tmp_path / "lacks.parquet")
    with pytest.raises(VaeAnomalyError) as caught:
        calibrate_files(CalibrateRequest(data=(str(tmp_path / "lacks.parquet"),), model=str(folder)))
    assert str(caught.value) == (
        f"this model has a threshold for each 'unit', and {tmp_path}/lacks.parquet has no such column. "
        "Give rows with it, or --group-by '' for one threshold."
    )
    with pytest.raises(VaeAnomalyError) as caught:
        score_files(ScoreRequest(data=(str(tmp_path / "lacks.parquet"),), model=str(folder)))
    assert str(caught.value) == f"{tmp_path}/lacks.parquet lacks the group column of the threshold: 'unit'. Available columns: 'a', 'b'."
    with pytest.raises(VaeAnomalyError) as caught:
        score_files(ScoreRequest(data=(str(tmp_path / "new.parquet"),), model=str(folder), fdr=0.1, overwrite=True))
    assert str(caught.value) == (
        "--fdr needs the p-values of one exact split calibration; this model has a threshold for each group. "
        "Calibrate it on normal rows that it has not seen: vae-anomaly calibrate DATA."
    )
    assert calibrate_files(replace(request, group_by="")).groups == ()
    assert artifact.load(folder).threshold.groups is None


def test_a_fit_by_groups_has_a_threshold_for_each(tmp_path: Path) -> None:
    settings = replace(config(None), data=DataConfig(id_columns=("when", "state"), group_by="unit"))
    done = fit_files(FitRequest(data=("fit.parquet",), config=settings, output=tmp_path / "m"))
    groups = artifact.load(tmp_path / "m").threshold.groups
    assert groups is not None
    assert sorted(groups.names) == ["U0", "U1", "U2"]
    assert groups.rows.sum() == done.promise.calibration_rows == 114
    assert "over all groups" in done.promise.statement
    cross = replace(settings, calibration=CalibrationConfig(alpha=0.05, method="cross"))
    assert fit_files(FitRequest(data=("fit.parquet",), config=cross, output=tmp_path / "c")).notes[-1] == (
        "the threshold is pooled: one for each group needs split calibration, which takes 2,000 rows or --calibration split"
    )


@pytest.mark.usefixtures("fitted")
def test_the_face_of_mlflow_asks_for_the_group(uri: str) -> None:
    import mlflow

    request = CalibrateRequest(
        data=("plain.parquet",), model="models:/pump@live", alpha=0.05, group_by="unit", alias="grouped", tracking_uri=uri
    )
    done = calibrate_files(request)
    with store.open_store(uri, create=False):
        model = mlflow.pyfunc.load_model(done.model.uri)
    frame = pq.read_table("plain.parquet").to_pandas()[["unit", "a", "b"]].head(6)
    assert model.predict(frame)["p_value"].notna().all()
    with pytest.raises(mlflow.MlflowException, match="unit"):
        model.predict(frame[["a", "b"]])


# ── where it is kept ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_registered_model_gets_a_version_and_the_alias_moves(fitted: FitResult, uri: str) -> None:
    from mlflow import MlflowClient

    before = artifact.load(Path(fitted.model.folder))
    done = calibrate_files(
        CalibrateRequest(data=("plain.parquet",), model="models:/pump@live", alpha=0.02, time_column="when", tracking_uri=uri)
    )
    assert (done.model.name, int(done.model.version) > int(fitted.model.version), done.model.alias) == ("pump", True, "live")
    assert done.next_steps == ("vae-anomaly score NEW.csv --model models:/pump@live",)
    found = list_models("pump", tracking_uri=uri).versions
    assert next(v for v in found if "live" in v.aliases).version == done.model.version
    assert found[0].tags["statement"] == done.promise.statement
    old = model_info(f"models:/pump/{fitted.model.version}", tracking_uri=uri)
    assert (old.promise.alpha, old.promise.threshold) == (0.05, before.threshold.value)
    client = MlflowClient(uri)
    run = client.get_run(done.model.run_id)
    assert run.data.metrics["alpha"] == 0.02
    assert {"budget.json", "detector"} <= {f.path for f in client.list_artifacts(done.model.run_id)}
    logged = client.load_table(run.info.experiment_id, artifact_file="budget.json", run_ids=[done.model.run_id])
    assert logged["alpha"].tolist() == [row.alpha for row in done.table]


def test_a_server_that_is_lost_leaves_the_alias_where_it_was(fitted: FitResult, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list_models("pump", tracking_uri=uri).versions

    def lost(*_: object, **__: object) -> None:
        raise TrackingError("gone.")

    monkeypatch.setattr(runs.Run, "log_model", lost)
    with pytest.raises(TrackingError):
        calibrate_files(CalibrateRequest(data=("plain.parquet",), model=fitted.model.uri, alpha=0.02, tracking_uri=uri))
    assert list_models("pump", tracking_uri=uri).versions == before


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "manifest.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_durably", full)
    with pytest.raises(VaeAnomalyError):
        calibrate_files(CalibrateRequest(data=("plain.parquet",), model=str(folder), alpha=0.02))
    assert (folder / "manifest.json").read_bytes() == before


def test_another_folder_may_be_asked_for(folder: Path, tmp_path: Path) -> None:
    done = calibrate_files(CalibrateRequest(data=("plain.parquet",), model=str(folder), alpha=0.02, output=tmp_path / "other"))
    assert (artifact.load(folder).threshold.alpha, artifact.load(tmp_path / "other").threshold.alpha) == (0.05, 0.02)
    assert done.next_steps == (f"vae-anomaly score NEW.csv --model {tmp_path / 'other'}",)


def test_a_calibrated_model_is_evaluated_as_before(folder: Path) -> None:
    request = EvaluateRequest(data=("later.parquet",), model=str(folder), label_column="state")
    before = evaluate_files(request).quality.auroc
    calibrate_files(CalibrateRequest(data=("plain.parquet",), model=str(folder), alpha=0.02))
    assert evaluate_files(request).quality.auroc == before


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED: dict[str, tuple[list[str], int, str]] = {
    "two ways": (
        ["later.parquet", "--alpha", "0.1", "--maximize", "f1"], 2,
        "alpha is chosen in 2 ways: --alpha; --maximize. Give one of them.",
    ),
    "one cost": (["later.parquet", "--cost-miss", "800"], 2, "costs come in pairs: give both --cost-false-alarm and --cost-miss."),
    "no cost": (
        ["later.parquet", "--cost-miss", "800", "--cost-false-alarm", "0"], 2, "--cost-false-alarm must be > 0; got 0.",
    ),
    "no rate": (["later.parquet", "--alpha", "5"], 2, "--alpha must be in (0, 1); got 5."),
    "no labels": (
        ["plain.parquet", "--maximize", "f2"], 2,
        "--maximize needs labels, to measure the recall of a threshold. Name their column with --label-column.",
    ),
    "an anomaly rate for nothing": (
        ["plain.parquet", "--anomaly-rate", "0.1"], 2, "--anomaly-rate is for --maximize and --cost-miss; neither is given.",
    ),
    "one class": (
        ["fine.parquet", "--maximize", "f1", "--label-column", "state"], 3,
        ("no row is anomalous: column 'state' holds 'normal' (40), and all of that means normal "
         "('0', 'false', 'normal', 'negative' or empty). Give rows of both classes, or other labels with --normal-label."),
    ),
    "budget without time": (
        ["plain.parquet", "--alerts-per-day", "20"], 2,
        ("--alerts-per-day needs the number of rows a day: name a column of timestamps with --time-column, "
         "or give --rows-per-day."),
    ),
    "budget of all rows": (
        ["plain.parquet", "--alerts-per-day", "20", "--rows-per-day", "10"], 2,
        ("--alerts-per-day must be more than 0 and less than the 10 rows a day; got 20. "
         "A budget below that is a false-alarm rate."),
    ),
    "unknown column": (
        ["plain.parquet", "--group-by", "units"], 2,
        ("--group-by names a column that is not in the data: 'units' (did you mean 'unit'?). "
         "Available columns: 'when', 'unit', 'a', 'b'."),
    ),
    "groups with a tail": (
        ["plain.parquet", "--group-by", "unit", "--method", "gpd"], 2,
        "--method gpd fits one tail to all rows; leave --group-by out, or use --method conformal.",
    ),
    "rows of the fit": (
        ["fit.parquet", "--alpha", "0.1"], 3,
        ("fit.parquet holds the rows that the model was fitted on, and rows it has learned from score lower than new ones. "
         "Calibrate on normal rows that the fit has not seen."),
    ),
    "a copy of the rows of the fit": (
        ["copy.parquet", "--alpha", "0.1"], 3,
        ("copy.parquet holds the rows that the model was fitted on, and rows it has learned from score lower than new ones. "
         "Calibrate on normal rows that the fit has not seen."),
    ),
    "too fine for the rows": (
        ["plain.parquet", "--alpha", "0.001"], 3,
        ("alpha 0.001 needs at least 999 calibration rows; 300 given. Finest alpha possible with these rows: 0.00333. "
         "Use --alpha 0.00333, or at least 999 normal rows."),
    ),
    "too fine without a tail": (
        ["later.parquet", "--label-column", "state", "--alpha", "0.001"], 3,
        ("alpha 0.001 needs at least 999 calibration rows; 950 given. Finest alpha possible with these rows: 0.00106. "
         "Use --alpha 0.00106, --method gpd or at least 999 normal rows."),
    ),
    "a time that is none": (
        ["times.csv", "--alerts-per-day", "20", "--time-column", "when", "--on-error", "skip"], 3,
        ("time column 'when' must hold times such as 2025-03-03 12:00:00 but is 'noon' in times.csv row 41 (line 42). "
         "Correct it, give --time-format, or leave --time-column out."),
    ),
    "too few rows for a tail": (
        ["plain.parquet", "--method", "gpd", "--alpha", "0.001"], 4,
        "--method gpd needs at least 500 calibration rows; 300 given. Give more normal rows.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case: str, folder: Path) -> None:
    words, code, text = REFUSED[case]
    before = (folder / "manifest.json").read_bytes()
    shown = CliRunner().invoke(app, ["calibrate", *words, "-m", str(folder), "-q"])
    assert (shown.exit_code, shown.stdout, shown.stderr) == (code, "", f"error: {text}\n")
    assert (folder / "manifest.json").read_bytes() == before


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_calibration_in_words(folder: Path) -> None:
    words = ["calibrate", "later.parquet", "-m", str(folder), "--label-column", "state", "--maximize", "f1", "--time-column", "when",
             "--group-by", "unit"]  # fmt: skip
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == f"Calibrated {folder} on 950 rows."
    assert lines[1] == "  rows         950 of 1,000 used for calibration; 50 anomalous rows not used"
    for start in ("  per day      4,", "  previous     ", "  threshold    ", "  limit        with n = 950 calibration rows ",
                  "  chosen       best F1 of ", "  anomaly rate 5 %", "  groups       U", "  folder       ", "  alpha ",
                  "Alternatives:"):  # fmt: skip
        assert any(line.startswith(start) for line in lines), start
    assert lines[-1] == f"  vae-anomaly score NEW.csv --model {folder}"


def test_a_calibration_is_one_object(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["calibrate", "plain.parquet", "-m", str(folder), "--alpha", "0.02", "--json"])
    found = json.loads(shown.stdout)
    assert (found["promise"]["alpha"], found["calibration_rows"], found["choice"]) == (0.02, 300, None)
    assert found["promise"]["limit"] == pytest.approx(artifact.load(folder).threshold.limit)


# ── scoring with it ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_false_discovery_rate_is_that_of_scipy(folder: Path, tmp_path: Path) -> None:
    from scipy.stats import false_discovery_control

    calibrate_files(CalibrateRequest(data=("plain.parquet",), model=str(folder), alpha=0.02))
    request = ScoreRequest(data=("later.parquet",), model=str(folder), fdr=0.5, output=tmp_path / "x.parquet", chunk_rows=99)
    done = score_files(request)
    out = pq.read_table(tmp_path / "x.parquet")
    p_values = out["p_value"].to_numpy()
    rejected = false_discovery_control(p_values) <= 0.5 * (1 + 1e-12)
    assert 0 < rejected.sum() == done.counts.alarms < 1000
    assert out["is_anomaly"].to_pylist() == rejected.tolist()
    assert done.counts.discovery is not None
    assert done.counts.discovery.cutoff == done.alpha == p_values[rejected].max()
    assert done.counts.discovery.statement == (
        "rule with a false-discovery rate ≤ 50 % on average over repetitions (independent rows, split calibration)"
    )
    assert score_files(request).unchanged
    assert score_files(request).threshold == done.threshold
    conditional = score_files(replace(request, p_values="conditional", output=tmp_path / "y.parquet"))
    assert conditional.counts.discovery is not None
    assert conditional.counts.discovery.statement.endswith(
        "for this calibration with 90 % confidence (independent rows, split calibration)"
    )
    assert conditional.counts.alarms <= done.counts.alarms
    adjusted = pq.read_table(tmp_path / "y.parquet")
    assert (adjusted["p_value"].to_numpy() >= p_values).all()
    assert adjusted["is_anomaly"].to_pylist() == (false_discovery_control(adjusted["p_value"].to_numpy()) <= 0.5 * (1 + 1e-12)).tolist()


def test_nothing_to_discover_flags_nothing(folder: Path, tmp_path: Path) -> None:
    done = score_files(ScoreRequest(data=("fit.parquet",), model=str(folder), fdr=0.01, output=tmp_path / "x.csv", typicality=True))
    assert (done.counts.alarms, done.threshold, done.counts.discovery and done.counts.discovery.cutoff) == (0, None, None)


def test_typicality_is_small_on_both_sides_and_flags_nothing(folder: Path, tmp_path: Path) -> None:
    calibrate_files(CalibrateRequest(data=("plain.parquet",), model=str(folder), alpha=0.02))
    request = ScoreRequest(data=("later.parquet",), model=str(folder), output=tmp_path / "x.parquet")
    plain = score_files(request)
    both = score_files(replace(request, typicality=True, output=tmp_path / "y.parquet"))
    one, other = pq.read_table(tmp_path / "x.parquet"), pq.read_table(tmp_path / "y.parquet")
    assert other.column_names == [*one.column_names[:5], "typicality", *one.column_names[5:]]
    assert other.drop_columns(["typicality"]).equals(one)
    calibration = artifact.load(folder).threshold.calibration
    lower = [(1 + (calibration <= s).sum()) / 301 for s in one["anomaly_score"].to_pylist()]
    expected = np.minimum(1, 2 * np.minimum(one["p_value"].to_numpy(), lower))
    assert other["typicality"].to_numpy().tolist() == pytest.approx(expected.tolist())
    assert plain.counts.typicality is None
    assert both.counts.typicality is not None
    assert both.counts.typicality.rows == (expected <= 0.02 + 1e-12).sum()
    assert both.counts.typicality.low == ((expected <= 0.02 + 1e-12) & (2 * np.array(lower) < 2 * one["p_value"].to_numpy())).sum()


def test_alarms_come_with_the_interval_they_should_be_in(folder: Path) -> None:
    done = score_files(ScoreRequest(data=("later.parquet",), model=str(folder), overwrite=True))
    threshold = artifact.load(folder).threshold
    assert done.counts.likely_alarms == threshold.law.alarms(1000)
    shown = CliRunner().invoke(app, ["score", "later.parquet", "-m", str(folder)])
    low, high = threshold.law.alarms(1000)
    assert f"50.0 expected if all rows are normal (alpha 0.05; 95 % interval {low} to {high})" in shown.stdout


SCORED: dict[str, tuple[list[str], int, str]] = {
    "two rates": (
        ["--fdr", "0.1", "--alpha", "0.1"], 2,
        "--alpha flags at a false-alarm rate and --fdr at a false-discovery rate; give one of them.",
    ),
    "no rate": (["--fdr", "1"], 2, "--fdr must be in (0, 1); got 1."),
    "cross-fitted": (
        ["--fdr", "0.1"], 4,
        ("--fdr needs the p-values of one exact split calibration; this model has cross-fitted ones, which are approximate. "
         "Calibrate it on normal rows that it has not seen: vae-anomaly calibrate DATA."),
    ),
    "tail": (
        ["--fdr", "0.1"], 4,
        ("--fdr needs the p-values of one exact split calibration; this model has those of a fitted tail, which are estimates. "
         "Calibrate it on normal rows that it has not seen: vae-anomaly calibrate DATA."),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SCORED)
def test_a_false_discovery_rate_is_refused_in_one_line(case: str, folder: Path) -> None:
    words, code, text = SCORED[case]
    detector = artifact.load(folder)
    if case == "cross-fitted":
        artifact.save(replace(detector, threshold=replace(detector.threshold, method="cross")), folder, replace=True)
    if case == "tail":
        calibrate_files(CalibrateRequest(data=("later.parquet",), model=str(folder), label_column="state", method="gpd", alpha=0.001))
    shown = CliRunner().invoke(app, ["score", "later.parquet", "-m", str(folder), "-q", "-o", str(folder.parent / "x.csv"), *words])
    assert (shown.exit_code, shown.stdout, shown.stderr) == (code, "", f"error: {text}\n")
