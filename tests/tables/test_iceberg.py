"""Iceberg tables as pyiceberg writes them: exactly the rows that its own reader gives, from the folder alone."""

# ruff: noqa: DTZ001  # times without a zone are what the columns hold

import json
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("pyiceberg", reason="needs the extra: pip install 'vae-anomaly[iceberg]'")
pytest.importorskip("pyiceberg_core", reason="writes partitions by day: pip install 'vae-anomaly[test]'")

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform
from pyiceberg.types import DoubleType, LongType

from tests.tables.lake_tables import plain
from vae_anomaly.config import Reading
from vae_anomaly.errors import ConfigError, DataError, MissingExtra
from vae_anomaly.tables.source import open_source

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def catalog(tmp_path: Path) -> SqlCatalog:
    catalog = SqlCatalog("c", uri=f"sqlite:///{tmp_path}/c.db", warehouse=f"file://{tmp_path}/wh")
    catalog.create_namespace("n")
    return catalog


def rows(count: int, first: int = 0) -> pa.Table:
    generator = np.random.default_rng(first)
    times = [datetime(2024, 1, 1) + timedelta(hours=7 * i) for i in range(count)]
    return pa.table(
        {
            "id": pa.array(range(first, first + count), pa.int32()),
            "temp": pa.array(generator.normal(20, 1, count).astype("f4")),
            "mode": generator.choice(["auto", "man"], count),
            "at": pa.array(times, pa.timestamp("us")),
        }
    )


def created(catalog: SqlCatalog, *, partitioned: bool = True) -> Any:
    table = catalog.create_table("n.t", schema=rows(1).schema, properties={"format-version": "2"})
    if partitioned:
        with table.update_spec() as spec:
            spec.add_field("at", DayTransform(), "at_day")
            spec.add_field("id", BucketTransform(4), "bucket")
            spec.add_field("mode", IdentityTransform(), "mode_part")
    return table


def folder(table: Any) -> str:
    return str(table.location()).removeprefix("file://")


def engine_rows(table: Any, **scan: Any) -> pa.Table:
    return plain(table.scan(**scan).to_arrow()).sort_by("id")


def our_rows(path: str, at: str | None = None) -> pa.Table:
    return plain(open_source([path], Reading(at=at)).read_table()).sort_by("id")


def test_every_snapshot_has_the_rows_of_the_engine(catalog: SqlCatalog) -> None:
    table = created(catalog)
    table.append(rows(40))
    table.append(rows(20, 40))
    table.delete("temp > 21")
    table.overwrite(rows(5, 80), overwrite_filter="mode == 'man'")
    with table.update_schema() as change:
        change.rename_column("temp", "temperature")
        change.update_column("temp", DoubleType())
        change.update_column("id", LongType())
        change.add_column("extra", DoubleType())
    table = catalog.load_table("n.t")
    at = pa.array([datetime(2024, 1, 1)] * 2, pa.timestamp("us"))
    table.append(pa.table({"id": [90, 91], "temperature": [1.0, 2.0], "mode": [None, "x"], "at": at, "extra": [0.5, None]}))
    with table.update_schema() as change:
        change.rename_column("mode", "state")
        change.delete_column("extra")
    table = catalog.load_table("n.t")
    path = folder(table)
    assert our_rows(path).equals(engine_rows(table))
    assert our_rows(path).column_names == ["id", "temperature", "state", "at"]  # hidden partitions are no columns
    assert open_source([path]).versions == (f"{table.current_snapshot().snapshot_id}:{table.schema().schema_id}",)
    for snapshot in table.snapshots():
        at = str(snapshot.snapshot_id)
        expected = engine_rows(table, snapshot_id=snapshot.snapshot_id)
        assert our_rows(path, at).equals(expected)
        assert open_source([path], Reading(at=at)).rows == expected.num_rows
    assert our_rows(path, open_source([path]).versions[0]).equals(our_rows(path))


