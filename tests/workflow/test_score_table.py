"""``score --format delta``: the rows of the Parquet output in one commit, however often the job is killed, and never over other data."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

pytest.importorskip("deltalake", reason="needs the extra: pip install 'vae-anomaly[delta]'")

from deltalake import DeltaTable, write_deltalake

from tests.tiny import Case, detector, table
from vae_anomaly import artifact
from vae_anomaly.errors import ConfigError, DataError, MissingExtra, OutputError
from vae_anomaly.tables import delta
from vae_anomaly.tables.scores import read_scores
from vae_anomaly.tables.source import open_source
from vae_anomaly.workflow import score_output, score_table
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.watch import watch

ROWS = 3000


class Killed(Exception):
    """Stands for a kill: nobody catches it."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and rows with keys of types that Delta tables lack."""
    folder = tmp_path_factory.mktemp("ground")
    artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="exemplar")), folder / "model")
    keys = {
        "key": pa.array(range(2**64 - ROWS, 2**64), pa.uint64()),
        "ts": pa.array([1_700_000_000_000_000_000 + 1000 * i for i in range(ROWS)], pa.timestamp("ns", "Europe/Berlin")),
        "line": pa.array([None if i % 7 == 0 else f"L{i % 5}" for i in range(ROWS)]).dictionary_encode(),
    }
    rows = table("mixed", ROWS, seed=5)
    for name, values in keys.items():
        rows = rows.append_column(name, values)
    pq.write_table(rows, folder / "new.parquet")
    pyarrow.csv.write_csv(table("mixed", 200, seed=6), folder / "more.csv")
    return folder


@pytest.fixture
def request_(ground: Path, tmp_path: Path) -> ScoreRequest:
    return ScoreRequest(
        data=(str(ground / "new.parquet"),),
        model=str(ground / "model"),
        output=tmp_path / "t",
        format="delta",
        id_columns=("key", "ts", "line"),
        chunk_rows=1024,
        part_rows=1024,
        threads=1,
    )


def engine(path: Path, version: int | None = None) -> pa.Table:
    """Return the rows as deltalake's own reader gives them, in its order."""
    return DeltaTable(path, version=version).to_pyarrow_table()


def versions(path: Path) -> int:
    return int(DeltaTable(path).version()) + 1 if DeltaTable.is_deltatable(str(path)) else 0


def test_the_table_is_the_parquet_output(request_: ScoreRequest, tmp_path: Path) -> None:
    done = score_files(request_)
    score_files(replace(request_, output=tmp_path / "o.parquet", format=None))
    plain, found = pq.read_table(tmp_path / "o.parquet"), engine(tmp_path / "t")
    assert found.column_names == plain.column_names
    assert [str(found.schema.field(name).type) for name in ("key", "ts", "line")] == [
        "decimal128(20, 0)", "timestamp[us, tz=UTC]", "string",
    ]  # fmt: skip
    for name in plain.column_names:
        assert found[name].cast(plain.schema.field(name).type).to_pylist() == plain[name].to_pylist()
    assert open_source([str(tmp_path / "t")]).read_table().to_pylist() == found.to_pylist()
    assert (done.table_version, done.counts.rows, done.unchanged) == (0, ROWS, False)
    assert json.loads((tmp_path / "t.manifest.json").read_text())["table"]["version"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"t", "t.manifest.json", "o.parquet", "o.parquet.manifest.json"}


def test_the_same_request_is_nothing_to_do_also_after_a_compaction(request_: ScoreRequest, tmp_path: Path) -> None:
    first = score_files(request_)
    again = score_files(request_)
    assert (again.unchanged, again.table_version, again.counts) == (True, 0, first.counts)
    (tmp_path / "t" / "_delta_log" / f"{1:020d}.json").write_text(
        (tmp_path / "t" / "_delta_log" / f"{0:020d}.json").read_text().splitlines()[3].replace('"dataChange":true', '"dataChange":false')
    )
    assert score_files(request_).unchanged
    DeltaTable(tmp_path / "t").delete("is_anomaly")
    with pytest.raises(OutputError, match=r"t was changed after it was written\. .* or give --overwrite to write a new version of it\.$"):
        score_files(request_)


