"""Fuzz target: load an artifact and score three rows with it. ``run.py`` starts it.

An input is one byte of switches, the length of a manifest, the manifest and the weights. The mutator knows both: it exchanges values
of the JSON and of the safetensors header, cuts and flips bytes of the tensors. Three times out of four the digests are made right
again, so that what lies behind them is reached.
"""

import hashlib
import json
import math
import random
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import atheris
import pyarrow as pa

with atheris.instrument_imports(include=["vae_anomaly"]):
    from vae_anomaly import artifact
    from vae_anomaly.detector.detector import Detector
    from vae_anomaly.detector.stream import ScoreOptions, score_batches
    from vae_anomaly.errors import ArtifactError, DataError, NotCalibrated

from limits import Crash, fuzz, refusals

# Switches: leave digests as they are; leave the manifest's list of tensors as it is; the weights are a link, a folder, absent.
RAW, UNLISTED, LINK, INSIDE, ABSENT = 1, 2, 4, 8, 16
WHOLE: list[bytes] = []
FRESH = 0.3
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, 1e-9, "", "0", "a", "é", "\0", "../x", "/etc/passwd", "C:\\x", "a" * 300, "cpu", "cuda:0"),
    *([], {}, [0], [[]], [1, 2, 3], [10**9], {"a": 1}, [None], [2**40, 2**40]),
)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3")
FOLDER = Path(tempfile.gettempdir(), "artifact")


def packed(flags: int, manifest: bytes, weights: bytes) -> bytes:
    """Return one input."""
    return bytes([flags]) + struct.pack("<I", len(manifest)) + manifest + weights


def unpacked(data: bytes) -> tuple[int, bytes, bytes]:
    """Return switches, manifest and weights of any bytes."""
    flags, size = (data[0] if data else 0), (struct.unpack("<I", data[1:5])[0] if len(data) >= 5 else 0)
    return flags, data[5 : 5 + size], data[5 + size :]


def header_of(weights: bytes) -> tuple[Any, bytes]:
    """Return the parsed header of a safetensors file, or None, and what follows it."""
    size = struct.unpack("<Q", weights[:8])[0] if len(weights) >= 8 else 0
    try:
        return json.loads(weights[8 : 8 + size]), weights[8 + size :]
    except (ValueError, RecursionError):
        return None, weights


def with_header(header: Any, rest: bytes) -> bytes:
    """Return a safetensors file with this header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def stamped(flags: int, manifest: bytes, weights: bytes) -> bytes:
    """Return the manifest with digests, and the list of tensors, that are right, unless the switches say otherwise."""
    try:
        content = json.loads(manifest)
    except (ValueError, RecursionError):
        return manifest
    if flags & RAW or not isinstance(content, dict):
        return manifest
    if isinstance(content.get("digests"), dict):
        content["digests"]["weights.safetensors"] = hashlib.sha256(weights).hexdigest()
    header, _ = header_of(weights)
    if not flags & UNLISTED and isinstance(header, dict):
        content["tensors"] = {name: found for name, entry in header.items() if (found := described(entry)) is not None}
    content.pop("digest", None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content["digest"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps(content).encode()


def described(entry: Any) -> str | None:
    """Return an entry of the header as the manifest writes it."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "U8": "uint8"}
    names |= {"BOOL": "bool", "F8_E4M3": "float8_e4m3fn"}
    known = isinstance(entry, dict) and isinstance(entry.get("shape"), list) and str(entry.get("dtype")) in names
    return f"{names[entry['dtype']]}{entry['shape']}" if known else None


# Mutation


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value below ``tree``."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            yield node, key
            if isinstance(node[key], (dict, list)):
                waiting.append(node[key])


def changed(tree: Any, chance: random.Random) -> Any:  # noqa: C901  # a branch for each kind of change
    """Exchange, remove, double, rename or nest one value of a JSON tree."""
    found = list(places(tree))
    if not found:
        return chance.choice(ODD)
    node, key = chance.choice(found)
    what = chance.randrange(8)
    if what <= 1:
        node[key] = chance.choice(ODD)
    elif what == 2:  # another value of the same tree
        other, place = chance.choice(found)
        node[key] = json.loads(json.dumps(other[place])) if place in other or (isinstance(place, int) and place < len(other)) else None
    elif what == 3:
        del node[key]
    elif what == 4 and isinstance(node, list):
        node.insert(key, node[key])
    elif what == 4:
        node[f"{key}_"] = node.pop(key)
    elif what == 5 and isinstance(node[key], (int, float)):
        node[key] = chance.choice([node[key] + 1, node[key] - 1, -node[key], node[key] * 1000, node[key] * 1.0])
    elif what == 6:
        for _ in range(chance.choice([1, 3, 2000])):
            node[key] = [node[key]] if chance.random() < 0.9 else {"a": node[key]}
    elif isinstance(node[key], list):
        chance.shuffle(node[key])
    return tree


