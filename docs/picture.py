"""Make docs/images/report.png: fit, score and report on the sample data, then photograph the page in a headless Chromium.

python docs/picture.py
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
DATA = DOCS.parent / "data"
PICTURE = DOCS / "images" / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
SIZE = "1100,1205"


def main() -> int:
    """Return the exit code: 0, or 1 where no browser is installed."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no browser: install one of {', '.join(BROWSERS)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _run(folder, "fit", DATA / "normal.parquet", "--model-name", "pump-station")
        model = ("--model", "models:/pump-station@champion")
        _run(folder, "score", DATA / "new.csv", *model, "-o", "scores.csv", "--id-columns", "timestamp,machine_id", "--quiet")
        _run(folder, "report", *model, "--scores", "scores.csv", "-o", "report.html")
        words = [browser, *FLAGS, f"--window-size={SIZE}", f"--user-data-dir={folder / 'profile'}", f"--screenshot={PICTURE}"]
        subprocess.run([*words, (folder / "report.html").as_uri()], check=True, stderr=subprocess.DEVNULL)
    print(f"{PICTURE.relative_to(DOCS.parent)}: {PICTURE.stat().st_size:,} bytes")
    return 0


def _run(folder: Path, *words: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    command = [sys.executable, "-m", "vae_anomaly", *map(str, words)]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
