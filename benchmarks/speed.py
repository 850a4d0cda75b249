"""Speed and memory, peers in the same run: one core, 20 columns.

    python benchmarks/speed.py [--rounds 5] [--stream-rows 5000000]

Fitting is counted in rows · epochs a second with PyOD's layers (encoder 128-64-32, latent 2), scoring in rows a second. Every round
measures all contestants one after the other; the table shows medians and the median of the ratios within a round. Writes
``speed.md`` and ``speed.json`` to ``benchmarks/results``.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measured import measured
from numpy.typing import NDArray

from vae_anomaly.config import Config, ModelConfig, TrackingConfig, TrainConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.schema import conform, infer_schema

RESULTS = Path(__file__).parent / "results"
COLUMNS, FIT_ROWS, SCORE_ROWS = 20, 20_480, 100_000
PYOD_LAYERS = ModelConfig(
    views=("standard",),
    members=1,
    hidden=(128, 64, 32),
    residual_blocks=0,
    activation="relu",
    linear_skip=False,
    latent=2,
    prior="standard",
)


def sample(rows: int, seed: int = 0) -> NDArray[np.float64]:
    """Return correlated normal rows."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, COLUMNS)) @ np.random.default_rng(1).normal(size=(COLUMNS, COLUMNS))


def as_table(x: NDArray[np.float64]) -> pa.Table:
    """Return an Arrow table."""
    return pa.table({f"x{j}": x[:, j] for j in range(x.shape[1])})


def fitted(rows: int, config: Config) -> Detector:
    """Fit a detector."""
    table = as_table(sample(rows))
    return fit_detector(table, infer_schema(table, config.data), config)


def our_fit_rate(batch_rows: int) -> float:
    """Return rows · epochs a second of the training loop: the time of 600 steps minus the time of 200."""
    spent = []
    for steps in (200, 600):
        train = TrainConfig(steps=steps, batch_rows=batch_rows, device="cpu")
        start = time.perf_counter()
        fitted(FIT_ROWS, Config(model=PYOD_LAYERS, train=train))
        spent.append(time.perf_counter() - start)
    return 400 * batch_rows / (spent[1] - spent[0])


def pyod_vae(epochs: int) -> object:
    """Return a PyOD VAE fitted with its defaults."""
    from pyod.models.vae import VAE

    model = VAE(epoch_num=epochs, verbose=0, random_state=0)
    model.fit(sample(FIT_ROWS // 2))
    return model


def pyod_fit_rate() -> float:
    """Return rows · epochs a second: the time of three epochs minus the time of one (both score the training rows at the end)."""
    spent = []
    for epochs in (1, 3):
        start = time.perf_counter()
        pyod_vae(epochs)
        spent.append(time.perf_counter() - start)
    return 2 * (FIT_ROWS // 2) / (spent[1] - spent[0])


def rate(score: Callable[[], object], rows: int) -> float:
    """Return rows a second of one call."""
    start = time.perf_counter()
    score()
    return rows / (time.perf_counter() - start)


def contestants() -> dict[str, Callable[[], float]]:
    """Return what is measured in every round, by name."""
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN

    x = sample(SCORE_ROWS, seed=2)
    one = fitted(FIT_ROWS, Config(model=PYOD_LAYERS, train=TrainConfig(steps=100)))
    default = fitted(FIT_ROWS, Config())
    batch = encode(one.schema, conform(one.schema, as_table(x).combine_chunks().to_batches()[0], where="the sample"))
    vae, forest, knn = pyod_vae(1), IForest(random_state=0).fit(sample(FIT_ROWS)), KNN(method="mean").fit(sample(20_000))
    few = x[:10_000]
    return {
        "fit, PyOD VAE (batch 32)": pyod_fit_rate,
        "fit, ours, batch 32": lambda: our_fit_rate(32),
        "fit, ours, batch 512": lambda: our_fit_rate(512),
        "fit, ours, batch 2048": lambda: our_fit_rate(2048),
        "score, PyOD VAE": lambda: rate(lambda: vae.decision_function(few), len(few)),  # type: ignore[attr-defined]
        "score, Isolation Forest": lambda: rate(lambda: forest.decision_function(few), len(few)),
        "score, PyOD kNN on 20,000 rows": lambda: rate(lambda: knn.decision_function(few), len(few)),
        "score, ours, one member, N(0, I)": lambda: rate(lambda: one.scores(batch), SCORE_ROWS),
        "score, ours, default detector": lambda: rate(lambda: default.scores(batch.rows(slice(0, 20_000))), 20_000),
    }


RATIOS = (
    ("fit, ours, batch 512", "fit, PyOD VAE (batch 32)"),
    ("fit, ours, batch 2048", "fit, PyOD VAE (batch 32)"),
    ("fit, ours, batch 32", "fit, PyOD VAE (batch 32)"),
    ("score, ours, one member, N(0, I)", "score, PyOD VAE"),
    ("score, ours, one member, N(0, I)", "score, Isolation Forest"),
    ("score, ours, default detector", "score, PyOD kNN on 20,000 rows"),
)


def stream(rows: int) -> dict[str, float]:
    """Score a Parquet file of ``rows`` × 20 with the command line in a process of its own; return rows a second and peak memory."""
    from vae_anomaly.artifact import save

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = fitted(FIT_ROWS, Config(tracking=TrackingConfig(enabled=False)))
        save(detector, folder / "model")
        schema = as_table(sample(1)).schema
        with pq.ParquetWriter(folder / "big.parquet", schema) as writer:
            for start in range(0, rows, SCORE_ROWS):
                writer.write_table(as_table(sample(min(SCORE_ROWS, rows - start), seed=start)))
        took = measured("score", folder / "big.parquet", "-m", folder / "model", "--quiet")
    return {"rows": rows, "rows_per_second": rows / took.seconds, "peak_gib": took.peak * 1e6 / 2**30}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stream-rows", type=int, default=5_000_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    entries = contestants()
    rounds: list[dict[str, float]] = []
    for number in range(args.rounds):
        rounds.append({name: measure() for name, measure in entries.items()})
        print(f"round {number + 1}/{args.rounds}", file=sys.stderr, flush=True)
    median = {name: statistics.median(r[name] for r in rounds) for name in entries}
    ratio = {f"{a} / {b}": statistics.median(r[a] / r[b] for r in rounds) for a, b in RATIOS}
    streamed = stream(args.stream_rows) if args.stream_rows else {}
    lines = ["# Speed", "", f"`python benchmarks/speed.py --rounds {args.rounds} --stream-rows {args.stream_rows}`", ""]
    lines += [f"One thread, {COLUMNS} columns, medians of {args.rounds} rounds, every contestant in every round.", ""]
    lines += ["| what | rows (· epochs) a second |", "|---|---|", *(f"| {n} | {v:,.0f} |" for n, v in median.items())]
    lines += ["", "| ratio within a round | median |", "|---|---|", *(f"| {n} | {v:.1f} × |" for n, v in ratio.items())]
    if streamed:
        lines += [
            "",
            f"`vae-anomaly score` of a Parquet file of {streamed['rows']:,} × {COLUMNS} rows, default detector, flagged rows explained,",
        ]
        lines += [f"on all {os.cpu_count()} cores: {streamed['rows_per_second']:,.0f} rows/s, peak memory {streamed['peak_gib']:.2f} GiB."]
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "speed.md").write_text(text, encoding="utf-8")
    (RESULTS / "speed.json").write_text(json.dumps({"rounds": rounds, "stream": streamed}, indent=2), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
