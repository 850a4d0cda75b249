import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, StudentT, kl_divergence

from vae_anomaly.config import ModelConfig
from vae_anomaly.model.vae import (
    LOGVAR_MAX,
    LOGVAR_MIN,
    Cells,
    Layout,
    Vae,
    by_column,
    cell_nll,
    expected_units,
    gaussian_kl,
    init_linear,
    training_loss,
)

SIGMA, UNSEEN = 0.3, 0.01
# Two numbers, one boolean, categories of three and two levels.
LAYOUT = Layout(numeric=2, booleans=1, levels=(3, 2))
MODEL = ModelConfig(hidden=(8,), residual_blocks=1, linear_skip=True, latent=3, sigma=SIGMA)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _cells(units: Tensor, target: Tensor, observed: Tensor | None = None) -> Cells:
    cells = target.shape[-1] + 2
    return Cells(units=units, target=target, observed=torch.ones(units.shape[1], cells, dtype=torch.bool) if observed is None else observed)


def _some_cells(seed: int = 1) -> Cells:
    """Two networks, five rows; levels as their codes, all of them seen."""
    target = torch.tensor([[0, 2, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 2, 0]]).expand(2, 5, 3)
    return _cells(_random(2, 5, LAYOUT.units, seed=seed), target)


def _nll(out: Tensor, cells: Cells, *, unseen: float = UNSEEN, full: bool = False) -> Tensor:
    return cell_nll(LAYOUT, out, cells, sigma=SIGMA, unseen=unseen, full=full)


def _log(distribution: Distribution, value: Tensor) -> Tensor:
    return distribution.log_prob(value)


# The Gaussian KL


def test_kl_to_the_standard_normal_is_that_of_torch() -> None:
    mu, logvar = _random(4, 7, 5), 2.0 * _random(4, 7, 5, seed=1)
    q, p = Normal(mu, (0.5 * logvar).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(gaussian_kl(mu, logvar), kl_divergence(q, p).sum(-1), rtol=1e-12, atol=1e-12)


def test_kl_is_zero_for_the_standard_normal_itself_and_half_a_nat_at_one_sigma() -> None:
    zero = torch.zeros(1, 1)
    assert float(gaussian_kl(zero, zero)) == 0.0
    assert float(gaussian_kl(zero + 1.0, zero)) == 0.5


# The likelihoods, each against torch.distributions


def test_a_number_costs_its_gaussian_density_below_the_peak() -> None:
    out, cells = _random(2, 5, LAYOUT.units), _some_cells()
    density = Normal(out[..., :2], SIGMA)
    expected = _log(density, out[..., :2]) - _log(density, cells.units[..., :2])
    torch.testing.assert_close(_nll(out, cells)[..., :2], expected, rtol=1e-12, atol=1e-12)


def test_a_number_costs_its_student_density_below_the_peak() -> None:
    out, cells = 3.0 * _random(2, 5, LAYOUT.units), _some_cells()
    sigma = torch.tensor([0.2, 1.7], dtype=torch.float64).view(2, 1, 1)
    density = StudentT(8.0, loc=out[..., :2], scale=sigma)
    expected = _log(density, out[..., :2]) - _log(density, cells.units[..., :2])
    got = cell_nll(LAYOUT, out, cells, sigma=sigma, unseen=UNSEEN, likelihood="student-t")
    torch.testing.assert_close(got[..., :2], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[..., 2:], _nll(out, cells)[..., 2:], rtol=0, atol=0)


def test_a_boolean_costs_its_bernoulli_mass_below_that_of_the_likelier_value() -> None:
    out, cells = 3.0 * _random(2, 5, LAYOUT.units), _some_cells()
    mass = Bernoulli(logits=out[..., 2])
    yes, no = torch.ones_like(mass.logits), torch.zeros_like(mass.logits)
    best = torch.maximum(_log(mass, yes), _log(mass, no))
    expected = best - _log(mass, cells.target[..., 0].to(torch.float64))
    torch.testing.assert_close(_nll(out, cells)[..., 2], expected, rtol=1e-12, atol=1e-12)


def test_a_category_costs_its_mass_below_that_of_the_likeliest_level() -> None:
    out, cells = 3.0 * _random(2, 5, LAYOUT.units), _some_cells()
    for j, units in ((1, slice(3, 6)), (2, slice(6, 8))):
        mass = Categorical(logits=out[..., units])
        expected = mass.probs.max(-1).values.log() - _log(mass, cells.target[..., j])
        torch.testing.assert_close(_nll(out, cells)[..., 2 + j], expected, rtol=1e-12, atol=1e-12)


def test_an_unseen_level_costs_its_reserved_probability() -> None:
    out, levels = 3.0 * _random(1, 4, LAYOUT.units), torch.tensor([2, 3, 2])  # one beyond the last level of each
    nll = _nll(out, _cells(torch.zeros(1, 4, LAYOUT.units), levels.expand(1, 4, 3)))
    for j, units in ((0, None), (1, slice(3, 6)), (2, slice(6, 8))):
        seen = Bernoulli(logits=out[..., 2]).probs if units is None else Categorical(logits=out[..., units]).probs
        probability = torch.stack([seen, 1.0 - seen], -1) if units is None else seen
        mixed = (1.0 - UNSEEN) * probability  # what is left for the levels met; UNSEEN goes to all the others
        expected = mixed.max(-1).values.log() - math.log(UNSEEN)
        torch.testing.assert_close(nll[..., 2 + j], expected, rtol=1e-12, atol=1e-12)


def test_a_number_in_a_boolean_costs_an_unseen_level_and_its_student_density() -> None:
    """Its distance from the nearer of 0 and 1, in units of the column, is what a number is off by."""
    distances = torch.tensor([0.5, 1.0, 249.0], dtype=torch.float64)
    codes = (2 + distances * 2**20).to(torch.int64)
    out = 3.0 * _random(1, 4, LAYOUT.units)[:, :1].expand(1, 4, LAYOUT.units)
    target = torch.zeros(1, 4, 3, dtype=torch.int64)
    target[0, :, 0] = torch.cat([torch.tensor([2]), codes])  # an unseen text first
    sigma = torch.tensor(0.7, dtype=torch.float64)
    cells = _cells(torch.zeros(1, 4, LAYOUT.units), target)
    cost = cell_nll(LAYOUT, out, cells, sigma=sigma, unseen=UNSEEN, likelihood="student-t")[0, :, 2]
    density = StudentT(8.0, scale=sigma)
    expected = _log(density, torch.zeros(3, dtype=torch.float64)) - _log(density, distances)
    torch.testing.assert_close(cost[1:] - cost[0], expected, rtol=1e-12, atol=1e-12)


def test_an_unseen_level_costs_as_much_as_one_met_in_a_single_row() -> None:
    """The mass kept for levels never met is 1/(rows + 1), which is what one more row would have given them."""
    rows = 200
    out = torch.zeros(1, 1, LAYOUT.units, dtype=torch.float64)
    out[..., 3:6] = torch.tensor([0.5, 0.5 - 1 / rows, 1 / rows], dtype=torch.float64).log()
    once, never = (float(_nll(out, _cells(out, torch.tensor([[[0, code, 0]]])), unseen=1 / (rows + 1))[0, 0, 3]) for code in (2, 3))
    assert never == pytest.approx(once)
    assert once == pytest.approx(math.log(100))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.0, 60.0))
