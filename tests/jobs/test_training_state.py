"""States come back as they were, and nothing else is taken for one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from vae_anomaly.fitting.robust import TrimmedRows
from vae_anomaly.jobs import training_state
from vae_anomaly.model.minibatches import SamplerState
from vae_anomaly.model.training import CurvePoint, TrainingState

BLOCK = CurvePoint(step=3, train_loss=0.1 + 0.2, val_reconstruction=1 / 3, val_kl=float("inf"), active_units=2.5)


def training(rest: int = 2) -> TrainingState:
    generator = torch.Generator().manual_seed(5)
    return TrainingState(
        step=4,
        weights=torch.randn(2, 7, generator=generator),
        first=torch.randn(2, 7, generator=generator).t().contiguous().t(),
        second=torch.rand(2, 7, generator=generator),
        generator=generator.get_state(),
        sampler=SamplerState(rest=torch.arange(2 * rest).reshape(2, rest), drawn_at=torch.Generator().manual_seed(6).get_state(), next=3),
        blocks=(BLOCK, BLOCK),
        loss_sum=1e-300,
    )


@pytest.mark.parametrize("rest", [0, 2])
def test_a_training_comes_back_bit_for_bit(tmp_path: Path, rest: int) -> None:
    before = training(rest)
    training_state.write_training(tmp_path / "train.safetensors", before)
    after = training_state.read_training(tmp_path / "train.safetensors")
    assert (after.step, after.blocks, after.loss_sum, after.sampler.next) == (
        before.step,
        before.blocks,
        before.loss_sum,
        before.sampler.next,
    )
    for name in ("weights", "first", "second", "generator"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert torch.equal(after.sampler.rest, before.sampler.rest)
    assert torch.equal(after.sampler.drawn_at, before.sampler.drawn_at)
    assert after.sampler.rest.dtype == torch.int64
    assert [path.name for path in tmp_path.iterdir()] == ["train.safetensors"]


def test_doubts_come_back(tmp_path: Path) -> None:
    excluded, not_exemplar = np.arange(9) < 2, np.arange(9) == 5
    training_state.write_trimmed_rows(tmp_path / "doubts.safetensors", TrimmedRows(excluded=excluded, not_exemplar=not_exemplar))
    found = training_state.read_trimmed_rows(tmp_path / "doubts.safetensors")
    assert (found.excluded.tolist(), found.not_exemplar.tolist()) == (excluded.tolist(), not_exemplar.tolist())
    assert found.not_exemplar.dtype == np.bool_


def test_what_is_damaged_or_no_state_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "train.safetensors"
    training_state.write_training(path, training())
    whole = path.read_bytes()
    tensors = load(whole)
    forged = save({**tensors, "weights": tensors["weights"] + 1}, metadata={"about": json.dumps({}), "sha256": "0" * 64})
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    step = whole.replace(b'\\"step\\": 4', b'\\"step\\": 5')
    assert step != whole
    for content in (b"", b"{}", whole[:100], whole[:-1], whole + b"x", flipped, forged, step, save({"x": torch.zeros(1)})):
        path.write_bytes(content)
        with pytest.raises(training_state.DAMAGE):
            training_state.read_training(path)
