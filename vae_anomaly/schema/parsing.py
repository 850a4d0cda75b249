"""Parsing of cells: numbers, times, booleans and missing values in text, and hints for cells that cannot be parsed.

Functions of arrays take an Arrow ``Array`` or ``ChunkedArray`` and return the same kind; nulls stay null.
"""

import contextlib
import re
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly.choices import MISSING_TEXT

# Spellings of booleans, compared in lower case: also the national ones that spreadsheets write.
BOOLEAN_WORDS = {
    "false": ("false", "f", "falsch", "faux", "falso", "falsk", "onwaar", "fałsz", "yanlış", "ложь"),
    "true": ("true", "t", "wahr", "vrai", "vero", "verdadero", "verdadeiro", "waar", "prawda", "doğru", "истина"),
    "no": ("no", "n", "nein", "non", "nee", "nej", "nie", "não", "nao", "нет"),
    "yes": ("yes", "y", "ja", "j", "oui", "si", "sí", "sì", "sim", "tak", "да"),
}

# Whole numbers stay exact at any length; '1.0' is whole, '007' and '1,000' (one or a thousand?) are text.
WHOLE = re.compile(r"([+-]?)(0|[1-9]\d*)(?:[.,]0*)?")
_DECIMAL = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?")
# A number this near to 0 or 1 is that: the precision of float32.
NEAR = 1e-6

# The numbers that Arrow's cast parses, once blanks around them and a leading plus are removed.
_NUMBER = r"(?i)^[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|infinity|nan)$"

# Besides ISO 8601. Only formats in which day and month cannot be confused.
TIME_FORMATS = ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y")


