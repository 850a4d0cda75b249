import errno
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from vae_anomaly.errors import DataError, OutputError
from vae_anomaly.jobs import claim, score_workdir

MADE_FROM = {"inputs": {"a.csv": [1, 2]}, "options": {"top": 5}}
FEATURE = pa.list_(pa.struct([("column", pa.string()), ("contribution", pa.float64())]))


def batch(first: int, rows: int = 3) -> pa.RecordBatch:
    """Rows with everything that scores are made of."""
    numbers = list(range(first, first + rows))
    reasons = [[{"column": 'a "b"', "contribution": 0.1 * n}] if n % 2 else None for n in numbers]
    return pa.record_batch({"row": numbers, "score": [None if n == 1 else n / 7 for n in numbers], "why": pa.array(reasons, FEATURE)})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "x.csv"


def left(output: Path) -> list[str]:
    return sorted(str(path.relative_to(output.parent)) for path in output.parent.rglob("*"))


def leave(output: Path, *parts: tuple[int, int]) -> None:
    """Begin, keep parts of ``rows`` from ``first`` on, and be interrupted."""
    with suppress(KeyboardInterrupt), score_workdir.claim(output) as unfinished:
        unfinished.begin(MADE_FROM, restart=True)
        for first, rows in parts:
            assert unfinished.keep(first, [batch(first, rows - 1), batch(first + rows - 1, 1)], {"rows": first + rows})
        raise KeyboardInterrupt


def test_parts_come_back_as_they_were(output: Path) -> None:
    leave(output, (0, 3), (3, 4))
    with score_workdir.claim(output) as unfinished:
        parts = unfinished.begin(MADE_FROM, restart=False)
        assert [(part.first, part.rows, part.counted) for part in parts] == [(0, 3, {"rows": 3}), (3, 4, {"rows": 7})]
        rows = pa.Table.from_batches([b for part in parts for b in part.batches()])
        assert rows.schema.equals(batch(0).schema, check_metadata=True)
        assert rows.to_pylist() == batch(0, 7).to_pylist()
    assert left(output) == []


def test_parts_beyond_a_gap_or_half_written_are_removed(output: Path) -> None:
    leave(output, (0, 3), (3, 4), (7, 2), (9, 2))
    folder = claim.folder_of(output)
    (folder / "000000000000007.arrow").write_bytes((folder / "000000000000007.arrow").read_bytes()[:-20])
    (folder / "000000000000011.part").write_bytes(b"half")
    with suppress(KeyboardInterrupt), score_workdir.claim(output) as unfinished:
        assert [part.first for part in unfinished.begin(MADE_FROM, restart=False)] == [0, 3]
        raise KeyboardInterrupt
    assert sorted(path.name for path in folder.iterdir()) == ["000000000000000.arrow", "000000000000003.arrow", "lock", "request.json"]


@pytest.mark.parametrize(
    ("made_from", "restart", "why"),
    [
        ({**MADE_FROM, "options": {"top": 4}}, False, "another request (other options)"),
        ({"inputs": {"a.csv": [1, 3]}, "options": {}}, False, "another request (other inputs and options)"),
        (MADE_FROM, True, "--overwrite"),
    ],
)
def test_parts_of_something_else_are_removed(
    output: Path, made_from: dict[str, object], why: str, caplog: pytest.LogCaptureFixture, *, restart: bool
) -> None:
    leave(output, (0, 3))
    with caplog.at_level(logging.INFO), score_workdir.claim(output) as unfinished:
        assert unfinished.begin(made_from, restart=restart) == ()
        assert left(output)[1:] == [".x.csv.resume/lock", ".x.csv.resume/request.json"]
    assert caplog.messages == [f"not resuming the interrupted job of {output}: {why}; starting over"]


