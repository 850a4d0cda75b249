"""Measure one command of vae-anomaly in a process of its own: seconds, processor time and peak memory.

The peak is the process's own ``VmHWM`` (Linux). What ``getrusage`` calls the peak of a child is at least the memory that its parent held
when it started it, and a benchmark that has just made its tables holds a gigabyte.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_RUN = """
import re, sys
from pathlib import Path
peak, sys.argv = sys.argv[1], ["vae-anomaly", *sys.argv[2:]]
from vae_anomaly.cli.app import main
try:
    main()
finally:
    Path(peak).write_text(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of the wall clock and of the processor, and peak memory in MB (10⁶ bytes)."""

    seconds: float
    processor: float
    peak: float


def measured(*command: str | Path) -> Measured:
    """Run ``vae-anomaly command…``; raises AssertionError unless it succeeds."""
    with tempfile.NamedTemporaryFile() as peak:
        given = [str(part) for part in command]
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-c", _RUN, peak.name, *given], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        assert status == 0, (given, status)
        return Measured(seconds=seconds, processor=usage.ru_utime + usage.ru_stime, peak=int(Path(peak.name).read_text()) * 1024 / 1e6)


def processor() -> str:
    """Return the name of the processor and the number of its cores."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
