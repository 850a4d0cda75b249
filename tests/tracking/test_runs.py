import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import DatasetInput
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from tests.server import free_port, server
from tests.tracking.conftest import Logged
from vae_anomaly import __version__, artifact
from vae_anomaly.calibration.guarantee import guarantee_statement
from vae_anomaly.config import Config, DataConfig, TrackingConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, TrackingError
from vae_anomaly.model.training import CurvePoint
from vae_anomaly.tracking import registry, runs

ROOT = Path(__file__).parents[2]
BLOCK = CurvePoint(step=20, train_loss=3.0, val_reconstruction=2.0, val_kl=1.0, active_units=4.0)


@pytest.fixture
def client(logged: Logged) -> MlflowClient:
    return MlflowClient(logged.uri)


@pytest.fixture
def run(client: MlflowClient, logged: Logged) -> MlflowRun:
    return client.get_run(logged.version.run_id)


@pytest.fixture
def warm(logged: Logged, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Return a client of a store of this test's own, copied from a ready one."""
    database = own_folder / "own.db"
    database.write_bytes((logged.folder / "mlflow.db").read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    return MlflowClient()


def last_run(client: MlflowClient) -> MlflowRun:
    ids = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(ids, max_results=1, order_by=["attributes.start_time DESC"])[0]


def data_sets(run: MlflowRun) -> list[DatasetInput]:
    assert run.inputs is not None
    return run.inputs.dataset_inputs


def experiment_id(client: MlflowClient, name: str) -> str | None:
    found = client.get_experiment_by_name(name)
    return None if found is None else str(found.experiment_id)


# What a run holds


def test_every_setting_is_a_parameter(run: MlflowRun, tiny_detector: Detector) -> None:
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a fit"
    assert run.data.params["model.hidden"] == json.dumps(list(tiny_detector.config.model.hidden))
    assert run.data.params["calibration.alpha"] == str(tiny_detector.config.calibration.alpha)
    assert run.data.params["train.device"] == "cpu"
    assert run.data.params["data.label_column"] == "null"
    assert run.data.params["seed"] == "0"


def test_the_learning_curve_has_a_point_a_block(client: MlflowClient, run: MlflowRun, tiny_detector: Detector) -> None:
    blocks = tiny_detector.card.history.blocks
    for key, name in {
        "train/loss": "train_loss",
        "val/reconstruction": "val_reconstruction",
        "val/kl": "val_kl",
        "active_units": "active_units",
    }.items():
        history = client.get_metric_history(run.info.run_id, key)
        assert {m.step: m.value for m in history} == pytest.approx({b.step: getattr(b, name) for b in blocks})
    assert run.data.metrics["auroc"] == 0.75


def test_the_data_set_says_where_the_rows_are_and_how_many(run: MlflowRun, logged: Logged) -> None:
    (entry,) = data_sets(run)
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training"}
    assert entry.dataset.digest == ("ab" * 32)[:36]
    assert entry.dataset.source_type == "local"
    assert json.loads(entry.dataset.source) == {"uri": str(logged.folder / "data")}
    assert json.loads(entry.dataset.profile or "") == {
        "num_rows": 240,
        "files": 2,
        "first_files": ["data/part-1.parquet", "data/part-2.parquet"],
        "sha256": "ab" * 32,
    }


@pytest.mark.parametrize(
    ("names", "name", "source_type", "uri"),
    [
        (["/a/normal.parquet"], "normal.parquet", "local", "/a/normal.parquet"),
        (["/a/b/x.csv", "/a/b/y.csv"], "b", "local", "/a/b"),
        (["s3://lake/day/x.parquet"], "x.parquet", "s3", "s3://lake/day/x.parquet"),
        (["s3://lake/day/x.parquet", "s3://lake/day/y.parquet"], "day", "s3", "s3://lake/day"),
    ],
    ids=["a file", "files", "an object", "objects"],
)
def test_a_data_set_is_named_after_its_file_or_folder(warm: MlflowClient, names: list[str], name: str, source_type: str, uri: str) -> None:
    with runs.start_run(TrackingConfig()) as run:
        run.log_dataset(names, digest="0123", rows=5)
    dataset = data_sets(last_run(warm))[0].dataset
    assert (dataset.name, dataset.source_type, json.loads(dataset.source)) == (name, source_type, {"uri": uri})


def test_the_artifact_can_be_read_in_the_run(client: MlflowClient, run: MlflowRun) -> None:
    listed = [file.path for folder in ("", "detector", "figures") for file in client.list_artifacts(run.info.run_id, folder)]
    assert {"detector/manifest.json", "detector/weights.safetensors", "figures/learning_curve.png", "manifest.json"} <= set(listed)


def test_the_version_is_tagged_and_is_the_champion(client: MlflowClient, logged: Logged, tiny_detector: Detector) -> None:
    assert logged.version == registry.ModelVersion(
        name="pump", version="1", uri="models:/pump/1", run_id=logged.version.run_id, alias="champion"
    )
    found = client.get_model_version_by_alias("pump", "champion")
    assert str(found.version) == "1"
    assert found.run_id == logged.version.run_id
    assert found.tags == {
        "rows": "240",
        "columns": "9",
        "schema_sha256": tiny_detector.schema.digest,
        "data_sha256": "",
        "alpha": "0.1",
        "threshold": repr(tiny_detector.threshold.value),
        "calibration": "split",
        "statement": guarantee_statement(tiny_detector.threshold),
        "calibration_rows": str(len(tiny_detector.threshold.calibration)),
        "format": "2",
        "package_version": __version__,
    }


def test_the_models_page_links_to_the_version(client: MlflowClient, run: MlflowRun) -> None:
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    tags = client.get_logged_model(output.model_id).tags
    assert json.loads(tags["mlflow.modelVersions"]) == [{"name": "pump", "version": 1}]


def test_without_registering_there_is_a_model_and_no_version(client: MlflowClient, logged: Logged) -> None:
    assert logged.unregistered.uri == f"runs:/{logged.unregistered.run_id}/model"
    assert (logged.unregistered.name, logged.unregistered.version, logged.unregistered.alias) == ("", "", "")
    assert [m.name for m in client.search_registered_models()] == ["pump"]


def test_the_model_holds_no_pickle_and_pins_what_it_needs(logged: Logged) -> None:
    files = {path.name: path for path in (logged.folder / "mlruns").rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".joblib"))]
    lines = files["requirements.txt"].read_text().split()
    assert f"vae-anomaly=={__version__}" in lines
    assert all("==" in line and "+" not in line for line in lines)
    assert {line.partition("=")[0] for line in lines} >= {"mlflow", "torch", "pyarrow", "safetensors"}


