"""Kill ``score`` at random times, repeat it until it finishes, and compare every byte with an undisturbed scoring; the same for ``fit``.

    python benchmarks/kill.py [--score 100] [--rows 200000] [--fit 50] [--seed 0]

Fits a small model in a temporary folder. Each case (CSV, Parquet, Parquet with a false-discovery rate) is scored once undisturbed,
which gives the reference bytes and the duration. Each trial starts ``score`` in a new process, sends SIGKILL at a time drawn uniformly
over that duration, kills the next process too with probability 0.5, and lets the last one finish. Output and manifest must be equal
byte for byte, and the folder must contain no other file. Writes ``kill.md`` and ``kill.json`` to ``benchmarks/results``. The part about
``fit`` is ``kill_fit.py``; 0 trials skip a part. Exits with 1 if anything failed.
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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vae_anomaly import artifact
from vae_anomaly.config import CalibrationConfig, Config, ModelConfig, TrainConfig
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.schema.schema import infer_schema

RESULTS = Path(__file__).parent / "results"
COLUMNS, FIT_ROWS, PART_ROWS, CHUNK_ROWS = 8, 4_000, 8_192, 4_096
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "CSV": ("scores.csv", ()),
    "Parquet": ("scores.parquet", ()),
    "Parquet, --fdr 0.2": ("scores.parquet", ("--fdr", "0.2")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One job: kill times (seconds), rows done before the last process, and whether the result is correct."""

    case: str
    killed_after: tuple[float, ...]
    resumed_rows: int
    same_output: bool
    same_manifest: bool
    stray: tuple[str, ...]


def sample(rows: int, seed: int) -> pa.Table:
    """Return correlated rows with a category and a key; one of 200 rows has an outlier."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, COLUMNS)) @ np.random.default_rng(1).normal(size=(COLUMNS, COLUMNS))
    x[::200, 0] += 100.0
    columns = {f"x{j}": x[:, j] for j in range(COLUMNS)}
    return pa.table({"key": [f"k{i}" for i in range(rows)], **columns, "mode": generator.choice(["a", "b", "c"], rows)})


def prepare(folder: Path, rows: int) -> None:
    """Write a model and the rows to score."""
    config = Config(
        model=ModelConfig(views=("standard",), members=1, hidden=(16,), latent=4, exemplars=256),
        train=TrainConfig(steps=200, device="cpu"),
        calibration=CalibrationConfig(alpha=0.01, method="split"),
    )
    normal = sample(FIT_ROWS, seed=2).drop_columns(["key"])
    artifact.save(fit_detector(normal, infer_schema(normal, config.data), config), folder / "model")
    pq.write_table(sample(rows, seed=3), folder / "new.parquet")


def command(folder: Path, output: Path, options: tuple[str, ...]) -> list[str]:
    """Return the command line of a job."""
    data = [str(folder / "new.parquet"), "-m", str(folder / "model"), "-o", str(output), "--id-columns", "key"]
    pace = ["--part-rows", str(PART_ROWS), "--chunk-rows", str(CHUNK_ROWS), "--threads", "1", "--json", "--quiet"]
    return [sys.executable, "-m", "vae_anomaly", "score", *data, *pace, *options]


def killed(words: list[str], seconds: float) -> bool:
    """Start a job and kill it after ``seconds``; return False if it had finished before."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    if process.returncode not in {0, -signal.SIGKILL}:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return process.returncode != 0


def finished(words: list[str]) -> tuple[int, float]:
    """Run a job to its end; return the rows that a killed process had scored (0 if the job was finished), and the duration."""
    start = time.perf_counter()
    result = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return result["resumed_rows"], time.perf_counter() - start


def content(output: Path) -> tuple[bytes, bytes]:
    """Return the bytes of an output and of its manifest."""
    return output.read_bytes(), output.with_name(f"{output.name}.manifest.json").read_bytes()


