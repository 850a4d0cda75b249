"""What every detector must satisfy: one sentence, one check.

Each check takes a fitted detector and rows to try it on, and raises AssertionError. A detector of any configuration, also one of
somebody else's, can be held against them. Equality means the same bits; ``tests/test_contract.py`` says over which detectors they run.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from scipy.stats import betabinom
from torch import Tensor

from tests.tiny import encoded, one_batch
from vae_anomaly import artifact
from vae_anomaly.calibration.conformal import quantile_rank
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import ScoreOptions, score_batches
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.model.vae import Cells, cell_nll
from vae_anomaly.schema.encoding import Batch, model_order

# The promise for other machines and engines, relative to max(1, |score|).
TOLERANCE = 1e-5
# A sum is exact but for the rounding of float64.
EXACT = 1e-9
# Beyond both ends of the band by chance once in a thousand detectors; the seeds are fixed.
BAND = 5e-4


def _total(detector: Detector, batch: Batch, *, threads: int = 1) -> NDArray[np.float64]:
    return detector.scores(batch, threads=threads).total.numpy()


def _table(detector: Detector, rows: pa.Table | Iterable[pa.RecordBatch], options: ScoreOptions | None = None) -> pa.Table:
    batches = [one_batch(rows)] if isinstance(rows, pa.Table) else rows
    return pa.Table.from_batches(score_batches(detector, batches, options or ScoreOptions(explain="all", top=None))).combine_chunks()


def _same_bits(first: NDArray[np.float64], second: NDArray[np.float64], what: str) -> None:
    assert first.tobytes() == second.tobytes(), f"{what}: {(first != second).sum()} of {len(first)} scores differ"


def check_score_is_repeatable(detector: Detector, rows: pa.Table) -> None:
    """The same rows have the same scores the second time, and whatever was drawn from the global generators in between."""
    batch = encoded(detector.schema, rows)
    first = _total(detector, batch)
    torch.manual_seed(1)
    _same_bits(first, _total(detector, batch), "second time")


def check_score_ignores_batch_size(detector: Detector, rows: pa.Table) -> None:
    """A row has the same score alone, among seven, and among all."""
    batch = encoded(detector.schema, rows)
    whole = _total(detector, batch)
    # One by one only the first and the last, among which the odd ones are.
    for size, places in (
        (1, [*range(16), *range(len(batch) - 4, len(batch))]),
        (7, range(0, len(batch), 7)),
        (64, range(0, len(batch), 64)),
    ):
        parts = [_total(detector, batch.rows(slice(i, i + size))) for i in places]
        expected = np.concatenate([whole[i : i + size] for i in places])
        _same_bits(expected, np.concatenate(parts), f"{size} rows at once")


def check_score_ignores_place(detector: Detector, rows: pa.Table, shifts: Iterable[int] = range(1, 32)) -> None:
    """Rows without the first 1 to 31, or cut anywhere, have the scores that they have among all, on one thread and on several."""
    batch = encoded(detector.schema, rows)
    whole = _total(detector, batch)
    for first in shifts:
        threads = first % 4 + 1
        _same_bits(whole[first:], _total(detector, batch.rows(slice(first, None)), threads=threads), f"without the first {first} rows")
        cut = first * len(batch) // 32
        _same_bits(whole[:cut], _total(detector, batch.rows(slice(0, cut)), threads=threads), f"only the first {cut} rows")


def check_score_ignores_row_order(detector: Detector, rows: pa.Table) -> None:
    """Permuted rows have permuted scores."""
    batch = encoded(detector.schema, rows)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    _same_bits(_total(detector, batch)[order.numpy()], _total(detector, batch.rows(order)), "permuted")


def check_score_ignores_threads(detector: Detector, rows: pa.Table) -> None:
    """One thread and two give the same scores, whether they are ours or torch's."""
    batch, before = encoded(detector.schema, rows), torch.get_num_threads()
    one = _total(detector, batch)
    try:
        torch.set_num_threads(2)
        fresh = replace(detector, ensemble=replace(detector.ensemble))  # nothing kept from before
        _same_bits(one, _total(fresh, batch, threads=2), "two threads")
        assert torch.get_num_threads() == 2, "scoring left torch with another number of threads"
    finally:
        torch.set_num_threads(before)


