"""Anomalies among the training rows: how far the detector falls, with and without ``contamination_robust``, beside kNN.

    python benchmarks/contamination.py DATA_DIR [--sets 12_fault,…] [--seeds 2] [--jobs 1]

The protocol of ``detection.py``; then 0, 1, 5 and 10 % of the training rows are *replaced* by anomalies, so that their number stays the
same. They are drawn by the seed from all anomalies of the set. Those of a lower rate are among those of a higher one, and none of
them is in the test, which is the same at every rate. Only sets with at least three times the anomalies that 10 % needs. Nothing is told
to any method: the rows are unlabelled and the rate is unknown. Writes ``contamination.csv`` (one row for each set, seed, rate and
method) and ``contamination.md`` to ``benchmarks/results``.
"""

import argparse
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import detection  # sets the number of threads before numpy is imported
import numpy as np
import pandas as pd
import pyarrow as pa
from detection import RESULTS, Floats, Scored, run_peer, split
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

RATES = (0.0, 0.01, 0.05, 0.10)
ENOUGH = 3
METHODS = {"default": "the default detector", "robust": "`--contamination-robust`", "knn-mean": detection.PEERS["knn-mean"]}
# The promise of issue 3: at 5 % a fall of two points at most, or half of that of kNN if this is more.
AT, POINTS, SHARE = 0.05, 2.0, 0.5
# The rate of the threshold whose false alarms and finds are listed; the smallest set has 33 training rows.
ALPHA = 0.05


def enough(data: Path) -> bool:
    """Whether the set has three times the anomalies that the highest rate needs."""
    train, _, _ = split(data, 0)
    with np.load(data, allow_pickle=False) as file:
        return int((file["y"] == 1).sum()) >= ENOUGH * round(max(RATES) * len(train))


def contaminated(data: Path, seed: int, rate: float) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return training rows, test rows, which test rows are anomalies, and which training rows are."""
    train, test, truth = rows_of_split(data, seed)
    with np.load(data, allow_pickle=False) as file:
        x, anomalous = np.asarray(file["X"], dtype=np.float64), np.flatnonzero(np.asarray(file["y"]).ravel() == 1)
    most = round(max(RATES) * len(train))
    generator = np.random.default_rng([seed, 3])
    drawn, place = generator.permutation(anomalous)[:most], generator.permutation(len(train))
    kept = ~np.isin(test, drawn)
    mixed = np.zeros(len(train), dtype=bool)
    mixed[place[: round(rate * len(train))]] = True
    train = train.copy()
    train[mixed] = drawn[: int(mixed.sum())]
    return x[train], x[test[kept]], truth[kept], mixed


def rows_of_split(data: Path, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return which rows ``detection.split`` trains on and tests on: it splits a file that holds their numbers instead of their cells."""
    with tempfile.TemporaryDirectory() as folder, np.load(data, allow_pickle=False) as file:
        numbered = Path(folder) / "numbered.npz"
        np.savez(numbered, X=np.arange(len(file["y"])), y=file["y"])
        train, test, truth = split(numbered, seed)
    return train.astype(np.int64), test.astype(np.int64), truth


def run_ours(train: Floats, test: Floats, seed: int, truth: NDArray[np.bool_], *, robust: bool) -> Scored:
    """Fit and score as ``detection.run_ours`` does, and see what the threshold keeps."""
    import torch

    from vae_anomaly.calibration.conformal import finest_alpha
    from vae_anomaly.config import CalibrationConfig, Config, DataConfig
    from vae_anomaly.fitting.fit import fit_detector
    from vae_anomaly.schema.encoding import encode
    from vae_anomaly.schema.schema import conform, infer_schema

    torch.set_num_threads(1)
    table, new = (pa.table({f"x{j}": a[:, j] for j in range(a.shape[1])}) for a in (train, test))
    schema, config = infer_schema(table, DataConfig()), Config(seed=seed)
    config = replace(config, calibration=CalibrationConfig(alpha=max(0.01, finest_alpha(len(train)))))
    config = replace(config, train=replace(config.train, contamination_robust=robust))
    start = time.perf_counter()
    detector = fit_detector(table, schema, config)
    fitted = time.perf_counter()
    scores = detector.scores(encode(schema, conform(schema, new.combine_chunks().to_batches()[0], where="test"))).total.numpy()
    scored = time.perf_counter()
    flags = detector.threshold.at(ALPHA).flags(scores)
    facts = {"false_alarms": float(flags[~truth].mean()), "found": float(flags[truth].mean())}
    return {"ours": scores}, facts, fitted - start, scored - fitted


def one(job: tuple[Path, int]) -> list[dict[str, object]]:
    """Run all methods on one set and seed, at every rate."""
    warnings.simplefilter("ignore")
    path, seed = job
    rows: list[dict[str, object]] = []
    for rate in RATES:
        train, test, truth, mixed = contaminated(path, seed, rate)
        shape = {"training_rows": len(train), "mixed_in": int(mixed.sum()), "normals": int((~truth).sum()), "anomalies": int(truth.sum())}
        runs = {
            "default": run_ours(train, test, seed, truth, robust=False),
            "robust": run_ours(train, test, seed, truth, robust=True),
            "knn-mean": run_peer("knn-mean", train, test, seed),
        }
        for method, (named, facts, fit_s, score_s) in runs.items():
            (scores,) = named.values()
            measured = {"auroc": 100 * roc_auc_score(truth, scores), "ap": 100 * average_precision_score(truth, scores)}
            about = {"set": path.stem, "seed": seed, "rate": rate, "method": method}
            rows.append(about | measured | {"fit_s": fit_s, "score_s": score_s} | shape | facts)
    return rows


