"""Kill ``fit`` at random times, repeat it until it finishes, and compare the model and the registry with an undisturbed fit.

    python benchmarks/kill_fit.py [--jobs 50] [--seed 0]

Each case (exact calibration, a robust fit with a first pass, cross calibration into a folder) is fitted once undisturbed, which gives the
reference bytes and the duration. Each job has its own folder and new SQLite store. ``fit`` is started in a new process, gets SIGKILL at a
time drawn uniformly over that duration (half of the jobs two or three times), and then runs to its end. Weights, threshold and calibration
scores must be equal byte for byte; the store must contain exactly one complete version with the alias and no run that is RUNNING; and the
folder must contain no other file. Finally eight fits start at once on one new store, which must then have eight versions. Writes
``kill_fit.md`` and ``kill_fit.json`` to ``benchmarks/results``; exits with 1 if anything failed.
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
    """One job: kill times (seconds), steps that its last process did not repeat, and what is wrong with the result."""

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
    """Return the command line of a job, the same for every process."""
    data = [str(folder / "normal.parquet"), "--config", str(folder / "small.toml"), "--checkpoint-every", str(EVERY)]
    return [sys.executable, "-m", "vae_anomaly", "fit", *data, "--json", "--quiet", *CASES[case]]


def environment() -> dict[str, str]:
    """Return the environment without MLflow's variables, and with this checkout first on the path."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def run(words: list[str], workdir: Path, kill_after: float | None = None) -> dict[str, object] | None:
    """Run a job to its end or until ``kill_after`` seconds; return its JSON result, None if it was killed before."""
    with subprocess.Popen(words, cwd=workdir, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
    if process.returncode not in {0, -signal.SIGKILL}:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}: {out} {err}")
    result: dict[str, object] | None = json.loads(out) if out.endswith("}\n") else None
    return result


def store(workdir: Path) -> MlflowClient:
    """Return a client of the store of a job."""
    return MlflowClient(f"sqlite:///{workdir}/mlflow.db")


def ended(workdir: Path) -> bool:
    """Return whether a job was killed after its work was done, while its process was exiting; then there is nothing to resume."""
    versions = (workdir / "mlflow.db").exists() and store(workdir).search_model_versions(f"name='{NAME}'")
    return bool(versions) and not list(workdir.glob(".*.resume*/request.json"))


def content(folder: Path) -> tuple[bytes, str]:
    """Return what must be equal: weights, and the manifest without times, file names and digest."""
    manifest = json.loads((folder / artifact.MANIFEST).read_text(encoding="utf-8"))
    manifest.pop("digest")
    for key in ("created", "seconds", "source"):
        manifest["state"]["card"].pop(key)
    return (folder / artifact.WEIGHTS).read_bytes(), json.dumps(manifest, sort_keys=True)


def model_folders(workdir: Path) -> list[Path]:
    """Return the artifact folders of a job: that of its version, and its output folder."""
    (version,) = store(workdir).search_model_versions(f"name='{NAME}'")
    location = store(workdir).get_logged_model(str(version.source).removeprefix("models:/")).artifact_location
    found = [path.parent for path in Path(location.removeprefix("file://")).rglob(artifact.MANIFEST)]
    return found + [folder for folder in [workdir / "model"] if folder.exists()]


def registry_faults(workdir: Path) -> tuple[str, ...]:
    """Return what is wrong in the store of a job."""
    client = store(workdir)
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


def job(case: str, folder: Path, whole: tuple[bytes, str], undisturbed: float, draw: random.Random) -> Job:
    """Kill a job one to three times, let it finish, and check the result."""
    words = command(folder, case)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        workdir, hit = Path(name), []
        result = None
        for _ in range(draw.choice([1, 1, 2, 3])):
            moment = draw.uniform(0, undisturbed)
            result = run(words, workdir, kill_after=moment)
            hit.append(round(moment, 3))
            if result is not None or ended(workdir):
                break
        if result is None and not ended(workdir):
            result = run(words, workdir)
        faults = registry_faults(workdir)
        other = any(content(found) != whole for found in model_folders(workdir)) if "2 versions" not in faults else True
        expected = {"mlflow.db", "mlruns", *(["model"] if "--output" in words else [])}
        stray = tuple(sorted({path.name for path in workdir.iterdir()} - expected))
    steps = result.get("resumed_steps", 0) if result else 0
    return Job(case=case, killed_after=tuple(hit), resumed_steps=int(str(steps)), other_bytes=other, registry=faults, stray=stray)


