"""Fit on and score more than memory holds under a limit of memory, and watch what the process takes.

    python benchmarks/big_score.py [--gb 20] [--limit 1.5GB] [--memory-limit 800MB] [--folder DIR] [--width 900]

Makes half of the bytes as Parquet (one row group a file) and half as CSV, files of about half a gigabyte: eight numbers that the model
reads, and a key of random letters that is read and copied through, so that bytes are cheap. Fits on each set with ``vae-anomaly fit``, its
defaults, and scores it with ``vae-anomaly score`` into an output folder, one network with the prior N(0, I), one thread; then removes it.
The processes run under RLIMIT_AS, a limit of the whole address space that the kernel enforces: code of the libraries and all. What of it
may be resident is said by ``--memory-limit``.
Samples the resident memory twice a second. Writes
``big_score.md``, ``big_score.json`` and ``big_score.png`` to ``benchmarks/results``; exits with 1 where a limit was passed.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from vae_anomaly import artifact
from vae_anomaly.cli.options import parse_size
from vae_anomaly.config import CalibrationConfig, Config, ModelConfig, TrainConfig
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.schema.schema import infer_schema

RESULTS = Path(__file__).parent / "results"
COLUMNS, FIT_ROWS, FILE_BYTES, SECONDS = 8, 20_000, 500_000_000, 0.5
FIELDS = {"resident": "VmRSS", "anonymous": "RssAnon", "peak": "VmHWM", "data": "VmData", "address_space": "VmPeak"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One set that was read: bytes and rows, how long it took, and the samples: seconds, then MB in the order of ``FIELDS``."""

    verb: str
    form: str
    files: int
    bytes: int
    rows: int
    seconds: float
    samples: tuple[tuple[float, ...], ...]

    def most(self, name: str) -> float:
        """Return the largest sample, MB."""
        return max(sample[1 + list(FIELDS).index(name)] for sample in self.samples)

    def third(self, i: int) -> float:
        """Return the median resident memory in a third of the run, MB; the first tenth, while libraries load, apart."""
        held = [sample[1] for sample in self.samples[len(self.samples) // 10 :]]
        size = len(held) // 3
        return statistics.median(held[i * size : (i + 1) * size] or held)


def numbers(rows: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return correlated columns."""
    x = generator.normal(size=(rows, COLUMNS)) @ np.random.default_rng(1).normal(size=(COLUMNS, COLUMNS))
    return {f"x{j}": x[:, j] for j in range(COLUMNS)}


def letters(rows: int, width: int, generator: np.random.Generator) -> pa.Array:
    """Return random keys of ``width`` letters."""
    text = generator.integers(ord("a"), ord("z") + 1, size=rows * width, dtype=np.uint8)
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text))


def write_file(path: Path, rows: int, width: int, seed: int) -> None:
    """Write one input file."""
    generator = np.random.default_rng(seed)
    table = pa.table({"key": letters(rows, width, generator), **numbers(rows, generator)})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows, compression="none", use_dictionary=False)
    else:
        pyarrow.csv.write_csv(table, path)


def prepare(folder: Path) -> None:
    """Fit the model."""
    config = Config(
        model=ModelConfig(views=("standard",), members=1, hidden=(16,), latent=4, prior="standard"),
        train=TrainConfig(steps=200, device="cpu"),
        calibration=CalibrationConfig(alpha=0.001, method="split"),
    )
    table = pa.table(numbers(FIT_ROWS, np.random.default_rng(2)))
    artifact.save(fit_detector(table, infer_schema(table, config.data), config), folder / "model")


def sampled(process: subprocess.Popen[str], start: float) -> list[tuple[float, ...]]:
    """Look at a process until it ends."""
    samples = []
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            held = [
                int(found[1]) / 1e3 * 1.024 for name in FIELDS.values() if (found := re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE))
            ]
            if len(held) == len(FIELDS):
                samples.append((round(time.monotonic() - start, 2), *(round(size, 1) for size in held)))
        except OSError:
            break
        time.sleep(SECONDS)
    return samples


def run(verb: str, folder: Path, form: str, limit: str, memory_limit: str) -> Run:
    """Fit on or score one set under the limits."""
    size, files = parse_size(limit), sorted((folder / form).iterdir())
    options = {
        "fit": ["--no-tracking", "-o", str(folder / "fitted"), "--overwrite", "--exclude", "key", "--device", "cpu"],
        "score": ["-m", str(folder / "model"), "-o", f"{folder / 'out'}/", "--id-columns", "key", "--threads", "1"],
    }[verb]
    words = [verb, str(folder / form), *options, "--memory-limit", memory_limit, "--json", "--quiet"]
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "vae_anomaly", *words],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),  # noqa: PLW1509  # nothing else runs here
    ) as process:
        samples = sampled(process, start)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}: {said}")
    found = json.loads(said)
    return Run(
        verb=verb,
        form=form,
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        rows=found["rows_read"] if verb == "fit" else found["counts"]["rows"],
        seconds=time.monotonic() - start,
        samples=tuple(samples),
    )


def report(runs: list[Run], words: str, limit: int, width: int) -> str:
    """Return what was found as Markdown."""
    head = (
        f"# More than memory holds\n\n`python benchmarks/big_score.py {words}`\n\n"
        f"Rows of {COLUMNS} float64 columns and a key of {width} random letters. *fit*: the defaults, every row read, a random part of\n"
        "them learned from. *score*: the key copied through; one network, N(0, I), one thread, one part for each file.\n"
        f"RLIMIT_AS, which the kernel enforces on the whole address space, is {limit / 1e6:,.0f} MB.\n"
        "Sizes in MB of 10⁶ bytes. *thirds*: median resident memory in the first, second and last third of the run. *address space*:\n"
        "the most that was mapped, code of the libraries and all.\n\n"
        "| | format | files | GB | rows | seconds | rows/s | MB/s | peak resident | thirds | address space |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    lines = [
        f"| {r.verb} | {r.form} | {r.files} | {r.bytes / 1e9:.1f} | {r.rows:,} | {r.seconds:,.0f} | {r.rows / r.seconds:,.0f} | "
        f"{r.bytes / 1e6 / r.seconds:.0f} | {r.most('peak'):,.0f} | {' · '.join(f'{r.third(i):,.0f}' for i in range(3))} | "
        f"{r.most('address_space'):,.0f} |"
        for r in runs
    ]
    return head + "\n".join(lines) + "\n\n![resident memory over time](big_score.png)\n"


def draw(runs: list[Run], limit: int) -> None:
    """Draw resident memory over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for r in runs:
        label = f"{r.verb}, {r.form}, {r.bytes / 1e9:.1f} GB"
        axes.plot([s[0] / 60 for s in r.samples], [s[1] for s in r.samples], label=label, linewidth=1)
    axes.axhline(limit / 1e6, color="black", linestyle=":", label="--memory-limit")
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(RESULTS / "big_score.png", dpi=120)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=20.0, help="GB of input in all")
    parser.add_argument("--limit", default="1.5GB", help="address space of the process")
    parser.add_argument("--memory-limit", default="800MB", help="what of it may be resident")
    parser.add_argument("--width", type=int, default=900, help="letters of a key")
    parser.add_argument("--folder", type=Path, help="where the inputs and outputs are made")
    asked = parser.parse_args()
    limit, runs = parse_size(asked.limit), list[Run]()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        prepare(folder)
        for form in ("parquet", "csv"):
            (folder / form).mkdir()
            row = asked.width + (8 if form == "parquet" else 19) * COLUMNS
            count = max(1, round(asked.gb / 2 * 1e9 / FILE_BYTES))
            rows = round(asked.gb / 2 * 1e9 / row / count)
            for i in range(count):
                write_file(folder / form / f"{i:04d}.{form}", rows, asked.width, seed=10 + i)
            print(f"{count} {form} files written", flush=True)
            for verb in ("fit", "score"):
                runs.append(run(verb, folder, form, asked.limit, asked.memory_limit))
                print({**asdict(runs[-1]), "samples": len(runs[-1].samples)}, flush=True)
            for done in (folder / form, folder / "out"):
                shutil.rmtree(done)
    words = f"--gb {asked.gb:g} --limit {asked.limit} --memory-limit {asked.memory_limit} --width {asked.width}"
    text = report(runs, words, limit, asked.width)
    print(text)
    RESULTS.joinpath("big_score.md").write_text(text, encoding="utf-8")
    found = {"limit": limit, "width": asked.width, "fields": ["seconds", *FIELDS], "runs": [asdict(r) for r in runs]}
    RESULTS.joinpath("big_score.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    draw(runs, parse_size(asked.memory_limit))
    if any(r.most("peak") * 1e6 > parse_size(asked.memory_limit) for r in runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
