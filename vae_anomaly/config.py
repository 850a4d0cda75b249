"""Configuration of a fit: a tree of frozen dataclasses with every default; the artifact stores it in full.

``load_config`` reads TOML strictly: an unknown key, a wrong type or a value out of range is an error, and all problems are reported
at once.
"""

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from vae_anomaly.choices import DAY_FIRST, MONTH_FIRST, TIME_COUNTS, TIME_DIRECTIVES, OnError, ReadOnError
from vae_anomaly.errors import ConfigError
from vae_anomaly.messages import nearest

ViewName = Literal["standard", "minmax", "robust", "percentile"]
Prior = Literal["exemplar", "standard"]
Activation = Literal["silu", "relu"]
Likelihood = Literal["student-t", "gaussian"]
CalibrationMethod = Literal["auto", "split", "cross"]
SeriesView = Literal["values", "own", "ar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How tables are read: which cells mean missing, where the header is, how times are written, and which version of a lakehouse table."""

    missing_values: tuple[str, ...] = ()  # texts that mean a missing cell, besides the empty one
    default_missing: bool = True  # the usual texts, such as NA and null, mean a missing cell too
    on_error: OnError = "stop"  # at a malformed CSV row
    header_row: int | None = None  # line of the column names, from 1; None: found
    no_header: bool = False  # the first line is data
    skip_rows: int = 0  # rows below the header that hold no data, such as units
    time_format: str | None = None  # of times that are text or numbers
    pivot: str | None = None  # roles of the columns of a long table, as in tag=TAG,value=VALUE,time=TS
    quality_column: str | None = None  # values whose quality is not good are missing; a name, or a pattern such as *_quality
    good_quality: tuple[str, ...] = ()  # what that column holds for a good value; empty: the usual words and codes
    at: str | None = None  # version, snapshot or time of a lakehouse table; None: the current one


DEFAULT_READING = Reading()


def reading_for(request: object, fitted: Reading) -> Reading:
    """Return how to read for a request with the attributes of ``Reading``, None where it is to be as ``fitted``.

    A version of a lakehouse table is never taken from the fit.
    """
    names = [field.name for field in fields(Reading)]
    given: dict[str, Any] = {name: value for name in names if (value := getattr(request, name)) is not None}
    if "header_row" in given or "no_header" in given:  # each replaces the other of the fit
        given = {"header_row": None, "no_header": False} | given
    return Reading(**{name: getattr(fitted, name) for name in names} | {"at": None} | given)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Reading):
    """Roles of the columns, and how cells and rows are read."""

    on_error: ReadOnError = "stop"  # at a malformed CSV row

    label_column: str | None = None  # rows with a label that is not normal are not used for training
    normal_labels: tuple[str, ...] = ("0", "false", "normal", "negative", "")  # in lower case; a missing label counts as normal
    id_columns: tuple[str, ...] = ()  # keys; never inputs of the model
    exclude: tuple[str, ...] = ()  # columns to drop
    include: tuple[str, ...] = ()  # columns to use although they look like ids or timestamps
    time_column: str | None = None  # the rows are time series: the settings of [series] apply
    group_by: str | None = None  # one threshold per value of this column; with a time column, one time series per value


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Architecture of the networks, and terms of the score."""

    views: tuple[ViewName, ...] = ("standard", "minmax", "robust")  # scalings of the row; each has its own networks
    members: int = 1  # networks per view; the score is their mean
    hidden: tuple[int, ...] = (96,)  # widths of the hidden layers
    residual_blocks: int = 1  # after the hidden layers
    activation: Activation = "silu"
    linear_skip: bool = True  # a linear path in parallel to the hidden layers
    latent: int | None = None  # None: min(input units, 64)
    sigma: float = 0.05  # standard deviation of the decoder in training, in units of the view
    likelihood: Likelihood = "student-t"  # of a number in the score, at its estimated noise; "gaussian": at sigma
    prior: Prior = "exemplar"  # of the KL term: a mixture over exemplars; "standard": N(0, I)
    exemplars: int = 2000  # training rows kept as exemplars, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Optimization. The budget is in steps, not epochs, so that the training time does not grow with the number of rows."""

    steps: int | None = None  # None: 200, but no row is seen more than 60 times
    batch_rows: int = 128  # rows per minibatch and network
    learning_rate: float = 1e-3  # peak, after a warm-up and before a cosine decay
    weight_decay: float = 1e-4  # decoupled (AdamW)
    input_noise: float = 0.02  # standard deviation of the noise added to the inputs, in units of the view
    device: str = "auto"
    contamination_robust: bool = False  # trim outlying training rows; calibration rows are not trimmed


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """False-alarm rate, and the conformal method that sets the threshold for it."""

    alpha: float = 0.01  # share of normal rows that may be flagged
    method: CalibrationMethod = "auto"  # "split" is exact, "cross" approximate and for small tables; "auto" decides by the rows
    share: float = 0.2  # of the rows, held out for calibration by "split"
    max_rows: int = 20_000  # of these, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesConfig:
    """Rows in time, where ``data.time_column`` is set: what the networks read, smoothing of the score, and folds of the calibration."""

    views: tuple[SeriesView, ...] = ("values", "own", "ar")  # numbers, residuals from their own past, and from that of all columns
    lags: int = 3  # rows that a prediction takes
    span: int = 20  # rows of the exponentially weighted mean of the scores; 1: none
    folds: int = 5  # contiguous blocks of the training time that calibrate
    max_gap: float | None = None  # a longer step of time starts the series anew, in seconds; None: 20 times the usual step


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Where MLflow logs runs and models."""

    enabled: bool = True  # log the run
    register: bool = True  # register the model, under the name and alias below
    model_name: str = "vae-anomaly"
    alias: str = "champion"
    experiment: str = "vae-anomaly"
    uri: str | None = None  # None: MLflow's default store


# The model that every command loads unless one is given.
DEFAULT_MODEL = f"models:/{TrackingConfig().model_name}@{TrackingConfig().alias}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a fit."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    series: SeriesConfig = field(default_factory=SeriesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0


def _is_time_format(text: str) -> bool:
    """Whether a text is a format of ``strptime`` with directives that are known."""
    return "%" in text and re.fullmatch(rf"(?:[^%]|%[{TIME_DIRECTIVES}])*", text) is not None


def _at_least(minimum: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value is None or minimum <= value < math.inf, f"≥ {minimum}"


# models:/name@alias and models:/name/3 are split at these characters.
_A_NAME = (lambda value: value.strip() != "" and not set("/:@") & set(value), "a name without '/', ':' and '@'")
_POSITIVE = (lambda value: 0 < value < math.inf, "> 0")
_SHARE = (lambda value: 0 < value < 1, "in (0, 1)")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**63, "in [0, 2⁶³)"),  # the limit of torch.Generator
    "model.views": (lambda value: 0 < len(set(value)) == len(value), "at least one view, each once"),
    "model.members": _at_least(1),
    "model.hidden": (lambda value: all(width >= 1 for width in value), "a list of widths ≥ 1"),
    "model.residual_blocks": _at_least(0),
    "model.latent": _at_least(1),
    "model.sigma": _POSITIVE,
    "model.exemplars": _at_least(2),
    "data.time_format": (
        lambda value: value is None or value in {DAY_FIRST, MONTH_FIRST, *TIME_COUNTS} or _is_time_format(value),
        f"{DAY_FIRST}, {MONTH_FIRST}, a unit ({', '.join(TIME_COUNTS)}) or a format such as '%d-%b-%y %H:%M'",
    ),
    "data.header_row": _at_least(1),
    "data.skip_rows": _at_least(0),
    "train.steps": _at_least(1),
    "train.batch_rows": _at_least(1),
    "train.learning_rate": _POSITIVE,
    "train.weight_decay": _at_least(0),
    "train.input_noise": _at_least(0),
    "train.device": (lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value) is not None, "auto, cpu, mps, cuda or cuda:N"),
    "calibration.alpha": _SHARE,
    "calibration.share": _SHARE,
    "calibration.max_rows": _at_least(1),
    "series.views": (lambda value: 0 < len(set(value)) == len(value), "at least one view, each once"),
    "series.lags": _at_least(1),
    "series.span": _at_least(1),
    "series.folds": _at_least(3),
    "series.max_gap": (lambda value: value is None or 0 < value < math.inf, "> 0"),
    "tracking.model_name": _A_NAME,
    "tracking.alias": _A_NAME,
    "tracking.experiment": (lambda value: value.strip() != "", "a name"),  # on Databricks a path, with slashes
}


def validate(config: Config) -> None:
    """Check every value against its range; raise one ConfigError that lists all problems."""
    _refuse([*_range_problems(config)], where="")


def _range_problems(config: Config) -> Iterator[str]:
    for key, (is_valid, expected) in _RANGES.items():
        value: Any = reduce(getattr, key.split("."), config)
        if not is_valid(value):
            yield f"{key} must be {expected}; got {_toml_text(value)}.{_as_percent(value) if is_valid is _SHARE[0] else ''}"
    for name in sorted(set(config.data.include) & set(config.data.exclude)):
        yield f"data.include and data.exclude both name {name!r}; keep it in one of them."


def _toml_text(value: Any) -> str:
    """Write a value as TOML would: 5 for 5.0, a list for a tuple."""
    return f"{value:g}" if isinstance(value, float) else repr(list(value) if isinstance(value, tuple) else value)


def _as_percent(value: float) -> str:
    """Suggest 0.05 for 5, which was probably meant as per cent."""
    return f" Did you mean {value / 100:g}?" if 1 <= value < 100 else ""  # noqa: PLR2004 (per cent)


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a TOML file strictly, and apply ``overrides``, which take precedence.

    Without ``path``, start from the defaults. ``overrides`` are nested (``{"calibration": {"alpha": 0.05}}``) or dotted as below; a value
    of ``None`` is ignored. Raises ConfigError: one line with every unknown key, wrong type and value out of range.

    >>> load_config(None, {"calibration.alpha": 0.05}).calibration.alpha
    0.05
    """
    tree = {} if path is None else _read_toml(path)
    for key, value in (overrides or {}).items():
        _override(tree, key.split("."), value)
    return _build(tree, where="" if path is None else f"{path.name}: ")


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return dictionaries, lists and scalars for JSON; every key is present."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def config_from_dict(tree: Mapping[str, Any]) -> Config:
    """Return the Config that ``config_to_dict`` wrote, as strictly as ``load_config``; an absent key takes its default."""
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


