"""More rows than memory holds: a random part is learned from, the same one every time, and the process keeps within its limit."""

import gzip
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv as pacsv

from vae_anomaly import artifact
from vae_anomaly.config import CalibrationConfig, Config, DataConfig, ModelConfig, Reading, TrackingConfig, TrainConfig
from vae_anomaly.errors import DataError, SchemaMismatch
from vae_anomaly.jobs import memory
from vae_anomaly.model.training import Trial
from vae_anomaly.tables.csv_rejects import Rejects
from vae_anomaly.tables.reader import SizeEstimate
from vae_anomaly.tables.source import open_source
from vae_anomaly.workflow import fit as fit_module
from vae_anomaly.workflow.fit import fit_files
from vae_anomaly.workflow.requests import FitRequest

ROOT = Path(__file__).parents[2]
MB = 10**6


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(n: int, seed: int = 1) -> pa.Table:
    random = np.random.default_rng(seed)
    a = random.normal(size=n)
    mode = pa.array(random.choice(["on", "off"], n)).dictionary_encode()
    label = ["leak" if i % 10 == 9 else "normal" for i in range(n)]
    return pa.table({"i": np.arange(n), "a": a, "b": a + random.normal(scale=0.1, size=n), "mode": mode, "label": label})


def as_text(table: pa.Table, path: str, **options: str) -> None:
    plain = table.set_column(3, "mode", table["mode"].cast(pa.string()))
    pacsv.write_csv(plain, path, pacsv.WriteOptions(**options))


def plain(table: pa.Table) -> dict[str, list[object]]:
    return table.to_pydict()  # type: ignore[no-any-return]


# ── the rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sample_is_the_same_rows_in_every_format_and_however_files_are_cut() -> None:
    table = rows(5000)
    pq.write_table(table, "whole.parquet", row_group_size=700)
    pq.write_table(table.slice(0, 1234), "a.parquet")
    pq.write_table(table.slice(1234), "b.parquet")
    with pa.ipc.new_file("whole.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=999)
    as_text(table, "whole.csv")
    sample = open_source(["whole.parquet"]).sample(300, seed=3)
    assert (sample.seen, sample.table.num_rows, len(sample.numbers)) == (5000, 300, 300)
    assert plain(sample.table) == plain(table.take(pa.array(sample.numbers)))
    assert (np.diff(sample.numbers) > 0).all()
    for paths in (["a.parquet", "b.parquet"], ["whole.arrow"], ["whole.csv"]):
        other = open_source(paths).sample(300, seed=3)
        assert (other.numbers.tolist(), plain(other.table)) == (sample.numbers.tolist(), plain(sample.table))
    assert open_source(["whole.parquet"]).sample(300, seed=4).numbers.tolist() != sample.numbers.tolist()


@pytest.mark.parametrize("path", ["x.parquet", "x.csv"])
def test_a_sample_of_no_more_rows_than_are_wanted_is_the_table(path: str) -> None:
    table = rows(400)
    (pq.write_table if path == "x.parquet" else as_text)(table, path)
    source = open_source([path])
    sample = source.sample(400, seed=0)
    assert sample.table.equals(source.read_table())
    assert sample.numbers.tolist() == list(range(400))


def test_types_come_from_the_rows_that_are_kept_in_all_files() -> None:
    as_text(rows(500).select(["i", "a", "b", "mode", "label"]), "a.csv")
    Path("b.csv").write_text("i,a,b,mode,label\n" + "A7,1,2,on,normal\n" * 500, encoding="utf-8")
    table = open_source(["a.csv", "b.csv"]).sample(100, seed=0).table
    assert pa.types.is_string(table.schema.field("i").type)
    assert {"A7"} < set(table["i"].to_pylist())


def test_a_dictionary_of_many_levels_shrinks_with_its_rows() -> None:
    pq.write_table(pa.table({"x": pa.array([f"v{i}" for i in range(20_000)]).dictionary_encode()}), "x.parquet")
    (column,) = open_source(["x.parquet"]).sample(50, seed=0).table.columns
    assert pa.types.is_dictionary(column.type)
    assert max(len(chunk.dictionary) for chunk in column.chunks) <= 50


def test_views_and_runs_of_an_arrow_file_are_picked_from_too() -> None:
    table = pa.table({"v": pa.array([str(i) for i in range(90)], pa.string_view()), "x": np.arange(90.0)})
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([30, 90], pa.int32()), pa.array([1.5, 2.5]))
    with pa.ipc.new_file("x.arrow", table.append_column("r", runs).schema) as writer:
        writer.write_table(table.append_column("r", runs))
    sample = open_source(["x.arrow"]).sample(20, seed=0)
    expected = {"v": [str(i) for i in sample.numbers], "x": sample.numbers.tolist(), "r": [1.5 if i < 30 else 2.5 for i in sample.numbers]}
    assert plain(sample.table) == expected


