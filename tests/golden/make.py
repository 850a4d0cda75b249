"""Freeze the artifact format of today: ``python -m tests.golden.make``, once for each format number, and never again.

Writes ``format-<n>/`` beside this file: the artifact of a tiny detector, ten odd rows, and the scores that every later version has
to give them. A folder that is there is refused: it is what users of that version have on their disks.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from tests import tiny
from vae_anomaly.core.detector import Detector
from vae_anomaly.core.stream import score_batches
from vae_anomaly.edges import artifact, tables

GOLDEN = Path(__file__).parent
ARTIFACT, ROWS, EXPECTED = "artifact", "rows.csv", "expected.json"
CASE = tiny.Case(kind="mixed", size="several", method="split", prior="exemplar")
# Ordinary rows, an outlier, a row without a cell, a level never seen, constants that changed, and missing cells.
PLACES = (0, 1, 2, tiny.OUTLIER, tiny.EMPTY, 6, tiny.UNSEEN, tiny.CHANGED_NUMBER, tiny.CHANGED_LEVEL, tiny.HOLES)
KEPT = ("anomaly_score", "reconstruction", "kl", "is_anomaly")


def scores(detector: Detector, rows: Path) -> list[dict[str, Any]]:
    """Score the rows of a file as ``vae-anomaly score`` does; one object for each row."""
    batches = tables.open_source([str(rows)]).batches(detector.schema)
    found: list[dict[str, Any]] = pa.Table.from_batches(score_batches(detector, batches)).select(list(KEPT)).to_pylist()
    return found


def make(folder: Path) -> None:
    """Write a golden folder. Raises FileExistsError where there is one."""
    folder.mkdir(parents=True)
    artifact.save(tiny.detector(CASE), folder / ARTIFACT)
    csv.write_csv(tiny.odd_rows(CASE.kind).take(list(PLACES)), folder / ROWS)
    expected = scores(artifact.load(folder / ARTIFACT), folder / ROWS)
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(GOLDEN / f"format-{artifact.FORMAT}")
