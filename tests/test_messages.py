"""Texts of messages: cut, quoted, listed, suggested, on one line."""

import pytest

from vae_anomaly.messages import (
    ERROR_LENGTH,
    NAMES_SHOWN,
    QUOTED_LENGTH,
    about_seconds,
    absent_text,
    did_you_mean,
    ignore_progress,
    listed,
    nearest,
    one_line,
    percent,
    quote,
    shorten,
    shorten_list,
)


@pytest.mark.parametrize("length", [1, 2, 59, 60, 61, 1000])
def test_a_cut_text_has_the_length_asked_for_and_ends_with_an_ellipsis(length: int) -> None:
    text = "x" * 60
    cut = shorten(text, length)
    assert cut == (text if length >= 60 else text[: length - 1] + "…")
    assert len(cut) == min(60, length)


def test_a_quoted_cell_is_on_one_line_and_cut() -> None:
    assert quote("two\nlines\t'") == '"two\\nlines\\t\'"'
    assert quote("x" * QUOTED_LENGTH) == "'" + "x" * QUOTED_LENGTH + "'"
    assert quote("x" * (QUOTED_LENGTH + 1)) == "'" + "x" * (QUOTED_LENGTH - 1) + "…'"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, ""),
        (1, "0"),
        (NAMES_SHOWN, "0; 1; 2; 3; 4; 5; 6; 7; 8; 9"),
        (NAMES_SHOWN + 1, "0; 1; 2; 3; 4; 5; 6; 7; 8; 9 and 1 more"),
        (NAMES_SHOWN + 12_345, "0; 1; 2; 3; 4; 5; 6; 7; 8; 9 and 12,345 more"),
    ],
)
def test_a_list_shows_its_first_items_and_the_number_of_the_others(count: int, text: str) -> None:
    assert shorten_list((str(i) for i in range(count)), "; ") == text


def test_names_are_quoted_and_the_list_is_cut() -> None:
    assert listed(["a b", "c"]) == "'a b', 'c'"
    assert listed(str(i) for i in range(11)).endswith("'9' and 1 more")


@pytest.mark.parametrize(
    ("name", "names", "meant"),
    [
        ("Flow", ["flow", "FLOW"], "flow"),  # the first of those that differ in case only
        ("temp", ["timestamp", "temperature"], "temperature"),  # a prefix before letters in common
        ("temperature_c", ["temperature", "temp"], "temperature"),  # of two prefixes the nearer in length
        ("tem", ["timestamp", "temperature"], "temperature"),  # the shortest prefix that counts
        ("ab", ["abcdefgh"], None),  # too short a prefix, too different a spelling
        ("presure", ["flow", "pressure"], "pressure"),
        ("x", [], None),
    ],
)
def test_the_nearest_name(name: str, names: list[str], meant: str | None) -> None:
    assert nearest(name, names) == meant
    assert did_you_mean(name, names) == (f"'{name}'" if meant is None else f"'{name}' (did you mean '{meant}'?)")


def test_absent_columns_come_with_suggestions_and_the_columns_that_exist() -> None:
    text = absent_text(["temp"], ["temperature", "flow"])
    assert text == "'temp' (did you mean 'temperature'?). Available columns: 'temperature', 'flow'."
    assert absent_text(["temp"], []) == "'temp'. It has no columns."
    assert absent_text([f"x{i}" for i in range(12)], ["flow"]).split(". ")[0].endswith("'x9' and 2 more")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\n  second\tthird."), "first second third"),
        ("x" * (ERROR_LENGTH + 1), "x" * (ERROR_LENGTH - 1) + "…"),
        (OSError("no s3://key:geheim@bucket/x"), "no s3://key:***@bucket/x"),
        ("", ""),
    ],
)
def test_an_error_on_one_line(error: object, line: str) -> None:
    assert one_line(error) == line


def test_a_secret_is_removed_before_the_text_is_cut() -> None:
    text = "x" * (ERROR_LENGTH - 20) + " s3://key:" + "s" * 40 + "@bucket"
    assert "sss" not in one_line(text)


@pytest.mark.parametrize(("share", "text"), [(0.0, "0 %"), (1.0, "100 %"), (0.0995, "9.95 %"), (1 / 3, "33.3 %"), (1e-5, "0.001 %")])
def test_per_cent_has_three_significant_digits(share: float, text: str) -> None:
    assert percent(share) == text


def test_progress_can_be_ignored() -> None:
    ignore_progress("reading", 1, None)


def test_percent_has_three_digits() -> None:
    assert [percent(x) for x in (0.5, 0.000123456, 1.0)] == ["50 %", "0.0123 %", "100 %"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 seconds"),
        (61, "61 seconds"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (7100, "118 minutes"),
        (7200, "2 hours"),
        (200_000, "2 days"),
    ],
)
def test_a_duration_is_told_in_the_largest_unit_that_it_holds_twice(seconds: float, text: str) -> None:
    assert about_seconds(seconds) == text
