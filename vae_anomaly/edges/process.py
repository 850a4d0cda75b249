"""What memory this process holds, and how it gives back what it does not need.

Knows nothing about what the memory is for.
"""

import ctypes
import math
import sys
from contextlib import suppress
from pathlib import Path

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
