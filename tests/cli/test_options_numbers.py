import pytest
import typer

from vae_anomaly.cli.options import number


@pytest.mark.parametrize(("text", "value"), [("0.05", 0.05), (" 20 ", 20.0), ("1e-3", 0.001)])
def test_numbers(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,05", "'0,05' is no number; write it with a point: 0.05"),
        ("1,5e1", "'1,5e1' is no number; write it with a point: 15"),
        ("5 %", "'5 %' is no number; expected one such as 0.05"),
        ("1,000,5", "'1,000,5' is no number; expected one such as 0.05"),
        ("", "'' is no number; expected one such as 0.05"),
    ],
)
def test_what_is_no_number(text: str, said: str) -> None:
    with pytest.raises(typer.BadParameter) as error:
        number(text)
    assert error.value.message == said
