"""Kill ``fit`` at random moments, run it again until it is done, and compare the model and the registry with a fit left alone.

    python benchmarks/kill_fit.py [--jobs 50] [--seed 0]

Each case (exact calibration, a robust fit with a first pass, cross calibration into a folder) is fitted once undisturbed, which gives the
bytes to compare with and the usual duration. Each job has a folder and a cold SQLite store of its own. ``fit`` is started in a process of
its own, gets SIGKILL at a moment drawn uniformly over that duration (one half of the jobs twice or three times), and runs to its end.
Then weights, threshold and calibration scores must be equal byte by byte, the store must hold exactly one version, whole, with the alias
on it, and no run that is still RUNNING, and nothing else may lie in the folder. At last eight fits start at once on one cold store, and
eight versions must be there. Writes ``kill_fit.md`` and ``kill_fit.json`` to ``benchmarks/results``; exits with 1 if anything failed.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient

from vae_anomaly import artifact

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
COLUMNS, ROWS, STEPS, EVERY, AT_ONCE = 6, 3_000, 120, 10, 8
NAME, ALIAS = "pump", "live"
SMALL = f"""
[model]
views = ["standard", "robust"]
hidden = [16]
latent = 4
exemplars = 200
[train]
steps = {STEPS}
device = "cpu"
[calibration]
alpha = 0.01
[tracking]
model_name = "{NAME}"
alias = "{ALIAS}"
"""
CASES: dict[str, tuple[str, ...]] = {
    "split": (),
    "contamination-robust": ("--contamination-robust",),
    "cross, --output": ("--calibration", "cross", "--output", "model"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job: when it was killed (seconds), how many steps its last run did not do again, and what was wrong at its end."""

    case: str
    killed_after: tuple[float, ...]
    resumed_steps: int
    other_bytes: bool
    registry: tuple[str, ...]
    stray: tuple[str, ...]


def sample(rows: int, seed: int) -> pa.Table:
    """Return correlated rows with a category."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, COLUMNS)) @ np.random.default_rng(1).normal(size=(COLUMNS, COLUMNS))
    return pa.table({**{f"x{j}": x[:, j] for j in range(COLUMNS)}, "mode": generator.choice(["a", "b", "c"], rows)})


def command(folder: Path, case: str) -> list[str]:
    """Return the command line of a job; the same one every time."""
    data = [str(folder / "normal.parquet"), "--config", str(folder / "small.toml"), "--checkpoint-every", str(EVERY)]
    return [sys.executable, "-m", "vae_anomaly", "fit", *data, "--json", "--quiet", *CASES[case]]


def environment() -> dict[str, str]:
    """Return ours without a store chosen in it, with this checkout first."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def run(words: list[str], place: Path, kill_after: float | None = None) -> dict[str, object] | None:
    """Run a job, to its end or until it is killed; returns what it said at its end, None where it did not come to that."""
    with subprocess.Popen(words, cwd=place, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
    if process.returncode not in {0, -signal.SIGKILL}:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}: {out} {err}")
    said: dict[str, object] | None = json.loads(out) if out.endswith("}\n") else None
    return said


def store(place: Path) -> MlflowClient:
    """Return a client of a job's own store."""
    return MlflowClient(f"sqlite:///{place}/mlflow.db")


def ended(place: Path) -> bool:
    """Whether a job was killed after its end, while its process was still leaving: it had nothing left to go on with."""
    there = (place / "mlflow.db").exists() and store(place).search_model_versions(f"name='{NAME}'")
    return bool(there) and not list(place.glob(".*.resume*/request.json"))


def content(folder: Path) -> tuple[bytes, str]:
    """Return what must not differ: weights, and the manifest without times, file names and the digests of both."""
    manifest = json.loads((folder / artifact.MANIFEST).read_text(encoding="utf-8"))
    manifest.pop("digest")
    for key in ("created", "seconds", "source"):
        manifest["state"]["card"].pop(key)
    return (folder / artifact.WEIGHTS).read_bytes(), json.dumps(manifest, sort_keys=True)


def model_folders(place: Path) -> list[Path]:
    """Return where the version of a job has its artifact, and its output folder."""
    (version,) = store(place).search_model_versions(f"name='{NAME}'")
    location = store(place).get_logged_model(str(version.source).removeprefix("models:/")).artifact_location
    found = [path.parent for path in Path(location.removeprefix("file://")).rglob(artifact.MANIFEST)]
    return found + [folder for folder in [place / "model"] if folder.exists()]


def registry_faults(place: Path) -> tuple[str, ...]:
    """Return what is wrong in the store of a job."""
    client = store(place)
    versions = client.search_model_versions(f"name='{NAME}'")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    aliases = {a: str(v) for a, v in client.get_registered_model(NAME).aliases.items()}
    faults = [] if len(versions) == 1 else [f"{len(versions)} versions"]
    if aliases != {ALIAS: "1"}:
        faults.append(f"aliases {aliases}")
    status = {run.info.run_id: run.info.status for run in runs}
    faults += [f"a run is {s}" for s in status.values() if s not in {"FINISHED", "KILLED"}]
    if [run_id for run_id, s in status.items() if s == "FINISHED"] != [v.run_id for v in versions]:
        faults.append("the finished run is not that of the version")
    models = client.search_logged_models([e.experiment_id for e in client.search_experiments()])
    return (*faults, *("a model is pending" for model in models if str(model.status) == "PENDING"))


