import re
import unicodedata

import pytest

from vae_anomaly.cli import text


def test_control_format_and_surrogate_characters_are_escaped_and_others_are_not() -> None:
    """Unicode's own categories: a control character, a line or paragraph separator, a surrogate."""
    for code in [*range(0x3000), 0xD800, 0xDFFF, 0xFEFF]:
        character = chr(code)
        if unicodedata.category(character) in {"Cc", "Zl", "Zp", "Cs"} or unicodedata.bidirectional(character) in {"LRO", "RLO", "PDF"}:
            assert re.fullmatch(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|[nrt])", text.escape_controls(character)), hex(code)
        elif unicodedata.category(character)[0] in "LNPS":
            assert text.escape_controls(character) == character, hex(code)


def test_an_invalid_byte_of_a_file_name_is_shown_as_the_byte() -> None:
    assert text.escape_controls(b"M\xfc".decode("utf-8", "surrogateescape")) == r"M\xfc"


def test_line_ends_are_kept_on_request() -> None:
    assert text.escape_controls("a\nb\r") == r"a\nb\r"
    assert text.escape_controls("a\nb\r", keep_newlines=True) == "a\nb\\r"
    assert text.join_lines(["a\nb", "c"]) == "a\\nb\nc"


@pytest.mark.parametrize(("number", "words"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_234_567, "1,234,567 rows")])
def test_plurals(number: int, words: str) -> None:
    assert text.plural(number, "row") == words


def test_names_are_escaped_before_they_are_cut() -> None:
    assert text.short("x" * 60) == "x" * 60
    assert text.short("x" * 61) == "x" * 59 + "…"
    assert text.short("\x1b" * 20) == (r"\x1b" * 20)[:59] + "…"


def test_facts_are_aligned_and_empty_ones_left_out() -> None:
    assert text.fact_lines([("rows", "3"), ("notes", ""), ("false alarms", "0")]) == ["  rows         3", "  false alarms 0"]


def test_a_table_is_as_wide_as_its_escaped_cells() -> None:
    assert text.table_lines(("a", "b"), [("\n", "1"), ("xx", "2")]) == ["  a   b", r"  \n  1", "  xx  2"]
    assert text.table_lines(("a", "b"), [("1", "")]) == ["  a  b", "  1"]  # no blanks at the end of a line


def test_next_steps_have_a_heading() -> None:
    assert text.step_lines([]) == []
    assert text.step_lines(["do this"]) == ["", "Next:", "  do this"]
