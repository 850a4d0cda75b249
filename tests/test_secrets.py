"""No secret of the environment or of a URI is written or said by a whole job: fit, score, report, the MLflow store, -vv, errors."""

from pathlib import Path

import pyarrow.csv
import pytest

from tests.forked import TRACKING, commands
from tests.tiny import table

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI0K7MDENG1bPxRfiCYEXAMPLEKEY",
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-battery",
    "HF_TOKEN": "hf_abcdefghijklmnop",
    "AZURE_STORAGE_ACCOUNT_KEY": "cGFzc3dvcmQxMjM0NTY3ODkw",
}
IN_URI = "hunter2hunter2"


def run(folder: Path, *many: tuple[str, ...], ok: bool = True) -> list[str]:
    """Run commands with secrets around them; return all that each says."""
    once = {"AWS_MAX_ATTEMPTS": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    done = commands([(words, folder) for words in many], importing=TRACKING, environment=SECRETS | once)
    assert [(one.returncode == 0) is ok for one in done] == [True] * len(many), done
    return [one.stdout + one.stderr for one in done]


def told(text: str | bytes) -> list[str]:
    """Return the secrets in a text."""
    content = text.encode() if isinstance(text, str) else text
    return [secret for secret in (*SECRETS.values(), IN_URI) if secret.encode() in content]


@pytest.mark.slow
def test_a_job_writes_no_secret_anywhere(tmp_path: Path) -> None:
    data = "rows.csv"
    pyarrow.csv.write_csv(table("mixed", 120, seed=3), tmp_path / data)
    (tmp_path / "small.toml").write_text("[train]\nsteps = 3\n[calibration]\nalpha = 0.05\n[model]\nhidden = [4]\nlatent = 2\n")
    said = run(
        tmp_path,
        ("fit", data, "--config", "small.toml", "--output", "model", "-vv"),
        ("score", data, "-o", "out.csv", "-vv", "--json"),
        ("report", "--model", "model", "-o", "report.html", "-vv"),
    )
    assert [told(text) for text in said] == [[]] * len(said)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != data]
    assert {"mlflow.db", "manifest.json", "out.csv.manifest.json", "report.html"} <= {path.name for path in written}
    assert {str(path): found for path in written if (found := told(path.read_bytes()))} == {}


def test_an_error_says_no_secret_even_with_its_traceback(tmp_path: Path) -> None:
    store = f"s3://AKIA:{IN_URI}@no-such-bucket-of-ours/x.csv?endpoint_override=127.0.0.1:1&scheme=http"
    how = ("-vv", "--json")
    said = run(
        tmp_path,
        ("score", store, "-m", "m", "-o", "x.csv", *how),
        ("models", "--tracking-uri", f"http://somebody:{IN_URI}@127.0.0.1:1", *how),
        ("fit", f"absent-{SECRETS['HF_TOKEN']}.csv", "--no-tracking", "--output", "m", *how),
        ok=False,
    )
    assert [told(text) for text in said] == [[]] * len(said)
    assert ['"error"' in text for text in said] == [True] * len(said)
