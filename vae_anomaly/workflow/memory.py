"""A limit of memory: read, held against what model and libraries need, and turned into rows at a time.

Knows what a row costs while it is scored, not how it is scored.
"""

import re

from vae_anomaly.errors import ConfigError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def size_of(text: str | None) -> int | None:
    """Return a size in bytes: kB, MB, GB are powers of 1,000, KiB, MiB, GiB of 1,024. Raises ConfigError for anything else.

    >>> size_of("1.5GB"), size_of("2GiB")
    (1500000000, 2147483648)
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?i?)b?\s*", text, flags=re.IGNORECASE)
    unit = UNITS.get(found[2].lower()) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size < 1:
        raise ConfigError(f"--memory-limit must be a size as 500MB, 1.5GB or 2GiB; got {text!r}")
    return size
