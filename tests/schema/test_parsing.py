import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_anomaly import messages
from vae_anomaly.schema import parsing


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.array(["a", None, "b"], pa.large_string()),
        pa.array(["a", None, "b"], pa.string_view()),
        pa.array(["a", None, "b"], pa.large_string()).dictionary_encode(),
    ],
    ids=lambda values: str(values.type),
)
def test_every_way_to_hold_text_is_plain_text(values: pa.Array) -> None:
    assert parsing.plain_array(values).equals(pa.array(["a", None, "b"]))


def test_run_ends_are_decoded() -> None:
    runs = pa.RunEndEncodedArray.from_arrays([2, 3], [1.5, None])
    assert parsing.plain_array(runs).to_pylist() == [1.5, 1.5, None]


def test_halves_become_floats_that_arrow_can_compute_with() -> None:
    assert parsing.plain_array(pa.array([1.5, None], pa.float16())).equals(pa.array([1.5, None], pa.float32()))


def test_an_extension_type_is_read_as_what_it_stores() -> None:
    assert parsing.plain_array(pa.array([b"0" * 16], pa.uuid())).type == pa.binary(16)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1.0), (" 1.5 ", 1.5), ("+2", 2.0), ("-.5", -0.5), ("1.", 1.0), ("1e3", 1000.0), (" +1E-3", 0.001), ("inf", math.inf)],
)
def test_text_that_is_a_number(text: str, number: float) -> None:
    # A neighbour that is no number sends all cells through the slow way.
    assert parsing.numbers(pa.array([text, "x"])).to_pylist() == [number, None]
    assert parsing.not_numbers(pa.array([text, "x", None, " "])).to_pylist() == [False, True, False, False]


@pytest.mark.parametrize("text", ["n/a", "1,5", "1 2", "0x10", "1_000", "1e", "--1", ".", "e5", "true", "1.5 bar", "١"])
def test_text_that_is_no_number(text: str) -> None:
    assert parsing.numbers(pa.array([text])).to_pylist() == [None]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_every_float_is_read_back_from_its_text(values: list[float]) -> None:
    text = parsing.category_texts(pa.array(values, pa.float64()))
    assert parsing.numbers(text).to_pylist() == values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, None]), ["1", None]),
        (pa.array([1.0, 2.5, math.nan]), ["1", "2.5", None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["1", " x"]), ["1", " x"]),
        (pa.array([None, None]), [None, None]),
        (pa.array(["1.50"]).cast(pa.decimal128(4, 2)), ["1.5"]),
    ],
    ids=["integer", "float", "bool", "text", "null", "decimal"],
)
def test_cells_as_text(values: pa.Array, expected: list[str | None]) -> None:
    assert parsing.category_texts(values).to_pylist() == expected


@pytest.mark.parametrize(
    ("levels", "text", "expected"),
    [
        (("f", "t"), ["f", "t", None], ["f", "t", None]),
        (("f", "t"), ["FALSE", " True", "1", "0.0", "yes"], ["f", "t", "t", "f", "t"]),
        (("0", "1"), ["0", "1.0", "maybe"], ["0", "1", "maybe"]),
        (("Nein", "Ja"), ["nein", "JA", "no"], ["Nein", "Ja", "Nein"]),
    ],
)
def test_spellings_of_false_and_true(levels: tuple[str, str], text: list[str], expected: list[str]) -> None:
    assert parsing.known_levels(pa.array(text), levels, boolean=True, default_missing=True).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2017-12-24 06:00:00", 1514095200),
        ("2017/12/24", 1514073600),
        ("24.12.2017 06:00", 1514095200),
        ("06:00:00", 21600),
        ("2017-12-24T06:00:00Z", 1514095200),
    ],
)
def test_times(text: str, seconds: int) -> None:
    microseconds = parsing.times(pa.array([text, None])).cast(pa.int64()).to_pylist()
    assert microseconds == [seconds * 1_000_000, None]


def test_a_day_and_a_month_that_can_be_swapped_are_not_guessed() -> None:
    with pytest.raises(pa.ArrowInvalid):
        parsing.times(pa.array(["03/04/2017"]))


@pytest.mark.parametrize(
    ("values", "tokens", "expected"),
    [
        (["?", "a", "-999"], ["?", "-999"], [None, "a", None]),
        (["1.0", "-999.0", " -999 ", "-999 x"], ["-999"], ["1.0", None, None, "-999 x"]),
        ([1.0, -999.0], ["?", "-999"], [1.0, None]),
        ([1, -999], ["-999.0"], [1, None]),
        ([True, False], ["0"], [True, False]),
        ([1.0, 2.0], ["?"], [1.0, 2.0]),
        ([1.0, None], [], [1.0, None]),
    ],
)
def test_declared_missing_values_become_null(values: list[object], tokens: list[str], expected: list[object]) -> None:
    assert parsing.mask_tokens(pa.array(values), tokens).to_pylist() == expected


def test_a_dictionary_of_codes_stays_one_where_missing_values_are_declared() -> None:
    masked = parsing.mask_tokens(pa.array([3, -999, 3]).dictionary_encode(), ["-999"])
    assert pa.types.is_dictionary(masked.type)
    assert masked.to_pylist() == [3, None, 3]


def test_a_long_cell_is_cut_in_errors() -> None:
    assert messages.quote("x" * 60) == repr("x" * 60)
    assert messages.quote("x" * 61) == repr("x" * 59 + "…")


@pytest.mark.parametrize("index", [pa.int8(), pa.uint32(), pa.int64()])
@pytest.mark.parametrize("view", [pa.string_view(), pa.binary_view()])
def test_dictionaries_of_views_as_polars_writes_them_are_plain_values(index: pa.DataType, view: pa.DataType) -> None:
    values = pa.array(["auto", None, "eco", "auto"])
    encoded = values.dictionary_encode()
    of_views = pa.DictionaryArray.from_arrays(encoded.indices.cast(index), encoded.dictionary.cast(view))
    expected = values if view == pa.string_view() else values.cast(pa.binary())
    for array in (of_views, pa.chunked_array([of_views, of_views.slice(1)])):
        plain = expected if array is of_views else pa.chunked_array([expected, expected.slice(1)])
        assert parsing.plain_array(array).equals(plain)
        assert parsing.supported(array).equals(plain)
    assert parsing.supported_type(of_views.type) == expected.type


@pytest.mark.parametrize(
    ("cell", "remedy"),
    [
        ("12,5-", "Write the minus in front of numbers (-12.5)"),
        ("1.234,50-", "Write the minus in front of numbers (-1234.50)"),
        ("40-", "Write the minus in front of numbers (-40)"),
        (" 1,5 ", "Write such numbers with a decimal point (1.5)"),
        ("1.234,56", "Write such numbers without thousands separators (1234.56)"),
        ("7 bar", ""), ("A-1", ""), ("-", ""), ("1-2", ""), ("2024-03-01", ""), ("", ""), ("12ab", ""),
    ],
)  # fmt: skip
def test_numbers_in_another_notation(cell: str, remedy: str) -> None:
    assert parsing.other_notation(cell) == remedy
