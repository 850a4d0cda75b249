"""Views: scalings of a row, one for each network, estimated from the training rows of that network only.

A network reads ``(x − centre) / scale`` clipped to ±50 for a number, the one-hot code minus the training frequencies for a category, and
``(0 or 1 − frequency) / spread`` for a boolean: how much a rare one counts beside a number is a choice, and each view makes another.

Letters of shapes: g networks, n rows, b rows of a minibatch, w steps of a window (1), d columns, u input units (u_cat: those of booleans
and categories). Cells w·d are ordered numbers, booleans, categories.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from vae_anomaly.config import ViewName
from vae_anomaly.model.prediction import VALUES, Predictors, residuals
from vae_anomaly.model.vae import Cells, Layout
from vae_anomaly.schema.encoding import Batch

# Largest absolute scaled value: beyond it a larger deviation is not more anomalous, and float32 squares stay accurate.
CLIP = 50.0
# An interquartile range below this share of the standard deviation does not measure the spread.
NARROW_IQR = 0.1
# Interquartile range of a standard normal distribution.
NORMAL_IQR = 1.35
# Units (200 MB) up to which all training rows are scaled once, instead of the minibatch at every step.
SCALED_ONCE = 50_000_000
# Rows used for quantiles and medians: their error is then below 0.4 % of the spread.
QUANTILE_ROWS = 200_000
QUARTILES = (0.25, 0.5, 0.75)
PERCENTILES = (0.01, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Views:
    """Scalings of ``g`` networks: ``centre``, ``scale`` float64 ``[g, w·d_num]``; ``mean``, ``spread`` float32, ``known`` bool.

    The last three are ``[g, u_cat]``: ``mean`` is the training frequency of a level, ``known`` marks the levels in the training rows of the
    network, all others are unseen; ``spread`` is 1 for the levels of categories. With ``predictors``, centre and scale are those of the
    residuals of numbers.
    """

    centre: Tensor
    scale: Tensor
    mean: Tensor
    known: Tensor
    spread: Tensor
    predictors: Predictors | None = None

    def nets(self, index: Tensor) -> "Views":
        """Return the views of the networks at ``index``."""
        predictors = None if self.predictors is None else self.predictors.nets(index)
        return Views(**{name: getattr(self, name)[index] for name in VIEW_TENSORS}, predictors=predictors)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Views":
        """Return the views with every tensor changed."""
        predictors = None if self.predictors is None else self.predictors.map(change)
        return Views(**{name: change(getattr(self, name)) for name in VIEW_TENSORS}, predictors=predictors)

    def centres(self, batch: Batch) -> Tensor:
        """Return what a number of each row is the difference to, float64 ``[g, n or 1, w·d_num]``: the centre, after the prediction."""
        centre = self.centre.unsqueeze(1)
        return centre if self.predictors is None or batch.past is None else centre + self.predictors.predict(batch.past)


VIEW_TENSORS = ("centre", "scale", "mean", "known", "spread")


def to_cells(views: Views, layout: Layout, batch: Batch) -> Cells:
    """Scale a batch ``[n, w, d]`` for every network; missing cells get the unit 0, the centre of the view."""
    observed, complete = _flat_observed(layout, batch), batch.complete
    numbers = (batch.numeric.flatten(1).unsqueeze(0) - views.centres(batch)).div_(views.scale.unsqueeze(1)).clamp_(-CLIP, CLIP)
    units = numbers.to(torch.float32)
    if not complete:
        units = units.masked_fill_(~observed[:, : units.shape[-1]], 0.0)
    onehot, target = _codes_to_units(views, layout, batch)
    if onehot.shape[-1]:
        units = torch.cat([units, onehot], dim=-1)
    return Cells(units=units, target=target, observed=observed, complete=complete)


def gather_cells(views: Views, layout: Layout, batch: Batch, index: Tensor) -> Cells:
    """Scale row ``index[g, b]`` of the batch for network ``g``; ``observed`` is ``[g, b, w·d]``."""
    return cells_per_network(views, layout, batch.rows(index))


def cells_per_network(views: Views, layout: Layout, picked: Batch) -> Cells:
    """Scale a batch with separate rows for each network, ``[g, b, w, d]``; ``observed`` is ``[g, b, w·d]``."""
    observed = _flat_observed(layout, picked)
    count = layout.window * layout.numeric
    numbers = ((picked.numeric.flatten(2) - views.centres(picked)) / views.scale.unsqueeze(1)).clamp(-CLIP, CLIP)
    numbers = numbers.to(torch.float32).masked_fill(~observed[..., :count], 0.0)
    onehot, target = _codes_to_units(views, layout, picked)
    return Cells(units=torch.cat([numbers, onehot], dim=-1), target=target, observed=observed)


def minibatch_cells(views: Views, layout: Layout, batch: Batch) -> Callable[[Tensor], Cells]:
    """Return a function from ``index[g, b]`` to the result of ``gather_cells``; scales all rows in advance if they fit in 200 MB."""
    nets = views.mean.shape[0]
    if nets * len(batch) * layout.units > SCALED_ONCE:
        return lambda index: gather_cells(views, layout, batch, index)
    everything, net = to_cells(views, layout, batch), torch.arange(nets, device=batch.observed.device).unsqueeze(1)

    def draw(index: Tensor) -> Cells:
        where = (net, index.to(net.device))
        observed = everything.observed[where[1]]
        return Cells(units=everything.units[where], target=everything.target[where], observed=observed, complete=everything.complete)

    return draw


def _split_codes(layout: Layout, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``[..., w, d_cat]`` into booleans ``[..., w·d_bool]`` and categories ``[..., w·d_category]``, steps of the window first."""
    return codes[..., : layout.booleans].flatten(-2), codes[..., layout.booleans :].flatten(-2)


