"""Which training rows stand as exemplars of each network.

Knows rows as indices, networks that are trained, and nothing of folds, thresholds or files.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_anomaly.model.imputation import settle_missing
from vae_anomaly.model.prior import Exemplars, equal_weights, widened
from vae_anomaly.model.scaling import Views, gather_cells
from vae_anomaly.model.vae import Vae
from vae_anomaly.schema.encoding import Batch


@torch.no_grad()
def choose_exemplars(
    vae: Vae, views: Views, read: Batch, rows: Sequence[Tensor], limit: int, generator: torch.Generator, *, widen: bool = True
) -> tuple[Exemplars, Tensor]:
    """Return the posteriors of the exemplars of each network, and which rows they are, ``[g, n]``, −1 = padding.

    Random rows, at most ``limit`` for each network; complete rows first, because a filled cell is a guess. Posteriors are widened where
    neighbours are far, unless it is in doubt that lonely rows are normal.
    """
    complete = read.observed.flatten(1).all(1)
    chosen = []
    for index in rows:
        shuffled = index[torch.randperm(len(index), generator=generator)]
        chosen.append(shuffled[(~complete[shuffled]).to(torch.uint8).argsort(stable=True)][:limit].sort().values)
    counts = torch.tensor([len(index) for index in chosen])
    own = torch.full((len(rows), int(counts.max())), -1)
    for g, index in enumerate(chosen):
        own[g, : counts[g]] = index
    cells = settle_missing(vae, views, gather_cells(views, vae.layout, read, own.clamp_min(0)))
    mu, logvar = vae.encode(cells.units)
    exemplars = Exemplars(mu=mu, logvar=logvar, log_weight=equal_weights(counts, own.shape[1]))
    return widened(exemplars) if widen else exemplars, own
