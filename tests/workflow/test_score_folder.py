"""Many inputs into an output folder: one whole part each, one manifest, and nothing twice."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.tiny import Case, detector, encoded, table
from vae_anomaly import artifact
from vae_anomaly.detector.stream import ScoredBatch, scored_batches
from vae_anomaly.errors import ConfigError, DataError, OutputError, SchemaMismatch
from vae_anomaly.jobs import manifest, memory, score_workdir
from vae_anomaly.storage.destinations import destination_of
from vae_anomaly.tables.source import open_source
from vae_anomaly.workflow import score_folder
from vae_anomaly.workflow import score_folder as output_folder
from vae_anomaly.workflow.publish import with_provenance
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.score import score_files

BATCH = 512
MB = 10**6


SEEN = "rows that the model was fitted on: they score lower than new ones, so that alarms and p-values say little"


class Killed(Exception):
    """Stands for a kill: nobody catches it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="exemplar")), folder)
    return folder


def rows(count: int, seed: int) -> pa.Table:
    found = table("mixed", count, seed=seed).to_pylist()
    found[count // 2]["pressure"] = 9e5 + seed
    return pa.Table.from_pylist(found)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Three files: two partitions as Parquet, and a CSV."""
    folder = tmp_path / "in"
    for i, day in enumerate(("day=1", "day=2")):
        (folder / day).mkdir(parents=True)
        pq.write_table(rows(2000, seed=i), folder / day / "a.parquet")
    pyarrow.csv.write_csv(rows(1200, seed=7), folder / "b.csv")
    return folder


@pytest.fixture
def request_(model: Path, inputs: Path, tmp_path: Path) -> ScoreRequest:
    out = f"{tmp_path / 'out'}/"
    return ScoreRequest(data=(str(inputs),), model=str(model), output=out, chunk_rows=BATCH, part_rows=BATCH, threads=1)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


PARTS = ["b.csv", "day=1/a.parquet", "day=2/a.parquet"]


def refused(request: ScoreRequest, kind: type[Exception] = OutputError) -> str:
    with pytest.raises(kind) as error:
        score_files(request)
    return str(error.value)


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_part_is_what_a_single_file_would_be(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    done = score_files(request_)
    assert files(tmp_path / "out") == [*PARTS, "manifest.json"]
    for part in PARTS:
        alone = tmp_path / f"alone{Path(part).suffix}"
        score_files(replace(request_, data=(str(inputs / part),), output=alone, overwrite=True))
        assert (tmp_path / "out" / part).read_bytes() == alone.read_bytes()
    assert (done.parts_made, done.parts_before, done.unchanged, done.counts.rows) == (3, 0, False, 5200)
    worst = [(alarm.part, alarm.row) for alarm in done.counts.top_alarms[:3]]
    assert sorted(worst) == [("b.csv", 600), ("day=1/a.parquet", 1000), ("day=2/a.parquet", 1000)]


def test_the_manifest_says_what_was_made_from_what(request_: ScoreRequest, inputs: Path, tmp_path: Path, model: Path) -> None:
    done = score_files(request_)
    found = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert found["model"]["version"] == done.model.version
    assert found["options"]["alpha"] == done.alpha
    assert found["total"] == {"parts": 3, "rows": 5200, "alarms": done.counts.alarms}
    entry = found["parts"][1]
    source = inputs / "day=1" / "a.parquet"
    assert (entry["part"], entry["input"], entry["rows"]) == ("day=1/a.parquet", str(source), [0, 2000])
    assert (entry["size"], entry["modified"]) == (source.stat().st_size, source.stat().st_mtime_ns)
    assert entry["bytes"] == (tmp_path / "out" / "day=1" / "a.parquet").stat().st_size
    assert entry["counted"]["rows"] == 2000
    assert sum(part["counted"]["alarms"] for part in found["parts"]) == done.counts.alarms
    assert model.name == done.model.name


def test_counts_are_those_of_all_rows_together(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    data = tuple(str(inputs / part) for part in PARTS)
    together = score_files(replace(request_, data=data, output=tmp_path / "one.csv")).counts
    assert replace(score_files(request_).counts, top_alarms=()) == replace(together, top_alarms=())


@pytest.mark.parametrize(("form", "expected"), [("csv", ["b.csv", "day=1/a.parquet.csv", "day=2/a.parquet.csv"]),
                                                ("parquet", ["b.csv.parquet", "day=1/a.parquet", "day=2/a.parquet"])])  # fmt: skip
def test_the_format_of_the_parts(request_: ScoreRequest, tmp_path: Path, form: Any, expected: list[str]) -> None:
    score_files(replace(request_, format=form))
    assert files(tmp_path / "out") == [*expected, "manifest.json"]


def test_files_of_several_folders_keep_the_names_of_these(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    data = (str(inputs / "day=1" / "a.parquet"), str(inputs / "day=2" / "*.parquet"))
    score_files(replace(request_, data=data))
    assert files(tmp_path / "out") == ["day=1/a.parquet", "day=2/a.parquet", "manifest.json"]


FOLDERS = {"x/": True, "x": True, "x.csv": False, "day.1/x.parquet": False, "x.csv/": True, "there.csv": True, "s3://b/x": True,
           "s3://b/x.csv?endpoint_override=a.b": False}  # fmt: skip


@pytest.mark.parametrize(("typed", "folder"), FOLDERS.items())
def test_what_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, *, folder: bool) -> None:
    from vae_anomaly.storage.destinations import is_folder

    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").mkdir()
    assert is_folder(typed) == folder


# ── again ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_again_is_nothing_to_do(request_: ScoreRequest, tmp_path: Path) -> None:
    first = score_files(request_)
    before, times = content(tmp_path / "out"), [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("*.*"))]
    again = score_files(request_)
    assert (again.unchanged, again.parts_made, again.parts_before, again.counts) == (True, 0, 3, first.counts)
    assert content(tmp_path / "out") == before
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("*.*"))] == times


def test_a_new_file_is_scored_alone(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    score_files(request_)
    before = {name: (tmp_path / "out" / name).stat().st_ino for name in PARTS}
    pyarrow.csv.write_csv(rows(600, seed=9), inputs / "c.csv")
    done = score_files(request_)
    assert (done.unchanged, done.parts_made, done.parts_before, done.counts.rows) == (False, 1, 3, 5800)
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in PARTS} == before
    assert files(tmp_path / "out") == ["b.csv", "c.csv", *PARTS[1:], "manifest.json"]
    made_at_once = replace(request_, output=f"{tmp_path / 'other'}/")
    score_files(made_at_once)
    assert content(tmp_path / "out") == content(tmp_path / "other")


def test_a_changed_input_is_refused(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    score_files(request_)
    os.utime(inputs / "b.csv", ns=(1, 1))
    assert refused(request_) == (
        f"{inputs}/b.csv has changed since its scores were written to {tmp_path}/out/b.csv. "
        "Remove that part to have this file scored again, or give --overwrite to score all of them again."
    )
    (tmp_path / "out" / "b.csv").unlink()
    assert (score_files(request_).parts_made, score_files(request_).unchanged) == (1, True)


def test_a_changed_part_is_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    score_files(request_)
    (tmp_path / "out" / "b.csv").write_text("mine", encoding="utf-8")
    assert refused(request_) == (
        f"{tmp_path}/out/b.csv was changed after it was written. Remove it to have the input scored again, or give --overwrite."
    )


def test_another_request_is_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    score_files(request_)
    assert refused(replace(request_, top=1)) == (
        f"{tmp_path}/out holds the scores of another request (other options). "
        "Name another folder with -o, or give --overwrite to replace what is in it."
    )


def test_overwrite_starts_anew_and_leaves_nothing_of_before(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    score_files(request_)
    (inputs / "b.csv").unlink()
    asked = replace(request_, top=1, overwrite=True)
    assert score_files(asked).parts_made == 2
    assert files(tmp_path / "out") == [*PARTS[1:], "manifest.json"]
    assert score_files(replace(asked, overwrite=False)).unchanged


def test_a_folder_with_something_else_of_that_name_is_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.csv").write_text("mine", encoding="utf-8")
    assert refused(request_).startswith(f"{tmp_path}/out/b.csv exists and no manifest says what it is.")
    (tmp_path / "out" / "manifest.json").write_text("{}", encoding="utf-8")
    assert refused(request_) == f"{tmp_path}/out/manifest.json is not the manifest of an output folder. Name another folder with -o."


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def killed(request: ScoreRequest, after: int, error: type[BaseException] = Killed) -> None:
    """Score, and be killed after so many batches, as a kill leaves things: without a manifest of the folder."""
    left = after

    def stream(*args: Any, **named: Any) -> Iterator[ScoredBatch]:
        nonlocal left
        for batch in scored_batches(*args, **named):
            if left == 0:
                raise error
            left -= 1
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_anomaly.workflow.score_output.scored_batches", stream)
        if error is Killed:
            patch.setattr(output_folder.Folder, "fold", lambda _: None)
        with pytest.raises(error):
            score_files(request)


@pytest.mark.parametrize(("after", "error"), [*((after, Killed) for after in range(6)), (3, KeyboardInterrupt)])
def test_a_killed_job_goes_on(request_: ScoreRequest, tmp_path: Path, after: int, error: type[BaseException]) -> None:
    whole = replace(request_, output=f"{tmp_path / 'whole'}/")
    first = score_files(whole)
    killed(request_, after, error)
    made_before = {name: (tmp_path / "out" / name).stat().st_ino for name in PARTS if (tmp_path / "out" / name).exists()}
    assert len(made_before) == after // 2  # every file is scored in two batches
    done = score_files(request_)
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in made_before} == made_before
    assert done.parts_made == 3 - len(made_before)
    assert done.counts == first.counts
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert done.resumed_rows == 1024 * (after % 2)


def test_killed_between_the_manifests(request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest of the folder is written, those of the parts are still there."""
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "drop", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            score_files(request_)
    assert "b.csv.manifest.json" in files(tmp_path / "out")
    assert score_files(request_).unchanged
    assert files(tmp_path / "out") == [*PARTS, "manifest.json"]


@pytest.mark.parametrize("after", [0, 3, 5])
def test_a_killed_overwrite_goes_on_without_it(request_: ScoreRequest, tmp_path: Path, after: int) -> None:
    score_files(replace(request_, top=1))
    killed(replace(request_, overwrite=True), after)
    score_files(request_)
    score_files(replace(request_, output=f"{tmp_path / 'whole'}/"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_manifests_are_taken_in_now_and_then(request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_folder, "FOLD_SECONDS", 0.0)
    killed_in_part = 6
    left = 0

    def tell(_stage: str, _done: int, _total: int | None) -> None:
        nonlocal left
        left += 1
        if left == killed_in_part:
            found = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
            assert [part["part"] for part in found["parts"]] == ["b.csv"]

    score_files(request_, tell=tell)
    assert left > killed_in_part


def test_two_runs_at_once_are_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with score_workdir.claim(tmp_path / "out" / manifest.FOLDER_MANIFEST):
        assert refused(request_).startswith(f"{tmp_path}/out/manifest.json is being written by another process (PID {os.getpid()}).")


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_columns_are_checked_in_all_inputs_before_the_first_is_scored(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    pyarrow.csv.write_csv(rows(600, seed=9).drop_columns(["flow"]), inputs / "z.csv")
    assert f"{inputs}/z.csv" in refused(request_, SchemaMismatch)
    assert not (tmp_path / "out").exists()


def test_parts_before_a_damaged_input_stay(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    (inputs / "c.csv").write_text((inputs / "b.csv").read_text(encoding="utf-8") + "1,2\n", encoding="utf-8")
    assert "c.csv row 1,201 has 2 cells" in refused(request_, DataError)
    assert [name for name in files(tmp_path / "out") if ".resume/" not in name] == ["b.csv", "manifest.json"]
    (inputs / "c.csv").unlink()
    assert score_files(request_).parts_made == 2


def test_parts_without_rows_are_passed_over(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    pq.write_table(rows(600, seed=9).slice(0, 0), inputs / "empty.parquet")
    assert score_files(request_).parts_made == 3
    assert score_files(request_).unchanged
    assert files(tmp_path / "out") == [*PARTS, "manifest.json"]


def test_an_output_among_the_inputs_is_refused(request_: ScoreRequest, inputs: Path) -> None:
    assert refused(replace(request_, output=f"{inputs}/out/")) == (
        f"{inputs}/out is inside the input folder {inputs}, so its parts would be scored too. Name a folder elsewhere with -o."
    )
    assert refused(replace(request_, data=(f"{inputs}/*/a.parquet",), output=f"{inputs}/day=1/")) == (
        f"{inputs}/day=1/a.parquet is inside the output folder {inputs}/day=1. Name another folder with -o."
    )


def test_two_inputs_with_one_part(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    pq.write_table(rows(600, seed=9), inputs / "b.csv.parquet")
    assert refused(replace(request_, format="parquet")) == (
        f"{tmp_path}/out/b.csv.parquet holds the scores of {inputs}/b.csv; those of {inputs}/b.csv.parquet would have the same name. "
        "Name another folder with -o."
    )


def test_options_that_do_not_go_together(request_: ScoreRequest, tmp_path: Path) -> None:
    assert refused(replace(request_, fdr=0.1), ConfigError) == (
        "--fdr judges all rows of a batch together, and files in an output folder are scored one by one. "
        "Name one file for all scores with -o, or flag with --alpha."
    )
    assert refused(replace(request_, output=f"{tmp_path}/x.csv", format="parquet"), ConfigError) == (
        f"--format parquet is for the parts in an output folder; {tmp_path}/x.csv is a csv file."
    )


def test_a_name_in_a_manifest_cannot_leave_its_folder(tmp_path: Path, request_: ScoreRequest) -> None:
    score_files(request_)
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"part": "b.csv"', '"part": "../in/b.csv"'), encoding="utf-8")
    with pytest.raises(OutputError) as error:
        manifest.read_folder_manifest(destination_of(tmp_path / "out"))
    assert str(error.value) == f"{path} is not the manifest of an output folder. Name another folder with -o."


def test_inputs_that_the_fit_has_read_are_told(request_: ScoreRequest, inputs: Path, tmp_path: Path) -> None:
    fitted = artifact.load(Path(request_.model))
    artifact.save(with_provenance(fitted, open_source([str(inputs)]), "", seconds=1.0, notes=()), tmp_path / "fitted")
    of_fit = replace(request_, model=str(tmp_path / "fitted"))
    assert score_files(of_fit).counts.cautions == (f"these are the {SEEN}",)
    assert score_files(of_fit).counts.cautions == (f"these are the {SEEN}",)  # nothing to do, and told all the same
    (inputs / "b.csv").write_bytes((inputs / "b.csv").read_bytes() + b"\n")
    again = score_files(replace(of_fit, output=f"{tmp_path / 'other'}/"))
    first = str(inputs / "day=1" / "a.parquet")
    assert again.counts.cautions == (f"{first}, {inputs / 'day=2' / 'a.parquet'} have {SEEN}",)
    one = score_files(replace(of_fit, data=(first,), output=tmp_path / "one.parquet"))
    assert one.counts.cautions == (f"these are the {SEEN}",)
    written = manifest.read_manifest(tmp_path / "one.parquet")
    assert written is not None
    assert written.counts["cautions"] == [f"these are the {SEEN}"]


def test_batches_with_fewer_alarms_than_chance_allows_are_told(request_: ScoreRequest, tmp_path: Path) -> None:
    few = table("mixed", 8, seed=3)
    scores = artifact.load(Path(request_.model)).scores(encoded(artifact.load(Path(request_.model)).schema, few)).total
    row = few.slice(int(scores.argmin()), 1)
    pq.write_table(pa.concat_tables([row] * 3000), tmp_path / "still.parquet")
    counts = score_files(replace(request_, data=(str(tmp_path / "still.parquet"),), output=tmp_path / "still.csv")).counts
    assert counts.alarms == 0
    assert {text.split(" ", 3)[3] for text in counts.cautions[1:]} == {f"in all 3,000 rows of {tmp_path / 'still.parquet'}"}
    assert counts.cautions[0].startswith("0 alarms are fewer than chance allows: 300.0 are expected of 3,000 normal rows.")


def test_a_memory_limit_that_was_not_kept_is_told(request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = chain([2_000 * MB], repeat(9_864 * MB))
    monkeypatch.setattr(memory, "peak", lambda: next(peaks))
    caution = "the process held 9,864 MB at its peak, more than --memory-limit allows"
    limited = replace(request_, memory_limit=9_000 * MB)
    assert caution in score_files(limited).counts.cautions
    assert caution in score_files(limited).counts.cautions, "nothing to do: the manifest says it"
    assert f'"peak": {9_864 * MB}' in (tmp_path / "out" / manifest.FOLDER_MANIFEST).read_text(encoding="utf-8")
    peaks = chain([2_000 * MB], repeat(9_864 * MB))
    one = replace(limited, data=(request_.data[0] + "/b.csv",), output=tmp_path / "one.parquet")
    assert caution in score_files(one).counts.cautions
    written = manifest.read_manifest(tmp_path / "one.parquet")
    assert written is not None
    assert caution in written.counts["cautions"]
    peaks = chain(repeat(8_000 * MB))
    assert caution not in score_files(replace(one, overwrite=True)).counts.cautions
