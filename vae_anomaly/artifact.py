"""Model artifact: a detector as a folder with ``manifest.json`` and ``weights.safetensors``, written atomically.

Nothing in the folder is code, and nothing in it is executed on load. Both files are read once; format, digests, names, types and shapes
are checked, and the detector is built from those same bytes. What the state means is known to ``Detector`` alone.

``manifest.json``::

    {"format": 2, "package": "vae-anomaly", "package_version": "…",
     "digests": {"weights.safetensors": "sha256 of the file"},
     "tensors": {"name": "float32[2, 20, 96]"},
     "state": {…},                        the values of Detector.state()
     "digest": "sha256 of this object without this key, as JSON with sorted keys and no spaces, in UTF-8"}

Format 2 has the tensors ``views.spread`` and, with an exemplar prior, ``groups``; format 1 divides no booleans and has no groups.

The digests detect damage, not attacks: whoever can write the folder can write new digests. Against attacks, nothing is executed, sizes
are bounded by the files themselves, and file names are fixed here and never read from the manifest.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vae_anomaly._version import __version__
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError, DamagedArtifact, UnknownFormat
from vae_anomaly.messages import shorten
from vae_anomaly.storage import atomic

# Number of the newest layout. Raise it when the layout changes: a file, a key of the manifest, or the meaning of a key of ``state`` that
# an older version would read wrongly. A new key of ``state`` with a default for its absence needs no new number.
# 1. Add 1 to FORMAT and describe the new layout in the docstring of this module.
# 2. Keep the old entry of READERS and let it convert the old manifest and tensors to today's. Readers are never removed.
# 3. Save a tiny detector of the new format with ten rows and their scores as tests/golden/format-<n>/. Never rewrite an older one.
# 4. Record it in CHANGELOG.md. Older versions raise UnknownFormat with the command that upgrades them.
FORMAT = 2
# Characters of an error that quotes a damaged file, which may hold a text of any length.
LONGEST_WHY = 300
PACKAGE = "vae-anomaly"
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
KEYS = {"package": str, "package_version": str, "digests": dict, "tensors": dict, "state": dict, "digest": str}
# A manifest of 5,000 columns with 255 levels each has about 20 MB, and the weights with 2,000 exemplars 1 GB; larger files are refused.
MAX_ARTIFACT_BYTES = {MANIFEST: 128 * 2**20, WEIGHTS: 8 * 2**30}

Json = dict[str, Any]
Tensors = dict[str, Tensor]


def save(detector: Detector, folder: Path, *, replace: bool = False) -> None:
    """Write the detector to ``folder`` atomically: after an error or a kill the folder is as it was before.

    The folder must be absent or empty, or with ``replace`` contain an artifact and no other file. Raises OutputError.
    """
    files = _files(*detector.state())

    def write(stage: Path) -> None:
        for name, content in files.items():
            atomic.write_durably(stage / name, content)

    atomic.publish(Path(folder), write, replaces=_is_only_artifact if replace else None)


def load(folder: Path) -> Detector:
    """Load the detector in ``folder``.

    Raises ArtifactError if there is none, UnknownFormat if a newer version wrote it, and DamagedArtifact with the name of the file if
    anything differs from what was saved.
    """
    check_folder(Path(folder))
    folder = atomic.present(Path(folder))
    before = _read(folder / MANIFEST)
    try:
        return _build(folder, before)
    except DamagedArtifact:
        # If another process replaced the folder between the reading of both files, the manifest has changed.
        after = _read(folder / MANIFEST)
        if after == before:
            raise
        return _build(folder, after)


def is_artifact(folder: Path) -> bool:
    """Return whether ``folder`` contains a manifest, intact or damaged; False for a name that no file system takes."""
    try:
        return (atomic.present(folder) / MANIFEST).is_file()
    except OSError:
        return False


def check_folder(folder: Path) -> None:
    """Raise ArtifactError unless ``folder`` contains an artifact, intact or damaged."""
    try:
        _check_present(atomic.present(folder))
    except OSError as error:  # a name that is too long, missing permissions
        raise ArtifactError(f"no model at {folder}: {(error.strerror or str(error)).lower()}.") from error


def _check_present(folder: Path) -> None:
    if not folder.is_dir():
        kind = "it is a file" if folder.exists() else "folder not found"
        raise ArtifactError(f"no model at {folder}: {kind}; expected a folder with {MANIFEST} and {WEIGHTS}.")
    if not any((folder / name).exists() for name in (MANIFEST, WEIGHTS)):
        raise ArtifactError(f"no model at {folder}: the folder has neither {MANIFEST} nor {WEIGHTS}.")


def fingerprint(folder: Path) -> str:
    """Return the first 12 hex digits of the digest in the manifest, which identify the content of a valid artifact."""
    return str(_parse(_read(atomic.present(folder) / MANIFEST), folder / MANIFEST).get("digest"))[:12]


def _is_only_artifact(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} == {MANIFEST, WEIGHTS}


# Writing


def _files(state: Json, tensors: Tensors) -> dict[str, bytes]:
    # Cloned because safetensors refuses tensors that share memory; sorted so that equal detectors give equal bytes.
    tensors = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    weights = safetensors.torch.save(tensors)
    manifest: Json = {
        "format": FORMAT,
        "package": PACKAGE,
        "package_version": __version__,
        "digests": {WEIGHTS: hashlib.sha256(weights).hexdigest()},
        "tensors": {name: _described(tensor) for name, tensor in tensors.items()},
        "state": state,
    }
    manifest["digest"] = _digest(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    return {WEIGHTS: weights, MANIFEST: f"{text}\n".encode()}


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _digest(manifest: Json) -> str:
    """Return the SHA-256 of a manifest without its own digest, independent of indentation and order of keys."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# Reading


