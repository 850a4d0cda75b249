import pytest
import typer

from vae_anomaly.cli.options import number, parse_size, row_numbers
from vae_anomaly.errors import ConfigError

MB = 10**6


@pytest.mark.parametrize(("text", "value"), [("0.05", 0.05), (" 20 ", 20.0), ("1e-3", 0.001)])
def test_numbers(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,05", "'0,05' is not a number; use a decimal point: 0.05"),
        ("1,5e1", "'1,5e1' is not a number; use a decimal point: 15"),
        ("5 %", "'5 %' is not a number; expected one such as 0.05"),
        ("1,000,5", "'1,000,5' is not a number; expected one such as 0.05"),
        ("", "'' is not a number; expected one such as 0.05"),
    ],
)
def test_what_is_no_number(text: str, said: str) -> None:
    with pytest.raises(typer.BadParameter) as error:
        number(text)
    assert error.value.message == said


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500 * MB),
        ("1.5GB", 1_500 * MB),
        ("2GiB", 2**31),
        ("2gib", 2**31),
        (" 64 kB ", 64_000),
        ("1T", 10**12),
        (".5k", 500),
        ("1500000000", 1_500 * MB),
        ("500B", 500),
    ],
)
def test_a_size_is_parsed(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "1.5.5GB", "1GX", "GB", "1 G B"])
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_size(text)
    assert str(error.value) == f"--memory-limit must be a size such as 500MB, 1.5GB or 2GiB; got {text!r}"


@pytest.mark.parametrize("text", ["1.5", "500", " 2 ", ".5"])
def test_a_small_number_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_size(text)
    number = text.strip()
    assert str(error.value) == f"--memory-limit {number} has no unit, and as bytes it is too small; write {number}MB or {number}GB."


def test_row_numbers_are_unique_and_in_the_order_given() -> None:
    assert row_numbers("17, 3,17") == (17, 3)
    assert row_numbers(()) == ()


@pytest.mark.parametrize("text", ["", "-1", "3;4", "1.0", "²"])
def test_texts_that_are_not_row_numbers(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        row_numbers(text)
    assert str(error.value) == f"--rows must be whole numbers from 0, separated by commas; got {text!r}"
