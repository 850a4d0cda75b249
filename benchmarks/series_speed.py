"""What rows in time cost: fit and score of a made table as time series beside the row-by-row form, in one run.

    python benchmarks/series_speed.py [--rows 10000] [--columns 20] [--today FOLDER] [--repeats 3]

``--today`` is a worktree of the commit to compare with, whose row-by-row form is the baseline; without it that of this commit. Each
command is a process of its own with ``OMP_NUM_THREADS`` as it is set; the medians of the repeats. Writes results/series_speed.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from follow import made
from measured import processor

RESULTS = Path(__file__).parent / "results"


def seconds(package: Path, *words: str | Path) -> float:
    """Return the seconds of one command of the package in a folder."""
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(package)}
    subprocess.run([sys.executable, "-m", "vae_anomaly", *map(str, words)], check=True, env=environment, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--today", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    today = here if args.today is None else args.today.resolve()
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = pa.Table.from_pandas(made(args.rows * 6, 1), preserve_index=False)
        pq.write_table(table.slice(0, args.rows), folder / "normal.parquet")
        pq.write_table(table.slice(args.rows), folder / "new.parquet")
        pq.write_table(table.slice(args.rows, 1000), folder / "few.parquet")
        for repeat in range(args.repeats):
            for form, package, words in (("row by row", today, []), ("in time", here, ["--time-column", "time"])):
                model, common = folder / form.replace(" ", ""), ["--no-tracking", "--overwrite"]
                found.setdefault((form, "fit"), []).append(
                    seconds(package, "fit", folder / "normal.parquet", *words, "--output", model, *common)
                )
                for threads in ("1", "2"):
                    ends = [
                        seconds(package, "score", folder / f"{data}.parquet", "-m", model, "-o",
                                folder / f"{repeat}{form}{threads}{data}.parquet", "--explain", "none", "--threads", threads)
                        for data in ("few", "new")
                    ]  # fmt: skip
                    found.setdefault((form, f"score, {threads} thread(s)"), []).append(ends[1] - ends[0])
    middle = {key: statistics.median(values) for key, values in found.items()}
    lines = [
        f"| {what} | {middle['row by row', what]:.2f} s | {middle['in time', what]:.2f} s | "
        f"{middle['in time', what] / middle['row by row', what]:.2f} × |"
        for what in dict.fromkeys(what for _, what in found)
    ]
    text = f"fit of {args.rows:,} × {args.columns} rows, whole command; score of {5 * args.rows - 1000:,} rows without reasons and start"
    head = ["# What rows in time cost", "", f"`python benchmarks/series_speed.py --today FOLDER`; {text}; {processor()}.", ""]
    page = [*head, "| what | row by row | in time | |", "|---|---|---|---|", *lines, ""]
    (RESULTS / "series_speed.md").write_text("\n".join(page))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
