"""What to do: one tree of frozen dataclasses, every default in one place, recorded whole in the artifact.

Knows nothing about tables, models or the command line. ``load_config`` reads TOML strictly: an unknown key or a value of
the wrong type is an error, and all problems are reported at once.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from vae_anomaly.errors import ConfigError

ViewName = Literal["standard", "minmax", "robust", "percentile"]
Prior = Literal["exemplar", "standard"]
Activation = Literal["silu", "relu"]
Likelihood = Literal["student-t", "gaussian"]
CalibrationMethod = Literal["auto", "split", "cross"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which columns are what."""

    label_column: str | None = None
    # Compared in lower case; an empty or missing label counts as normal.
    normal_labels: tuple[str, ...] = ("0", "false", "normal", "negative", "")
    id_columns: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    missing_values: tuple[str, ...] = ()
    on_error: Literal["stop", "skip"] = "stop"  # rows of a CSV that cannot be read
    time_column: str | None = None
    group_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The networks and the score."""

    views: tuple[ViewName, ...] = ("standard", "minmax", "robust")
    members: int = 1
    hidden: tuple[int, ...] = (96,)
    residual_blocks: int = 1
    activation: Activation = "silu"
    linear_skip: bool = True
    latent: int | None = None  # None: min(input units, 64)
    sigma: float = 0.1  # decoder noise while learning, in units of the view
    likelihood: Likelihood = "student-t"  # of a number in the score: at its fitted noise, or "gaussian" at sigma
    prior: Prior = "exemplar"
    exemplars: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The budget is in steps, so that the time of a fit does not grow with the rows."""

    steps: int | None = None  # None: 200, but no row more than 60 times
    batch_rows: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    input_noise: float = 0.02
    device: str = "auto"
    contamination_robust: bool = False  # learn less from the oddest training rows; they calibrate all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """The false-alarm rate and how the threshold for it is found."""

    alpha: float = 0.01
    method: CalibrationMethod = "auto"
    share: float = 0.2
    max_rows: int = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Where runs and models are logged; the store is MLflow's own default unless ``uri`` says otherwise."""

    enabled: bool = True
    register: bool = True
    model_name: str = "vae-anomaly"
    alias: str = "champion"
    experiment: str = "vae-anomaly"
    uri: str | None = None


# What every command takes when no model is named.
DEFAULT_MODEL = f"models:/{TrackingConfig().model_name}@{TrackingConfig().alias}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a fit can be told."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0


def _at_least(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value is None or least <= value < math.inf, f"≥ {least}"


# What models:/name@alias and models:/name/3 are cut at may not stand in a name.
_A_NAME = (lambda value: value.strip() != "" and not set("/:@") & set(value), "a name without '/', ':' and '@'")
_POSITIVE = (lambda value: 0 < value < math.inf, "> 0")
_SHARE = (lambda value: 0 < value < 1, "in (0, 1)")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**63, "in [0, 2⁶³)"),  # torch.Generator takes no more
    "model.views": (lambda value: 0 < len(set(value)) == len(value), "at least one view, each once"),
    "model.members": _at_least(1),
    "model.hidden": (lambda value: all(width >= 1 for width in value), "a list of widths ≥ 1"),
    "model.residual_blocks": _at_least(0),
    "model.latent": _at_least(1),
    "model.sigma": _POSITIVE,
    "model.exemplars": _at_least(1),
    "train.steps": _at_least(1),
    "train.batch_rows": _at_least(1),
    "train.learning_rate": _POSITIVE,
    "train.weight_decay": _at_least(0),
    "train.input_noise": _at_least(0),
    "train.device": (lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value) is not None, "auto, cpu, mps, cuda or cuda:N"),
    "calibration.alpha": _SHARE,
    "calibration.share": _SHARE,
    "calibration.max_rows": _at_least(1),
    "tracking.model_name": _A_NAME,
    "tracking.alias": _A_NAME,
    "tracking.experiment": (lambda value: value.strip() != "", "a name"),  # Databricks has folders in it
}


def validate(config: Config) -> None:
    """Check every range; raise one ConfigError that names all problems."""
    _refuse([*_range_problems(config)], where="")


def _range_problems(config: Config) -> Iterator[str]:
    for key, (holds, wanted) in _RANGES.items():
        value: Any = reduce(getattr, key.split("."), config)
        if not holds(value):
            yield f"{key} must be {wanted}; got {_shown(value)}.{_as_percent(value) if holds is _SHARE[0] else ''}"
    for name in sorted(set(config.data.include) & set(config.data.exclude)):
        yield f"data.include and data.exclude both name {name!r}; keep it in one of them."


def _shown(value: Any) -> str:
    """Write a value as TOML would: 5 for 5.0, a list for a tuple."""
    return f"{value:g}" if isinstance(value, float) else repr(list(value) if isinstance(value, tuple) else value)


