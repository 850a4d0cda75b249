"""``--on-error``: rows that cannot be read stop a verb, are left out, or go to a side file; the others are as if those were not there."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tests.test_cli import _logging_as_it_was, files, run
from tests.test_score_resume import Killed, killed
from tests.tiny import Case, config, detector, table
from vae_anomaly.edges import artifact, manifest, quarantine, resume
from vae_anomaly.errors import DataError, OutputError
from vae_anomaly.workflow.results import RejectedRows
from vae_anomaly.workflow.score import ScoreRequest, score

__all__ = ["_logging_as_it_was"]
GOOD = 60
# Where bad rows stand, what they are (of a row with these cells), and what is said of them.
BAD: dict[int, tuple[str, str]] = {
    0: ("1,2", "2 cells, expected 10 as in the header"),
    7: ("{flow},{pressure},n/a,{celsius},{mode},{open},{rated},{crew},{site},{key}", "column 'power' is numeric in this model but 'n/a'"),
    8: ("{row},more", "11 cells, expected 10 as in the header"),
    21: ("{flow},-inf,{power},{celsius},{mode},{open},{rated},{crew},{site},{key}", "column 'pressure' must be finite but is -inf"),
    22: ("\xff{row}", "column 'flow' is not utf-8 text"),
    23: ('"{row}', "6 cells, expected 10 as in the header"),
    66: ('x,"no end', "a quote is opened and never closed"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on-error") / "model"
    artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="exemplar")), folder)
    return folder


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(rows: int = GOOD, *, seed: int = 5) -> list[bytes]:
    """A header and good rows, without line ends; the key has a line end in quotes now and then, and every fifth row an anomaly."""
    made = table("mixed", rows, seed=seed).to_pylist()
    for i, row in enumerate(made):
        row |= {"key": f"kü{i}\n" if i % 9 == 4 else f"k{i}"} | ({"pressure": 9e5 + i} if i % 5 == 2 else {})
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.Table.from_pylist(made), sink)
    found = re.findall(rb'(?:"[^"]*"|[^"\n])+', sink.getvalue().to_pybytes())
    assert len(found) == rows + 1
    return [found[0].replace(b'"', b""), *found[1:]]


def with_bad(good: list[bytes]) -> tuple[list[bytes], list[int]]:
    """Put the bad rows of ``BAD`` among good ones; returns the lines and the numbers of the good rows."""
    header, *rows = good
    names = header.decode().split(",")
    mixed, numbers, waiting = [header], [], iter(rows)
    for number in range(len(rows) + len(BAD)):
        if number in BAD:
            cells = dict(zip(names, rows[3].decode().split(","), strict=True))
            mixed.append(BAD[number][0].format(row=rows[3].decode(), **cells).encode("latin-1"))
        else:
            mixed.append(next(waiting))
            numbers.append(number)
    return mixed, numbers


def put(path: str, content: list[bytes]) -> str:
    Path(path).write_bytes(b"\n".join(content) + b"\n")
    return path


def asked(model: Path, data: str | tuple[str, ...], output: str = "out.csv", **more: Any) -> ScoreRequest:
    data = (data,) if isinstance(data, str) else data
    return ScoreRequest(data=data, model=str(model), output=Path(output), alpha=0.1, threads=1, **more)


def side(output: str = "out.csv") -> list[list[str]]:
    with Path(f"{output}.quarantine.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# ── score ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_around_quarantined_ones_are_scored_as_without_them(model: Path) -> None:
    good = lines()
    mixed, numbers = with_bad(good)
    score(asked(model, put("good.csv", good), "good.parquet"))
    result = score(asked(model, put("mixed.csv", mixed), "mixed.parquet", on_error="quarantine"))
    alone, among = pq.read_table("good.parquet"), pq.read_table("mixed.parquet")
    assert among["row"].to_pylist() == numbers
    assert among.drop_columns("row").equals(alone.drop_columns("row"))
    assert [alarm.row for alarm in result.counts.top_alarms] == [
        numbers[alarm.row] for alarm in score(asked(model, "good.csv", "again.parquet")).counts.top_alarms
    ]
    place = "mixed.csv row 1: 2 cells, expected 10 as in the header"
    assert result.counts.rejected == RejectedRows(rows=len(BAD), first=place, quarantine="mixed.parquet.quarantine.csv")
    header, *rows = side("mixed.parquet")
    assert header == ["row", "file", "row_in_file", "reason", "text"]
    assert [(int(row), file, int(place), reason) for row, file, place, reason, _ in rows] == [
        (number, "mixed.csv", number + 1, said) for number, (_, said) in BAD.items()
    ]
    raw = [mixed[number + 1].decode("utf-8", "backslashreplace") for number in BAD]
    assert [text for *_, text in rows] == raw
