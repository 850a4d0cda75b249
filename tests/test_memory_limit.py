"""A process keeps within its memory limit, and what it knows of its memory."""

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
from vae_anomaly.jobs import memory

MB = 10**6


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
