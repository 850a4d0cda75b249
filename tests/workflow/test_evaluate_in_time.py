"""The other verbs with a model of rows in time: evaluate, explain, calibrate, info and the pyfunc say what ``score`` says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.series import detector_of, rows_of
from vae_anomaly import artifact
from vae_anomaly.calibration.blocks import block_threshold
from vae_anomaly.errors import ConfigError, SchemaMismatch, TooFewRows
from vae_anomaly.evaluation.comparison import InTime
from vae_anomaly.workflow.calibrate import calibrate_files
from vae_anomaly.workflow.evaluate import evaluate_files
from vae_anomaly.workflow.explain import explain_files
from vae_anomaly.workflow.models import model_info
from vae_anomaly.workflow.requests import CalibrateRequest, EvaluateRequest, ExplainRequest, ScoreRequest
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.watch import watch

NEW = rows_of(300, seed=5, fault=(80, 140), holes=True)
LABELLED = NEW.append_column("fault", pa.array([int(80 <= i < 140) for i in range(300)]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("verbs") / "m"
    artifact.save(detector_of(), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(LABELLED, "labelled.parquet")
    pq.write_table(rows_of(500, seed=9), "later.parquet")


def test_evaluate_measures_the_smoothed_scores_the_events_and_smooths_the_baselines(model: str) -> None:
    found = evaluate_files(EvaluateRequest(data=("labelled.parquet",), model=model, label_column="fault", no_tracking=True))
    score_files(ScoreRequest(data=("labelled.parquet",), model=model, output="s.parquet"))
    scores = pq.read_table("s.parquet")
    flags, bad = np.array(scores["is_anomaly"].to_pylist()), np.array(LABELLED["fault"].to_pylist()) == 1
    assert found.quality.recall == pytest.approx(flags[bad].mean())
    assert found.quality.false_alarms is not None
    assert found.quality.false_alarms.rate == pytest.approx(flags[~bad & ~np.isnan(scores["anomaly_score"].to_numpy())].mean())
    assert found.events is not None
    assert found.events.labelled == 2  # one stretch of each machine
    assert found.events.found == 2
    assert found.quality.comparison is not None


def test_baselines_are_smoothed_by_entity_in_the_order_of_time() -> None:
    in_time = InTime(position=np.array([2, 0, 1]), entity=np.array([0, 0, 1]), newest=0.5)
    # The mean is 4; entity 0 has the scores 1 and then 8, entity 1 has 3.
    np.testing.assert_allclose(in_time.smoothed(np.array([8.0, 1.0, 3.0])), [0.5 * 2.5 + 4.0, 2.5, 3.5])


def test_explain_shows_the_contributions_of_score(model: str) -> None:
    score_files(ScoreRequest(data=("labelled.parquet",), model=model, output="s.parquet", explain="all", top=None))
    rows = pq.read_table("s.parquet").to_pylist()
    found = explain_files(ExplainRequest(data=("labelled.parquet",), model=model, rows=(100, 30)))
    for explained, number in zip(found.rows, (100, 30), strict=True):
        assert (explained.score, explained.is_anomaly) == (rows[number]["anomaly_score"], rows[number]["is_anomaly"])
        shown = {reason.column: (reason.value, reason.expected) for reason in explained.columns}
        assert shown == {feature["column"]: (feature["value"], feature["expected"]) for feature in rows[number]["top_features"]}
        assert sum(reason.contribution for reason in explained.columns) == pytest.approx(explained.score, rel=1e-9)
        assert sum(reason.kl for reason in explained.columns) == pytest.approx(rows[number]["kl"], rel=1e-9)
    worst = explain_files(ExplainRequest(data=("labelled.parquet",), model=model, worst=1)).rows[0]
    assert worst.row == int(np.nanargmax([np.nan if row["anomaly_score"] is None else row["anomaly_score"] for row in rows]))
    with pytest.raises(ConfigError, match="--counterfactual changes one row, and the score of rows in time depends on many"):
        explain_files(ExplainRequest(data=("labelled.parquet",), model=model, rows=(1,), counterfactual=True))


def test_calibrate_sets_the_threshold_from_blocks_of_the_new_time(model: str) -> None:
    found = calibrate_files(CalibrateRequest(data=("later.parquet",), model=model, output=Path("m2"), alpha=0.05))
    score_files(ScoreRequest(data=("later.parquet",), model=model, output="s.parquet"))
    scores, machine = pq.read_table("s.parquet")["anomaly_score"].to_numpy(), np.array(rows_of(500, seed=9)["machine"].to_pylist())
    block = np.empty(500, dtype=np.int64)
    for name in ("a", "b"):
        rows = np.flatnonzero(machine == name)
        block[rows] = np.arange(len(rows)) * 5 // len(rows)
    assert found.promise.method == "blocks"
    assert found.promise.threshold == pytest.approx(block_threshold(scores, block, 0.05))
    changed = artifact.load(Path("m2"))
    assert changed.series is not None
    assert changed.ensemble.constants.penalty == pytest.approx((changed.threshold.highest + 1) / changed.series.newest)
    for option, request in (
        ("--method gpd", CalibrateRequest(data=("later.parquet",), model=model, output=Path("m3"), method="gpd")),
        ("--group-by", CalibrateRequest(data=("later.parquet",), model=model, output=Path("m3"), group_by="machine")),
    ):
        with pytest.raises(ConfigError, match=f"{option} is for rows that are no time series"):
            calibrate_files(request)


def test_a_time_that_goes_back_names_the_row_in_every_verb(model: str) -> None:
    pq.write_table(pa.concat_tables([LABELLED.slice(50, 20), LABELLED.slice(0, 5)]), "back.parquet")
    text = r"time goes back of machine 'a': t is 0\.5, before that of the row above in back\.parquet row 21 "
    for call, request in (
        (evaluate_files, EvaluateRequest(data=("back.parquet",), model=model, label_column="fault", no_tracking=True)),
        (explain_files, ExplainRequest(data=("back.parquet",), model=model, worst=1)),
        (calibrate_files, CalibrateRequest(data=("back.parquet",), model=model, output=Path("m4"))),
        (score_files, ScoreRequest(data=("back.parquet",), model=model, output="x.parquet")),
    ):
        with pytest.raises(SchemaMismatch, match=text):
            call(request)  # type: ignore[arg-type]


def test_calibrate_refuses_a_short_series(model: str) -> None:
    pq.write_table(rows_of(500, seed=9).slice(0, 30), "short.parquet")
    text = r"a time series needs at least \d+ normal rows to calibrate on, \d+ for each of 5 blocks of its time; 30 given\."
    with pytest.raises(TooFewRows, match=text):
        calibrate_files(CalibrateRequest(data=("short.parquet",), model=model, output=Path("m5"), alpha=0.2))


def test_a_watch_is_not_for_rows_in_time_and_score_names_the_column_that_lacks(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this model is of rows in time, which continue the file before"):
        watch(ScoreRequest(data=(str(tmp_path),), model=model, output=f"{tmp_path}/out/"), interval=1.0)
    for column in ("t", "machine"):
        pq.write_table(NEW.drop_columns([column]), "lacks.parquet")
        with pytest.raises(SchemaMismatch, match=f"lacks.parquet lacks the time or group column of this model of rows in time: .*{column}"):
            score_files(ScoreRequest(data=("lacks.parquet",), model=model, output="x.parquet"))


def test_info_says_what_blocks_say(model: str) -> None:
    found = model_info(model)
    assert found.promise.method == "blocks"
    assert found.promise.statement.startswith("alpha 0.02 is set from 5 contiguous blocks of your training time")


def test_the_pyfunc_scores_a_frame_as_a_series(model: str) -> None:
    pytest.importorskip("mlflow")
    from vae_anomaly.tracking.pyfunc import AnomalyModel, metadata_of

    served = AnomalyModel()
    served.detector, served.name, served.version = artifact.load(Path(model)), "m", "1"
    score_files(ScoreRequest(data=("labelled.parquet",), model=model, output="s.parquet"))
    frame = served.predict(None, NEW.to_pandas())
    expected = pq.read_table("s.parquet")["anomaly_score"].to_pylist()
    assert [None if value is None or value != value else value for value in frame["anomaly_score"]] == expected  # noqa: PLR0124  # NaN
    assert metadata_of(served.detector)["columns"] | {"t": "time", "machine": "category"} == metadata_of(served.detector)["columns"]
    with pytest.raises(Exception, match=r"lacks"):
        served.predict(None, NEW.drop_columns(["t"]).to_pandas())


def test_a_drift_and_a_bad_block_are_cautions() -> None:
    from vae_anomaly.calibration.threshold import calibrate_blocks
    from vae_anomaly.fitting.diagnostics import cautions

    detector = detector_of()
    block = np.repeat(np.arange(5), 200)
    even = np.tile(np.linspace(1.0, 2.0, 200), 5)

    def said(scores: np.ndarray, alpha: float) -> list[str]:
        threshold = calibrate_blocks(scores, block, alpha, effective_rows=100.0)
        return [caution for caution in cautions(replace(detector, threshold=threshold)) if "blocks of the time" in caution]

    assert said(even, 0.02) == []
    assert said(even * np.exp(0.1 * block), 0.02)[0].startswith(
        "the scores drift: the median of the last of 5 blocks of the time is 1.5 times that of the first. If the process goes on drifting"
    )
    many = np.repeat(np.arange(20), 200)
    loose = np.where((many == 2) & (np.arange(4000) % 10 == 0), 10.0, np.tile(np.linspace(1.0, 2.0, 200), 20))
    threshold = calibrate_blocks(loose, many, 0.02, effective_rows=100.0)
    (bad,) = [caution for caution in cautions(replace(detector, threshold=threshold)) if "blocks of the time" in caution]
    assert bad == (
        "one of 20 blocks of the time flags 10 % of its rows at alpha 0.02: a next stretch like it has as many false alarms. "
        "Fit on a longer time"
    )