def test_bad_rows_are_left_out_of_a_sample_and_counted_once() -> None:
    lines = [f"{i},x" if i % 50 else "1,2,3" for i in range(1000)]
    Path("x.csv").write_text("a,b\n" + "\n".join(lines), encoding="utf-8")
    rejects, seen = Rejects(), list[int]()
    sample = open_source(["x.csv"], Reading(on_error="skip")).sample(100, 0, rejects, seen.append)
    assert (rejects.count, sample.seen, sample.table.num_rows, seen[-1]) == (20, 980, 100, 980)
    with pytest.raises(DataError, match=re.escape("x.csv row 1 has 3 cells, expected 2")):
        open_source(["x.csv"]).sample(100, 0)
    Path("y.csv").write_text("a,b\n1,2,3\n4,5,6\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape("y.csv: the header in line 1 has 2 cells and most rows have 3.")):
        open_source(["y.csv"], Reading(on_error="skip")).sample(100, 0)


def test_files_that_do_not_go_together_are_refused_before_they_are_read() -> None:
    pq.write_table(pa.table({"x": [1.0]}), "a.parquet")
    pq.write_table(pa.table({"y": [1.0]}), "b.parquet")
    with pytest.raises(SchemaMismatch, match=re.escape("b.parquet lacks columns that a.parquet has: 'x'")):
        open_source(["a.parquet", "b.parquet"]).sample(10, 0)


# ── how many ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_weight_of_a_table_before_it_is_read() -> None:
    table = pa.table({"a": np.arange(5000.0), "b": np.arange(5000)})
    pq.write_table(table, "x.parquet")
    found = open_source(["x.parquet"]).estimated_size()
    assert found.rows == 5000
    assert found.row_bytes == pytest.approx(16.0, rel=0.02)
    assert open_source(["x.parquet", "x.parquet"]).estimated_size().rows == 5000
    with pa.ipc.new_file("x.arrow", table.schema) as writer:
        writer.write_table(table)
    assert open_source(["x.arrow"]).estimated_size().rows == pytest.approx(5000, rel=0.05)
    text = "a,b\n" + "1234.5,99\n" * 5000
    Path("x.csv").write_text(text, encoding="utf-8")
    found = open_source(["x.csv"]).estimated_size()
    assert found.rows == pytest.approx(2 * 5000, rel=0.01)
    assert found.row_bytes == 16 + 41
    Path("x.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert open_source(["x.csv.gz"]).estimated_size() == SizeEstimate(rows=math.inf, row_bytes=57)
    assert open_source(["x.csv", "x.csv.gz"]).estimated_size().rows > found.rows


@pytest.mark.parametrize(("number", "place"), [(1012, "x.csv row 1,014 (line 1,015)"), (1019, "x.csv row 1,021 (line 1,022)")])
def test_a_cell_that_no_fit_can_use_is_named_with_its_file_row_and_line(number: int, place: str) -> None:
    """Of a row that is learned from and of one that is held against the model: before training, with the bad row above counted."""
    table = rows(1300)
    broken = table.set_column(1, "a", pa.array([math.inf if i == number else x for i, x in enumerate(table["a"].to_pylist())]))
    pq.write_table(table.slice(0, 0), "empty.parquet")
    as_text(broken, "x.csv")
    lines = Path("x.csv").read_text(encoding="utf-8").splitlines()
    Path("x.csv").write_text("\n".join([*lines[:9], "1,2", *lines[9:]]), encoding="utf-8")
    settings = replace(config(), data=replace(config().data, on_error="skip"))
    with pytest.raises(SchemaMismatch) as error:
        fit_files(FitRequest(data=("empty.parquet", "x.csv"), config=settings, output=Path("m")))
    assert str(error.value) == (
        f"column 'a' must be finite but is inf in {place}. Declare it in --missing-values if it means a missing value, or correct the row."
    )


def test_a_text_that_is_no_time_is_named_with_its_file_row_and_line() -> None:
    table = rows(300).append_column("t", pa.array([f"2025-01-01 00:{i % 60:02}:00" if i != 77 else "noon" for i in range(300)]))
    as_text(table, "x.csv")
    settings = replace(config(), data=replace(config().data, time_column="t"), calibration=CalibrationConfig(alpha=0.05))
    with pytest.raises(DataError) as error:
        fit_files(FitRequest(data=("x.csv",), config=settings, output=Path("m")))
    assert str(error.value) == (
        "time column 't' must hold times such as 2025-03-03 12:00:00 but is 'noon' in x.csv row 78 (line 79). "
        "Correct it, give --time-format, or leave --time-column out."
    )


def test_the_memory_of_the_machine_or_of_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.available() <= machine
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("1000\n", encoding="ascii")
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n", encoding="ascii")
    assert sorted(memory.group_limits("", "/a/b", tmp_path)) == [1000]
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2000\n", encoding="ascii")
    assert list(memory.group_limits("memory", "/", tmp_path)) == [2000]
    assert list(memory.group_limits("cpu", "/a", tmp_path)) == []
    monkeypatch.setattr(memory, "group_limits", lambda *_: [5.0])
    assert memory.available() == 5.0


# ── the fit ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def config() -> Config:
    return Config(
        data=DataConfig(label_column="label", exclude=("i",)),
        model=ModelConfig(views=("standard",), members=1, hidden=(8,), latent=2, exemplars=40),
        train=TrainConfig(steps=5, batch_rows=32, device="cpu"),
        calibration=CalibrationConfig(alpha=0.05, method="split", share=0.3),
        tracking=TrackingConfig(enabled=False),
    )


def test_a_fit_of_a_part_is_the_fit_of_a_file_of_that_part(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(rows(3000), "all.parquet", row_group_size=500)
    numbers = open_source(["all.parquet"]).sample(700, seed=0).numbers
    pq.write_table(rows(3000).take(pa.array(numbers)), "part.parquet")
    told: list[tuple[str, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(memory, "max_fit_rows", lambda *_: 700)
        found = fit_files(
            FitRequest(data=("all.parquet",), config=config(), output=Path("all")), tell=lambda stage, done, _: told.append((stage, done))
        )
    part = fit_files(FitRequest(data=("part.parquet",), config=config(), output=Path("part")))
    note = "learned from 700 of 3,000 rows, drawn at random (seed 0): all of them would be too much for the memory"
    assert (found.rows_read, part.rows_read, found.rows_used) == (3000, 700, part.rows_used)
    assert note in found.notes
    assert note in caplog.text
    assert note not in part.notes
    assert (Path("all") / artifact.WEIGHTS).read_bytes() == (Path("part") / artifact.WEIGHTS).read_bytes()
    assert [(a.row, a.score) for a in found.suspicious] == [(int(numbers[b.row]), b.score) for b in part.suspicious]
    assert ("reading", 3000) in told


def test_another_number_of_rows_is_another_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(rows(3000), "all.parquet")

    class Killed(BaseException):
        pass

    def killed(stage: str, done: int, _: int | None) -> None:
        if stage == "training" and done >= 3:
            raise Killed

    monkeypatch.setattr(memory, "max_fit_rows", lambda *_: 700)
    for most, resumed in ((700, True), (800, False)):
        with pytest.raises(Killed):
            fit_files(FitRequest(data=("all.parquet",), config=config(), output=Path(f"m{most}"), checkpoint_every=1), tell=killed)
        monkeypatch.setattr(memory, "max_fit_rows", lambda *_, most=most: most)
        found = fit_files(FitRequest(data=("all.parquet",), config=config(), output=Path(f"m{most}")))
        assert (found.resumed_steps > 0) == resumed
        monkeypatch.setattr(memory, "max_fit_rows", lambda *_: 700)


def in_a_process(limit: int, *, held: int = 0, tracked: bool = False) -> tuple[int, str, str, int]:
    """Fit ``normal.parquet`` in a process that holds ``held`` MB more than its libraries; return exit code, output, errors and peak."""
    # Not what the system says of a child that has ended: that counts the memory of the parent it was forked from.
    peak = "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1], file=sys.stderr)"
    code = f"import sys; held = b'1' * {held * MB}; from vae_anomaly.cli.app import app\ntry: app()\nfinally: {peak}"
    words = ["fit", "normal.parquet", "-o", "model", "--memory-limit", f"{limit}MB", "--steps", "3", "--json", "--quiet", "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, *([] if tracked else ["--no-tracking"])],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    *errors, most = done.stderr.splitlines()
    return done.returncode, done.stdout, "\n".join(errors), int(most) * 1024 // MB


def write_normal(rows: int) -> None:
    """Write 20 columns of numbers."""
    random = np.random.default_rng(0)
    with pq.ParquetWriter("normal.parquet", pa.schema([(f"x{j}", pa.float64()) for j in range(20)])) as writer:
        for _ in range(rows // 50_000):
            writer.write_table(pa.table(random.normal(size=(20, 50_000)).tolist(), names=writer.schema.names))


on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from there")


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize(("held", "tracked"), [(0, False), (300, True)])
def test_a_process_keeps_within_its_limit(held: int, tracked: bool) -> None:  # noqa: FBT001
    """300,000 rows of 20 numbers take about 700 MB; less is allowed, whatever the process held before: a CUDA build takes 300 MB more."""
    write_normal(300_000)
    code, _, error, _ = in_a_process(400, held=held, tracked=tracked)
    least = re.fullmatch(r"error: --memory-limit 400 MB is less than a fit of 20 columns needs; give at least ([\d,]+) MB\.", error)
    assert code == 2
    assert least, error
    limit = int(least[1]) + 10
    code, out, _, peak = in_a_process(limit, held=held, tracked=tracked)
    said = json.loads(out)
    assert code == 0
    assert said["rows_read"] == 300_000
    assert 5_000 <= said["rows_used"] < 40_000
    assert peak < limit
    assert said["cautions"] == []


def test_a_limit_that_was_not_kept_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([500 * MB, 9_864 * MB])
    monkeypatch.setattr(memory, "peak", lambda: next(peaks))
    pq.write_table(rows(300), "rows.parquet")
    config = Config(train=TrainConfig(steps=2), tracking=TrackingConfig(enabled=False))
    found = fit_files(FitRequest(data=("rows.parquet",), config=config, output=Path("m"), memory_limit=9_000 * MB))
    assert found.cautions[-1] == "the process held 9,864 MB at its peak, more than --memory-limit allows"


@pytest.mark.parametrize(
    ("seconds", "steps", "text"), [(0.5, 121, "60 seconds"), (0.5, 300, "2 minutes"), (0.5, 120, None), (100.0, 200, "6 hours")]
)
def test_a_training_of_more_than_a_minute_is_announced_before_its_first_step(
    seconds: float, steps: int, text: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr("vae_anomaly.workflow.fit.time.perf_counter", lambda: clock[0])

    def slow(_vae: object, _data: object, _config: TrainConfig, done: int) -> Trial:
        return Trial(steps=steps - done, operations=fit_module.OPERATIONS_TRIED, run=lambda: clock.__setitem__(0, clock[0] + seconds))

    monkeypatch.setattr("vae_anomaly.fitting.fit.trial", slow)
    told: list[tuple[str, int]] = []
    pq.write_table(rows(300), "rows.parquet")
    config = Config(train=TrainConfig(steps=2), tracking=TrackingConfig(enabled=False))
    with caplog.at_level("WARNING"):
        fit_files(
            FitRequest(data=("rows.parquet",), config=config, output=Path("m")), tell=lambda *at: told.append((at[0], len(caplog.records)))
        )
    line = (
        f"training takes about {text} here. Fewer steps (--steps), columns (--exclude) or views (model.views in --config) shorten it; "
        "if it is interrupted, the same command continues it."
    )
    assert [r.message for r in caplog.records if r.message.startswith("training takes")] == ([line] if text else [])
    if text:
        assert all(said for stage, said in told if stage == "training"), "before the first step"


def test_a_small_training_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Trial(steps=200, operations=fit_module.OPERATIONS_TRIED - 1, run=lambda: pytest.fail("a step was tried"))
    monkeypatch.setattr("vae_anomaly.fitting.fit.trial", lambda *_: small)
    pq.write_table(rows(300), "rows.parquet")
    config = Config(train=TrainConfig(steps=2), tracking=TrackingConfig(enabled=False))
    fit_files(FitRequest(data=("rows.parquet",), config=config, output=Path("m")))
