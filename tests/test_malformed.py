"""Hundreds of malformed inputs through the command line: one line and an exit code, or the scores an independent reader gives."""

from pathlib import Path

import pytest

from tests import malformed_rows
from tests.forked import commands
from tests.malformed import (
    KINDS,
    MODEL,
    Case,
    Make,
    flipped,
    footers,
    ground,
    places,
    problems,
    quotes,
    ragged,
    truncated,
    typed,
    words_for_numbers,
)
from tests.tiny import detector
from vae_anomaly import artifact

SEED = 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("malformed") / "model"
    artifact.save(detector(MODEL), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_each_is_refused_in_one_line_or_scored_as_it_is_meant(make: Make, tmp_path: Path, model: Path) -> None:
    found = [f"{case.name}: {problem}" for case in make(ground(tmp_path, SEED)) for problem in problems(case, model, detector(MODEL))]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("make", [ragged, words_for_numbers, quotes, typed], ids=lambda make: make.__name__)
def test_bad_rows_are_set_aside_and_the_others_keep_their_scores(make: Make, tmp_path: Path, model: Path) -> None:
    made = ground(tmp_path, SEED)
    cases = list(make(made))[::6]
    found = [f"{c.name}: {p}" for c in cases for p in malformed_rows.problems(c, make.__name__, made.rows, model, detector(MODEL))]
    assert found == []


def test_there_are_more_than_three_hundred_and_the_same_from_the_same_seed(tmp_path: Path) -> None:
    both = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made = [case for make in KINDS if make.__name__ != "bombs" for case in make(ground(tmp_path / name, SEED))]
        both.append([(case.name, content(case)) for case in made])
    assert both[0] == both[1]
    names = [name for name, _ in both[0]]
    assert (len(names) > 300, len(set(names))) == (True, len(names))


def content(case: Case) -> bytes:
    path = case.folder / case.data if "\0" not in case.data and len(case.data) < 200 else case.folder
    return path.read_bytes() if path.is_file() else b""


@pytest.mark.slow
def test_a_process_of_its_own_says_the_same(tmp_path: Path, model: Path) -> None:
    made = (case for make in (truncated, flipped, ragged, places, footers) for case in make(ground(tmp_path, SEED)))
    starts, cases = {"x.parquet cut at", "x.csv.gz bit", "short first", "a fifo", "only magic"}, list[Case]()
    for case in made:
        if start := next((start for start in starts if case.name.startswith(start)), None):
            starts.remove(start)
            cases.append(case)
    assert not starts
    words = ("-m", str(model), "-o", "out.csv")
    for case, done in zip(cases, commands([(("score", case.data, *words), case.folder) for case in cases], seconds=60), strict=True):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), case.name
        assert done.stderr.startswith(f"error: {case.data} ")
