"""Detection on ADBench sets, trained on normal rows: ours beside its peers, in one run.

    python benchmarks/detection.py DATA_DIR [--sets 6_cardio,37_Stamps] [--seeds 5] [--methods ours,knn-mean] [--jobs 2] [--scores DIR]

Protocol: at most 5,000 rows of a set (stratified by label, drawn by the seed), half of the normal rows train, the other half and all
anomalies test. No row is duplicated. Every peer gets all training rows, standardised by them; ours gets the raw numbers and holds its
calibration rows out of them. Writes ``detection.csv`` (one row for each set, seed and method) and ``detection.md`` to
``benchmarks/results``. First come the **nested** results, ``ours-nested``: the same networks, with the weights of evidence learned from all
other sets. ``--scores`` keeps the terms of every row, so that other forms of the score can be compared without another fit.
"""

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # a process for each core, one thread each: the same for every method

import nested
import numpy as np
import pandas as pd
import pyarrow as pa
from measured import processor
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

if TYPE_CHECKING:
    from vae_anomaly.config import ModelConfig
    from vae_anomaly.fitting.held_out import FitRecord
    from vae_anomaly.schema.encoding import Batch

RESULTS = Path(__file__).parent / "results"
CAP = 5000
Floats = NDArray[np.float64]
Scored = tuple[dict[str, Floats], dict[str, float], float, float]  # scores by method, facts, fit seconds, score seconds

OURS = {
    "ours": "the default detector",
    "ours-nested": "the same networks, weights of evidence learned from all other sets",
    "ours-oracle": "the same networks, the view and bound that is best on the test rows: what a perfect choice of one would reach",
    "ours-literal": "the same networks, every w_v = 1 and every beta 1",
    "ours-reconstruction": "its reconstruction part alone",
    "ours-kl": "its KL part alone",
}
PEERS = {
    "knn-mean": "PyOD KNN, mean of 5 distances",
    "knn-largest": "PyOD KNN, 5th distance",
    "1-nn": "PyOD KNN, nearest distance",
    "dte-np": "mean of the squared distances to the 5 nearest rows (the posterior mean of DTE's non-parametric form is monotone in it)",
    "lof": "PyOD LOF, novelty",
    "iforest": "PyOD Isolation Forest",
    "ocsvm": "PyOD one-class SVM",
    "pca": "PyOD PCA",
    "ecod": "PyOD ECOD",
    "pyod-vae": "PyOD VAE, defaults",
}