def test_no_cell_costs_less_than_nothing(seed: int, scale: float) -> None:
    cells = _some_cells(seed)
    nll = _nll(scale * _random(2, 5, LAYOUT.units, seed=seed + 1), cells)
    assert bool((nll >= 0).all())
    assert bool(torch.isfinite(nll).all())


def test_the_best_value_of_every_cell_costs_nothing() -> None:
    out = _random(1, 6, LAYOUT.units)
    target = torch.stack([(out[..., 2] > 0).long(), out[..., 3:6].argmax(-1), out[..., 6:8].argmax(-1)], -1)
    assert _nll(out, _cells(out, target)).abs().max() == 0.0


def test_a_missing_cell_costs_nothing_and_pulls_at_nothing() -> None:
    out, cells = _random(2, 5, LAYOUT.units).requires_grad_(), _some_cells()
    seen = torch.tensor([False, True, False, True, False]).expand(5, 5)
    missing = Cells(units=cells.units, target=cells.target, observed=seen)
    loss = _nll(out, missing, full=True)
    assert loss[..., [0, 2, 4]].abs().max() == 0.0
    torch.testing.assert_close(_nll(out, missing)[..., [1, 3]], _nll(out, cells)[..., [1, 3]])
    (gradient,) = torch.autograd.grad(loss.sum(), out)
    assert gradient[..., [0, 2, 6, 7]].abs().max() == 0.0
    assert gradient[..., 1].abs().min() > 0.0


# The loss


def test_the_loss_of_levels_is_the_full_negative_log_likelihood() -> None:
    out, cells = _random(2, 5, LAYOUT.units), _some_cells()
    full = _nll(out, cells, full=True)[..., 2:]
    expected = [
        -_log(Bernoulli(logits=out[..., 2]), cells.target[..., 0].to(torch.float64)),
        -_log(Categorical(logits=out[..., 3:6]), cells.target[..., 1]),
        -_log(Categorical(logits=out[..., 6:8]), cells.target[..., 2]),
    ]
    torch.testing.assert_close(full, torch.stack(expected, -1), rtol=1e-12, atol=1e-12)


