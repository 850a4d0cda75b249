import os
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from vae_anomaly.errors import DataError, MissingExtra
from vae_anomaly.tables import files
from vae_anomaly.tables.files import find_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder we are in, with one-line tables below it."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.csv", "a.csv", "deep/c.tsv", "deep/er/d.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n1\n")
    return tmp_path


def paths(*given: str) -> list[str]:
    return [f.path for f in find_files(given)]


def refused(*given: str) -> str:
    with pytest.raises(DataError) as caught:
        find_files(given)
    return str(caught.value)


def test_files_keep_the_order_in_which_they_are_named(folder: Path) -> None:
    assert paths("b.csv", "a.csv", "b.csv") == ["b.csv", "a.csv"]
    assert paths(str(folder / "a.csv")) == [str(folder / "a.csv")]


def test_a_folder_gives_the_tables_in_and_below_it_by_name(folder: Path) -> None:
    for side in ("_SUCCESS", ".a.csv.crc", "_temporary/0.csv", "notes.pdf", "a.scores.csv", "a.scores.parquet", ".b.csv.1.part"):
        (folder / side).parent.mkdir(exist_ok=True)
        (folder / side).write_text("x\n")
    assert paths(".") == ["./a.csv", "./b.csv", "./deep/c.tsv", "./deep/er/d.txt"]
    assert paths("deep/") == ["deep/c.tsv", "deep/er/d.txt"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("[!a].csv", ["b.csv"]),
        ("?.csv", ["a.csv", "b.csv"]),
        ("d*p", ["deep/c.tsv", "deep/er/d.txt"]),
        ("deep/*.tsv", ["deep/c.tsv"]),
        ("**/*.t?t", ["deep/er/d.txt"]),
        ("*/*/d.txt", ["deep/er/d.txt"]),
    ],
)
def test_a_glob(folder: Path, glob: str, expected: list[str]) -> None:
    assert paths(glob) == expected
    assert paths(f"{folder}/{glob}") == [f"{folder}/{p}" for p in expected]
    if "?" not in glob:  # it begins the query of a URI
        assert paths(f"file://{folder}/{glob}") == [f"file://{folder}/{p}" for p in expected]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    (folder / "a[1].csv").write_text("x\n1\n")
    assert paths("a[1].csv") == ["a[1].csv"]


def test_partition_folders_become_columns(folder: Path) -> None:
    path = folder / "lake" / "_day=2024-01-01" / "site=a%20b" / "machine=__HIVE_DEFAULT_PARTITION__" / "p.csv"
    path.parent.mkdir(parents=True)
    path.write_text("x\n1\n")
    expected = (("_day", "2024-01-01"), ("site", "a b"), ("machine", None))
    assert find_files(["lake"])[0].partition == expected
    assert find_files(["lake/_day=*"])[0].partition == expected
    # Who names the file alone means its rows, not its place.
    assert find_files([str(path)])[0].partition == ()


def test_the_format_follows_the_first_bytes_before_the_suffix(folder: Path) -> None:
    (folder / "really.csv").write_bytes(b"PAR1....PAR1")
    (folder / "no_suffix").write_text("a,b\n1,2\n")
    (folder / "day.2024.data").write_text("a,b\n1,2\n")
    (folder / "feather.arrow").write_bytes(b"ARROW1\0\0")
    (folder / "packed.csv.gz").write_bytes(b"\x1f\x8b")
    formats = {p: find_files([p])[0].format for p in ("really.csv", "no_suffix", "day.2024.data", "feather.arrow", "packed.csv.gz")}
    assert list(formats.values()) == ["parquet", "delimited", "delimited", "arrow", "delimited"]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.csv", b"", "x.csv is empty (0 bytes)."),
        ("x.parquet", b"col1,col2", "x.parquet is not a Parquet file: its first bytes are b'col1', expected b'PAR1'. Was it copied whole?"),
        (
            "x.xlsx",
            b"PK\x03\x04",
            "x.xlsx is a zip archive or an Excel workbook; expected CSV, Parquet or Arrow. Save it as CSV, or unpack it.",
        ),
        ("x.csv", b"\x89PNG\r\n", "x.csv is an image; expected CSV, Parquet or Arrow. Name the table itself."),
        *(
            (
                name,
                b"version https://git-lfs.github.com/spec/v1\n",
                f"{name} is a Git LFS pointer; expected CSV, Parquet or Arrow. Fetch the file itself with git lfs pull.",
            )
            for name in ("x.csv", "x.parquet")
        ),
        ("x.csv", b"\x1f\x8b\x08", "x.csv is compressed with gzip, and its name does not end in .gz. Name it x.csv.gz."),
        ("x.csv.gz", b"a,b\n1,2\n", "x.csv.gz is not compressed with gzip as its name says. Name it x.csv, or copy it again."),
        ("x.json", b"[1]", "x.json has the suffix of a format that is not supported. Write it as CSV or Parquet."),
    ],
)
def test_unsupported_files_are_refused(folder: Path, name: str, content: bytes, text: str) -> None:
    (folder / name).write_bytes(content)
    assert refused(name) == text


def test_missing_paths_are_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    assert refused() == "no data file was given; name a CSV or Parquet file, a folder or a glob."
    assert refused("zzz.csv") == "zzz.csv does not exist."
    assert refused("A.parquet") == "A.parquet does not exist; there is 'a.csv' in its folder."
    assert refused("no/a.csv") == "no/a.csv does not exist; nor does its folder no."
    assert refused("~nobody-of-this-name/a.csv") == "~nobody-of-this-name/a.csv does not exist; nor does its folder ~nobody-of-this-name."
    assert refused("*.parquet") == "*.parquet matches no data file."
    assert refused("no/*.csv") == "no/*.csv matches no data file."
    assert refused("empty") == (
        "empty holds no data file; expected .csv, .tsv, .txt, .parquet, .pq, .arrow, .arrows, .feather, .ipc in it or below."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(folder: Path) -> None:
    (folder / "a.csv").chmod(0)
    assert refused("a.csv") == "a.csv may not be read: permission denied. Give this user the right to read it."


def test_a_scheme_that_arrow_does_not_know_goes_through_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/lake/a.csv", b"x\n1\n")
    (found,) = find_files(["memory://lake"])
    assert (found.path, found.listed.size) == ("memory://lake/a.csv", 4)
    assert isinstance(found.listed.filesystem, pafs.PyFileSystem)


def test_an_unknown_scheme_is_refused() -> None:
    assert refused("nonsense://a/b.csv").startswith("nonsense://a/b.csv cannot be reached: ")


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtra) as caught:
        find_files(["memory://lake"])
    assert str(caught.value) == "reaching memory://lake needs more file systems: pip install 'vae-anomaly[cloud]'."


def test_the_digest_changes_when_a_file_does(folder: Path) -> None:
    def digest() -> str:
        return files.metadata_digest(file.listed for file in find_files(["."]))

    first = digest()
    assert digest() == first
    os.utime(folder / "a.csv", ns=(1, 1))
    second = digest()
    (folder / "deep" / "e.csv").write_text("x\n1\n")
    assert len({first, second, digest()}) == 3
