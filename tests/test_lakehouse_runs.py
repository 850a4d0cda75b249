"""A lakehouse table through the commands: its version in manifest, card and data lineage, and the same rows from an object store."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from typer.testing import CliRunner

pytest.importorskip("deltalake", reason="needs the extra: pip install 'vae-anomaly[delta]'")

from deltalake import DeltaTable, write_deltalake

from tests.tiny import Case, detector, table
from vae_anomaly import artifact
from vae_anomaly.cli.app import app
from vae_anomaly.config import load_config
from vae_anomaly.errors import OutputError
from vae_anomaly.tables import delta
from vae_anomaly.tables.source import open_source
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.models import model_info, open_versions
from vae_anomaly.workflow.requests import FitRequest, ScoreRequest
from vae_anomaly.workflow.score import score_files

moto = pytest.importorskip("moto.server", reason="needs the S3 server of moto: pip install 'vae-anomaly[test]'")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A table of two versions and a model."""
    rows = table("mixed", 400, seed=5)
    write_deltalake(tmp_path / "t", rows.slice(0, 300))
    write_deltalake(tmp_path / "t", rows.slice(300), mode="append")
    artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="exemplar")), tmp_path / "m")
    return tmp_path


def asked(lake: Path, at: str | None = None, output: str = "o.csv") -> ScoreRequest:
    return ScoreRequest(data=(str(lake / "t"),), model=str(lake / "m"), output=f"{lake}/{output}", at=at, threads=1)


def test_the_same_version_is_nothing_to_do_and_another_one_is_other_rows(lake: Path) -> None:
    assert score_files(asked(lake)).counts.rows == 400
    assert score_files(asked(lake)).unchanged
    assert score_files(asked(lake, at="1")).unchanged  # the current one by its number
    assert json.loads((lake / "o.csv.manifest.json").read_text())["made_from"]["inputs"][str(lake / "t")][2] == "1"
    with pytest.raises(OutputError, match="other inputs"):
        score_files(asked(lake, at="0"))
    DeltaTable(lake / "t").delete(f"{table('mixed', 1, seed=5).column_names[0]} is null")
    write_deltalake(lake / "t", table("mixed", 10, seed=6), mode="append")
    with pytest.raises(OutputError, match="other inputs"):
        score_files(asked(lake))


def test_a_table_is_one_part_of_a_folder(lake: Path) -> None:
    done = score_files(asked(lake, output="parts/"))
    assert (done.parts_made, done.counts.rows) == (1, 400)
    parts = json.loads((lake / "parts" / "manifest.json").read_text())["parts"]
    assert [(part["part"], part["version"]) for part in parts] == [("t.parquet", "1")]
    assert score_files(asked(lake, output="parts/")).unchanged
    write_deltalake(lake / "t", table("mixed", 10, seed=6), mode="append")
    with pytest.raises(OutputError, match="has changed since its scores were written"):
        score_files(asked(lake, output="parts/"))


def test_the_version_of_a_fit_is_in_its_card(lake: Path) -> None:
    options = {"tracking.enabled": False, "train.steps": 5, "data.at": "0", "calibration.alpha": 0.1}
    fitted = fit_files(FitRequest(data=(str(lake / "t"),), config=load_config(None, options), output=lake / "fitted"))
    assert fitted.rows_read == 300
    assert any("version 0 of the Delta table of 20" in note for note in fitted.notes)
    assert model_info(str(lake / "fitted")).source == (f"{lake / 't'} (version 0)",)
    card = artifact.load(lake / "fitted").card
    again = open_versions(card.source, card.source_versions, load_config(None).data)
    assert again.digest() == card.data_digest


def test_the_command_names_the_table_and_the_option(lake: Path) -> None:
    (lake / "a.csv").write_text("a\n1\n")
    for path, options, text in (("t/part.parquet", [], "does not exist"), ("a.csv", ["--at", "1"], "has no versions. Leave out --at")):
        done = CliRunner().invoke(app, ["score", str(lake / path), "-m", str(lake / "m"), "-o", str(lake / "x.csv"), *options])
        assert done.exit_code in {2, 3}
        assert text in f"{done.output}{done.exception}"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pafs.S3FileSystem]:
    """An object store with an empty bucket, reached by the environment."""
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    url, keys = f"http://{host}:{port}", {"access_key": "someone", "secret_key": "hush"}
    named = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**named, "AWS_EC2_METADATA_DISABLED": "true", "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    filesystem = pafs.S3FileSystem(endpoint_override=url, region="us-east-1", allow_bucket_creation=True, **keys)
    filesystem.create_dir("lake")
    yield filesystem
    running.stop()