def trial(case: str, folder: Path, whole: tuple[bytes, bytes], undisturbed: float, draw: random.Random) -> Trial:
    """Kill a job once or twice, let it finish, and compare."""
    name, options = CASES[case]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        output = Path(temporary) / name
        words = command(folder, output, options)
        moments = [draw.uniform(0, undisturbed) for _ in range(1 + (draw.random() < 0.5))]
        hit = tuple(round(seconds, 3) for seconds in moments if killed(words, seconds))
        resumed, _ = finished(words)
        output_bytes, manifest_bytes = content(output)
        stray = {path.name for path in output.parent.iterdir()} - {name, f"{name}.manifest.json"}
    return Trial(
        case=case,
        killed_after=hit,
        resumed_rows=resumed,
        same_output=output_bytes == whole[0],
        same_manifest=manifest_bytes == whole[1],
        stray=tuple(sorted(stray)),
    )


def row(case: str, trials: list[Trial], undisturbed: float, rows: int) -> str:
    """Return the line of a case."""
    mine = [t for t in trials if t.case == case]
    kills = sum(len(t.killed_after) for t in mine)
    resumed_shares = [t.resumed_rows / rows for t in mine if t.resumed_rows]
    middle = f"{statistics.median(resumed_shares):.0%}" if resumed_shares else "–"
    wrong = [sum(not t.same_output for t in mine), sum(not t.same_manifest for t in mine), sum(bool(t.stray) for t in mine)]
    return f"| {case} | {undisturbed:.1f} | {len(mine)} | {kills} | {len(resumed_shares)} | {middle} | {' | '.join(map(str, wrong))} |"


def report(trials: list[Trial], undisturbed: dict[str, float], rows: int, seed: int) -> str:
    """Return the results as Markdown."""
    head = (
        f"# Killed at random moments\n\n`python benchmarks/kill.py --score {len(trials)} --rows {rows} --seed {seed}`\n\n"
        f"{rows:,} rows, a checkpoint every {PART_ROWS:,}; SIGKILL at a time drawn uniformly over the undisturbed duration, start of\n"
        "Python included; half of the jobs are killed twice, then they run to their end. *resumed*: trials whose last process did not\n"
        "start at row 0, and the median share of the rows that were done.\n\n"
        "| case | undisturbed seconds | trials | kills | resumed | rows done | other output | other manifest | stray files |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(row(case, trials, undisturbed[case], rows) for case in CASES) + "\n"


def main() -> None:
    """Parse the options and measure; exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score", type=int, default=100, help="trials")
    parser.add_argument("--rows", type=int, default=200_000, help="rows to score")
    parser.add_argument("--fit", type=int, default=50, help="jobs of fit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    passed = not options.score or measure(options)
    if options.fit:
        import kill_fit

        passed = kill_fit.measure(options.fit, options.seed) and passed
    raise SystemExit(0 if passed else 1)


def measure(arguments: argparse.Namespace) -> bool:
    """Kill scorings and write the results; return whether all are correct."""
    draw = random.Random(arguments.seed)  # noqa: S311  # moments of a measurement, no secret
    trials: list[Trial] = []
    whole, undisturbed = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.rows)
        for case, (output, options) in CASES.items():
            workdir = folder / case
            workdir.mkdir()
            _, undisturbed[case] = finished(command(folder, workdir / output, options))
            whole[case] = content(workdir / output)
        for i in range(arguments.score):
            case = list(CASES)[i % len(CASES)]
            trials.append(trial(case, folder, whole[case], undisturbed[case], draw))
            print(f"{i + 1}/{arguments.score}", trials[-1], flush=True)
    text = report(trials, undisturbed, arguments.rows, arguments.seed)
    print(text)
    RESULTS.joinpath("kill.md").write_text(text, encoding="utf-8")
    results = {"rows": arguments.rows, "seed": arguments.seed, "usual_seconds": undisturbed, "trials": [asdict(t) for t in trials]}
    RESULTS.joinpath("kill.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return all(t.same_output and t.same_manifest and not t.stray for t in trials)


if __name__ == "__main__":
    main()
