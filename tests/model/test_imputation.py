import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.config import ModelConfig
from vae_anomaly.model.imputation import CellBank, cell_bank, conditional_units, fill_missing, impute_by_decoding, unit_observed
from vae_anomaly.model.prior import Exemplars, equal_log_weights
from vae_anomaly.model.scaling import Views
from vae_anomaly.model.vae import Cells, Layout, Vae, expected_units

Array = NDArray[np.float64]
# Two numbers, one boolean, one category of three levels: six units, four cells.
LAYOUT = Layout(numeric=2, booleans=1, levels=(3,))
NETS, COUNT = 2, 12


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _bank() -> CellBank:
    counts = torch.tensor([COUNT, COUNT - 4])  # the second network has four places of padding
    return CellBank(
        units=_normal(NETS, COUNT, LAYOUT.units, seed=0),
        log_weight=equal_log_weights(counts, COUNT),
        variance=torch.tensor([0.5, 2.0]).view(-1, 1, 1),
    )


def _regression(x: Array, seen: NDArray[np.bool_], bank: CellBank, g: int) -> Array:
    """Nadaraya-Watson for one row of one network, word for word from its definition."""
    used = np.isfinite(bank.log_weight[g].numpy())
    there = bank.units[g].double().numpy()[used]
    h2 = float(bank.variance[g])
    weight = np.array([np.exp(-np.sum((x[seen] - b[seen]) ** 2) / (2.0 * h2)) for b in there])
    expected: Array = (weight[:, None] * there).sum(0) / weight.sum()
    return expected


def test_the_expectation_is_a_kernel_regression_over_the_observed_units() -> None:
    bank, units = _bank(), _normal(NETS, 9, LAYOUT.units, seed=1)
    seen = torch.rand(NETS, 9, LAYOUT.units, generator=torch.Generator().manual_seed(2)) < 0.6
    expected = conditional_units(units, seen, bank)
    for g in range(NETS):
        for i in range(9):
            by_hand = _regression(units[g, i].double().numpy(), seen[g, i].numpy(), bank, g)
            np.testing.assert_allclose(expected[g, i].numpy(), by_hand, rtol=1e-4, atol=1e-4)


def test_units_that_are_not_observed_have_no_say() -> None:
    bank, units = _bank(), _normal(NETS, 9, LAYOUT.units, seed=1)
    seen = torch.tensor([True, False, True, True, False, True]).expand(1, 9, 6)
    other = torch.where(seen, units, 1e3)
    assert torch.equal(conditional_units(units, seen, bank), conditional_units(other, seen, bank))


def test_where_nothing_is_observed_the_expectation_is_the_mean_of_the_exemplars() -> None:
    bank = _bank()
    nothing = torch.zeros(1, 1, LAYOUT.units, dtype=torch.bool)
    expected = conditional_units(torch.zeros(NETS, 1, LAYOUT.units), nothing, bank)
    torch.testing.assert_close(expected[0, 0], bank.units[0].mean(0))
    torch.testing.assert_close(expected[1, 0], bank.units[1, : COUNT - 4].mean(0))


def test_beside_an_exemplar_the_expectation_is_that_exemplar() -> None:
    bank = _bank()
    narrow = CellBank(units=bank.units, log_weight=bank.log_weight, variance=torch.full((NETS, 1, 1), 1e-3))
    seen = torch.tensor([False, True, True, True, True, True]).expand(1, 1, 6)
    expected = conditional_units(bank.units[:, 3:4], seen, narrow)
    torch.testing.assert_close(expected, bank.units[:, 3:4], rtol=1e-3, atol=1e-3)


def test_cells_spread_over_their_units() -> None:
    observed = torch.tensor([[True, False, True, False]])
    assert unit_observed(observed, LAYOUT).tolist() == [[True, False, True, False, False, False]]
    window = Layout(numeric=1, booleans=1, levels=(2, 3), window=2)
    cells = torch.tensor([1, 0, 0, 1, 1, 0, 0, 1])  # two numbers, two booleans, then both categories of each step
    assert unit_observed(cells, window).tolist() == [1, 0, 0, 1, *[1, 1], *[0, 0, 0], *[0, 0], *[1, 1, 1]]


