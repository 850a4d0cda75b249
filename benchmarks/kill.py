"""Kill ``score`` at random moments, run it again until it is done, and compare every byte with a run left alone; then do so with ``fit``.

    python benchmarks/kill.py [--score 100] [--rows 200000] [--fit 50] [--seed 0]

Fits a small model in a temporary folder. Each case (CSV, Parquet, Parquet under a false-discovery rate) is scored once undisturbed,
which gives the bytes to compare with and the usual duration. Each trial then starts ``score`` in a process of its own, sends SIGKILL
at a moment drawn uniformly over that duration, kills the next run too with probability one half, and lets the last one end. Output
and manifest must be equal byte by byte, and nothing else may lie in the folder. Writes ``kill.md`` and ``kill.json`` to
``benchmarks/results``. The half about ``fit`` is ``kill_fit.py``. 0 leaves a half out. Exits with 1 if anything failed.
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
    """One job: when it was killed (seconds), how far it had come (rows), and whether it ended as it should."""

    case: str
    killed_after: tuple[float, ...]
    resumed_rows: int
    same_output: bool
    same_manifest: bool
    stray: tuple[str, ...]


def sample(rows: int, seed: int) -> pa.Table:
    """Return correlated rows with a category, a key and, in one of 200, a number far off."""
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
    """Start a job and kill it after so many seconds; False: it had ended before."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    if process.returncode not in {0, -signal.SIGKILL}:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return process.returncode != 0


def finished(words: list[str]) -> tuple[int, float]:
    """Run a job to its end; returns the rows that a killed run had scored (0 if the job was done), and the seconds it took."""
    start = time.perf_counter()
    said = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return said["resumed_rows"], time.perf_counter() - start


def content(output: Path) -> tuple[bytes, bytes]:
    """Return the bytes of an output and of its manifest."""
    return output.read_bytes(), output.with_name(f"{output.name}.manifest.json").read_bytes()


def trial(case: str, folder: Path, whole: tuple[bytes, bytes], usual: float, draw: random.Random) -> Trial:
    """Kill a job once or twice, let it end, and compare."""
    name, options = CASES[case]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        output = Path(place) / name
        words = command(folder, output, options)
        moments = [draw.uniform(0, usual) for _ in range(1 + (draw.random() < 0.5))]
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


def row(case: str, trials: list[Trial], usual: float, rows: int) -> str:
    """Return the line of a case."""
    mine = [t for t in trials if t.case == case]
    kills = sum(len(t.killed_after) for t in mine)
    gone_on = [t.resumed_rows / rows for t in mine if t.resumed_rows]
    middle = f"{statistics.median(gone_on):.0%}" if gone_on else "–"
    wrong = [sum(not t.same_output for t in mine), sum(not t.same_manifest for t in mine), sum(bool(t.stray) for t in mine)]
    return f"| {case} | {usual:.1f} | {len(mine)} | {kills} | {len(gone_on)} | {middle} | {' | '.join(map(str, wrong))} |"


def report(trials: list[Trial], usual: dict[str, float], rows: int, seed: int) -> str:
    """Return what was found as Markdown."""
    head = (
        f"# Killed at random moments\n\n`python benchmarks/kill.py --score {len(trials)} --rows {rows} --seed {seed}`\n\n"
        f"{rows:,} rows, a part every {PART_ROWS:,}; SIGKILL at a moment drawn uniformly over the usual duration, start of Python\n"
        "included; one half of the jobs is killed twice, then they run to their end. *went on*: trials whose last run did not begin at\n"
        "row 0, and the median share of the rows that were there.\n\n"
        "| case | usual seconds | trials | kills | went on | rows there | other output | other manifest | stray files |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(row(case, trials, usual[case], rows) for case in CASES) + "\n"


def main() -> None:
    """Take the options, measure, and leave with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score", type=int, default=100, help="trials")
    parser.add_argument("--rows", type=int, default=200_000, help="rows to score")
    parser.add_argument("--fit", type=int, default=50, help="jobs of fit")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    well = not asked.score or measure(asked)
    if asked.fit:
        import kill_fit

        well = kill_fit.measure(asked.fit, asked.seed) and well
    raise SystemExit(0 if well else 1)


def measure(asked: argparse.Namespace) -> bool:
    """Kill scorings and write what was found; returns whether all went well."""
    draw = random.Random(asked.seed)  # noqa: S311  # moments of a measurement, no secret
    trials: list[Trial] = []
    whole, usual = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, asked.rows)
        for case, (output, options) in CASES.items():
            place = folder / case
            place.mkdir()
            _, usual[case] = finished(command(folder, place / output, options))
            whole[case] = content(place / output)
        for i in range(asked.score):
            case = list(CASES)[i % len(CASES)]
            trials.append(trial(case, folder, whole[case], usual[case], draw))
            print(f"{i + 1}/{asked.score}", trials[-1], flush=True)
    text = report(trials, usual, asked.rows, asked.seed)
    print(text)
    RESULTS.joinpath("kill.md").write_text(text, encoding="utf-8")
    found = {"rows": asked.rows, "seed": asked.seed, "usual_seconds": usual, "trials": [asdict(t) for t in trials]}
    RESULTS.joinpath("kill.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return all(t.same_output and t.same_manifest and not t.stray for t in trials)


if __name__ == "__main__":
    main()
