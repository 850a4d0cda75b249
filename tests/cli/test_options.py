import pytest

from vae_anomaly.cli import options
from vae_anomaly.config import DEFAULT_MODEL, TrackingConfig
from vae_anomaly.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("a", ("a",)),
        ("a, b", ("a", "b")),
        ('"a,b",c', ("a,b", "c")),
        ('a, "b,c"', ("a", "b,c")),
        ("?,Bad", ("?", "Bad")),
        ("", ()),
        ("a,", ("a", "")),
        ("b,a,b", ("b", "a")),
    ],
)
def test_names_are_a_line_of_csv(text: str | None, expected: tuple[str, ...] | None) -> None:
    assert options.names(text) == expected


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a,b\r\nc"])
def test_names_on_two_lines_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        options.names(text)
    assert str(error.value) == (
        f"names are separated by commas and stand on one line; got {text!r}. Put a name that has a line end in double quotes."
    )
    assert options.names('"a\nb",c') == ("a\nb", "c")


@pytest.mark.parametrize(("text", "expected"), [("5", 5), ("all", None), (" ALL ", None), ("1", 1)])
def test_top(text: str, expected: int | None) -> None:
    assert options.top_columns(text) == expected


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "some", "²"])
def test_top_of_something_else(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        options.top_columns(text)
    assert str(error.value) == f"--top must be a whole number from 1 or 'all'; got {text!r}"


def test_the_model_that_is_taken_is_the_one_that_is_registered() -> None:
    assert f"models:/{TrackingConfig().model_name}@{TrackingConfig().alias}" == DEFAULT_MODEL
