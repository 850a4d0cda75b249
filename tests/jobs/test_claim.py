"""Work folders: locks, notes, removal, and the states done, resumable and fresh of scores and output folders."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import tiny
from vae_anomaly import artifact
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import OutputError
from vae_anomaly.jobs import claim, manifest, score_workdir
from vae_anomaly.jobs.claim import WorkFolder
from vae_anomaly.messages import ignore_progress
from vae_anomaly.storage import listing
from vae_anomaly.tables.source import open_source
from vae_anomaly.workflow import score_folder
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.score_counts import Counting
from vae_anomaly.workflow.score_job import open_job
from vae_anomaly.workflow.score_output import claim_output, score_output

HOLDER = "import os, sys\nsys.path.insert(0, {root!r})\nimport fcntl\nhandle = os.open({lock!r}, os.O_RDWR)\n"
HOLDER += "fcntl.flock(handle, fcntl.LOCK_EX)\nos.write(handle, str(os.getpid()).encode())\nprint('locked', flush=True)\ninput()\n"
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="file locks")


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    folder = claim.folder_of(tmp_path / "x.csv")
    folder.mkdir()
    return WorkFolder(output=tmp_path / "x.csv", folder=folder)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_note_replaces_the_earlier_one_and_leaves_no_temporary_file(work: WorkFolder) -> None:
    work.note("ranks", {"rows": 1})
    work.note("ranks", {"rows": 2, "name": "ü"})
    assert work.noted("ranks") == {"rows": 2, "name": "ü"}
    assert [path.name for path in work.folder.iterdir()] == ["ranks.json"]


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"3", b'{"rows": ', b"\xff"])
def test_a_missing_or_invalid_note_is_none(work: WorkFolder, content: bytes | None) -> None:
    if content is not None:
        (work.folder / "ranks.json").write_bytes(content)
    assert work.noted("ranks") is None


def test_a_note_that_cannot_be_written_is_an_output_error(work: WorkFolder) -> None:
    work.folder.rmdir()
    with pytest.raises(OutputError, match=r"x\.csv cannot be written: no file can be made in its folder"):
        work.note("ranks", {})


def test_other_files_than_the_bookkeeping(work: WorkFolder) -> None:
    (work.folder / "lock").touch()
    assert not work.holds_other_than("lock", "request.json")
    work.note("ranks", {})
    assert work.holds_other_than("lock", "request.json")
    assert not WorkFolder(output=work.output, folder=work.folder / "absent").holds_other_than("lock")


def test_digests_depend_on_values_and_not_on_the_order_of_keys() -> None:
    digests = claim.digests_of({"options": {"a": 1, "b": None}, "inputs": [1]})
    assert digests == claim.digests_of({"inputs": [1], "options": {"b": None, "a": 1}})
    # printf '%s' '[1]' | sha256sum
    assert digests["inputs"] == "080a9ed428559ef602668b4c00f114f1a11c3f6b02a435f0bdc154578e4d7f22"
    assert claim.differences(digests, digests) == []
    other = claim.digests_of({"inputs": [1], "options": {"a": 2, "b": None}, "store": ""})
    assert claim.differences(other, digests) == ["options", "store"]
    assert claim.differences(digests, other) == ["options", "store"]


# ── the lock ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_names_its_process_and_is_free_when_closed(work: WorkFolder) -> None:
    (work.folder / "lock").write_text("99999999999", encoding="utf-8")  # of a dead process, longer than any id
    handle = claim.lock(work.folder)
    assert (work.folder / "lock").read_text(encoding="utf-8") == str(os.getpid())
    os.close(handle)
    os.close(claim.lock(work.folder))


@posix_only
def test_the_lock_of_another_process_is_taken_until_it_is_killed(work: WorkFolder) -> None:
    lock = work.folder / "lock"
    lock.touch()
    code = HOLDER.format(root=str(Path(__file__).parents[2]), lock=str(lock))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(claim.Taken) as taken:
            claim.lock(work.folder)
        assert str(taken.value) == str(holder.pid)
        text = rf"^{work.output} is being written by another process \(PID {holder.pid}\)\. Wait for it, or name another with -o\.$"
        with pytest.raises(OutputError, match=text), score_workdir.claim(work.output):
            pytest.fail("two processes at once")
        holder.kill()
        holder.wait()
        os.close(claim.lock(work.folder))


# ── removal ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def fill(folder: Path) -> None:
    for name in ("lock", "request.json", "0.arrow"):
        (folder / name).touch()
    (folder / "detector").mkdir()
    (folder / "detector" / "weights").touch()


def test_clear_leaves_the_lock_and_remove_leaves_nothing(work: WorkFolder, tmp_path: Path) -> None:
    fill(work.folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (work.folder / "link").symlink_to(elsewhere)
    claim.clear(work.folder)
    assert [path.name for path in work.folder.iterdir()] == ["lock"]
    assert (elsewhere / "file").exists(), "a link is removed, not what it points to"
    (work.folder / "lock").unlink()
    fill(work.folder / ".." / work.folder.name)
    claim.remove(work.folder)
    assert not work.folder.exists()


def test_a_request_is_removed_first_when_a_folder_is_cleared(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed half-way, the folder must not look like one with all checkpoints of its request."""
    fill(work.folder)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(claim, "_empty", killed)
    with suppress(KeyboardInterrupt):
        claim.clear(work.folder)
    assert not (work.folder / "request.json").exists()
    assert (work.folder / "0.arrow").exists()


