"""Choice of the exemplars: the training rows whose posteriors are the prior of each network.

Not part of ``prior``, because choosing needs the imputation of missing cells, which itself uses the exemplars.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_anomaly.model.imputation import impute_by_decoding
from vae_anomaly.model.prior import Exemplars, adapt_bandwidths, equal_log_weights
from vae_anomaly.model.scaling import Views, gather_cells
from vae_anomaly.model.vae import Vae
from vae_anomaly.schema.encoding import Batch


@torch.no_grad()
def choose_exemplars(
    vae: Vae, views: Views, read: Batch, rows: Sequence[Tensor], limit: int, generator: torch.Generator, *, widen: bool = True
) -> tuple[Exemplars, Tensor]:
    """Return the exemplars of each network and their rows of the batch ``read``, int64 ``[g, e]``, −1 = padding.

    Draws at most ``limit`` of the rows ``rows[g]`` for network ``g``; complete rows first, because an imputed cell is a guess. With
    ``widen``, posteriors get an adaptive bandwidth (``adapt_bandwidths``).
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
    cells = impute_by_decoding(vae, views, gather_cells(views, vae.layout, read, own.clamp_min(0)))
    mu, logvar = vae.encode(cells.units)
    exemplars = Exemplars(mu=mu, logvar=logvar, log_weight=equal_log_weights(counts, own.shape[1]))
    return adapt_bandwidths(exemplars) if widen else exemplars, own
