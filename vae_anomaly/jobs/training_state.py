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

from vae_anomaly.fitting.robust import TrimmedRows
from vae_anomaly.model.training import CurvePoint, SamplerState, TrainingState
from vae_anomaly.storage.atomic import replacing

# What reading a file that is no state of ours raises.
DAMAGE = (OSError, SafetensorError, ValueError, KeyError, TypeError)


def write_training(path: Path, training: TrainingState) -> None:
    """Write a state of a training; whole or not at all. Raises OSError."""
    about = {
        "step": training.step,
        "next": training.sampler.next,
        "running": training.loss_sum,
        "blocks": [asdict(block) for block in training.blocks],
    }
    names = ("weights", "first", "second", "generator")
    places = {"rest": training.sampler.rest, "drawn_at": training.sampler.drawn_at}
    _write(path, about, {name: getattr(training, name) for name in names} | places)


def read_training(path: Path) -> TrainingState:
    """Read what ``write_training`` wrote. Raises one of DAMAGE."""
    about, tensors = _read(path)
    sampler = SamplerState(rest=tensors["rest"], drawn_at=tensors["drawn_at"], next=int(about["next"]))
    return TrainingState(
        step=int(about["step"]),
        weights=tensors["weights"],
        first=tensors["first"],
        second=tensors["second"],
        generator=tensors["generator"],
        sampler=sampler,
        blocks=tuple(CurvePoint(**block) for block in about["blocks"]),
        loss_sum=float(about["running"]),
    )


def write_trimmed_rows(path: Path, trimmed: TrimmedRows) -> None:
    """Write what a first pass found; whole or not at all. Raises OSError."""
    _write(path, {}, {"left_out": torch.from_numpy(trimmed.excluded), "doubted": torch.from_numpy(trimmed.not_exemplar)})


def read_trimmed_rows(path: Path) -> TrimmedRows:
    """Read what ``write_trimmed_rows`` wrote. Raises one of DAMAGE."""
    _, tensors = _read(path)
    return TrimmedRows(excluded=tensors["left_out"].numpy(), not_exemplar=tensors["doubted"].numpy())


def _write(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    text = json.dumps(about)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    head = {"about": text, "sha256": _digest(text, whole)}
    with replacing(path) as temporary:
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
