"""Delta tables as the engine writes them: exactly the rows that the engine's own reader gives, in the same order every time."""

import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest

pytest.importorskip("deltalake", reason="needs the extra: pip install 'vae-anomaly[delta]'")

from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tables.lake_tables import delete_by_vector, engine_rows, our_rows, plain, rename_columns, rows
from vae_anomaly.config import Reading
from vae_anomaly.errors import ConfigError, DataError, MissingExtra
from vae_anomaly.storage.filesystems import resolve_uri
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables import delta
from vae_anomaly.tables.delta import delta_version, storage_options
from vae_anomaly.tables.source import open_source

MAPPED = {"delta.columnMapping.mode": "name"}
VECTORS = {"delta.enableDeletionVectors": "true"}


def overwritten(path: Path) -> None:
    write_deltalake(path, rows(30, 100))
    write_deltalake(path, rows(40), mode="overwrite")


def changed(path: Path) -> None:
    write_deltalake(path, rows(60))
    table = DeltaTable(path)
    table.delete("temp > 21")
    table.update(updates={"temp": "temp + 1"}, predicate="mode = 'man'")
    merge = table.merge(rows(20, 50), predicate="s.id = t.id", source_alias="s", target_alias="t")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()


def compacted(path: Path) -> None:
    for first in range(0, 40, 10):
        write_deltalake(path, rows(10, first), mode="append")
    DeltaTable(path).optimize.compact()
    DeltaTable(path).create_checkpoint()
    write_deltalake(path, rows(5, 90), mode="append")


def mapped(path: Path) -> None:
    write_deltalake(path, rows(50), configuration=MAPPED)


def mapped_partitions(path: Path) -> None:
    write_deltalake(path, rows(50), partition_by=["line"], configuration=MAPPED)


def partitioned(path: Path) -> None:
    table = rows(50)
    line = pc.if_else(pc.equal(table["line"], "B/c"), pa.scalar(None, pa.string()), table["line"])
    write_deltalake(path, table.set_column(4, "line", line), partition_by=["line", "count"])


def column_added(path: Path) -> None:
    write_deltalake(path, rows(20))
    more = rows(20, 20).append_column("extra", pa.array([0.5] * 20)).drop_columns("count")
    write_deltalake(path, more, mode="append", schema_mode="merge")


def deleted_by_vector(path: Path) -> None:
    write_deltalake(path, rows(50), configuration=VECTORS)
    write_deltalake(path, rows(20, 60), mode="append")
    delete_by_vector(path, [0, 1, 7, 49])


def deleted_in_partition(path: Path) -> None:
    write_deltalake(path, rows(50), configuration=VECTORS, partition_by=["line"])
    for file in range(3):
        delete_by_vector(path, [0, 2], file)


def mapped_by_name_alone(path: Path) -> None:
    """A mode of column mapping that the protocol of the table does not have: the files have the names of the table."""
    write_deltalake(path, rows(50), configuration={**MAPPED, **VECTORS})


def renamed(path: Path, mode: str) -> None:
    """Names that were those of other columns, partitions without a value, deleted rows, and a column that came later."""
    table = rows(60)
    line = pc.if_else(pc.equal(table["line"], "B/c"), pa.scalar(None, pa.string()), table["line"])
    write_deltalake(path, table.set_column(4, "line", line), partition_by=["line"], configuration={"delta.columnMapping.mode": mode})
    features = '["columnMapping","deletionVectors"]'
    log = path / "_delta_log" / f"{0:020d}.json"
    old, new = '{"minReaderVersion":2,"minWriterVersion":5}', '"minReaderVersion":3,"minWriterVersion":7'
    assert old in log.read_text()
    log.write_text(log.read_text().replace(old, f'{{{new},"readerFeatures":{features},"writerFeatures":{features}}}'))
    delete_by_vector(path, [0, 2, 3])
    # With a renamed partition column, deltalake 1.6.6 reads no table.
    rename_columns(path, {"temp": "count", "count": "temp"}, added="extra")
    more = rows(20, 60).rename_columns(["id", "count", "temp", "mode", "line"]).append_column("extra", pa.array([0.5] * 20))
    write_deltalake(path, more, mode="append")


def renamed_by_id(path: Path) -> None:
    renamed(path, "id")


def renamed_by_name(path: Path) -> None:
    renamed(path, "name")


