import pytest

from vae_anomaly.cli import options
from vae_anomaly.config import DEFAULT_MODEL, TrackingConfig
from vae_anomaly.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ((), ()),
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
def test_names_are_a_line_of_csv(text: str | tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert options.names(text) == expected


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a,b\r\nc"])
def test_names_on_two_lines_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        options.names(text)
    assert str(error.value) == (
        f"names must be on one line, separated by commas; got {text!r}. Put a name that contains a line break in double quotes."
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


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90.0), ("10min", 600.0), ("0.5h", 1800.0), ("1d", 86400.0), ("100", 100.0), (7.5, 7.5)]
)
def test_a_duration_is_in_seconds(text: str | float, expected: float) -> None:
    assert options.duration(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "10 weeks", "5x"])
def test_a_duration_of_something_else(text: str) -> None:
    with pytest.raises(ConfigError, match="--max-gap must be a time such as 90s, 10min, 2h or 1d; got "):
        options.duration(text)
