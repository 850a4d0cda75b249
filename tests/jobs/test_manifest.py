import json
from pathlib import Path

import pytest

from vae_anomaly.errors import OutputError
from vae_anomaly.jobs import manifest

MADE_FROM = {"inputs": {"a.csv": [1, 2]}}


def test_complete_is_read_back(tmp_path: Path) -> None:
    output = tmp_path / "x.csv"
    with manifest.started(output, MADE_FROM):
        output.write_text("four", encoding="utf-8")
        manifest.complete(output, MADE_FROM, {"rows": 1})
    found = manifest.read_manifest(output)
    assert found == manifest.Manifest(complete=True, made_from=MADE_FROM, bytes=4, counts={"rows": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.csv", "x.csv.manifest.json"]


def test_a_job_killed_half_way_is_seen(tmp_path: Path) -> None:
    with manifest.started(tmp_path / "x.csv", MADE_FROM):
        found = manifest.read_manifest(tmp_path / "x.csv")
    assert found is not None
    assert (found.complete, found.made_from) == (False, MADE_FROM)


@pytest.mark.parametrize("before", [None, b"what was there"])
def test_an_error_leaves_the_manifest_as_it_was(tmp_path: Path, before: bytes | None) -> None:
    path = manifest.manifest_path(tmp_path / "x.csv")
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(KeyboardInterrupt), manifest.started(tmp_path / "x.csv", MADE_FROM):
        raise KeyboardInterrupt
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "made_from": 3}', "\x00"])
def test_what_is_no_manifest_is_none(tmp_path: Path, text: str) -> None:
    manifest.manifest_path(tmp_path / "x.csv").write_text(text, encoding="utf-8")
    assert manifest.read_manifest(tmp_path / "x.csv") is None


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as error, manifest.started(tmp_path / "no" / "x.csv", MADE_FROM):
        pytest.fail("nothing can be written there")
    assert (
        str(error.value) == f"{tmp_path}/no/x.csv cannot be written: its folder does not exist. Make the folder or write elsewhere with -o."
    )


def test_a_manifest_is_readable(tmp_path: Path) -> None:
    with manifest.started(tmp_path / "ü.csv", {"inputs": {"ü": [1]}}):
        text = manifest.manifest_path(tmp_path / "ü.csv").read_text(encoding="utf-8")
    assert '"ü"' in text
    assert json.loads(text)["state"] == "started"