MAKERS = [
    overwritten, changed, compacted, mapped, mapped_partitions, partitioned, column_added, deleted_by_vector, deleted_in_partition,
    mapped_by_name_alone, renamed_by_id, renamed_by_name,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
def test_the_rows_are_those_of_the_engine(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "t"
    make(path)
    expected, source = engine_rows(path), open_source([str(path)])
    assert plain(source.read_table()).sort_by("id").equals(expected)
    assert source.rows == expected.num_rows
    streamed = pa.Table.from_batches(source.batches(None, chunk_rows=7))
    assert plain(streamed).equals(plain(open_source([str(path)]).read_table()))  # the same order every time
    assert source.batches(None, first_row=11).__next__()["id"][0] == streamed["id"][11]


@pytest.mark.parametrize("make", [overwritten, changed, column_added, deleted_by_vector])
def test_an_earlier_version_has_the_rows_that_it_had(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "t"
    make(path)
    for version in range(DeltaTable(path).version() + 1):
        assert our_rows(path, str(version)).equals(engine_rows(path, version))
        assert open_source([str(path)], Reading(at=str(version))).versions == (str(version),)


def test_partition_values_have_the_types_of_the_table(tmp_path: Path) -> None:
    days = [date(2024, 1, 1), None] * 2
    table = pa.table(
        {
            "id": [0, 1, 2, 3],
            "day": pa.array(days, pa.date32()),
            "at": pa.array([datetime(2024, 1, 1, 12, 30, tzinfo=UTC), None] * 2, pa.timestamp("us", "UTC")),
            "code": ["007", "1e3", None, "A b"],
            "ok": [True, False, None, True],
            "price": pa.array([Decimal("1.50"), None] * 2, pa.decimal128(9, 2)),
        }
    )
    write_deltalake(tmp_path / "t", table, partition_by=["day", "at", "code", "ok", "price"])
    assert our_rows(tmp_path / "t").select(table.column_names).equals(table)


def test_files_come_in_the_order_in_which_they_were_added(tmp_path: Path) -> None:
    for first in (30, 0, 10):
        write_deltalake(tmp_path / "t", rows(5, first), mode="append")
    ids = open_source([str(tmp_path / "t")]).read_table()["id"].to_pylist()
    assert ids == [*range(30, 35), *range(5), *range(10, 15)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(positions=st.sets(st.integers(0, 99), min_size=1, max_size=99), chunk=st.integers(1, 60), first=st.integers(0, 99))
def test_deleted_positions_are_left_out_however_the_rows_are_cut(tmp_path: Path, positions: set[int], chunk: int, first: int) -> None:
    path = tmp_path / f"t{abs(hash((frozenset(positions), chunk, first)))}"
    write_deltalake(path, rows(100), configuration=VECTORS)
    delete_by_vector(path, sorted(positions))
    left = [i for i in range(100) if i not in positions]
    source = open_source([str(path)])
    assert source.rows == len(left)
    found = [i for batch in source.batches(None, chunk_rows=chunk, first_row=first) for i in batch["id"].to_pylist()]
    assert found == left[first:]


def times(path: Path, *stamps: datetime) -> None:
    """Set the times of the commits in the log."""
    for version, stamp in enumerate(stamps):
        file = path / "_delta_log" / f"{version:020d}.json"
        actions = [json.loads(line) for line in file.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] = int(stamp.timestamp() * 1000)
        file.write_text("".join(f"{json.dumps(action)}\n" for action in actions))


def test_a_time_names_the_version_of_then_also_in_a_copy(tmp_path: Path) -> None:
    for first in (0, 10, 20):
        write_deltalake(tmp_path / "t", rows(10, first), mode="append")
    noon = datetime(2024, 3, 1, 12, tzinfo=UTC)
    times(tmp_path / "t", noon, noon + timedelta(hours=1), noon + timedelta(hours=2))
    shutil.copytree(tmp_path / "t", tmp_path / "copy", copy_function=shutil.copy)  # the files of the log have new times
    for name in ("t", "copy"):
        for at, version in (("2024-03-01T12:00:00Z", 0), ("2024-03-01 13:59", 1), ("2024-03-01T15:00+01:00", 2), ("2030-01-01", 2)):
            assert open_source([str(tmp_path / name)], Reading(at=at)).versions == (str(version),)
        with pytest.raises(DataError, match=r"has no version at 2024-03-01T11:59:59Z; the oldest known version is 0 of 2024-03-01T12"):
            open_source([str(tmp_path / name)], Reading(at="2024-03-01T11:59:59Z"))


def test_a_version_that_is_none_is_refused(tmp_path: Path) -> None:
    overwritten(tmp_path / "t")
    for at in ("junk", "v1", "1.5"):
        with pytest.raises(ConfigError, match=r"--at must be a version, a snapshot or a time"):
            open_source([str(tmp_path / "t")], Reading(at=at))
    with pytest.raises(DataError, match=r"t cannot be read as a Delta table \(_delta_log\)"):
        open_source([str(tmp_path / "t")], Reading(at="99"))
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"--at reads a version of a Delta table or Iceberg table, and .*a.csv has no versions"):
        open_source([str(tmp_path / "t"), str(tmp_path / "a.csv")], Reading(at="0"))


def test_rows_of_a_vacuumed_version_are_gone(tmp_path: Path) -> None:
    overwritten(tmp_path / "t")
    DeltaTable(tmp_path / "t").vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert our_rows(tmp_path / "t").num_rows == 40
    with pytest.raises(DataError, match=r"\.parquet is gone, and version 0 of the Delta table needs it: it was vacuumed"):
        our_rows(tmp_path / "t", "0")


def test_versions_differ_in_what_a_result_was_made_of(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    deleted_by_vector(tmp_path / "t")
    sources = [open_source([path], Reading(at=str(version))) for version in range(3)]
    for what in ("made_of", "digest", "contents"):
        values = [json.dumps(getattr(source, what)()) for source in sources]
        assert len(set(values)) == 3
        assert json.dumps(getattr(open_source([path]), what)()) == values[-1]
    assert sources[1].version_notes[0].startswith(f"{path}: version 1 of the Delta table of 20")


def test_an_unknown_feature_is_refused(tmp_path: Path) -> None:
    deleted_by_vector(tmp_path / "t")
    log = tmp_path / "t" / "_delta_log" / f"{0:020d}.json"
    assert "deletionVectors" in log.read_text()
    log.write_text(log.read_text().replace('"deletionVectors"', '"deletionVectors","madeUpFeature"'))
    with pytest.raises(DataError, match="madeUpFeature"):
        open_source([str(tmp_path / "t")])


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    overwritten(tmp_path / "t")
    for file in (tmp_path / "t" / "_delta_log").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"t cannot be read as a Delta table \(_delta_log\): "):
        open_source([str(tmp_path / "t")])


def test_a_table_of_no_rows_has_none(tmp_path: Path) -> None:
    overwritten(tmp_path / "t")
    DeltaTable(tmp_path / "t").delete()
    with pytest.raises(DataError, match="no rows in"):
        open_source([str(tmp_path / "t")]).read_table()


def test_nested_columns_of_a_mapped_table_are_left_out(tmp_path: Path) -> None:
    nested = rows(5).append_column("n", pa.array([{"x": 1}] * 5))
    write_deltalake(tmp_path / "t", nested, configuration=MAPPED)
    source = open_source([str(tmp_path / "t")])
    assert "n" not in source.names
    assert "nested columns of this table are left out: n" in source.notes[1]


def test_without_the_extra_the_table_and_the_command_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overwritten(tmp_path / "t")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(MissingExtra, match=r"t is a Delta table \(_delta_log\), .* pip install 'vae-anomaly\[delta\]'"):
        open_source([str(tmp_path / "t")])


def test_the_store_of_a_uri_is_that_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    filesystem, _ = resolve_uri("s3://key:secret@bucket/t?endpoint_override=localhost:9000&scheme=http&region=eu-west-1")
    assert storage_options(filesystem) == {
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "aws_region": "eu-west-1",
        "aws_endpoint": "http://localhost:9000",
        "aws_allow_http": "true",
    }


def test_a_store_that_the_engine_does_not_know_is_refused(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", rows(3))
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    listed = Listed(path="hdfs://t", location="t", root="", size=0, modified=0, filesystem=store, lake="delta")
    with pytest.raises(DataError) as error:
        delta_version(listed, None)
    assert str(error.value) == (
        "hdfs://t is a Delta table; expected one in a local folder, s3://, gs:// or abfs://. Copy it to one of them."
    )


def test_a_deletion_vector_of_no_live_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_deltalake(tmp_path / "t", rows(3))
    monkeypatch.setattr(delta, "_kept_rows", lambda *_: {"gone.parquet": np.array([0])})
    with pytest.raises(DataError, match=r"has a deletion vector of gone\.parquet, which is no file of version 0\.$"):
        open_source([str(tmp_path / "t")])
