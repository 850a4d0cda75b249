"""``<output>.manifest.json``: what an output was made from, so that the same job again is known to be done.

Knows no models and no scores: ``made_from`` and ``counts`` are plain JSON values that the caller compares. A job first writes a
manifest with the state *started*, then the output, then the state *complete*; killed in between it may simply run again.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vae_anomaly.edges.outputs import writing
from vae_anomaly.edges.publish import write_durably

FORMAT = 1
SUFFIX = ".manifest.json"
# A manifest lists its inputs; 100,000 files are about 20 MB. What is larger is not ours.
MAX_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that was read: ``made_from`` inputs, model and options; ``bytes`` of the output and ``counts`` once complete.

    ``counted`` is what the counts came from, so that those of several outputs can be put together.
    """

    complete: bool
    made_from: Mapping[str, Any]
    bytes: int
    counts: Mapping[str, Any]
    counted: Mapping[str, Any] = field(default_factory=dict)


def path_of(output: Path) -> Path:
    """Return where the manifest of an output lies."""
    return output.with_name(f"{output.name}{SUFFIX}")


def read(output: Path) -> Manifest | None:
    """Return the manifest of an output; None where there is none, or none that can be read."""
    path = path_of(output)
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        return parsed(path.read_bytes())
    except OSError:
        return None


def parsed(content: bytes) -> Manifest | None:
    """Return the manifest in a text; None where it is none."""
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            return None
        return Manifest(
            complete=found["state"] == "complete",
            made_from=dict(found["made_from"]),
            bytes=int(found["bytes"]),
            counts=dict(found["counts"]),
            counted=dict(found.get("counted") or {}),
        )
    except (ValueError, KeyError, TypeError):
        return None


def as_started(content: bytes) -> bytes:
    """Return the manifest of an output that is on its way, from that of the whole one."""
    return _text({**json.loads(content), "state": "started", "bytes": 0, "counts": {}, "counted": {}}).encode()


@contextmanager
def started(output: Path, made_from: Mapping[str, Any]) -> Iterator[None]:
    """Say that an output is being made; whatever the block raises, the manifest is then what it was before."""
    path = path_of(output)
    before = path.read_bytes() if path.is_file() else None
    _write(output, {"format": FORMAT, "state": "started", "made_from": made_from, "bytes": 0, "counts": {}, "counted": {}})
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink() if before is None else path.write_bytes(before)
        raise


def complete(output: Path, made_from: Mapping[str, Any], counts: Mapping[str, Any], counted: Mapping[str, Any] | None = None) -> None:
    """Say that an output is whole, and what was counted on the way."""
    size = output.stat().st_size
    found = {"format": FORMAT, "state": "complete", "made_from": made_from, "bytes": size, "counts": counts, "counted": counted or {}}
    _write(output, found)


def _write(output: Path, content: Mapping[str, Any]) -> None:
    """Replace the manifest in one step. Raises OutputError."""
    path = path_of(output)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(output):
        try:
            temporary.unlink(missing_ok=True)
            write_durably(temporary, _text(content).encode())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _text(content: Mapping[str, Any]) -> str:
    return f"{json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)}\n"
