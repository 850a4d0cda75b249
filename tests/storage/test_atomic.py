import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vae_anomaly.errors import OutputError
from vae_anomaly.storage import atomic

# Writes "new" over "old" in a process that dies at step N: before the N-th write, rename or removal.
DYING = """
import os, shutil, sys
from pathlib import Path
from vae_anomaly.storage import atomic

left = int(sys.argv[2])

def dying(act):
    def step(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return act(*args, **kwargs)
    return step

os.fsync, Path.rename, Path.mkdir, os.unlink, os.rmdir = map(dying, (os.fsync, Path.rename, Path.mkdir, os.unlink, os.rmdir))

def write(stage):
    atomic.write_durably(stage / "a", b"new")
    atomic.write_durably(stage / "b", b"new")

atomic.publish(Path(sys.argv[1]), write, replaces=lambda folder: True)
"""


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def writing(text: str) -> "atomic.Write":
    def write(stage: Path) -> None:
        atomic.write_durably(stage / "a", text.encode())
        atomic.write_durably(stage / "b", text.encode())

    return write


def test_the_folder_and_its_parents_are_made(tmp_path: Path) -> None:
    atomic.publish(tmp_path / "x" / "y" / "model", writing("new"))
    assert content(tmp_path / "x" / "y" / "model") == {"a": "new", "b": "new"}
    assert names(tmp_path / "x" / "y") == ["model"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    atomic.publish(tmp_path / "model", writing("new"))
    assert content(tmp_path / "model") == {"a": "new", "b": "new"}


def test_the_current_folder_can_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    atomic.publish(Path("model"), writing("new"))
    assert content(tmp_path / "here" / "model") == {"a": "new", "b": "new"}


def test_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("precious")
    for replaces in (None, lambda _: False):
        with pytest.raises(OutputError) as refused:
            atomic.publish(tmp_path / "model", writing("new"), replaces=replaces)
        assert str(refused.value) == f"{tmp_path}/model exists and is not empty. Choose another folder, or remove this one first."
    assert content(tmp_path / "model") == {"thesis.txt": "precious"}
    assert names(tmp_path) == ["model"]


def test_a_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious")
    with pytest.raises(OutputError) as refused:
        atomic.publish(tmp_path / "model", writing("new"))
    assert str(refused.value) == f"{tmp_path}/model is a file, and a folder is to be written there. Choose another name."


def test_a_file_where_a_parent_should_be_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as refused:
        atomic.publish(tmp_path / "file" / "model", writing("new"))
    assert str(refused.value) == f"{tmp_path}/file/model cannot be written: file exists at {tmp_path}/file. Nothing was changed there."


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EROFS, "read-only file system")],
)
def test_a_disk_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, why: str) -> None:
    atomic.publish(tmp_path / "model", writing("old"))

    def failing(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OutputError) as refused:
        atomic.publish(tmp_path / "model", writing("new"), replaces=lambda _: True)
    assert str(refused.value) == f"{tmp_path}/model cannot be written: {why}. Nothing was changed there."
    assert content(tmp_path / "model") == {"a": "old", "b": "old"}
    assert names(tmp_path) == ["model"]


def test_a_replacement_that_cannot_be_named_gives_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic.publish(tmp_path / "model", writing("old"))
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial") and target.name == "model":
            raise OSError(errno.EIO, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="input/output error"):
        atomic.publish(tmp_path / "model", writing("new"), replaces=lambda _: True)
    assert content(tmp_path / "model") == {"a": "old", "b": "old"}
    assert names(tmp_path) == ["model"]


def test_an_error_of_the_writer_leaves_nothing(tmp_path: Path) -> None:
    def write(stage: Path) -> None:
        (stage / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic.publish(tmp_path / "model", write)
    assert names(tmp_path) == []


@pytest.mark.parametrize("before", ["old", None])
def test_a_kill_at_any_step_leaves_old_or_new_and_the_next_run_cleans_up(tmp_path: Path, before: str | None) -> None:
    steps, code = 0, 9
    while code:
        folder = tmp_path / str(steps) / "model"
        folder.parent.mkdir()
        if before:
            atomic.publish(folder, writing(before))
        code = subprocess.run([sys.executable, "-c", DYING, str(folder), str(steps)], check=False).returncode
        assert code in {0, 9}
        seen = atomic.present(folder)
        whole = [{"a": text, "b": text} for text in (before, "new") if text]
        assert content(seen) in whole if seen.exists() else before is None
        atomic.publish(folder, writing("newest"), replaces=lambda _: True)
        assert content(folder) == {"a": "newest", "b": "newest"}
        assert names(folder.parent) == ["model"]
        steps += 1
    assert steps > 5


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    others = [".model.partial", ".model.0123456789ab.partial.keep", ".model.x.0123456789ab.partial", ".other.0123456789ab.partial"]
    for name in others:
        (tmp_path / name).mkdir()
    atomic.publish(tmp_path / "model", writing("new"))
    assert names(tmp_path) == sorted([*others, "model"])


def test_two_writers_of_one_folder_never_mix(tmp_path: Path) -> None:
    """The second sweeps the first one's unfinished folder away; the first then fails and publishes nothing."""

    def write(stage: Path) -> None:
        atomic.write_durably(stage / "a", b"first")
        atomic.publish(tmp_path / "model", writing("second"))
        atomic.write_durably(stage / "b", b"first")

    with pytest.raises(OutputError):
        atomic.publish(tmp_path / "model", write)
    assert content(tmp_path / "model") == {"a": "second", "b": "second"}


def test_only_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    alive = f".x[1].csv.{os.getppid()}.part"
    dead = [".x[1].csv.999999001.part", ".other.999999002.part"]
    for name in (alive, *dead, ".note.part"):
        (tmp_path / name).write_bytes(b"half")
    atomic.sweep(tmp_path / "x[1].csv")
    assert names(tmp_path) == sorted([alive, dead[1], ".note.part"])
    atomic.sweep_folder(tmp_path)
    assert names(tmp_path) == sorted([alive, ".note.part"])