def _read(path: Path) -> bytes:
    """Return the content of a regular file in the folder itself, up to its size limit."""
    if not path.is_file():
        raise _damaged(path, "the file is missing")
    if path.resolve().parent != path.parent.resolve():
        raise _damaged(path, "it is a link to a file outside of the folder")
    most = MAX_ARTIFACT_BYTES[path.name]
    try:
        with path.open("rb") as file:
            # The size is checked first: a read of up to the limit would allocate memory for the limit.
            size = os.fstat(file.fileno()).st_size
            content = file.read(size + 1) if size <= most else b""
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    if size > most:
        raise _damaged(path, f"it is larger than {most:,} bytes")
    return content


def _build(folder: Path, manifest_bytes: bytes) -> Detector:
    path = folder / MANIFEST
    manifest = _parse(manifest_bytes, path)
    state, tensors = READERS[_format(manifest, path)](manifest, folder)
    try:
        return Detector.from_state(state, tensors)
    except DamagedArtifact as error:
        raise _damaged(path, str(error).rstrip(".")) from error


def _parse(content: bytes, path: Path) -> Json:
    try:
        manifest = json.loads(content.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_repeats)
        # Lone surrogates cannot be encoded, so the digest would fail.
        json.dumps(manifest, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON as this package writes it ({error})") from error
    if not isinstance(manifest, dict):
        raise _damaged(path, "it is not a JSON object")
    return manifest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_constant(text)


def _no_repeats(pairs: list[tuple[str, Any]]) -> Json:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return unique


def _format(manifest: Json, path: Path) -> int:
    """Return the format number; checked first, because a newer manifest may have any other content."""
    number = manifest.get("format")
    if type(number) is not int or number < 1:
        raise _damaged(path, f"its format is {number!r}, not a number of 1 or more")
    if number > FORMAT:
        text = f"{path.parent} was written by a newer version (format {number}; this one reads {FORMAT}). "
        raise UnknownFormat(text + "Upgrade: pip install -U vae-anomaly")
    return number


def _read_format_1(manifest: Json, folder: Path) -> tuple[Json, Tensors]:
    """Return state and tensors of format 1 as those of format 2."""
    state, tensors = _read_format_2(manifest, folder)
    if "views.mean" in tensors:  # else the detector says what is missing
        tensors["views.spread"] = torch.ones_like(tensors["views.mean"])
    return state, tensors


def _read_format_2(manifest: Json, folder: Path) -> tuple[Json, Tensors]:
    """Check a manifest of format 2 and its weights; return state and tensors."""
    path = folder / MANIFEST
    wrong = [key for key, kind in KEYS.items() if type(manifest.get(key)) is not kind]
    if wrong:
        raise _damaged(path, f"{wrong[0]!r} is missing or not of type {KEYS[wrong[0]].__name__}")
    if manifest["digest"] != _digest(manifest):
        raise _damaged(path, "its content differs from its digest")
    if manifest["digests"].keys() != {WEIGHTS}:
        raise _damaged(path, f"it has digests of {sorted(manifest['digests'])}, not of {WEIGHTS} alone")
    content = _read(folder / WEIGHTS)
    if manifest["digests"][WEIGHTS] != hashlib.sha256(content).hexdigest():
        raise _damaged(folder / WEIGHTS, "it differs from its digest")
    return manifest["state"], _tensors(content, manifest["tensors"], folder)


def _tensors(content: bytes, described: Json, folder: Path) -> Tensors:
    """Return the tensors of a safetensors file; they must be exactly those in the manifest.

    safetensors checks offsets, shapes and types against the length of ``content``, so a small file cannot allocate a large tensor.
    """
    path = folder / WEIGHTS
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(path, f"it is not a safetensors file ({error})") from error
    stored = {name: _described(tensor) for name, tensor in tensors.items()}
    differing = sorted(name for name in stored.keys() | described.keys() if stored.get(name) != described.get(name))
    if differing:
        raise _damaged(path, f"tensor {differing[0]!r} differs from its description in {MANIFEST}")
    return tensors


def _damaged(path: Path, why: str) -> DamagedArtifact:
    return DamagedArtifact(f"{path} is damaged: {shorten(why, LONGEST_WHY)}. Copy the model again, or fit again.")


READERS = {1: _read_format_1, 2: _read_format_2}
