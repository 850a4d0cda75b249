import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from vae_anomaly.config import ModelConfig, TrainConfig
from vae_anomaly.errors import VaeAnomalyError
from vae_anomaly.model import training as training_module
from vae_anomaly.model.minibatches import Sampler
from vae_anomaly.model.scaling import Views, learn_views
from vae_anomaly.model.training import (
    CLIP_NORM,
    CURVE_POINTS,
    CurvePoint,
    History,
    OnStep,
    TrainingData,
    TrainingState,
    adamw_step,
    device_of,
    fit_weights,
    step_budget,
    trial,
)
from vae_anomaly.model.vae import Layout, Vae
from vae_anomaly.schema.encoding import Batch

ROWS = 90
LAYOUT = Layout(numeric=3, booleans=1, levels=(3,))
MODEL = ModelConfig(hidden=(8,), residual_blocks=1, linear_skip=True, latent=3, sigma=0.1)
Weights = dict[str, Tensor]


def _config(*, steps: int = 30, learning_rate: float = 5e-3) -> TrainConfig:
    return TrainConfig(steps=steps, batch_rows=16, learning_rate=learning_rate, weight_decay=1e-4, input_noise=0.02, device="cpu")


def _batch(*, holes: float = 0.1) -> Batch:
    random = torch.Generator().manual_seed(3)
    cause = torch.randn(ROWS, 1, 1, generator=random, dtype=torch.float64)
    numeric = cause + 0.1 * torch.randn(ROWS, 1, 3, generator=random, dtype=torch.float64)
    codes = torch.cat([(cause > 0).long(), 1 + cause.clamp(-1, 1).round().long()], -1)
    observed = torch.rand(ROWS, 1, 5, generator=random) >= holes
    return Batch(numeric=numeric.masked_fill(~observed[..., :3], 0.0), codes=codes.masked_fill(~observed[..., 3:], 0), observed=observed)


THIRDS = (torch.arange(0, 30), torch.arange(30, 60), torch.arange(60, 90))


def _views(rows: Sequence[Tensor]) -> Views:
    return learn_views(LAYOUT, _batch(), ["standard"] * len(rows), rows)


def _train(
    rows: Sequence[Tensor],
    *,
    batch: Batch | None = None,
    views: Views | None = None,
    settings: TrainConfig | None = None,
    seed: int = 0,
    start: TrainingState | None = None,
    on_step: OnStep = lambda *_: None,
) -> tuple[Weights, History]:
    generator = torch.Generator().manual_seed(seed)
    vae = Vae(len(rows), LAYOUT, MODEL, generator)
    history = fit_weights(
        vae,
        TrainingData(
            batch=batch or _batch(),
            views=views or _views(rows),
            rows=rows,
            validation=[THIRDS[2]] * len(rows),
            unseen=1 / (ROWS + 1),
        ),
        settings or _config(),
        generator,
        start=start,
        on_step=on_step,
    )
    return {name: tensor.clone() for name, tensor in vae.state_dict().items()}, history


