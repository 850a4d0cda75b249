"""Artifacts of every format ever released still load, and give the scores that they gave."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.make import ARTIFACT, EXPECTED, GOLDEN, KEPT, ROWS, make, scores
from vae_anomaly.edges import artifact

# What is promised to other machines and later versions: relative to max(1, |score|).
TOLERANCE = 1e-5
FOLDERS = {number: GOLDEN / f"format-{number}" for number in artifact.READERS}


def expected(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    return rows


def close(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return abs(found - wanted) <= TOLERANCE * max(1.0, abs(wanted))


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=lambda folder: str(folder.name))
def test_a_frozen_artifact_gives_the_scores_that_it_gave(folder: Path) -> None:
    found, wanted = scores(artifact.load(folder / ARTIFACT), folder / ROWS), expected(folder)
    assert len(found) == len(wanted) == 10
    for i, (new, old) in enumerate(zip(found, wanted, strict=True)):
        assert new["is_anomaly"] is old["is_anomaly"], f"row {i}"
        for name in KEPT[:-1]:
            assert close(new[name], old[name]), f"row {i}: {name} is {new[name]}, and was {old[name]}"


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=lambda folder: str(folder.name))
def test_the_frozen_rows_hold_what_can_be_odd(folder: Path) -> None:
    detector = artifact.load(folder / ARTIFACT)
    wanted = expected(folder)
    assert {row["is_anomaly"] for row in wanted} == {True, False}
    assert any(row["anomaly_score"] is None for row in wanted)
    text = (folder / ROWS).read_text(encoding="utf-8")
    assert {"numeric", "boolean", "category"} == {column.kind for column in detector.schema.columns}
    assert "reverse" in text, "a level never seen"
    assert ",," in text, "a missing cell"


def test_there_is_one_folder_for_each_format() -> None:
    assert sorted(path.name for path in GOLDEN.glob("format-*")) == sorted(folder.name for folder in FOLDERS.values())
    assert max(FOLDERS) == artifact.FORMAT
    for number, folder in FOLDERS.items():
        manifest = json.loads((folder / ARTIFACT / artifact.MANIFEST).read_text(encoding="utf-8"))
        assert manifest["format"] == number


def test_a_golden_folder_is_made_once(tmp_path: Path) -> None:
    make(tmp_path / "format-7")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(str(path.relative_to(tmp_path / "format-7")) for path in before) == [
        f"{ARTIFACT}/{artifact.MANIFEST}",
        f"{ARTIFACT}/{artifact.WEIGHTS}",
        EXPECTED,
        ROWS,
    ]
    with pytest.raises(FileExistsError):
        make(tmp_path / "format-7")
    assert {path: path.read_bytes() for path in before} == before
