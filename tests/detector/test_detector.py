import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.tiny import Case
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.detector.card import Blocks
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import DamagedArtifact

CASE = Case(kind="mixed", size="several", method="split", prior="exemplar")
Values = dict[str, Any]
Tensors = dict[str, Tensor]


def _state() -> tuple[Values, Tensors]:
    values, tensors = tiny.detector(CASE).state()
    return json.loads(json.dumps(values)), {name: tensor.clone() for name, tensor in tensors.items()}


def test_a_detector_is_the_same_after_a_trip_through_json_and_tensors() -> None:
    detector = tiny.detector(CASE)
    values, tensors = _state()
    again = Detector.from_state(values, tensors)
    batch = tiny.encoded(detector.schema, tiny.odd_rows("mixed"))
    assert again.scores(batch).total.numpy().tobytes() == detector.scores(batch).total.numpy().tobytes()
    assert (again.schema, again.config, again.quality, again.card) == (detector.schema, detector.config, detector.quality, detector.card)
    assert again.threshold.calibration.tobytes() == detector.threshold.calibration.tobytes()
    assert (again.threshold.method, again.threshold.alpha, again.threshold.value) == (
        detector.threshold.method,
        detector.threshold.alpha,
        detector.threshold.value,
    )
    assert json.dumps(again.state()[0]) == json.dumps(values)
    assert again.usual is not None
    assert detector.usual is not None
    assert torch.equal(again.usual.middle, detector.usual.middle)
    assert torch.equal(again.usual.spread, detector.usual.spread)


def test_the_stored_configuration_keeps_the_window_of_format_1() -> None:
    """There is no such setting any more; the key stays in the artifact, last in its section, and is not needed to load one."""
    values, tensors = _state()
    assert list(values["config"]["data"].items())[-1] == ("window", 1)
    del values["config"]["data"]["window"]
    assert Detector.from_state(values, tensors).config == tiny.detector(CASE).config


def test_a_state_without_usual_contributions_loads() -> None:
    values, tensors = _state()
    del tensors["usual.middle"], tensors["usual.spread"]
    assert Detector.from_state(values, tensors).usual is None


def test_the_stability_of_the_alarm_rate_is_stored() -> None:
    blocks = Blocks(rates=(0.0, 0.02), p_value=0.25)
    values, tensors = replace(tiny.detector(CASE), blocks=blocks).state()
    values = json.loads(json.dumps(values))
    assert Detector.from_state(values, tensors).blocks == blocks
    del values["blocks"]
    assert Detector.from_state(values, tensors).blocks is None


def test_tensors_of_the_state_are_plain() -> None:
    _, tensors = tiny.detector(CASE).state()
    assert all(t.is_contiguous() and not t.requires_grad and t.device.type == "cpu" for t in tensors.values())
    assert tensors["calibration"].dtype == torch.float64


def _lacks(key: str) -> Callable[[Values, Tensors], None]:
    return lambda values, _: values.pop(key)


def _without(name: str) -> Callable[[Values, Tensors], object]:
    return lambda _, tensors: tensors.pop(name)


def _with(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Values, Tensors], None]:
    def damage(_: Values, tensors: Tensors) -> None:
        tensors[name] = change(tensors[name])

    return damage


DAMAGES = [
    pytest.param(_lacks("penalty"), "KeyError: 'penalty'", id="no-penalty"),
    pytest.param(_lacks("card"), "KeyError: 'card'", id="no-card"),
    pytest.param(_without("weight"), "KeyError: 'weight'", id="no-weight"),
    pytest.param(_without("vae.encoder.out.bias"), "RuntimeError: Error(s) in loading state_dict for Vae:", id="no-bias"),
    pytest.param(_with("views.scale", lambda t: t[:, :1]), "ValueError: views.scale has shape (6, 1), expected (6, 4)", id="scale"),
    pytest.param(_with("views.mean", lambda t: t[:1]), "ValueError: views.mean has shape (1, 8), expected (6, 8)", id="mean"),
    pytest.param(
        _with("exemplars.mu", lambda t: t[..., :2]), "ValueError: exemplars.mu has shape (6, 64, 2), expected (6, 64, 4)", id="mu"
    ),
    pytest.param(_with("usual.middle", lambda t: t[:1]), "ValueError: usual.middle is not 9 finite numbers", id="usual"),
    pytest.param(_with("usual.middle", lambda t: t * torch.nan), "ValueError: usual.middle is not 9 finite numbers", id="usual-nan"),
    pytest.param(_with("usual.spread", lambda t: t * 0.0), "ValueError: usual.spread is not positive", id="usual-zero"),
    pytest.param(_without("usual.spread"), "KeyError: 'usual.spread'", id="usual-half"),
    pytest.param(_with("calibration", lambda t: t[:0]), "ValueError: the calibration scores are not finite and ascending", id="none"),
    pytest.param(_with("calibration", lambda t: t.flip(0)), "ValueError: the calibration scores are not finite and ascending", id="order"),
    pytest.param(
        _with("calibration", lambda t: t.masked_fill(t == t.max(), torch.inf)),
        "ValueError: the calibration scores are not finite and ascending",
        id="infinite",
    ),
]


@pytest.mark.parametrize(("damage", "text"), DAMAGES)
def test_a_damaged_state_is_refused_in_one_line(damage: Callable[[Values, Tensors], None], text: str) -> None:
    values, tensors = _state()
    damage(values, tensors)
    with pytest.raises(DamagedArtifact) as caught:
        Detector.from_state(values, tensors)
    assert str(caught.value) == f"the model's fields do not fit together: {text}"


def test_recalibrating_changes_the_threshold_and_the_cost_of_a_changed_constant_only() -> None:
    detector = tiny.detector(CASE)
    higher = calibrate(detector.threshold.calibration * 3.0, 0.05)
    again = detector.recalibrated(higher)
    assert (again.threshold.value, again.threshold.alpha, again.threshold.copies) == (higher.value, higher.alpha, 0)
    np.testing.assert_array_equal(again.threshold.calibration, higher.calibration)
    assert again.ensemble.constants.penalty > float(higher.calibration.max())
    batch = tiny.encoded(detector.schema, tiny.table("mixed", 30, seed=6))
    assert torch.equal(again.scores(batch).total, detector.scores(batch).total)
    changed = tiny.encoded(detector.schema, tiny.odd_rows("mixed")).rows(slice(tiny.CHANGED_NUMBER, tiny.CHANGED_NUMBER + 1))
    assert again.threshold.flags(again.scores(changed).total.numpy()).tolist() == [True]
    assert detector.ensemble.constants.penalty < again.ensemble.constants.penalty


def test_threads_change_no_score() -> None:
    detector = tiny.detector(CASE)
    batch = tiny.encoded(detector.schema, tiny.odd_rows("mixed"))
    np.testing.assert_array_equal(detector.scores(batch).total, detector.scores(batch, threads=3).total)


def test_a_detector_is_a_value() -> None:
    detector = tiny.detector(CASE)
    other = replace(detector, threshold=detector.threshold.at(0.5))
    assert other.threshold.alpha == 0.5
    assert detector.threshold.alpha == tiny.ALPHA
