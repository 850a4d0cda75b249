"""The jobs to copy: the configurations are complete and load, and the project file names commands that exist."""

import importlib.util
import re
import shutil
import tomllib
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from vae_anomaly.config import Config, config_to_dict, load_config
from vae_anomaly.workflow.models import list_models

PIPELINES = Path(__file__).parents[1] / "pipelines"
CONFIGS = ("tabular.toml", "sensor.toml")


def leaves(config: Config) -> dict[str, object]:
    """Every setting with its dotted name."""
    plain = config_to_dict(config)
    sections = {name: value for name, value in plain.items() if isinstance(value, dict)}
    single = {name: value for name, value in plain.items() if name not in sections}
    return single | {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_loads_and_is_complete(name: str) -> None:
    """Every setting is there, those without a default as a comment."""
    load_config(PIPELINES / name)
    text = (PIPELINES / name).read_text(encoding="utf-8")
    # A commented setting is still a setting: take the marks away, and the file must load with everything in it.
    written = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    keys = {f"{section}.{key}" for section, values in written.items() if isinstance(values, dict) for key in values}
    assert keys | {"seed"} == set(leaves(Config()))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_line_of_a_configuration_has_its_comment(name: str) -> None:
    lines = (PIPELINES / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"(# )?\w+ = ", line) and not re.search(r"  +# \w", line)] == []


def test_tabular_is_the_defaults_written_out() -> None:
    assert load_config(PIPELINES / "tabular.toml") == Config()


def test_sensor_differs_where_it_says_so() -> None:
    default, sensor = leaves(Config()), leaves(load_config(PIPELINES / "sensor.toml"))
    assert {key for key, value in sensor.items() if value != default[key]} == {
        "data.time_column",
        "data.group_by",
        "data.missing_values",
        "calibration.alpha",
        "tracking.model_name",
        "tracking.experiment",
    }


def test_the_project_file_calls_commands_and_options_that_exist() -> None:
    from typer.main import get_command

    from vae_anomaly.cli.app import app

    commands = getattr(get_command(app), "commands", {})
    text = (PIPELINES / "MLproject").read_text(encoding="utf-8")
    entries = re.findall(r"^  (\w+):\n    parameters:\n((?:      .*\n)+)    command: \"(.*)\"$", text, re.MULTILINE)
    assert len(entries) == text.count("command:") > 0
    for name, parameters, command in entries:
        launched = command.removeprefix("torchrun --standalone --nproc-per-node {processes} -m vae_anomaly ")
        program, verb, *words = ["vae-anomaly", *launched.split()] if launched != command else command.split()
        assert (program, verb) == ("vae-anomaly", name.removesuffix("_in_processes"))
        known = {option for parameter in commands[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known
        assert set(re.findall(r"{(\w+)}", command)) == set(re.findall(r"^      (\w+):", parameters, re.MULTILINE))


def test_the_readme_lists_every_file() -> None:
    text = (PIPELINES / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in PIPELINES.iterdir() if path.is_file()} - {"README.md"}
    assert set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)) == files


@pytest.fixture(scope="module")
def retrain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("retrain", PIPELINES / "retrain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_retrain_promotes_unless_it_is_worse(
    retrain: ModuleType, own_folder: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version 1 is promoted for want of a champion; version 2 is the same model; version 3 sees hardly any column."""
    shutil.copy2(empty_store, own_folder / "mlflow.db")
    data = PIPELINES.parent / "data"
    pq.write_table(pq.read_table(data / "normal.parquet").slice(0, 2400), "normal.parquet")
    pq.write_table(pq.read_table(data / "labelled.parquet").slice(0, 1000), "labelled.parquet")
    small = '[model]\nmembers = 1\nviews = ["standard"]\n[train]\nsteps = 20\n'
    blind = '[data]\nexclude = ["vibration_mm_s", "flow_l_min", "pressure_bar", "power_kw", "bearing_temperature_c"]\n'
    Path("small.toml").write_text(small, encoding="utf-8")
    Path("blind.toml").write_text(small + blind, encoding="utf-8")
    words = ["normal.parquet", "--labelled", "labelled.parquet", "--label-column", "fault", "--config"]
    said = []
    for config in ("small.toml", "small.toml", "blind.toml"):
        assert retrain.main([*words, config]) == 0
        said.append(capsys.readouterr().out.splitlines()[-1])
    quality = r"average precision 0\.\d{4}"
    assert re.fullmatch(rf"promoted version 1: {quality}, before nothing", said[0])
    assert re.fullmatch(rf"promoted version 2: {quality}, before 0\.\d{{4}}", said[1])
    assert re.fullmatch(rf"kept the champion \({quality}\); version 3 has 0\.\d{{4}}", said[2])
    versions = {alias: version.version for version in list_models(None).versions for alias in version.aliases}
    assert versions == {"champion": "2", "challenger": "3"}


def test_retrain_ends_with_the_exit_code_of_the_error(retrain: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert retrain.main(["a.parquet", "--labelled", "b.parquet", "--label-column", "c", "--config", str(missing)]) == 2
    assert capsys.readouterr().err == f"error: config file not found: {missing}.\n"
