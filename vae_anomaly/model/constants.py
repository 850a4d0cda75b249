"""When a number is still the constant that its column held in the fit, although another writer gave it other digits.

The engine sees float64 only, so the rule is a function of the two numbers. ``x`` is still the constant ``c`` if

* they differ by no more than float32 loses, 2⁻²² of ``c``; or
* ``x`` is ``c`` rounded to fewer digits than ``c`` has: at least six, as ``%.6g`` writes it, or at least three if ``c`` has eight digits
  or more, because such a number was computed and not set; or
* ``c`` is ``x`` rounded to at least six digits, and ``x`` has eight digits or more: the fit read the rounded one.

Whole numbers are never close: 20240101 is not 20240102. Neither is a number close to 0: only 0 is.
"""

import numpy as np
import torch
from torch import Tensor

# Relative difference that float32 makes, with a margin of two for one operation after the rounding.
FLOAT32 = 2.0**-22
# Relative difference at the level of rounding errors of float64 sums.
FLOAT64 = 1e-9
# Digits of a number that a person or a controller sets; more are the result of a calculation.
SET_DIGITS = 7
FEWEST_DIGITS, USUAL_DIGITS = 3, 6
# Rounding to the fewest digits changes a number by at most this share: every other number has changed.
NEAREST = 0.5 * 10.0 ** (1 - FEWEST_DIGITS)
# Whole numbers up to here are exact in float64.
EXACT = 2.0**53


def is_unchanged(values: Tensor, constant: Tensor) -> Tensor:
    """Return whether ``values`` float64 ``[..., d]`` are still the ``constant`` ``[d]``, bool ``[..., d]``.

    >>> new, constant = torch.tensor([[0.3, 0.31, 5e-9], [0.1 + 0.2, 0.3, 6e-9]], dtype=torch.float64)
    >>> is_unchanged(new, constant).tolist()
    [True, False, False]
    """
    same = values == constant
    if bool(same.all()):
        return same
    same = same | is_close(values, constant, FLOAT32)
    rest = ~same & ((values - constant).abs() <= NEAREST * constant.abs()) & ~_both_whole(values, constant)
    if bool(rest.any()):
        pairs, place = torch.unique(torch.stack([values, constant.expand_as(values)])[:, rest], dim=1, return_inverse=True)
        shown = torch.tensor([_is_rounding(value, fitted) for value, fitted in pairs.T.tolist()], dtype=torch.bool)
        same[rest] = shown[place]
    return same


def is_close(values: Tensor, constant: Tensor, share: float) -> Tensor:
    """Return whether ``values`` differ from ``constant`` by at most this share of it, and not as whole numbers."""
    return ((values - constant).abs() <= share * constant.abs()) & ~_both_whole(values, constant) | (values == constant)


def _both_whole(values: Tensor, constant: Tensor) -> Tensor:
    return (values == values.round()) & (constant == constant.round()) & (values.abs() <= EXACT) & (constant.abs() <= EXACT)


def _is_rounding(value: float, fitted: float) -> bool:
    """Whether one of the numbers is the other in fewer digits."""
    digits = significant_digits(fitted)
    if value in _roundings(fitted, USUAL_DIGITS if digits <= SET_DIGITS else FEWEST_DIGITS, digits):
        return True
    digits = significant_digits(value)
    return digits > SET_DIGITS and fitted in _roundings(value, USUAL_DIGITS, digits)


def _roundings(number: float, fewest: int, most: int) -> set[float]:
    """Return the number rounded to every count of digits from ``fewest`` to below ``most``."""
    return {float(f"{number:.{digits - 1}e}") for digits in range(fewest, most)}


def significant_digits(number: float) -> int:
    """Return the significant digits of the shortest text that is read back as this number, in float32 if it is one.

    >>> significant_digits(0.25), significant_digits(float(np.float32(0.1))), significant_digits(1 / 3), significant_digits(1500.0)
    (2, 1, 16, 2)
    """
    with np.errstate(over="ignore"):
        single = np.float32(number)
    text = str(single) if float(single) == number else repr(number)
    return len(text.lower().partition("e")[0].replace(".", "").lstrip("-0").rstrip("0"))
