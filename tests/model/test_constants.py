"""A constant stays one in every spelling of its digits, and a real change is a change however small it is."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.model.constants import is_close, is_unchanged, significant_digits

COMPUTED = st.floats(1e-12, 1e12).map(lambda x: x / 7.0).filter(lambda x: x != round(x) and significant_digits(x) > 12)


def unchanged(value: float, constant: float) -> bool:
    return bool(is_unchanged(torch.tensor([[value]], dtype=torch.float64), torch.tensor([constant], dtype=torch.float64)).all())


@pytest.mark.parametrize(
    ("value", "constant"),
    [
        (0.3, 0.1 + 0.2),
        (0.1, float(np.float32(0.1))),
        (float(np.float32(0.1)), 0.1),
        (0.333333, 1 / 3),
        (0.333, 1 / 3),
        (1 / 3, 0.333333),
        (0.123457, 0.1234567),
        (-12.346, -12.3456789),
        (float("3.14159e-05"), 3.14159265e-05),
        (float(np.float32(1013.25)), 1013.25),
        (0.12, 0.1200004999),
        (20.1, 20.099999999999998),
        (0.0, -0.0),
        (1e300 / 3, float(f"{1e300 / 3:.6g}")),
    ],
)
def test_other_digits_of_one_value_are_no_change(value: float, constant: float) -> None:
    assert unchanged(value, constant)


@pytest.mark.parametrize(
    ("value", "constant"),
    [
        (6e-9, 5e-9),
        (5e-324, 0.0),
        (1e-17, 0.0),
        (0.0, 1e-300),
        (0.1001, 0.1),
        (0.3, 0.34),
        (0.333, 0.3334),
        (20.48765432, 20.5),
        (20.5, float(np.float32(20.4876))),
        (20240102.0, 20240101.0),
        (1_700_000_001.0, 1_700_000_000.0),
        (1013.251, 1013.25),
        (-0.1, 0.1),
        (2.0, 1.0),
        (0.33, 1 / 3),
        (0.333334, 1 / 3),
        (float("1e308"), 1e-308),
    ],
)
def test_a_real_change_is_one_however_small(value: float, constant: float) -> None:
    assert not unchanged(value, constant)


@given(constant=COMPUTED, digits=st.integers(3, 12))
@settings(max_examples=100, deadline=None)
def test_a_computed_constant_is_the_same_in_any_number_of_digits(constant: float, digits: int) -> None:
    with localcontext(prec=digits, rounding=ROUND_HALF_EVEN):
        rounded = float(+Decimal(constant))
    assert unchanged(rounded, constant) or rounded == round(rounded) == round(constant)
    assert unchanged(float(np.float32(constant)), constant)
    assert unchanged(-rounded, -constant) == unchanged(rounded, constant)
    assert not unchanged(constant * 1.01, constant)


@given(constant=st.integers(-(2**52), 2**52), step=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_whole_numbers_are_equal_or_changed(constant: int, step: int) -> None:
    assert unchanged(float(constant), float(constant))
    assert unchanged(float(constant + step), float(constant)) == (float(constant + step) == float(constant))


def test_each_cell_is_compared_with_the_constant_of_its_column() -> None:
    values = torch.tensor([[[0.3, 7.0]], [[0.4, 7.0]], [[0.3, 8.0]], [[0.333, 7.0]]], dtype=torch.float64)
    constant = torch.tensor([0.1 + 0.2, 7.0], dtype=torch.float64)
    assert is_unchanged(values, constant)[:, 0].tolist() == [[True, True], [False, True], [True, False], [False, True]]
    assert is_close(values[:, 0], constant, 0.2).tolist() == [[True, True], [False, True], [True, False], [True, True]]
