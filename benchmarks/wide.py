"""Fit tables of many columns, each in a process of its own: seconds of the whole command, processor time and peak memory.

    python benchmarks/wide.py [COLUMNS]

Writes ``benchmarks/results/wide.md``.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measured import measured, processor

ROWS, STEPS, CAUSES = 1500, 20, 40
RESULT = Path(__file__).parent / "results" / "wide.md"


def table(columns: int, coded: float) -> pa.Table:
    """Return columns that follow common causes; a share ``coded`` of them is cut into levels of text."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(ROWS, CAUSES)) @ generator.normal(size=(CAUSES, columns)) + generator.normal(size=(ROWS, columns))
    levels = np.array(["low", "usual", "high"])
    cut = round(columns * coded)
    texts = {f"c{i}": levels[np.digitize(values[:, i], [-5.0, 5.0])] for i in range(cut)}
    return pa.table({**texts, **{f"s{i}": values[:, i] for i in range(cut, columns)}})


def main() -> None:
    """Measure, and write the result."""
    columns = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    lines = [
        f"# Wide tables: `fit --steps {STEPS}` of {ROWS:,} rows, whole command",
        "",
        f"{processor()}, load {os.getloadavg()[0]:.1f} before.",
        "",
        "| columns | of them text | seconds | of the processor | peak memory |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for coded in (0.0, 0.25):
            pq.write_table(table(columns, coded), folder / "t.parquet")
            options = ["--steps", str(STEPS), "--no-tracking", "-o", folder / "m", "--overwrite", "--quiet"]
            took = measured("fit", folder / "t.parquet", *options)
            lines.append(f"| {columns:,} | {columns * coded:,.0f} | {took.seconds:.1f} | {took.processor:.1f} | {took.peak:,.0f} MB |")
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