def split(data: Path, seed: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return training rows, test rows and which test rows are anomalies."""
    with np.load(data, allow_pickle=False) as file:
        x, y = np.asarray(file["X"], dtype=np.float64), np.asarray(file["y"]).ravel() == 1
    generator = np.random.default_rng(seed)
    normal, fault = generator.permutation(np.flatnonzero(~y)), generator.permutation(np.flatnonzero(y))
    if len(y) > CAP:
        faults = max(1, round(CAP * len(fault) / len(y)))
        normal, fault = normal[: CAP - faults], fault[:faults]
    half = len(normal) // 2
    test = np.concatenate([normal[half:], fault])
    return x[normal[:half]], x[test], y[test]


def standardised(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Scale both by the training rows."""
    centre, scale = train.mean(0), train.std(0)
    scale = np.where(scale < 1e-12, 1.0, scale)
    return (train - centre) / scale, (test - centre) / scale


def run_ours(
    train: Floats, test: Floats, seed: int, truth: NDArray[np.bool_], model: "ModelConfig | None" = None, terms: Path | None = None
) -> Scored:
    """Fit and score through the functions that the command line calls, with defaults or another ``model``; keep the ``terms`` in a file."""
    import torch

    from vae_anomaly.calibration.conformal import finest_alpha
    from vae_anomaly.config import CalibrationConfig, Config, DataConfig, ModelConfig
    from vae_anomaly.fitting.fit import fit_rows
    from vae_anomaly.model.ensemble import score_rows
    from vae_anomaly.schema.encoding import encode
    from vae_anomaly.schema.schema import conform, infer_schema

    torch.set_num_threads(1)
    table, new = (pa.table({f"x{j}": a[:, j] for j in range(a.shape[1])}) for a in (train, test))
    schema = infer_schema(table, DataConfig())
    alpha = max(0.01, finest_alpha(len(train)))
    start = time.perf_counter()
    record = fit_rows(table, schema, Config(seed=seed, model=model or ModelConfig(), calibration=CalibrationConfig(alpha=alpha)))
    detector = record.detector
    fitted = time.perf_counter()
    batch = encode(schema, conform(schema, new.combine_chunks().to_batches()[0], where="test"))
    scores = detector.scores(batch)
    scored = time.perf_counter()
    ensemble = detector.ensemble
    ones = torch.full_like(ensemble.weight, len(detector.config.model.views) / len(ensemble.weight))
    literal = score_rows(dataclasses.replace(ensemble, weight=ones, beta=ones), batch)
    named = {"ours": scores.total, "ours-literal": literal.total, "ours-reconstruction": scores.reconstruction, "ours-kl": scores.kl}
    facts: dict[str, float] = {
        "calibration_rows": len(detector.threshold.calibration),
        "split": float(detector.threshold.method == "split"),
    }
    for asked in (0.01, 0.05):
        possible = asked >= finest_alpha(len(detector.threshold.calibration))
        flags = detector.threshold.at(asked).flags(scores.total.numpy()) if possible else np.full(len(truth), np.nan)
        facts[f"false_alarms_{asked}"] = float(flags[~truth].sum())
    if terms is not None:
        np.savez_compressed(terms, truth=truth, **terms_of(record, batch, seed))
    return {name: s.numpy() for name, s in named.items()}, facts, fitted - start, scored - fitted


def terms_of(record: "FitRecord", batch: "Batch", seed: int) -> dict[str, Floats]:
    """Return the fields of ``nested.Terms`` but the truth, the evidence drawn anew."""
    import torch

    from vae_anomaly.model.ensemble import net_terms
    from vae_anomaly.model.weighting import COMPARED_ROWS, GROUPS, WEIGHING_ROWS, columns_of, evidence_of, imputed_cells

    ensemble, rows = record.detector.ensemble, record.exemplar_rows
    plain = dataclasses.replace(ensemble, beta=torch.ones_like(ensemble.beta))
    count, read = min(COMPARED_ROWS, int((rows >= 0).sum(-1).min())), ensemble.select_columns(record.batch)
    groups = min(GROUPS, int((rows >= 0).sum(-1).min()) // 2)
    generator, evidence, found = torch.Generator().manual_seed(seed), [], dict[str, Floats]()
    with torch.no_grad():
        for g, index in enumerate(rows):
            units = imputed_cells(ensemble.nets(torch.tensor([g])), read, index[index >= 0][:WEIGHING_ROWS].unsqueeze(0)).units[0]
            evidence.append(evidence_of(units, columns_of(ensemble.layout), groups, generator))
        blocks = [plain.cells(batch.rows(slice(i, i + 500))) for i in range(0, len(batch), 500)]
        mine, position = imputed_cells(plain, read, rows[:, :count]), torch.arange(count).expand(len(rows), count)
        kl, own_kl = [], []
        for number in (0, groups):
            bound = dataclasses.replace(plain, groups=torch.full_like(rows[:, 0], number))
            there, here = [net_terms(bound, cells) for cells in blocks], net_terms(bound, mine, position)
            found["reconstruction"] = torch.cat([t[0].sum(-1) for t in there], 1).numpy().astype(np.float32)
            found["own_reconstruction"] = here[0].sum(-1).numpy().astype(np.float32)
            kl.append(torch.cat([t[1] for t in there], 1).numpy())
            own_kl.append(here[1].numpy())
        cost = ensemble.cell_cost(batch).sum(-1).numpy()
    found |= {"evidence": torch.stack(evidence).numpy(), "cell_cost": cost, "level": np.array(ensemble.constants.penalty)}
    return found | {"kl": np.stack(kl).astype(np.float32), "own_kl": np.stack(own_kl).astype(np.float32)}


def run_peer(name: str, train: Floats, test: Floats, seed: int) -> Scored:
    """Fit and score one PyOD detector on standardised columns."""
    model = peer(name, seed)
    train, test = standardised(train, test)
    start = time.perf_counter()
    model.fit(train)
    fitted = time.perf_counter()
    scores = np.asarray(model.decision_function(test), dtype=np.float64)
    return {name: np.nan_to_num(scores)}, {}, fitted - start, time.perf_counter() - fitted


def peer(name: str, seed: int):  # type: ignore[no-untyped-def]  # noqa: ANN201, PLR0911
    """Return an unfitted PyOD detector."""
    if name in {"knn-mean", "knn-largest", "1-nn"}:
        from pyod.models.knn import KNN

        return KNN(n_neighbors=1 if name == "1-nn" else 5, method="mean" if name == "knn-mean" else "largest")
    if name == "dte-np":
        return SquaredNeighbours()
    if name == "lof":
        from pyod.models.lof import LOF

        return LOF(novelty=True)
    if name == "iforest":
        from pyod.models.iforest import IForest

        return IForest(random_state=seed)
    if name == "ocsvm":
        from pyod.models.ocsvm import OCSVM

        return OCSVM()
    if name == "pca":
        from pyod.models.pca import PCA

        return PCA(random_state=seed)
    if name == "ecod":
        from pyod.models.ecod import ECOD

        return ECOD()
    from pyod.models.vae import VAE

    return VAE(random_state=seed, verbose=0)


class SquaredNeighbours:
    """DTE's non-parametric form as a ranking: mean squared distance to the five nearest training rows."""

    def fit(self, train: Floats) -> None:
        """Index the training rows."""
        from sklearn.neighbors import NearestNeighbors

        self.index = NearestNeighbors(n_neighbors=min(5, len(train))).fit(train)

    def decision_function(self, test: Floats) -> Floats:
        """Return the mean squared distance."""
        return np.asarray(np.square(self.index.kneighbors(test)[0]).mean(1))


def one(job: tuple[Path, int, tuple[str, ...], Path]) -> list[dict[str, object]]:
    """Run all methods on one set and seed."""
    warnings.simplefilter("ignore")
    path, seed, methods, kept = job
    train, test, truth = split(path, seed)
    rows: list[dict[str, object]] = []
    runs: list[Callable[[], Scored]] = []
    if any(m in OURS for m in methods):
        runs.append(lambda: run_ours(train, test, seed, truth, terms=kept / f"{path.stem}.{seed}.npz"))
    runs.extend(lambda m=m: run_peer(m, train, test, seed) for m in methods if m in PEERS)  # type: ignore[misc]
    for run in runs:
        scores, facts, fit_s, score_s = run()
        for method, s in scores.items():
            measured = {"auroc": 100 * roc_auc_score(truth, s), "ap": 100 * average_precision_score(truth, s)}
            shape = {"training_rows": len(train), "columns": train.shape[1], "normals": int((~truth).sum()), "anomalies": int(truth.sum())}
            about = facts if method == "ours" else {}
            rows.append(
                {"set": path.stem, "seed": seed, "method": method, **measured, "fit_s": fit_s, "score_s": score_s, **shape, **about}
            )
    return rows


def nested_rows(kept: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, Floats]:
    """Return the rows of ``ours-nested`` and ``ours-oracle``, and the weights of evidence learned from all sets."""
    fits = {}
    for file in sorted(kept.glob("*.npz")):
        name, _, seed = file.stem.rpartition(".")
        with np.load(file) as terms:
            fields = {key: terms[key] for key in terms.files}
        level = float(fields.pop("level"))
        fits[name, int(seed)] = nested.Terms(**{k: v if k == "truth" else v.astype(np.float64) for k, v in fields.items()}, level=level)
    ours = table[table.method == "ours"].set_index(["set", "seed"])
    rows = []
    for name in sorted({name for name, _ in fits}):
        weights = nested.learn([terms for (other, _), terms in fits.items() if other != name])
        for (other, seed), terms in fits.items():
            if other != name:
                continue
            shared = {"set": name, "seed": seed, **ours.loc[(name, seed), ["fit_s", "score_s", "training_rows", "columns"]].to_dict()}
            auroc, ap = nested.points(terms.truth, nested.combined(terms, weights))
            rows.append({**shared, "method": "ours-nested", "auroc": auroc, "ap": ap})
            scores = nested.normalised(terms)
            each = scores.reshape(2, nested.VIEWS, -1, scores.shape[-1]).mean(2).reshape(2 * nested.VIEWS, -1)
            auroc, ap = max((nested.points(terms.truth, s) for s in each), key=sum)
            rows.append({**shared, "method": "ours-oracle", "auroc": auroc, "ap": ap})
    return pd.DataFrame(rows), nested.learn(list(fits.values()))


def nested_section(table: pd.DataFrame, weights: Floats) -> list[str]:
    """Compare the nested results with both nearest-neighbour distances, set by set."""
    from vae_anomaly.model.weighting import EVIDENCE, SEVERAL

    per_set = table.groupby(["set", "method"])[["auroc", "ap"]].mean().unstack()
    lines = ["## Nested: weights of evidence learned from all other sets", ""]
    lines += ["| ours-nested minus | AUROC: mean [90 % interval] | median | ≥ −0.1 on | AP: mean [90 % interval] | median | ≥ −0.1 on |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, other in (("ours-nested", "knn-mean"), ("ours-nested", "1-nn"), ("ours-oracle", "knn-mean")):
        if other not in per_set["auroc"]:
            continue
        cells = []
        for measure in ("auroc", "ap"):
            gap = per_set[measure][name] - per_set[measure][other]
            cells.append(f"{_interval(gap, 0.05)} | {gap.median():+.2f} | {int((gap >= -0.1).sum())} of {len(gap)}")
        lines.append(f"| {other}{' (oracle)' if name == 'ours-oracle' else ''} | {' | '.join(cells)} |")
    learned = ", ".join(f"{w:.1f}" for w in weights)
    shipped = ", ".join(f"{w:.1f}" for w in (*EVIDENCE, SEVERAL))
    text = f"Learned from all sets: {learned} (midpoints, swapped, scaled, mean over groups). In the package, from other draws: {shipped}."
    return [*lines, "", text, ""]


def false_alarm_section(table: pd.DataFrame) -> list[str]:
    """Compare realised false alarms with the exact beta-binomial law for every pair whose rows allow it."""
    ours = table[table.method == "ours"]
    lines = [
        "## Realised false alarms",
        "",
        "| calibration | alpha | pairs | refused | mean realised | above the upper 99.5 % limit | allowed |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for method, part in (("split", ours[ours.split == 1]), ("cross", ours[ours.split == 0])):
        for alpha in (0.01, 0.05):
            seen = part[part[f"false_alarms_{alpha}"].notna()]
            if seen.empty:
                continue
            n, j = seen.calibration_rows, np.floor((seen.calibration_rows + 1) * alpha + 1e-9)
            limit = stats.betabinom.ppf(0.995, seen.normals, j, n + 1 - j)
            over = int((seen[f"false_alarms_{alpha}"] > limit).sum())
            allowed = int(stats.binom.ppf(0.999, len(seen), 0.005))
            rate = (seen[f"false_alarms_{alpha}"] / seen.normals).mean()
            allow = str(allowed) if method == "split" else "approximate: no promise"
            lines.append(f"| {method} | {alpha} | {len(seen)} | {len(part) - len(seen)} | {rate:.4f} | {over} | {allow} |")
    refused = ours[ours["false_alarms_0.01"].isna()]
    names = ", ".join(sorted({f"{s} ({n:.0f} rows)" for s, n in zip(refused.set, refused.training_rows, strict=True)}))
    return [*lines, "", f"Refused at alpha 0.01 (fewer than 99 calibration rows): {names or 'none'}."]


def summary(table: pd.DataFrame, command: str, weights: Floats | None) -> str:
    """Return the Markdown summary: means, ranks, wins, the paired bootstrap over sets, every set."""
    per_set = table.groupby(["set", "method"])[["auroc", "ap"]].mean().unstack()
    auroc, ap = per_set["auroc"], per_set["ap"]
    order = auroc.mean().sort_values(ascending=False).index
    competing = [m for m in order if m not in OURS or m == "ours"]
    ranks = {k: t[competing].rank(axis=1, ascending=False).mean() for k, t in (("auroc", auroc), ("ap", ap))}
    spent = table.groupby(["method", "set"])[["fit_s", "score_s"]].mean().groupby("method").agg({"fit_s": "mean", "score_s": "sum"})
    lines = [
        "# Detection on ADBench sets",
        "",
        f"`{command}`",
        "",
        f"{auroc.shape[0]} sets, {table.seed.nunique()} seeds, {CAP:,} rows at most a set, {processor()}.",
        "",
    ]
    if weights is not None:
        lines += nested_section(table, weights)
    lines += ["## All methods"]
    lines += ["", "| method | AUROC | AP | rank AUROC | rank AP | wins–losses of ours (AUROC) | (AP) | fit s a set | score s, all sets |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for m in order:
        rank = [f"{ranks[k][m]:.2f}" if m in competing else "" for k in ("auroc", "ap")]
        wins = [f"{int((t.ours > t[m]).sum())}–{int((t.ours < t[m]).sum())}" if m != "ours" and "ours" in t else "" for t in (auroc, ap)]
        times = f"{spent.fit_s[m]:.2f} | {spent.score_s[m]:.2f}"
        lines.append(f"| {m} | {auroc[m].mean():.2f} | {ap[m].mean():.2f} | {rank[0]} | {rank[1]} | {wins[0]} | {wins[1]} | {times} |")
    lines += ["", *[f"- `{k}`: {v}" for k, v in (OURS | PEERS).items() if k in order]]
    if "ours" in order:
        lines += ["", "## Ours minus a peer: mean over sets and 95 % paired bootstrap interval over sets (10,000 draws)", ""]
        lines += ["| peer | AUROC | AP |", "|---|---|---|"]
        lines += [f"| {m} | {_interval(auroc.ours - auroc[m])} | {_interval(ap.ours - ap[m])} |" for m in competing if m != "ours"]
        lines += ["", *false_alarm_section(table)]
    lines += ["", "## Every set (AUROC / AP, mean over seeds)", "", "| set | " + " | ".join(order) + " |", "|---" * (len(order) + 1) + "|"]
    lines += [f"| {s} | " + " | ".join(f"{auroc[m][s]:.1f} / {ap[m][s]:.1f}" for m in order) + " |" for s in auroc.index]
    return "\n".join(lines) + "\n"


def _interval(difference: "pd.Series[float]", tail: float = 0.025) -> str:
    values = difference.to_numpy()
    draws = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(1)
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def critical_difference(table: pd.DataFrame, path: Path) -> None:
    """Draw average ranks with the Nemenyi critical difference (Demšar 2006)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    for axis, measure in zip(figure.subplots(1, 2), ("auroc", "ap"), strict=True):
        wide = table.groupby(["set", "method"])[measure].mean().unstack()
        wide = wide[[m for m in wide if m not in OURS or m == "ours"]]
        rank = wide.rank(axis=1, ascending=False).mean().sort_values(ascending=False)
        k, n = wide.shape[1], wide.shape[0]
        critical = stats.studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
        colours = ["#d55e00" if m == "ours" else "#0072b2" for m in rank.index]
        axis.scatter(rank, range(k), c=colours, zorder=3)
        axis.set_yticks(range(k), rank.index)
        axis.axvspan(rank.min(), rank.min() + critical, color="#cccccc", alpha=0.5, label=f"within the critical difference {critical:.2f}")
        axis.set(xlabel=f"average rank by {measure.upper()} over {n} sets (1 = best)")
        axis.grid(axis="x", alpha=0.3)
        axis.legend(loc="lower left", fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run, write the tidy table and the summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="", help="stems of the .npz files, comma-separated; default all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(["ours", *PEERS]))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--name", default="detection")
    parser.add_argument("--scores", type=Path, help="keep the terms of every row and network here")
    args = parser.parse_args()
    paths = sorted(p for p in args.data.glob("*.npz") if not args.sets or p.stem in args.sets.split(","))
    if not paths:
        sys.exit(f"no .npz files in {args.data}")
    kept = args.scores or Path(tempfile.mkdtemp(prefix="terms-"))
    kept.mkdir(parents=True, exist_ok=True)
    jobs = [(p, seed, tuple(args.methods.split(",")), kept) for seed in range(args.seeds) for p in paths]
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for done, part in enumerate(pool.map(one, jobs), 1):
            rows += part
            ours = next((r for r in part if r["method"] == "ours"), part[0])
            print(
                f"{done}/{len(jobs)} {ours['set']} seed {ours['seed']}: {ours['auroc']:.2f} {ours['ap']:.2f}", file=sys.stderr, flush=True
            )
    table, weights = pd.DataFrame(rows), None
    if "ours" in args.methods.split(",") and len(paths) > 1:
        more, weights = nested_rows(kept, table)
        table = pd.concat([table, more], ignore_index=True)
    if args.scores is None:
        shutil.rmtree(kept)
    args.output.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(args.output / f"{args.name}.csv", index=False)
    text = summary(table, f"python benchmarks/detection.py DATA_DIR --seeds {args.seeds} --methods {args.methods}", weights)
    (args.output / f"{args.name}.md").write_text(text, encoding="utf-8")
    critical_difference(table, args.output / f"{args.name}_ranks.png")
    print(text)


if __name__ == "__main__":
    main()
