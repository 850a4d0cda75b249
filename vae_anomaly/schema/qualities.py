"""Quality of values as historians and OPC servers write it: which are good, which columns hold it, and whether a table is a long one."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly.config import Reading
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.messages import absent_text, quote
from vae_anomaly.schema import parsing
from vae_anomaly.schema.clocks import DAYS, unit_of
from vae_anomaly.schema.time_text import read_times

# OPC DA: the two high bits of the low byte are 11 for good, 01 for uncertain and 00 for bad (OPC Data Access 3.00, section 6.8).
_OPC_QUALITY, _OPC_GOOD, _OPC_LARGEST = 0xC0, 0xC0, 0xFFFF
# Texts of good values, in lower case; also as the first word, as in "Good, Local Override". Empty: no flag is set.
_GOOD_WORDS = frozenset({"good", "ok", "valid", "true", "g", "gut", "gültig", "bon", "bonne", "buono", "bueno", "buena", "goed", ""})
_OTHER_WORDS = frozenset(
    {"bad", "uncertain", "questionable", "substituted", "invalid", "false", "b", "u", "schlecht", "unsicher", "ungültig"}
)
# OPC UA: words such as GoodClamped and BadSensorFailure, and codes of 32 bits, whose two high bits are 00 for good.
_UA_GOOD = re.compile(r"good[a-z]*")
_UA_OTHER = re.compile(r"(bad|uncertain)[a-z]*")
_HEXADECIMAL = re.compile(r"0x([0-9a-f]{1,8})")
_UA_DIGITS, _UA_SEVERITY = 8, 0xC0000000
_OPC_CODES = frozenset({0, 4, 8, 12, 16, 20, 24, 28, 32, 64, 68, 80, 84, 88, 192, 216})
_NAMES = ("quality", "qual", "status", "flag", "opc", "qc")
MOST_CODES = 20  # distinct qualities of a column


def good_values(quality: pa.Array, good: Sequence[str] = ()) -> pa.Array:
    """Return a mask, true for a quality that is one of ``good`` or, without these, one that is usually good.

    Usual: no quality, Good, OK, Valid and true in any case, OPC DA codes whose high bits say good, 192 and above, and OPC UA codes in
    eight hexadecimal digits. Numbers are compared as numbers.

    >>> good_values(pa.array(["Good", "192", "216", "64", "0", "Bad", None, "Good, Local Override"])).to_pylist()
    [True, True, True, False, False, False, True, True]
    >>> good_values(pa.array([0, 192]), ("0",)).to_pylist()
    [True, False]
    >>> good_values(pa.array(["0x00000000", "0x808A0000", "GoodClamped", "BadNoData"])).to_pylist()
    [True, False, True, False]
    """
    plain = parsing.plain_array(quality)
    text = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(plain.cast(pa.string()), "")))
    distinct = text.unique().to_pylist()
    wanted = {_number_or_word(word) for word in good}
    accepted = [word for word in distinct if (_number_or_word(word) in wanted if good else _usually_good(word))]
    return pc.is_in(text, value_set=pa.array(accepted, pa.string()))


def _number_or_word(text: str) -> float | str:
    word = text.strip().lower()
    try:
        return float(word)
    except ValueError:
        return word


def _usually_good(text: str) -> bool:
    value = _number_or_word(text)
    if isinstance(value, str):
        return _is_good_word(value)
    return value.is_integer() and 0 <= value <= _OPC_LARGEST and int(value) & _OPC_QUALITY == _OPC_GOOD


def _is_good_word(text: str) -> bool:
    code = _HEXADECIMAL.fullmatch(text)
    if code is not None:
        bits = int(code[1], 16)
        return not bits & _UA_SEVERITY if len(code[1]) == _UA_DIGITS else _usually_good(str(bits))
    first = text.replace(",", " ").split()[0].strip(".;:()[]") if text else ""
    return first in _GOOD_WORDS or _UA_GOOD.fullmatch(first) is not None


def none_good(path: str, name: str, quality: pa.Array | pa.ChunkedArray) -> DataError:
    """Return the error for a file in which no value is good."""
    found = ", ".join(map(str, pc.unique(quality).to_pylist()[:5]))
    return DataError(
        f"no value of {path} is good by column {quote(name)}, which holds {found}. Say what it holds for a good value with --good-quality."
    )


def quality_pairs(names: Sequence[str], pattern: str) -> dict[str, tuple[str, ...]]:
    """Return for each quality column the columns whose values it qualifies.

    A name qualifies all other columns; with ``*``, as in ``*_quality``, each match qualifies the column named by what ``*`` stands for.
    Raises ConfigError if nothing matches.

    >>> quality_pairs(["temp", "temp_quality", "flow"], "*_quality")
    {'temp_quality': ('temp',)}
    """
    if "*" not in pattern:
        if pattern not in names:
            raise ConfigError(f"--quality-column names a column that is not in the data: {absent_text([pattern], names)}")
        return {pattern: tuple(name for name in names if name != pattern)}
    before, _, after = pattern.partition("*")
    found = {name: name[len(before) : len(name) - len(after)] for name in names if fnmatchcase(name, pattern)}
    pairs: dict[str, tuple[str, ...]] = {name: (value,) for name, value in found.items() if value in names and value != name}
    if not pairs:
        raise ConfigError(
            f"--quality-column {quote(pattern)} matches no pair of columns; expected a column such as {quote(pattern.replace('*', 'x'))} "
            "beside 'x'. Name the columns as they are in the header."
        )
    return pairs


def looks_like_quality(name: str, values: pa.ChunkedArray) -> bool:
    """Whether a column is named like a quality and holds nothing but usual qualities, at least one of them not good or a code."""
    kind = parsing.unwrapped_type(values.type)
    if not any(part in name.lower() for part in _NAMES) or not (parsing.is_text_type(kind) or pa.types.is_integer(kind)):
        return False
    distinct = pc.unique(parsing.plain_array(values)).drop_null()
    if not 0 < len(distinct) <= MOST_CODES:
        return False
    words = [_number_or_word(str(value)) for value in distinct.to_pylist()]
    codes = all(isinstance(word, float) and word in _OPC_CODES for word in words) and any(
        isinstance(word, float) and word >= _OPC_GOOD for word in words
    )
    return codes or (all(isinstance(w, str) and (_is_good_word(w) or _is_other_word(w)) for w in words) and any(words))


def _is_other_word(text: str) -> bool:
    return text in _OTHER_WORDS or _UA_OTHER.fullmatch(text) is not None or _HEXADECIMAL.fullmatch(text) is not None


_TAG_NAMES = """tag tags tagname tagid tagpath point pointname pointid sensor sensorid sensorname signal signalname variable varname item
itemid itemname metric metricname parameter parametername channel channelname node nodeid browsename displayname series seriesname field
attribute measure measurement topic register name id"""
_TAGS = frozenset(_TAG_NAMES.split())
_VALUE_NAMES = """value val varvalue tagvalue reading measurement vvalue numericvalue doublevalue floatvalue realvalue measurevalue
samplevalue payload v"""
_VALUES = frozenset(_VALUE_NAMES.split())
MOST_COLUMNS = 10  # of a long table: tag, time, value, and a few such as unit and quality
ROWS_A_TAG = 3


def shape_cautions(table: pa.Table, reading: Reading) -> tuple[str, ...]:
    """Return cautions on a table that looks like a long one or holds the quality of its values, unless the options said so."""
    long = long_table_caution(table) if not reading.pivot else ()
    return (*long, *(quality_cautions(table) if not reading.quality_column else ()))


def long_table_caution(table: pa.Table) -> tuple[str, ...]:
    """Return a caution if a table has one value a row: a column of few tags, one of values and one of times; with the option to give."""
    if table.num_columns > MOST_COLUMNS or table.num_rows < ROWS_A_TAG:
        return ()
    plain = {name: "".join(c for c in name.lower() if c.isalnum()) for name in table.column_names}
    tag = next((n for n in table.column_names if plain[n] in _TAGS and _repeats(table[n])), None)
    value = next((n for n in table.column_names if plain[n] in _VALUES and n != tag), None)
    times = [n for n in table.column_names if n not in {tag, value} and _are_times(table[n])]
    if tag is None or value is None or not times:
        return ()
    # An export also repeats the limits of its time range in every row.
    time = max(times, key=lambda n: pc.count_distinct(parsing.plain_array(table[n])).as_py())
    count = pc.count_distinct(parsing.plain_array(table[tag])).as_py()
    what = f"the table looks like a long one, with one value a row: column {quote(tag)} names {count:,} tags"
    why = "and a model of its rows knows no relation between them"
    return (f"{what}, {why}. Give --pivot 'tag={tag},value={value},time={time}' for one column a tag",)


def quality_cautions(table: pa.Table) -> tuple[str, ...]:
    """Return a caution for columns that look like the quality of the other values."""
    found = [name for name in table.column_names if looks_like_quality(name, table[name])]
    if not found:
        return ()
    shown = ", ".join(map(quote, found[:3]))
    what = f"{shown} may say how good the other values are, and values that are not good count as good"
    return (f"{what}: give --quality-column with the name, or a pattern such as '*_quality' for one column a sensor",)


def _repeats(values: pa.ChunkedArray) -> bool:
    kind = parsing.unwrapped_type(values.type)
    if not (parsing.is_text_type(kind) or pa.types.is_integer(kind)):
        return False
    tags = pc.count_distinct(parsing.plain_array(values)).as_py()
    return bool(tags > 1 and tags * ROWS_A_TAG <= len(values))


def _are_times(values: pa.ChunkedArray) -> bool:
    kind = parsing.unwrapped_type(values.type)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return True
    head = parsing.plain_array(values).slice(0, 100).combine_chunks()
    if parsing.is_number_type(head.type):
        low, high = (float(end) if end is not None else 0.0 for end in pc.min_max(head.cast(pa.float64(), safe=False)).as_py().values())
        return unit_of(low, high) not in {None, *DAYS}
    if not parsing.is_text_type(head.type):
        return False
    return not pc.any(pc.is_null(read_times(head).values)).as_py()
