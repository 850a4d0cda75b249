"""What a column is if it is no measurement: metadata of a lakehouse, an index, a folder of the calendar, a time, or a running number.

A column is left out only where name and values leave no doubt; ``--include`` brings it back. ``doubts`` holds the cautions for the others.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.schema import clocks, parsing
from vae_anomaly.schema.inference import ID_ROWS, Dropped
from vae_anomaly.schema.time_text import kind_of_text

_Floats = NDArray[np.float64]

# Metadata of a table: names of the index columns and of the partition folders, as JSON.
INDEX_KEY, FOLDERS_KEY = b"vae_anomaly.index", b"vae_anomaly.folders"

# Columns that engines and loaders add, by the whole name in lower case.
_SYSTEM_COLUMNS = {
    r"_hoodie_\w+": "metadata of Hudi",
    r"_rescued_data|_corrupt_record|_metadata": "metadata of Spark",
    r"_change_type|_commit_version|_commit_timestamp": "change data of Delta",
    r"_file|_pos|_partition|_spec_id|_deleted|_row_id|_last_updated_sequence_number": "metadata of Iceberg",
    r"_(partition(time|date)|table_suffix)": "metadata of BigQuery",
    r"metadata\$\w+": "metadata of Snowflake",
    r"_fivetran_\w+|_airbyte_\w+|_dlt_\w+|_sdc_\w+|_ab_\w+": "metadata of the loader",
    r"__(op|deleted|source_\w+|ts_ms|lsn|table|db)": "metadata of Debezium",
    r"__null_dask_index__": "index of the data frame",
}
# Names of a row number; the unnamed first column of a CSV file is the index of a data frame.
_UNNAMED = re.compile(r"|unnamed:? ?_?\d+(\.\d+)?|\.\.\.1|column_?0|__unnamed__\d*")
_NUMBERED_LEVEL = re.compile(r"__index_level_\d+__")
_ROW_NUMBER = re.compile(
    r"index|idx|level_0|rows?|row[ _]?(num(ber)?|nr|no|id|index|idx)\.?|rownames?|rn|no\.?|nr\.?|#|(lfd|s|sl|sr)[. _]*(no|nr)\.?"
    r"|record([ _](no|id|number))?|recno|seq(uence)?([ _](no|id|number))?|obs|_?id|zeile|satz|__row_index__|_n_"
)

# Parts of the calendar by their names in folders, and the numbers they have.
_CALENDAR = {
    "year": ("year yyyy yr jahr annee año ano anno rok", 1900, 2199),
    "quarter": ("quarter qtr quartal trimestre", 1, 4),
    "month": ("month mm mon mo monat mois mes mese miesiac", 1, 12),
    "week": ("week ww wk woche semaine semana settimana kw", 0, 53),
    "day": ("day dd tag jour dia giorno dzien dom doy dayofmonth dayofyear", 1, 366),
    "hour": ("hour hh hr stunde heure hora ora godzina", 0, 24),
    "minute": ("minute min mi", 0, 59),
}
_PART_OF = {word: part for part, (words, _, _) in _CALENDAR.items() for word in words.split()}
_LETTERS = {"y": "year", "m": "month", "d": "day", "h": "hour"}  # of folders beside a year
_MONTH_NAMES = re.compile(r"(?i)jan|feb|mar|m[aä]r|apr|ma[yi]|jun|jul|aug|sep|o[ck]t|nov|de[cz]")

# A sample of this many whole numbers without a repetition is no chance if it would have that many pairs of equal ones by chance.
_SURE_PAIRS = 20.0
_FEW_LEVELS = 20  # an unnamed column with more whole numbers is an index, with fewer perhaps a code


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the files say of their columns: names of index columns, of partition folders, and the first name."""

    index: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    first: str | None = None

    @staticmethod
    def of(schema: pa.Schema) -> "Origin":
        """Read the origin of a table from its metadata: those of ``noted``, and those of pandas."""
        metadata = schema.metadata or {}
        index = {*_names(metadata.get(INDEX_KEY)), *index_columns(metadata)}
        first = schema.field(0).name if len(schema) else None
        return Origin(index=frozenset(index), folders=frozenset(_names(metadata.get(FOLDERS_KEY))), first=first)


def noted(table: pa.Table, *, index: Iterable[str], folders: Iterable[str]) -> pa.Table:
    """Return the table with the names of its index columns and partition folders in its metadata, for ``Origin.of``."""
    return table.replace_schema_metadata({INDEX_KEY: json.dumps(sorted(set(index))), FOLDERS_KEY: json.dumps(sorted(set(folders)))})


