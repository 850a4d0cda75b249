"""What the settings of the default detector are worth: the cap of exemplars, the number of views, and how much the seed matters.

    python benchmarks/detection_choices.py DATA_DIR [--sets 6_cardio,37_Stamps] [--seeds 1] [--model-seeds 5] [--jobs 2]

The sets and splits of ``detection.py``. Every choice changes one setting of the default. For the seed, the split of seed 0 is kept and the
seed of the fit is varied; it also deals calibration rows and folds. Writes ``detection_choices.csv`` and ``.md`` to ``benchmarks/results``.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import pandas as pd
from detection import RESULTS, run_ours, split
from sklearn.metrics import average_precision_score, roc_auc_score

from vae_anomaly.config import ModelConfig

DEFAULT = ModelConfig()
CHOICES = {
    "default: 2,000 exemplars, 3 views": DEFAULT,
    "200 exemplars": replace(DEFAULT, exemplars=200),
    "500 exemplars": replace(DEFAULT, exemplars=500),
    "1,000 exemplars": replace(DEFAULT, exemplars=1000),
    "1 view (standard)": replace(DEFAULT, views=("standard",)),
    "2 views (standard, minmax)": replace(DEFAULT, views=("standard", "minmax")),
    "4 views (the three and percentile)": replace(DEFAULT, views=(*DEFAULT.views, "percentile")),
}
USUAL = next(iter(CHOICES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fit: ``seed`` splits the set, ``model_seed`` is that of the fit."""

    path: Path
    choice: str
    seed: int
    model_seed: int


def one(job: Job) -> dict[str, object]:
    """Fit, score and measure."""
    train, test, truth = split(job.path, job.seed)
    scores, _, fit_s, score_s = run_ours(train, test, job.model_seed, truth, CHOICES[job.choice])
    ours = scores["ours"]
    return {
        "set": job.path.stem,
        "choice": job.choice,
        "seed": job.seed,
        "model_seed": job.model_seed,
        "auroc": 100 * roc_auc_score(truth, ours),
        "ap": 100 * average_precision_score(truth, ours),
        "fit_s": fit_s,
        "rows_per_s": len(test) / score_s,
    }


def planned(paths: Sequence[Path], seeds: int, model_seeds: int) -> list[Job]:
    """Return every fit once; the default at seed 0 serves both tables."""
    jobs = [Job(path=p, choice=c, seed=s, model_seed=s) for s in range(seeds) for c in CHOICES for p in paths]
    return jobs + [Job(path=p, choice=USUAL, seed=0, model_seed=s) for s in range(1, model_seeds) for p in paths]


def summary(table: pd.DataFrame, command: str) -> str:
    """Return the two tables in Markdown."""
    chosen = table[table.seed == table.model_seed]
    per_set = chosen.groupby(["choice", "set"])[["auroc", "ap", "fit_s", "rows_per_s"]].mean()
    means = per_set.groupby("choice").mean()
    speed = per_set.groupby("choice").rows_per_s.median()
    lines = ["# Choices of the default detector", "", f"`{command}`", ""]
    lines += [f"{table.set.nunique()} sets, {chosen.seed.nunique()} seed(s) a choice, one thread a fit.", ""]
    lines += ["| choice | AUROC | AP | fit s a set | rows/s, median set |", "|---|---|---|---|---|"]
    for choice in CHOICES:
        m = means.loc[choice]
        lines.append(f"| {choice} | {m.auroc:.2f} | {m.ap:.2f} | {m.fit_s:.2f} | {speed[choice]:,.0f} |")
    lines += ["", "No set has more than 2,000 rows to take exemplars from, so 2,000 is all of them."]
    varied = table[(table.choice == USUAL) & (table.seed == 0)]
    spread = varied.groupby("set")[["auroc", "ap"]].std()
    lines += ["", f"The same split, {varied.model_seed.nunique()} seeds of the fit: standard deviation of a set, median over sets: "]
    lines[-1] += f"AUROC {spread.auroc.median():.2f}, AP {spread.ap.median():.2f}; largest AUROC {spread.auroc.max():.2f} "
    lines[-1] += f"({spread.auroc.idxmax()})."
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all fits, write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="", help="stems of the .npz files, comma-separated; default all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--model-seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    paths = sorted(p for p in args.data.glob("*.npz") if not args.sets or p.stem in args.sets.split(","))
    if not paths:
        sys.exit(f"no .npz files in {args.data}")
    jobs = planned(paths, args.seeds, args.model_seeds)
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for row in pool.map(one, jobs):
            rows.append(row)
            print(f"{len(rows)}/{len(jobs)} {row['set']} {row['choice']}", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    args.output.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(args.output / "detection_choices.csv", index=False)
    text = summary(table, f"python benchmarks/detection_choices.py DATA_DIR --seeds {args.seeds} --model-seeds {args.model_seeds}")
    (args.output / "detection_choices.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