def test_a_table_in_an_object_store_has_the_same_rows(lake: Path, store: pafs.S3FileSystem) -> None:
    pafs.copy_files(str(lake / "t"), "lake/deep/t", destination_filesystem=store)
    here = open_source([str(lake / "t")]).read_table()
    for path in ("s3://lake/deep/t", "s3://lake/deep", "s3://lake/*/t"):
        source = open_source([path])
        assert source.versions == ("1",)
        assert source.read_table().equals(here)
    assert our_rows_count("s3://lake/deep/t", "0") == 300


def test_scores_become_versions_of_a_table_in_an_object_store(
    lake: Path, store: pafs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_of, current = replace(asked(lake), output="s3://lake/out/scores", format="delta"), delta.current_delta

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(delta, "current_delta", lambda _: dies() if delta_is_at(store) else None)
    with pytest.raises(KeyboardInterrupt):
        score_files(asked_of)
    monkeypatch.setattr(delta, "current_delta", current)
    monkeypatch.setenv("XDG_CACHE_HOME", str(lake / "cache of another machine"))
    done = score_files(asked_of)
    assert (done.table_version, done.output, done.resumed_rows) == (0, "s3://lake/out/scores", 400)
    assert score_files(asked_of).unchanged
    with pytest.raises(OutputError, match="scores is a Delta table with the scores of another request"):
        score_files(replace(asked_of, at="0"))
    assert score_files(replace(asked_of, at="0", overwrite=True)).table_version == 1
    assert our_rows_count("s3://lake/out/scores", "0") == 400
    assert our_rows_count("s3://lake/out/scores", "1") == 300
    with pytest.raises(OutputError, match="s3://lake/out/scores is the folder of a Delta table, and files written there"):
        score_files(replace(asked_of, format=None, overwrite=True))
    names = {info.base_name for info in store.get_file_info(pafs.FileSelector("lake/out"))}
    assert names == {"scores", "scores.manifest.json"}
    assert not list((lake / "cache of another machine").rglob("*.parquet"))


def delta_is_at(store: pafs.S3FileSystem) -> bool:
    return bool(store.get_file_info("lake/out/scores/_delta_log").type == pafs.FileType.Directory)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_an_iceberg_table_in_an_object_store_has_the_rows_of_the_engine(tmp_path: Path, store: pafs.S3FileSystem) -> None:
    sql = pytest.importorskip("pyiceberg.catalog.sql", reason="needs the extra: pip install 'vae-anomaly[iceberg]'")
    there = {"s3.endpoint": os.environ["AWS_ENDPOINT_URL"], "s3.access-key-id": "someone", "s3.secret-access-key": "hush"}
    catalog = sql.SqlCatalog("c", uri=f"sqlite:///{tmp_path}/c.db", warehouse="s3://lake/wh", **there, **{"s3.region": "us-east-1"})
    catalog.create_namespace("n")
    rows = table("mixed", 60, seed=5)
    made = catalog.create_table("n.t", schema=rows.schema)
    made.append(rows.slice(0, 40))
    made.append(rows.slice(40))
    made.delete("flow > 32")
    path = made.location()
    assert path.startswith("s3://lake/wh/")
    assert store.get_file_info(f"{path.removeprefix('s3://')}/metadata").type == pafs.FileType.Directory
    for at in (None, *(str(entry.snapshot_id) for entry in made.history())):
        found = open_source([path], load_config(None, {"data.at": at} if at else {}).data).read_table()
        expected = made.scan(snapshot_id=int(at) if at else None).to_arrow()
        assert sorted(map(str, found.to_pylist())) == sorted(map(str, expected.to_pylist()))
    assert (open_source([path]).rows or 60) < 60


def our_rows_count(path: str, at: str) -> int:
    return int(open_source([path], load_config(None, {"data.at": at}).data).read_table().num_rows)
