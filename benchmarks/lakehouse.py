"""Score a Delta table and the same rows as plain Parquet, each in a process of its own: seconds, processor time and peak memory.

    python benchmarks/lakehouse.py [GIGABYTES]

Needs the extra ``delta``. Writes ``benchmarks/results/lakehouse.md``.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measured import measured, processor

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
            f"{processor()}, load {os.getloadavg()[0]:.1f} before; one network.",
            "",
            "| options | table | seconds | processor seconds | peak memory |",
            "|---|---|---|---|---|",
        ]
        for given in ([], ["--memory-limit", "900MB"]):
            for name in ("parquet", "delta"):
                out = ["-o", folder / "o.parquet", "--overwrite", "--quiet"]
                took = measured("score", folder / name, "-m", folder / "m", *out, *given)
                cells = (" ".join(given) or "none", name, f"{took.seconds:.1f}", f"{took.processor:.1f}", f"{took.peak:.0f} MB")
                lines.append(f"| {' | '.join(cells)} |")
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
