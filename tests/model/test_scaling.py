from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from torch import Tensor

from vae_anomaly.config import ViewName
from vae_anomaly.model.scaling import CLIP, NORMAL_IQR, Views, gather_cells, learn_views, to_cells
from vae_anomaly.model.vae import Layout
from vae_anomaly.schema.encoding import Batch

ROWS, NUMBERS = 200, 4
Array = NDArray[np.float64]


def _numbers(seed: int = 0) -> Array:
    """Columns of very different centre and spread."""
    random = np.random.default_rng(seed)
    return random.gamma(2.0, size=(ROWS, NUMBERS)) * [1.0, 1e-3, 500.0, 2.0] + [0.0, 5.0, 1e6, -3.0]


def _batch(numbers: Array, codes: NDArray[np.int64] | None = None, observed: NDArray[np.bool_] | None = None) -> Batch:
    codes = np.zeros((len(numbers), 0), np.int64) if codes is None else codes
    observed = np.ones((len(numbers), numbers.shape[1] + codes.shape[1]), np.bool_) if observed is None else observed
    numbers = np.where(observed[:, : numbers.shape[1]], numbers, 0.0)
    return Batch(
        numeric=torch.from_numpy(numbers).unsqueeze(1),
        codes=torch.from_numpy(codes).unsqueeze(1),
        observed=torch.from_numpy(observed).unsqueeze(1),
    )


def _learn(batch: Batch, names: Sequence[ViewName], layout: Layout | None = None, rows: Sequence[Tensor] | None = None) -> Views:
    layout = layout or Layout(numeric=NUMBERS, booleans=0, levels=())
    return learn_views(layout, batch, names, rows or [torch.arange(len(batch))] * len(names))


def _scaled(views: Views, numbers: Array) -> Array:
    scaled: Array = ((torch.from_numpy(numbers) - views.centre[0]) / views.scale[0]).numpy()
    return scaled


def test_standard_is_the_standard_scaler() -> None:
    x = _numbers()
    np.testing.assert_allclose(_scaled(_learn(_batch(x), ["standard"]), x), StandardScaler().fit_transform(x), rtol=1e-9, atol=1e-9)


def test_minmax_is_the_minmax_scaler_centred_with_one_factor_for_all_columns() -> None:
    x = _numbers()
    spread = MinMaxScaler().fit_transform(x)
    expected = (spread - spread.mean(0)) / np.sqrt(spread.var(0).mean())
    scaled = _scaled(_learn(_batch(x), ["minmax"]), x)
    np.testing.assert_allclose(scaled, expected, rtol=1e-9, atol=1e-9)
    assert scaled.var(0).mean() == pytest.approx(1.0)


def test_percentile_is_minmax_between_percentiles_with_one_factor_for_all_columns() -> None:
    x = _numbers()
    spread = x / (np.percentile(x, 99, axis=0) - np.percentile(x, 1, axis=0))
    expected = (spread - spread.mean(0)) / np.sqrt(spread.var(0).mean())
    np.testing.assert_allclose(_scaled(_learn(_batch(x), ["percentile"]), x), expected, rtol=1e-9, atol=1e-9)


def test_percentile_takes_the_whole_span_where_nearly_all_values_are_one() -> None:
    x = _numbers()
    x[1:, 1] = 5.0
    percentile, minmax = (_learn(_batch(x[:, 1:2]), [n], Layout(numeric=1, booleans=0, levels=())) for n in ("percentile", "minmax"))
    assert float(percentile.scale[0, 0]) == float(minmax.scale[0, 0])


def test_robust_is_the_robust_scaler_with_the_iqr_of_a_normal() -> None:
    x = _numbers()
    expected = RobustScaler().fit_transform(x) * NORMAL_IQR
    np.testing.assert_allclose(_scaled(_learn(_batch(x), ["robust"]), x), expected, rtol=1e-9, atol=1e-9)


def test_robust_falls_back_to_the_standard_view_where_the_iqr_is_narrow() -> None:
    x = _numbers()
    x[20:, 1] = 5.0  # nine rows in ten are equal: no IQR, yet a spread
    robust, standard = (_learn(_batch(x), [name]) for name in ("robust", "standard"))
    assert robust.centre[0, 1] == standard.centre[0, 1]
    assert robust.scale[0, 1] == standard.scale[0, 1]
    assert robust.scale[0, 0] != standard.scale[0, 0]


