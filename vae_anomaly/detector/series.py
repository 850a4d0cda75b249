"""Scores of rows in time: each row's terms, smoothed over the rows of its entity.

The terms of a row are what each column, and the KL, cost in each kind of network (``model.prediction``). An exponentially weighted mean
(Roberts 1959) with weight 2 / (span + 1) of the newest row smooths them, so that the score is still a sum of column terms. A series starts
from the mean terms of the calibration. The state is that of ``SeriesState``: with it, batches may be cut anywhere, to the bit.

The KL is attributed to columns at one row: that which weighs most in its smoothed value, the *peak*.

Letters of shapes: n rows, e entities, t kinds of networks, d columns of a batch, l lags. Terms are ``[t, d + 1]``, the last one the KL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.config import SeriesView
from vae_anomaly.explain.contributions import CellText, Explanation, expected_texts, explain_rows, value_texts
from vae_anomaly.model.ensemble import Ensemble, column_terms
from vae_anomaly.model.prediction import SERIES_KINDS
from vae_anomaly.schema.encoding import Batch, concatenate
from vae_anomaly.schema.history import Stretch, stretches, with_past
from vae_anomaly.schema.inference import Column


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """How a model scores rows in time: ``start`` float64 ``[t, d + 1]``, ``span`` in rows, ``max_gap`` in the unit of the times.

    ``step``: the usual step of time of the fit; ``is_clock``: times are in seconds.
    """

    start: Tensor
    span: int
    max_gap: float
    step: float
    is_clock: bool

    @property
    def newest(self) -> float:
        """Weight of the newest row in the smoothed terms."""
        return 2.0 / (self.span + 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesState:
    """Where the series of ``e`` entities stand: last ``time`` ``[e]``, ``past`` ``[e, l, d_num]`` and smoothed ``terms`` ``[e, t, d + 1]``.

    ``peak``: the rows with their past that weigh most in the smoothed KL, ``weight`` ``[e]`` nats there, ``age`` ``[e]`` rows ago.
    """

    names: tuple[str | None, ...]
    time: NDArray[np.float64]
    past: NDArray[np.float64]
    terms: NDArray[np.float64]
    peak: Batch
    weight: NDArray[np.float64]
    age: NDArray[np.int64]

    def codes(self, names: Sequence[str | None], index: NDArray[np.int64], series: Series) -> "tuple[SeriesState, NDArray[np.int64]]":
        """Return the state with new entities added, and the entity of each row; ``index`` ``[n]``: that of its name in ``names``."""
        place = {name: i for i, name in enumerate(self.names)}
        new = [name for name in names if name not in place]
        place |= {name: len(self.names) + i for i, name in enumerate(new)}
        state = self._grown(new, series) if new else self
        return state, np.array([place[name] for name in names], dtype=np.int64)[index]

    def _grown(self, new: Sequence[str | None], series: Series) -> "SeriesState":
        more = len(new)
        empty = self.peak.map(lambda cells: cells.new_zeros(more, *cells.shape[1:]))
        start = series.start.numpy()
        return SeriesState(
            names=(*self.names, *new),
            time=np.concatenate([self.time, np.full(more, np.nan)]),
            past=np.concatenate([self.past, np.full((more, *self.past.shape[1:]), np.nan)]),
            terms=np.concatenate([self.terms, np.broadcast_to(start, (more, *start.shape))]),
            peak=concatenate([self.peak, empty]),
            weight=np.concatenate([self.weight, np.zeros(more)]),
            age=np.concatenate([self.age, np.zeros(more, dtype=np.int64)]),
        )

    def plain(self) -> dict[str, Any]:
        """Return the state as JSON values; ``state_from`` is the inverse."""
        arrays = {"time": self.time, "past": self.past, "terms": self.terms, "weight": self.weight, "age": self.age}
        peak = {"numeric": self.peak.numeric, "codes": self.peak.codes, "observed": self.peak.observed, "peak_past": self.peak.past}
        arrays |= {name: tensor.numpy() for name, tensor in peak.items() if tensor is not None}
        return {"names": list(self.names), **{name: [list(array.shape), _plain(array)] for name, array in arrays.items()}}


def _plain(array: NDArray[Any]) -> list[Any]:
    """Return the elements in order, None for NaN."""
    flat = array.ravel().tolist()
    return [None if value != value else value for value in flat] if array.dtype == np.float64 else flat  # noqa: PLR0124  # NaN


def state_from(plain: Mapping[str, Any]) -> SeriesState:
    """Build a state from ``SeriesState.plain``, also after a round trip through JSON. Raises KeyError, TypeError or ValueError."""
    kinds = {"age": np.int64, "codes": np.int64, "observed": np.bool_}

    def array(name: str) -> NDArray[Any]:
        shape, values = plain[name]
        kind = kinds.get(name, np.float64)
        filled = [np.nan if value is None else value for value in values] if kind is np.float64 else values
        return np.array(filled, dtype=kind).reshape(shape)

    peak = Batch(
        **{name: torch.from_numpy(array(name)) for name in ("numeric", "codes", "observed")}, past=torch.from_numpy(array("peak_past"))
    )
    arrays = {name: array(name) for name in ("time", "past", "terms", "weight", "age")}
    return SeriesState(names=tuple(plain["names"]), peak=peak, **arrays)


def no_state(ensemble: Ensemble, series: Series, numbers: int, codes: int) -> SeriesState:
    """Return the state before the first row, for a batch of so many numeric and coded columns."""
    predictors = ensemble.views.predictors
    assert predictors is not None
    lags, terms = predictors.lags, tuple(series.start.shape)
    empty = Batch(
        numeric=torch.zeros(0, 1, numbers, dtype=torch.float64),
        codes=torch.zeros(0, 1, codes, dtype=torch.int64),
        observed=torch.zeros(0, 1, numbers + codes, dtype=torch.bool),
        past=torch.zeros(0, lags, numbers, dtype=torch.float64),
    )
    none = np.zeros(0)
    return SeriesState(
        names=(),
        time=none,
        past=np.zeros((0, lags, numbers)),
        terms=np.zeros((0, *terms)),
        peak=empty,
        weight=none,
        age=np.zeros(0, dtype=np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowTimes:
    """When the rows of a batch were and of which entity: ``time`` ``[n]``, ``entity`` int64 ``[n]``, an index into ``names``."""

    time: NDArray[np.float64]
    entity: NDArray[np.int64]
    names: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesScores:
    """Smoothed scores: ``total``, ``reconstruction``, ``kl`` float64 ``[n]``, NaN for a row without a cell; ``terms`` ``[n, t, d + 1]``.

    ``peak`` int64 ``[n]``: the row of ``rows`` at which the KL of a row is attributed, ``age`` int64 ``[n]`` rows before it. ``times``: of
    rows that are scored as they come.
    """

    total: NDArray[np.float64]
    reconstruction: NDArray[np.float64]
    kl: NDArray[np.float64]
    terms: NDArray[np.float64]
    peak: NDArray[np.int64]
    age: NDArray[np.int64]
    rows: Batch
    times: RowTimes | None = None

    def row(self, i: int) -> "SeriesScores":
        """Return the scores of row ``i`` alone."""
        here, peak = slice(i, i + 1), int(self.peak[i])
        return SeriesScores(
            total=self.total[here],
            reconstruction=self.reconstruction[here],
            kl=self.kl[here],
            terms=self.terms[here].copy(),
            peak=np.zeros(1, dtype=np.int64),
            age=self.age[here],
            rows=self.rows.rows(torch.tensor([peak])),
        )

    def explain(self, ensemble: Ensemble, picked: NDArray[np.int64], *, threads: int = 1) -> "SeriesExplanation":
        """Explain the rows ``picked``: for each kind of network, contributions that add up to the scores."""
        used, place = np.unique(self.peak[picked], return_inverse=True)
        rows, found, kinds = self.rows.rows(torch.from_numpy(used)), [], []
        index, predictors = torch.from_numpy(place), ensemble.views.predictors
        assert predictors is not None
        for kind, nets in enumerate(kind_nets(ensemble)):
            here = explain_rows(ensemble.nets(nets), rows, threads=threads)
            total = here.kl.sum(-1, keepdim=True)
            share = torch.where(total > 0, here.kl / total, 1.0 / here.kl.shape[-1])[index]
            terms = torch.from_numpy(self.terms[picked, kind])
            kinds.append(SERIES_KINDS[int(predictors.kind[nets[0]])])
            found.append(
                Explanation(
                    reconstruction=terms[:, :-1],
                    kl=share * terms[:, -1:],
                    number=here.number[index],
                    level=here.level[index],
                    probability=here.probability[index],
                )
            )
        read = ensemble.select_columns(rows)
        driver = torch.full((len(rows), rows.observed.shape[-1]), -1)
        if read.past is not None and len(rows):
            among = torch.cat([ensemble.numeric, torch.tensor([-1])])
            driver[:, ensemble.numeric] = among[predictors.drivers(read.past)]
        return SeriesExplanation(kinds=tuple(kinds), parts=tuple(found), rows=rows.rows(index), driver=driver[index], age=self.age[picked])


def joined_rows(scores: Sequence[SeriesScores]) -> SeriesScores:
    """Return the scores of single rows (``SeriesScores.row``) as those of one batch."""
    return SeriesScores(
        total=np.concatenate([one.total for one in scores]),
        reconstruction=np.concatenate([one.reconstruction for one in scores]),
        kl=np.concatenate([one.kl for one in scores]),
        terms=np.concatenate([one.terms for one in scores]),
        age=np.concatenate([one.age for one in scores]),
        peak=np.arange(len(scores)),
        rows=concatenate([one.rows for one in scores]),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesExplanation:
    """Explanations ``parts`` of m rows by each of ``kinds`` of networks, at the ``rows`` of their peaks, ``age`` ``[m]`` rows before.

    ``driver`` int64 ``[m, d]``: the column whose past moves the prediction of a column most, −1: none.
    """

    kinds: tuple[SeriesView, ...]
    parts: tuple[Explanation, ...]
    rows: Batch
    driver: Tensor
    age: NDArray[np.int64]

    @property
    def contribution(self) -> NDArray[np.float64]:
        """Contribution of each column to the score, float64 ``[m, d]``, over all kinds."""
        return sum((part.contribution for part in self.parts), torch.zeros(())).numpy()

    def texts(self, columns: Sequence[Column]) -> tuple[CellText, Callable[[int, int], str]]:
        """Return functions (i, j) → text of the value in the row of the peak, and of what its most costly kind of network expected."""
        value, ages = value_texts(columns, self.rows), self.age.tolist()
        expected = [expected_texts(columns, part) for part in self.parts]
        costly = torch.stack([part.contribution for part in self.parts]).argmax(0).tolist()
        drivers = self.driver.tolist()

        def value_text(i: int, j: int) -> str | None:
            text, rows = value(i, j), int(ages[i])
            return f"{text} ({rows} row{'s' * (rows > 1)} before)" if text is not None and rows else text

        def expected_text(i: int, j: int) -> str:
            kind: int = costly[i][j]
            text = expected[kind](i, j)
            if self.kinds[kind] == "own":
                return f"{text} (own past)"
            if self.kinds[kind] == "ar" and drivers[i][j] >= 0:
                return f"{text} (relation to {columns[drivers[i][j]].name})"
            return text

        return value_text, expected_text


def kind_nets(ensemble: Ensemble) -> list[Tensor]:
    """Return the networks of each kind that the ensemble has, in the order of ``SERIES_KINDS``."""
    predictors = ensemble.views.predictors
    assert predictors is not None
    found = [(predictors.kind == kind).nonzero().flatten() for kind in range(len(SERIES_KINDS))]
    return [nets for nets in found if len(nets)]


def score_series(
    ensemble: Ensemble,
    series: Series,
    batch: Batch,
    state: SeriesState,
    entity: NDArray[np.int64],
    time: NDArray[np.float64],
    *,
    threads: int = 1,
) -> tuple[SeriesScores, SeriesState]:
    """Score rows that continue the series of ``state``; the bits of a row's score do not depend on where the rows are cut.

    ``entity`` int64 ``[n]``, from ``SeriesState.codes``; ``time`` ``[n]``. Raises BadCell where the time of an entity goes back.
    """
    parts = stretches(entity, time, state.time, series.max_gap)
    batch, past = with_past(batch, parts, state.past, state.past.shape[1])
    raw = column_terms(ensemble, batch, kind_nets(ensemble), threads=threads).numpy()
    after = replace(state, time=state.time.copy(), past=past)
    for part in parts:
        after.time[part.entity] = time[part.rows[-1]]
    scores, after = smooth(series, batch, raw, parts, after)
    return replace(scores, times=RowTimes(time=time, entity=entity, names=after.names)), after


def smooth(
    series: Series, batch: Batch, raw: NDArray[np.float64], parts: Sequence[Stretch], state: SeriesState
) -> tuple[SeriesScores, SeriesState]:
    """Smooth the terms ``raw`` ``[n, t, d + 1]`` of a batch; NaN rows have no cell: they have no score and change nothing."""
    n, newest = len(batch), series.newest
    scaled, kept = raw.reshape(n, -1) * newest, 1.0 - newest
    start = series.start.numpy().ravel()
    out = np.empty_like(scaled)
    kl, empty = (raw[:, :, -1].sum(1) * newest).tolist(), np.isnan(raw[:, 0, -1]).tolist()
    terms, weight, age = state.terms.reshape(len(state.names), -1).copy(), state.weight.copy(), state.age.copy()
    peak, ages = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    place = n + np.arange(len(state.names))
    for part in parts:
        which = part.entity
        level = terms[which] if part.continues else start.copy()
        heavy, old, at = (float(weight[which]), int(age[which]), int(place[which])) if part.continues else (0.0, 0, int(part.rows[0]))
        for i in part.rows.tolist():
            old += 1
            if not empty[i]:
                level *= kept
                level += scaled[i]
                heavy *= kept
                if kl[i] >= heavy:
                    heavy, old, at = kl[i], 0, i
            out[i], peak[i], ages[i] = level, at, old
        terms[which], weight[which], age[which], place[which] = level, heavy, old, at
    rows = concatenate([batch, state.peak])
    out[np.array(empty, dtype=np.bool_)] = np.nan
    smoothed = out.reshape(raw.shape)
    reconstruction, kls = smoothed[:, :, :-1].sum((1, 2)), smoothed[:, :, -1].sum(1)
    scores = SeriesScores(total=reconstruction + kls, reconstruction=reconstruction, kl=kls, terms=smoothed, peak=peak, age=ages, rows=rows)
    kept_rows = rows.rows(torch.from_numpy(place))
    return scores, replace(state, terms=terms.reshape(state.terms.shape), peak=kept_rows, weight=weight, age=age)