def index_columns(metadata: Mapping[bytes, bytes] | None) -> tuple[str, ...]:
    """Return the columns that pandas wrote as an index, named or not; an index that merely counts is no column.

    >>> index_columns({b"pandas": b'{"index_columns": ["__index_level_0__", {"kind": "range"}]}'})
    ('__index_level_0__',)
    """
    try:
        columns = json.loads((metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError):
        return ()  # of another writer: the names decide
    return tuple(name for name in columns if isinstance(name, str))


def is_unnamed_index(name: str) -> bool:
    """Whether a first column of this name is an index that was written without a name.

    >>> is_unnamed_index("Unnamed: 0"), is_unnamed_index("temp")
    (True, False)
    """
    return _UNNAMED.fullmatch(name.strip().lower()) is not None or _NUMBERED_LEVEL.fullmatch(name) is not None


def _names(text: bytes | None) -> tuple[str, ...]:
    return tuple(json.loads(text)) if text else ()


def roles_in(table: pa.Table, names: Iterable[str]) -> dict[str, Dropped]:
    """Return why columns of a table are no measurements, by name; those that may be measurements are absent."""
    origin = Origin.of(table.schema)
    years = any(name in origin.folders and _holds_years(table[name]) for name in table.column_names)
    roles = {name: role_of(name, table[name], origin, years=years) for name in names}
    return {name: role for name, role in roles.items() if role is not None}


def role_of(name: str, values: pa.ChunkedArray, origin: Origin, *, years: bool = False) -> Dropped | None:
    """Return why a column is no measurement, None if it may be one. ``years``: another folder holds years."""
    lower = name.strip().lower()
    system = next((what for pattern, what in _SYSTEM_COLUMNS.items() if re.fullmatch(pattern, lower)), None)
    if system is not None:
        return Dropped(name=name, reason=system)
    if (
        pa.types.is_nested(parsing.unwrapped_type(values.type))
        or parsing.is_binary_type(parsing.unwrapped_type(values.type))
        or values.null_count == len(values)
    ):
        return None
    plain = parsing.plain_array(values)
    time = _time(name, plain)
    if name in origin.index or _NUMBERED_LEVEL.fullmatch(name):
        return Dropped(name=name, reason=f"index of the data frame{f': {time}' if time else ''}", time=time is not None)
    if name in origin.folders and _is_calendar(name, plain, years=years):
        return Dropped(name=name, reason="calendar part of a folder name")
    if time is not None:
        return Dropped(name=name, reason=time, time=True)
    return _row_number(name, plain, first=name == origin.first)


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _time(name: str, values: pa.ChunkedArray) -> str | None:
    """Return what kind of time a column of numbers or text is, None for a time of Arrow's own types and for what may be no time."""
    if parsing.is_text_type(values.type):
        words = pc.unique(pc.drop_null(values))
        if not len(words):
            return None
        some = words.take(pa.array(np.unique(np.linspace(0, len(words) - 1, _WORDS_TRIED).astype(np.int64))))
        numbers = parsing.numbers(some)
        if numbers.null_count == 0:
            return _number_time(name, parsing.numbers(pc.drop_null(values)), as_text=True)
        return kind_of_text(some)
    return _number_time(name, values, as_text=False) if parsing.is_number_type(values.type) else None


_WORDS_TRIED = 200


def _number_time(name: str, values: pa.ChunkedArray, *, as_text: bool) -> str | None:
    floats = _floats(values)
    kind = clocks.kind_of_numbers(name, floats, whole=as_text or pa.types.is_integer(values.type)) if len(floats) else None
    return f"{kind}, as text" if kind and as_text else kind


def _floats(values: pa.ChunkedArray) -> _Floats:
    """Return the numbers that are not missing, in row order."""
    numbers = np.asarray(pc.drop_null(values).cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    return numbers[~np.isnan(numbers)]


# ── calendar ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def calendar_part(name: str) -> str | None:
    """Return the part of the calendar that a name says, None if it says none.

    >>> calendar_part("event_month"), calendar_part("YYYY"), calendar_part("daylight")
    ('month', 'year', None)
    """
    return next((_PART_OF[word] for word in reversed(clocks.words_of(name)) if word in _PART_OF), None)


def in_range(part: str, values: _Floats) -> bool:
    """Whether all numbers ``[n]`` are those of a part of the calendar."""
    _, low, high = _CALENDAR[part]
    return bool(len(values)) and bool(((values >= low) & (values <= high) & (values == np.floor(values))).all())


def _holds_years(values: pa.ChunkedArray) -> bool:
    return parsing.is_number_type(values.type) and in_range("year", _floats(values))


def _is_calendar(name: str, values: pa.ChunkedArray, *, years: bool) -> bool:
    part = calendar_part(name) or (_LETTERS.get(name.lower()) if years else None)
    if part is None:
        return False
    if parsing.is_number_type(values.type):
        return in_range(part, _floats(values))
    words = pc.unique(pc.drop_null(values)).to_pylist() if parsing.is_text_type(values.type) else []
    return part == "month" and bool(words) and all(_MONTH_NAMES.match(word) for word in words)


# ── row numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _row_number(name: str, values: pa.ChunkedArray, *, first: bool) -> Dropped | None:
    """Return why whole numbers only tell rows apart: by their name, or because they never repeat although few are possible."""
    numbers = _floats(values) if parsing.is_number_type(values.type) else np.empty(0)
    if not len(numbers) or (numbers != np.floor(numbers)).any() or not np.isfinite(numbers).all():
        return None
    distinct = len(np.unique(numbers))
    lower = name.strip().lower()
    counts = distinct == len(numbers) > 1 or (clocks.runs_on(numbers) and clocks.is_even(numbers))
    if first and _UNNAMED.fullmatch(lower) and (counts or distinct > _FEW_LEVELS):
        return Dropped(name=name, reason="unnamed first column of whole numbers, the index of a data frame")
    if counts and len(numbers) >= _FEWEST_NUMBERED and (_UNNAMED.fullmatch(lower) or _ROW_NUMBER.fullmatch(lower)):
        return Dropped(name=name, reason="number of the row")
    pairs = len(numbers) ** 2 / (2.0 * (float(numbers.max()) - float(numbers.min()) + 1.0))
    if not pa.types.is_integer(values.type) or distinct < len(numbers) or distinct < ID_ROWS or pairs < _SURE_PAIRS:
        return None
    return Dropped(name=name, reason=f"looks like an id (whole numbers from {numbers.min():.0f} to {numbers.max():.0f} that never repeat)")


_FEWEST_NUMBERED = 20  # rows below which distinct numbers may be chance
