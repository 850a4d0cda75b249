"""Freeze the artifact format of today: ``python -m tests.golden.make``, once for each format number, and never again.

Writes ``format-<n>/`` beside this file: the artifact of a tiny detector, ten odd rows, and the scores that every later version has
to give them. With ``--registered``: ``registered-<n>/``, the same detector as the MLflow model that is logged today. A folder that is
there is refused: it is what users of that version have on their disks and in their registries.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from tests import tiny
from vae_anomaly import artifact
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import score_batches
from vae_anomaly.tables import source
from vae_anomaly.tracking import store

GOLDEN = Path(__file__).parent
ARTIFACT, ROWS, EXPECTED = "artifact", "rows.csv", "expected.json"
CASE = tiny.Case(kind="mixed", size="several", method="split", prior="exemplar")
# Ordinary rows, an outlier, a row without a cell, a level never seen, constants that changed, and missing cells.
PLACES = (0, 1, 2, tiny.OUTLIER, tiny.EMPTY, 6, tiny.UNSEEN, tiny.CHANGED_NUMBER, tiny.CHANGED_LEVEL, tiny.HOLES)
# What stands in a frozen MLmodel for the paths of the machine that froze it.
NOWHERE = "/golden"
KEPT = ("anomaly_score", "reconstruction", "kl", "is_anomaly")


def scores(detector: Detector, rows: Path) -> list[dict[str, Any]]:
    """Score the rows of a file as ``vae-anomaly score`` does; one object for each row."""
    batches = source.open_source([str(rows)]).batches(detector.schema)
    found: list[dict[str, Any]] = pa.Table.from_batches(score_batches(detector, batches)).select(list(KEPT)).to_pylist()
    return found


def make(folder: Path) -> None:
    """Write a golden folder. Raises FileExistsError where there is one."""
    folder.mkdir(parents=True)
    artifact.save(tiny.detector(CASE), folder / ARTIFACT)
    csv.write_csv(tiny.odd_rows(CASE.kind).take(list(PLACES)), folder / ROWS)
    expected = scores(artifact.load(folder / ARTIFACT), folder / ROWS)
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def make_registered(folder: Path, golden: Path) -> None:
    """Write the folder that MLflow stores when the artifact of a golden folder is logged. Raises FileExistsError where there is one."""
    mlflow = store.import_mlflow()  # which sets what MLflow reads from the environment, before the next line imports it
    from vae_anomaly.tracking import pyfunc

    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        # MLflow names the folder in the model after the one that is logged.
        detector = Path(shutil.copytree(golden / ARTIFACT, place / store.DETECTOR_FOLDER))
        with store.open_store(f"sqlite:///{place / 'mlflow.db'}"):
            experiment = mlflow.create_experiment("golden", artifact_location=(place / "mlruns").as_uri())
            with mlflow.start_run(experiment_id=experiment):
                pyfunc.log_pyfunc(detector, artifact.load(detector))
        (logged,) = (path.parent for path in place.rglob("MLmodel"))
        _forget_where(logged / "MLmodel")
        shutil.copytree(logged, folder, dirs_exist_ok=True)


def _forget_where(path: Path) -> None:
    """Replace the paths of this machine in an MLmodel file; MLflow reads none of them on load."""
    from mlflow.models import Model

    model = Model.load(str(path))
    flavor = model.flavors["python_function"]
    model.artifact_path = f"{NOWHERE}/model"
    for name, stored in flavor["artifacts"].items():
        stored["uri"] = f"{NOWHERE}/{name}"
    flavor["model_code_path"] = f"{NOWHERE}/{Path(flavor['model_code_path']).name}"
    model.save(str(path))


if __name__ == "__main__":
    frozen = GOLDEN / f"format-{artifact.FORMAT}"
    if sys.argv[1:] == ["--registered"]:
        make_registered(GOLDEN / f"registered-{artifact.FORMAT}", frozen)
    else:
        make(frozen)
