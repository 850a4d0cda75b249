"""Does an alarm name the column that is at fault, and was what it says was expected there nearer the truth.

    python benchmarks/reasons.py [--rows 1200] [--sizes 3,4,6]

Fits the default detector on ``data/normal.parquet`` and looks at ``data/labelled.parquet``. First the named faults, whose wrong cells
are known from ``data/make_samples.py``: over the flagged rows, and over all of them, how often is a wrong column among the first
one or three contributions, and among the three largest z. Then faults in a single cell, planted in normal rows: a number moved by so
many standard deviations, exchanged with that of another row, or a level exchanged with another. Nothing is chosen by the outcome.
Writes ``reasons.md`` and ``reasons.json`` to ``benchmarks/results``.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from vae_anomaly.config import Config
from vae_anomaly.detector.detector import Detector
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.schema.encoding import Batch, encode, model_order
from vae_anomaly.schema.schema import conform, infer_schema

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
Row = dict[str, str | int | float | None]
sys.path.insert(0, str(ROOT / "data"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planted:
    """Rows with one cell at fault each: ``place`` ``[n]`` is its column, ``there`` where the cell was observed at all."""

    name: str
    rows: Batch
    place: NDArray[np.int64]
    there: NDArray[np.bool_]


def fitted() -> Detector:
    """Fit the default detector on the normal sample."""
    config, normal = Config(), pq.read_table(ROOT / "data" / "normal.parquet")
    return fit_detector(normal, infer_schema(normal, config.data), config)


def labelled(detector: Detector) -> tuple[Batch, NDArray[np.str_]]:
    """Return the labelled rows and their labels."""
    table = pq.read_table(ROOT / "data" / "labelled.parquet").combine_chunks()
    rows = encode(detector.schema, conform(detector.schema, table.to_batches()[0], where="labelled.parquet"))
    return rows, np.asarray(table["fault"].to_pylist())


def share(hits: NDArray[np.bool_]) -> float | None:
    """Return the share of hits, None of nothing."""
    return float(hits.mean()) if len(hits) else None


def named_faults(detector: Detector, rows: Batch, labels: NDArray[np.str_], wrong: Mapping[str, Sequence[str]]) -> list[Row]:
    """Measure each named fault."""
    columns = [column.name for column in model_order(detector.schema)]
    found: list[Row] = []
    for fault, names in wrong.items():
        picked = rows.rows(torch.from_numpy(np.flatnonzero(labels == fault)))
        flags = detector.threshold.flags(detector.scores(picked).total.numpy())
        contribution = explain_rows(detector.ensemble, picked).contribution
        assert detector.usual is not None
        at_fault = [columns.index(name) for name in names]
        first = np.isin(np.argsort(-contribution.numpy(), axis=1, kind="stable")[:, :3], at_fault)
        by_z = np.isin(np.argsort(-detector.usual.z(contribution).numpy(), axis=1, kind="stable")[:, :3], at_fault)
        found.append({
            "fault": fault,
            "rows": len(picked),
            "flagged": int(flags.sum()),
            "top 1 of flagged": share(first[flags, 0]),
            "top 3 of flagged": share(first[flags].any(1)),
            "top 3 by z of flagged": share(by_z[flags].any(1)),
            "top 3 of all": share(first.any(1)),
        })  # fmt: skip
    return found


def planted(normal: Batch, levels: Sequence[int], sizes: Sequence[float], random: np.random.Generator) -> list[Planted]:
    """Plant one fault in every row, in all the ways."""
    n, d_num, at = len(normal), normal.numeric.shape[-1], np.arange(len(normal))
    spread, place = normal.numeric.std(0)[0].numpy(), np.arange(n) % d_num
    sign = np.where(random.random(n) < 0.5, 1.0, -1.0)
    seen = normal.observed[:, 0].numpy()
    found = []
    for size in sizes:
        numeric = normal.numeric.clone()
        numeric[at, 0, place] += torch.from_numpy(sign * size * spread[place])
        rows = Batch(numeric=numeric, codes=normal.codes, observed=normal.observed)
        found.append(Planted(name=f"number moved by {size:g} standard deviations", rows=rows, place=place, there=seen[at, place]))
    other, numeric = random.permutation(n), normal.numeric.clone()
    numeric[at, 0, place] = normal.numeric[other, 0, place]
    rows = Batch(numeric=numeric, codes=normal.codes, observed=normal.observed)
    found.append(Planted(name="number of another row", rows=rows, place=place, there=seen[at, place] & seen[other, place]))
    category, codes = at % len(levels), normal.codes.clone()
    count = np.asarray(levels)[category]
    step = 1 + (random.random(n) * (count - 1)).astype(np.int64)
    codes[at, 0, category] = torch.from_numpy((normal.codes[at, 0, category].numpy() + step) % count)
    rows = Batch(numeric=normal.numeric, codes=codes, observed=normal.observed)
    found.append(Planted(name="another level", rows=rows, place=d_num + category, there=seen[at, d_num + category]))
    return found


def single_cells(detector: Detector, normal: Batch, fault: Planted) -> Row:
    """Measure how often the cell at fault comes first, and whether what was expected is nearer the true value."""
    explanation = explain_rows(detector.ensemble, fault.rows)
    flags = detector.threshold.flags(detector.scores(fault.rows).total.numpy()) & fault.there
    first = explanation.contribution.argmax(1).numpy() == fault.place
    at, d_num = np.arange(len(normal)), normal.numeric.shape[-1]
    if fault.place[0] < d_num:
        truth, bad = (rows.numeric[at, 0, fault.place].numpy() for rows in (normal, fault.rows))
        nearer = np.abs(explanation.number[at, fault.place].numpy() - truth) < np.abs(bad - truth)
    else:
        code = fault.place - d_num
        nearer = (explanation.level[at, code] == normal.codes[at, 0, code]).numpy()
    return {
        "planted": fault.name,
        "rows": int(fault.there.sum()),
        "flagged": int(flags.sum()),
        "first of flagged": share(first[flags]),
        "expected nearer, of flagged": share(nearer[flags]),
        "first of all": share(first[fault.there]),
        "expected nearer, of all": share(nearer[fault.there]),
    }


def in_words(rows: Sequence[Row]) -> list[str]:
    """Write rows as a table."""
    head = list(rows[0])
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *([shown(row[name]) for name in head] for row in rows))]


def shown(value: str | float | None) -> str:
    """Write a share as per cent, a count as it is."""
    return "–" if value is None else f"{100 * value:.1f} %" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1200, help="normal rows to plant single-cell faults in")
    parser.add_argument("--sizes", default="3,4,6", help="standard deviations to move a number by")
    given = parser.parse_args()
    from make_samples import FAULTS

    torch.set_num_threads(1)
    detector = fitted()
    rows, labels = labelled(detector)
    named = named_faults(detector, rows, labels, FAULTS)
    random = np.random.default_rng(0)
    normal = rows.rows(torch.from_numpy(random.permutation(np.flatnonzero(labels == "normal"))[: given.rows]))
    levels = [len(column.levels) for column in model_order(detector.schema) if column.kind != "numeric"]
    cells = [single_cells(detector, normal, fault) for fault in planted(normal, levels, [float(s) for s in given.sizes.split(",")], random)]
    text = [
        "# Reasons",
        "",
        f"`python benchmarks/reasons.py --rows {given.rows} --sizes {given.sizes}`",
        "",
        f"Default detector fitted on `data/normal.parquet`, alpha {detector.threshold.alpha:g}. Among the first: a column that the",
        "table of faults in `data/README.md` names.",
        "",
        *in_words(named),
        "",
        "One cell at fault in normal rows of `data/labelled.parquet`:",
        "",
        *in_words(cells),
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "reasons.md").write_text("\n".join(text), encoding="utf-8")
    (RESULTS / "reasons.json").write_text(json.dumps({"named": named, "single cells": cells}, indent=1) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