def _override(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set one value in the tree; a mapping is merged key by key, ``None`` is ignored."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _override(tree, [*keys, *key.split(".")], inner)
    elif value is not None and len(keys) == 1:
        tree[keys[0]] = value
    elif value is not None:
        branch = tree.setdefault(keys[0], {})
        if isinstance(branch, dict):  # otherwise the file has a scalar there, and the type check reports it
            _override(branch, keys[1:], value)


def _build(tree: dict[str, Any], *, where: str) -> Config:
    """Build the Config; unknown keys, wrong types and values out of range are reported together."""
    config, type_problems = _parse(tree)
    _refuse([*_unknown(tree, ""), *type_problems, *_range_problems(config)], where)
    return config


def _refuse(problems: list[str], where: str) -> None:
    """Raise one ConfigError with all problems, if there are any."""
    if len(problems) == 1:
        raise ConfigError(f"{where}{problems[0]}")
    if problems:
        numbered = " ".join(f"({i}) {problem}" for i, problem in enumerate(problems, 1))
        raise ConfigError(f"{where}{len(problems)} problems: {numbered}")


def _parse(tree: dict[str, Any]) -> tuple[Config, list[str]]:
    """Return a Config and the type problems; a value of a wrong type is replaced by its default."""
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(Config)
    # JSON mode is strict about types but accepts a list for a tuple and 1 for a float. TOML dates become text.
    text = json.dumps(tree, default=str)
    try:
        return adapter.validate_json(text, strict=True), []
    except ValidationError as error:
        problems = error.errors(include_url=False)
    valid = json.loads(text)
    for problem in problems:
        _remove(valid, [str(key) for key in problem["loc"][:2]])
    return adapter.validate_json(json.dumps(valid), strict=True), [_type_problem(dict(problem)) for problem in problems]


def _remove(tree: dict[str, Any], keys: list[str]) -> None:
    (tree if len(keys) == 1 else tree.get(keys[0], {})).pop(keys[-1], None)


_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dataclass_type": "a section with keys",
}


