"""The fitted whole: schema, ensemble, threshold and provenance; and its form as plain data.

There is no unfitted detector: ``core.fit.fit_detector`` returns a finished one. ``state`` gives JSON-able values and tensors,
``from_state`` checks and builds. Knows nothing of folders, MLflow or the clock.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vae_anomaly.config import Config, config_from_dict, config_to_dict
from vae_anomaly.core.blocks import Blocks
from vae_anomaly.core.encode import Batch
from vae_anomaly.core.explain import Usual
from vae_anomaly.core.prior import Exemplars
from vae_anomaly.core.schema import Schema
from vae_anomaly.core.score import Constants, Ensemble, Scores, score_rows
from vae_anomaly.core.stored import threshold_from, threshold_tensors, threshold_values
from vae_anomaly.core.threshold import Threshold
from vae_anomaly.core.train import Block, History
from vae_anomaly.core.vae import Layout, Vae
from vae_anomaly.core.views import Views
from vae_anomaly.errors import ConfigError, DamagedArtifact


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnQuality:
    """How well a column is reconstructed on validation rows and how its cells were at fit.

    ``r2``: 1 − SSE/SST for numbers, 1 − nll/entropy for booleans and categories, 1 = perfect; None for a constant column.
    ``missing`` is the share of missing cells; ``low``, ``middle``, ``high`` the 1 %, 50 % and 99 % quantiles of a number.
    """

    name: str
    kind: str
    r2: float | None
    missing: float
    constant: str | None = None
    low: float | None = None
    middle: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Provenance: what the detector was made from. ``versions``, ``created`` and ``source`` are filled in by the caller who knows them."""

    rows: int
    training_rows: int
    calibration_rows: int
    seed: int
    history: History
    notes: tuple[str, ...] = ()
    created: str = ""
    seconds: float = 0.0
    versions: tuple[tuple[str, str], ...] = ()
    source: tuple[str, ...] = ()
    data_digest: str = ""
    # When a later calibration was made and from which rows; empty: the rows were those of the fit.
    calibrated: str = ""
    calibration_source: tuple[str, ...] = ()
    calibration_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detector:
    """A fitted anomaly detector. Scores are weighted nats, higher = more anomalous."""

    schema: Schema
    config: Config
    ensemble: Ensemble
    threshold: Threshold
    quality: tuple[ColumnQuality, ...]
    card: Card
    usual: Usual | None = None  # None: fitted by a version that did not learn it
    blocks: Blocks | None = None  # None: too few alarms to say, or cross-fitted

    def scores(self, batch: Batch, *, threads: int = 1) -> Scores:
        """Score encoded rows (``core.encode.encode``): reconstruction, KL and their sum, float64 ``[n]``."""
        return score_rows(self.ensemble, batch, threads=threads)

    def recalibrated(self, threshold: Threshold) -> "Detector":
        """Return the same model with another threshold; a changed constant column still costs more than any value it can take."""
        penalty = threshold.highest + 1.0
        constants = replace(self.ensemble.constants, penalty=penalty)
        return replace(self, threshold=threshold, ensemble=replace(self.ensemble, constants=constants))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return JSON-able values and tensors; ``from_state`` is the inverse."""
        e = self.ensemble
        values = {
            "config": config_to_dict(self.config),
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
        tensors = {f"vae.{name}": tensor for name, tensor in e.vae.state_dict().items()}
        tensors |= {f"views.{name}": getattr(e.views, name) for name in Views.__slots__}
        tensors |= {f"exemplars.{name}": getattr(e.exemplars, name) for name in Exemplars.__slots__}
        tensors |= {f"constants.{name}": getattr(e.constants, name) for name in ("numeric", "value", "code", "level")}
        tensors |= {"weight": e.weight, "beta": e.beta, "noise": e.noise, "numeric": e.numeric, "codes": e.codes}
        tensors |= threshold_tensors(self.threshold)
        if self.usual is not None:
            tensors |= {f"usual.{name}": getattr(self.usual, name) for name in Usual.__slots__}
        return values, {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Detector":
        """Build a detector from what ``state`` gave. Raises DamagedArtifact when a field is absent or impossible."""
        try:
            return _build(values, tensors)
        except (ConfigError, KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            msg = f"the model's fields do not fit together: {type(error).__name__}: {error}".splitlines()[0]
            raise DamagedArtifact(msg) from error


def _build(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
    config = config_from_dict(values["config"])
    layout = Layout(**{**values["layout"], "levels": tuple(values["layout"]["levels"])})
    weight = tensors["weight"]
    vae = _vae(config, layout, int(values["latent"]), len(weight), tensors)
    parts = {n: tensors[f"constants.{n}"] for n in ("numeric", "value", "code", "level")}
    ensemble = Ensemble(
        layout=layout,
        vae=vae,
        views=Views(**{n: tensors[f"views.{n}"] for n in Views.__slots__}),
        exemplars=Exemplars(**{n: tensors[f"exemplars.{n}"] for n in Exemplars.__slots__}),
        weight=weight,
        beta=tensors["beta"],
        noise=tensors["noise"],
        constants=Constants(**parts, penalty=float(values["penalty"])),
        numeric=tensors["numeric"],
        codes=tensors["codes"],
        unseen=float(values["unseen"]),
        prior=values["prior"],
        likelihood=config.model.likelihood,
    )
    _check_shapes(ensemble)
    card = dict(values["card"])
    history = card.pop("history")
    blocks = tuple(Block(**b) for b in history["blocks"])
    return Detector(
        schema=Schema.from_state(values["schema"]),
        config=config,
        ensemble=ensemble,
        threshold=threshold_from(values["threshold"], tensors),
        quality=tuple(ColumnQuality(**q) for q in values["quality"]),
        card=Card(**_tuples(card), history=History(blocks=blocks, steps=history["steps"], stopped=history["stopped"])),
        usual=_usual(tensors, len(values["quality"])),
        blocks=Blocks(**_tuples(values["blocks"])) if values.get("blocks") else None,
    )


def _vae(config: Config, layout: Layout, latent: int, nets: int, tensors: Mapping[str, Tensor]) -> Vae:
    model = replace(config.model, latent=latent)
    with torch.device("meta"):
        vae = Vae(nets, layout, model, None)
    weights = {name.removeprefix("vae."): tensor for name, tensor in tensors.items() if name.startswith("vae.")}
    vae.load_state_dict(weights, strict=True, assign=True)
    return vae.requires_grad_(requires_grad=False).eval()


def _check_shapes(e: Ensemble) -> None:
    """Refuse tensors that would broadcast into something else. Raises ValueError."""
    nets, (_, n, m) = len(e.weight), e.exemplars.mu.shape
    numbers, rest = e.layout.window * e.layout.numeric, e.layout.units - e.layout.window * e.layout.numeric
    expected = {
        "views.centre": (e.views.centre, (nets, numbers)),
        "views.scale": (e.views.scale, (nets, numbers)),
        "views.mean": (e.views.mean, (nets, rest)),
        "views.known": (e.views.known, (nets, rest)),
        "exemplars.mu": (e.exemplars.mu, (nets, n, e.vae.latent)),
        "exemplars.logvar": (e.exemplars.logvar, (nets, n, m)),
        "exemplars.log_weight": (e.exemplars.log_weight, (nets, n)),
        "beta": (e.beta, (nets,)),
        "noise": (e.noise, (nets,)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            msg = f"{name} has shape {tuple(tensor.shape)}, expected {shape}"
            raise ValueError(msg)


def _usual(tensors: Mapping[str, Tensor], columns: int) -> Usual | None:
    """Return what columns usually contribute; None where the model does not say. Raises ValueError for numbers that cannot be."""
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


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where the dataclasses have tuples."""
    return {k: tuple(tuple(x) if isinstance(x, list) else x for x in v) if isinstance(v, list) else v for k, v in values.items()}
