"""What memory this process holds, and how it gives back what it does not need.

Knows nothing about what the memory is for.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pyarrow as pa


def resident() -> int:
    """Return the bytes of memory that this process holds now; where the system does not say, the most that it has held."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:
        return 0


def available() -> float:
    """Return the bytes of memory that there are for this process: the machine's, or less where its group has a limit; infinite if unknown.

    What others hold does not count, so that it is the same from run to run.
    """
    found = [math.inf]
    with suppress(ValueError, OSError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
        for _, controllers, group in (line.split(":", 2) for line in lines):
            found += group_limits(controllers, group)
    return min(found)


def group_limits(controllers: str, group: str, root: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Yield the limits of a control group and of those that it is in, as version 1 and version 2 keep them."""
    folder, name = (root / "memory", "memory.limit_in_bytes") if controllers == "memory" else (root, "memory.max")
    if controllers not in {"", "memory"}:
        return
    inside = PurePosixPath(group.lstrip("/"))
    for place in (inside, *inside.parents):
        with suppress(OSError, ValueError):
            yield float((folder / place / name).read_text(encoding="ascii"))


def space_left() -> float:
    """Return the bytes of address space that this process may still take (``ulimit -v``); infinite where there is no such limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ImportError):
        return math.inf
    return math.inf if limit == resource.RLIM_INFINITY else max(0, limit - pages * resource.getpagesize())


def give_back() -> None:
    """Return memory to the system that is free inside the process."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
