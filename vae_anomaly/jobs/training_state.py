"""What a fit has in its hands, as one file: safetensors, with numbers as JSON and a digest of it all in the head.

Knows no folders and no fits. Nothing in a file runs on load, and sizes are bounded by the file itself.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vae_anomaly.fitting.robust import Doubts
from vae_anomaly.model.training import CurvePoint, SamplerState, Training
from vae_anomaly.storage.atomic import durably

# What reading a file that is no state of ours raises.
DAMAGE = (OSError, SafetensorError, ValueError, KeyError, TypeError)


def write_training(path: Path, training: Training) -> None:
    """Write a state of a training; whole or not at all. Raises OSError."""
    about = {
        "step": training.step,
        "next": training.place.next,
        "running": training.running,
        "blocks": [asdict(block) for block in training.blocks],
    }
    names = ("weights", "first", "second", "generator")
    places = {"rest": training.place.rest, "drawn_at": training.place.drawn_at}
    _write(path, about, {name: getattr(training, name) for name in names} | places)


def read_training(path: Path) -> Training:
    """Read what ``write_training`` wrote. Raises one of DAMAGE."""
    about, tensors = _read(path)
    place = SamplerState(rest=tensors["rest"], drawn_at=tensors["drawn_at"], next=int(about["next"]))
    return Training(
        step=int(about["step"]),
        weights=tensors["weights"],
        first=tensors["first"],
        second=tensors["second"],
        generator=tensors["generator"],
        place=place,
        blocks=tuple(CurvePoint(**block) for block in about["blocks"]),
        running=float(about["running"]),
    )


def write_doubts(path: Path, doubts: Doubts) -> None:
    """Write what a first pass found; whole or not at all. Raises OSError."""
    _write(path, {}, {"left_out": torch.from_numpy(doubts.left_out), "doubted": torch.from_numpy(doubts.doubted)})


def read_doubts(path: Path) -> Doubts:
    """Read what ``write_doubts`` wrote. Raises one of DAMAGE."""
    _, tensors = _read(path)
    return Doubts(left_out=tensors["left_out"].numpy(), doubted=tensors["doubted"].numpy())


def _write(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    text = json.dumps(about)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    head = {"about": text, "sha256": _digest(text, whole)}
    with durably(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(whole, metadata=head))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return numbers and tensors, which must be those that the digest was made of."""
    with safe_open(path, framework="pt") as file:
        head = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    if head.get("sha256") != _digest(head.get("about", ""), tensors):
        raise ValueError("it differs from its digest")
    return dict(json.loads(head["about"])), tensors


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