def at_once(folder: Path) -> tuple[str, ...]:
    """Start eight fits at once on one new store; return what is wrong."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        workdir, words = Path(name), command(folder, "split")
        started = [
            subprocess.Popen(words, cwd=workdir, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(AT_ONCE)
        ]
        result = [process.communicate() for process in started]
        faults = [err or out for process, (out, err) in zip(started, result, strict=True) if process.returncode != 0 or err]
        numbers = sorted(int(v.version) for v in store(workdir).search_model_versions(f"name='{NAME}'"))
        if numbers != list(range(1, AT_ONCE + 1)):
            faults.append(f"versions {numbers}")
        stray = sorted({path.name for path in workdir.iterdir()} - {"mlflow.db", "mlruns"})
        return (*faults, *stray)


def row(case: str, jobs: list[Job], undisturbed: float) -> str:
    """Return the line of a case."""
    mine = [j for j in jobs if j.case == case]
    resumed = [j.resumed_steps for j in mine if j.resumed_steps]
    middle = f"{statistics.median(resumed):.0f}" if resumed else "–"
    wrong = [sum(j.other_bytes for j in mine), sum(bool(j.registry) for j in mine), sum(bool(j.stray) for j in mine)]
    kills = sum(len(j.killed_after) for j in mine)
    return f"| {case} | {undisturbed:.1f} | {len(mine)} | {kills} | {len(resumed)} | {middle} | {' | '.join(map(str, wrong))} |"


def report(jobs: list[Job], undisturbed: dict[str, float], together: tuple[str, ...], seed: int) -> str:
    """Return the results as Markdown."""
    head = (
        f"# Fits killed at random moments\n\n`python benchmarks/kill_fit.py --jobs {len(jobs)} --seed {seed}`\n\n"
        f"{ROWS:,} rows, {STEPS} steps, a checkpoint every {EVERY}; SIGKILL at a time drawn uniformly over the undisturbed duration,\n"
        "start of Python, logging and registration included; half of the jobs are killed up to three times. Then they run to their end,\n"
        "each on its own new SQLite store. *resumed*: jobs whose last process did not start at step 0, and the median of the steps done.\n"
        "*other bytes*: weights, threshold or calibration scores differ from those of an undisturbed fit.\n"
        "*registry*: not exactly one complete version with its alias, or an open run.\n\n"
        "| case | undisturbed seconds | jobs | kills | resumed | steps done | other bytes | registry | stray files |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    table = "\n".join(row(case, jobs, undisturbed[case]) for case in CASES)
    eight = "all eight are registered, with no stray file" if not together else "; ".join(together)
    return f"{head}{table}\n\nEight fits at once on one new store: {eight}.\n"


def measure(count: int, seed: int) -> bool:
    """Measure, print and write the results; return whether all are correct."""
    draw = random.Random(seed)  # noqa: S311  # moments of a measurement, no secret
    jobs: list[Job] = []
    whole, undisturbed = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(sample(ROWS, seed=2), folder / "normal.parquet")
        (folder / "small.toml").write_text(SMALL, encoding="utf-8")
        for i, case in enumerate(CASES):
            workdir = folder / f"case {i}"
            workdir.mkdir()
            start = time.perf_counter()
            run(command(folder, case), workdir)
            undisturbed[case] = time.perf_counter() - start
            whole[case] = content(model_folders(workdir)[0])
            print(f"{case}: {undisturbed[case]:.1f} s undisturbed", flush=True)
        for i in range(count):
            case = list(CASES)[i % len(CASES)]
            jobs.append(job(case, folder, whole[case], undisturbed[case], draw))
            print(f"{i + 1}/{count}", jobs[-1], flush=True)
        together = at_once(folder)
    text = report(jobs, undisturbed, together, seed)
    print(text)
    RESULTS.joinpath("kill_fit.md").write_text(text, encoding="utf-8")
    results = {"seed": seed, "usual_seconds": undisturbed, "jobs": [asdict(j) for j in jobs], "eight_at_once": list(together)}
    RESULTS.joinpath("kill_fit.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return not together and not any(j.other_bytes or j.registry or j.stray for j in jobs)


def main() -> None:
    """Parse the options and measure; exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    raise SystemExit(0 if measure(options.jobs, options.seed) else 1)


if __name__ == "__main__":
    main()
