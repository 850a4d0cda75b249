"""A path in or around a lakehouse table never stands for its files."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from vae_anomaly.errors import DataError
from vae_anomaly.storage.lakehouse import enclosing_table, in_log, is_metadata_file, lake_format, log_folder
from vae_anomaly.storage.listing import list_files

LOCAL = pafs.LocalFileSystem()


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lake with tables of each kind, a plain folder and files beside them."""
    put(tmp_path, "d/_delta_log/00000000000000000000.json", "d/part-0.parquet", "d/line=A/part-1.parquet", "d/notes.csv")
    put(tmp_path, "i/metadata/00001-x.metadata.json", "i/data/day=2024-01-01/0.parquet")
    put(tmp_path, "v/metadata/version-hint.text", "v/data/0.parquet")
    put(tmp_path, "plain/metadata/about.md", "plain/a.parquet", "plain/b.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [("d", "delta"), ("i", "iceberg"), ("v", "iceberg"), ("h", "hudi"), ("plain", None), ("two", "delta"), ("empty", "delta")],
)
def test_a_table_is_known_by_the_folder_of_its_log(lake: Path, name: str, expected: str | None) -> None:
    put(lake, "h/.hoodie/hoodie.properties", "two/metadata/v1.metadata.json", "two/_delta_log/0.json", "two/.hoodie/x")
    (lake / "empty" / "_delta_log").mkdir(parents=True)
    assert lake_format(LOCAL, str(lake / name)) == expected


def found(*paths: str) -> list[tuple[str, str | None]]:
    return [(listed.path, listed.lake) for listed in list_files(paths)]


@pytest.mark.parametrize("path", ["d", "d/", "./d", "{}/d", "file://{}/d"])
def test_a_table_stands_for_itself(lake: Path, path: str) -> None:
    path = path.format(lake)
    assert found(path) == [(path, "delta")]


def test_tables_below_a_folder_or_a_glob_stand_for_themselves(lake: Path) -> None:
    everything = [("./d", "delta"), ("./i", "iceberg"), ("./plain/a.parquet", None), ("./plain/b.csv", None), ("./v", "iceberg")]
    assert found(".") == everything
    assert found("*") == [(path[2:], kind) for path, kind in everything]
    assert found("plain", "[dv]") == [("plain/a.parquet", None), ("plain/b.csv", None), ("d", "delta"), ("v", "iceberg")]
    assert [listed.root for listed in list_files(["d", "."])][:2] == [str(lake), str(lake)]


def test_a_hidden_table_is_left_out(lake: Path) -> None:
    put(lake, "_old/t/_delta_log/0.json", "_old/t/a.parquet", ".trash/h/.hoodie/x")
    assert [path for path, _ in found(".")] == ["./d", "./i", "./plain/a.parquet", "./plain/b.csv", "./v"]


@pytest.mark.parametrize(
    ("path", "table", "kind"),
    [
        ("d/part-0.parquet", "d", "Delta"),
        ("d/line=A", "d", "Delta"),
        ("d/line=A/part-1.parquet", "d", "Delta"),
        ("d/*.parquet", "d", "Delta"),
        ("d/line=*/*", "d", "Delta"),
        ("**/part-*", "d", "Delta"),
        ("[d]/*.parquet", "d", "Delta"),
        ("d/_delta_log", "d", "Delta"),
        ("i/data", "i", "Iceberg"),
        ("i/data/day=2024-01-01/0.parquet", "i", "Iceberg"),
        ("v/data/*", "v", "Iceberg"),
    ],
)
def test_what_is_in_a_table_does_not_stand_for_its_rows(lake: Path, path: str, table: str, kind: str) -> None:
    for given in (path, f"{lake}/{path}", f"file://{lake}/{path}"):
        with pytest.raises(DataError, match=f"is in an? {kind} table, .* deleted or replaced since. Name the table: {table} ") as error:
            list_files(["plain", given])
        assert str(error.value).startswith(given)


def test_a_text_file_beside_the_files_of_a_table_is_a_file(lake: Path) -> None:
    assert found("d/notes.csv") == [("d/notes.csv", None)]
    assert (lake / "d" / "notes.csv").exists()


@pytest.mark.parametrize("path", ["h", "h/", ".", "h*", "h/p=1/a.parquet", "h/p=1"])
def test_hudi_is_refused(lake: Path, path: str) -> None:
    put(lake, "h/.hoodie/hoodie.properties", "h/.hoodie/metadata/.hoodie/x", "h/p=1/a.parquet")
    with pytest.raises(DataError, match=r"is (in )?a Hudi table"):
        list_files([path])


def test_a_metadata_file_that_a_catalog_names_is_a_table(lake: Path) -> None:
    assert found("i/metadata/00001-x.metadata.json") == [("i/metadata/00001-x.metadata.json", "iceberg")]
    assert not is_metadata_file(str(lake / "i" / "metadata" / "about.json"))


def test_files_and_folders_of_logs_are_known_by_name() -> None:
    assert in_log("/a/t/_delta_log/0.json") == ("/a/t", "delta")
    assert in_log("/a/t/metadata/notes.txt") is None
    assert in_log("/a/t/x.parquet") is None
    assert [log_folder(name) for name in ("t/_delta_log", "t/.hoodie", "t/_other")] == [True, True, False]


class Denied(pafs.FileSystemHandler):  # type: ignore[misc] # pyarrow has no types
    """A store that lets nobody look above a folder."""

    def get_type_name(self) -> str:
        return "denied"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        raise PermissionError(paths[0])

    def _no(self, *_: object) -> None:
        raise NotImplementedError

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _no
    move = copy_file = open_input_stream = open_input_file = open_output_stream = open_append_stream = _no


@pytest.mark.parametrize("make", [lambda: pafs.PyFileSystem(Denied())])
def test_folders_above_that_may_not_be_seen_are_no_tables(make: Callable[[], pafs.FileSystem]) -> None:
    assert enclosing_table(make(), "bucket/data/a.parquet") is None
