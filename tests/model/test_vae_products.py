"""Products whose rounding depends neither on the place of a row nor on the number of rows; and what happens without the padding."""

from functools import partial

import pytest
import torch
from torch import Tensor

from vae_anomaly.model.vae import ROWS, row_product

NETWORKS = 2


def operands(inputs: int, width: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * inputs + width)
    left, right = torch.randn(NETWORKS, rows, inputs, generator=generator), torch.randn(NETWORKS, inputs, width, generator=generator)
    return left, right, torch.randn(NETWORKS, 1, width, generator=generator)


@pytest.mark.parametrize("inputs", [4, 10, 33])
def test_a_row_is_rounded_alike_in_every_place(inputs: int) -> None:
    with torch.no_grad():
        for width in range(2, 129):
            rows, weight, bias = operands(inputs, width, ROWS + 31)
            first = row_product(rows[:, :ROWS], weight, bias)
            for shift in range(1, 32):
                moved = row_product(rows[:, shift : shift + ROWS], weight, bias)
                assert torch.equal(moved[:, : ROWS - shift], first[:, shift:]), (inputs, width, shift)


@pytest.mark.parametrize("inputs", [4, 20, 96])
def test_a_row_is_rounded_alike_among_any_number_of_rows(inputs: int) -> None:
    with torch.no_grad():
        for width in (*range(2, 41), 64, 96, 128, 500):
            rows, weight, bias = operands(inputs, width, 16 * ROWS)
            first = row_product(rows[:, :ROWS], weight, bias)
            for count in (2, 3, 5, 16):
                assert torch.equal(row_product(rows[:, : count * ROWS], weight, bias)[:, :ROWS], first), (inputs, width, count)
            assert torch.equal(row_product(rows[:1, : 4 * ROWS], weight[:1], bias[:1])[:, :ROWS], first[:1]), (inputs, width)


@pytest.mark.parametrize("width", [1, 4, 7])
@pytest.mark.parametrize("alpha", [1.0, -2.0])
def test_the_product_is_that_of_the_formula(width: int, alpha: float) -> None:
    rows, weight, bias = operands(5, width, 20)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    exact = alpha * (rows.double() @ weight.double())
    close(row_product(rows, weight, bias, alpha=alpha).double(), exact + bias.double())
    close(row_product(rows, weight, alpha=alpha).double(), exact)
    every = bias.expand(-1, 20, -1).contiguous()
    close(row_product(rows, weight, every, alpha=alpha).double(), exact + bias.double())
