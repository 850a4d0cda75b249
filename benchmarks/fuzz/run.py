"""Run both fuzz targets for some time and add what was found to ``results/fuzz.json`` and ``fuzz.md``.

    python benchmarks/fuzz/run.py --minutes 60 --work DIR

``DIR`` keeps the corpus from run to run, the logs, and ``crashes/``: each kind of crash with its input and its traceback. Once a
crash is mended, its input becomes a test. One process a target, at the lowest priority that still runs. Needs Linux and the extra
``fuzz``.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks/results"
TARGETS = {
    "artifact": ("load_artifact.py", "load an artifact and score three rows with it"),
    "csv": ("ingest_csv.py", "read a delimited file as fit and as score do"),
}
NICE, TIMEOUT, RSS_MB, LONGEST = shutil.which("nice") or "nice", 10, 3000, 200_000
# Inputs per process: each leaves some kilobytes behind, so a longer process would run out of memory by itself.
RUNS = 100_000
QUIET = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}


def main() -> None:
    """Run, count, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    asked = parser.parse_args()
    end, found = time.monotonic() + 60 * asked.minutes, {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: fuzzed(name, asked.work.resolve() / name, end)}))
        for name in asked.target or TARGETS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    write({"when": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), "targets": found})


def fuzzed(name: str, work: Path, end: float) -> dict[str, Any]:
    """Run one target until ``end``, again after everything that kills it; return what was counted."""
    for folder in ("corpus", "seeds", "crashes", "logs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    script, before = str(HERE / TARGETS[name][0]), {path.name for path in (work / "crashes").iterdir()}
    counted: dict[str, Any] = {"executions": 0, "cpu_seconds": 0.0, "wall_seconds": 0.0, "coverage": 0, "killed": 0}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        env = os.environ | QUIET | {"PYTHONPATH": str(ROOT), "CRASHES": str(work / "crashes"), "TMPDIR": scratch}
        subprocess.run([sys.executable, script, "--seeds", str(work / "seeds")], check=True, env=env, stderr=subprocess.DEVNULL)
        while (left := int(end - time.monotonic())) > 0:
            once(counted, [sys.executable, script, *arguments(work, left)], work, env)
    kinds = sorted(path.read_text(encoding="utf-8").splitlines()[0] for path in (work / "crashes").glob("*.txt") if path.name not in before)
    return counted | {"crashes": kinds}


def arguments(work: Path, seconds: int) -> list[str]:
    """Return the arguments of libFuzzer."""
    words = [f"-dict={work}/words.dict"] if (work / "words.dict").exists() else []
    limits = [f"-timeout={TIMEOUT}", f"-rss_limit_mb={RSS_MB}", f"-max_len={LONGEST}", f"-max_total_time={seconds}", f"-runs={RUNS}"]
    return [
        str(work / "corpus"),
        str(work / "seeds"),
        *words,
        *limits,
        "-reduce_inputs=0",
        "-print_final_stats=1",
        f"-artifact_prefix={work}/crashes/killed-",
    ]


def once(counted: dict[str, Any], command: list[str], work: Path, env: dict[str, str]) -> None:
    """Run libFuzzer once and add its figures."""
    started, log = time.monotonic(), work / "logs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([NICE, "-n", "15", *command], stdout=out, stderr=subprocess.STDOUT, env=env, cwd=work)
        _, status, usage = os.wait4(process.pid, 0)
    text = log.read_text(encoding="utf-8", errors="replace")
    ran = re.findall(r"stat::number_of_executed_units: (\d+)", text) or re.findall(r"^#(\d+)\t", text, re.MULTILINE) or ["0"]
    counted["executions"] += int(ran[-1])
    counted["coverage"] = max([counted["coverage"], *map(int, re.findall(r" cov: (\d+) ", text))])
    counted["cpu_seconds"] = round(counted["cpu_seconds"] + usage.ru_utime + usage.ru_stime, 1)
    counted["wall_seconds"] = round(counted["wall_seconds"] + time.monotonic() - started, 1)
    counted["peak_rss_mb"] = max(counted.get("peak_rss_mb", 0), usage.ru_maxrss // 1024)
    if status:
        counted["killed"] += 1
        summary = next((line for line in text.splitlines() if line.startswith("SUMMARY")), "killed")
        (work / "crashes" / f"{log.stem}.txt").write_text(f"{summary}\n{text[-4000:]}", encoding="utf-8")


def commit() -> str:
    """Return the commit that is fuzzed, with a + where files differ from it."""
    git = shutil.which("git") or "git"
    name = subprocess.run([git, "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([git, "status", "--porcelain", "vae_anomaly"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return f"{name}{'+' if changed.strip() else ''}"


def write(run: dict[str, Any]) -> None:
    """Add a run to the results."""
    path = RESULTS / "fuzz.json"
    runs = [*(json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []), run]
    path.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "fuzz.md").write_text(page(runs), encoding="utf-8")


def page(runs: list[dict[str, Any]]) -> str:
    """Return the results in words."""
    flat = [(run, name, found) for run in runs for name, found in run["targets"].items()]
    hours = sum(found["cpu_seconds"] for _, _, found in flat) / 3600
    total = sum(found["executions"] for _, _, found in flat)
    lines = [
        "# Fuzzing",
        "",
        f"{hours:.2f} hours of processor time, {total:,} inputs. Written by [run.py](../fuzz/run.py); a crash is any exception that is not",
        "one of the package's own errors in one line, an allocation of more than 1 GB, or more than 10 seconds for one input.",
        "",
        *(f"- **{name}**: {what}." for name, (_, what) in TARGETS.items()),
        "",
        "| when | commit | target | inputs | processor minutes | branches and lines met | peak memory | kinds of crash |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run, name, found in flat:
        cells = (run["when"], run["commit"], name, f"{found['executions']:,}", f"{found['cpu_seconds'] / 60:.1f}", f"{found['coverage']:,}")
        lines.append(f"| {' | '.join(cells)} | {found['peak_rss_mb']:,} MB | {'<br>'.join(found['crashes']) or 'none'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