def test_rows_come_in_the_order_in_which_they_were_added(catalog: SqlCatalog) -> None:
    table = created(catalog, partitioned=False)
    for first in (30, 0, 10):
        table.append(rows(5, first))
    source = open_source([folder(table)])
    assert source.read_table()["id"].to_pylist() == [*range(30, 35), *range(5), *range(10, 15)]
    assert [i for b in source.batches(None, first_row=7, chunk_rows=2) for i in b["id"].to_pylist()] == [*range(2, 5), *range(10, 15)]


def delete_positions(table: Any, positions: list[int]) -> None:
    """Add a file of deleted positions to the current snapshot, as Spark writes it with merge-on-read."""
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record

    data = next(iter(table.scan().plan_files())).file
    path = f"{folder(table)}/data/deletes.parquet"
    fields = [pa.field("file_path", pa.string(), metadata={"PARQUET:field_id": "2147483546"})]
    fields.append(pa.field("pos", pa.int64(), metadata={"PARQUET:field_id": "2147483545"}))
    pq.write_table(pa.table([[data.file_path] * len(positions), positions], schema=pa.schema(fields)), path)
    deletes = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=f"file://{path}",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=len(positions),
        file_size_in_bytes=Path(path).stat().st_size,
    )
    deletes.spec_id = 0
    append_deletes(table, deletes)


def append_deletes(table: Any, deletes: Any) -> None:
    """Write a manifest of deletes, a manifest list and a metadata file that name them (Iceberg specification, format version 2)."""
    from pyiceberg.manifest import ManifestContent, ManifestEntry, ManifestEntryStatus, ManifestWriterV2, write_manifest_list

    class Deletes(ManifestWriterV2):  # type: ignore[misc] # followed nowhere, see pyproject.toml
        def content(self) -> ManifestContent:
            return ManifestContent.DELETES

        @property
        def _meta(self) -> dict[str, str]:
            return {**super()._meta, "content": "deletes"}

    base, snapshot = f"{table.location()}/metadata", table.current_snapshot()
    new, number = snapshot.snapshot_id + 1, snapshot.sequence_number + 1
    writer = Deletes(table.spec(), table.schema(), table.io.new_output(f"{base}/deletes.avro"), new, "null")
    with writer:
        writer.add_entry(ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=new, data_file=deletes))
    manifests = [*snapshot.manifests(table.io), writer.to_manifest_file()]
    with write_manifest_list(2, table.io.new_output(f"{base}/list.avro"), new, snapshot.snapshot_id, number, "null") as listed:
        listed.add_manifests(manifests)
    metadata = json.loads(Path(table.metadata_location.removeprefix("file://")).read_text())
    entry = metadata["snapshots"][-1] | {"snapshot-id": new, "sequence-number": number, "manifest-list": f"{base}/list.avro"}
    metadata |= {"snapshots": [*metadata["snapshots"], entry], "current-snapshot-id": new, "last-sequence-number": number}
    metadata["refs"]["main"]["snapshot-id"] = new
    Path(f"{folder(table)}/metadata/00077-x.metadata.json").write_text(json.dumps(metadata))


def test_deleted_positions_are_left_out(catalog: SqlCatalog) -> None:
    from pyiceberg.table import StaticTable

    table = created(catalog, partitioned=False)
    table.append(rows(30))
    delete_positions(table, [0, 3, 29])
    path = folder(table)
    expected = engine_rows(StaticTable.from_metadata(f"{table.location()}/metadata/00077-x.metadata.json"))
    assert expected["id"].to_pylist() == [i for i in range(30) if i not in {0, 3, 29}]
    assert our_rows(path).equals(expected)
    assert open_source([path]).rows == 27


def test_equality_deletes_are_refused(catalog: SqlCatalog) -> None:
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record

    table = created(catalog, partitioned=False)
    table.append(rows(30))
    deletes = DataFile.from_args(
        content=DataFileContent.EQUALITY_DELETES,
        file_path=f"{table.location()}/data/eq.parquet",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=1,
        equality_ids=[1],
    )
    deletes.spec_id = 0
    append_deletes(table, deletes)
    with pytest.raises(DataError, match=r"is an Iceberg table with equality deletes, which are not supported. Rewrite"):
        open_source([folder(table)])


