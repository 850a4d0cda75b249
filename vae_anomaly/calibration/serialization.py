"""Serialization of a threshold: JSON values for the manifest and tensors for the weights file, validated when read."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.calibration.conformal import CONFIDENCE, calibration_rows_needed
from vae_anomaly.calibration.groups import Groups
from vae_anomaly.calibration.guarantee import guarantee_statement
from vae_anomaly.calibration.tail import Tail
from vae_anomaly.calibration.threshold import Threshold, ThresholdKind


def threshold_values(threshold: Threshold) -> dict[str, Any]:
    """Return the JSON values for the manifest. ``rate`` and ``statement`` are for people and not read back: they follow from the rest."""
    law, tail, groups = threshold.law, threshold.tail, threshold.groups
    return {
        "method": threshold.method,
        "alpha": threshold.alpha,
        "value": threshold.value,
        "tried": threshold.tried,
        "copies": threshold.copies,
        "rate": {"law": "beta", "a": law.a, "b": law.b, "confidence": CONFIDENCE, "upper": threshold.limit},
        "statement": guarantee_statement(threshold),
        "tail": tail and {"exceedances": tail.exceedances, "shape": tail.shape, "fit_p_value": tail.fit_p_value},
        "groups": groups and {"column": groups.column, "names": list(groups.names)},
        **({} if threshold.rates is None else {"blocks": asdict(threshold.rates)}),
    }


def threshold_tensors(threshold: Threshold) -> dict[str, Tensor]:
    """Return the calibration scores, the curve of the tail and the arrays of the groups, by tensor name."""
    arrays: dict[str, NDArray[Any]] = {"calibration": threshold.calibration}
    if threshold.block is not None:
        arrays["threshold.block"] = threshold.block
    if threshold.tail is not None:
        arrays["threshold.curve"] = threshold.tail.curve
    if threshold.groups is not None:
        groups = threshold.groups
        arrays |= {"threshold.code": groups.code, "threshold.lent": groups.lent, "threshold.values": groups.values}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def threshold_from(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Threshold:
    """Build a threshold from ``threshold_values`` and ``threshold_tensors``. Raises ValueError or KeyError if they are invalid."""
    scores = _ascending(tensors["calibration"], "the calibration scores are not finite and ascending")
    if values["method"] not in get_args(ThresholdKind) or not math.isfinite(values["value"]):
        raise ValueError(f"the threshold has the method {values['method']!r} and the value {values['value']!r}, which is impossible")
    alpha, tried = values["alpha"], values.get("tried", 1)
    possible = type(alpha) is float and 0.0 < alpha < 1.0
    if not possible or (not values.get("tail") and calibration_rows_needed(alpha) > len(scores)):
        raise ValueError(f"alpha is {alpha!r}, which {len(scores):,} calibration scores cannot guarantee")
    if type(tried) is not int or tried < 1:
        raise ValueError(f"tried is {tried!r}, not a number of 1 or more")
    return Threshold(
        method=values["method"],
        alpha=alpha,
        value=values["value"],
        calibration=scores,
        tail=_tail(values["tail"], tensors["threshold.curve"]) if values.get("tail") else None,
        groups=_groups(values["groups"], tensors, len(scores)) if values.get("groups") else None,
        tried=tried,
        copies=_copies(values.get("copies", 0), len(scores)),
        **_blocks(values, tensors, len(scores)),
    )


def _blocks(values: Mapping[str, Any], tensors: Mapping[str, Tensor], rows: int) -> dict[str, Any]:
    """Return the blocks of the calibration scores of a time series and how many independent rows these are worth."""
    if values["method"] != "blocks":
        return {}
    block, worth = tensors["threshold.block"].numpy(), values["blocks"]["effective_rows"]
    if block.dtype != np.int64 or block.shape != (rows,) or len(np.unique(block)) < 2:  # noqa: PLR2004  # a spread needs two
        raise ValueError("threshold.block does not name the block of each calibration score")
    if type(worth) is not float or not 0.0 < worth < math.inf:
        raise ValueError(f"effective_rows is {worth!r}, not a number above 0")
    return {"block": block, "effective_rows": worth}


def _copies(copies: Any, rows: int) -> int:
    if type(copies) is not int or not 0 <= copies < rows:
        raise ValueError(f"copies is {copies!r}, not a number below that of the {rows:,} calibration scores")
    return copies


def _tail(values: Mapping[str, Any], curve: Tensor) -> Tail:
    rows = curve.numpy().astype(np.float64)
    if rows.ndim != 2 or rows.shape[0] != 4 or not (rows[1:] > 0).all() or (np.diff(rows[1]) >= 0).any():  # noqa: PLR2004  # score, rate, a, b
        msg = "the curve of the tail is not four rows with falling rates"
        raise ValueError(msg)
    _ascending(curve[0], "the scores of the tail are not finite and ascending")
    return Tail(curve=rows, exceedances=int(values["exceedances"]), shape=float(values["shape"]), fit_p_value=float(values["fit_p_value"]))


def _groups(values: Mapping[str, Any], tensors: Mapping[str, Tensor], rows: int) -> Groups:
    code, lent, limits = (tensors[f"threshold.{name}"].numpy() for name in ("code", "lent", "values"))
    names = tuple(values["names"])
    if code.dtype != np.int64 or lent.dtype != np.float64 or limits.dtype != np.float64 or not all(isinstance(n, str) for n in names):
        raise ValueError("the groups of the threshold have codes, weights, values or names of another type")
    fits = code.shape == (rows,) and lent.shape == limits.shape == (len(names),)
    if not fits or code.min() < -1 or code.max() >= len(names) or (lent < 0).any() or not np.isfinite(limits).all():
        msg = "the groups of the threshold do not fit its calibration scores"
        raise ValueError(msg)
    return Groups(column=values["column"], names=names, code=code, lent=lent, values=limits)


def _ascending(tensor: Tensor, otherwise: str) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = tensor.numpy().astype(np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all() or (np.diff(numbers) < 0).any():
        raise ValueError(otherwise)
    return numbers