def test_overwriting_makes_a_version_and_keeps_the_others(request_: ScoreRequest, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"other": [1, 2]}))
    with pytest.raises(OutputError, match=r"t is a Delta table and no manifest says what it is\. "):
        score_files(request_)
    assert score_files(replace(request_, overwrite=True)).table_version == 1
    with pytest.raises(OutputError, match=r"t is a Delta table with the scores of another request \(other options\)\. "):
        score_files(replace(request_, alpha=0.2))
    assert score_files(replace(request_, alpha=0.2, overwrite=True)).table_version == 2
    assert [engine(tmp_path / "t", version).num_rows for version in (0, 1, 2)] == [2, ROWS, ROWS]
    assert not list(tmp_path.glob(".t*"))


def kill(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Let the next scoring be killed at a point of its way."""

    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    original = delta.commit_delta

    def commit_and_die(*arguments: Any) -> None:
        original(*arguments)
        raise Killed

    checkpointed = score_output.checkpointed

    def some(*arguments: Any) -> Any:
        for i, batch in enumerate(checkpointed(*arguments)):
            if i == 2:
                raise Killed
            yield batch

    points: dict[str, tuple[Any, str, Callable[..., Any]]] = {
        "among the rows": (score_output, "checkpointed", some),
        "before the manifest": (score_table.TableSlot, "finish", killed),
        "before the move": (score_table.TableSlot, "commit", killed),
        "before the commit": (delta, "commit_delta", killed),
        "after the commit": (delta, "commit_delta", commit_and_die),
    }
    monkeypatch.setattr(*points[where])


POINTS = ("among the rows", "before the manifest", "before the move", "before the commit", "after the commit")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("where", POINTS)
def test_a_killed_job_gives_one_commit(request_: ScoreRequest, tmp_path: Path, where: str, *, overwrite: bool) -> None:
    asked, before = replace(request_, overwrite=overwrite), int(overwrite)
    if overwrite:
        write_deltalake(tmp_path / "t", pa.table({"other": [1, 2]}))
    for _ in range(1 if where in {"among the rows", "after the commit"} else 2):
        with pytest.MonkeyPatch.context() as patch:
            kill(patch, where)
            with pytest.raises(Killed):
                score_files(asked)
        assert versions(tmp_path / "t") == before + (where == "after the commit")
    done = score_files(asked)
    assert (done.table_version, done.counts.rows, versions(tmp_path / "t")) == (before, ROWS, before + 1)
    assert done.resumed_rows > 0
    assert score_files(replace(request_, overwrite=False)).unchanged
    assert engine(tmp_path / "t")["anomaly_score"].to_pylist() == scores(request_, tmp_path)
    assert not list(tmp_path.glob(".t*"))


def test_what_is_there_already_is_not_overwritten(request_: ScoreRequest, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"other": [1, 2]}))
    asked = replace(request_, overwrite=True)
    first = score_files(asked)
    again = score_files(asked)  # as after a kill while the process exited
    assert (again.unchanged, again.table_version, again.counts, versions(tmp_path / "t")) == (True, 1, first.counts, 2)
    DeltaTable(tmp_path / "t").optimize.compact()
    assert score_files(asked).unchanged
    write_deltalake(tmp_path / "t", engine(tmp_path / "t"), mode="append")
    changed = versions(tmp_path / "t")
    assert score_files(asked).table_version == changed
    assert engine(tmp_path / "t").num_rows == ROWS
    assert score_files(replace(asked, alpha=0.2)).table_version == changed + 1
    assert not list(tmp_path.glob(".t*"))


def scores(request: ScoreRequest, folder: Path) -> list[float]:
    score_files(replace(request, output=folder / "plain.parquet", format=None))
    return list(pq.read_table(folder / "plain.parquet")["anomaly_score"].to_pylist())


def test_an_error_after_the_commit_is_none(request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = delta.commit_delta

    def committed_and_failed(*arguments: Any) -> None:
        original(*arguments)
        raise OutputError("no checkpoint")

    monkeypatch.setattr(delta, "commit_delta", committed_and_failed)
    assert score_files(request_).table_version == 0
    assert engine(tmp_path / "t").num_rows == ROWS


def test_a_commit_that_failed_is_tried_again_without_scoring(
    request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: Any) -> None:
        raise OutputError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(delta, "commit_delta", failed)
        with pytest.raises(OutputError, match="no answer"):
            score_files(request_)
    assert not (tmp_path / "t").exists()
    monkeypatch.setattr(score_output, "checkpointed", lambda *_: pytest.fail("scored again"))
    assert score_files(request_).resumed_rows == ROWS
    assert engine(tmp_path / "t").num_rows == ROWS


def test_a_table_made_meanwhile_is_not_replaced(request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = score_table.TableSlot.commit

    def late(slot: score_table.TableSlot) -> None:
        write_deltalake(tmp_path / "t", pa.table({"other": [1, 2]}))
        original(slot)

    monkeypatch.setattr(score_table.TableSlot, "commit", late)
    with pytest.raises(OutputError, match="already exists"):
        score_files(request_)
    assert engine(tmp_path / "t").column_names == ["other"]
    monkeypatch.undo()
    assert score_files(replace(request_, overwrite=True)).table_version == 1


def test_what_is_added_meanwhile_is_overwritten(request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_deltalake(tmp_path / "t", pa.table({"other": [1, 2]}))
    original = score_table.TableSlot.commit

    def late(slot: score_table.TableSlot) -> None:
        write_deltalake(tmp_path / "t", pa.table({"other": [3]}), mode="append")
        original(slot)

    monkeypatch.setattr(score_table.TableSlot, "commit", late)
    assert score_files(replace(request_, overwrite=True)).table_version == 2
    assert engine(tmp_path / "t").num_rows == ROWS


def test_files_and_tables_do_not_replace_each_other(request_: ScoreRequest, tmp_path: Path, ground: Path) -> None:
    score_files(request_)
    plain = replace(request_, format=None, overwrite=True)
    for name, text in (
        ("t", "t is the folder of a Delta table"),
        ("t/", "t is the folder of"),
        ("t/x.csv", "t/x.csv is in the Delta table"),
    ):
        with pytest.raises(OutputError, match=f"{text}.*, and files written there would be no part of it. Give --format delta "):
            score_files(replace(plain, output=f"{tmp_path}/{name}"))
    (tmp_path / "ice" / "metadata").mkdir(parents=True)
    (tmp_path / "ice" / "metadata" / "version-hint.text").write_text("1")
    with pytest.raises(OutputError, match=r"ice is the folder of an Iceberg table, and .* of it\. Name another output with -o\.$"):
        score_files(replace(plain, output=tmp_path / "ice"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.csv").touch()
    (tmp_path / "file").touch()
    for name, text in (
        ("ice", "ice is the folder of an Iceberg table, where no Delta table can be. Name another folder with -o."),
        ("t/deeper", f"t/deeper is in the Delta table {tmp_path}/t, where no Delta table can be. Name another folder with -o."),
        ("files", "files is a folder with files and no Delta table. Name another folder with -o."),
        ("file", "file is a file and no Delta table. Name another folder with -o."),
    ):
        with pytest.raises(OutputError) as error:
            score_files(replace(request_, output=tmp_path / name, overwrite=True))
        assert str(error.value) == f"{tmp_path}/{text}"
    with pytest.raises(OutputError, match=r"in is inside the input folder .*, so its rows would be scored too"):
        score_files(replace(request_, data=(str(ground),), output=ground / "in"))
    with pytest.raises(OutputError, match=r"t is itself an input; name another output with -o\.$"):
        score_files(replace(request_, data=(str(tmp_path / "t"),), overwrite=True, model=str(ground / "model")))


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (None, "--format delta writes a table; name its folder with -o."),
        ("x.parquet", "--format delta writes a table, which is a folder, and x.parquet is the name of a file. Name a folder with -o."),
        (".", "--format delta writes a table, and . is no name for its folder. Name it with -o, such as lake/scores."),
    ],
)
def test_the_folder_is_named(request_: ScoreRequest, output: str | None, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        score_files(replace(request_, output=output))
    assert str(error.value) == text


def test_watching_writes_no_table(request_: ScoreRequest) -> None:
    with pytest.raises(ConfigError, match=r"^--watch writes one file for each input, and --format delta one table for all of them; "):
        watch(request_, interval=1)


def test_without_the_extra_nothing_is_read(request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(
        MissingExtra, match=r"t is to be a Delta table, and writing one needs deltalake: pip install 'vae-anomaly\[delta\]'\.$"
    ):
        score_files(replace(request_, model="absent", data=("absent",)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"partition_by": "other"}, "is partitioned (other)"),
        ({"configuration": {"delta.appendOnly": "true"}}, "is append-only (true)"),
        ({"configuration": {"delta.columnMapping.mode": "name"}}, "maps its columns (name)"),
    ],
)
def test_a_table_that_scores_would_break_is_refused(request_: ScoreRequest, tmp_path: Path, made: dict[str, Any], reason: str) -> None:
    write_deltalake(tmp_path / "t", pa.table({"other": [1, 2], "more": [1, 2]}), **made)
    with pytest.raises(OutputError) as error:
        score_files(replace(request_, overwrite=True, model=request_.model))
    rules = reason if "maps" not in reason else "has rules for its rows (other: delta.columnMapping."
    assert str(error.value).startswith(f"{tmp_path / 't'} {rules}")
    assert str(error.value).endswith("so scores cannot overwrite it. Name another table with -o.")
    assert versions(tmp_path / "t") == 1


def test_a_constraint_is_not_broken(request_: ScoreRequest, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"other": [1, 2]}))
    DeltaTable(tmp_path / "t").alter.add_constraint({"positive": "other > 0"})
    with pytest.raises(OutputError, match=r"has rules for its rows \(delta\.constraints\.positive\), so scores cannot overwrite it"):
        score_files(replace(request_, overwrite=True))


def test_keys_that_a_table_cannot_hold_are_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    rows = table("mixed", 20, seed=6)
    for name, values, text in (
        ("fine", pa.array(range(20), pa.timestamp("ns")), r"column 'fine' has values that a Delta table cannot hold \(Casting from "),
        (
            "hour",
            pa.array(range(20), pa.time32("ms")),
            r"column 'hour' has the type time32\[ms\], which a Delta table cannot hold\. Leave it",
        ),
        ("KL", pa.array(range(20)), "columns 'KL' and 'kl' have one name in a Delta table. Write Parquet instead."),
    ):
        pq.write_table(rows.append_column(name, values), tmp_path / "new.parquet")
        with pytest.raises(ConfigError, match=text):
            score_files(replace(request_, data=(str(tmp_path / "new.parquet"),), id_columns=(name,)))
    assert {path.name for path in tmp_path.iterdir()} == {"new.parquet"}
    pq.write_table(rows.append_column("local", pa.array(range(20), pa.timestamp("us"))), tmp_path / "new.parquet")
    asked = replace(request_, data=(str(tmp_path / "new.parquet"),), id_columns=("local",))
    write_deltalake(tmp_path / "t", pa.table({"other": [1, 2]}))
    with pytest.raises(OutputError, match="t lacks the feature timestampNtz that the times without a zone of 'local' need"):
        score_files(replace(asked, overwrite=True))
    assert versions(tmp_path / "t") == 1
    assert score_files(replace(asked, output=tmp_path / "other")).table_version == 0
    assert engine(tmp_path / "other")["local"].to_pylist() == pa.array(range(20), pa.timestamp("us")).to_pylist()


def test_malformed_rows_are_beside_the_table(request_: ScoreRequest, tmp_path: Path, ground: Path) -> None:
    (tmp_path / "new.csv").write_bytes((ground / "more.csv").read_bytes() + b"1,2\n")
    asked = replace(request_, data=(str(tmp_path / "new.csv"),), id_columns=(), on_error="quarantine")
    done = score_files(asked)
    assert done.counts.rejected is not None
    assert (done.counts.rejected.quarantine, engine(tmp_path / "t").num_rows) == (str(tmp_path / "t.quarantine.csv"), 200)
    assert "1,2" in (tmp_path / "t.quarantine.csv").read_text()
    with pytest.raises(DataError):
        score_files(replace(asked, on_error="stop", output=tmp_path / "u"))
    assert not (tmp_path / "u").exists()


def test_the_table_is_read_back_as_an_output(request_: ScoreRequest, tmp_path: Path) -> None:
    score_files(request_)
    assert sum(len(rows.scores) for rows in read_scores(open_source([str(tmp_path / "t")]))) == ROWS
