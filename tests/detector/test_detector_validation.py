import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from vae_anomaly.detector.detector import LONGEST_REASON, Detector
from vae_anomaly.errors import DamagedArtifact

CASE = tiny.Case(kind="mixed", size="several", method="split", prior="exemplar")
Values = dict[str, Any]
Damage = Callable[[Values, dict[str, Tensor]], object]


def refusal(damage: Damage) -> str:
    """Return why the state of a tiny detector is refused after some damage, without the words that every reason begins with."""
    values, tensors = tiny.detector(CASE).state()
    values, tensors = json.loads(json.dumps(values)), {name: tensor.clone() for name, tensor in tensors.items()}
    damage(values, tensors)
    with pytest.raises(DamagedArtifact) as refused:
        Detector.from_state(values, tensors)
    return str(refused.value).removeprefix("the model's fields do not fit together: ")


def put(path: str, value: object) -> Damage:
    """Return the damage that puts a value at a dotted path of the values."""

    def damage(values: Values, _: dict[str, Tensor]) -> None:
        *way, last = path.split(".")
        node: Any = values
        for key in way:
            node = node[int(key) if isinstance(node, list) else key]
        node[int(last) if isinstance(node, list) else last] = value

    return damage


def change(name: str, how: Callable[[Tensor], Tensor]) -> Damage:
    """Return the damage that changes a tensor."""
    return lambda _, tensors: tensors.update({name: how(tensors[name])})


