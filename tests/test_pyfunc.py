"""The import path of logged models: what MLflow has stored must import for ever."""

import subprocess
import sys
from pathlib import Path

import pytest

from vae_anomaly import pyfunc
from vae_anomaly.tracking import pyfunc as implementation

GOLDEN = Path(__file__).parent / "golden"


def test_the_path_leads_to_the_model_class() -> None:
    assert pyfunc.__all__ == ["AnomalyModel"]
    assert pyfunc.AnomalyModel is implementation.AnomalyModel


def test_new_models_store_this_path() -> None:
    assert "from vae_anomaly.pyfunc import AnomalyModel\n" in implementation.MODEL_CODE


@pytest.mark.parametrize("code", sorted(GOLDEN.glob("registered-*/vae_anomaly_model.py")), ids=lambda path: path.parent.name)
def test_the_code_of_every_frozen_model_runs(code: Path) -> None:
    """In a new process, as MLflow runs it; ``set_model`` then holds an instance of the class."""
    script = f"exec({code.read_text(encoding='utf-8')!r})\nfrom mlflow.models.model import __mlflow_model__ as m\nprint(type(m).__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "AnomalyModel"


def test_there_is_a_frozen_model() -> None:
    assert list(GOLDEN.glob("registered-*/vae_anomaly_model.py")) != []
