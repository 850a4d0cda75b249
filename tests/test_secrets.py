"""No secret of the environment or of a URI is written or said by a whole job: fit, score, report, the MLflow store, -vv, errors."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.csv
import pytest

from tests.tiny import table

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI0K7MDENG1bPxRfiCYEXAMPLEKEY",
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-battery",
    "HF_TOKEN": "hf_abcdefghijklmnop",
    "AZURE_STORAGE_ACCOUNT_KEY": "cGFzc3dvcmQxMjM0NTY3ODkw",
}
IN_URI = "hunter2hunter2"


def run(folder: Path, *words: str, ok: bool = True) -> str:
    """Run a command with secrets around it; return all that it says."""
    once = {"AWS_MAX_ATTEMPTS": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    environment = os.environ | SECRETS | once | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "vae_anomaly", *words]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode == 0) is ok, done.stderr
    return done.stdout + done.stderr


def told(text: str | bytes) -> list[str]:
    """Return the secrets in a text."""
    content = text.encode() if isinstance(text, str) else text
    return [secret for secret in (*SECRETS.values(), IN_URI) if secret.encode() in content]


@pytest.mark.slow
def test_a_job_writes_no_secret_anywhere(tmp_path: Path) -> None:
    data = "rows.csv"
    pyarrow.csv.write_csv(table("mixed", 120, seed=3), tmp_path / data)
    (tmp_path / "small.toml").write_text("[train]\nsteps = 3\n[calibration]\nalpha = 0.05\n[model]\nhidden = [4]\nlatent = 2\n")
    said = [
        run(tmp_path, "fit", data, "--config", "small.toml", "--output", "model", "-vv"),
        run(tmp_path, "score", data, "-o", "out.csv", "-vv", "--json"),
        run(tmp_path, "report", "--model", "model", "-o", "report.html", "-vv"),
    ]
    assert [told(text) for text in said] == [[]] * len(said)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != data]
    assert {"mlflow.db", "manifest.json", "out.csv.manifest.json", "report.html"} <= {path.name for path in written}
    assert {str(path): found for path in written if (found := told(path.read_bytes()))} == {}


@pytest.mark.parametrize(
    "words",
    [
        ("score", f"s3://AKIA:{IN_URI}@no-such-bucket-of-ours/x.csv?endpoint_override=127.0.0.1:1&scheme=http", "-m", "m", "-o", "x.csv"),
        ("models", "--tracking-uri", f"http://somebody:{IN_URI}@127.0.0.1:1"),
        ("fit", f"absent-{SECRETS['HF_TOKEN']}.csv", "--no-tracking", "--output", "m"),
    ],
    ids=["s3", "server", "value of a variable"],
)
def test_an_error_says_no_secret_even_with_its_traceback(tmp_path: Path, words: tuple[str, ...]) -> None:
    said = run(tmp_path, *words, "-vv", "--json", ok=False)
    assert told(said) == []
    assert '"error"' in said
