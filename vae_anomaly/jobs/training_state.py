"""Checkpoint files of a fit: safetensors with JSON metadata and a SHA-256 digest of metadata and tensors.

Loading a file runs no code from it, and allocates no more than the size of the file.
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
from vae_anomaly.model.minibatches import SamplerState
from vae_anomaly.model.training import CurvePoint, TrainingState
from vae_anomaly.storage.atomic import replacing

# Errors from reading a file that is damaged or not a checkpoint.
DAMAGE = (OSError, SafetensorError, ValueError, KeyError, TypeError)


def write_training(path: Path, training: TrainingState) -> None:
    """Write a training state atomically. Raises OSError."""
    metadata = {
        "step": training.step,
        "next": training.sampler.next,
        "running": training.loss_sum,
        "blocks": [asdict(block) for block in training.blocks],
    }
    names = ("weights", "first", "second", "generator")
    sampler = {"rest": training.sampler.rest, "drawn_at": training.sampler.drawn_at}
    _write(path, metadata, {name: getattr(training, name) for name in names} | sampler)


def read_training(path: Path) -> TrainingState:
    """Read a file written by ``write_training``. Raises one of DAMAGE."""
    metadata, tensors = _read(path)
    sampler = SamplerState(rest=tensors["rest"], drawn_at=tensors["drawn_at"], next=int(metadata["next"]))
    return TrainingState(
        step=int(metadata["step"]),
        weights=tensors["weights"],
        first=tensors["first"],
        second=tensors["second"],
        generator=tensors["generator"],
        sampler=sampler,
        blocks=tuple(CurvePoint(**block) for block in metadata["blocks"]),
        loss_sum=float(metadata["running"]),
    )


def write_trimmed_rows(path: Path, trimmed: TrimmedRows) -> None:
    """Write the result of the first pass of a robust fit atomically. Raises OSError."""
    _write(path, {}, {"left_out": torch.from_numpy(trimmed.excluded), "doubted": torch.from_numpy(trimmed.not_exemplar)})


def read_trimmed_rows(path: Path) -> TrimmedRows:
    """Read a file written by ``write_trimmed_rows``. Raises one of DAMAGE."""
    _, tensors = _read(path)
    return TrimmedRows(excluded=tensors["left_out"].numpy(), not_exemplar=tensors["doubted"].numpy())


def _write(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    text = json.dumps(metadata)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    head = {"about": text, "sha256": _digest(text, contiguous)}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(contiguous, metadata=head))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return metadata and tensors. Raises ValueError if they do not match the digest."""
    with safe_open(path, framework="pt") as file:
        head = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    if head.get("sha256") != _digest(head.get("about", ""), tensors):
        raise ValueError("it differs from its digest")
    return dict(json.loads(head["about"])), tensors


def _digest(metadata: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
