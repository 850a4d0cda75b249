"""Which training rows stand as exemplars of each network, and how loud each network speaks.

Knows rows as indices, networks that are trained, and nothing of folds, thresholds or files.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_anomaly.config import ModelConfig
from vae_anomaly.core.conditional import settle_missing
from vae_anomaly.core.encode import Batch
from vae_anomaly.core.prior import Exemplars, equal_weights, widened
from vae_anomaly.core.score import Ensemble, kls_to_exemplars
from vae_anomaly.core.vae import Vae, cell_nll, gaussian_kl
from vae_anomaly.core.views import Views, gather_cells

# Training rows whose leave-one-out scores set the weight of a view, by this quantile of them.
WEIGHING_ROWS, HIGH = 2000, 0.9
# A network has this many exemplars where it has as many rows.
MIN_EXEMPLARS = 20


@torch.no_grad()
def choose_exemplars(
    vae: Vae, views: Views, read: Batch, rows: Sequence[Tensor], model: ModelConfig, generator: torch.Generator
) -> tuple[Exemplars, Tensor]:
    """Return the widened posteriors of the exemplars of each network, and which rows they are, ``[g, n]``, −1 = padding.

    Random rows, at most ``model.exemplars``. Where a view has several networks, each takes ``model.exemplar_share`` of the rows it may
    use, so that their mean looks at more than the nearest row. Complete rows first, because a filled cell is a guess.
    """
    share = model.exemplar_share if len(rows) > len(model.views) else 1.0
    complete = read.observed.flatten(1).all(1)
    chosen = []
    for index in rows:
        shuffled = index[torch.randperm(len(index), generator=generator)]
        count = min(model.exemplars, max(MIN_EXEMPLARS, math.ceil(share * len(index))))
        chosen.append(shuffled[(~complete[shuffled]).to(torch.uint8).argsort(stable=True)][:count].sort().values)
    counts = torch.tensor([len(index) for index in chosen])
    own = torch.full((len(rows), int(counts.max())), -1)
    for g, index in enumerate(chosen):
        own[g, : counts[g]] = index
    cells = settle_missing(vae, views, gather_cells(views, vae.layout, read, own.clamp_min(0)))
    mu, logvar = vae.encode(cells.units)
    return widened(Exemplars(mu=mu, logvar=logvar, log_weight=equal_weights(counts, own.shape[1]))), own


@torch.no_grad()
def view_weights(ensemble: Ensemble, read: Batch, own: Tensor, model: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return the weight of every network, w_v / members, and the share of the broad prior in its KL, float64 ``[g]``.

    From leave-one-out scores of the exemplar rows. Reconstruction + KL to the fine prior counts one over its 90 % quantile, reconstruction
    + KL to the broad prior ``model.broad`` over its own; the two together are weight · (reconstruction + mean KL). Scaled so that the mean
    of w_v over views is 1: nats of the average view.
    """
    count = min(WEIGHING_ROWS, int((own >= 0).sum(-1).min()))
    cells = gather_cells(ensemble.views, ensemble.layout, read, own[:, :count])
    place = torch.arange(count).expand(len(own), count)
    mu, logvar = ensemble.vae.encode(cells.units)
    nll = cell_nll(ensemble.layout, ensemble.vae.decode(mu), cells, sigma=ensemble.vae.sigma, unseen=ensemble.unseen)
    reconstruction = nll.to(torch.float64).sum(-1)
    if ensemble.prior == "standard":
        fine, broad = gaussian_kl(mu, logvar).to(torch.float64), None
    else:
        fine, broad = kls_to_exemplars(ensemble, mu, logvar, place)
    loud = _loudness(reconstruction + fine)
    soft = torch.zeros_like(loud) if broad is None else model.broad * _loudness(reconstruction + broad)
    views, members = len(model.views), len(own) // len(model.views)
    by_view = (loud + soft).view(views, members)
    return (by_view / by_view.mean(0, keepdim=True)).flatten() / members, soft / (loud + soft)


def _loudness(total: Tensor) -> Tensor:
    return 1.0 / torch.quantile(total, HIGH, dim=-1).clamp_min(1e-9)
