"""What both fuzz targets share: what a crash is, how much memory one input may take, and how a run starts.

A crash is every exception that is not one of ours, an error of ours that is not one line, an allocation of more than 1 GB (the address
space refuses it), and more than 10 seconds for one input (libFuzzer's ``-timeout``, set by ``run.py``). A crash that leaves Python
alive is written down, the first of its kind with its input, and the run goes on; what kills the process, ``run.py`` writes down.
"""

import hashlib
import os
import re
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import atheris
import pyarrow as pa

from vae_anomaly.errors import VaeAnomalyError

MOST_BYTES = 1_000_000_000
# A refused allocation may come back in words of ours; it is a crash all the same.
LONGEST_LINE = 2000
# What differs between two crashes of one kind: what is quoted, numbers, paths.
QUOTED = r"'[^']*'|\"[^\"]*\"|\d[\d,]*|/\S+"
REFUSED = ("allocat", "out of memory")


class Crash(AssertionError):
    """Something that may not happen, though no exception says so."""


@contextmanager
def refusals(*kinds: type[VaeAnomalyError]) -> Iterator[None]:
    """Let these errors pass if they are one line of bearable length, and are not about memory."""
    try:
        yield
    except kinds as error:
        text = str(error)
        if len(text.splitlines()) != 1 or len(text) > LONGEST_LINE:
            raise Crash(f"the error is not one line of at most {LONGEST_LINE:,} characters: {text[:1000]!r}") from error
        if any(word in text for word in REFUSED):
            raise Crash(f"an allocation of more than {MOST_BYTES:,} bytes: {text!r}") from error


def fuzz(
    one_input: Callable[[bytes], None],
    seeds: Callable[[Path], None],
    mutate: Callable[[bytes, int, int], bytes] | None = None,
) -> None:
    """Write seeds (``--seeds FOLDER``), run single inputs (``--replay FILE…``), or fuzz with libFuzzer's arguments."""
    pa.set_cpu_count(1)
    if sys.argv[1] == "--seeds":
        seeds(Path(sys.argv[2]))
        return
    if sys.argv[1] == "--replay":
        for path in sys.argv[2:]:
            one_input(Path(path).read_bytes())
        return
    atheris.Setup(sys.argv, _watched(one_input, Path(os.environ["CRASHES"])), custom_mutator=mutate)
    _limit_memory()
    atheris.Fuzz()


def _limit_memory() -> None:
    """Let the process grow by 1 GB from here on and no further, so that a larger allocation fails whether it is touched or not."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def _watched(one_input: Callable[[bytes], None], crashes: Path) -> Callable[[bytes], None]:
    """Return the target that writes crashes down by their kind: the exception and the innermost line of ours."""

    def run(data: bytes) -> None:
        try:
            one_input(data)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what we look for
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "vae_anomaly" in f.filename or "fuzz" in f.filename]
            kind = f"{type(error).__name__} {Path(ours[-1].filename).name}:{ours[-1].lineno}"
            if isinstance(error, Crash):
                kind += f" {re.sub(QUOTED, '…', str(error))[:120]}"
            path = crashes / hashlib.sha256(kind.encode()).hexdigest()[:12]
            if not path.exists():
                path.write_bytes(data)
                path.with_suffix(".txt").write_text(f"{kind}\n{''.join(traceback.format_exception(error))}", encoding="utf-8")

    return run