def check_streaming_equals_whole(detector: Detector, rows: pa.Table) -> None:
    """Batches of any size give the same output rows, reasons included."""
    whole = _table(detector, rows)
    assert whole.equals(_table(detector, rows.to_batches(max_chunksize=1)))
    assert whole.equals(_table(detector, rows.to_batches(max_chunksize=7)))


def check_columns_may_come_in_any_order(detector: Detector, rows: pa.Table) -> None:
    """Columns are found by name; others beside them change nothing."""
    whole = _table(detector, rows)
    assert whole.equals(_table(detector, rows.select(rows.column_names[::-1])))
    assert whole.equals(_table(detector, rows.append_column("another", pa.array(["x"] * rows.num_rows))))


def check_missing_cell_costs_only_where_the_fit_had_none(detector: Detector, rows: pa.Table) -> None:
    """A missing cell costs as an unseen level does if the fit had none there, else 0; null, NaN and whatever lies below are the same."""
    batch = encoded(detector.schema, rows)
    explanation = explain_rows(detector.ensemble, batch)
    missing = ~batch.observed[:, -1]
    assert bool(missing.any()), "the rows have no missing cell to try"
    scored = batch.observed.flatten(1).any(1, keepdim=True) & missing
    expected = missing * silence(detector)
    torch.testing.assert_close(explanation.contribution[scored], expected[scored], rtol=EXACT, atol=0.0)
    under = Batch(
        numeric=torch.where(batch.observed[..., : batch.numeric.shape[-1]], batch.numeric, 1e6),
        codes=torch.where(batch.observed[..., batch.numeric.shape[-1] :], batch.codes, 1),
        observed=batch.observed,
    )
    _same_bits(_total(detector, batch), _total(detector, under), "other values under the mask")
    with_nan = rows.set_column(0, rows.column_names[0], pc.fill_null(rows.column(0), float("nan")))
    _same_bits(_total(detector, batch), _total(detector, encoded(detector.schema, with_nan)), "NaN for null")


def check_row_without_cells_has_no_score(detector: Detector, rows: pa.Table) -> None:
    """A row in which nothing is observed has a null score, a null p-value, no reasons and no flag; the others have all of them."""
    out = _table(detector, rows)
    empty = ~encoded(detector.schema, rows).observed.flatten(1).any(1).numpy()
    assert empty.any(), "the rows have no empty row to try"
    for name in ("anomaly_score", "reconstruction", "kl", "p_value", "top_features"):
        assert out[name].is_null().to_numpy().tolist() == empty.tolist(), name
    assert not out["is_anomaly"].to_numpy()[empty].any()


def check_unseen_category_scores_finite(detector: Detector, rows: pa.Table) -> None:
    """A level that was never seen costs something finite, more than the level most often seen in its place."""
    columns = [c for c in model_order(detector.schema) if c.kind == "category" and len(c.levels) > 1]
    assert columns, "the detector has no category to try"
    usual = rows.set_column(rows.column_names.index(columns[0].name), columns[0].name, pa.array([columns[0].levels[0]] * rows.num_rows))
    never = rows.set_column(rows.column_names.index(columns[0].name), columns[0].name, pa.array(["never seen"] * rows.num_rows))
    scores = _total(detector, encoded(detector.schema, never))
    assert np.isfinite(scores).all()
    assert np.median(scores) > np.median(_total(detector, encoded(detector.schema, usual)))


def check_changed_constant_is_flagged(detector: Detector, rows: pa.Table) -> None:
    """A constant column costs nothing until it changes; then its row is flagged, by just that column."""
    constants = [q.name for q in detector.quality if q.constant is not None]
    assert constants, "the detector has no constant column to try"
    before = _total(detector, encoded(detector.schema, rows))
    for name in constants:
        column = rows[name]
        other = pa.array([1e6 if pa.types.is_floating(column.type) else "elsewhere"] * rows.num_rows, column.type)
        out = _table(detector, rows.set_column(rows.column_names.index(name), name, other))
        assert out["is_anomaly"].to_numpy().all()
        added = out["anomaly_score"].to_numpy() - before
        np.testing.assert_allclose(added, detector.ensemble.constants.penalty, rtol=EXACT)
        reasons = [{r["column"]: r["contribution"] for r in row} for row in out["top_features"].to_pylist()]
        np.testing.assert_allclose([r[name] for r in reasons], added, rtol=EXACT)