@pytest.mark.parametrize("name", ["standard", "minmax", "robust", "percentile"])
def test_missing_cells_teach_nothing(name: ViewName) -> None:
    x = _numbers()
    seen = np.random.default_rng(1).random((ROWS, NUMBERS)) < 0.8
    views = _learn(_batch(x, observed=seen), [name])
    for j in range(NUMBERS):
        alone = _learn(_batch(x[seen[:, j], j : j + 1]), [name], Layout(numeric=1, booleans=0, levels=()))
        assert float(views.centre[0, j]) == pytest.approx(float(alone.centre[0, 0]), rel=1e-12)
        if name not in {"minmax", "percentile"}:  # whose factor is common to all columns
            assert float(views.scale[0, j]) == pytest.approx(float(alone.scale[0, 0]), rel=1e-9)


@pytest.mark.parametrize("name", ["standard", "minmax", "robust", "percentile"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3])
def test_a_constant_column_has_a_unit_of_one(name: ViewName, value: float) -> None:
    x = _numbers()
    x[:, 2] = value
    views = _learn(_batch(x), [name])
    assert float(views.scale[0, 2]) == 1.0
    assert float(views.centre[0, 2]) == pytest.approx(value, rel=1e-12)
    assert torch.isfinite(views.scale).all()


@pytest.mark.parametrize("name", ["standard", "minmax", "robust", "percentile"])
def test_a_column_never_observed_has_a_finite_view(name: ViewName) -> None:
    seen = np.ones((ROWS, NUMBERS), np.bool_)
    seen[:, 1] = False
    views = _learn(_batch(_numbers(), observed=seen), [name])
    assert (float(views.centre[0, 1]), float(views.scale[0, 1])) == (0.0, 1.0)


def test_units_are_float32_clipped_and_zero_where_missing() -> None:
    x = _numbers()
    layout = Layout(numeric=NUMBERS, booleans=0, levels=())
    views = _learn(_batch(x), ["standard"])
    far = x[:3].copy()
    far[0, 0], far[1, 0] = 1e9, -1e9
    seen = np.ones((3, NUMBERS), np.bool_)
    seen[2, 3] = False
    units = to_cells(views, layout, _batch(far, observed=seen)).units[0]
    assert units.dtype == torch.float32
    assert (float(units[0, 0]), float(units[1, 0]), float(units[2, 3])) == (CLIP, -CLIP, 0.0)
    np.testing.assert_allclose(units[:2, 1:].numpy(), _scaled(views, far)[:2, 1:], rtol=1e-6, atol=1e-6)


