"""Score a Delta table and the same rows as plain Parquet, each in a process of its own: seconds, processor time and peak memory.

    python benchmarks/lakehouse.py [GIGABYTES]

Needs the extra ``delta``. Writes ``benchmarks/results/lakehouse.md``.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS, FILE_ROWS = 8, 2_000_000
RESULT = Path(__file__).parent / "results" / "lakehouse.md"


def rows(count: int, seed: int) -> pa.Table:
    """Return correlated numbers, incompressible as those of sensors."""
    generator = np.random.default_rng(seed)
    load = generator.normal(size=count)
    return pa.table({f"x{i}": load + generator.normal(size=count) for i in range(COLUMNS)})


def make(folder: Path, files: int) -> int:
    """Write the table as Delta, delete some of its rows, and copy what is left to Parquet; return its bytes."""
    from deltalake import DeltaTable, write_deltalake

    for i in range(files):
        write_deltalake(folder / "delta", rows(FILE_ROWS, i), mode="append")
    DeltaTable(folder / "delta").delete("x0 > 4")
    (folder / "parquet").mkdir()
    live = DeltaTable(folder / "delta").file_uris()
    for i, uri in enumerate(live):
        os.link(uri, folder / "parquet" / f"{i:05d}.parquet")
    return sum(Path(uri).stat().st_size for uri in live)


def score(folder: Path, name: str, *options: str) -> tuple[float, float, float]:
    """Score in a new process; return its seconds, those of the processor, and peak memory in MB."""
    command = [sys.executable, "-m", "vae_anomaly", "score", str(folder / name), "-m", str(folder / "m"), "--overwrite", *options]
    began, child = time.perf_counter(), subprocess.Popen([*command, "-o", str(folder / "o.parquet"), "--quiet"], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, (command, status)
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Measure, and write the result."""
    size = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    files = max(1, round(size * 1e9 / (FILE_ROWS * COLUMNS * 8)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written = make(folder, files)
        pq.write_table(rows(3000, 99), folder / "fit.parquet")
        (folder / "one.toml").write_text('model.views = ["standard"]\n', encoding="utf-8")
        options = ["--steps", "60", "--config", str(folder / "one.toml"), "--no-tracking", "-o", str(folder / "m"), "--quiet"]
        subprocess.run([sys.executable, "-m", "vae_anomaly", "fit", str(folder / "fit.parquet"), *options], check=True)
        lines = [
            f"# Lakehouse tables: {written / 1e9:.2f} GB in {files} files, {files * FILE_ROWS:,} rows of {COLUMNS} numbers",
            "",
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; one network.",
            "On a busy machine the processor time is what compares.",
            "",
            "| options | table | seconds | processor seconds | peak memory |",
            "|---|---|---|---|---|",
        ]
        for given in ([], ["--memory-limit", "900MB"]):
            for name in ("parquet", "delta"):
                seconds, busy, memory = score(folder, name, *given)
                lines.append(f"| {' '.join(given) or 'none'} | {name} | {seconds:.1f} | {busy:.1f} | {memory:.0f} MB |")
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
