import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from vae_anomaly.calibration.groups import calibrate_groups
from vae_anomaly.calibration.guarantee import guarantee_statement
from vae_anomaly.calibration.serialization import threshold_from, threshold_tensors, threshold_values
from vae_anomaly.calibration.tail import fit_tail
from vae_anomaly.calibration.threshold import Threshold, calibrate


def _with_tail() -> Threshold:
    ordered = np.sort(np.random.default_rng(0).exponential(size=600))
    tail = fit_tail(ordered)
    return Threshold(method="gpd", alpha=tail.share, value=0.0, calibration=ordered, tail=tail).at(0.0005)


def _with_groups() -> Threshold:
    scores = np.random.default_rng(0).exponential(size=300)
    groups = calibrate_groups("machine", pa.array(["a"] * 150 + ["b"] * 140 + [None] * 10), scores, 0.01)
    return replace(calibrate(scores, 0.01), groups=groups)


THRESHOLDS = {
    "split": calibrate(np.arange(50.0), 0.1),
    "cross": calibrate(np.arange(50.0), 0.1, "cross"),
    "chosen": replace(calibrate(np.arange(50.0), 0.1), tried=7),
    "copies": calibrate(np.repeat(np.arange(50.0), 3), 0.1).with_copies_counted(),
    "tail": _with_tail(),
    "groups": _with_groups(),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_comes_back_as_it_was(name: str) -> None:
    one = THRESHOLDS[name]
    values = json.loads(json.dumps(threshold_values(one), allow_nan=False))
    other = threshold_from(values, threshold_tensors(one))
    scores = np.linspace(-1.0, 60.0, 500)
    codes = None if one.groups is None else np.arange(500) % 3 - 1
    assert (other.method, other.alpha, other.value, other.tried) == (one.method, one.alpha, one.value, one.tried)
    assert (other.copies, other.law) == (one.copies, one.law)
    assert other.p_values(scores, codes).tolist() == one.p_values(scores, codes).tolist()
    assert other.flags(scores, codes).tolist() == one.flags(scores, codes).tolist()
    assert other.law == one.law
    assert other.at(0.05).value == one.at(0.05).value
    assert guarantee_statement(other) == guarantee_statement(one) == values["statement"]
    assert values["rate"]["upper"] == one.limit


def _changed(threshold: Threshold, name: str, change: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    tensors = threshold_tensors(threshold)
    return threshold_values(threshold), tensors | {name: change(tensors[name].clone())}


def _filled(value: float, place: tuple[int, ...]) -> Any:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[place] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("kind", "name", "change", "text"),
    [
        ("tail", "threshold.curve", lambda t: t[:3], "the curve of the tail is not four rows with falling rates"),
        ("tail", "threshold.curve", lambda t: t.flip(1), "the curve of the tail is not four rows with falling rates"),
        ("tail", "threshold.curve", _filled(float("nan"), (2, 1)), "the curve of the tail is not four rows with falling rates"),
        ("tail", "threshold.curve", _filled(-1e9, (0, 5)), "the scores of the tail are not finite and ascending"),
        ("groups", "threshold.code", lambda t: t[:9], "the groups of the threshold do not fit its calibration scores"),
        ("groups", "threshold.code", lambda t: t + 5, "the groups of the threshold do not fit its calibration scores"),
        ("groups", "threshold.lent", lambda t: -t - 1, "the groups of the threshold do not fit its calibration scores"),
        ("groups", "threshold.values", _filled(float("inf"), (0,)), "the groups of the threshold do not fit its calibration scores"),
        ("split", "calibration", lambda t: t.flip(0), "the calibration scores are not finite and ascending"),
    ],
)
def test_an_impossible_part_is_refused(kind: str, name: str, change: Any, text: str) -> None:
    values, tensors = _changed(THRESHOLDS[kind], name, change)
    with pytest.raises(ValueError, match=f"^{text}$"):
        threshold_from(values, tensors)


def test_an_unknown_method_is_refused() -> None:
    values = threshold_values(THRESHOLDS["split"]) | {"method": "magic"}
    with pytest.raises(ValueError, match=r"^the threshold has the method 'magic' and the value 45\.0, which is impossible$"):
        threshold_from(values, threshold_tensors(THRESHOLDS["split"]))


def test_a_threshold_stored_without_copies_has_none() -> None:
    one = calibrate(np.arange(50.0), 0.1)
    values = threshold_values(one)
    del values["copies"]
    assert threshold_from(values, threshold_tensors(one)).copies == 0
    for copies in (-1, 50, 1.0, True):
        with pytest.raises(ValueError, match="copies is"):
            threshold_from({**values, "copies": copies}, threshold_tensors(one))