def _same(first: Weights, second: Weights, net: int | slice = slice(None)) -> bool:
    return all(torch.equal(first[name][net], second[name][net]) for name in first)


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others() -> None:
    first, history = _train(THIRDS[:2])
    second, again = _train(THIRDS[:2])
    other, _ = _train(THIRDS[:2], seed=1)
    assert _same(first, second)
    assert history == again
    assert not _same(first, other)


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    _train(THIRDS[:1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_network_does_not_depend_on_the_rows_of_another() -> None:
    views = _views(THIRDS[:2])
    first, _ = _train([THIRDS[0], THIRDS[1]], views=views)
    second, _ = _train([THIRDS[0], THIRDS[2]], views=views)
    assert _same(first, second, 0)
    assert not _same(first, second, 1)


def test_a_network_does_not_depend_on_an_exploding_gradient_of_another() -> None:
    """A clip that is shared would scale all networks down when one has an outlier."""
    wild = _batch()
    wild.numeric[30:60] *= 1e3
    rows = [THIRDS[0], THIRDS[1]]
    views = _views(rows)
    calm, _ = _train(rows, views=views)
    wild_weights, _ = _train(rows, views=views, batch=wild)
    assert _same(calm, wild_weights, 0)
    assert not _same(calm, wild_weights, 1)


def test_a_gradient_is_clipped_to_its_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[list[float]] = []

    def look(_weights: Tensor, gradient: Tensor, *_more: object, **_named: object) -> None:
        norms.append(gradient.square().sum(1).sqrt().tolist())

    monkeypatch.setattr(training_module, "adamw_step", look)
    wild = _batch()
    wild.numeric[30:60] *= 1e3
    rows = [THIRDS[0], THIRDS[1]]
    _train(rows, views=_views(rows), batch=wild, settings=_config(steps=3))
    assert len(norms) == 3
    assert all(norm <= CLIP_NORM * 1.0001 for step in norms for norm in step)
    assert all(step[1] == pytest.approx(CLIP_NORM) for step in norms)


def test_a_step_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 5, generator=generator)
    ours, moments = start.clone(), (torch.zeros(2, 5), torch.zeros(2, 5))
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.03, weight_decay=0.2)
    for step in range(1, 30):
        gradient = torch.randn(2, 5, generator=generator)
        theirs.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = 0.03 / step
        optimizer.step()
        adamw_step(ours, gradient, moments, step, rate=0.03 / step, decay=0.2)
    torch.testing.assert_close(ours, theirs.detach())


def test_the_value_of_a_missing_cell_changes_no_weight() -> None:
    plain, filled = _batch(), _batch()
    filled.numeric[~filled.observed[..., :3]] = 7.0
    filled.codes[~filled.observed[..., 3:]] = 1
    assert not torch.equal(plain.numeric, filled.numeric)
    assert _same(_train(THIRDS[:2])[0], _train(THIRDS[:2], batch=filled)[0])


def test_rows_of_no_network_change_no_weight() -> None:
    other = _batch()
    other.numeric[60:] += 5.0
    assert _same(_train(THIRDS[:2])[0], _train(THIRDS[:2], batch=other)[0])


def test_the_loss_goes_down_and_the_history_says_how_it_ended() -> None:
    _, history = _train(THIRDS[:2], settings=_config(steps=100))
    losses = [block.train_loss for block in history.blocks]
    assert losses[-1] < 0.5 * losses[0]
    assert history.blocks[-1].val_reconstruction < 0.5 * history.blocks[0].val_reconstruction
    assert [block.step for block in history.blocks] == list(range(5, 101, 5))
    assert (history.steps, history.stopped) == (100, "the budget of 100 steps was used up")
    assert all(0.0 <= block.active_units <= 3.0 for block in history.blocks)
    assert all(math.isfinite(x) for block in history.blocks for x in (block.val_kl, block.train_loss))


@pytest.mark.parametrize(
    ("rows", "asked", "steps", "why"),
    [
        pytest.param(10_000, None, 200, "the budget of 200 steps was used up", id="many rows"),
        pytest.param(100, None, 60, "every row was seen 60 times", id="all rows in a step"),
        pytest.param(300, None, 141, "every row was seen 60 times", id="141 x 128 = 60 x 300"),
        pytest.param(100, 1000, 1000, "the budget of 1,000 steps was used up", id="asked for"),
    ],
)
def test_few_rows_end_the_training_before_the_budget(rows: int, asked: int | None, steps: int, why: str) -> None:
    epochs = Sampler(rows=(torch.arange(rows), torch.arange(20_000)), batch=128, generator=torch.Generator()).epochs()
    assert step_budget(TrainConfig(steps=asked), epochs) == (steps, why)


@pytest.mark.parametrize("steps", [1, 3, 20, 33])
def test_curve_points_are_even_and_the_last_is_the_last_step(steps: int) -> None:
    _, history = _train(THIRDS[:1], settings=_config(steps=steps))
    ends = [block.step for block in history.blocks]
    assert ends[-1] == steps
    assert ends == sorted(set(ends))
    assert len(ends) == min(steps, CURVE_POINTS)


