"""From and to an object store: the same bytes as from and to files, whole or absent, and no secret in any text.

The store is a real S3 server on this machine.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow.csv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.tiny import Case, detector, table
from vae_anomaly import artifact
from vae_anomaly.cli.app import app
from vae_anomaly.errors import OutputError
from vae_anomaly.storage import destinations
from vae_anomaly.storage.destinations import Remote
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.score_job import ScoreRequest

moto = pytest.importorskip("moto.server", reason="needs the S3 server of moto: pip install 'vae-anomaly[test]'")

ROWS = 1500


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A store with nothing in it but the bucket ``lake``; its address."""
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(autouse=True)
def store(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pafs.S3FileSystem:
    """Use the store by the environment, as its users do; every test has a bucket that is empty."""
    named = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**named, "AWS_EC2_METADATA_DISABLED": "true", "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    keys = {"access_key": "someone", "secret_key": "hush"}
    filesystem = pafs.S3FileSystem(endpoint_override=server, region="us-east-1", allow_bucket_creation=True, **keys)
    filesystem.create_dir("lake")
    filesystem.delete_dir_contents("lake")
    return filesystem


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a folder with a CSV and a Parquet file."""
    folder = tmp_path_factory.mktemp("ground")
    artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="exemplar")), folder / "model")
    whole = table("mixed", ROWS, seed=5)
    (folder / "new" / "day=2").mkdir(parents=True)
    pq.write_table(whole.slice(0, 700), folder / "new" / "a.parquet")
    pyarrow.csv.write_csv(whole.slice(700), folder / "new" / "day=2" / "b.csv")
    return folder


def upload(store: pafs.S3FileSystem, folder: Path) -> None:
    pafs.copy_files(str(folder), "lake/new", destination_filesystem=store)


def names(store: pafs.S3FileSystem, under: str = "lake") -> list[str]:
    infos = store.get_file_info(pafs.FileSelector(under, recursive=True))
    return sorted(info.path for info in infos if info.type == pafs.FileType.File)


def content(store: pafs.S3FileSystem, path: str) -> bytes:
    with store.open_input_stream(path) as stream:
        return bytes(stream.read())


def left_behind(folder: Path) -> list[Path]:
    return list((folder / "cache" / "vae-anomaly" / "outgoing").rglob("*"))


@pytest.fixture
def request_(ground: Path) -> ScoreRequest:
    return ScoreRequest(data=(str(ground / "new" / "a.parquet"),), model=str(ground / "model"), threads=1)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("data", ["new/a.parquet", "new/day=2/b.csv", "new"])
def test_a_file_has_the_same_bytes(
    request_: ScoreRequest, ground: Path, store: pafs.S3FileSystem, tmp_path: Path, data: str, ending: str
) -> None:
    upload(store, ground / "new")
    here = tmp_path / f"out.{ending}"
    score_files(replace(request_, data=(str(ground / data),), output=here))
    asked = replace(request_, data=(f"s3://lake/{data}",), output=f"s3://lake/scores/out.{ending}")
    done = score_files(asked)
    assert (done.output, done.unchanged, done.counts.rows > 0) == (f"s3://lake/scores/out.{ending}", False, True)
    assert content(store, f"lake/scores/out.{ending}") == here.read_bytes()
    assert names(store, "lake/scores") == [f"lake/scores/out.{ending}", f"lake/scores/out.{ending}.manifest.json"]
    assert json.loads(content(store, f"lake/scores/out.{ending}.manifest.json"))["state"] == "complete"
    assert score_files(asked).unchanged
    assert left_behind(tmp_path) == []


def test_a_folder_has_the_same_bytes(request_: ScoreRequest, ground: Path, store: pafs.S3FileSystem, tmp_path: Path) -> None:
    upload(store, ground / "new")
    here = score_files(replace(request_, data=(str(ground / "new"),), output=f"{tmp_path / 'out'}/"))
    asked = replace(request_, data=("s3://lake/new/",), output="s3://lake/out/")
    done = score_files(asked)
    assert (done.output, done.parts_made) == ("s3://lake/out", 2)
    assert replace(done.counts, top_alarms=()) == replace(here.counts, top_alarms=())
    assert names(store, "lake/out") == ["lake/out/a.parquet", "lake/out/day=2/b.csv", "lake/out/manifest.json"]
    for part in ("a.parquet", "day=2/b.csv"):
        assert content(store, f"lake/out/{part}") == (tmp_path / "out" / part).read_bytes()
    assert score_files(asked).unchanged
    assert left_behind(tmp_path) == []
    with store.open_output_stream("lake/new/c.csv") as stream:
        stream.write((ground / "new" / "day=2" / "b.csv").read_bytes())
    again = score_files(asked)
    assert (again.parts_made, again.parts_before, again.unchanged) == (1, 2, False)
    assert content(store, "lake/out/c.csv") == content(store, "lake/out/day=2/b.csv")


def test_what_is_there_is_not_replaced_unasked(request_: ScoreRequest, store: pafs.S3FileSystem) -> None:
    asked = replace(request_, output="s3://lake/out.csv")
    with store.open_output_stream("lake/out.csv") as stream:
        stream.write(b"mine")
    with pytest.raises(OutputError) as error:
        score_files(asked)
    assert str(error.value) == (
        "s3://lake/out.csv exists and no manifest says what it is. Name another with -o, or give --overwrite to replace it."
    )
    score_files(replace(asked, overwrite=True))
    with pytest.raises(OutputError) as error:
        score_files(replace(asked, top=1))
    assert str(error.value) == (
        "s3://lake/out.csv exists and holds the scores of another request (other options). "
        "Name another with -o, or give --overwrite to replace it."
    )


@pytest.mark.parametrize("destination", ["s3://lake/out.parquet", "s3://lake/out/"])
def test_what_could_not_be_sent_is_sent_by_the_next_run(
    request_: ScoreRequest, store: pafs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str
) -> None:
    asked = replace(request_, output=destination)
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "send", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score_files(asked)
    assert all(name.endswith(".manifest.json") for name in names(store))  # it says that a job has started
    with monkeypatch.context() as patch:
        patch.setattr("vae_anomaly.workflow.score.score_batches", lambda *_, **__: pytest.fail("scored again"))
        done = score_files(asked)
    assert done.resumed_rows == 700
    assert (
        pq.read_table(destination.replace("s3://", "") + ("a.parquet" if destination[-1] == "/" else ""), filesystem=store).num_rows == 700
    )
    assert left_behind(tmp_path) == []
    assert score_files(asked).unchanged


def test_rows_that_were_set_aside_are_sent_too_also_by_the_next_run(
    request_: ScoreRequest, ground: Path, store: pafs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (ground / "new" / "day=2" / "b.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "bad.csv").write_text("\n".join([*lines[:9], "1,2", *lines[9:], ""]), encoding="utf-8")
    asked = replace(request_, data=(str(tmp_path / "bad.csv"),), output="s3://lake/out.csv", on_error="quarantine")
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "send", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score_files(asked)
    rejected = score_files(asked).counts.rejected
    assert rejected is not None
    assert (rejected.rows, rejected.quarantine) == (1, "s3://lake/out.csv.quarantine.csv")
    assert content(store, "lake/out.csv.quarantine.csv").decode().splitlines()[1].startswith("8,")
    assert left_behind(tmp_path) == []


def test_two_signed_addresses_are_two_inputs_and_their_signatures_are_not_kept(
    request_: ScoreRequest, ground: Path, tmp_path: Path
) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(ground / "new" / "day=2"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        Thread(target=web.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{web.server_port}/b.csv"
        asked = replace(request_, data=(f"{place}?part=1&sig=hush1", f"{place}?part=2&sig=hush2"), output=tmp_path / "out.csv")
        assert score_files(asked).counts.rows == 2 * (ROWS - 700)
        assert score_files(replace(asked, data=tuple(data.replace("hush", "other") for data in asked.data))).unchanged
        web.shutdown()
    said = (tmp_path / "out.csv.manifest.json").read_text(encoding="utf-8")
    assert [f"{place}?part={i}&sig=***" in said for i in (1, 2)] == [True, True]
    assert "hush" not in said


def test_half_an_upload_does_not_stay(store: pafs.S3FileSystem) -> None:
    remote = Remote(filesystem=store, location="lake/x", shown="s3://lake/x")

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote._replace(pieces(), 8)  # no other way to be interrupted at this very place
    assert names(store) == []


def test_any_file_system_of_fsspec(request_: ScoreRequest, tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    score_files(replace(request_, output=tmp_path / "out.csv"))
    score_files(replace(request_, output="memory://far/away/out.csv"))
    assert memory.cat("/far/away/out.csv") == (tmp_path / "out.csv").read_bytes()


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stderr


def test_no_such_bucket_or_key(ground: Path) -> None:
    model = str(ground / "model")
    data = str(ground / "new" / "a.parquet")
    assert command("score", "s3://lake/no.csv", "-m", model, "-o", "o.csv") == (3, "error: s3://lake/no.csv does not exist.\n")
    assert command("score", "s3://nowhere/no.csv", "-m", model, "-o", "o.csv") == (3, "error: s3://nowhere/no.csv does not exist.\n")
    assert command("score", data, "-m", model, "-o", "s3://nowhere/o.csv", "-q") == (
        7,
        "error: s3://nowhere/o.csv.manifest.json cannot be written: the bucket does not exist. Correct that or write elsewhere with -o.\n",
    )


def test_a_server_that_does_not_answer_costs_seconds(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    model, start = str(ground / "model"), time.monotonic()
    assert command("score", "s3://lake/a.csv", "-m", model, "-o", "o.csv") == (
        3, "error: s3://lake/a.csv cannot be read: the server does not answer\n",
    )  # fmt: skip
    assert command("score", str(ground / "new"), "-m", model, "-o", "s3://lake/out/", "-q") == (
        7, "error: s3://lake/out/manifest.json cannot be written: the server does not answer. Correct that or write elsewhere with -o.\n",
    )  # fmt: skip
    assert time.monotonic() - start < 60


def test_secrets_of_a_uri_are_in_no_text(
    ground: Path, server: str, store: pafs.S3FileSystem, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    upload(store, ground / "new")
    place = f"s3://AKID:verysecret@lake/{{}}?endpoint_override={server.removeprefix('http://')}&scheme=http"
    texts = []
    for data, output in [("new/a.parquet", "s/out.csv"), ("new", "s/out/"), ("no", "s/out.csv"), ("new/a.parquet", "x.txt")]:
        done = CliRunner().invoke(
            app, ["score", place.format(data), "-m", str(ground / "model"), "-o", place.format(output), "-vv", "--json"]
        )
        texts += [done.stdout, done.stderr]
    broken = CliRunner().invoke(app, ["score", place.format("a") + "&nonsense=1", "-m", str(ground / "model"), "-o", "o.csv", "-vv"])
    written = [content(store, name).decode("utf-8", "replace") for name in names(store, "lake/s")]
    assert len(written) == 5
    assert '"unchanged": false' in texts[0]
    assert broken.exit_code == 3
    everything = "\n".join([*texts, broken.stderr, *written, caplog.text])
    assert "verysecret" not in everything
    assert "AKID" not in everything


def test_where_outputs_are_made_that_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert destinations.staging() == tmp_path / "cache" / "vae-anomaly" / "outgoing"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert destinations.staging() == tmp_path / ".cache" / "vae-anomaly" / "outgoing"
    assert os.sep in str(destinations.staging())
