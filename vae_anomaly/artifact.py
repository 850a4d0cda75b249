"""A detector on disk: a folder with ``manifest.json`` and ``weights.safetensors``, written whole or not at all.

Knows nothing of what the state means (``Detector.state`` and ``Detector.from_state`` do) nor of MLflow. Nothing in the folder is
code, and nothing in it runs on load. Reading goes *parse, check, build*: both files are read once, their format, digests, names,
types and shapes are checked, and only then is the detector built from those same bytes.

``manifest.json``::

    {"format": 1, "package": "vae-anomaly", "package_version": "…",
     "digests": {"weights.safetensors": "sha256 of the file"},
     "tensors": {"name": "float32[2, 20, 96]"},
     "state": {…},                        what Detector.state() returned
     "digest": "sha256 of this object without this key, as JSON with sorted keys and no spaces, in UTF-8"}

The digests find damage, not malice: whoever can write the folder can write new digests. Malice is met by there being nothing to
run, by sizes bounded by the files themselves, and by file names that are fixed here and never taken from the manifest.

Changing the format
-------------------
``FORMAT`` is the number of the newest layout; ``READERS`` has one function for every layout ever released. When the layout
changes (a file, a key of the manifest, or the meaning of a key of ``state`` that an old detector would read wrongly):

1. Add 1 to ``FORMAT`` and write the new layout in this docstring.
2. Keep the old entry of ``READERS``; let it turn the old manifest and tensors into those of today. Readers are never removed.
3. Save a tiny detector of the new format under ``tests/golden/format-<n>/`` with ten rows and their scores. Never write an
   older golden folder again.
4. Say so in CHANGELOG.md. Older packages answer with ``UnknownFormat`` and the command that upgrades them.

Adding a key to ``state`` that has a default when it is absent needs no new number.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from vae_anomaly._version import __version__
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError, DamagedArtifact, UnknownFormat
from vae_anomaly.storage import atomic

FORMAT = 1
# Characters of what an error quotes from a damaged file, which may be anything.
LONGEST_WHY = 300
PACKAGE = "vae-anomaly"
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
KEYS = {"package": str, "package_version": str, "digests": dict, "tensors": dict, "state": dict, "digest": str}
# A manifest of 5,000 columns with 255 levels each is about 20 MB, and 2,000 exemplars of them are 1 GB: more is not ours.
MAX_ARTIFACT_BYTES = {MANIFEST: 128 * 2**20, WEIGHTS: 8 * 2**30}

Json = dict[str, Any]
Tensors = dict[str, Tensor]


def save(detector: Detector, folder: Path, *, replace: bool = False) -> None:
    """Write the detector to ``folder``, which then holds all of it or, after an error or a kill, what it held before.

    The folder must be absent or empty, or with ``replace`` hold an artifact and no other file. Raises OutputError.
    """
    files = _files(*detector.state())

    def write(stage: Path) -> None:
        for name, content in files.items():
            atomic.write_durably(stage / name, content)

    atomic.publish(Path(folder), write, replaces=_is_only_artifact if replace else None)


def load(folder: Path) -> Detector:
    """Read the detector in ``folder``.

    Raises ArtifactError where there is none, UnknownFormat where a newer version wrote it, and DamagedArtifact, naming the file,
    where anything differs from what was saved.
    """
    check_folder(Path(folder))
    folder = atomic.present(Path(folder))
    before = _read(folder / MANIFEST)
    try:
        return _build(folder, before)
    except DamagedArtifact:
        # A replacement between our reading one file and the other looks like damage; another manifest gives it away.
        after = _read(folder / MANIFEST)
        if after == before:
            raise
        return _build(folder, after)


def is_artifact(folder: Path) -> bool:
    """Say whether ``folder`` holds a manifest, be it whole or damaged."""
    return (atomic.present(folder) / MANIFEST).is_file()


def check_folder(folder: Path) -> None:
    """Raise ArtifactError where ``folder`` is not an artifact, whole or damaged."""
    try:
        _check_present(atomic.present(folder))
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise ArtifactError(f"no model at {folder}: {(error.strerror or str(error)).lower()}.") from error


def _check_present(folder: Path) -> None:
    if not folder.is_dir():
        kind = "it is a file, and a model is a folder" if folder.exists() else "there is no such folder"
        raise ArtifactError(f"no model at {folder}: {kind} with {MANIFEST} and {WEIGHTS}.")
    if not any((folder / name).exists() for name in (MANIFEST, WEIGHTS)):
        raise ArtifactError(f"no model at {folder}: the folder has neither {MANIFEST} nor {WEIGHTS}.")


def fingerprint(folder: Path) -> str:
    """Return the first 12 digits of the manifest's digest, which name the content of a valid artifact."""
    return str(_parse(_read(atomic.present(folder) / MANIFEST), folder / MANIFEST).get("digest"))[:12]


def _is_only_artifact(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} == {MANIFEST, WEIGHTS}


# Writing


def _files(state: Json, tensors: Tensors) -> dict[str, bytes]:
    # Cloned, because safetensors refuses tensors that share memory; sorted, so that equal detectors give equal bytes.
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
    """Return the sha256 of a manifest without its own digest; indentation and order of keys do not count."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# Reading


def _read(path: Path) -> bytes:
    """Return the bytes of a regular file of bearable size that lies in the folder itself."""
    if not path.is_file():
        raise _damaged(path, "the file is missing")
    if path.resolve().parent != path.parent.resolve():
        raise _damaged(path, "it is a link to a file outside of the folder")
    most = MAX_ARTIFACT_BYTES[path.name]
    try:
        with path.open("rb") as file:
            # The size is asked first: reading up to the most would reserve memory for the most.
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
        # Text that is no Unicode would fail in the digest.
        json.dumps(manifest, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON as this package writes it ({error})") from error
    if not isinstance(manifest, dict):
        raise _damaged(path, "it is not a JSON object")
    return manifest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_constant(text)


def _no_repeats(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _format(manifest: Json, path: Path) -> int:
    """Return the format number, which comes before every other check: a newer manifest may look like anything."""
    number = manifest.get("format")
    if type(number) is not int or number < 1:
        raise _damaged(path, f"its format is {number!r}, not a number of 1 or more")
    if number > FORMAT:
        text = f"{path.parent} was written by a newer version (format {number}; this one reads {FORMAT}). "
        raise UnknownFormat(text + "Upgrade: pip install -U vae-anomaly")
    return number


def _read_format_1(manifest: Json, folder: Path) -> tuple[Json, Tensors]:
    """Check a manifest of format 1 and the weights it describes, and return state and tensors."""
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
    """Return the tensors of a safetensors file, which must be exactly those that the manifest describes.

    safetensors checks offsets, shapes and types against the length of ``content``, so a small file cannot ask for a large tensor.
    """
    path = folder / WEIGHTS
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(path, f"it is no safetensors file ({error})") from error
    found = {name: _described(tensor) for name, tensor in tensors.items()}
    differing = sorted(name for name in found.keys() | described.keys() if found.get(name) != described.get(name))
    if differing:
        raise _damaged(path, f"tensor {differing[0]!r} differs from its description in {MANIFEST}")
    return tensors


def _damaged(path: Path, why: str) -> DamagedArtifact:
    short = why if len(why) <= LONGEST_WHY else f"{why[:LONGEST_WHY]}…"
    return DamagedArtifact(f"{path} is damaged: {short}. Copy the model again, or fit again.")


READERS = {1: _read_format_1}
