"""Run the suite in this environment and keep what it said beside what was said in others.

    python benchmarks/versions.py NAME [options of pytest]
    python benchmarks/versions.py NAME --absent

``make test-lowest`` and ``make test-pythons`` make the environments. Writes one section of ``benchmarks/results/versions.md``.
"""

import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from measured import processor

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "versions.md"
# What a package says of its next version is no fault in the lowest one that is allowed.
LOWEST = [word for kind in ("Deprecation", "PendingDeprecation", "Future") for word in ("-W", f"ignore::{kind}Warning")]
HEAD = "# The suite on other versions\n\n`make test-lowest` and `make test-pythons` write this page: what was run, and what it said.\n"


def packages() -> str:
    """Return the versions, here, of what the package needs."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = [re.split(r"[\[<>=]", line)[0] for line in needed]
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def outcome(case: ET.Element) -> str:
    """Return in one word how a test ended."""
    return next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")


def line(case: ET.Element, kind: str) -> str:
    """Return a test as a line: why it was skipped; the text of a failure could name folders of this machine."""
    found = case.find("skipped")
    why = "" if found is None else f": {found.get('message')}"
    return f"- {kind}: {case.get('classname')}.{case.get('name')}{why}"


def section(report: Path, options: list[str]) -> list[str]:
    """Return what was run, on what, and what it said."""
    suite = next(ET.parse(report).iter("testsuite"))  # noqa: S314  # pytest wrote it just now
    ended = [(case, outcome(case)) for case in suite.iter("testcase")]
    counts = Counter(kind for _, kind in ended)
    said = ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failure", "error", "skipped"))
    return [
        f"Python {platform.python_version()} on {platform.system()}, {processor()}; {datetime.now(UTC):%Y-%m-%d}.",
        f"`{' '.join(['pytest', *options])}`: {said} in {float(suite.get('time', 0)):.0f} s.",
        f"{packages()}.",
        *([""] if counts["passed"] < len(ended) else []),
        *(line(case, kind) for case, kind in ended if kind != "passed"),
    ]


def keep(name: str, lines: list[str]) -> None:
    """Put the section of one environment in place of an earlier one of its name."""
    page = RESULT.read_text(encoding="utf-8") if RESULT.is_file() else HEAD
    head, *others = re.split(r"^## ", page, flags=re.MULTILINE)
    sections = {title: text.strip() for title, _, text in (other.partition("\n") for other in others)}
    sections[name] = "\n".join(lines)
    told = "".join(f"\n## {title}\n\n{sections[title]}\n" for title in sorted(sections))
    RESULT.write_text(f"{head.rstrip()}\n{told}", encoding="utf-8")


def main(name: str, *options: str) -> int:
    """Run the suite and write its section; return the exit status of pytest."""
    if options == ("--absent",):
        sys.stderr.write(f"{name} was not found: nothing was run\n")
        keep(name, ["Not found on this machine: nothing was run."])
        return 0
    asked = [*(LOWEST if name == "lowest" else []), *options]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        status = subprocess.run([sys.executable, "-m", "pytest", *asked, f"--junitxml={report}"], cwd=ROOT, check=False).returncode
        if report.is_file():
            keep(name, section(report, asked))
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
