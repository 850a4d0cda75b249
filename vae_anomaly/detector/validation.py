"""Whether the parts of a stored detector fit together, asked before they are used.

A file may say anything. Numbers that decide how large something is are held against the tensors, which are as large as their file;
then every tensor against the shape, the type and the values that the others leave it. Knows nothing of files.
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
    """Raise ValueError unless there is a tensor for every layer that the config asks for, so that none is made for nothing."""
    if type(latent) is not int or latent < 1:
        raise ValueError(f"latent is {latent!r}, not a number of 1 or more")
    for name, asked in (("layers", len(model.hidden)), ("inner", model.residual_blocks)):
        there = sum(re.fullmatch(rf"vae\.encoder\.{name}\.\d+\.weight", key) is not None for key in tensors)
        if there != asked:
            raise ValueError(f"the config asks for {asked:,} {name} of the encoder, and there are {there:,}")


def check_layout(layout: Layout, schema: Schema, numeric: Tensor, codes: Tensor) -> None:
    """Raise ValueError unless the layout is that of the columns at the places ``numeric`` and ``codes`` of the schema."""
    columns = model_order(schema)
    numbers = [c for c in columns if c.kind == "numeric"]
    rest = columns[len(numbers) :]
    _check_places("numeric", numeric, len(numbers))
    _check_places("codes", codes, len(rest))
    read = [rest[j] for j in codes.tolist()]
    levels = tuple(len(c.levels) for c in read if c.kind == "category")
    expected = Layout(numeric=len(numeric), booleans=len(read) - len(levels), levels=levels, window=1)
    if layout != expected or schema.window != 1 or not layout.units:
        raise ValueError(f"the layout is not that of the {len(numeric) + len(codes):,} columns that the networks read")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Wanted:
    """What a tensor must be: its shape and type; whether it must be positive."""

    tensor: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    positive: bool = False


def check_ensemble(ensemble: Ensemble, schema: Schema) -> None:
    """Raise ValueError for a tensor that would broadcast into something else, or is not finite, or names a place that is not there."""
    for name, wanted in _wanted(ensemble).items():
        _check(name, wanted)
    for name, tensor in ensemble.vae.state_dict().items():
        _check(f"vae.{name}", _Wanted(tensor=tensor, shape=tuple(tensor.shape), dtype=F32))
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


def _wanted(e: Ensemble) -> dict[str, _Wanted]:
    nets, n, m = len(e.weight), e.exemplars.mu.shape[1], e.vae.latent
    numbers = e.layout.window * e.layout.numeric
    rest = e.layout.units - numbers
    return {
        "views.centre": _Wanted(tensor=e.views.centre, shape=(nets, numbers), dtype=F64),
        "views.scale": _Wanted(tensor=e.views.scale, shape=(nets, numbers), dtype=F64, positive=True),
        "views.mean": _Wanted(tensor=e.views.mean, shape=(nets, rest), dtype=F32),
        "views.known": _Wanted(tensor=e.views.known, shape=(nets, rest), dtype=torch.bool),
        "exemplars.mu": _Wanted(tensor=e.exemplars.mu, shape=(nets, n, m), dtype=F32),
        "exemplars.logvar": _Wanted(tensor=e.exemplars.logvar, shape=(nets, n, m), dtype=F32),
        "weight": _Wanted(tensor=e.weight, shape=(nets,), dtype=F64, positive=True),
        "beta": _Wanted(tensor=e.beta, shape=(nets,), dtype=F64),
        "noise": _Wanted(tensor=e.noise, shape=(nets,), dtype=F32, positive=True),
    }


def _check(name: str, wanted: _Wanted) -> None:
    tensor = wanted.tensor
    if tuple(tensor.shape) != wanted.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {wanted.shape}")
    if tensor.dtype != wanted.dtype:
        raise ValueError(f"{name} is {tensor.dtype}, expected {wanted.dtype}")
    if not bool(torch.isfinite(tensor).all()) or (wanted.positive and not bool((tensor > 0).all())):
        raise ValueError(f"{name} is not finite{' and positive' if wanted.positive else ''}")


def _check_constants(e: Ensemble, schema: Schema) -> None:
    rest = [c for c in model_order(schema) if c.kind != "numeric"]
    _check_places("constants.numeric", e.constants.numeric, len(schema.columns) - len(rest), beside=e.numeric)
    _check_places("constants.code", e.constants.code, len(rest), beside=e.codes)
    _check("constants.value", _Wanted(tensor=e.constants.value, shape=tuple(e.constants.numeric.shape), dtype=F64))
    _check("constants.level", _Wanted(tensor=e.constants.level, shape=tuple(e.constants.code.shape), dtype=I64))
    sizes: Sequence[int] = [len(rest[j].levels) for j in e.constants.code.tolist()]
    if any(not 0 <= level < size for level, size in zip(e.constants.level.tolist(), sizes, strict=True)):
        raise ValueError("constants.level names a level that its column does not have")


def _check_places(name: str, places: Tensor, count: int, *, beside: Tensor | None = None) -> None:
    """Raise ValueError unless ``places`` are different ones among ``count``, and with those of ``beside`` all of them."""
    known: list[Any] = places.tolist() if places.dtype == I64 and places.dim() == 1 else [-1]
    inside = all(0 <= place < count for place in known) and len(set(known)) == len(known)
    if not inside or (beside is not None and sorted([*known, *beside.tolist()]) != list(range(count))):
        raise ValueError(f"{name} are not places among {count:,} columns")