def test_long_values_are_cut_and_lists_are_json(warm: MlflowClient) -> None:
    config = Config(data=DataConfig(exclude=tuple(f"column {i}" for i in range(2000)), missing_values=("?", "Bad")))
    with runs.start_run(TrackingConfig()) as run:
        run.log_config(config)
    params = last_run(warm).data.params
    assert len(params["data.exclude"]) == 6000
    assert params["data.exclude"].endswith("…")
    assert params["data.missing_values"] == '["?", "Bad"]'


def test_a_value_that_is_no_number_is_left_out(warm: MlflowClient) -> None:
    with runs.start_run(TrackingConfig()) as run:
        run.log_block(replace(BLOCK, val_kl=float("nan")))
        run.log_metrics({"auroc": float("inf")})
    assert last_run(warm).data.metrics == {"train/loss": 3.0, "val/reconstruction": 2.0, "active_units": 4.0}


# Tracking off, and MLflow out of sight


def test_no_run_takes_whatever_a_run_takes() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in methods if name.startswith("log_")}

    assert public(runs.NoRun) == public(runs.Run)


def test_with_tracking_off_mlflow_is_not_imported(own_folder: Path) -> None:
    script = """
import sys
from vae_anomaly.config import Config, TrackingConfig
from vae_anomaly.tracking import registry, store, runs
with runs.start_run(TrackingConfig(enabled=False)) as run:
    run.log_config(Config())
    run.log_block(None)
    run.log_metrics({"x": 1.0})
    run.log_dataset(["x"], digest="", rows=1)
    run.log_figures({})
    run.log_tags({})
    run.log_file(None)
    assert run.log_model(None, None) is None
print([name for name in ("mlflow", "pandas", "matplotlib") if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    heard = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert heard.stdout.strip() == "[]"
    assert list(own_folder.iterdir()) == []


# Whole or not at all


@contextmanager
def failing_client(method: str, error: BaseException) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, method, fail)
        yield


@pytest.mark.parametrize(
    ("method", "doing"),
    [
        ("log_artifacts", "log the model"),
        ("log_model_artifacts", "log the model"),
        ("create_registered_model", "register vae-anomaly"),
        ("create_model_version", "register vae-anomaly"),
    ],
)
def test_what_fails_before_the_version_leaves_none(
    warm: MlflowClient, tiny_detector: Detector, logged: Logged, method: str, doing: str
) -> None:
    with (
        pytest.raises(TrackingError) as refused,
        failing_client(method, RuntimeError("the disk\nis gone")),
        runs.start_run(TrackingConfig()) as run,
    ):
        run.log_model(logged.folder / "out", tiny_detector)
    assert str(refused.value) == f"MLflow at {os.environ['MLFLOW_TRACKING_URI']} could not {doing}: the disk"
    assert last_run(warm).info.status == "FAILED"
    assert [str(v.version) for v in warm.search_model_versions("name='vae-anomaly'")] == []
    assert mlflow.active_run() is None


def test_an_alias_that_cannot_be_set_leaves_a_whole_version_and_says_so(
    warm: MlflowClient, tiny_detector: Detector, logged: Logged
) -> None:
    with (
        pytest.raises(TrackingError) as refused,
        failing_client("set_registered_model_alias", RuntimeError("no")),
        runs.start_run(TrackingConfig(model_name="pump")) as run,
    ):
        run.log_model(logged.folder / "out", tiny_detector)
    uri = os.environ["MLFLOW_TRACKING_URI"]
    assert str(refused.value) == f"MLflow at {uri} could not point pump@champion at version 2, which is registered: no"
    assert warm.get_model_version("pump", "2").tags["calibration"] == "split"
    assert str(warm.get_model_version_by_alias("pump", "champion").version) == "1"


def test_a_second_fit_becomes_the_next_version_and_takes_the_alias(warm: MlflowClient, tiny_detector: Detector, logged: Logged) -> None:
    with runs.start_run(TrackingConfig(model_name="pump")) as run:
        version = run.log_model(logged.folder / "out", tiny_detector)
    assert version is not None
    assert version.uri == "models:/pump/2"
    assert str(warm.get_model_version_by_alias("pump", "champion").version) == "2"


def test_without_an_alias_the_champion_stays(warm: MlflowClient, tiny_detector: Detector, logged: Logged) -> None:
    with runs.start_run(TrackingConfig(model_name="pump", alias="")) as run:
        run.log_model(logged.folder / "out", tiny_detector)
    assert str(warm.get_model_version_by_alias("pump", "champion").version) == "1"


@pytest.mark.parametrize(("error", "status"), [(ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "FAILED")])
def test_a_run_that_breaks_off_says_how(warm: MlflowClient, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), runs.start_run(TrackingConfig()):
        raise error
    assert last_run(warm).info.status == status


def test_the_error_of_the_fit_is_not_hidden_by_that_of_the_store(warm: MlflowClient) -> None:
    with (
        pytest.raises(ValueError, match="the real one"),
        failing_client("set_terminated", RuntimeError("the other")),
        runs.start_run(TrackingConfig()),
    ):
        raise ValueError("the real one")
    assert mlflow.active_run() is None
    assert warm is not None


def test_a_store_lost_while_training_ends_the_fit_only_at_its_end(warm: MlflowClient, tiny_detector: Detector, logged: Logged) -> None:
    sent: list[int] = []

    def fit() -> None:
        with runs.start_run(TrackingConfig()) as run, failing_client("log_batch", ConnectionError("lost")):
            for step in range(3):
                run.log_block(replace(BLOCK, step=step))
                sent.append(step)
            run.log_model(logged.folder / "out", tiny_detector)

    with pytest.raises(TrackingError, match="could not log the learning curve: lost"):
        fit()
    assert sent == [0, 1, 2]
    assert last_run(warm).info.status == "FAILED"


def test_points_kept_while_the_store_was_away_are_sent_when_it_is_back(warm: MlflowClient) -> None:
    with runs.start_run(TrackingConfig()) as run:
        with failing_client("log_batch", ConnectionError("lost")):
            run.log_block(replace(BLOCK, step=1))
        run.log_block(replace(BLOCK, step=2))
    history = warm.get_metric_history(last_run(warm).info.run_id, "val/kl")
    assert [m.step for m in history] == [1, 2]


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b"])
def test_a_model_name_that_mlflow_refuses_is_refused_before_the_training(own_folder: Path, name: str) -> None:
    with pytest.raises(ConfigError) as refused, runs.start_run(TrackingConfig(model_name=name)):
        pytest.fail("the run has started")
    assert str(refused.value) == f"tracking.model_name must be a name without '/' and ':'; got {name!r}."
    assert list(own_folder.iterdir()) == []


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V23", "a b", "a/b", "x" * 256])
def test_an_alias_that_mlflow_refuses_is_refused_before_the_training(own_folder: Path, alias: str) -> None:
    with pytest.raises(ConfigError) as refused, runs.start_run(TrackingConfig(alias=alias)):
        pytest.fail("the run has started")
    text = f"tracking.alias must be letters, digits, '_' and '-', and not 'latest' or like 'v1'; got {alias!r}."
    assert str(refused.value) == text
    assert list(own_folder.iterdir()) == []


def test_our_rules_for_names_are_those_of_mlflow(warm: MlflowClient) -> None:
    def accepted(act: Callable[..., object], *arguments: object) -> bool:
        try:
            act(*arguments)
        except (MlflowException, ConfigError):
            return False
        return True

    for alias in ("champion", "a_b-c", "v1x", "1", "ä", "latest", "v1", "a b", "a.b", "x" * 255, "x" * 256):
        theirs = accepted(warm.set_registered_model_alias, "pump", alias, "1")
        assert theirs == accepted(runs.check_registry_names, TrackingConfig(alias=alias)), alias
    for name in ("a b", "pump.2", "ä", "a/b", "a:b", "", " "):
        assert accepted(warm.create_registered_model, name) == accepted(runs.check_registry_names, TrackingConfig(model_name=name)), name


# Which run, which experiment


def test_an_active_run_of_the_caller_becomes_the_parent(warm: MlflowClient) -> None:
    with mlflow.start_run() as parent, runs.start_run(TrackingConfig()) as run:
        assert run.run_id != parent.info.run_id
    assert warm.get_run(run.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_under_mlflow_run_its_run_is_used(warm: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made = warm.create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with runs.start_run(TrackingConfig(experiment="other")) as run:
        assert run.run_id == made.info.run_id
    assert experiment_id(warm, "other") is None


def test_the_experiment_is_made_once(warm: MlflowClient) -> None:
    ids = set()
    for _ in range(2):
        with runs.start_run(TrackingConfig(experiment="pumps")) as run:
            ids.add(warm.get_run(run.run_id).info.experiment_id)
    assert ids == {experiment_id(warm, "pumps")}


def test_an_experiment_that_another_process_makes_at_the_same_time_is_used(warm: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    create = MlflowClient.create_experiment

    def created_twice(self: MlflowClient, name: str) -> str:
        create(self, name)
        return create(self, name)

    monkeypatch.setattr(MlflowClient, "create_experiment", created_twice)
    with runs.start_run(TrackingConfig(experiment="pumps")) as run:
        pass
    assert warm.get_run(run.run_id).info.experiment_id == experiment_id(warm, "pumps")


def test_mlflows_variable_names_the_experiment_unless_the_config_does(warm: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    names = []
    for settings in (TrackingConfig(), TrackingConfig(experiment="asked for")):
        with runs.start_run(settings) as run:
            names.append(warm.get_experiment(warm.get_run(run.run_id).info.experiment_id).name)
    assert names == ["from the environment", "asked for"]


@pytest.mark.parametrize("variable", [None, "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"])
def test_a_deleted_experiment_says_how_to_restore_it(warm: MlflowClient, monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    number = warm.create_experiment("gone")
    warm.delete_experiment(number)
    if variable is not None:
        monkeypatch.setenv(variable, number if variable.endswith("ID") else "gone")
    tracking = TrackingConfig() if variable else TrackingConfig(experiment="gone")
    with pytest.raises(TrackingError) as refused, runs.start_run(tracking):
        pytest.fail("the run has started")
    uri, option = mlflow.get_tracking_uri(), "MLFLOW_EXPERIMENT_NAME" if variable else "--experiment"
    assert str(refused.value) == (
        f"the MLflow experiment 'gone' at {uri} was deleted, and its name stays taken. Restore it: MLFLOW_TRACKING_URI={uri} "
        f"mlflow experiments restore --experiment-id {number}; or name another with {option}."
    )
    warm.restore_experiment(number)
    with runs.start_run(tracking) as run:
        assert warm.get_run(run.run_id).info.experiment_id == number


# Many at once

# Imports once, opens nothing, and becomes many processes; exits with the worst of their exit codes.
COLD_FITS = """
import os, sys
from pathlib import Path
from vae_anomaly.config import TrackingConfig
from vae_anomaly import artifact
from vae_anomaly.tracking import store, runs
store.import_mlflow()
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from vae_anomaly.tracking import pyfunc
folder, many = Path(sys.argv[1]), int(sys.argv[2])
detector = artifact.load(folder)
fits = []
for _ in range(many):
    fits.append(os.fork())
    if fits[-1] == 0:
        with runs.start_run(TrackingConfig()) as run:
            run.log_config(detector.config)
            for block in detector.card.history.blocks:
                run.log_block(block)
            run.log_model(folder, detector)
        sys.exit()
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(fit, 0)[1]) % 256 for fit in fits))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_simultaneous_fits_on_a_cold_store_all_land_in_silence(own_folder: Path, logged: Logged) -> None:
    many = int(os.environ.get("COLD_FITS", "4"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"PYTHONPATH": str(ROOT)}
    # Since 3.12, Python warns of a fork beside the threads that libraries start when they are imported.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", COLD_FITS, str(logged.folder / "out"), str(many)]
    fits = subprocess.run(command, cwd=own_folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert (fits.stdout, fits.stderr, fits.returncode) == ("", "", 0)
    versions = registry.registered_versions(uri=f"sqlite:///{own_folder}/mlflow.db")
    assert sorted(int(v.version) for v in versions) == list(range(1, many + 1))
    assert sum(v.aliases == ("champion",) for v in versions) == 1
    assert sorted(path.name for path in own_folder.iterdir()) == ["mlflow.db", "mlruns"]
    for version in versions:
        found = registry.resolve_model(f"models:/vae-anomaly/{version.version}", uri=f"sqlite:///{own_folder}/mlflow.db")
        artifact.load(found.folder)


# A real server


@pytest.mark.slow
def test_a_server_named_by_the_environment_gets_everything(
    own_folder: Path, logged: Logged, tiny_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "server").mkdir()
    (own_folder / "here").mkdir()
    monkeypatch.chdir(own_folder / "here")
    with server(own_folder / "server", free_port()) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with runs.start_run(TrackingConfig()) as run:
            run.log_config(tiny_detector.config)
            run.log_block(BLOCK)
            version = run.log_model(logged.folder / "out", tiny_detector)
        assert version is not None
        for name in ("models:/vae-anomaly@champion", f"runs:/{version.run_id}", f"runs:/{version.run_id}/model"):
            found = registry.resolve_model(name)
            assert artifact.load(found.folder).threshold.value == tiny_detector.threshold.value
    assert list(Path.cwd().iterdir()) == []
