"""Who learns from what: networks dealt out over views and over the folds of a plan. Knows no network and no table."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae_anomaly.config import Config, ViewName
from vae_anomaly.core.threshold import Plan
from vae_anomaly.core.trim import members


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assignment:
    """What each network is: its view, its fold or member number, and the rows it learns from, is watched on and takes exemplars from."""

    views: tuple[ViewName, ...]
    part: tuple[int, ...]
    rows: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]
    exemplars: tuple[Tensor, ...]


def assign(plan: Plan, config: Config) -> Assignment:
    """Deal networks out over folds and views.

    Under ``cross`` one for every fold, which never sees that fold. Under ``split`` ``members``, each leaving one fold out of training to
    be watched on; exemplars then come from all training rows, since none of them calibrates.
    """
    folds = plan.folds if plan.method == "cross" else min(members(plan, config.model), plan.folds)
    learning = [torch.from_numpy(np.flatnonzero(plan.learning & (plan.fold != k))) for k in range(folds)]
    watched = [torch.from_numpy(np.flatnonzero(plan.learning & (plan.fold == k))) for k in range(folds)]
    training = torch.from_numpy(plan.training)
    part = tuple(k for _ in config.model.views for k in range(folds))
    rows = tuple(learning[k] for k in part)
    return Assignment(
        views=tuple(view for view in config.model.views for _ in range(folds)),
        part=part,
        rows=rows,
        validation=tuple(watched[k] for k in part),
        exemplars=tuple(_trusted(plan, r) for r in (rows if plan.method == "cross" else (training,) * len(part))),
    )


def _trusted(plan: Plan, rows: Tensor) -> Tensor:
    return rows if plan.doubted is None else rows[torch.from_numpy(~plan.doubted)[rows]]