def check_total_is_sum_of_parts(detector: Detector, rows: pa.Table) -> None:
    """Score = reconstruction + KL = Σ contributions, also where only the largest are shown; no part is negative."""
    for top in (None, 2):
        out = _table(detector, rows, ScoreOptions(explain="all", top=top)).filter(pc.field("anomaly_score").is_valid())
        score, reconstruction, kl = (out[name].to_numpy() for name in ("anomaly_score", "reconstruction", "kl"))
        assert min(reconstruction.min(), kl.min()) >= 0.0
        np.testing.assert_allclose(reconstruction + kl, score, rtol=EXACT)
        sums = [sum(reason["contribution"] for reason in row) for row in out["top_features"].to_pylist()]
        np.testing.assert_allclose(sums, score, rtol=EXACT)


def check_score_agrees_with_float64(detector: Detector, rows: pa.Table) -> None:
    """The score is its definition computed again in float64, within the tolerance that is promised to other machines."""
    batch = encoded(detector.schema, rows)
    expected = _defined(detector, batch).numpy()
    scores = _total(detector, batch)
    there = ~np.isnan(scores)
    error = np.abs(scores - expected)[there] / np.maximum(1.0, np.abs(expected[there]))
    assert error.max() < TOLERANCE, f"differs by {error.max():.2g}"


@torch.no_grad()
def _defined(detector: Detector, batch: Batch) -> Tensor:
    """Σ over networks of weight · (Σ of the cells' costs + KL) in float64, from the units that the networks read."""
    e, cells = detector.ensemble, detector.ensemble.cells(batch)
    fit32 = {name: tensor.clone() for name, tensor in e.vae.state_dict().items()}
    vae = e.vae.double()
    try:
        mu, logvar = vae.encode(cells.units.double())
        out = vae.decode(mu)
    finally:
        vae.float().load_state_dict(fit32)
    wide = Cells(units=cells.units.double(), target=cells.target, observed=cells.observed)
    noise = e.noise.double().view(-1, 1, 1)
    cells_cost = cell_nll(e.layout, out, wide, sigma=noise, unseen=e.unseen, likelihood=e.likelihood).sum(-1)
    cost = cells_cost + e.beta.unsqueeze(1) * _kl(detector, mu, logvar)
    return (cost * e.weight.unsqueeze(1)).sum(0) + e.constants.cost(batch).sum(-1) + (~batch.observed[:, -1] * silence(detector)).sum(-1)


def silence(detector: Detector) -> Tensor:
    """Return what a missing cell of each column costs, ``[d]``: weight · log n of n training rows where the fit had none, else nothing."""
    quality = {q.name: q for q in detector.quality}
    never = torch.tensor([quality[c.name].missing == 0.0 for c in model_order(detector.schema)])
    return never.double() * float(detector.ensemble.weight.sum()) * math.log(detector.card.training_rows)


def _kl(detector: Detector, mu: Tensor, logvar: Tensor) -> Tensor:
    e = detector.ensemble
    if e.prior == "standard":
        return 0.5 * (mu.square() + logvar.exp() - 1.0 - logvar).sum(-1)
    there, spread, used = e.exemplars.mu.double(), e.exemplars.logvar.double(), torch.isfinite(e.exemplars.log_weight)
    ratio = logvar.unsqueeze(2) - spread.unsqueeze(1)
    gap = (mu.unsqueeze(2) - there.unsqueeze(1)).square() / spread.unsqueeze(1).exp()
    each = 0.5 * (gap + ratio.exp() - 1.0 - ratio).sum(-1).masked_fill(~used.unsqueeze(1), torch.inf)
    bound = used.sum(-1, keepdim=True).double().log() - torch.logsumexp(-each, dim=-1)
    for g, groups in enumerate([0] * len(bound) if e.groups is None else e.groups.tolist()):
        if groups:
            bound[g] = torch.stack([each[g, :, b::groups].amin(-1) for b in range(groups)]).mean(0)
    return bound