def test_the_training_loss_is_the_negative_elbo_of_one_sample() -> None:
    vae = _vae(2).double()
    cells, noisy, noise = _some_cells(), _random(2, 5, LAYOUT.units, seed=3), _random(2, 5, 3, seed=4)
    mu, logvar = vae.encode(noisy)
    q = Independent(Normal(mu, (0.5 * logvar).exp()), 1)
    out = vae.decode(q.base_dist.mean + q.base_dist.stddev * noise)
    numbers = Normal(out[..., :2], SIGMA)
    peak = _log(numbers, out[..., :2])
    levels = _nll(out, cells, full=True)[..., 2:]
    reconstruction, kl = training_loss(vae, cells, noisy, noise, unseen=UNSEEN)
    expected = (peak - _log(numbers, cells.units[..., :2])).sum(-1) + levels.sum(-1)
    torch.testing.assert_close(reconstruction, expected, rtol=1e-9, atol=1e-9)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    torch.testing.assert_close(kl, kl_divergence(q, prior), rtol=1e-9, atol=1e-9)


# The networks


def _vae(nets: int, seed: int = 0) -> Vae:
    return Vae(nets, LAYOUT, MODEL, torch.Generator().manual_seed(seed))


def test_a_network_reads_and_writes_nothing_of_the_others() -> None:
    vae, units = _vae(3), _random(3, 5, LAYOUT.units).float()
    other = units.clone()
    other[1:] = 9.0
    (mu, logvar), (mu_2, logvar_2) = vae.encode(units), vae.encode(other)
    assert torch.equal(mu[0], mu_2[0])
    assert torch.equal(logvar[0], logvar_2[0])
    vae.decode(mu)[0].sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad[1:].abs().max() == 0.0 for p in vae.parameters())


def test_a_row_is_encoded_alike_whatever_the_other_rows_say() -> None:
    vae, units = _vae(2), _random(2, 16, LAYOUT.units).float()
    other = units.clone()
    other[:, 1:] *= -3.0
    assert torch.equal(vae.encode(units)[0][:, 0], vae.encode(other)[0][:, 0])


@torch.no_grad()
def test_log_variances_stay_in_range() -> None:
    _, logvar = _vae(1).encode(1e6 * _random(1, 50, LAYOUT.units).float())
    assert (float(logvar.min()), float(logvar.max())) == (LOGVAR_MIN, LOGVAR_MAX)


