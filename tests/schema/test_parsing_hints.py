import pytest

from vae_anomaly.schema.parsing import HEADER, TEXT_HINTS, ways

POINT, THOUSANDS = "Write such numbers with a decimal point", "Write such numbers without a mark between the thousands"
EITHER, UNIT = "A comma may be a decimal mark or part thousands, so it is read as neither: write", "Write the number without its unit"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("70,841", f"{EITHER} 70.841 or 70841"),
        ("-1,234", f"{EITHER} -1.234 or -1234"),
        ("1,5", f"{POINT} (1.5)"),
        (" 0,125 ", f"{POINT} (0.125)"),
        ("-,5e-3", f"{POINT} (-.5e-3)"),
        ("1234,567", f"{POINT} (1234.567)"),
        ("1 234", f"{THOUSANDS} (1234)"),
        ("1\u00a0234,5", f"{THOUSANDS} (1234.5)"),
        ("1'234'567.8", f"{THOUSANDS} (1234567.8)"),
        ("1,234,567", f"{THOUSANDS} (1234567)"),
        ("1,234.5", f"{THOUSANDS} (1234.5)"),
        ("1.234,5", f"{THOUSANDS} (1234.5)"),
        ("5 bar", f"{UNIT} (5)"),
        ("-1,5 m³/h", f"{UNIT} (-1.5)"),
        ("20°C", f"{UNIT} (20)"),
        ("3 %", f"{UNIT} (3)"),
        ("5kg/m3", f"{UNIT} (5)"),
    ],
)
def test_a_number_that_is_spelled_otherwise(cell: str, said: str) -> None:
    assert ways(cell, "flow") == (said,)


@pytest.mark.parametrize("cell", ["bar", "°C", "m3/h", "%", "rpm", "[-]", "[m3]", "(kW)"])
def test_a_row_of_units(cell: str) -> None:
    assert ways(cell, "flow") == ("If that row holds the units, remove it",)


def test_the_header_once_more() -> None:
    assert ways(" flow ", "flow") == ways("bar", "bar") == HEADER == ("It is the header once more: remove that row",)


@pytest.mark.parametrize(
    "cell", ["n/a", "Bad", "-", "0xFF", "5e", "1.2.3", "1,2,3", "12:00", "2024-01-01", "<5", "1 23", "968b26522119", "off", "x" * 10_000]
)
def test_other_text_may_stand_for_a_missing_cell(cell: str) -> None:
    assert ways(cell, "flow") == TEXT_HINTS
