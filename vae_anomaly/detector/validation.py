"""Validation of a stored detector before it is used: files may hold anything.

Numbers that determine the size of an allocation are compared with the tensors, which are bounded by the size of their file; then shape,
type and values of every tensor are compared with those of the others.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vae_anomaly.config import ModelConfig
from vae_anomaly.model.ensemble import Ensemble
from vae_anomaly.model.vae import Layout
from vae_anomaly.schema.encoding import model_order
from vae_anomaly.schema.schema import Schema

F32 = torch.float32
F64 = torch.float64
I64 = torch.int64


def check_depth(model: ModelConfig, latent: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless there is a tensor for every configured layer, before memory for the layers is allocated."""
    if type(latent) is not int or latent < 1:
        raise ValueError(f"latent is {latent!r}, not a number of 1 or more")
    for name, configured in (("layers", len(model.hidden)), ("inner", model.residual_blocks)):
        stored = sum(re.fullmatch(rf"vae\.encoder\.{name}\.\d+\.weight", key) is not None for key in tensors)
        if stored != configured:
            raise ValueError(f"the config has {configured:,} {name} of the encoder, but {stored:,} are stored")


def check_layout(layout: Layout, schema: Schema, numeric: Tensor, codes: Tensor) -> None:
    """Raise ValueError unless the layout is that of the columns with the indices ``numeric`` and ``codes`` in the schema."""
    columns = model_order(schema)
    numbers = [c for c in columns if c.kind == "numeric"]
    rest = columns[len(numbers) :]
    _check_indices("numeric", numeric, len(numbers))
    _check_indices("codes", codes, len(rest))
    read = [rest[j] for j in codes.tolist()]
    levels = tuple(len(c.levels) for c in read if c.kind == "category")
    expected = Layout(numeric=len(numeric), booleans=len(read) - len(levels), levels=levels, window=1)
    if layout != expected or schema.window != 1 or not layout.units:
        raise ValueError(f"the layout does not match the {len(numeric) + len(codes):,} columns that the networks read")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Expected:
    """A tensor and its expected shape and type; ``positive``: all values must be above 0."""

    tensor: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    positive: bool = False


def check_ensemble(ensemble: Ensemble, schema: Schema) -> None:
    """Raise ValueError for a tensor of another shape or type, a value that is not finite, or an index out of range."""
    for name, expected in _expected_tensors(ensemble).items():
        _check(name, expected)
    for name, tensor in ensemble.vae.state_dict().items():
        _check(f"vae.{name}", _Expected(tensor=tensor, shape=tuple(tensor.shape), dtype=F32))
    used = ensemble.exemplars.log_weight
    if used.dtype != F32 or tuple(used.shape) != tuple(ensemble.exemplars.mu.shape[:2]):
        raise ValueError(
            f"exemplars.log_weight is {used.dtype} of shape {tuple(used.shape)}, expected {tuple(ensemble.exemplars.mu.shape[:2])}"
        )
    if bool(torch.isnan(used).any() | (used == torch.inf).any()) or not bool(torch.isfinite(used).any(-1).all()):
        raise ValueError("exemplars.log_weight is not the logarithm of weights")
    if not 0.0 < ensemble.unseen < 1.0 or not 0.0 <= ensemble.constants.penalty < float("inf"):
        raise ValueError(f"unseen is {ensemble.unseen:g} and penalty {ensemble.constants.penalty:g}; expected in (0, 1) and ≥ 0")
    _check_constants(ensemble, schema)


def _expected_tensors(e: Ensemble) -> dict[str, _Expected]:
    nets, n, m = len(e.weight), e.exemplars.mu.shape[1], e.vae.latent
    numbers = e.layout.window * e.layout.numeric
    rest = e.layout.units - numbers
    return {
        "views.centre": _Expected(tensor=e.views.centre, shape=(nets, numbers), dtype=F64),
        "views.scale": _Expected(tensor=e.views.scale, shape=(nets, numbers), dtype=F64, positive=True),
        "views.mean": _Expected(tensor=e.views.mean, shape=(nets, rest), dtype=F32),
        "views.known": _Expected(tensor=e.views.known, shape=(nets, rest), dtype=torch.bool),
        "exemplars.mu": _Expected(tensor=e.exemplars.mu, shape=(nets, n, m), dtype=F32),
        "exemplars.logvar": _Expected(tensor=e.exemplars.logvar, shape=(nets, n, m), dtype=F32),
        "weight": _Expected(tensor=e.weight, shape=(nets,), dtype=F64, positive=True),
        "beta": _Expected(tensor=e.beta, shape=(nets,), dtype=F64),
        "noise": _Expected(tensor=e.noise, shape=(nets,), dtype=F32, positive=True),
    }


def _check(name: str, expected: _Expected) -> None:
    tensor = expected.tensor
    if tuple(tensor.shape) != expected.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {expected.shape}")
    if tensor.dtype != expected.dtype:
        raise ValueError(f"{name} is {tensor.dtype}, expected {expected.dtype}")
    if not bool(torch.isfinite(tensor).all()) or (expected.positive and not bool((tensor > 0).all())):
        raise ValueError(f"{name} is not finite{' and positive' if expected.positive else ''}")


def _check_constants(e: Ensemble, schema: Schema) -> None:
    rest = [c for c in model_order(schema) if c.kind != "numeric"]
    _check_indices("constants.numeric", e.constants.numeric, len(schema.columns) - len(rest), others=e.numeric)
    _check_indices("constants.code", e.constants.code, len(rest), others=e.codes)
    _check("constants.value", _Expected(tensor=e.constants.value, shape=tuple(e.constants.numeric.shape), dtype=F64))
    _check("constants.level", _Expected(tensor=e.constants.level, shape=tuple(e.constants.code.shape), dtype=I64))
    sizes: Sequence[int] = [len(rest[j].levels) for j in e.constants.code.tolist()]
    if any(not 0 <= level < size for level, size in zip(e.constants.level.tolist(), sizes, strict=True)):
        raise ValueError("constants.level names a level that its column does not have")


def _check_indices(name: str, indices: Tensor, count: int, *, others: Tensor | None = None) -> None:
    """Raise ValueError unless ``indices`` are distinct and below ``count``; with those of ``others``, they must be complete."""
    known: list[Any] = indices.tolist() if indices.dtype == I64 and indices.dim() == 1 else [-1]
    inside = all(0 <= index < count for index in known) and len(set(known)) == len(known)
    if not inside or (others is not None and sorted([*known, *others.tolist()]) != list(range(count))):
        raise ValueError(f"{name} are not distinct indices of {count:,} columns")