def test_the_same_seed_starts_the_same_networks_and_another_seed_others() -> None:
    first, second, third = (_vae(2, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_the_latent_width_is_configured_or_that_of_the_units_up_to_64() -> None:
    free = ModelConfig(hidden=(4,), latent=None)
    sizes = [Vae(1, Layout(numeric=n, booleans=0, levels=()), free, None).latent for n in (1, 5, 500)]
    assert [_vae(1).latent, *sizes] == [3, 2, 5, 64]


# Where things stand


def test_layout_counts_units_and_cells() -> None:
    window = Layout(numeric=2, booleans=1, levels=(3, 2), window=2)
    assert (LAYOUT.units, LAYOUT.cells, window.units, window.cells) == (8, 5, 16, 10)
    assert LAYOUT.slices() == (slice(0, 2), slice(2, 3), (slice(3, 6), slice(6, 8)))
    assert window.slices() == (slice(0, 4), slice(4, 6), (slice(6, 9), slice(9, 11), slice(11, 14), slice(14, 16)))


def test_expected_units_are_means_and_probabilities() -> None:
    out = _random(1, 4, LAYOUT.units)
    units = expected_units(LAYOUT, out)
    torch.testing.assert_close(units[..., :2], out[..., :2])
    torch.testing.assert_close(units[..., 2], Bernoulli(logits=out[..., 2]).probs)
    torch.testing.assert_close(units[..., 3:6], Categorical(logits=out[..., 3:6]).probs)
    torch.testing.assert_close(units[..., 6:8], Categorical(logits=out[..., 6:8]).probs)


def test_cells_add_up_over_the_steps_of_a_window() -> None:
    layout = Layout(numeric=2, booleans=1, levels=(3, 2), window=2)
    # Numbers of step 0 and 1, booleans of step 0 and 1, categories of step 0 and 1.
    cells = torch.tensor([1.0, 2.0, 10.0, 20.0, 3.0, 30.0, 4.0, 5.0, 40.0, 50.0])
    assert by_column(layout, cells).tolist() == [11.0, 22.0, 33.0, 44.0, 55.0]


@pytest.mark.parametrize("layout", [Layout(numeric=3, booleans=0, levels=()), Layout(numeric=0, booleans=0, levels=(3,))])
def test_tables_of_one_kind_have_cells_of_one_kind(layout: Layout) -> None:
    out = _random(2, 4, layout.units)
    target = torch.zeros(2, 4, len(layout.levels), dtype=torch.int64)
    cells = Cells(units=out, target=target, observed=torch.ones(4, layout.cells, dtype=torch.bool))
    assert cell_nll(layout, out, cells, sigma=SIGMA, unseen=UNSEEN).shape == (2, 4, layout.cells)


@pytest.mark.parametrize("rows", [12, 400], ids=["fewer rows than units", "more rows than units"])
def test_a_linear_start_is_the_optimum_of_a_linear_vae(rows: int) -> None:
    """With the hidden layers silent the ELBO on the rows is that of probabilistic PCA, and no small step improves it."""
    generator = torch.Generator().manual_seed(1)
    units = torch.randn(rows, 3, generator=generator) @ torch.randn(3, 20, generator=generator) + 2.0
    units += 0.05 * torch.randn(rows, 20, generator=generator)
    layout = Layout(numeric=20, booleans=0, levels=())
    vae = Vae(1, layout, ModelConfig(latent=5, sigma=0.1), generator)
    init_linear(vae, 0, units, torch.zeros(0))
    for body in (vae.encoder, vae.decoder):
        body.out.weight.data.zero_()

    def negative_elbo() -> Tensor:
        mu, logvar = vae.encode(units.unsqueeze(0))
        # E‖x − W z‖² in closed form: the decoder is linear here.
        spread = (vae.decoder.skip.weight[0].square().sum(1) * logvar.exp()).sum(-1)  # type: ignore[union-attr]
        square = (vae.decode(mu) - units).square().sum(-1) + spread
        return (square / (2 * 0.1**2) + gaussian_kl(mu, logvar)).mean()

    x = units.double() - units.double().mean(0)
    variance = torch.linalg.svdvals(x).square() / rows
    kept = variance[:5][variance[:5] > 0.01]
    # −log p of PPCA with noise 0.01, less the constant log-normaliser of the Gaussian noise.
    dropped = variance.sum() - kept.sum()
    expected = 0.5 * (kept / 0.01).log().sum() + 0.5 * len(kept) + 0.5 * dropped / 0.01
    assert float(negative_elbo().detach()) == pytest.approx(float(expected), rel=2e-3)
    gradients = torch.autograd.grad(negative_elbo(), [vae.encoder.skip.weight, vae.decoder.skip.weight])  # type: ignore[union-attr]
    assert max(float(g.abs().max()) for g in gradients) < 0.05 * float(expected)


def test_a_linear_start_gives_categories_their_frequencies() -> None:
    layout = Layout(numeric=0, booleans=1, levels=(3,))
    vae = Vae(1, layout, ModelConfig(latent=2), torch.Generator().manual_seed(0))
    frequency = torch.tensor([0.25, 0.5, 0.3, 0.2])
    init_linear(vae, 0, torch.zeros(30, 4), frequency)
    vae.decoder.out.weight.data.zero_()
    torch.testing.assert_close(expected_units(layout, vae.decode(torch.zeros(1, 1, 2)))[0, 0], frequency)


def test_a_network_without_linear_paths_starts_at_random() -> None:
    layout = Layout(numeric=4, booleans=0, levels=())
    vae = Vae(1, layout, ModelConfig(linear_skip=False), torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    init_linear(vae, 0, torch.randn(9, 4), torch.zeros(0))
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize("levels", [(3,) * 37, (2, 5, 2, 5) * 20, (9,) * 40])
def test_many_categories_cost_what_each_of_them_costs(levels: tuple[int, ...]) -> None:
    """Many columns of few levels take another way through the softmax, and fill it up to whole vectors."""
    layout = Layout(numeric=1, booleans=1, levels=levels)
    out = _random(2, 5, layout.units).requires_grad_()
    codes = [torch.arange(10).reshape(2, 5) % (count + 1) for count in (2, *levels)]
    cells = Cells(units=_random(2, 5, layout.units), target=torch.stack(codes, -1), observed=torch.ones(5, layout.cells, dtype=torch.bool))
    wide = cell_nll(layout, out, cells, sigma=SIGMA, unseen=UNSEEN, full=True)
    (gradient,) = torch.autograd.grad(wide.sum(), out)
    for j, units in enumerate(layout.slices()[2]):
        alone = Cells(units=out[..., units].detach(), target=codes[j + 1].unsqueeze(-1), observed=torch.ones(5, 1, dtype=torch.bool))
        logits = out.detach()[..., units].requires_grad_()
        cost = cell_nll(Layout(numeric=0, booleans=0, levels=(levels[j],)), logits, alone, sigma=SIGMA, unseen=UNSEEN, full=True)
        torch.testing.assert_close(wide[..., 2 + j].detach(), cost[..., 0].detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient[..., units], torch.autograd.grad(cost.sum(), logits)[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(expected_units(layout, out)[..., units], torch.softmax(out[..., units], -1), rtol=1e-12, atol=1e-12)
