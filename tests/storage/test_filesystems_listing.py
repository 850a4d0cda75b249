"""Files whose names are bytes and no text: named where they are meant, passed over where nobody wants them."""

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from vae_anomaly.errors import DataError, OutputError
from vae_anomaly.jobs import manifest
from vae_anomaly.storage import filesystems
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.tables.files import find_files

NO_TEXT = os.fsdecode(b"M\xfc")  # Latin-1, as a share of old Windows has it


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder we are in, with tables and a file whose name is no text below ``in``."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.csv", "in/deep/a.csv", f"in/{NO_TEXT}.bak", f"in/.{NO_TEXT}.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x\n1\n")
    return tmp_path


def refused(path: str) -> str:
    with pytest.raises(DataError) as caught:
        find_files([path])
    return str(caught.value)


@pytest.mark.parametrize("path", ["in", "in/**/*.csv"])
def test_a_stray_file_whose_name_is_no_text_is_in_nobodys_way(folder: Path, path: str) -> None:
    found = find_files([path])
    assert [f.path for f in found] == ["in/b.csv", "in/deep/a.csv"]
    whole = (folder / "in" / "b.csv").stat()
    assert (found[0].size, found[0].modified) == (whole.st_size, whole.st_mtime_ns)


@pytest.mark.parametrize("name", [f"in/deep/{NO_TEXT}.csv", f"in/{NO_TEXT}/x.csv"])
def test_a_data_file_whose_name_is_no_text_is_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x\n1\n")
    shown = name.replace(NO_TEXT, r"M\xfc")
    assert refused("in") == f"{folder}/{shown} has a name that is not UTF-8; rename it."
    assert [f.path for f in find_files(["in/b*.csv"])] == ["in/b.csv"]  # nobody asked for it


def test_links_are_followed_and_what_is_no_file_is_passed_over(folder: Path) -> None:
    os.mkfifo(folder / "in" / "pipe.csv")
    (folder / "in" / "gone.csv").symlink_to("nowhere")
    (folder / "in" / "link.csv").symlink_to("b.csv")
    (folder / "in" / "more").symlink_to("deep")
    with_stray = [f.key for f in find_files(["in"])]
    for stray in (folder / "in").glob(f"*{NO_TEXT}*"):
        stray.unlink()
    assert with_stray == ["b.csv", "deep/a.csv", "link.csv", "more/a.csv"] == [f.key for f in find_files(["in"])]


def test_a_link_to_itself_is_passed_over(folder: Path) -> None:
    (folder / "in" / "self").symlink_to("self")
    (folder / "in" / "self.csv").symlink_to("self.csv")
    assert [f.key for f in find_files(["in"])] == ["b.csv", "deep/a.csv"]


def test_folders_that_cannot_hold_what_is_meant_are_not_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one that may not be read is in nobody's way: .Trash, lost+found."""
    for name in ("in/.trash", "in/_temporary", "in/deep/more", "in/day=1/_part=2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "c.csv").write_text("x\n1\n")
    entered: list[str] = []
    scandir = os.scandir

    def entering(path: str) -> Any:
        entered.append(os.path.relpath(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", entering)
    for path, keys, folders in [
        (
            "in",
            ["b.csv", "day=1/_part=2/c.csv", "deep/a.csv", "deep/more/c.csv"],
            ["in", "in/day=1", "in/day=1/_part=2", "in/deep", "in/deep/more"],
        ),
        ("in/*.csv", ["b.csv"], ["in"]),
        ("in/d*p/*.csv", ["deep/a.csv"], ["in", "in/deep"]),
        ("in/d*p", ["deep/a.csv", "deep/more/c.csv"], ["in", "in/deep", "in/deep/more"]),
        ("in/**/c.csv", ["day=1/_part=2/c.csv", "deep/more/c.csv"], ["in", "in/day=1", "in/day=1/_part=2", "in/deep", "in/deep/more"]),
    ]:
        entered.clear()
        assert [f.key for f in find_files([path])] == keys
        assert sorted(entered) == folders


def test_a_folder_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def entering(path: str) -> Any:
        if path.endswith("deep"):
            raise PermissionError(errno.EACCES, "no")
        return scandir(path)

    monkeypatch.setattr("os.scandir", entering)
    assert refused("in") == f"{folder}/in/deep may not be read: permission denied. Give this user the right to read it."
    assert [f.key for f in find_files(["in/*.csv"])] == ["b.csv"]
    with pytest.raises(OutputError, match=r"/in/deep may not be read: permission denied\. Give this user the right to read it\.$"):
        manifest.sizes(Destination(path=folder / "in"))


def test_a_link_that_leads_back_is_not_followed_round_and_round(folder: Path) -> None:
    (folder / "in" / "self").symlink_to(".")
    (folder / "in" / "again").symlink_to(folder / "in")
    (folder / "in" / "deep" / "up").symlink_to("..")
    assert [f.key for f in find_files(["in"])] == ["b.csv", "deep/a.csv"]
    (folder / "other").mkdir()
    (folder / "other" / "there").symlink_to(folder / "in")
    assert [f.key for f in find_files(["other"])] == ["there/b.csv", "there/deep/a.csv"]


@pytest.mark.parametrize("path", [f"{NO_TEXT}.csv", f"{NO_TEXT}/x.csv", f"{NO_TEXT}*.csv", f"s3://bucket/{NO_TEXT}.csv"])
def test_an_input_whose_name_is_no_text_is_refused(folder: Path, path: str) -> None:
    (folder / f"{NO_TEXT}.csv").write_text("x\n1\n")
    assert refused(path) == f"{path.replace(NO_TEXT, 'M')}".replace("M", r"M\xfc", 1) + " has a name that is not UTF-8; rename it."


def test_so_is_a_folder_that_we_are_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / NO_TEXT).mkdir()
    monkeypatch.chdir(folder / NO_TEXT)
    assert refused("x.csv") == rf"{folder}/M\xfc/x.csv has a name that is not UTF-8; rename it."


def test_a_name_that_the_locale_does_not_hold_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    in_ascii = "ü.csv".encode().decode("ascii", "surrogateescape")
    assert filesystems.no_text(in_ascii) == "ü.csv has a name that is not ascii, as the locale says that names are; set LC_ALL=C.UTF-8."


def test_an_output_folder_may_hold_such_a_file(folder: Path) -> None:
    assert manifest.sizes(Destination(path=folder / "in")) == {"b.csv": 4, "deep/a.csv": 4}


def test_an_output_folder_whose_own_name_is_no_text_is_refused(folder: Path) -> None:
    with pytest.raises(OutputError) as caught:
        manifest.sizes(Destination(path=folder / NO_TEXT))
    assert str(caught.value) == rf"{folder}/M\xfc has a name that is not UTF-8; rename it."


def test_another_file_system_speaks_for_itself() -> None:
    class Odd:
        type_name, type = "odd", pafs.FileType.File

        def get_file_info(self, _: pafs.FileSelector) -> "list[Odd]":
            return [self]

        @property
        def path(self) -> str:
            return b"\xff".decode()

    with pytest.raises(UnicodeDecodeError):
        filesystems.files_below(Odd(), "/", bool)
