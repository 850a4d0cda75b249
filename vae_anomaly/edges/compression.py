"""Whether a file is compressed as its name says: by its first bytes, before anything is unpacked.

Knows names and bytes. Text is unpacked by the ending of its name; Parquet and Arrow compress inside.
"""

import re
from pathlib import PurePosixPath

# How a compressed file begins, what that is, and the ending by which it is unpacked.
_KINDS = (
    (rb"\x1f\x8b", "gzip", ".gz"),
    (rb"\(\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "Zstandard", ".zst"),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P)", "bzip2", ".bz2"),
    (rb"\xfd7zXZ\0", "xz", ""),
    (rb"\x1f\x9d", "compress", ""),
)
_UNPACKED = {ending: kind for _, kind, ending in _KINDS if ending}
# What Arrow calls that by which text is unpacked, by the ending.
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_INSIDE = re.compile(r"\.(parquet|pq|arrows?|feather|ipc)$", re.IGNORECASE)
_OF_CONTENT = re.compile("inflate failed|decompress failed|Truncated compressed stream|deserialize thrift", re.IGNORECASE)


def complaint(head: bytes, location: str) -> str:
    """Return what is wrong with a file of this name that begins so, for the end of an error; empty if nothing is.

    >>> complaint(b"a,b", "x.csv.gz")
    'is not compressed with gzip as its name says. Name it x.csv, or copy it again'
    """
    path = PurePosixPath(location)
    ending = path.suffix
    kind, by = next(((kind, by) for begin, kind, by in _KINDS if re.match(begin, head)), ("", ""))
    if not kind:
        said = _UNPACKED.get(ending.lower())
        return f"is not compressed with {said} as its name says. Name it {path.stem}, or copy it again" if said else ""
    if not by:
        return f"is compressed with {kind}, which is not read. Unpack it, or compress it with gzip"
    plain = path.stem if ending.lower() in _UNPACKED else path.name
    if _INSIDE.search(plain):
        return f"is compressed with {kind} as a whole; Parquet and Arrow compress inside. Unpack it"
    return "" if ending.lower() == by else f"is compressed with {kind}, and its name does not end in {by}. Name it {plain}{by}"


def advice(error: OSError, path: str) -> str:
    """Return what to do, with a full stop in front, where the content of a file is at fault and not the way to it."""
    # What the operating system says has a number; an object store has none either.
    local = error.errno is None and "://" not in path
    return ". Write or copy it again." if local or _OF_CONTENT.search(str(error)) else ""