MIXED = Layout(numeric=1, booleans=1, levels=(3, 2))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("name", ["standard", "minmax", "percentile", "robust"])
def test_a_boolean_is_scaled_as_its_view_says_and_a_category_never(name: ViewName, share: float) -> None:
    x, random = _numbers(), np.random.default_rng(3)
    flag, level = (random.random(ROWS) < share).astype(np.int64), random.integers(0, 3, ROWS)
    batch, layout = _batch(x, np.stack([flag, level], 1)), Layout(numeric=NUMBERS, booleans=1, levels=(3,))
    views = _learn(batch, [name], layout)
    low, high = (x.min(0), x.max(0)) if name == "minmax" else np.percentile(x, [1, 99], axis=0)
    common = np.sqrt((((x - x.mean(0)) / (high - low)).var(0).sum() + flag.var()) / (NUMBERS + 1))
    divisor = {"standard": 1.0, "robust": flag.std(), "minmax": common, "percentile": common}[name]
    units = to_cells(views, layout, batch).units[0].numpy()
    np.testing.assert_allclose(units[:, NUMBERS], (flag - flag.mean()) / divisor, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(units[:, NUMBERS + 1 :], np.eye(3)[level] - np.eye(3)[level].mean(0), rtol=1e-5, atol=1e-6)


def test_a_boolean_that_never_changes_has_a_finite_unit_in_every_view() -> None:
    batch, layout = _batch(_numbers(), np.ones((ROWS, 1), np.int64)), Layout(numeric=NUMBERS, booleans=1, levels=())
    names: tuple[ViewName, ...] = ("standard", "minmax", "percentile", "robust")
    assert (to_cells(_learn(batch, names, layout), layout, batch).units[..., NUMBERS] == 0.0).all()


def _mixed() -> Batch:
    codes = np.array([[1, 0, 1], [0, 2, 1], [1, 0, 0], [1, 0, 1], [0, 2, 1]])
    seen = np.ones((5, 4), np.bool_)
    seen[3, 1] = seen[4, 2] = False  # a boolean and a first category
    return _batch(np.arange(5.0).reshape(5, 1), codes, seen)


def test_a_level_is_its_one_hot_code_minus_the_frequencies_of_observed_cells() -> None:
    views = _learn(_mixed(), ["standard"], MIXED)
    frequencies = [2 / 4, 3 / 4, 0, 1 / 4, 1 / 5, 4 / 5]
    np.testing.assert_allclose(views.mean[0].numpy(), frequencies, rtol=1e-6)
    cells = to_cells(views, MIXED, _mixed())
    expected = np.array([1, 1, 0, 0, 0, 1]) - frequencies
    np.testing.assert_allclose(cells.units[0, 0, 1:].numpy(), expected, rtol=1e-6)
    assert cells.units[0, 3, 1] == 0.0
    assert cells.units[0, 4, 2:5].tolist() == [0.0, 0.0, 0.0]
    assert cells.target[0].tolist() == [[1, 0, 1], [0, 2, 1], [1, 0, 0], [1, 0, 1], [0, 2, 1]]
    assert cells.observed.tolist() == _mixed().observed[:, 0].tolist()


def test_a_level_that_only_another_network_has_met_is_unseen_here() -> None:
    both = [torch.tensor([0, 2, 3]), torch.tensor([0, 1, 2])]  # the first network never meets level 2
    views = _learn(_mixed(), ["standard", "standard"], MIXED, both)
    assert views.known[:, 1:4].tolist() == [[True, False, False], [True, False, True]]
    cells = to_cells(views, MIXED, _mixed())
    assert cells.target[:, 1, 1].tolist() == [3, 2]
    np.testing.assert_allclose(cells.units[0, 1, 2:5].numpy(), -views.mean[0, 1:4].numpy())


def test_a_code_beyond_the_levels_is_unseen_for_every_network() -> None:
    views = _learn(_mixed(), ["standard"], MIXED)
    cells = to_cells(views, MIXED, _batch(np.zeros((1, 1)), np.array([[2, 3, 2]])))
    assert cells.target[0, 0].tolist() == [2, 3, 2]


def test_each_network_learns_from_its_own_rows_only() -> None:
    x, rows = _numbers(), [torch.arange(0, 100), torch.arange(100, 200)]
    before = _learn(_batch(x), ["standard", "standard"], rows=rows)
    x[150] *= 7.0
    after = _learn(_batch(x), ["standard", "standard"], rows=rows)
    assert torch.equal(before.centre[0], after.centre[0])
    assert torch.equal(before.scale[0], after.scale[0])
    assert not torch.equal(before.scale[1], after.scale[1])
    np.testing.assert_allclose(before.centre[0].numpy(), x[:100].mean(0))


def test_gathered_rows_are_the_same_rows_for_each_network() -> None:
    views = _learn(_mixed(), ["standard", "minmax"], MIXED)
    whole, index = to_cells(views, MIXED, _mixed()), torch.tensor([[4, 0, 3], [1, 1, 2]])
    picked = gather_cells(views, MIXED, _mixed(), index)
    for g in range(2):
        assert torch.equal(picked.units[g], whole.units[g, index[g]])
        assert torch.equal(picked.target[g], whole.target[g, index[g]])
        assert torch.equal(picked.observed[g], whole.observed[index[g]])


def test_a_window_scales_each_step_by_its_own_statistics() -> None:
    x = _numbers()
    windows = np.stack([x[:-1], x[1:]], axis=1)
    batch = Batch(
        numeric=torch.from_numpy(windows),
        codes=torch.zeros(ROWS - 1, 2, 0, dtype=torch.int64),
        observed=torch.ones(ROWS - 1, 2, NUMBERS, dtype=torch.bool),
    )
    layout = Layout(numeric=NUMBERS, booleans=0, levels=(), window=2)
    views = _learn(batch, ["standard"], layout)
    units = to_cells(views, layout, batch).units[0].numpy()
    flat = windows.reshape(ROWS - 1, -1)
    np.testing.assert_allclose(units, StandardScaler().fit_transform(flat), rtol=1e-4, atol=1e-5)


def test_networks_can_be_taken_out_by_index() -> None:
    views = _learn(_mixed(), ["standard", "minmax", "robust"], MIXED)
    alone = views.nets(torch.tensor([2]))
    assert torch.equal(alone.scale[0], views.scale[2])
    assert torch.equal(alone.known[0], views.known[2])
