from pathlib import Path

import pyarrow.fs as pafs
import pytest

from vae_anomaly.errors import OutputError
from vae_anomaly.jobs import manifest
from vae_anomaly.storage import atomic
from vae_anomaly.storage.destinations import Destination, Remote, destination_of, is_folder, local_path, names_in, refuse_table, table_at


@pytest.fixture
def far(tmp_path: Path) -> Remote:
    """A file "elsewhere", which is another folder."""
    (tmp_path / "far").mkdir()
    filesystem = pafs.SubTreeFileSystem(str(tmp_path / "far"), pafs.LocalFileSystem())
    return Remote(filesystem=filesystem, location="b/x.csv", shown="s3://b/x.csv")


def test_a_file_elsewhere(far: Remote, tmp_path: Path) -> None:
    assert (far.size(), far.read(10)) == (None, None)
    far.write(b"four")
    assert (far.size(), far.read(10), far.read(3)) == (4, b"four", None)
    (tmp_path / "here").write_bytes(b"x" * 20_000_000)  # three pieces
    far.send(tmp_path / "here")
    assert far.size() == 20_000_000
    assert (far.below("y").location, far.beside("y").shown) == ("b/x.csv/y", "s3://b/y")
    far.remove()
    far.remove()
    assert far.size() is None


def test_what_was_made_is_delivered_and_its_manifest_last(far: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Destination(path=tmp_path / "x.csv", remote=far)
    assert manifest.manifest_of(place) is None
    with manifest.started(place.path, {"inputs": {}}):
        place.path.write_text("four", encoding="utf-8")
        manifest.complete(place.path, {"inputs": {}}, {"rows": 1})
    states = []

    def send(self: Remote, path: Path) -> None:
        found = manifest.manifest_of(place)
        states.append(found and found.complete)
        self.write(path.read_bytes())

    monkeypatch.setattr(Remote, "send", send)
    manifest.deliver(place)
    found = manifest.manifest_of(place)
    assert states == [False]
    assert found is not None
    assert (found.complete, found.bytes, place.size(), str(place)) == (True, 4, 4, "s3://b/x.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["far"]


def test_what_does_not_arrive_whole_is_an_error(far: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remote, "size", lambda _: 3)
    with pytest.raises(OutputError) as error:
        far.write(b"four")
    assert str(error.value) == "s3://b/x.csv was not uploaded completely. Run the job again."


def test_a_place_on_this_machine_is_where_it_is(tmp_path: Path) -> None:
    place = destination_of(tmp_path / "x.csv")
    assert (place.remote, place.path, str(place), place.size()) == (None, tmp_path / "x.csv", f"{tmp_path}/x.csv", None)
    place.path.write_text("four", encoding="utf-8")
    manifest.deliver(place)
    assert place.size() == 4
    assert place.is_at(pafs.LocalFileSystem(), str(tmp_path / "x.csv"))
    assert destination_of(tmp_path).holds(pafs.LocalFileSystem(), str(tmp_path / "x.csv"))
    assert not destination_of(tmp_path / "x").holds(pafs.LocalFileSystem(), str(tmp_path / "x.csv"))


def test_each_uri_has_its_own_folder_and_its_secrets_make_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    uris = ["s3://lake/a/x.csv", "s3://k:s@lake/a/x.csv?region=x", "s3://lake/b/x.csv"]
    first, again, other = (destination_of(f"{uri}{'&' if '?' in uri else '?'}endpoint_override=127.0.0.1:9").path for uri in uris)
    assert first == again != other
    assert first.name == "x.csv"
    assert first.is_relative_to(tmp_path / "vae-anomaly" / "outgoing")


def test_a_file_uri_is_a_place_on_this_machine(tmp_path: Path) -> None:
    place = destination_of(f"file://{tmp_path}/no/a%20b.csv")
    assert (place.remote, place.path) == (None, tmp_path / "no" / "a b.csv")
    with pytest.raises(OutputError) as error:
        atomic.write_text(place.path, "x")
    assert str(error.value) == f"{place} cannot be written: its folder does not exist. Make the folder or write elsewhere with -o."
    assert [local_path(uri) for uri in ("FILE://localhost/x", "file://host/x", "s3://x/y")] == [Path("/x"), None, None]
    (tmp_path / "there.csv").mkdir()
    assert is_folder(f"file://{tmp_path}/there.csv")


@pytest.mark.parametrize("uri", ["https://127.0.0.1:9/x.csv", "HTTP://user:secret@127.0.0.1:9/x.csv"])
def test_the_web_is_refused_before_anything_is_made(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(OutputError) as error:
        destination_of(uri)
    shown = uri.replace("user:secret@", "")
    assert str(error.value) == f"{shown} cannot be written to: web pages are read-only. Write elsewhere with -o."
    assert list(tmp_path.iterdir()) == []


def test_so_is_what_fsspec_can_only_read() -> None:
    class Readable:
        type_name = "s3"

        def open_output_stream(self, _: str) -> None:
            raise NotImplementedError

    with pytest.raises(OutputError) as error:
        Remote(filesystem=Readable(), location="b/x.csv", shown="s3://b/x.csv").write(b"four")
    assert str(error.value) == "s3://b/x.csv cannot be written to: this file system is read-only. Write elsewhere with -o."


def test_a_name_that_no_file_system_takes_is_refused_as_an_output() -> None:
    name = "a" * 300
    assert not is_folder(f"{name}.csv")
    with pytest.raises(OutputError) as error:
        destination_of(f"{name}.csv").size()
    assert str(error.value) == f"{name}.csv cannot be written: its name is too long. Give it a shorter one with -o."


def test_a_table_above_a_destination_is_found(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()  # not a log: it holds no metadata of a table
    assert table_at(Destination(path=tmp_path / "x.csv")) is None
    (tmp_path / "t" / "_delta_log").mkdir(parents=True)
    (tmp_path / "h" / ".hoodie").mkdir(parents=True)
    found = {name: table_at(Destination(path=tmp_path / name)) for name in ("t", "t/x.csv", "t/a/b", "h/x", "u/x", "t" * 300, "a\0b")}
    table, hudi = (str(tmp_path / "t"), "delta"), (str(tmp_path / "h"), "hudi")
    assert list(found.values()) == [table, table, table, hudi, None, None, None]
    refuse_table(Destination(path=tmp_path / "u" / "x.csv"))
    with pytest.raises(OutputError) as error:
        refuse_table(Destination(path=tmp_path / "h" / "x.csv"))
    where = f"{tmp_path}/h/x.csv is in the Hudi table {tmp_path}/h, and files written there would be no part of it."
    assert str(error.value) == f"{where} Name another output with -o."


def test_the_names_in_a_folder(tmp_path: Path) -> None:
    assert names_in(pafs.LocalFileSystem(), str(tmp_path / "absent"), "absent") == set()
    (tmp_path / "file").touch()
    assert names_in(pafs.LocalFileSystem(), str(tmp_path), "it") == {"file"}
    assert names_in(pafs.LocalFileSystem(), str(tmp_path / "file"), "it") is None