def job(case: str, folder: Path, whole: tuple[bytes, str], usual: float, draw: random.Random) -> Job:
    """Kill a job once to three times, let it end, and look at what is there."""
    words = command(folder, case)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place, hit = Path(name), []
        said = None
        for _ in range(draw.choice([1, 1, 2, 3])):
            moment = draw.uniform(0, usual)
            said = run(words, place, kill_after=moment)
            hit.append(round(moment, 3))
            if said is not None or ended(place):
                break
        if said is None and not ended(place):
            said = run(words, place)
        faults = registry_faults(place)
        other = any(content(found) != whole for found in model_folders(place)) if "2 versions" not in faults else True
        expected = {"mlflow.db", "mlruns", *(["model"] if "--output" in words else [])}
        stray = tuple(sorted({path.name for path in place.iterdir()} - expected))
    steps = said.get("resumed_steps", 0) if said else 0
    return Job(case=case, killed_after=tuple(hit), resumed_steps=int(str(steps)), other_bytes=other, registry=faults, stray=stray)


def at_once(folder: Path) -> tuple[str, ...]:
    """Start eight fits at once on one cold store; returns what was wrong."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place, words = Path(name), command(folder, "split")
        started = [
            subprocess.Popen(words, cwd=place, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(AT_ONCE)
        ]
        said = [process.communicate() for process in started]
        faults = [err or out for process, (out, err) in zip(started, said, strict=True) if process.returncode != 0 or err]
        numbers = sorted(int(v.version) for v in store(place).search_model_versions(f"name='{NAME}'"))
        if numbers != list(range(1, AT_ONCE + 1)):
            faults.append(f"versions {numbers}")
        stray = sorted({path.name for path in place.iterdir()} - {"mlflow.db", "mlruns"})
        return (*faults, *stray)


def row(case: str, jobs: list[Job], usual: float) -> str:
    """Return the line of a case."""
    mine = [j for j in jobs if j.case == case]
    gone_on = [j.resumed_steps for j in mine if j.resumed_steps]
    middle = f"{statistics.median(gone_on):.0f}" if gone_on else "–"
    wrong = [sum(j.other_bytes for j in mine), sum(bool(j.registry) for j in mine), sum(bool(j.stray) for j in mine)]
    kills = sum(len(j.killed_after) for j in mine)
    return f"| {case} | {usual:.1f} | {len(mine)} | {kills} | {len(gone_on)} | {middle} | {' | '.join(map(str, wrong))} |"


def report(jobs: list[Job], usual: dict[str, float], together: tuple[str, ...], seed: int) -> str:
    """Return what was found as Markdown."""
    head = (
        f"# Fits killed at random moments\n\n`python benchmarks/kill_fit.py --jobs {len(jobs)} --seed {seed}`\n\n"
        f"{ROWS:,} rows, {STEPS} steps, a state every {EVERY}; SIGKILL at a moment drawn uniformly over the usual duration, start of\n"
        "Python, logging and registering included; one half of the jobs is killed up to three times. Then they run to their end,\n"
        "each on a cold SQLite store of its own. *went on*: jobs whose last run did not begin at step 0, and the median of the steps\n"
        "that were there. *other bytes*: weights, threshold or calibration scores differ from those of a fit left alone.\n"
        "*registry*: not exactly one whole version with its alias, or a run still open.\n\n"
        "| case | usual seconds | jobs | kills | went on | steps there | other bytes | registry | stray files |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    table = "\n".join(row(case, jobs, usual[case]) for case in CASES)
    eight = "all eight are registered, nothing is left behind" if not together else "; ".join(together)
    return f"{head}{table}\n\nEight fits at once on one cold store: {eight}.\n"


def measure(count: int, seed: int) -> bool:
    """Measure, print, write; returns whether all went well."""
    draw = random.Random(seed)  # noqa: S311  # moments of a measurement, no secret
    jobs: list[Job] = []
    whole, usual = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(sample(ROWS, seed=2), folder / "normal.parquet")
        (folder / "small.toml").write_text(SMALL, encoding="utf-8")
        for i, case in enumerate(CASES):
            place = folder / f"case {i}"
            place.mkdir()
            start = time.perf_counter()
            run(command(folder, case), place)
            usual[case] = time.perf_counter() - start
            whole[case] = content(model_folders(place)[0])
            print(f"{case}: {usual[case]:.1f} s undisturbed", flush=True)
        for i in range(count):
            case = list(CASES)[i % len(CASES)]
            jobs.append(job(case, folder, whole[case], usual[case], draw))
            print(f"{i + 1}/{count}", jobs[-1], flush=True)
        together = at_once(folder)
    text = report(jobs, usual, together, seed)
    print(text)
    RESULTS.joinpath("kill_fit.md").write_text(text, encoding="utf-8")
    found = {"seed": seed, "usual_seconds": usual, "jobs": [asdict(j) for j in jobs], "eight_at_once": list(together)}
    RESULTS.joinpath("kill_fit.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return not together and not any(j.other_bytes or j.registry or j.stray for j in jobs)


def main() -> None:
    """Take the options and leave with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    raise SystemExit(0 if measure(asked.jobs, asked.seed) else 1)


if __name__ == "__main__":
    main()
