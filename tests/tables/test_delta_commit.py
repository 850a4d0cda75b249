"""A new version of a Delta table: which one a transaction made, and what has changed since."""

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

pytest.importorskip("deltalake", reason="needs the extra: pip install 'vae-anomaly[delta]'")

from deltalake import DeltaTable, write_deltalake

from tests.tables.lake_tables import engine_rows, our_rows, rows
from tests.tables.test_delta import deleted_by_vector
from vae_anomaly.errors import OutputError
from vae_anomaly.storage.destinations import Destination, Remote
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables import delta
from vae_anomaly.tables.delta import DeltaFile, changed_after, commit_delta, committed_version, current_delta, delta_target, refuse_features


def committed(path: Path, table: pa.Table, transaction: str) -> Listed:
    """Commit a table as the next version."""
    target = delta_target(Destination(path=path))
    path.mkdir(exist_ok=True)
    name = f"{transaction}.parquet"
    pq.write_table(table, path / name)
    size = (path / name).stat().st_size
    file = DeltaFile(name=name, size=size, rows=table.num_rows, schema=table.schema, transaction=transaction)
    commit_delta(target, current_delta(target), file, {"model": "m"})
    return target


def test_the_log_names_the_version_of_a_transaction(tmp_path: Path) -> None:
    target = committed(tmp_path / "t", rows(5), "a")
    committed(tmp_path / "t", rows(7), "b")
    write_deltalake(tmp_path / "t", rows(2, 7), mode="append")
    table = DeltaTable(tmp_path / "t")
    assert [committed_version(target, table, name) for name in ("a", "b", "c")] == [0, 1, None]
    assert [our_rows(tmp_path / "t", at).num_rows for at in ("0", "1", "2")] == [5, 7, 9]
    assert engine_rows(tmp_path / "t").equals(our_rows(tmp_path / "t"))


def test_a_commit_that_the_log_no_longer_has_cannot_be_told(tmp_path: Path) -> None:
    target = committed(tmp_path / "t", rows(5), "a")
    write_deltalake(tmp_path / "t", rows(2, 7), mode="append")
    DeltaTable(tmp_path / "t").create_checkpoint()
    (tmp_path / "t" / "_delta_log" / f"{0:020d}.json").unlink()
    table = DeltaTable(tmp_path / "t")
    with pytest.raises(OutputError, match=r"t was changed after it was written\. Name another with -o, or give --overwrite"):
        committed_version(target, table, "a")
    assert changed_after(target, table, -1)
    assert changed_after(target, table, 5)


def test_compaction_and_clean_up_change_no_rows(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", rows(5))
    write_deltalake(tmp_path / "t", rows(2, 5), mode="append")
    target = delta_target(Destination(path=tmp_path / "t"))
    DeltaTable(tmp_path / "t").optimize.compact()
    DeltaTable(tmp_path / "t").vacuum(0, dry_run=False, enforce_retention_duration=False)
    table = DeltaTable(tmp_path / "t")
    assert table.version() > 2
    assert not changed_after(target, table, 1)
    assert changed_after(target, table, 0)
    table.alter.set_table_properties({"delta.appendOnly": "true"})
    assert changed_after(target, DeltaTable(tmp_path / "t"), 1)


def test_rows_deleted_by_a_vector_stay_deleted(tmp_path: Path) -> None:
    deleted_by_vector(tmp_path / "t")
    assert our_rows(tmp_path / "t").num_rows == 66
    refuse_features(delta_target(Destination(path=tmp_path / "t")), DeltaTable(tmp_path / "t"))
    committed(tmp_path / "t", rows(7), "a")
    assert our_rows(tmp_path / "t").equals(engine_rows(tmp_path / "t"))
    assert our_rows(tmp_path / "t").num_rows == 7


def test_a_feature_for_writers_that_is_unknown_is_refused(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", rows(5).append_column("ts", pa.nulls(5, pa.timestamp("us"))))
    log = tmp_path / "t" / "_delta_log" / f"{0:020d}.json"
    log.write_text(log.read_text().replace('"writerFeatures":[', '"writerFeatures":["rowTracking","domainMetadata",'))
    assert "rowTracking" in log.read_text()
    with pytest.raises(OutputError, match=r"has features that are not supported \(rowTracking\), so scores cannot overwrite it"):
        refuse_features(delta_target(Destination(path=tmp_path / "t")), DeltaTable(tmp_path / "t"))


def test_a_table_that_another_process_changed_is_an_error_of_one_line(tmp_path: Path) -> None:
    target = committed(tmp_path / "t", rows(5), "a")
    before = current_delta(target)
    committed(tmp_path / "t", rows(6), "b")
    file = DeltaFile(name="b.parquet", size=1, rows=6, schema=rows(6).schema, transaction="c")
    with pytest.raises(OutputError, match=r"t cannot be written as a Delta table: Failed to commit transaction: [^\n]+$"):
        commit_delta(target, before, file, {})


def test_a_log_that_cannot_be_read_is_an_error_of_the_output(tmp_path: Path) -> None:
    target = committed(tmp_path / "t", rows(5), "a")
    (tmp_path / "t" / "_delta_log" / f"{0:020d}.json").write_text("{")
    with pytest.raises(OutputError, match=r"t cannot be written as a Delta table: [^\n]+$"):
        current_delta(target)


def test_a_store_without_delta_tables_is_refused(tmp_path: Path) -> None:
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    to = Destination(path=tmp_path / "t", remote=Remote(filesystem=store, location="t", shown="hdfs://t"))
    with pytest.raises(OutputError) as error:
        delta_target(to)
    assert str(error.value) == "hdfs://t cannot be a Delta table; expected a local folder, s3://, gs:// or abfs://. Name one with -o."
    assert delta.delta_target(Destination(path=tmp_path / "t")).location == str(tmp_path / "t")