def test_the_train_loss_of_a_curve_point_is_the_mean_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "adamw_step", lambda *_, **__: None)  # the weights stay as they are
    short, long = (_train(THIRDS[:1], settings=_config(steps=steps))[1] for steps in (20, 40))
    pairs: list[tuple[CurvePoint, CurvePoint]] = list(zip(short.blocks[::2], short.blocks[1::2], strict=True))
    assert [b.train_loss for b in long.blocks[:10]] == pytest.approx([(a.train_loss + b.train_loss) / 2 for a, b in pairs])


def test_steps_are_reported_one_by_one() -> None:
    seen: list[tuple[int, int]] = []
    generator = torch.Generator().manual_seed(0)
    fit_weights(
        Vae(1, LAYOUT, MODEL, generator),
        TrainingData(batch=_batch(), views=_views(THIRDS[:1]), rows=THIRDS[:1], validation=THIRDS[2:], unseen=0.01),
        _config(steps=4),
        generator,
        on_step=lambda done, total, _: seen.append((done, total)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_loss_that_is_not_finite_is_an_error_of_one_line() -> None:
    with pytest.raises(VaeAnomalyError) as caught:
        _train(THIRDS[:1], settings=_config(steps=200, learning_rate=1e30))
    assert str(caught.value) == (
        "training diverged: the loss is no longer finite. Lower train.learning_rate or look for extreme values in the data."
    )


# Going on


def test_a_training_goes_on_from_any_step_as_if_it_had_never_stopped() -> None:
    """28 steps over 30 rows, 16 at a time: slices cross the ends of epochs. Another seed would show whatever is not put back."""
    states: list[TrainingState] = []
    whole, history = _train(THIRDS[:2], settings=_config(steps=28), on_step=lambda _done, _total, training: states.append(training()))
    assert [state.step for state in states] == list(range(1, 29))
    for state in states:
        weights, again = _train(THIRDS[:2], settings=_config(steps=28), seed=9, start=state)
        assert _same(whole, weights)
        assert again == history


def test_a_state_does_not_change_with_the_training_that_goes_on() -> None:
    states: list[TrainingState] = []
    _train(THIRDS[:1], settings=_config(steps=3), on_step=lambda _done, _total, training: states.append(training()))
    first, last = states[0], states[-1]
    assert not torch.equal(first.weights, last.weights)
    assert not torch.equal(first.second, last.second)
    assert not torch.equal(first.generator, last.generator)


def test_devices_are_named_or_found() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("cuda:1") == torch.device("cuda:1")
    assert device_of("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize(("steps", "done", "left"), [(30, 0, 30), (30, 12, 18), (30, 30, 0), (5, 0, 5), (None, 0, 113)])
def test_a_trial_counts_the_steps_that_are_left_and_the_points_of_the_curve(steps: int | None, done: int, left: int) -> None:
    """A point of the curve, of 14 rows here, is a pass forward: a third of a step of 14 of its 16 rows. 60 epochs of 30 rows: 113 steps."""
    rows = [THIRDS[0], THIRDS[1]]
    vae = Vae(2, LAYOUT, MODEL, torch.Generator().manual_seed(0))
    data = TrainingData(batch=_batch(), views=_views(rows), rows=rows, validation=[THIRDS[2][:14]] * 2, unseen=0.01)
    found = trial(vae, data, TrainConfig(steps=steps, batch_rows=16), done)
    whole = left + min(left, 20) * 14 / 16 / 3
    assert found.steps == round(whole)
    weights = sum(p.numel() for p in vae.parameters())
    assert found.operations == pytest.approx(whole * 3 * 2 * 16 * weights)


def test_a_trial_leaves_the_weights_the_gradients_and_the_global_generator_alone() -> None:
    rows = list(THIRDS)
    generator = torch.Generator().manual_seed(0)
    vae = Vae(3, LAYOUT, MODEL, generator)
    data = TrainingData(batch=_batch(), views=_views(rows), rows=rows, validation=[THIRDS[2]] * 3, unseen=0.01)
    before, drawn, everywhere = {n: t.clone() for n, t in vae.state_dict().items()}, generator.get_state(), torch.get_rng_state()
    trial(vae, data, _config()).run()
    assert _same(before, vae.state_dict())
    assert all(p.grad is None for p in vae.parameters())
    assert torch.equal(generator.get_state(), drawn)
    assert torch.equal(torch.get_rng_state(), everywhere)