def _cells(observed: Tensor) -> Cells:
    units = _normal(NETS, len(observed), LAYOUT.units, seed=4)
    return Cells(units=units, target=torch.zeros(NETS, len(observed), 2, dtype=torch.int64), observed=observed)


def test_filling_changes_the_missing_cells_only() -> None:
    bank, observed = _bank(), torch.tensor([[True, False, True, True], [True, True, True, False], [True] * 4])
    cells = _cells(observed)
    filled = fill_missing(cells, LAYOUT, bank)
    changed = (filled.units != cells.units)[0].tolist()
    assert changed == [[False, True, False, False, False, False], [False, False, False, True, True, True], [False] * 6]
    by_hand = _regression(cells.units[0, 0].double().numpy(), np.array([True, False, True, True, True, True]), bank, 0)
    assert float(filled.units[0, 0, 1]) == pytest.approx(by_hand[1], rel=1e-4)
    assert torch.equal(filled.observed, observed)


def _vae() -> tuple[Vae, Views]:
    vae = Vae(NETS, LAYOUT, ModelConfig(hidden=(8,), latent=3, sigma=0.1), torch.Generator().manual_seed(0))
    views = Views(
        centre=torch.zeros(NETS, 2, dtype=torch.float64),
        scale=torch.ones(NETS, 2, dtype=torch.float64),
        mean=torch.tensor([[0.5, 0.2, 0.3, 0.5]] * NETS),
        known=torch.ones(NETS, 4, dtype=torch.bool),
        spread=torch.tensor([[0.5, 1.0, 1.0, 1.0]] * NETS),
    )
    return vae, views


@torch.no_grad()
def test_the_bank_is_what_the_exemplars_decode_to_in_units() -> None:
    vae, views = _vae()
    exemplars = Exemplars(
        mu=_normal(NETS, COUNT, 3, seed=5), logvar=torch.zeros(NETS, COUNT, 3), log_weight=equal_log_weights(torch.tensor([12, 8]), COUNT)
    )
    bank = cell_bank(vae, views, exemplars)
    decoded = expected_units(LAYOUT, vae.decode(exemplars.mu))
    torch.testing.assert_close(bank.units[..., :2], decoded[..., :2])
    torch.testing.assert_close(bank.units[..., 2:], (decoded[..., 2:] - views.mean.unsqueeze(1)) / views.spread.unsqueeze(1))
    for g, count in ((0, 12), (1, 8)):
        x = bank.units[g, :count].double().numpy()
        square = ((x[:, None] - x[None]) ** 2).sum(-1)
        np.fill_diagonal(square, np.inf)
        assert float(bank.variance[g]) == pytest.approx(square.min(1).mean(), rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2])
def test_a_bank_of_hardly_any_exemplars_has_a_finite_kernel(count: int) -> None:
    vae, views = _vae()
    same = torch.ones(NETS, count, 3)  # and none further than nothing from the next
    bank = cell_bank(vae, views, Exemplars(mu=same, logvar=same, log_weight=equal_log_weights(torch.tensor([count, count]), count)))
    assert bool((bank.variance > 0).all())
    assert bool(torch.isfinite(conditional_units(bank.units, torch.ones(1, count, 6), bank)).all())


def test_exemplars_fill_their_missing_cells_by_decoding_and_keep_the_others() -> None:
    vae, views = _vae()
    observed = torch.tensor([[True, False, True, True], [True] * 4])
    cells = _cells(observed)
    settled = impute_by_decoding(vae, views, cells)
    assert torch.equal(settled.units[:, 1], cells.units[:, 1])
    assert torch.equal(settled.units[:, 0, [0, 2, 3, 4, 5]], cells.units[:, 0, [0, 2, 3, 4, 5]])
    assert not torch.equal(settled.units[:, 0, 1], cells.units[:, 0, 1])
    other = cells.units.clone()
    other[:, 0, 1] = -3.0  # where the filling starts from hardly matters after some rounds
    again = impute_by_decoding(vae, views, Cells(units=other, target=cells.target, observed=observed))
    gap = (again.units - settled.units)[:, 0, 1].abs().max()
    assert gap < 0.3 * (other - cells.units)[:, 0, 1].abs().max()
    assert impute_by_decoding(vae, views, _cells(torch.ones(3, 4, dtype=torch.bool))).units.equal(_cells(torch.ones(3, 4)).units)
