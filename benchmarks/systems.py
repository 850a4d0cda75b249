"""Run the tests that need MLflow's programs and Spark, and keep what they said.

    python benchmarks/systems.py

``make test-systems`` installs what is needed first. Writes ``benchmarks/results/systems.md``: versions, and each test with its outcome.
"""

import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "systems.md"
PACKAGES = ("mlflow", "pyspark", "pandas", "pyarrow", "torch")


def versions() -> str:
    """Return the versions of what was tried together."""
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr  # noqa: S607  # the one on the path
    java = re.search(r'"(.+?)"', told)
    kept = [f"Python {platform.python_version()}", f"Java {java[1] if java else told.splitlines()[0]}"]
    return ", ".join([*kept, *(f"{name} {metadata.version(name)}" for name in PACKAGES)])


def outcome(case: ET.Element) -> str:
    """Return in one word how a test ended."""
    return next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")


def log(cases: list[ET.Element]) -> str:
    """Return the page; it has no text of a failure, which could name folders of this machine."""
    ended = [outcome(case) for case in cases]
    counts = ", ".join(f"{ended.count(kind)} {kind}" for kind in dict.fromkeys(ended))
    rows = [
        f"| {case.get('classname', '').rpartition('.')[2]} | {case.get('name')} | {kind} |" for case, kind in zip(cases, ended, strict=True)
    ]
    head = [
        "# One table through every way to a model",
        "",
        f"{versions()}.",
        "",
        f"{counts}.",
        "",
        "| tests | case | outcome |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def main() -> int:
    """Run the tests and write the page; return the exit status of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "--systems", "tests/systems", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        status = subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, check=False).returncode
        if report.is_file():
            RESULT.write_text(log(list(ET.parse(report).iter("testcase"))), encoding="utf-8")  # noqa: S314  # pytest wrote it just now
    return status


if __name__ == "__main__":
    sys.exit(main())
