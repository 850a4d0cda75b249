"""The fitted detector: schema, ensemble, threshold, diagnostics and provenance, and its conversion to and from plain data.

There is no unfitted detector: ``fit_detector`` returns a finished one. ``state`` gives JSON-able values and tensors; ``from_state``
checks them and builds the detector.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast, get_args

import torch
from torch import Tensor

from vae_anomaly.calibration.serialization import threshold_from, threshold_tensors, threshold_values
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.config import Config, ModelConfig, Prior, config_from_dict, config_to_dict
from vae_anomaly.detector.card import Blocks, Card, ColumnQuality, are_measured
from vae_anomaly.detector.series import Series
from vae_anomaly.errors import ConfigError, DamagedArtifact
from vae_anomaly.explain.contributions import Usual
from vae_anomaly.messages import shorten
from vae_anomaly.model.ensemble import ConstantColumns, Ensemble, Scores, score_rows
from vae_anomaly.model.prediction import ACROSS, Predictors
from vae_anomaly.model.prior import Exemplars
from vae_anomaly.model.scaling import VIEW_TENSORS, Views
from vae_anomaly.model.vae import Layout, Vae
from vae_anomaly.redaction import redacted_config
from vae_anomaly.schema.encoding import Batch, model_order
from vae_anomaly.schema.schema import Schema
from vae_anomaly.strict_json import parsed

# Characters of an error that quotes a damaged file, which may hold a text of any length.
LONGEST_REASON = 300
# Numbers of the terms of a batch of rows in time at most (32 MB): all of them are kept until its reasons are written.
TERMS_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detector:
    """A fitted anomaly detector. Scores are weighted nats, higher = more anomalous."""

    schema: Schema
    config: Config
    ensemble: Ensemble
    threshold: Threshold
    quality: tuple[ColumnQuality, ...]
    card: Card
    usual: Usual | None = None  # None: fitted by a version that did not store it
    blocks: Blocks | None = None  # None: too few alarms, or cross-fitted
    series: Series | None = None  # how rows in time are scored; None: each row is scored alone

    def scores(self, batch: Batch, *, threads: int = 1) -> Scores:
        """Score rows encoded by ``schema.encoding.encode``: reconstruction, KL and their sum, float64 ``[n]``, weighted nats."""
        return score_rows(self.ensemble, batch, threads=threads)

    @property
    def time_columns(self) -> tuple[str, ...]:
        """The columns besides the inputs that scoring reads: time and entity of rows in time."""
        return () if self.series is None else tuple(name for name in (self.schema.time, self.schema.group) if name is not None)

    def rows_at_once(self, rows: int = 65_536) -> int:
        """Return how many rows to score at once, ``rows`` at most."""
        return rows if self.series is None else max(1, min(rows, TERMS_AT_ONCE // self.series.start.numel()))

    def recalibrated(self, threshold: Threshold) -> "Detector":
        """Return the same model with another threshold and a penalty of changed constants above it, so that they are still flagged.

        Equal calibration scores are counted as copies if the rows hold measured numbers.
        """
        threshold = threshold.with_copies_counted() if are_measured(self.quality) else threshold
        penalty = threshold.highest + 1.0
        if self.series is not None:  # of the smoothed score, in which the newest row counts for a part
            penalty /= self.series.newest
        constants = replace(self.ensemble.constants, penalty=penalty)
        return replace(self, threshold=threshold, ensemble=replace(self.ensemble, constants=constants))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return JSON-able values and tensors; ``from_state`` is the inverse."""
        e = self.ensemble
        values = {
            "config": _stored_config(self.config),
            "schema": self.schema.state(),
            "layout": asdict(e.layout),
            "latent": e.vae.latent,
            "unseen": e.unseen,
            "prior": e.prior,
            "penalty": e.constants.penalty,
            "threshold": threshold_values(self.threshold),
            "quality": [asdict(q) for q in self.quality],
            "card": asdict(self.card),
            "blocks": None if self.blocks is None else asdict(self.blocks),
        }
        if self.series is not None:
            values["series"] = {name: getattr(self.series, name) for name in Series.__slots__ if name != "start"}
        tensors = {f"vae.{name}": tensor for name, tensor in e.vae.state_dict().items()}
        tensors |= {f"views.{name}": getattr(e.views, name) for name in VIEW_TENSORS}
        if e.views.predictors is not None:
            tensors |= {f"predictors.{name}": getattr(e.views.predictors, name) for name in Predictors.__slots__}
        if self.series is not None:
            tensors["series.start"] = self.series.start
        tensors |= {f"exemplars.{name}": getattr(e.exemplars, name) for name in Exemplars.__slots__}
        tensors |= {f"constants.{name}": getattr(e.constants, name) for name in ("numeric", "value", "code", "level")}
        tensors |= {"weight": e.weight, "beta": e.beta, "noise": e.noise, "numeric": e.numeric, "codes": e.codes}
        tensors |= {name: t for name in ("always", "groups") if (t := getattr(e, name)) is not None}
        tensors |= threshold_tensors(self.threshold)
        if self.usual is not None:
            tensors |= {f"usual.{name}": getattr(self.usual, name) for name in Usual.__slots__}
        return values, {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Detector":
        """Build a detector from the result of ``state``. Raises DamagedArtifact if a field is missing or invalid."""
        try:
            return _build(values, tensors)
        except (ConfigError, AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DamagedArtifact(f"the model's fields do not fit together: {shorten(text, LONGEST_REASON)}") from error


# Format 1 has this key in its configuration, though only windows of one row exist.
_WINDOW = {"window": 1}


def _stored_config(config: Config) -> dict[str, Any]:
    plain = redacted_config(config_to_dict(config))
    return plain | {"data": plain["data"] | _WINDOW}


def _config_from(stored: Mapping[str, Any]) -> Config:
    data = {key: value for key, value in stored.get("data", {}).items() if (key, value) not in _WINDOW.items()}
    return config_from_dict({**stored, "data": data})


def _build(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
    config = _config_from(values["config"])
    schema, layout, weight = Schema.from_state(values["schema"]), parsed(Layout, values["layout"]), tensors["weight"]
    check_layout(layout, schema, tensors["numeric"], tensors["codes"])
    vae = _vae(config, layout, values["latent"], len(weight), tensors)
    parts = {n: tensors[f"constants.{n}"] for n in ("numeric", "value", "code", "level")}
    ensemble = Ensemble(
        layout=layout,
        vae=vae,
        views=Views(**{n: tensors[f"views.{n}"] for n in VIEW_TENSORS}, predictors=_predictors(tensors)),
        exemplars=Exemplars(**{n: tensors[f"exemplars.{n}"] for n in Exemplars.__slots__}),
        weight=weight,
        beta=tensors["beta"],
        noise=tensors["noise"],
        constants=ConstantColumns(**parts, penalty=float(values["penalty"])),
        numeric=tensors["numeric"],
        codes=tensors["codes"],
        unseen=float(values["unseen"]),
        prior=_prior(values["prior"]),
        likelihood=config.model.likelihood,
        always=tensors.get("always"),
        groups=tensors.get("groups"),
    )
    check_ensemble(ensemble, schema)
    return Detector(
        schema=schema,
        config=config,
        ensemble=ensemble,
        threshold=threshold_from(values["threshold"], tensors),
        quality=tuple(parsed(ColumnQuality, q) for q in values["quality"]),
        card=parsed(Card, values["card"]),
        usual=_usual(tensors, len(values["quality"])),
        blocks=parsed(Blocks, values["blocks"]) if values.get("blocks") else None,
        series=_series(values, tensors, ensemble, len(schema.columns)),
    )


def _predictors(tensors: Mapping[str, Tensor]) -> Predictors | None:
    """Return the predictors of a model of rows in time, None for another model. Raises KeyError and ValueError."""
    if "predictors.kind" not in tensors:
        return None
    found = Predictors(**{name: tensors[f"predictors.{name}"] for name in Predictors.__slots__})
    nets, lags, numbers = found.own.shape
    across = int((found.kind == ACROSS).sum())
    expected = {
        "kind": _Expected(tensor=found.kind, shape=(nets,), dtype=I64),
        "centre": _Expected(tensor=found.centre, shape=(nets, numbers), dtype=F64),
        "spread": _Expected(tensor=found.spread, shape=(nets, numbers), dtype=F64, positive=True),
        "own": _Expected(tensor=found.own, shape=(nets, lags, numbers), dtype=F64),
        "across": _Expected(tensor=found.across, shape=(across, lags * numbers, numbers), dtype=F64),
    }
    for name, one in expected.items():
        _check(f"predictors.{name}", one)
    if not lags or not bool(((found.kind >= 0) & (found.kind <= ACROSS)).all()):
        raise ValueError("predictors.kind names a kind of network that there is not")
    return found


def _series(values: Mapping[str, Any], tensors: Mapping[str, Tensor], ensemble: Ensemble, columns: int) -> Series | None:
    """Return how rows in time are scored, None for a model of single rows. Raises KeyError, TypeError and ValueError."""
    predictors, stored = ensemble.views.predictors, values.get("series")
    if (predictors is None) != (stored is None):
        raise ValueError("a model of rows in time has both predictors and the settings of its series")
    if predictors is None or stored is None:
        return None
    if predictors.centre.shape != ensemble.views.centre.shape:
        raise ValueError("predictors are not those of the networks")
    start = tensors["series.start"]
    _check("series.start", _Expected(tensor=start, shape=(len(set(predictors.kind.tolist())), columns + 1), dtype=F64))
    series = Series(start=start, **stored)
    if type(series.span) is not int or series.span < 1 or not series.max_gap > 0 or type(series.is_clock) is not bool:
        raise ValueError("the settings of the series are impossible")
    return series


def _prior(name: Any) -> Prior:
    if name not in get_args(Prior):
        raise ValueError(f"unknown prior {name!r}")
    return cast("Prior", name)


def _vae(config: Config, layout: Layout, latent: Any, nets: int, tensors: Mapping[str, Tensor]) -> Vae:
    check_depth(config.model, latent, tensors)
    model = replace(config.model, latent=latent)
    with torch.device("meta"):
        vae = Vae(nets, layout, model, None)
    weights = {name.removeprefix("vae."): tensor for name, tensor in tensors.items() if name.startswith("vae.")}
    vae.load_state_dict(weights, strict=True, assign=True)
    return vae.requires_grad_(requires_grad=False).eval()


def _usual(tensors: Mapping[str, Tensor], columns: int) -> Usual | None:
    """Return the usual contributions of the columns, None if they are not stored. Raises ValueError for invalid tensors."""
    if "usual.middle" not in tensors:
        return None
    usual = Usual(**{name: tensors[f"usual.{name}"] for name in Usual.__slots__})
    for name in Usual.__slots__:
        tensor = getattr(usual, name)
        if tuple(tensor.shape) != (columns,) or not bool(torch.isfinite(tensor).all()):
            msg = f"usual.{name} is not {columns} finite numbers"
            raise ValueError(msg)
    if not bool((usual.spread > 0).all()):
        msg = "usual.spread is not positive"
        raise ValueError(msg)
    return usual


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
    if ensemble.always is not None:
        shape = (len(ensemble.weight), len(schema.columns))
        _check("always", _Expected(tensor=ensemble.always, shape=shape, dtype=torch.bool))
    for name, tensor in ensemble.vae.state_dict().items():
        _check(f"vae.{name}", _Expected(tensor=tensor, shape=tuple(tensor.shape), dtype=F32))
    used = ensemble.exemplars.log_weight
    if used.dtype != F32 or tuple(used.shape) != tuple(ensemble.exemplars.mu.shape[:2]):
        raise ValueError(
            f"exemplars.log_weight is {used.dtype} of shape {tuple(used.shape)}, expected {tuple(ensemble.exemplars.mu.shape[:2])}"
        )
    if bool(torch.isnan(used).any() | (used == torch.inf).any()) or not bool(torch.isfinite(used).any(-1).all()):
        raise ValueError("exemplars.log_weight is not the logarithm of weights")
    if ensemble.groups is not None:
        _check("groups", _Expected(tensor=ensemble.groups, shape=(len(ensemble.weight),), dtype=I64))
        used, several = ensemble.exemplars.log_weight.isfinite().sum(-1), ensemble.groups[ensemble.groups != 0]
        if bool((ensemble.groups < 0).any() | (ensemble.groups > used).any()) or bool((several != several[:1]).any()):
            raise ValueError("groups are not 0 or one number of groups of the exemplars")
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
        "views.spread": _Expected(tensor=e.views.spread, shape=(nets, rest), dtype=F32, positive=True),
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
