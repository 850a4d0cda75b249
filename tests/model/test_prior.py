import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from vae_anomaly.model.prior import Exemplars, adapt_bandwidths, equal_log_weights, exemplar_costs, kl_to_prior, prior_product
from vae_anomaly.model.vae import gaussian_kl

LATENT = 6


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _posteriors(nets: int, rows: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Means and log-variances like those of a trained encoder: deviations between 0.1 and 1."""
    uniform = torch.rand(nets, rows, LATENT, generator=torch.Generator().manual_seed(seed + 1))
    return spread * _normal(nets, rows, LATENT, seed=seed), -4.6 * uniform


def _exemplars(nets: int, count: int, seed: int = 0) -> Exemplars:
    mu, logvar = _posteriors(nets, count, seed)
    return Exemplars(mu=mu, logvar=logvar, log_weight=equal_log_weights(torch.full((nets,), count), count))


def _pairwise(mu: Tensor, logvar: Tensor, e: Exemplars) -> Tensor:
    """KL of every row to every exemplar in float64, straight from its definition, ``[g, rows, n]``."""
    mu, logvar, e_mu, e_logvar = (x.double() for x in (mu, logvar, e.mu, e.logvar))
    square = (mu.unsqueeze(2) - e_mu.unsqueeze(1)).square() / e_logvar.exp().unsqueeze(1)
    ratio = logvar.unsqueeze(2) - e_logvar.unsqueeze(1)
    return 0.5 * (square + ratio.exp() - 1.0 - ratio).sum(-1)


def _reference(mu: Tensor, logvar: Tensor, e: Exemplars) -> Tensor:
    return -torch.logsumexp(e.log_weight.double().unsqueeze(1) - _pairwise(mu, logvar, e), dim=-1)


def test_one_standard_exemplar_is_the_gaussian_kl_to_the_standard_normal() -> None:
    zero = torch.zeros(2, 1, LATENT)
    standard = Exemplars(mu=zero, logvar=zero, log_weight=equal_log_weights(torch.tensor([1, 1]), 1))
    mu, logvar = _posteriors(2, 50, seed=3)
    torch.testing.assert_close(kl_to_prior(mu, logvar, prior_product(standard)), gaussian_kl(mu, logvar), rtol=1e-5, atol=1e-5)


def test_one_exemplar_is_the_gaussian_kl_of_torch() -> None:
    one, (mu, logvar) = _exemplars(2, 1), _posteriors(2, 50, seed=3)
    q, p = Normal(mu.double(), (0.5 * logvar.double()).exp()), Normal(one.mu.double(), (0.5 * one.logvar.double()).exp())
    expected = torch.distributions.kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(kl_to_prior(mu, logvar, prior_product(one)).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spread", [0.3, 1.0, 10.0])
def test_it_is_the_bound_in_float64_within_a_hundred_thousandth(spread: float) -> None:
    e, (mu, logvar) = _exemplars(2, 64), _posteriors(2, 200, seed=5, spread=spread)
    mu[:, :64] = e.mu + 0.01 * mu[:, :64]  # some rows lie beside an exemplar
    expected = _reference(mu, logvar, e)
    error = (kl_to_prior(mu, logvar, prior_product(e)).double() - expected).abs() / expected.abs().clamp_min(1.0)
    assert float(error.max()) < 1e-5


def test_it_is_not_below_the_kl_to_the_mixture_measured_with_a_million_samples() -> None:
    e, (mu, logvar) = _exemplars(1, 5), _posteriors(1, 1, seed=9)
    mixture: Distribution = MixtureSameFamily(
        Categorical(logits=e.log_weight[0]), Independent(Normal(e.mu[0], (0.5 * e.logvar[0]).exp()), 1)
    )
    q: Distribution = Independent(Normal(mu[0, 0], (0.5 * logvar[0, 0]).exp()), 1)
    samples = q.mean + q.stddev * _normal(1_000_000, LATENT, seed=11)
    gap = (q.log_prob(samples) - mixture.log_prob(samples)).double()
    measured, deviation = float(gap.mean()), float(gap.std()) / 1000.0
    bound = float(kl_to_prior(mu, logvar, prior_product(e)))
    assert bound >= measured - 4.0 * deviation
    # And it is no idle bound: not above what the best exemplar alone would give.
    assert bound <= float((_pairwise(mu, logvar, e) - e.log_weight.unsqueeze(1)).min()) + 1e-4


@pytest.mark.parametrize("count", [1, 2, 64])
def test_it_is_never_negative(count: int) -> None:
    e, (mu, logvar) = _exemplars(2, count), _posteriors(2, 500, seed=5, spread=0.3)
    assert float(kl_to_prior(mu, logvar, prior_product(e)).min()) >= 0.0


def test_a_row_that_is_the_only_exemplar_costs_nothing_and_one_of_two_far_ones_log_two() -> None:
    mu, logvar = torch.zeros(1, 2, LATENT), torch.full((1, 2, LATENT), -4.0)
    mu[:, 1] = 9.0
    one = Exemplars(mu=mu[:, :1], logvar=logvar[:, :1], log_weight=equal_log_weights(torch.tensor([1]), 1))
    two = Exemplars(mu=mu, logvar=logvar, log_weight=equal_log_weights(torch.tensor([2]), 2))
    assert float(kl_to_prior(mu[:, :1], logvar[:, :1], prior_product(one))) == pytest.approx(0.0, abs=1e-5)
    assert kl_to_prior(mu, logvar, prior_product(two))[0].tolist() == pytest.approx([math.log(2)] * 2, abs=1e-3)


def test_leaving_itself_out_is_dropping_the_exemplar() -> None:
    count = 8
    e = _exemplars(2, count)
    left_out = kl_to_prior(e.mu, e.logvar, prior_product(e), torch.arange(count).expand(2, count))
    for i in range(count):
        others = torch.tensor([j for j in range(count) if j != i])
        rest = Exemplars(mu=e.mu[:, others], logvar=e.logvar[:, others], log_weight=equal_log_weights(torch.tensor([7, 7]), 7))
        alone = kl_to_prior(e.mu[:, i : i + 1], e.logvar[:, i : i + 1], prior_product(rest))
        torch.testing.assert_close(left_out[:, i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_a_row_that_is_no_exemplar_leaves_nothing_out() -> None:
    e, (mu, logvar) = _exemplars(1, 8), _posteriors(1, 8, seed=5)
    own = torch.tensor([[-1, 3, -1, -1, -1, -1, -1, -1]])
    with_own, without = (kl_to_prior(mu, logvar, prior_product(e), o) for o in (own, None))
    changed = (with_own != without).flatten().tolist()
    assert changed == [False, True, *[False] * 6]


def test_padding_is_no_exemplar() -> None:
    few, width = _exemplars(1, 5), 9
    wide = Exemplars(
        mu=torch.cat([few.mu, few.mu[:, :4]], 1),
        logvar=torch.cat([few.logvar, few.logvar[:, :4]], 1),
        log_weight=equal_log_weights(torch.tensor([5]), width),
    )
    mu, logvar = _posteriors(1, 50, seed=5)
    own = torch.arange(5).expand(1, 5)
    torch.testing.assert_close(kl_to_prior(mu, logvar, prior_product(wide)), kl_to_prior(mu, logvar, prior_product(few)))
    torch.testing.assert_close(
        kl_to_prior(few.mu, few.logvar, prior_product(wide), own), kl_to_prior(few.mu, few.logvar, prior_product(few), own)
    )


def test_costs_are_the_kl_to_each_exemplar_and_its_weight() -> None:
    e, (mu, logvar) = _exemplars(2, 7), _posteriors(2, 20, seed=5)
    expected = _pairwise(mu, logvar, e) - e.log_weight.double().unsqueeze(1)
    torch.testing.assert_close(exemplar_costs(mu, logvar, prior_product(e))[..., :7].double(), expected, rtol=1e-5, atol=1e-4)


def test_weights_share_one_among_the_exemplars_of_each_network() -> None:
    weights = equal_log_weights(torch.tensor([2, 4]), 4).exp()
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25] * 4]))


def test_networks_do_not_share_exemplars() -> None:
    e, (mu, logvar) = _exemplars(2, 16), _posteriors(2, 20, seed=5)
    both = kl_to_prior(mu, logvar, prior_product(e))
    alone = kl_to_prior(mu[1:], logvar[1:], prior_product(e.nets(torch.tensor([1]))))
    torch.testing.assert_close(both[1:], alone, rtol=1e-6, atol=1e-6)


def test_exemplars_are_widened_where_their_neighbours_are_far() -> None:
    """Against the formula in numpy, one exemplar and the padding left alone."""
    generator = torch.Generator().manual_seed(3)
    mu, logvar = torch.randn(2, 9, 3, generator=generator), torch.randn(2, 9, 3, generator=generator) * 0.3
    counts = torch.tensor([9, 6])
    given = Exemplars(mu=mu, logvar=logvar, log_weight=equal_log_weights(counts, 9))
    made = adapt_bandwidths(given)
    for g, count in enumerate(counts.tolist()):
        m, v = mu[g, :count].double().numpy(), logvar[g, :count].double().exp().numpy()
        kl = 0.5 * ((m[:, None] - m) ** 2 / v + v[:, None] / v - 1 - np.log(v[:, None] / v)).sum(-1)
        np.fill_diagonal(kl, np.inf)
        near = np.sqrt(2 * np.sort(kl, axis=1)[:, :5]).mean(1)
        near = near + 0.03 * np.sort(near)[(count - 1) // 2]
        grown = 0.6 * np.log(near / np.sort(near)[(count - 1) // 2])
        np.testing.assert_allclose((made.logvar - logvar)[g, :count].numpy(), grown[:, None].repeat(3, 1), atol=1e-4)
        assert torch.equal(made.logvar[g, count:], logvar[g, count:])
    assert torch.equal(made.mu, mu)
    one = Exemplars(mu=mu[:, :1], logvar=logvar[:, :1], log_weight=torch.zeros(2, 1))
    assert torch.equal(adapt_bandwidths(one).logvar, one.logvar)


def _grouped(mu: Tensor, logvar: Tensor, e: Exemplars, groups: int, own: Tensor | None = None) -> Tensor:
    """The mean over groups of the least KL to a used exemplar in float64, exemplar e in group e mod ``groups``."""
    cost = _pairwise(mu, logvar, e).masked_fill(torch.isinf(e.log_weight).unsqueeze(1), torch.inf)
    if own is not None:
        cost.scatter_(-1, own.unsqueeze(-1), torch.inf)
    return torch.stack([cost[..., b::groups].amin(-1) for b in range(groups)]).mean(0)


@pytest.mark.parametrize(("count", "groups"), [(64, 10), (64, 1), (21, 10), (7, 3), (40, 8)])
def test_with_groups_it_is_the_mean_of_the_least_kls(count: int, groups: int) -> None:
    e, (mu, logvar) = _exemplars(2, count), _posteriors(2, 200, seed=5)
    product = prior_product(e, torch.tensor([groups, groups]))
    torch.testing.assert_close(kl_to_prior(mu, logvar, product).double(), _grouped(mu, logvar, e, groups), rtol=1e-5, atol=1e-4)
    own = torch.arange(count).expand(2, count)
    left_out = kl_to_prior(e.mu, e.logvar, product, own).double()
    torch.testing.assert_close(left_out, _grouped(e.mu, e.logvar, e, groups, own), rtol=1e-5, atol=1e-4)


def test_networks_with_and_without_groups_are_as_each_alone() -> None:
    e, (mu, logvar) = _exemplars(3, 50), _posteriors(3, 40, seed=5)
    mixed = kl_to_prior(mu, logvar, prior_product(e, torch.tensor([0, 8, 0])))
    torch.testing.assert_close(mixed[[0, 2]].double(), _reference(mu, logvar, e)[[0, 2]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed[1].double(), _grouped(mu, logvar, e, 8)[1], rtol=1e-5, atol=1e-4)
    own = torch.arange(40).expand(3, 40)
    left_out = kl_to_prior(mu, logvar, prior_product(e, torch.tensor([0, 8, 0])), own)
    torch.testing.assert_close(left_out[::2], kl_to_prior(mu, logvar, prior_product(e), own)[::2], rtol=1e-5, atol=1e-5)


def test_padding_is_in_no_group() -> None:
    few = _exemplars(1, 20)
    filler, (mu, logvar) = _exemplars(1, 6, seed=9), _posteriors(1, 50, seed=5)
    wide = Exemplars(
        mu=torch.cat([few.mu, filler.mu], 1),
        logvar=torch.cat([few.logvar, filler.logvar], 1),
        log_weight=equal_log_weights(torch.tensor([20]), 26),
    )
    got, expected = (kl_to_prior(mu, logvar, prior_product(e, torch.tensor([4]))) for e in (wide, few))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-5)


def test_the_mean_over_groups_is_not_below_the_kl_to_the_mixture_of_their_nearest_exemplars() -> None:
    """Measured with a million samples: Jensen's inequality."""
    e, (mu, logvar) = _exemplars(1, 12), _posteriors(1, 1, seed=9)
    cost = _pairwise(mu, logvar, e)[0, 0]
    nearest = torch.tensor([b + 3 * int(cost[b::3].argmin()) for b in range(3)])
    mixture: Distribution = MixtureSameFamily(
        Categorical(probs=torch.ones(3)), Independent(Normal(e.mu[0, nearest], (0.5 * e.logvar[0, nearest]).exp()), 1)
    )
    q: Distribution = Independent(Normal(mu[0, 0], (0.5 * logvar[0, 0]).exp()), 1)
    samples = q.mean + q.stddev * _normal(1_000_000, LATENT, seed=11)
    gap = (q.log_prob(samples) - mixture.log_prob(samples)).double()
    bound = float(kl_to_prior(mu, logvar, prior_product(e, torch.tensor([3]))))
    assert bound >= float(gap.mean()) - 4.0 * float(gap.std()) / 1000.0
