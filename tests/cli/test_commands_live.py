"""``follow`` from the command line: answers on standard output, a summary beside a file, and refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.series import detector_of, rows_of
from vae_anomaly import artifact


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    artifact.save(detector_of(), folder / "m")
    rows = rows_of(30, seed=2)
    lines = [",".join(rows.column_names), *(",".join(map(str, row.values())) for row in rows.to_pylist())]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(ground: Path, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vae_anomaly", "follow", *words, "-m", "m"]
    return subprocess.run(command, cwd=ground, capture_output=True, text=True, input=text, check=False)


def test_answers_go_to_standard_output_and_nothing_else_does(ground: Path) -> None:
    done = run(ground, text=(ground / "rows.csv").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["line"] for answer in answers if "line" in answer] == list(range(30))


def test_a_file_of_answers_has_a_summary_beside_it(ground: Path) -> None:
    done = run(ground, "rows.csv", "--until-end", "-o", "out.jsonl")
    assert done.returncode == 0
    assert done.stdout.startswith("Answered 30 lines.\n  alarms       0\n  model        m version")
    as_json = run(ground, "rows.csv", "--until-end", "-o", "again.jsonl", "--json")
    assert json.loads(as_json.stdout)["lines"] == 30


def test_json_needs_a_file_for_the_answers(ground: Path) -> None:
    done = run(ground, "rows.csv", "--until-end", "--json")
    assert done.returncode == 2
    assert "--json prints one object, and without -o the answers are printed; name a file for them with -o." in done.stderr


def test_an_empty_stream_has_no_answers(ground: Path) -> None:
    done = run(ground, text="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
