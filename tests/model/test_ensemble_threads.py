import pytest
import torch

from vae_anomaly.config import ModelConfig
from vae_anomaly.model.ensemble import single_threaded_products
from vae_anomaly.model.training import is_small
from vae_anomaly.model.vae import Layout, Vae


@pytest.mark.parametrize("wanted", [True, False])
def test_products_run_on_one_thread_where_wanted_and_as_before_afterwards(*, wanted: bool) -> None:
    before = torch.get_num_threads()

    def inside() -> None:
        with single_threaded_products(wanted=wanted):
            raise ValueError(f"{torch.get_num_threads()} inside")

    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="1 inside" if wanted else "2 inside"):
            inside()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_step_is_small_until_its_operations_are_a_billion() -> None:
    vae = Vae(3, Layout(numeric=20, booleans=0, levels=()), ModelConfig(), torch.Generator().manual_seed(0))
    weights = sum(p.numel() for p in vae.parameters())
    rows = int(1e9 / (6 * weights))
    assert is_small(vae, rows)
    assert not is_small(vae, rows + 1)