def spoilt(value: float) -> Callable[[Tensor], Tensor]:
    """Return a change of the first number of a tensor."""

    def how(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return how


# Sizes that a few bytes ask for, and that no tensor has.
SIZES = [
    ("config.model.residual_blocks", 2**31 - 1, "ValueError: the config has 2,147,483,647 inner of the encoder, but 1 are stored"),
    ("config.model.hidden", [16] * 5000, "ValueError: the config has 5,000 layers of the encoder, but 1 are stored"),
    ("config.model.hidden", [2**62], "RuntimeError: "),
    ("latent", 2**40, "RuntimeError: Error(s) in loading state_dict for Vae:"),
    ("latent", 0, "ValueError: latent is 0, not a number of 1 or more"),
    ("latent", "4", "ValueError: latent is '4', not a number of 1 or more"),
    ("latent", 10**400, "TypeError: "),
    ("layout.window", 10**9, "ValueError: the layout does not match the 7 columns that the networks read"),
    ("layout.levels", [10**9, 4], "ValueError: the layout does not match the 7 columns that the networks read"),
    ("layout.levels", [3, -4], "ValueError: the layout does not match the 7 columns that the networks read"),
    ("layout.numeric", 2**63, "ValueError: the layout does not match the 7 columns that the networks read"),
    ("schema.window", 2, "ValueError: the layout does not match the 7 columns that the networks read"),
]


@pytest.mark.parametrize(("path", "value", "text"), SIZES, ids=[f"{path}-{i}" for i, (path, _, _) in enumerate(SIZES)])
def test_a_number_cannot_ask_for_more_than_the_tensors_hold(path: str, value: object, text: str) -> None:
    assert refusal(put(path, value)).startswith(text)


FIELDS = [
    ("config.calibration.alpha", 5, "ConfigError: calibration.alpha must be in (0, 1); got 5."),
    ("config.data.window", 2, "ConfigError: data.window is not a known key."),
    ("config.data", 3, "AttributeError: "),
    ("config.model.activation", "tanh", "ConfigError: model.activation must be 'silu' or 'relu'; got 'tanh'."),
    ("card.rows", "240", "ValueError: rows: input should be a valid integer"),
    ("card.history.blocks.0.step", 2.5, "ValueError: history.blocks.0.step: "),
    ("card.history.more", 1, "ValueError: history: unknown field 'more'"),
    ("quality.0.r2", "high", "ValueError: r2: input should be a valid number"),
    ("quality.0", 3, "ValueError: ColumnQuality: "),
    ("blocks", [1], "ValueError: Blocks: "),
    ("prior", "flat", "ValueError: unknown prior 'flat'"),
    ("prior", ["exemplar"], "ValueError: unknown prior ['exemplar']"),
    ("unseen", 0, "ValueError: unseen is 0 and penalty "),
    ("penalty", -1, "ValueError: unseen is "),
    ("penalty", 10**400, "OverflowError: int too large to convert to float"),
    ("schema.columns.0.kind", "image", "the schema of the artifact cannot be read: columns.0.kind: "),
    ("threshold.alpha", 0, "ValueError: alpha is 0, which 72 calibration scores cannot guarantee"),
    ("threshold.alpha", "0.1", "ValueError: alpha is '0.1', which 72 calibration scores cannot guarantee"),
    ("threshold.alpha", 0.001, "ValueError: alpha is 0.001, which 72 calibration scores cannot guarantee"),
    ("threshold.value", None, "TypeError: "),
    ("threshold.tried", -1, "ValueError: tried is -1, not a number of 1 or more"),
]


@pytest.mark.parametrize(("path", "value", "text"), FIELDS, ids=[f"{path}-{i}" for i, (path, _, _) in enumerate(FIELDS)])
def test_a_field_of_another_type_or_out_of_its_range_is_refused(path: str, value: object, text: str) -> None:
    assert text in refusal(put(path, value))


TENSORS = [
    ("views.known", lambda t: t.float(), "views.known is torch.float32, expected torch.bool"),
    ("views.scale", spoilt(0.0), "views.scale is not finite and positive"),
    ("views.centre", spoilt(float("nan")), "views.centre is not finite"),
    ("vae.encoder.out.bias", spoilt(float("inf")), "vae.encoder.out.bias is not finite"),
    ("vae.encoder.out.bias", lambda t: t.double(), "vae.encoder.out.bias is torch.float64, expected torch.float32"),
    ("weight", lambda t: t.unsqueeze(1), "weight has shape (6, 1), expected (6,)"),
    ("weight", lambda t: t.float(), "weight is torch.float32, expected torch.float64"),
    ("beta", spoilt(float("nan")), "beta is not finite"),
    ("noise", spoilt(-1.0), "noise is not finite and positive"),
    ("views.spread", lambda t: t * 0, "views.spread is not finite and positive"),
    ("groups", lambda t: t.float(), "groups is torch.float32, expected torch.int64"),
    ("groups", lambda t: t * 0 - 1, "groups are not 0 or one number of groups of the exemplars"),
    ("groups", lambda t: t * 0 + 10_000, "groups are not 0 or one number of groups of the exemplars"),
    ("groups", lambda t: torch.arange(len(t)) % 3, "groups are not 0 or one number of groups of the exemplars"),
    ("exemplars.log_weight", lambda t: t[:, :3], "exemplars.log_weight is torch.float32 of shape (6, 3), expected (6, 64)"),
    ("exemplars.log_weight", lambda t: t * 0 + torch.inf, "exemplars.log_weight is not the logarithm of weights"),
    ("exemplars.log_weight", lambda t: t - torch.inf, "exemplars.log_weight is not the logarithm of weights"),
    ("numeric", spoilt(9), "numeric are not distinct indices of 5 columns"),
    ("numeric", spoilt(2**62), "numeric are not distinct indices of 5 columns"),
    ("numeric", lambda t: t.unsqueeze(0), "numeric are not distinct indices of 5 columns"),
    ("codes", spoilt(-1), "codes are not distinct indices of 4 columns"),
    ("codes", lambda t: t[[0, 0, 1]], "codes are not distinct indices of 4 columns"),
    ("codes", lambda t: t[:0], "the layout does not match the 4 columns that the networks read"),
    ("constants.numeric", spoilt(7), "constants.numeric are not distinct indices of 5 columns"),
    ("constants.numeric", spoilt(0), "constants.numeric are not distinct indices of 5 columns"),
    ("constants.code", lambda t: t.double(), "constants.code are not distinct indices of 4 columns"),
    ("constants.level", spoilt(5), "constants.level names a level that its column does not have"),
    ("constants.level", lambda t: t.repeat(2), "constants.level has shape (2,), expected (1,)"),
    ("constants.value", lambda t: t.repeat(2), "constants.value has shape (2,), expected (1,)"),
]


@pytest.mark.parametrize(("name", "how", "text"), TENSORS, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(TENSORS)])
def test_a_tensor_of_another_shape_type_or_range_is_refused(name: str, how: Callable[[Tensor], Tensor], text: str) -> None:
    assert refusal(change(name, how)) == f"ValueError: {text}"


def test_two_columns_of_one_name_are_refused() -> None:
    def double(values: Values, _: dict[str, Tensor]) -> None:
        values["schema"]["columns"][1] = values["schema"]["columns"][0]

    assert refusal(double) == "the schema of the artifact has two columns of one name. Restore the artifact or fit again."


def test_a_reason_quotes_the_file_up_to_a_limit() -> None:
    text = refusal(put("prior", "x" * 10_000))
    assert text == f"{f'ValueError: unknown prior {chr(39)}':x<{LONGEST_REASON - 1}}…"
