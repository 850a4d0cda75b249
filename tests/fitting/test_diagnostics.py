from itertools import groupby

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.fitting.diagnostics import column_quality, longest_run
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.fitting.splits import assign_networks, split_rows
from vae_anomaly.model.scaling import gather_cells
from vae_anomaly.model.vae import expected_units
from vae_anomaly.schema.schema import infer_schema

CASE = Case(kind="mixed", size="one", method="split", prior="exemplar")


def _watched(rows: int = tiny.NORMAL_ROWS) -> tuple[Tensor, ...]:
    config = tiny.config(CASE)
    return assign_networks(split_rows(config.calibration, rows, config.seed), config).validation


def _by_name(quality: tuple[ColumnQuality, ...]) -> dict[str, ColumnQuality]:
    return {q.name: q for q in quality}


def test_the_share_explained_is_one_minus_squares_over_squares() -> None:
    """Once more by hand for every number, from what the network decodes."""
    detector = tiny.detector(CASE)
    e, rows = detector.ensemble, _watched()[0]
    batch = tiny.encoded(detector.schema, tiny.normal_rows("mixed"))
    complete = batch.observed[rows].flatten(1).all(1)
    rows = rows[complete]
    found = _by_name(column_quality(e, batch, detector.schema, (rows,)))
    cells = gather_cells(e.views, e.layout, e.select_columns(batch), rows.unsqueeze(0))
    decoded = expected_units(e.layout, e.vae.decode(e.vae.encode(cells.units)[0]))[0].numpy()
    units = cells.units[0].numpy()
    for j, name in enumerate(("flow", "pressure", "power", "celsius")):
        error, spread = np.square(units[:, j] - decoded[:, j]).sum(), np.square(units[:, j] - units[:, j].mean()).sum()
        assert found[name].r2 == pytest.approx(1.0 - error / spread, abs=1e-5)


def test_a_level_is_explained_as_much_as_its_log_loss_falls_below_that_of_the_frequencies() -> None:
    detector = tiny.detector(CASE)
    e, rows = detector.ensemble, _watched()[0]
    batch = tiny.encoded(detector.schema, tiny.normal_rows("mixed"))
    rows = rows[batch.observed[rows].flatten(1).all(1)]
    found = _by_name(column_quality(e, batch, detector.schema, (rows,)))
    cells = gather_cells(e.views, e.layout, e.select_columns(batch), rows.unsqueeze(0))
    decoded = expected_units(e.layout, e.vae.decode(e.vae.encode(cells.units)[0]))[0].double().numpy()
    frequency = e.views.mean[0].double().numpy()
    first = e.layout.numeric
    opened = cells.target[0, :, 0].numpy() == 1
    chance = np.where(opened, decoded[:, first], 1.0 - decoded[:, first])
    base = np.where(opened, frequency[0], 1.0 - frequency[0])
    # The small probability kept for levels never seen shifts both by next to nothing.
    assert found["open"].r2 == pytest.approx(1.0 - np.log(chance).sum() / np.log(base).sum(), abs=1e-3)
    # The units are: whether open, three modes, four crews.
    crew = cells.target[0, :, 2].numpy()
    chance, base = decoded[np.arange(len(crew)), first + 4 + crew], frequency[4 + crew]
    assert found["crew"].r2 == pytest.approx(1.0 - np.log(chance).sum() / np.log(base).sum(), abs=1e-3)


def test_cells_are_described_as_they_were_at_fit() -> None:
    rows, found = tiny.normal_rows("mixed"), _by_name(tiny.detector(CASE).quality)
    assert list(found) == ["flow", "pressure", "power", "celsius", "rated", "open", "mode", "crew", "site"]
    for name, quality in found.items():
        assert quality.missing == pytest.approx(rows[name].null_count / rows.num_rows)
    for name in ("flow", "pressure", "power", "celsius"):
        quantiles = np.quantile(rows[name].drop_null().to_numpy(), [0.01, 0.5, 0.99])
        np.testing.assert_array_equal([found[name].low, found[name].middle, found[name].high], quantiles)
        assert found[name].constant is None
    assert (found["mode"].low, found["mode"].middle, found["mode"].high) == (None, None, None)


def test_constant_columns_have_their_value_and_nothing_to_explain() -> None:
    found = _by_name(tiny.detector(CASE).quality)
    assert (found["rated"].constant, found["rated"].r2) == ("50.5", None)
    assert (found["site"].constant, found["site"].r2) == ("north", None)


def test_a_column_that_differs_by_rounding_errors_only_is_constant() -> None:
    """A ratio of one rounding error to another would be any number."""
    rows, config = tiny.normal_rows("numeric"), tiny.config(Case(kind="numeric", size="one", method="split", prior="exemplar"))
    values = np.ones(rows.num_rows)
    values[::2] += 1e-12
    table = rows.append_column("whisper", pa.array(values))
    whisper = _by_name(fit_detector(table, infer_schema(table, config.data), config).quality)["whisper"]
    assert (whisper.r2, whisper.constant) == (None, "1")


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=30))
def test_the_longest_run_is_that_of_groupby(values: list[float]) -> None:
    runs = [(key, len(list(group))) for key, group in groupby(values)]
    assert longest_run(np.array(values)) == max((size for _, size in runs), default=0)
    assert longest_run(np.array(values), of=2.0) == max((size for key, size in runs if key == 2.0), default=0)


def test_runs_and_gaps_of_columns_are_those_of_the_fit() -> None:
    rows = 300
    random = np.random.default_rng(0)
    held = np.repeat(random.normal(size=rows // 4), 4)
    table = pa.table(
        {
            "held": pa.array(held, mask=np.isin(np.arange(rows), [5, 6, 7, 90])),
            "code": np.arange(rows) % 3 + random.integers(2, size=rows),
            "fixed": np.full(rows, 7.5),
            "free": random.normal(size=rows),
        }
    )
    quality = _by_name(tiny.fit(table, tiny.config(Case(kind="numeric", size="one", method="split", prior="exemplar"))).quality)
    assert {name: (q.longest_run, q.longest_gap) for name, q in quality.items()} == {
        "held": (4, 3), "code": (None, 0), "fixed": (None, 0), "free": (1, 0)
    }  # fmt: skip
