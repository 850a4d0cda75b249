"""Files are known again by what they hold."""

from pathlib import Path

import pytest

from vae_anomaly.tables import files
from vae_anomaly.tables.files import contents_digest, find_files


def digest(*paths: Path) -> str:
    return contents_digest(find_files([str(path) for path in paths]))


def test_names_times_and_order_do_not_matter_and_what_is_in_them_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_END", 4)
    a, b, copy = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "copy.csv"
    a.write_text("a\n" + "1\n" * 9)
    b.write_text("a\n2\n")
    copy.write_bytes(a.read_bytes())
    assert digest(a, b) == digest(b, copy)
    assert digest(a) != digest(b)
    for place in (2, 18):
        changed = bytearray(a.read_bytes())
        changed[place] = ord("7")
        copy.write_bytes(changed)
        assert digest(a) != digest(copy)


def test_of_many_files_the_largest_are_looked_into_and_all_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LOOKED_INTO", 1)
    for name, content in {"a": "a\n1\n22\n", "b": "a\n1\n", "c": "a\n2\n", "d": "a\n"}.items():
        (tmp_path / f"{name}.csv").write_text(content)
    a, b, c, d = (tmp_path / f"{name}.csv" for name in "abcd")
    assert digest(a, b) == digest(a, c)
    assert digest(a, b) != digest(a, d)
    assert digest(a, b) != digest(a)
