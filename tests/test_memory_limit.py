"""A limit of memory: how it is written, what is refused, and that a process keeps within it."""

import logging
import math
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.tiny import Case, detector, table
from vae_anomaly import artifact
from vae_anomaly.errors import ConfigError
from vae_anomaly.jobs import memory
from vae_anomaly.workflow import memory_plan
from vae_anomaly.workflow.memory_plan import MemoryPlan, plan_memory, size_of, watched

MB = 10**6


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500 * MB), ("1.5GB", 1_500 * MB), ("2GiB", 2**31), ("2gib", 2**31), (" 64 kB ", 64_000), ("1T", 10**12), (".5k", 500)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


def test_no_limit() -> None:
    assert size_of(None) is None
    assert plan_memory(None, chunk_rows=7, columns=3, all_explained=True) == MemoryPlan(chunk_rows=7)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "1.5.5GB", "1GX", "GB", "1 G B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        size_of(text)
    assert str(error.value) == f"--memory-limit must be a size as 500MB, 1.5GB or 2GiB; got {text!r}"


@pytest.mark.parametrize("text", ["1.5", "500", " 2 ", ".5"])
def test_a_size_without_a_unit(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        size_of(text)
    bare = text.strip()
    assert str(error.value) == (f"--memory-limit {bare} has no unit, and that many bytes hold nothing; write {bare}MB or {bare}GB.")
    assert (size_of("1500000000"), size_of("500B")) == (1_500 * MB, 500)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> int:
    """A process that holds 400 MB, with all the address space there is."""
    monkeypatch.setattr(memory, "resident", lambda: 400 * MB)
    monkeypatch.setattr(memory, "space_left", lambda: math.inf)
    return 400 * MB


def test_rows_at_a_time_follow_from_the_room(held: int) -> None:
    start = memory_plan.START_BYTES + 20 * memory_plan.COLUMN_BYTES
    row = 16 * (20 * 8 + 64)
    room = 5000 * row
    found = plan_memory(held + start + room, chunk_rows=65_536, columns=20, all_explained=False)
    assert found == MemoryPlan(chunk_rows=5000, chunk_bytes=room // 12, part_bytes=room // 12)
    assert plan_memory(held + start + room, chunk_rows=100, columns=20, all_explained=False).chunk_rows == 100
    assert plan_memory(held + start + room, chunk_rows=65_536, columns=20, all_explained=True).chunk_rows == room // (row + 6144)
    assert plan_memory(100 * 10**9, chunk_rows=65_536, columns=20, all_explained=True) == MemoryPlan(chunk_rows=65_536)


def test_too_little_is_refused_with_what_is_needed(held: int) -> None:
    least = math.ceil((held + memory_plan.START_BYTES + 20 * memory_plan.COLUMN_BYTES + 1024 * 16 * (20 * 8 + 64)) / MB)
    with pytest.raises(ConfigError) as error:
        plan_memory(450 * MB, chunk_rows=65_536, columns=20, all_explained=False)
    assert str(error.value) == f"--memory-limit 450 MB is less than this model and its libraries need; give at least {least} MB."
    assert plan_memory(least * MB, chunk_rows=65_536, columns=20, all_explained=False).chunk_rows >= 1024


@pytest.mark.usefixtures("held")
def test_a_limit_of_the_address_space_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    start = memory_plan.START_BYTES + 20 * memory_plan.COLUMN_BYTES
    monkeypatch.setattr(memory, "space_left", lambda: start + 5000 * 16 * (20 * 8 + 64))
    assert plan_memory(9000 * MB, chunk_rows=65_536, columns=20, all_explained=False).chunk_rows == 5000
    monkeypatch.setattr(memory, "space_left", lambda: 100 * MB)
    with pytest.raises(ConfigError) as error:
        plan_memory(9000 * MB, chunk_rows=65_536, columns=20, all_explained=False)
    assert str(error.value) == "the address space has a limit (ulimit -v) that leaves 100 MB; 251 MB are needed. Raise it."


def test_what_the_process_holds() -> None:
    before = memory.resident()
    block = np.ones(50 * MB // 8)
    assert 40 * MB < memory.resident() - before < 80 * MB
    assert before > 10 * MB
    del block
    memory.give_back()


def test_the_address_space_that_is_left() -> None:
    code = "import resource; from vae_anomaly.jobs import memory; resource.setrlimit(resource.RLIMIT_AS, (10**12, 10**12)); print(memory.space_left())"  # noqa: E501  # one line of Python
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 9.8e11 < float(done.stdout) < 1e12
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        assert memory.space_left() == math.inf


def test_what_is_free_is_given_back_near_the_limit_and_more_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, sizes = [], iter([50, 95, 60, 120, 110, 130, 120])
    monkeypatch.setattr(memory, "resident", lambda: next(sizes) * MB)
    monkeypatch.setattr(memory, "give_back", lambda: calls.append(1))
    with caplog.at_level(logging.WARNING, logger="vae_anomaly"):
        assert list(watched(iter("abcd"), 100 * MB)) == list("abcd")
    assert len(calls) == 3
    assert caplog.messages == ["the process holds 110 MB, more than --memory-limit allows"]
    assert list(watched(iter("ab"), None)) == ["a", "b"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from there")
@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
def test_a_process_keeps_within_its_limit(tmp_path: Path, name: str) -> None:
    """A key of 600 letters, copied through: 100 MB of it, in one row group, under the least limit that is taken."""
    artifact.save(detector(Case(kind="numeric", size="one", method="split", prior="standard")), tmp_path / "model")
    whole = table("numeric", 150_000, seed=5)
    keys = np.random.default_rng(0).integers(97, 123, size=150_000 * 600, dtype=np.uint8).tobytes().decode()
    whole = whole.append_column("key", pa.array([keys[600 * i : 600 * i + 600] for i in range(150_000)]))
    if name.endswith("parquet"):
        pq.write_table(whole, tmp_path / name, row_group_size=150_000, use_dictionary=False)
    else:
        pa.csv.write_csv(whole, tmp_path / name)
    code = (
        "import re, runpy, sys\n"
        "try: runpy.run_module('vae_anomaly', run_name='__main__')\n"
        "finally: print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)\n"
    )
    words = ["score", str(tmp_path / name), "-m", str(tmp_path / "model"), "-o", str(tmp_path / "out.parquet"), "--id-columns", "key", "-q"]

    def run(limit: int) -> tuple[int, str]:
        command = [sys.executable, "-c", code, *words, "--memory-limit", f"{limit}MB"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    code_of_refusal, said = run(100)
    least = re.search(r"give at least (\d+) MB", said)
    assert code_of_refusal == 2
    assert least is not None
    ended, said = run(int(least[1]) + 30)
    assert ended == 0
    assert int(said.splitlines()[-1]) * 1024 < (int(least[1]) + 30) * MB
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 150_000
