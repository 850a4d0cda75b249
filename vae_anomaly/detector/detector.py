"""The fitted whole: schema, ensemble, threshold and provenance; and its form as plain data.

There is no unfitted detector: ``core.fit.fit_detector`` returns a finished one. ``state`` gives JSON-able values and tensors,
``from_state`` checks and builds. Knows nothing of folders, MLflow or the clock.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast, get_args

import torch
from torch import Tensor

from vae_anomaly.calibration.serialization import threshold_from, threshold_tensors, threshold_values
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.config import Config, Prior, config_from_dict, config_to_dict
from vae_anomaly.detector.card import Blocks, Card, ColumnQuality
from vae_anomaly.detector.validation import check_depth, check_ensemble, check_layout
from vae_anomaly.errors import ConfigError, DamagedArtifact
from vae_anomaly.explain.contributions import Usual
from vae_anomaly.model.ensemble import Constants, Ensemble, Scores, score_rows
from vae_anomaly.model.prior import Exemplars
from vae_anomaly.model.scaling import Views
from vae_anomaly.model.vae import Layout, Vae
from vae_anomaly.redaction import redacted_config
from vae_anomaly.schema.encoding import Batch
from vae_anomaly.schema.schema import Schema
from vae_anomaly.strict_json import parsed

LONGEST_REASON = 300  # characters: a reason quotes the file, which may hold anything


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
        except (ConfigError, AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            shown = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"
            raise DamagedArtifact(f"the model's fields do not fit together: {shown}") from error


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
        views=Views(**{n: tensors[f"views.{n}"] for n in Views.__slots__}),
        exemplars=Exemplars(**{n: tensors[f"exemplars.{n}"] for n in Exemplars.__slots__}),
        weight=weight,
        beta=tensors["beta"],
        noise=tensors["noise"],
        constants=Constants(**parts, penalty=float(values["penalty"])),
        numeric=tensors["numeric"],
        codes=tensors["codes"],
        unseen=float(values["unseen"]),
        prior=_prior(values["prior"]),
        likelihood=config.model.likelihood,
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
    )


def _prior(name: Any) -> Prior:
    if name not in get_args(Prior):
        raise ValueError(f"no prior is called {name!r}")
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
