"""Reading a configuration: strict, all problems at once, and the same again after a round trip."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vae_anomaly.config import (
    Config,
    DataConfig,
    ModelConfig,
    TrackingConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    load_config,
    validate,
)
from vae_anomaly.errors import ConfigError

REFUSED = [
    pytest.param({"calibration.alpha": 5}, "calibration.alpha must be in (0, 1); got 5. Did you mean 0.05?", id="alpha-in-per-cent"),
    pytest.param({"calibration.alpha": 1}, "calibration.alpha must be in (0, 1); got 1. Did you mean 0.01?", id="alpha-one"),
    pytest.param({"calibration.alpha": 0}, "calibration.alpha must be in (0, 1); got 0.", id="alpha-zero"),
    pytest.param({"calibration.alpha": 500}, "calibration.alpha must be in (0, 1); got 500.", id="alpha-beyond-guessing"),
    pytest.param({"calibration.alpha": float("nan")}, "calibration.alpha must be in (0, 1); got nan.", id="alpha-nan"),
    pytest.param({"calibration.share": 20.0}, "calibration.share must be in (0, 1); got 20. Did you mean 0.2?", id="share"),
    pytest.param({"calibration.max_rows": 0}, "calibration.max_rows must be ≥ 1; got 0.", id="max_rows"),
    pytest.param({"model.members": 0}, "model.members must be ≥ 1; got 0.", id="members"),
    pytest.param({"model.latent": 0}, "model.latent must be ≥ 1; got 0.", id="latent"),
    pytest.param({"model.exemplars": 1}, "model.exemplars must be ≥ 2; got 1.", id="exemplars"),
    pytest.param({"model.residual_blocks": -1}, "model.residual_blocks must be ≥ 0; got -1.", id="blocks"),
    pytest.param({"model.sigma": 0}, "model.sigma must be > 0; got 0.", id="sigma"),
    pytest.param({"model.sigma": float("inf")}, "model.sigma must be > 0; got inf.", id="sigma-inf"),
    pytest.param({"model.hidden": [96, 0]}, "model.hidden must be a list of widths ≥ 1; got [96, 0].", id="hidden"),
    pytest.param({"model.views": []}, "model.views must be at least one view, each once; got [].", id="no-view"),
    pytest.param(
        {"model.views": ["minmax", "minmax"]},
        "model.views must be at least one view, each once; got ['minmax', 'minmax'].",
        id="view-twice",
    ),
    pytest.param(
        {"model.views": ["minmx"]},
        "model.views must be 'standard', 'minmax', 'robust' or 'percentile'; got 'minmx'. Did you mean 'minmax'?",
        id="view-misspelt",
    ),
    pytest.param({"train.steps": 0}, "train.steps must be ≥ 1; got 0.", id="steps"),
    pytest.param({"train.batch_rows": 0}, "train.batch_rows must be ≥ 1; got 0.", id="batch_rows"),
    pytest.param({"train.learning_rate": 0}, "train.learning_rate must be > 0; got 0.", id="learning_rate"),
    pytest.param({"train.weight_decay": -0.5}, "train.weight_decay must be ≥ 0; got -0.5.", id="weight_decay"),
    pytest.param({"train.input_noise": -1}, "train.input_noise must be ≥ 0; got -1.", id="input_noise"),
    pytest.param({"train.device": "gpu"}, "train.device must be auto, cpu, mps, cuda or cuda:N; got 'gpu'.", id="device"),
    pytest.param({"data.window": 1}, "data.window is not a known key.", id="window"),
    pytest.param(
        {"data.time_format": "%Q"},
        "data.time_format must be day-first, month-first, a unit (s, ms, us, ns, labview, filetime, ticks, excel, matlab, julian, mjd) or "
        "a format such as '%d-%b-%y %H:%M'; got '%Q'.",
        id="time-format",
    ),
    pytest.param(
        {"data.include": ["a", "b"], "data.exclude": ["b"]},
        "data.include and data.exclude both name 'b'; keep it in one of them.",
        id="include-and-exclude",
    ),
    pytest.param({"tracking.alias": ""}, "tracking.alias must be a name without '/', ':' and '@'; got ''.", id="alias"),
    pytest.param(
        {"tracking.model_name": "pump@live"},
        "tracking.model_name must be a name without '/', ':' and '@'; got 'pump@live'.",
        id="model-name-with-alias",
    ),
    pytest.param({"tracking.experiment": " "}, "tracking.experiment must be a name; got ' '.", id="experiment"),
    pytest.param({"seed": -1}, "seed must be in [0, 2⁶³); got -1.", id="seed"),
    pytest.param({"seed": 2**63}, "seed must be in [0, 2⁶³); got 9223372036854775808.", id="seed-beyond-torch"),
    pytest.param({"seed": 1.5}, "seed must be a whole number; got 1.5.", id="seed-not-whole"),
    pytest.param({"train.steps": "many"}, "train.steps must be a whole number; got 'many'.", id="steps-text"),
    pytest.param({"model.sigma": "0.1"}, "model.sigma must be a number; got '0.1'.", id="sigma-text"),
    pytest.param({"tracking.enabled": 1}, "tracking.enabled must be true or false; got 1.", id="not-boolean"),
    pytest.param({"data.label_column": 3}, "data.label_column must be text; got 3.", id="not-text"),
    pytest.param({"data.exclude": "a,b"}, "data.exclude must be a list; got 'a,b'.", id="not-a-list"),
    pytest.param({"data": 3}, "data must be a section with keys; got 3.", id="not-a-section"),
    pytest.param(
        {"calibration.method": "splt"},
        "calibration.method must be 'auto', 'split' or 'cross'; got 'splt'. Did you mean 'split'?",
        id="method-misspelt",
    ),
    pytest.param({"model.prior": "none"}, "model.prior must be 'exemplar' or 'standard'; got 'none'.", id="prior"),
    pytest.param({"model.member": 2}, "model.member is not a known key. Did you mean 'model.members'?", id="key-misspelt"),
    pytest.param({"modle": {"members": 2}}, "modle is not a known key. Did you mean 'model'?", id="section-misspelt"),
    pytest.param({"alpha": 0.1}, "alpha is not a known key. Did you mean 'calibration.alpha'?", id="key-without-section"),
    pytest.param({"train.alpha": 0.1}, "train.alpha is not a known key. Did you mean 'calibration.alpha'?", id="key-in-another-section"),
    pytest.param({"zzz": 1}, "zzz is not a known key.", id="key-like-no-other"),
]


@pytest.mark.parametrize(("overrides", "text"), REFUSED)
def test_refused_with_one_line(overrides: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert str(caught.value) == text
    assert caught.value.exit_code == 2


def test_all_problems_are_reported_at_once_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pump.toml"
    path.write_text('seed = -1\n[model]\nmember = 2\nlatent = "wide"\n[calibration]\nalpha = 5\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        "pump.toml: 4 problems: (1) model.member is not a known key. Did you mean 'model.members'? "
        "(2) model.latent must be a whole number; got 'wide'. (3) seed must be in [0, 2⁶³); got -1. "
        "(4) calibration.alpha must be in (0, 1); got 5. Did you mean 0.05?"
    )


def test_options_lie_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[calibration]\nalpha = 0.05\nmethod = "cross"\n[data]\nexclude = ["a"]\n', encoding="utf-8")
    config = load_config(path, {"calibration.alpha": 0.02, "calibration.method": None, "seed": None, "tracking": {"register": False}})
    assert config.calibration.alpha == 0.02
    assert config.calibration.method == "cross"
    assert config.data.exclude == ("a",)
    assert config.tracking == dataclasses.replace(TrackingConfig(), register=False)
    assert config.train == TrainConfig()


def test_a_byte_order_mark_and_whole_numbers_for_fractions_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf[model]\nsigma = 1\nhidden = []\n")
    config = load_config(path)
    assert (config.model.sigma, config.model.hidden) == (1.0, ())
    assert isinstance(config.model.sigma, float)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(b"alpha = ", "c.toml is not valid TOML: Invalid value (at end of document).", id="syntax"),
        pytest.param(
            b"a = '\xff'",
            "c.toml is not valid TOML: 'utf-8' codec can't decode byte 0xff in position 5: invalid start byte.",
            id="encoding",
        ),
    ],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.toml")
    assert str(caught.value) == text


def test_a_file_that_is_not_there_or_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.toml")
    assert str(caught.value) == f"config file not found: {tmp_path / 'none.toml'}."
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert str(caught.value) == f"config file {tmp_path} cannot be read: Is a directory."


def test_validate_checks_a_config_made_by_hand() -> None:
    validate(Config())
    with pytest.raises(ConfigError) as caught:
        validate(Config(model=ModelConfig(members=0, views=())))
    assert str(caught.value) == (
        "2 problems: (1) model.views must be at least one view, each once; got []. (2) model.members must be ≥ 1; got 0."
    )


def test_the_dictionary_is_plain_and_comes_back_equal() -> None:
    config = Config(data=DataConfig(exclude=("a", "b"), time_column="t"), model=ModelConfig(latent=7, hidden=(8, 4)), seed=3)
    plain = config_to_dict(config)
    assert config_from_dict(json.loads(json.dumps(plain))) == config
    assert plain["model"]["hidden"] == [8, 4]
    assert list(plain) == [f.name for f in dataclasses.fields(Config)]


def test_a_dictionary_with_an_unknown_key_is_refused() -> None:
    plain = config_to_dict(Config())
    plain["model"]["dropout"] = 0.1
    with pytest.raises(ConfigError) as caught:
        config_from_dict(plain)
    assert str(caught.value) == "model.dropout is not a known key."


def test_every_number_has_a_range() -> None:
    """A new option without a range in config.py is noticed here."""
    from vae_anomaly.config import _RANGES

    plain = {"": {"seed": 0}, **{name: value for name, value in config_to_dict(Config()).items() if isinstance(value, dict)}}
    numbers = {
        f"{section}.{key}".lstrip(".")
        for section, values in plain.items()
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert numbers - set(_RANGES) == set()


def test_importing_the_config_loads_nothing_heavy() -> None:
    code = "import sys, vae_anomaly.config; print([m for m in ('pydantic', 'torch', 'pyarrow', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
