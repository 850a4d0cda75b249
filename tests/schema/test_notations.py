"""Columns of numbers in another notation are left out with what to do; names that look a little like them stay categories."""

from dataclasses import replace

import pyarrow as pa
import pytest

from vae_anomaly.schema.inference import Column, Dropped, infer_column
from vae_anomaly.schema.notations import notation_reason, unread_cautions


def judged(cells: list[str]) -> Column | Dropped:
    # Twice: values that never repeat may be ids.
    return infer_column("a", pa.chunked_array([pa.array(cells * 2)]), included=False)


NUMBERS = [f"{i}.{i % 7}" for i in range(10, 60)]


@pytest.mark.parametrize(
    ("written", "what", "remedy"),
    [
        ("{} °C", "numbers with a unit", "write the number without its unit (10.3)"),
        ("{}%", "numbers with a unit", "write the number without its unit (10.3)"),
        ("-{} m³/h", "numbers with a unit", "write the number without its unit (-10.3)"),
        ("{} Stk", "numbers with a unit", "write the number without its unit (10.3)"),
        ("${}", "amounts with a currency", "write the number without its currency (10.3)"),
        ("-{} €", "amounts with a currency", "write the number without its currency (-10.3)"),
        ("EUR {}", "amounts with a currency", "write the number without its currency (10.3)"),
        ("\u2212{}", "numbers in another notation", "write the minus as a hyphen (-10.3)"),
        ("({})", "numbers in another notation", "write negative numbers with a minus (-10.3)"),
        ("{}D-02", "numbers in another notation", "write the exponent with E (10.3E-02)"),
        ("{}-", "numbers in another notation", "write the minus in front of numbers (-10.3)"),
        ("({}+2.5j)", "complex numbers", "write real and imaginary part as two columns"),
        ("[{}, 2.5]", "nested values as text, such as JSON", "write each of its fields as a column"),
        ('{{"t": {}}}', "nested values as text, such as JSON", "write each of its fields as a column"),
    ],
)
@pytest.mark.parametrize("state", [[], ["Bad"]])
def test_numbers_in_another_notation_are_no_category(written: str, what: str, remedy: str, state: list[str]) -> None:
    found = judged([written.format(number) for number in NUMBERS] + state)
    if state and written == "{}-":  # some states among numbers that are notations of Arrow's readers are named as such
        return
    assert isinstance(found, Dropped)
    assert found.reason.startswith(f"{what}: {written.format('10.3')!r}, ")
    assert found.reason.endswith(f"; {remedy}")


def test_negative_numbers_among_plain_ones() -> None:
    found = judged(NUMBERS + [f"\u2212{number}" for number in NUMBERS])
    assert isinstance(found, Dropped)
    assert found.reason.startswith("numbers in another notation: ")
    assert found.reason.endswith("write the minus as a hyphen (-10.3)")


@pytest.mark.parametrize("form", ["0x{:04X}", "0x{:x}", "{:02X}h", "{:04X}", "{:08x}", "16#{:X}"])
def test_hexadecimal_numbers(form: str) -> None:
    found = judged([form.format(number) for number in range(90, 3000, 31)])
    assert isinstance(found, Dropped)
    assert found.reason.startswith("hexadecimal numbers: ")
    assert found.reason.endswith("; write them as decimal numbers")


@pytest.mark.parametrize(
    "form", ["A-{}", "Line {}", "5W-{}", "{}-A-2", "M{}", "V{}.2", "rev {} b", "10.0.0.{}", "{} of 60", "(spare {})", "FACE{}G", "P{}x{}"]
)
def test_names_with_numbers_stay_a_category(form: str) -> None:
    found = judged([form.format(number, number) for number in range(30, 80)])
    assert isinstance(found, Column)
    assert (found.kind, len(found.levels)) == ("category", 50)


@pytest.mark.parametrize("letters", ["ABCDEF", "FGHIJK"])
def test_words_of_the_letters_of_hexadecimal_numbers_are_none(letters: str) -> None:
    words = [a + b + c + d for a in letters for b in letters for c, d in ("AB", "BA")]
    assert isinstance(judged(words), Column)


def test_numbers_of_different_unknown_units_are_names() -> None:
    assert notation_reason(["4 wheels", "6 doors"], numbers=0) == ""
    assert notation_reason(["4 bar", "6 kPa"], numbers=0) != ""
    assert notation_reason(["4 wheels"], numbers=50) == ""


def test_few_different_settings_are_levels_with_their_unit() -> None:
    found = judged([f"{5 * i} bar" for i in range(20)])
    assert isinstance(found, Column)
    assert found.kind == "category"


def test_numbers_that_are_not_read_are_a_caution() -> None:
    unit, text = judged([f"{number} bar" for number in NUMBERS]), judged([*NUMBERS, "Bad"])
    assert isinstance(unit, Dropped)
    assert isinstance(text, Dropped)
    others = [Dropped(name="t", reason="timestamp"), Dropped(name="id", reason="looks like an id (no value repeats)")]
    assert unread_cautions(others) == ()
    (one,) = unread_cautions([*others, unit])
    assert one == (
        f"'a' holds numbers that are not read, so that no row is flagged for them; 'a' has {unit.reason}. "
        "Write them so and fit again, or give --exclude a if they do not matter"
    )
    (two,) = unread_cautions([text, replace(unit, name="b")])
    assert two.startswith(
        "'a', 'b' hold numbers that are not read, so that no row is flagged for them; 'a' has numbers with text in them: 'Bad' "
    )
    assert two.endswith(" --exclude a,b if they do not matter")