def summary(table: pd.DataFrame, command: str) -> str:
    """Return the Markdown summary: means for each rate, the fall against none, and every set at the rate of the promise."""
    per_set = table.groupby(["method", "set", "rate"])[["auroc", "ap"]].mean()
    mean = per_set.groupby(["method", "rate"]).mean()
    fall = mean.groupby("method").transform("first") - mean
    sets = sorted(table.set.unique())
    lines = [
        "# Anomalies among the training rows",
        "",
        f"`{command}`",
        "",
        f"{len(sets)} sets with at least {ENOUGH} × the anomalies that {max(RATES):.0%} of the rows need, {table.seed.nunique()} seed(s).",
        "So many training rows are replaced by anomalies; these leave the test, which is the same at every rate.",
        "",
        "| method | "
        + " | ".join(f"{rate:.0%}" for rate in RATES)
        + " | fall at "
        + " | fall at ".join(f"{r:.0%}" for r in RATES[1:])
        + " |",
        "|---" * (2 * len(RATES)) + "|",
    ]
    for method in METHODS:
        cells = [f"{mean.auroc[method, r]:.2f} / {mean.ap[method, r]:.2f}" for r in RATES]
        falls = [f"{fall.auroc[method, r]:.2f} / {fall.ap[method, r]:.2f}" for r in RATES[1:]]
        lines.append(f"| {method} | {' | '.join(cells + falls)} |")
    allowed = max(POINTS, SHARE * fall.auroc["knn-mean", AT])
    lines += ["", "AUROC / AP, means over sets. " + "; ".join(f"`{name}`: {words}" for name, words in METHODS.items()) + ".", ""]
    lines += [f"- {_verdict(name, fall.auroc[name, AT], allowed)}" for name in ("default", "robust")]
    return "\n".join([*lines, *_kept(table), *_every_set(per_set, sets)]) + "\n"


def _verdict(method: str, fall: float, allowed: float) -> str:
    kept = "kept" if fall <= allowed else "missed"
    return f"`{method}` falls by {fall:.2f} points of AUROC at {AT:.0%}; {allowed:.2f} are allowed (2, or half of kNN's fall): {kept}."


def _kept(table: pd.DataFrame) -> list[str]:
    """What the threshold keeps and finds, and what a fit costs in time."""
    ours = table[table.method != "knn-mean"]
    mean, seconds = ours.groupby(["method", "rate"])[["false_alarms", "found"]].mean(), table.groupby("method").fit_s.mean()
    lines = ["", f"At alpha {ALPHA:g}: share of the normal test rows flagged / share of the anomalies found.", ""]
    lines += ["| method | " + " | ".join(f"{rate:.0%}" for rate in RATES) + " |", "|---" * (1 + len(RATES)) + "|"]
    for name in ("default", "robust"):
        cells = [f"{mean.false_alarms[name, r]:.3f} / {mean.found[name, r]:.3f}" for r in RATES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", f"Mean fit: default {seconds['default']:.1f} s, robust {seconds['robust']:.1f} s."]


def _every_set(per_set: pd.DataFrame, sets: list[str]) -> list[str]:
    lines = [
        "",
        "## Every set (AUROC, mean over seeds)",
        "",
        "| set | " + " | ".join(f"{m} {r:.0%}" for m in METHODS for r in RATES) + " |",
    ]
    lines.append("|---" * (1 + len(METHODS) * len(RATES)) + "|")
    return [*lines, *(f"| {s} | " + " | ".join(f"{per_set.auroc[m, s, r]:.1f}" for m in METHODS for r in RATES) + " |" for s in sets)]


def main() -> None:
    """Run, write the tidy table and the summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="", help="stems of the .npz files, comma-separated; default all with anomalies enough")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    paths = sorted(p for p in args.data.glob("*.npz") if (not args.sets or p.stem in args.sets.split(",")) and enough(p))
    if not paths:
        sys.exit(f"no .npz files with anomalies enough in {args.data}")
    jobs = [(p, seed) for seed in range(args.seeds) for p in paths]
    args.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for done, part in enumerate(pool.map(one, jobs), 1):
            rows += part
            pd.DataFrame(rows).round(4).to_csv(args.output / "contamination.csv", index=False)
            falls = {m: [f"{r['auroc']:.1f}" for r in part if r["method"] == m] for m in METHODS}
            print(f"{done}/{len(jobs)} {part[0]['set']} seed {part[0]['seed']}: {falls}", file=sys.stderr, flush=True)
    text = summary(pd.DataFrame(rows), f"python benchmarks/contamination.py DATA_DIR --seeds {args.seeds}")
    (args.output / "contamination.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