def reshaped(weights: bytes, chance: random.Random) -> bytes:
    """Change the header, the tensors or the length of a safetensors file."""
    header, rest = header_of(weights)
    what = chance.randrange(6)
    entries = [e for e in header.values() if isinstance(e, dict) and isinstance(e.get("shape"), list)] if isinstance(header, dict) else []
    if what == 0 or not entries:
        cut = chance.randrange(len(weights) + 1)
        return chance.choice(
            [weights[:cut], weights + bytes(chance.randrange(64)), struct.pack("<Q", chance.choice([0, 2**40])) + weights[8:]]
        )
    entry = chance.choice(entries)
    if what == 1:
        entry["dtype"] = chance.choice(DTYPES)
    elif what == 2:
        factors, shape = [s for s in entry["shape"] if isinstance(s, int)], entry["shape"]
        entry["shape"] = chance.choice([shape[::-1], [1, *shape], [*shape, 1], [*shape, 0], [math.prod(factors)]])
    elif what == 3 and len(rest) >= 8:
        offsets = entry.get("data_offsets")
        start = offsets[0] if isinstance(offsets, list) and offsets and isinstance(offsets[0], int) else 0
        value = struct.pack(chance.choice(["<d", "<f", "<q"]), chance.choice([0, -1, 1, 2**31, 10**30 % 2**62]))
        value = chance.choice([value, struct.pack("<d", chance.choice([float("nan"), float("inf"), -float("inf"), 1e300]))])
        start = max(0, min(start, len(rest) - 8))
        return with_header(header, rest[:start] + value + rest[start + len(value) :])
    elif what == 4:
        return with_header(changed(header, chance), rest)
    else:
        return with_header(header, atheris.Mutate(rest, len(rest)) if rest else b"")
    return with_header(header, rest)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Return a changed input of at most ``most`` bytes."""
    chance = random.Random(seed)  # noqa: S311  # libFuzzer's seed, so that a run can be had again
    # What is broken early is small and lasts in the corpus; whole artifacts must stay as frequent.
    flags, manifest, weights = unpacked(chance.choice(WHOLE) if WHOLE and chance.random() < FRESH else data)
    flags = chance.choice([0, 0, 0, 0, 0, UNLISTED, RAW, LINK, INSIDE, ABSENT]) if chance.random() < 0.3 else flags
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        try:
            if chance.random() < 0.3:
                weights = reshaped(weights, chance)
            else:
                manifest = json.dumps(changed(json.loads(manifest), chance)).encode()
        except (ValueError, RecursionError, TypeError, OverflowError):  # what was mutated before is no JSON, or too deep
            manifest = atheris.Mutate(manifest, len(manifest) + 64) if manifest else b"{}"
    return packed(flags, manifest, weights)[:most]


# The target


def laid_out(data: bytes) -> None:
    """Write an input as a folder."""
    flags, manifest, weights = unpacked(data)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    (FOLDER / artifact.MANIFEST).write_bytes(stamped(flags, manifest, weights))
    path = FOLDER / artifact.WEIGHTS
    if flags & LINK:
        path.symlink_to("/etc/passwd")
    elif flags & INSIDE:
        path.mkdir()
    elif not flags & ABSENT:
        path.write_bytes(weights)


def three_rows(detector: Detector) -> pa.RecordBatch:
    """Return an ordinary row, an odd one and one without any cell, as the schema of the detector wants them."""
    columns = {
        column.name: pa.array([1.0, 1e300, None]) if column.kind == "numeric" else pa.array([(*column.levels, "a")[0], "odd", None])
        for column in detector.schema.columns
    }
    groups = detector.threshold.groups
    if groups is not None:
        columns.setdefault(groups.column, pa.array(["a", "b", None]))
    return pa.RecordBatch.from_pydict(columns)


def one_input(data: bytes) -> None:
    """Load and score; whatever it is, either it is refused in one line or it gives one result for each row."""
    laid_out(data)
    detector = None
    with refusals(ArtifactError):
        detector = artifact.load(FOLDER)
    with refusals(DataError, NotCalibrated):
        if detector is None:
            return
        found = pa.Table.from_batches(score_batches(detector, [three_rows(detector)], ScoreOptions(explain="all")))
        if found.num_rows != 3:
            raise Crash(f"{found.num_rows} results for 3 rows")


def seeds(folder: Path) -> None:
    """Write the golden artifact and a much smaller one as the first inputs."""
    from tests import tiny

    golden = Path(__file__).parents[2] / "tests/golden/format-1/artifact"
    small = tiny.fit(
        tiny.table("mixed", 60, seed=1), tiny.config(tiny.Case(kind="mixed", size="one", method="cross", prior="exemplar"), steps=2)
    )
    artifact.save(small, FOLDER, replace=True)
    for name, where in (("golden", golden), ("small", FOLDER)):
        content = packed(0, (where / artifact.MANIFEST).read_bytes(), (where / artifact.WEIGHTS).read_bytes())
        (folder / name).write_bytes(content)
        one_input(content)


if __name__ == "__main__":
    WHOLE += [path.read_bytes() for path in sorted(Path("seeds").glob("*"))]
    fuzz(one_input, seeds, mutate)