def test_files_of_another_format_are_refused(catalog: SqlCatalog) -> None:
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
    from pyiceberg.typedef import Record

    table = created(catalog, partitioned=False)
    table.append(rows(30))
    other = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=f"{table.location()}/data/x.orc",
        file_format=FileFormat.ORC,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=1,
    )
    other.spec_id = 0
    append_deletes(table, other)
    with pytest.raises(DataError, match=r"is an Iceberg table of ORC files; expected Parquet\. Rewrite it\.$"):
        open_source([folder(table)])


def test_files_without_ids_are_read_by_the_name_mapping(catalog: SqlCatalog, tmp_path: Path) -> None:
    table = created(catalog, partitioned=False)
    pq.write_table(rows(10), tmp_path / "hive.parquet")
    table.add_files([f"file://{tmp_path}/hive.parquet"])
    with table.update_schema() as change:
        change.rename_column("temp", "temperature")
    table = catalog.load_table("n.t")
    assert our_rows(folder(table)).equals(engine_rows(table))
    assert our_rows(folder(table))["temperature"].null_count == 0


def test_a_time_a_branch_and_a_tag_name_a_snapshot(catalog: SqlCatalog) -> None:
    table = created(catalog, partitioned=False)
    table.append(rows(5))
    first = table.current_snapshot()
    table.manage_snapshots().create_tag(first.snapshot_id, "good").commit()
    table.append(rows(5, 5))
    path = folder(table)
    when = datetime.fromtimestamp(first.timestamp_ms / 1000, UTC).isoformat()
    assert [our_rows(path, at).num_rows for at in (when, "good", "main", "2999-01-01")] == [5, 5, 10, 10]
    for at, error in (("5", DataError), ("2020-01-01", DataError), ("junk", ConfigError)):
        with pytest.raises(error, match=r"has no snapshot .*; it has \d+ of .* and 1 older ones from"):
            open_source([path], Reading(at=at))


def test_an_expired_snapshot_is_none(catalog: SqlCatalog) -> None:
    table = created(catalog, partitioned=False)
    table.append(rows(5))
    first = table.current_snapshot().snapshot_id
    table.append(rows(5, 5))
    table.maintenance.expire_snapshots().by_id(first).commit()
    with pytest.raises(DataError, match=f"has no snapshot '{first}'"):
        open_source([folder(table)], Reading(at=str(first)))


def test_the_metadata_file_is_the_hinted_or_the_newest_one_or_named(catalog: SqlCatalog) -> None:
    table = created(catalog, partitioned=False)
    table.append(rows(5))
    old = table.metadata_location.removeprefix("file://")
    table.append(rows(5, 5))
    path, metadata = folder(table), Path(folder(table), "metadata")
    assert our_rows(path).num_rows == 10
    assert our_rows(old).num_rows == 5
    (metadata / "version-hint.text").write_text(Path(old).name.removesuffix(".metadata.json"))
    assert our_rows(path).num_rows == 5
    (metadata / "version-hint.text").unlink()
    shutil.copy(old, metadata / f"{Path(table.metadata_location).name[:5]}-other.metadata.json")
    with pytest.raises(DataError, match=r"2 newest metadata files, of which its catalog knows the right one. Name that one: "):
        open_source([path])


def test_a_table_without_rows_has_none(catalog: SqlCatalog) -> None:
    table = created(catalog)
    with pytest.raises(DataError, match="no rows in"):
        open_source([folder(table)]).read_table()


def test_a_moved_table_is_refused(catalog: SqlCatalog, tmp_path: Path) -> None:
    table = created(catalog, partitioned=False)
    table.append(rows(5))
    shutil.move(folder(table), tmp_path / "moved")
    with pytest.raises(DataError, match=r"moved cannot be read as an Iceberg table: .* Its metadata names files by their full paths"):
        open_source([str(tmp_path / "moved")])


def test_without_the_extra_the_table_and_the_command_are_named(catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(created(catalog))
    monkeypatch.setitem(sys.modules, "pyiceberg.io.pyarrow", None)
    with pytest.raises(MissingExtra, match=r"t is an Iceberg table \(metadata/\), .* pip install 'vae-anomaly\[iceberg\]'"):
        open_source([path])