def plain_array(values: pa.Array) -> pa.Array:
    """Return the values without dictionary, run-length, view or extension types; text as ``string``, float16 as float32."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain_array(values.cast(kind.storage_type))
    if pa.types.is_dictionary(kind):
        return plain_array(_without_view_dictionary(values) if kind.value_type in _PLAIN_OF_VIEW else values.cast(kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        return plain_array(pc.run_end_decode(values))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    return values.cast(pa.float32()) if pa.types.is_float16(kind) else values


_PLAIN_OF_VIEW = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def _without_view_dictionary(values: pa.Array) -> pa.Array:
    """Return a dictionary of views, as polars writes it, as plain values: Arrow cannot decode it."""
    if isinstance(values, pa.ChunkedArray):
        plain = _PLAIN_OF_VIEW[values.type.value_type]
        return pa.chunked_array([_without_view_dictionary(chunk) for chunk in values.chunks], plain)
    dictionary = values.dictionary.cast(_PLAIN_OF_VIEW[values.type.value_type])
    return pa.DictionaryArray.from_arrays(values.indices, dictionary).dictionary_decode()


def supported_type(kind: pa.DataType) -> pa.DataType:
    """Return the closest type with compute kernels: Arrow lacks them for views, run lengths, float16 and small decimals.

    >>> supported_type(pa.string_view()), supported_type(pa.int8())
    (DataType(string), DataType(int8))
    """
    if pa.types.is_run_end_encoded(kind):
        return supported_type(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _PLAIN_OF_VIEW.get(kind.value_type, kind)
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary(), pa.float16(): pa.float32()}.get(kind, kind)


def supported(values: pa.Array) -> pa.Array:
    """Return the values cast to their ``supported_type``."""
    decoded = pc.run_end_decode(values) if pa.types.is_run_end_encoded(values.type) else values
    if pa.types.is_dictionary(decoded.type) and decoded.type.value_type in _PLAIN_OF_VIEW:
        return _without_view_dictionary(decoded)
    kind = supported_type(decoded.type)
    return decoded if kind == decoded.type else decoded.cast(kind)


def readable_text(values: pa.Array) -> pa.Array:
    """Return the values as ``plain_array`` does, with bytes and UUIDs as text.

    >>> readable_text(pa.array([b"M7", None])).to_pylist()
    ['M7', None]
    """
    if isinstance(values.type, pa.UuidType):
        return pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())
    values = plain_array(values)
    if not is_binary_type(values.type):
        return values
    text = text_of_bytes(values)
    return pa.array([None if v is None else bytes_text(v) for v in values.to_pylist()], pa.string()) if text is None else text


def text_of_bytes(values: pa.Array) -> pa.Array | None:
    r"""Return bytes as text, without the zeros that fill a fixed size; None unless all are UTF-8 without other zeros.

    >>> text_of_bytes(pa.array([b"eco\0", None], pa.binary(4))).to_pylist()
    ['eco', None]
    """
    values = plain_array(values)
    try:
        # Two steps: Arrow has no cast from a fixed size to text.
        text = pc.utf8_rtrim(values.cast(pa.large_binary()).cast(pa.large_string()).cast(pa.string()), characters="\0")
    except pa.ArrowException:
        return None
    return None if pc.any(pc.match_substring(text, "\0")).as_py() else text


def bytes_text(value: bytes) -> str:
    """Decode bytes as UTF-8, invalid bytes as hexadecimal escapes."""
    return value.decode("utf-8", "backslashreplace")


def unwrapped_type(kind: pa.DataType) -> pa.DataType:
    """Return the value type inside a dictionary, run-length or extension type.

    >>> unwrapped_type(pa.uuid())
    FixedSizeBinaryType(fixed_size_binary[16])
    """
    if isinstance(kind, pa.BaseExtensionType):
        return unwrapped_type(kind.storage_type)
    return unwrapped_type(kind.value_type) if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) else kind


def is_binary_type(kind: pa.DataType) -> bool:
    """Whether cells of this type are bytes."""
    small = pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return bool(small or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_number_type(kind: pa.DataType) -> bool:
    """Whether cells of this type are numbers; booleans are not."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_text_type(kind: pa.DataType) -> bool:
    """Whether cells of this type are text, before or after ``plain_array``."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def numbers(text: pa.Array) -> pa.Array:
    """Parse text as float64, null for text that is not a number; surrounding blanks are ignored.

    >>> numbers(pa.array(["1.5", " +2e3 ", "n/a", None])).to_pylist()
    [1.5, 2000.0, None, None]
    """
    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid:
        trimmed = pc.utf8_trim_whitespace(text)
        number = pc.match_substring_regex(trimmed, _NUMBER)
        return pc.utf8_ltrim(pc.if_else(number, trimmed, None), "+").cast(pa.float64())


def not_numbers(text: pa.Array) -> pa.Array:
    """Return a mask, true for text that is neither blank nor a number, false for null."""
    filled = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)
    return pc.fill_null(pc.and_(filled, pc.is_null(numbers(text))), fill_value=False)


def times(text: pa.Array) -> pa.Array:
    """Parse text as timestamps, times of day on 1970-01-01. Raises ArrowInvalid for text that is neither.

    >>> times(pa.array(["24.12.2017", None])).to_pylist()
    [datetime.datetime(2017, 12, 24, 0, 0), None]
    """
    with contextlib.suppress(pa.ArrowInvalid):
        return dates(text)
    return pc.binary_join_element_wise("1970-01-01", text, " ").cast(pa.timestamp("us"))


def dates(text: pa.Array) -> pa.Array:
    """Parse text as timestamps, in UTC if it has time zones. Raises ArrowInvalid unless all cells are dates of one format."""
    for form in TIME_FORMATS:
        with contextlib.suppress(pa.ArrowInvalid):
            return pc.strptime(text, format=form, unit="us")
    with contextlib.suppress(pa.ArrowInvalid):
        return text.cast(pa.timestamp("us", "UTC"))
    return text.cast(pa.timestamp("us"))


def parse_microseconds(text: str | None) -> int | None:
    """Parse one text as a time in microseconds since 1970; None if it is not a time.

    >>> parse_microseconds("1970-01-02"), parse_microseconds("soon")
    (86400000000, None)
    """
    try:
        return int(times(pa.array([text], pa.string())).cast(pa.int64())[0].as_py())
    except (pa.ArrowException, TypeError):
        return None


def mask_tokens(values: pa.Array, tokens: Sequence[str]) -> pa.Array:
    """Replace the missing-value ``tokens`` by null: a text that is one of them, and a number, also one written as text, of their value.

    >>> mask_tokens(pa.array([1, -999]), ["?", "-999.0"]).to_pylist()
    [1, None]
    """
    if not tokens:
        return values
    plain = plain_array(values)
    known = numbers(pa.array(tokens, pa.string()))
    known = known.filter(pc.fill_null(pc.is_finite(known), fill_value=False))
    if is_text_type(plain.type):
        gone = pc.is_in(plain, pa.array(tokens, pa.string()))
        gone = pc.or_(gone, pc.is_in(numbers(plain), known)) if len(known) else gone
    elif is_number_type(plain.type) and len(known):
        gone = pc.is_in(plain.cast(pa.float64(), safe=False), known)
    else:
        return plain
    masked = pc.if_else(gone, None, plain)
    # A dictionary of integers says that they are codes.
    return masked.dictionary_encode() if pa.types.is_dictionary(values.type) and pa.types.is_integer(plain.type) else masked


def mask_columns(rows: pa.RecordBatch, names: Sequence[str], tokens: Sequence[str]) -> pa.RecordBatch:
    """Return the rows with the missing-value ``tokens`` replaced by null in the columns of these names, as ``mask_tokens`` does."""
    if not tokens:
        return rows
    columns = [
        mask_tokens(column, tokens) if name in names else column for name, column in zip(rows.schema.names, rows.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)


def category_texts(values: pa.Array) -> pa.Array:
    """Return the cells as ``string``; integral floats without ``.0``, so that 1, 1.0 and '1' are the same level; bytes as text.

    >>> category_texts(pa.array([1.0, 2.5, None])).to_pylist()
    ['1', '2.5', None]
    """
    if is_binary_type(unwrapped_type(values.type)) and not isinstance(values.type, pa.UuidType) and text_of_bytes(values) is None:
        raise pa.ArrowInvalid("bytes that are no text")
    values = readable_text(values)
    if pa.types.is_floating(values.type):
        # pandas represents a missing cell as NaN.
        values = pc.if_else(pc.is_nan(values), None, values)
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    return values.cast(pa.string())


def level_key(text: str) -> str:
    r"""Return the form that all spellings of one level share.

    >>> level_key(" 1.0 "), level_key("1e0"), level_key("0,50"), level_key("007"), level_key("auto\0")
    ('1', '1', '0.5', '007', 'auto')
    """
    plain = trimmed(text)
    whole = None if _THREE_BEHIND_A_COMMA.fullmatch(plain) else WHOLE.fullmatch(plain)
    if whole:
        return ("-" if whole[1] == "-" and whole[2] != "0" else "") + whole[2]
    if not _DECIMAL.fullmatch(plain) or _THREE_BEHIND_A_COMMA.fullmatch(plain):
        return plain
    value = float(plain.replace(",", "."))
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def known_levels(text: pa.Array, levels: tuple[str, ...], *, boolean: bool, default_missing: bool) -> pa.Array:
    """Return the texts with every spelling of a level replaced by it, and null for texts that mean a missing cell.

    >>> known_levels(pa.array(["1.0", "NA", "x "]), ("1", "2"), boolean=False, default_missing=True).to_pylist()
    ['1', None, 'x']
    """
    others = pc.unique(text.filter(pc.invert(pc.is_in(text, pa.array([*levels, None], pa.string())))))
    if not len(others):
        return text
    meant = (_boolean_of if boolean else _level_of)(levels)
    gone = {*(MISSING_TEXT if default_missing else ("",))} - {*levels}
    known = [None if not trimmed(other) or (level := meant(other)) in gone else level for other in others.to_pylist()]
    place = pc.index_in(text, value_set=others)
    return pc.if_else(pc.is_valid(place), pa.array(known, pa.string()).take(place), text)


def _level_of(levels: tuple[str, ...]) -> Callable[[str], str]:
    """Return a function from a text to its level, or to the text itself if it has none."""
    keys = {level_key(level): level for level in reversed(levels)}
    return lambda text: keys.get(level_key(text), trimmed(text))


def _boolean_of(levels: tuple[str, ...]) -> Callable[[str], str]:
    """Return a function from a text to the level of a boolean; another number to its shortest text, another text to itself."""
    words = {word: level for means, level in zip(BOOLEAN_WORDS, 2 * levels, strict=True) for word in BOOLEAN_WORDS[means]}
    words |= {level_key(level).lower(): level for level in levels}

    def level_of(text: str) -> str:
        key = level_key(text)
        number = float(key) if _DECIMAL.fullmatch(key) else None
        if number is not None and (near := round(number)) in {0, 1} and abs(number - near) <= NEAR:
            return levels[near]
        return words.get(key.lower(), key)

    return level_of


def trimmed(text: str) -> str:
    """Return the text without blanks around it, zeros behind it, which fill fields of a fixed size, and the ``b''`` of bytes in Python.

    >>> trimmed(" eco "), trimmed("b'eco'"), trimmed("b'")
    ('eco', 'eco', "b'")
    """
    plain = text.rstrip("\0").strip()
    return plain[2:-1] if plain[:2] in {"b'", 'b"'} and len(plain) > 2 and plain[-1] == plain[1] else plain  # noqa: PLR2004  # b and quotes


TEXT_REMEDIES = ("Declare it in --missing-values", "leave the column out and fit again")
REPEATED_HEADER_REMEDY = ("It repeats the header: remove that row",)
_UNIT_REMEDY = ("If that row holds the units, remove it",)

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_THREE_BEHIND_A_COMMA = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
# Points, commas, blanks, or apostrophes as in Switzerland; the same mark throughout.
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?P<mark>[ \u00a0\u202f'\u2019.,])\d{3}(?:(?P=mark)\d{3})*(?:(?!(?P=mark))(?P<decimal>[.,])\d+)?")
_MINUS_BEHIND = re.compile(r"\d[\d.,]* ?-")  # as SAP writes it
# The lookahead excludes '0xFF' and '5e', which have no unit.
WITH_UNIT = re.compile(
    r"([+-]?(?:\d+(?:[.,]\d+)?|[.,]\d+))\s*(?![xXeE][0-9A-Fa-f]*$)((?:[^\W\d_]|[°%‰])(?:[^\s\d]|(?<!\d)[234](?!\d)){0,9})"
)
_BRACKETED = re.compile(r"\[[^\]\d]{0,12}\d?\]|\([^)\d]{1,12}\d?\)")
UNIT_NAMES = re.compile(
    r"°[CFK]|degC|K|%|‰|m?bar|[kMh]?Pa|psi|(l|m3|m³|kg|t)/(h|s|min)|k?g|[cmk]?m|m?m/s|(rpm|[1U]/min)|[kM]?Hz|[mk]?[VA]|[kM]?Wh?|m?s|min|h|k?Nm?|dB|ppm",
    re.IGNORECASE,
)


def cell_remedies(cell: str, column: str) -> tuple[str, ...]:
    """Return what the user can do about a cell that is not a number, as the remedies of an error.

    >>> cell_remedies("1,5", "flow"), cell_remedies("n/a", "flow")
    (('Write such numbers with a decimal point (1.5)',), ('Declare it in --missing-values', 'leave the column out and fit again'))
    """
    text = cell.strip()
    if text == column.strip():
        return REPEATED_HEADER_REMEDY
    if UNIT_NAMES.fullmatch(text) or _BRACKETED.fullmatch(text):
        return _UNIT_REMEDY
    return _respelled(text) or TEXT_REMEDIES


def other_notation(text: str) -> str:
    """Return what to do about a number with thousands separators, a decimal comma or its minus behind it; empty for other text.

    >>> other_notation("1.234,50-"), other_notation("7 bar"), other_notation("A-1")
    ('Write the minus in front of numbers (-1234.50)', '', '')
    """
    cell = text.strip()
    if not (_THOUSANDS.fullmatch(cell.rstrip("-")) or _DECIMAL_COMMA.fullmatch(cell.rstrip("-")) or _MINUS_BEHIND.fullmatch(cell)):
        return ""
    return _respelled(cell)[0]


def _respelled(text: str) -> tuple[str, ...]:
    """Return the remedy for a number in another notation; empty if the text contains no number."""
    if _MINUS_BEHIND.fullmatch(text):
        digits = text.rstrip("-").rstrip()
        parted = _THOUSANDS.fullmatch(digits)
        whole = digits.replace(parted["mark"], "") if parted and parted["decimal"] else digits
        return (f"Write the minus in front of numbers (-{whole.replace(',', '.')})",)
    if _THREE_BEHIND_A_COMMA.fullmatch(text):
        point, none = text.replace(",", "."), text.replace(",", "")
        return (f"A comma can be a decimal mark or a thousands separator, so neither is assumed: write {point} or {none}",)
    if _DECIMAL_COMMA.fullmatch(text):
        return (f"Write such numbers with a decimal point ({text.replace(',', '.')})",)
    parted = _THOUSANDS.fullmatch(text)
    if parted:
        whole = text.replace(parted["mark"], "")
        point = whole.replace(",", ".") if parted["decimal"] else whole
        return (f"Write such numbers without thousands separators ({point})",)
    unit = WITH_UNIT.fullmatch(text)
    return (f"Write the number without its unit ({unit[1].replace(',', '.')})",) if unit else ()