def check_input_is_not_changed(detector: Detector, rows: pa.Table) -> None:
    """Scoring and explaining leave the Arrow buffers and the tensors as they were."""
    raw, batch = one_batch(rows), encoded(detector.schema, rows)
    copy = pa.RecordBatch.from_pylist(raw.to_pylist(), schema=raw.schema)
    kept = [t.clone() for t in (batch.numeric, batch.codes, batch.observed)]
    _table(detector, [raw])
    detector.scores(batch, threads=2)
    explain_rows(detector.ensemble, batch)
    assert raw.equals(copy)
    assert all(torch.equal(a, b) for a, b in zip(kept, (batch.numeric, batch.codes, batch.observed), strict=True))


def check_one_row_and_no_rows(detector: Detector, rows: pa.Table) -> None:
    """One row is a batch; no rows are none, with the same columns."""
    whole = _table(detector, rows)
    assert _table(detector, rows.slice(0, 1)).equals(whole.slice(0, 1))
    nothing = encoded(detector.schema, rows.slice(0, 0))
    assert len(detector.scores(nothing).total) == 0
    assert explain_rows(detector.ensemble, nothing).contribution.shape == (0, len(detector.schema.columns))
    assert list(score_batches(detector, [one_batch(rows.slice(0, 0))])) == []
    between = [one_batch(rows.slice(0, 3)), one_batch(rows.slice(0, 0)), one_batch(rows.slice(3))]
    assert _table(detector, between).equals(whole)


def check_p_values_and_flags_agree(detector: Detector, rows: pa.Table) -> None:
    """A row is flagged where its score is above the threshold, which is where its p-value is at most alpha."""
    out = _table(detector, rows).filter(pc.field("anomaly_score").is_valid())
    score, p_value, flag = (out[name].to_numpy() for name in ("anomaly_score", "p_value", "is_anomaly"))
    assert (flag == (score > detector.threshold.value)).all()
    assert (flag == (p_value <= detector.threshold.alpha + EXACT)).all()
    order = np.argsort(score)
    assert (np.diff(p_value[order]) <= 0).all(), "a higher score has a higher p-value"


def check_false_alarm_rate(detector: Detector, rows: pa.Table) -> None:
    """Among new normal rows as many are flagged as alpha says: in the exact band under ``split``, at most twice that under ``cross``."""
    alarms = int(detector.threshold.flags(_total(detector, encoded(detector.schema, rows))).sum())
    n, alpha = len(detector.threshold.calibration), detector.threshold.alpha
    law = betabinom(rows.num_rows, quantile_rank(n, alpha), n + 1 - quantile_rank(n, alpha))
    low, high = law.ppf(BAND), law.ppf(1 - BAND)
    if detector.threshold.method == "cross":
        low, high = 0, 2 * alpha * rows.num_rows
    assert low <= alarms <= high, f"{alarms} of {rows.num_rows} rows flagged at alpha {alpha:g}; expected {low:g} to {high:g}"


def check_save_load_same_scores(detector: Detector, rows: pa.Table, folder: Path) -> None:
    """A detector that was saved and loaded gives the same output, and is saved as the same bytes again."""
    artifact.save(detector, folder / "one")
    loaded = artifact.load(folder / "one")
    assert _table(loaded, rows).equals(_table(detector, rows))
    artifact.save(loaded, folder / "two")
    for path in (folder / "one").iterdir():
        assert path.read_bytes() == (folder / "two" / path.name).read_bytes(), path.name


def check_same_seed_same_weights(detector: Detector, normal: pa.Table) -> None:
    """Fitting again on the same rows with the same seed gives the same detector bit for bit; another seed gives another."""
    values, tensors = fit_detector(normal, detector.schema, detector.config).state()
    first, weights = detector.state()
    assert json.dumps(values) == json.dumps(first)
    assert [name for name in weights if not torch.equal(weights[name], tensors[name])] == []
    other = fit_detector(normal, detector.schema, replace(detector.config, seed=detector.config.seed + 1)).state()[1]
    assert not torch.equal(weights["weight"], other["weight"]) or not torch.equal(weights["calibration"], other["calibration"])