def _as_percent(value: float) -> str:
    """Guess that 5 was meant as 5 %."""
    return f" Did you mean {value / 100:g}?" if 1 <= value < 100 else ""  # noqa: PLR2004 (per cent)


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a TOML file strictly and lay the options of the command line over it.

    Without a path it starts from the defaults. Overrides are nested (``{"calibration": {"alpha": 0.05}}``) or dotted, as
    below; ``None`` means not given. Raises ConfigError, one line with every unknown key, wrong type and value out of range.

    >>> load_config(None, {"calibration.alpha": 0.05}).calibration.alpha
    0.05
    """
    tree = {} if path is None else _read_toml(path)
    for key, value in (overrides or {}).items():
        _lay(tree, key.split("."), value)
    return _build(tree, where="" if path is None else f"{path.name}: ")


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain dictionaries, lists and scalars, ready for JSON; every key is present."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def config_from_dict(tree: Mapping[str, Any]) -> Config:
    """Rebuild what ``config_to_dict`` wrote, as strictly as ``load_config``; an absent key takes its default."""
    return _build(dict(tree), where="")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"config file not found: {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}.") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}.") from None


def _lay(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Put one override into the tree; a mapping goes in key by key, ``None`` not at all."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _lay(tree, [*keys, *key.split(".")], inner)
    elif value is not None and len(keys) == 1:
        tree[keys[0]] = value
    elif value is not None:
        branch = tree.setdefault(keys[0], {})
        if isinstance(branch, dict):  # otherwise the file holds a scalar there, which the check of types reports
            _lay(branch, keys[1:], value)


def _build(tree: dict[str, Any], *, where: str) -> Config:
    """Check a tree of plain values and build the Config; problems of all three sorts are reported together."""
    config, wrong = _parse(tree)
    _refuse([*_unknown(tree, ""), *wrong, *_range_problems(config)], where)
    return config


def _refuse(problems: list[str], where: str) -> None:
    """Raise when there are problems, all of them in one line."""
    if len(problems) == 1:
        raise ConfigError(f"{where}{problems[0]}")
    if problems:
        numbered = " ".join(f"({i}) {problem}" for i, problem in enumerate(problems, 1))
        raise ConfigError(f"{where}{len(problems)} problems: {numbered}")


def _parse(tree: dict[str, Any]) -> tuple[Config, list[str]]:
    """Turn plain values into a Config, strictly; values of a wrong type become problems and their defaults stand in."""
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(Config)
    # JSON mode: strict about types, yet a list may fill a tuple and 1 a float. Dates of TOML turn into text.
    text = json.dumps(tree, default=str)
    try:
        return adapter.validate_json(text, strict=True), []
    except ValidationError as error:
        found = error.errors(include_url=False)
    rest = json.loads(text)
    for problem in found:
        _prune(rest, [str(part) for part in problem["loc"][:2]])
    return adapter.validate_json(json.dumps(rest), strict=True), [_type_problem(dict(problem)) for problem in found]


def _prune(tree: dict[str, Any], loc: list[str]) -> None:
    (tree if len(loc) == 1 else tree.get(loc[0], {})).pop(loc[-1], None)


_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dataclass_type": "a section with keys",
}


def _type_problem(problem: dict[str, Any]) -> str:
    """Say in our words what pydantic found; a choice that is nearly right is guessed."""
    key = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    got = problem["input"]
    if problem["type"] != "literal_error":
        return f"{key} must be {_KINDS.get(problem['type'], problem['msg'])}; got {got!r}."
    choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    return f"{key} must be {problem['ctx']['expected']}; got {got!r}.{_did_you_mean(str(got), choices)}"


# Every section and every key, dotted: data, data.include, …, seed.
_SECTIONS = {f.name: f.default_factory() for f in fields(Config) if callable(f.default_factory)}
_KEYS = {f.name for f in fields(Config)} | {f"{name}.{f.name}" for name, section in _SECTIONS.items() for f in fields(section)}


def _unknown(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Name the keys that no dataclass has, with the nearest key that exists anywhere."""
    for name, value in tree.items():
        key = prefix + name
        if key not in _KEYS:
            yield f"{key} is not a known key.{_suggestion(key)}"
        elif isinstance(value, Mapping) and not prefix:
            yield from _unknown(value, f"{name}.")


def _suggestion(key: str) -> str:
    leaf = key.rsplit(".", 1)[-1]
    elsewhere = sorted(known for known in _KEYS if known.rsplit(".", 1)[-1] == leaf)
    return f" Did you mean {elsewhere[0]!r}?" if elsewhere else _did_you_mean(key, sorted(_KEYS))


def _did_you_mean(word: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.7)
    return f" Did you mean {near[0]!r}?" if near else ""