def _type_problem(problem: dict[str, Any]) -> str:
    """Describe an error of pydantic in TOML's terms, and suggest the nearest valid choice."""
    key = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    got = problem["input"]
    if problem["type"] != "literal_error":
        return f"{key} must be {_KINDS.get(problem['type'], problem['msg'])}; got {got!r}."
    choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
    return f"{key} must be {problem['ctx']['expected']}; got {got!r}.{_did_you_mean(nearest(str(got), choices))}"


# Every section and every key, dotted: data, data.include, …, seed.
_SECTIONS = {f.name: f.default_factory() for f in fields(Config) if callable(f.default_factory)}
_KEYS = {f.name for f in fields(Config)} | {f"{name}.{f.name}" for name, section in _SECTIONS.items() for f in fields(section)}


def _unknown(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Report the keys that no dataclass has, each with the nearest known key."""
    for name, value in tree.items():
        key = prefix + name
        if key not in _KEYS:
            yield f"{key} is not a known key.{_suggestion(key)}"
        elif isinstance(value, Mapping) and not prefix:
            yield from _unknown(value, f"{name}.")


def _suggestion(key: str) -> str:
    section, _, leaf = key.rpartition(".")
    elsewhere = sorted(known for known in _KEYS if known.rpartition(".")[2] == leaf)
    siblings = {known.rpartition(".")[2]: known for known in sorted(_KEYS) if known.rpartition(".")[0] == section}
    return _did_you_mean(elsewhere[0] if elsewhere else siblings.get(nearest(leaf, list(siblings)) or ""))


def _did_you_mean(near: str | None) -> str:
    return f" Did you mean {near!r}?" if near else ""