def test_parts_of_another_format_are_removed(output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    leave(output, (0, 3))
    monkeypatch.setattr(score_workdir, "WORKDIR_FORMAT", 2)
    with caplog.at_level(logging.INFO), score_workdir.claim(output) as unfinished:
        assert unfinished.begin(MADE_FROM, restart=False) == ()
    assert caplog.messages == [f"not resuming the interrupted job of {output}: another request (other version); starting over"]


def test_without_a_readable_request_nothing_counts(output: Path) -> None:
    leave(output, (0, 3))
    (claim.folder_of(output) / "request.json").write_text("[", encoding="utf-8")
    with score_workdir.claim(output) as unfinished:
        assert unfinished.begin(MADE_FROM, restart=False) == ()
        assert not unfinished.has_progress()


def test_notes_are_read_back_and_replaced(output: Path) -> None:
    with score_workdir.claim(output) as unfinished:
        assert unfinished.noted("ranks") is None
        unfinished.note("ranks", {"rows": 1})
        unfinished.note("ranks", {"rows": 2, "at": 0.1 + 0.2})
        assert unfinished.noted("ranks") == {"rows": 2, "at": 0.1 + 0.2}


def test_a_part_that_was_changed_in_between(output: Path) -> None:
    leave(output, (0, 300))
    with score_workdir.claim(output) as unfinished:
        (part,) = unfinished.begin(MADE_FROM, restart=False)
        part.path.write_bytes(b"nothing")
        with pytest.raises(OutputError) as error:
            list(part.batches())
    assert str(error.value) == f"{part.path} was changed after it was written. Run the job again: it starts over."


# ── one process at a time ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_the_second_claim_is_refused_and_harms_nothing(output: Path) -> None:
    with score_workdir.claim(output) as unfinished:
        unfinished.keep(0, [batch(0)], {})
        before = left(output)
        with pytest.raises(OutputError) as error, score_workdir.claim(output):
            pytest.fail("two at once")
        assert (
            str(error.value) == f"{output} is being written by another process (PID {os.getpid()}). Wait for it, or name another with -o."
        )
        score_workdir.remove_leftovers(output)
        assert left(output) == before
    with score_workdir.claim(output):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_an_owner_that_has_not_said_yet_who_it_is(output: Path) -> None:
    with score_workdir.claim(output):
        (claim.folder_of(output) / "lock").write_bytes(b"")
        with pytest.raises(OutputError) as error, score_workdir.claim(output):
            pytest.fail("two at once")
    assert str(error.value) == f"{output} is being written by another process (PID unknown). Wait for it, or name another with -o."


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_the_lock_of_a_folder_that_was_removed_is_none(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lock is got just when its owner has removed the folder; the second one counts."""
    real, opened = os.open, list[int]()

    def late(path: Path, flags: int, mode: int = 0o777) -> int:
        handle = real(path, flags, mode)
        if Path(path).name == "lock":
            opened.append(handle)
            if len(opened) == 1:
                Path(path).unlink()
        return handle

    monkeypatch.setattr(os, "open", late)
    with score_workdir.claim(output), pytest.raises(OutputError), score_workdir.claim(output):
        pytest.fail("two at once")
    assert len(opened) == 3


def test_a_file_system_without_locks_is_remarked_upon(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with score_workdir.claim(output):
        pass
    assert caplog.messages == ["this file system has no locks (No locks available): do not write the same output twice at once"]


def test_what_killed_processes_left_is_swept(output: Path) -> None:
    dead = 2**22 + 1  # above the largest process number of Linux
    for name in (f".x.csv.{dead}.part", f".x.csv.manifest.json.{dead}.part", f".y.csv.{dead}.part"):
        (output.parent / name).write_text("half", encoding="utf-8")
    with score_workdir.claim(output):
        pass
    assert left(output) == [f".y.csv.{dead}.part"]


def test_until_the_end_a_folder_that_is_removed_says_whose_it_is(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it tidies up, a job is known by its request when it is run again."""
    leave(output, (0, 3))
    folder, real, gone = claim.folder_of(output), Path.unlink, list[str]()

    def look(path: Path, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002  (as Path has it)
        gone.append(path.name)
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", look)
    claim.remove(folder)
    assert gone == ["000000000000000.arrow", "request.json", "lock"]
    assert not folder.exists()


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("error", "stays"), [(OutputError, False), (DataError, False), (KeyboardInterrupt, True), (ValueError, True)])
def test_what_stays_after_an_error(output: Path, error: type[BaseException], *, stays: bool) -> None:
    with suppress(error), score_workdir.claim(output) as unfinished:
        unfinished.begin(MADE_FROM, restart=False)
        unfinished.keep(0, [batch(0)], {})
        raise error("an error")
    assert bool(left(output)) == stays


def test_what_was_finished_stays_where_an_input_could_not_be_read(output: Path) -> None:
    with suppress(DataError), score_workdir.claim(output) as unfinished:
        unfinished.begin(MADE_FROM, restart=False)
        unfinished.keep(0, [batch(0)], {})
        raise DataError("the server does not answer") from OSError()
    assert left(output) != []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as error, score_workdir.claim(tmp_path / "no" / "x.csv"):
        pytest.fail("nothing can be written there")
    assert str(error.value) == (
        f"{tmp_path}/no/x.csv cannot be written: its folder does not exist. Make the folder or write elsewhere with -o."
    )


@pytest.mark.parametrize(("code", "kept"), [(errno.ENOSPC, False), (errno.EDQUOT, False)])
def test_on_a_full_disk_all_parts_make_way(output: Path, monkeypatch: pytest.MonkeyPatch, code: int, *, kept: bool) -> None:
    with score_workdir.claim(output) as unfinished:
        assert unfinished.keep(0, [batch(0)], {})
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
        assert unfinished.keep(3, [batch(3)], {}) == kept
        assert left(output)[1:] == [".x.csv.resume/lock"]


def test_another_error_of_the_disk_is_one_line(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with score_workdir.claim(output) as unfinished:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EROFS, os.strerror(errno.EROFS))))
        with pytest.raises(OutputError) as error:
            unfinished.keep(0, [batch(0)], {})
    assert str(error.value) == f"{output} cannot be written: the file system is read-only. Write elsewhere with -o."
    assert left(output) == []