# ── the states of a score and of an output folder; those of a fit are in test_fit_workdir ────────────────────────────


@pytest.fixture
def request_(tiny_detector: Detector, tmp_path: Path) -> ScoreRequest:
    artifact.save(tiny_detector, tmp_path / "model")
    (tmp_path / "in").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        pq.write_table(tiny.table("mixed", 30, seed=seed), tmp_path / "in" / f"{name}.parquet")
    return ScoreRequest(
        data=(str(tmp_path / "in"),), model=str(tmp_path / "model"), output=tmp_path / "x.parquet", explain="none", threads=1
    )


def state(request: ScoreRequest, *, keep: bool = False) -> tuple[str, int]:
    """Claim the output, write a checkpoint on request, and be interrupted; return the state and the rows of the checkpoints."""
    job, found = open_job(request, ignore_progress), ("", 0)
    with suppress(KeyboardInterrupt), claim_output(job, open_source(request.data)) as slot:
        found = slot.state, slot.counting().rows
        if keep:
            rows = tiny.one_batch(tiny.table("mixed", 7, seed=1))
            assert slot.unfinished.keep(0, [rows], Counting(ids=(), rows=7, position=7).state())
        raise KeyboardInterrupt
    return found


def test_the_states_of_a_score(request_: ScoreRequest, tmp_path: Path) -> None:
    assert state(request_) == ("fresh", 0)
    assert not claim.folder_of(tmp_path / "x.parquet").exists(), "nothing to resume from"
    assert state(request_, keep=True) == ("fresh", 0)
    assert state(request_) == ("resumable", 7)
    assert state(replace(request_, top=2)) == ("fresh", 0), "another request"
    assert state(request_, keep=True) == ("fresh", 0), "the other request has removed the checkpoints"
    assert state(replace(request_, overwrite=True)) == ("fresh", 0)
    score_files(request_)
    assert state(request_) == ("done", 0)
    with pytest.raises(OutputError, match=r"holds the scores of another request \(other options\)"):
        state(replace(request_, top=2))


def test_the_states_of_an_output_folder(request_: ScoreRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, out = replace(request_, output=f"{tmp_path}/out/"), tmp_path / "out"
    files = listing.list_files(request.data)
    scored = list[str]()

    def held(request: ScoreRequest) -> list[bool]:
        with score_folder.claim_folder(open_job(request, ignore_progress)) as folder:
            return [folder.holds(file) for file in files]

    def interrupted(*arguments: object) -> object:
        if scored:
            raise KeyboardInterrupt
        scored.append("a.parquet")
        return real(*arguments)  # type: ignore[arg-type]

    assert held(request) == [False, False], "fresh"
    real = score_output
    monkeypatch.setattr(score_folder, "score_output", interrupted)
    monkeypatch.setattr(score_folder.Folder, "fold", lambda _: None)  # killed before the manifest of the folder is written
    with pytest.raises(KeyboardInterrupt):
        score_files(request)
    monkeypatch.undo()
    assert held(request) == [True, False], "resumable"
    assert score_files(request).parts_before == 1
    assert held(request) == [True, True], "done"
    assert held(replace(request, overwrite=True)) == [False, False], "fresh"
    assert sorted(path.name for path in out.iterdir()) == ["a.parquet", "b.parquet", manifest.FOLDER_MANIFEST]


def test_what_killed_writers_left_in_a_work_folder_goes_with_the_next_claim(tmp_path: Path) -> None:
    folder = tmp_path / ".x.resume"
    folder.mkdir()
    for process in (999_999_001, 999_999_002):  # two processes that died between the write and the rename
        (folder / f".training.safetensors.{process}.part").write_bytes(b"half")
    (folder / "training.safetensors").write_bytes(b"whole")
    os.close(claim.lock(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "training.safetensors"]