def _flat_observed(layout: Layout, batch: Batch) -> Tensor:
    """Flatten the mask ``[..., w, d]`` to ``[..., w·d]`` in the order of the cells."""
    numbers, rest = batch.observed[..., : layout.numeric].flatten(-2), batch.observed[..., layout.numeric :]
    if not rest.shape[-1]:
        return numbers
    return torch.cat([numbers, *_split_codes(layout, rest)], dim=-1)


def _codes_to_units(views: Views, layout: Layout, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return centred one-hot units ``[g, n, u_cat]``, 0 where missing, and target codes ``[g, n, w·d_cat]``."""
    nets = views.mean.shape[0]
    if not batch.codes.shape[-1]:
        leading = batch.codes.shape[:2] if batch.codes.dim() > 3 else (nets, len(batch))  # noqa: PLR2004  ([g, b, w, 0])
        return views.mean.new_zeros(*leading, 0), batch.codes.new_zeros(*leading, 0)
    booleans, categories = _split_codes(layout, batch.codes)
    flat = torch.cat([booleans, categories], dim=-1)
    flat = flat if flat.dim() == 3 else flat.expand(nets, *flat.shape)  # noqa: PLR2004  (g, n, cells)
    observed = _flat_observed(layout, batch)[..., layout.window * layout.numeric :]
    observed = observed if observed.dim() == 3 else observed.expand(nets, *observed.shape)  # noqa: PLR2004
    first, units, target = 0, [], []
    count = booleans.shape[-1]
    if count:
        codes, seen = flat[..., :count], observed[..., :count]
        mean, spread = (each[:, :count].unsqueeze(1) for each in (views.mean, views.spread))
        units.append(torch.where(seen, ((codes == 1).to(torch.float32) - mean) / spread, 0.0))  # both values are always possible
        target.append(codes)
    first = count
    for levels, same in groupby(layout.levels * layout.window):
        columns = len(list(same))
        here, place = slice(first, first + columns * levels), slice(count, count + columns)
        known, mean = (each[:, here].reshape(nets, 1, columns, levels) for each in (views.known, views.mean))
        unit, goal = _category_units(flat[..., place], known, levels)
        units.append(unit.sub_(mean).masked_fill_(~observed[..., place].unsqueeze(-1), 0.0).flatten(-2))
        target.append(goal)
        first, count = here.stop, place.stop
    return torch.cat(units, dim=-1), torch.cat(target, dim=-1)


def _category_units(codes: Tensor, known: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the one-hot units ``[g, n, k, l]`` of columns with l levels each, and their codes ``[g, n, k]``, l where unseen."""
    onehot = codes.unsqueeze(-1) == torch.arange(levels, device=codes.device)
    onehot &= known
    return onehot.to(torch.float32), torch.where(onehot.any(-1), codes, levels)


def learn_views(
    layout: Layout,
    batch: Batch,
    names: Sequence[ViewName],
    rows: Sequence[Tensor],
    *,
    predictors: Predictors | None = None,
    finest: Tensor | None = None,
) -> Views:
    """Estimate the view ``names[g]`` of each network ``g`` from rows ``rows[g]`` of the batch.

    With ``predictors``, of the residuals, whose scale is at least ``finest`` ``[d_num]``, the resolution of the column: below it, a
    residual is an error of rounding.
    """
    cache: dict[tuple[int, int], tuple[Batch, tuple[Tensor, Tensor], dict[str, tuple[Tensor, Tensor, Tensor]]]] = {}
    found = []
    kinds = [VALUES] * len(rows) if predictors is None else predictors.kind.tolist()
    for net, (name, index) in enumerate(zip(names, rows, strict=True)):
        key = id(index), kinds[net]
        if key not in cache:
            of_network = batch.rows(index)
            if predictors is not None and kinds[net] != VALUES:
                of_network = replace(of_network, numeric=residuals(predictors.nets(torch.tensor([net])), of_network)[0].unsqueeze(1))
            cache[key] = of_network, _level_statistics(layout, of_network), {}
        own_rows, (mean, known), done = cache[key]
        if name not in done:
            done[name] = _scaling(layout, own_rows, name, mean)
        centre, scale, spread = done[name]
        scale = scale if finest is None else torch.maximum(scale, finest)
        found.append({"centre": centre, "scale": scale, "mean": mean, "known": known, "spread": spread})
    return Views(**{name: torch.stack([one[name] for one in found]) for name in VIEW_TENSORS}, predictors=predictors)


def _level_statistics(layout: Layout, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the frequency of every level among observed cells and whether it occurs at all, both ``[u_cat]``."""
    width = layout.units - layout.window * layout.numeric
    raw = Views(
        centre=torch.zeros(1, layout.window * layout.numeric),
        scale=torch.ones(1, layout.window * layout.numeric),
        mean=torch.zeros(1, width),
        known=torch.ones(1, width, dtype=torch.bool),
        spread=torch.ones(1, width),
    )
    units, _ = _codes_to_units(raw, layout, batch)
    booleans, categories = _split_codes(layout, batch.observed[..., layout.numeric :])
    observed = torch.cat([booleans, categories], dim=-1).to(torch.float64).sum(0)
    sizes = torch.tensor((1,) * booleans.shape[-1] + layout.levels * layout.window, dtype=torch.int64)
    total = units[0].to(torch.float64).sum(0)
    return (total / observed.repeat_interleave(sizes).clamp_min(1.0)).to(torch.float32), total > 0


def _scaling(layout: Layout, batch: Batch, name: ViewName, level_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre and scale of numbers, float64 ``[w·d_num]``, from observed cells only, and spreads of one-hot units ``[u_cat]``."""
    values = batch.numeric.flatten(1).clone()
    values[~_flat_observed(layout, batch)[:, : values.shape[1]]] = torch.nan
    mean = values.nanmean(0).nan_to_num(0.0)
    variance = (values - mean).square().nanmean(0).nan_to_num(0.0)
    # A spread at the level of rounding errors means a constant column: its scale is 1.
    deviation = variance.sqrt()
    deviation = torch.where(deviation > 1e-9 * mean.abs().clamp_min(1e-300), deviation, 0.0)
    booleans, share = layout.window * layout.booleans, level_mean.to(torch.float64)[: layout.window * layout.booleans]
    centre, scale, spread = _VIEWS[name](values, mean, deviation, (share * (1.0 - share)).clamp_min(0.0).sqrt())
    spreads = torch.ones_like(level_mean)
    spreads[:booleans] = torch.where(spread > 0, spread, 1.0).to(torch.float32)
    return centre, torch.where(scale > 0, scale, 1.0), spreads


def _standard(values: Tensor, mean: Tensor, deviation: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x − mean) / standard deviation; booleans as 0 and 1."""
    del values
    return mean, deviation, torch.ones_like(truth)


def _minmax(values: Tensor, mean: Tensor, deviation: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x − mean) / (range · c) with one c for all columns, so that the mean variance of a column is 1."""
    return mean, *_evened(_reduce(values, "amax") - _reduce(values, "amin"), deviation, truth)


def _percentile(values: Tensor, mean: Tensor, deviation: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_minmax`` with the range from the 1st to the 99th percentile, unless that is below the standard deviation."""
    if not values.shape[1]:
        return mean, *_evened(deviation, deviation, truth)
    low, high = _quantiles(values, PERCENTILES)
    span = (high - low).nan_to_num(0.0)
    span = torch.where(span < deviation, _reduce(values, "amax") - _reduce(values, "amin"), span)
    return mean, *_evened(span, deviation, truth)


def _evened(span: Tensor, deviation: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ranges of numbers and of booleans times one common factor, so that the mean variance of a column is 1."""
    span = torch.where(deviation > 0, span, 0.0)
    share = torch.cat([torch.where(span > 0, deviation / span.clamp_min(1e-300), 0.0), truth])
    moving = share > 0
    common = (share.square().sum() / moving.sum().clamp_min(1)).sqrt() if bool(moving.any()) else torch.ones((), dtype=span.dtype)
    return span * common, common.expand_as(truth)


def _robust(values: Tensor, mean: Tensor, deviation: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x − median) / (IQR / 1.35); mean and standard deviation where the IQR is too narrow, and for booleans."""
    if not values.shape[1]:  # no numeric columns; torch.nanquantile fails on an empty tensor
        return mean, deviation, truth
    low, middle, high = _quantiles(values, QUARTILES)
    spread = (high - low).nan_to_num(0.0)
    narrow = spread < NARROW_IQR * deviation
    return torch.where(narrow, mean, middle.nan_to_num(0.0)), torch.where(narrow, deviation, spread / NORMAL_IQR), truth


def _quantiles(values: Tensor, wanted: tuple[float, ...]) -> Tensor:
    """Return quantiles of every column over observed cells, ``[len(wanted), w·d_num]``; needs at least one column."""
    step = max(1, -(-values.shape[0] // QUANTILE_ROWS))
    return torch.nanquantile(values[::step], torch.tensor(wanted, dtype=values.dtype, device=values.device), dim=0)


def _reduce(values: Tensor, how: str) -> Tensor:
    fill = -torch.inf if how == "amax" else torch.inf
    filled = values.masked_fill(values.isnan(), fill)
    out: Tensor = filled.amax(0) if how == "amax" else filled.amin(0)
    return out.masked_fill(out.isinf(), 0.0)


_VIEWS = {"standard": _standard, "minmax": _minmax, "robust": _robust, "percentile": _percentile}
