"""The inputs of ``malformed`` scored with their bad rows set aside, and given to a fit: judged alike.

A row that is set aside stands in the side file, and all other rows of the input have the scores that they have without it.
"""

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from tests.malformed import SECONDS, Case, command, ill_said, plain, wrong_scores
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import score_batches
from vae_anomaly.errors import DataError

# Whose files hold the rows of the ground, and perhaps others that are none; a bomb is all bad rows, which are many.
AMONG = ("ragged", "words_for_numbers", "headers", "quotes", "line_ends", "delimiters", "misnamed")
NOT_TRIED = ("bombs",)


def problems(case: Case, kind: str, rows: pa.Table, model: Path, detector: Detector) -> Iterator[str]:
    """Score and fit a case of a ``kind`` made from ``rows`` and yield what is wrong about what comes of it."""
    if kind in NOT_TRIED:
        return
    for how in ("quarantine", "skip") if kind in AMONG else ("quarantine",):
        for problem in _scored_problems(case, how, rows if kind in AMONG else None, model, detector):
            yield f"score --on-error {how}: {problem}"
    for problem in _fit_problems(case):
        yield f"fit: {problem}"


def _scored_problems(case: Case, how: str, rows: pa.Table | None, model: Path, detector: Detector) -> Iterator[str]:
    output = case.folder / f"{how}.parquet"
    before, began = sorted(case.folder.iterdir()), time.process_time()
    words = ["score", case.data, "-m", str(model), "--explain", "none", "--threads", "1", "-o", output.name, "--on-error", how]
    code, shown = command(case, words)
    if time.process_time() - began > SECONDS:
        yield f"took {time.process_time() - began:.1f} s"
    if code:
        yield from ["refused"] if case.outcome == "scored" else []
        yield from ill_said(case, code, shown)
        yield from _left(case, before)
        return
    found = pq.read_table(output, columns=["row", "anomaly_score"])
    aside = _set_aside(case.folder / f"{output.name}.quarantine.csv")
    if how == "quarantine" and sorted([*found["row"].to_pylist(), *aside]) != list(range(len(found) + len(aside))):
        yield f"rows {aside} are set aside of {found['row'].to_pylist()}"
    if case.outcome == "scored" or (case.outcome == "either" and not aside and how == "quarantine"):
        yield from wrong_scores(case, output, detector)
    elif rows is not None:
        expected = iter(_scores(rows, detector))
        if not all(score in expected for score in found["anomaly_score"].to_pylist()):
            yield "a row has a score that no good row has in its place"


def _set_aside(side: Path) -> list[int]:
    """Return the numbers of the rows in a side file."""
    if not side.exists():
        return []
    csv.field_size_limit(1 << 30)
    with side.open(encoding="utf-8", newline="") as file:
        return [int(row["row"]) for row in csv.DictReader(file)]


def _scores(rows: pa.Table, detector: Detector) -> list[float]:
    return [score for batch in score_batches(detector, plain(rows).to_batches()) for score in batch["anomaly_score"].to_pylist()]


def _fit_problems(case: Case) -> Iterator[str]:
    """Read and judge a case as a fit does, and stop there."""
    before, began = sorted(case.folder.iterdir()), time.process_time()
    words = ["fit", case.data, "--no-tracking", "--output", "fitted", "--alpha", "0.2", "--on-error", "skip"]
    with mock.patch("vae_anomaly.workflow.fit._fitted", side_effect=DataError("it can be fitted")):
        code, shown = command(case, words)
    if time.process_time() - began > SECONDS:
        yield f"took {time.process_time() - began:.1f} s"
    # What is wrong with all rows together is said of the table, not of its file.
    yield from ill_said(case, code, "".join(line + "\n" for line in shown.splitlines() if not line.startswith("warning: ")), named=False)
    yield from _left(case, before)


def _left(case: Case, before: list[Path]) -> Iterator[str]:
    if sorted(case.folder.iterdir()) != before:
        yield f"left behind {sorted(set(case.folder.iterdir()) - set(before))}"
