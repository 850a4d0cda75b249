"""``mlflow models predict``: a program that reads CSV or JSON and writes JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.systems.bodies import BODIES
from tests.systems.conftest import MODEL, System, new_rows, plant, results

pytestmark = [pytest.mark.systems, pytest.mark.filterwarnings("ignore")]


def predicted(system: System, path: Path, status: int | None = 0) -> Any:
    kind = path.suffix.removeprefix(".")
    out = system.folder / "predicted.json"
    out.unlink(missing_ok=True)
    command = ("models", "predict", "-m", MODEL, "-i", str(path), "-t", kind, "-o", str(out), "--env-manager", "local")
    done = system.run("mlflow", *command, status=status)
    return json.loads(out.read_text())["predictions"] if out.exists() else done.stderr


def test_a_csv_file_gets_the_scores_of_the_command_line(system: System) -> None:
    path = system.write(new_rows(), "predict.csv")
    assert results(predicted(system, path)) == system.scores(new_rows(), kind="csv")


@pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records"])
def test_a_json_file_gets_the_scores_of_the_command_line(system: System, form: str) -> None:
    rows = plant(30, 6)
    path = system.folder / "predict.json"
    path.write_text(json.dumps(BODIES[form](rows)))
    assert results(predicted(system, path)) == system.scores(rows)


def test_a_refusal_ends_with_the_line_of_the_command_line(system: System) -> None:
    rows = new_rows().rename_columns({"flow": "Flow"})
    told = predicted(system, system.write(rows, "renamed.csv"), status=None)
    assert system.refusal(rows) in told
