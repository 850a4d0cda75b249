"""Rows a second of scoring in memory against rows, columns, networks and threads; and how a processor's cores add up.

    python benchmarks/scaling.py [--threads 1,2,4,8,16] [--output benchmarks/results/scaling.md]

Detectors are fitted on 20,000 rows with three common causes, with few steps: the time of a score does not depend on the weights. Medians of
three calls. The last table is the whole command, Parquet to Parquet, with the flagged rows, about 1 in 100, explained or not.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measured import measured, processor

from vae_anomaly.artifact import save
from vae_anomaly.config import Config
from vae_anomaly.detector.detector import Detector
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.schema.encoding import Batch, encode
from vae_anomaly.schema.schema import conform, infer_schema

RESULT = Path(__file__).parent / "results" / "scaling.md"
FIT_ROWS, COLUMNS, REPEATS = 20_000, 20, 3


def table(rows: int, columns: int, seed: int) -> pa.Table:
    """Return numbers with three common causes, the same ones for every seed."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, 3)) @ np.random.default_rng(99).normal(size=(3, columns))
    values += 0.3 * generator.normal(size=(rows, columns))
    return pa.table({f"x{j}": values[:, j] for j in range(columns)})


def detector(columns: int, members: int = 1, views: tuple[str, ...] | None = None) -> Detector:
    """Return a detector of the default form but for these."""
    config = Config()
    model = replace(config.model, members=members, **({} if views is None else {"views": views}))
    train = replace(config.train, steps=5, device="cpu")
    rows = table(FIT_ROWS, columns, seed=0)
    return fit_detector(rows, infer_schema(rows, config.data), replace(config, model=model, train=train))


def batch_of(fitted: Detector, rows: int, columns: int) -> Batch:
    """Return rows as tensors."""
    return encode(fitted.schema, conform(fitted.schema, table(rows, columns, seed=1).combine_chunks().to_batches()[0], where="the sample"))


def rate(score: Callable[[], object], rows: int) -> float:
    """Return rows a second, the median of a few calls after one that does not count."""
    score()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        score()
        times.append(time.perf_counter() - began)
    return rows / median(times)


def command_rate(folder: Path, rows: int, explain: str) -> float:
    """Return rows a second of the whole command beyond those of a command with 1,000 rows, whose time is that of the start."""
    seconds = []
    for count in (1000, rows):
        pq.write_table(table(count, COLUMNS, seed=2), folder / "new.parquet")
        options = ["-m", folder / "model", "-o", folder / "o.parquet", "--overwrite", "--quiet", "--explain", explain]
        seconds.append(measured("score", folder / "new.parquet", *options).seconds)
    return (rows - 1000) / (seconds[1] - seconds[0])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", default=",".join(str(2**k) for k in range(5) if 2**k <= (os.cpu_count() or 1)))
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the whole command")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    threads = [int(number) for number in arguments.threads.split(",")]
    most, default = threads[-1], detector(COLUMNS)
    rows = batch_of(default, 1_000_000, COLUMNS)
    load = f"load {os.getloadavg()[0]:.1f} before"
    usual = f"The default detector on {COLUMNS} numbers, {FIT_ROWS:,} rows and {most} threads, unless said."
    lines = ["# Scoring against rows, columns, networks and threads", ""]
    lines += [f"{processor()}, torch {torch.__version__}, {load}. Rows a second in memory.", usual, ""]
    lines += ["| threads | rows/s | of one thread |", "|---|---|---|"]
    some, single = rows.rows(slice(0, 200_000)), 0.0
    for number in threads:
        found = rate(lambda number=number: default.scores(some, threads=number), len(some))
        single = single or found
        lines.append(f"| {number} | {found:,.0f} | {found / single:.2f} |")
    lines += ["", "| rows | rows/s |", "|---|---|"]
    for count in (1, 128, 1000, 10_000, 100_000, 1_000_000):
        some = rows.rows(slice(0, count))
        lines.append(f"| {count:,} | {rate(lambda some=some: default.scores(some, threads=most), count):,.0f} |")
    lines += ["", "| columns | rows/s |", "|---|---|"]
    for columns in (5, 10, 20, 50, 100, 200, 500):
        fitted = detector(columns)
        some = batch_of(fitted, 20_000, columns)
        lines.append(f"| {columns} | {rate(lambda some=some, fitted=fitted: fitted.scores(some, threads=most), len(some)):,.0f} |")
    lines += ["", "| networks | rows/s |", "|---|---|"]
    for members, views in ((1, ("standard",)), (1, None), (2, None), (5, None)):
        fitted = detector(COLUMNS, members, views)
        some = batch_of(fitted, 20_000, COLUMNS)
        found = rate(lambda some=some, fitted=fitted: fitted.scores(some, threads=most), len(some))
        lines.append(f"| {len(fitted.ensemble.weight)} | {found:,.0f} |")
    lines += ["", f"`vae-anomaly score`, Parquet to Parquet, {arguments.rows:,} rows, without the time of its start:", ""]
    lines += ["| `--explain` | rows/s |", "|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        save(default, Path(name) / "model")
        lines += [f"| {explain} | {command_rate(Path(name), arguments.rows, explain):,.0f} |" for explain in ("none", "flagged")]
    text = "\n".join(lines) + "\n"
    arguments.output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
