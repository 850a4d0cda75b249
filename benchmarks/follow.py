"""``follow``: lines a second on one core, the delay of an answer at 1,000 lines a second, and kills, 20 columns.

    python benchmarks/follow.py [--lines 50000] [--kills 20]

Rows are made: a random walk behind 20 columns. The delay is from the write of a line to its answer in the output, of 10 seconds. Writes
results/follow.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
from measured import measured, processor

RESULTS = Path(__file__).parent / "results"
COLUMNS, FIT_ROWS = 20, 5000


def made(rows: int, seed: int) -> pd.DataFrame:
    """Return rows of 20 columns in time, a second apart."""
    random = np.random.default_rng(seed)
    level = np.zeros((rows, 3))
    for i in range(1, rows):
        level[i] = 0.99 * level[i - 1] + 0.1 * random.normal(size=3)
    values = level @ np.random.default_rng(0).normal(size=(3, COLUMNS)) + 0.05 * random.normal(size=(rows, COLUMNS))
    table = pd.DataFrame(values.round(4), columns=[f"x{j:02d}" for j in range(COLUMNS)])
    table.insert(0, "time", pd.date_range("2025-01-01", periods=rows, freq="s"))
    return table


def command(*words: str | Path) -> list[str]:
    """Return a command of follow."""
    return [sys.executable, "-m", "vae_anomaly", "follow", *map(str, words), "--threads", "1", "-q"]


def rate(folder: Path, lines: list[str]) -> float:
    """Return lines a second of a whole file, without the start of the process."""
    seconds = []
    for count in (len(lines) // 10, len(lines)):
        (folder / "rows.csv").write_text("".join(lines[: count + 1]))
        began = time.perf_counter()
        subprocess.run(command(folder / "rows.csv", "-m", folder / "m", "-o", folder / f"rate{count}.jsonl", "--until-end"), check=True)
        seconds.append(time.perf_counter() - began)
    return (len(lines) - len(lines) // 10) / (seconds[1] - seconds[0])


def delays(folder: Path, lines: list[str], each_second: int) -> np.ndarray:
    """Return the delay of every answer in seconds, of lines that are written to standard input at this rate."""
    child = subprocess.Popen(command("-m", folder / "m"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    sent, got = np.zeros(len(lines) - 1), np.full(len(lines) - 1, np.nan)

    def read() -> None:
        for text in child.stdout:
            answer = json.loads(text)
            if "line" in answer:
                got[answer["line"]] = time.perf_counter()

    reader = Thread(target=read)
    reader.start()
    child.stdin.write((lines[0] + "".join(lines[1:101])).encode())
    child.stdin.flush()
    while np.isnan(got[99]):  # the process has started
        time.sleep(0.01)
    began = time.perf_counter()
    for i, line in enumerate(lines[101:], 100):
        wait = began + (i - 100) / each_second - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        sent[i] = time.perf_counter()
        child.stdin.write(line.encode())
        child.stdin.flush()
    child.stdin.close()
    reader.join()
    child.wait()
    return (got - sent)[100:]


def kills(folder: Path, lines: list[str], count: int) -> tuple[int, bool]:
    """Kill a stream so many times while its file grows; return its answered lines and whether they are those of one run."""
    grow, out, state = (folder / name for name in ("grow.csv", "grow.jsonl", "state.json"))
    grow.write_text(lines[0])
    step = (len(lines) - 1) // (count + 1)
    for i in range(count + 1):
        with grow.open("a") as file:
            file.write("".join(lines[1 + i * step : 1 + (i + 1) * step if i < count else None]))
        size = out.stat().st_size if out.exists() else 0
        words = command(grow, "-m", folder / "m", "-o", out, "--state", state)
        child = subprocess.Popen([*words, "--until-end"] if i == count else words)
        if i < count:
            while not out.exists() or out.stat().st_size <= size:
                time.sleep(0.01)
            time.sleep(float(np.random.default_rng(i).uniform(0, 0.3)))
            child.send_signal(signal.SIGKILL)
        child.wait()
    subprocess.run(command(grow, "-m", folder / "m", "-o", folder / "once.jsonl", "--until-end"), check=True)
    answered = sum('"line"' in text for text in out.read_text().splitlines())
    return answered, out.read_bytes() == (folder / "once.jsonl").read_bytes()


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made(FIT_ROWS, 1).to_csv(folder / "normal.csv", index=False)
        measured("fit", folder / "normal.csv", "--time-column", "time", "--no-tracking", "--output", folder / "m", "-q")
        made(args.lines, 2).to_csv(folder / "all.csv", index=False)
        lines = (folder / "all.csv").read_text().splitlines(keepends=True)
        found = rate(folder, lines)
        late = 1e3 * delays(folder, lines[:10_101], 1000)
        answered, alike = kills(folder, lines[:4001], args.kills)
    rows = [
        ("lines a second, one thread", f"{found:,.0f}"),
        ("delay at 1,000 lines a second, median / 99 % / most", " / ".join(f"{np.percentile(late, q):.1f} ms" for q in (50, 99, 100))),
        (f"lines answered of 4,000 with {args.kills} kills", f"{answered:,}; the bytes of one run without a kill: {alike}"),
    ]
    page = ["# follow", "", f"`python benchmarks/follow.py`; {COLUMNS} columns, {processor()}.", "", "| what | figure |", "|---|---|"]
    (RESULTS / "follow.md").write_text("\n".join([*page, *(f"| {a} | {b} |" for a, b in rows), ""]))
    print("\n".join(f"{a}: {b}" for a, b in rows))


if __name__ == "__main__":
    main()
