"""The schema of a model: its input columns, inferred from the table of the fit, and the conversion of batches to them.

Columns are matched by name. The rules for the kind of a column are in ``inference``; ``where`` names the table in errors.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly import messages
from vae_anomaly.choices import MISSING_TEXT
from vae_anomaly.config import DataConfig
from vae_anomaly.errors import BadCell, ConfigError, DamagedArtifact, DataError, SchemaMismatch
from vae_anomaly.messages import NAMES_SHOWN, absent_text, listed
from vae_anomaly.schema import parsing
from vae_anomaly.schema.inference import Column, Dropped, infer_column
from vae_anomaly.schema.label_names import LOOKS_LIKE_LABEL, likely_label
from vae_anomaly.strict_json import parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The input columns of a model in order, the dropped columns of the fitted table, and its time, group and label columns."""

    columns: tuple[Column, ...]
    dropped: tuple[Dropped, ...] = ()
    time: str | None = None
    group: str | None = None
    label: str | None = None
    window: int = 1  # stored in format 1; windows of several rows are not supported yet
    default_missing: bool = True  # texts such as NA are missing cells, unless they are levels

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the input columns, in order."""
        return tuple(c.name for c in self.columns)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal of everything that affects the encoding of a row; the label and dropped columns do not."""
        state = {k: v for k, v in self.state().items() if k not in {"dropped", "label"} and (k, v) != ("default_missing", True)}
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def state(self) -> dict[str, Any]:
        """Return the schema as JSON values; ``Schema.from_state`` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "Schema":
        """Build a schema from ``state()``, also after a round trip through JSON.

        Raises
        ------
        DamagedArtifact
            A field is missing, unknown or of the wrong type.
        """
        try:
            schema = parsed(Schema, dict(state))
        except (TypeError, ValueError) as error:
            raise DamagedArtifact(f"the schema of the artifact cannot be read: {error}. Restore the artifact or fit again.") from error
        _check_state(schema)
        return schema


def _check_state(schema: Schema) -> None:
    if len(set(schema.names)) < len(schema.names):
        raise DamagedArtifact("the schema of the artifact has two columns of one name. Restore the artifact or fit again.")
    for column in schema.columns:
        levels_fit = {"numeric": len(column.levels) == 0, "boolean": len(column.levels) == 2, "category": len(column.levels) > 0}  # noqa: PLR2004
        if not levels_fit[column.kind]:
            raise DamagedArtifact(f"the schema of the artifact has an impossible column: {column}. Restore the artifact or fit again.")


def infer_schema(table: pa.Table, data: DataConfig) -> Schema:
    """Infer the schema of ``table``: its input columns and their kinds.

    Raises
    ------
    ConfigError
        The config names a column that the table lacks, or includes one that it also excludes.
    DataError
        Duplicate column names, no rows, or no input column.
    """
    check_duplicates(table.column_names, "the table")
    _check_named(table.column_names, data)
    if table.num_rows == 0:
        raise DataError("the table has no rows; a fit needs normal rows to learn from.")
    excluded = excluded_columns(data)
    from vae_anomaly.schema.roles import roles_in  # noqa: PLC0415  # only a fit asks for it: a score enters fewer modules

    free = [name for name in table.column_names if name not in excluded and name not in data.include]
    left_out = {name: Dropped(name=name, reason=reason) for name, reason in excluded.items()} | roles_in(table, free)
    columns = [left_out.get(name) or _judged(name, table[name], data) for name in table.column_names]
    schema = Schema(
        columns=tuple(c for c in columns if isinstance(c, Column)),
        dropped=tuple(c for c in columns if isinstance(c, Dropped)),
        time=data.time_column,
        group=data.group_by,
        label=data.label_column,
        default_missing=data.default_missing,
    )
    if not schema.columns:
        reasons = "; ".join(f"{d.name!r}: {d.reason}" for d in schema.dropped[:NAMES_SHOWN])
        raise DataError(f"no column is left to learn from ({reasons}). Bring columns back with --include.")
    return schema


def _judged(name: str, values: pa.ChunkedArray, data: DataConfig) -> Column | Dropped:
    """Infer the kind of one column, and leave it out if it looks like a label and is not included."""
    included = name in data.include
    column = infer_column(name, values, included=included, default_missing=data.default_missing)
    label = None if included or isinstance(column, Dropped) else likely_label(name, values)
    if label is None or not label.certain:
        return column
    return Dropped(name=name, reason=f"{LOOKS_LIKE_LABEL} ({label.words}); keep it with --include {messages.option_names([name])}")


def check_duplicates(names: Sequence[str], where: str) -> None:
    """Raise DataError if a column name occurs more than once."""
    if len(set(names)) < len(names):
        twice = [n for n, count in Counter(names).items() if count > 1]
        raise DataError(f"{where} has columns of the same name: {listed(twice)}. Give every column its own name.")


def excluded_columns(data: DataConfig) -> dict[str, str]:
    """Return the columns that the config excludes with the reason; a special role takes precedence over 'excluded'."""
    named = {"excluded": data.exclude, "id column": data.id_columns}
    reasons = {name: reason for reason, names in named.items() for name in names}
    single = {"group column": data.group_by, "time column": data.time_column, "label": data.label_column}
    return reasons | {name: reason for reason, name in single.items() if name is not None}


def _check_named(names: Sequence[str], data: DataConfig) -> None:
    named = [*excluded_columns(data), *data.include]
    absent = [n for n in dict.fromkeys(named) if n not in names]
    if absent:
        raise ConfigError(f"columns named in the options are not in the table: {absent_text(absent, names)}")
    both = [n for n in data.include if n in excluded_columns(data)]
    if both:
        raise ConfigError(f"--include names columns that another option takes out: {listed(both)}. Name each in one option only.")


def unknown_columns(schema: Schema, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that were not in the table of the fit, in order."""
    known = {*schema.names, *(d.name for d in schema.dropped)}
    return tuple(n for n in names if n not in known)


def check_columns_present(schema: Schema, names: Sequence[str], where: str) -> None:
    """Raise SchemaMismatch if ``names`` lacks columns of the model, with suggestions."""
    available = set(names)
    absent = [n for n in schema.names if n not in available]
    if absent:
        raise SchemaMismatch(f"{where} lacks {len(absent):,} of the model's {len(schema.columns):,} columns: {absent_text(absent, names)}")


def conform(schema: Schema, batch: pa.RecordBatch, *, where: str, first_row: int = 0, bad: dict[int, str] | None = None) -> pa.RecordBatch:
    """Convert a batch to exactly the model's columns, in order; other columns are ignored.

    Numeric columns become float64, NaN and blank text null; boolean and category columns become ``string``, every spelling of a level as
    that level, texts that mean a missing cell null (``schema.levels``). ``first_row`` is the index of the first row of the batch in
    ``where``, from 0. With ``bad``, a bad cell becomes null instead of an error, and the problem is added to ``bad`` by the index of the
    row in the batch.

    Raises
    ------
    SchemaMismatch
        A column is missing or of a type that cannot be converted.
    BadCell
        A numeric column has text that is not a number, or an infinity.
    """
    check_duplicates(batch.schema.names, where)
    check_columns_present(schema, batch.schema.names, where)
    origin = RowOrigin(where=where, first_row=first_row, bad=bad)
    levels = partial(conform_levels, default_missing=schema.default_missing)
    arrays = [(conform_numeric if c.kind == "numeric" else levels)(c, batch.column(c.name), origin) for c in schema.columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(schema.names))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrigin:
    """Where a batch comes from, for errors.

    ``first_row``: index of its first row in ``where``. ``bad``: if given, collects the problem of each bad row by its index in the batch
    instead of raising.
    """

    where: str
    first_row: int
    bad: dict[int, str] | None

    def refuse(self, bad: pa.Array, problem: Callable[[int], str], remedies: Callable[[int], Sequence[str]]) -> None:
        """Raise BadCell for the first row where the mask ``bad`` is true, or collect the problem of all such rows."""
        if self.bad is not None:
            for index in pc.indices_nonzero(bad).to_pylist():
                self.bad.setdefault(index, problem(index))
        elif (index := pc.index(bad, pa.scalar(value=True)).as_py()) >= 0:
            raise BadCell(problem(index), where=self.where, row=self.first_row + index, remedies=remedies(index))


def conform_numeric(column: Column, values: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return the column as float64, null for missing cells and NaN.

    Raises BadCell for text that is not a number and for infinity, SchemaMismatch for a type that cannot be numeric.
    """
    values = parsing.plain_array(values)
    if parsing.is_binary_type(values.type):
        text = parsing.text_of_bytes(values)
        values = values if text is None else text
    if parsing.is_text_type(values.type):
        values = parsing.mask_tokens(values, MISSING_TEXT)
    if column.temporal:
        values = _seconds(column, values, origin)
    if parsing.is_text_type(values.type):
        values = _parsed(column, values, origin)
    if not (parsing.is_number_type(values.type) or pa.types.is_boolean(values.type) or pa.types.is_null(values.type)):
        raise SchemaMismatch(
            f"column {column.name!r} is numeric in this model but {values.type} in {origin.where}. "
            "Write it as numbers, or leave it out and fit again."
        )
    # safe=False: integers beyond 2^53 are rounded instead of refused.
    return _finite(column, values.cast(pa.float64(), safe=False), origin)


def conform_levels(column: Column, values: pa.Array, origin: RowOrigin, *, default_missing: bool = True) -> pa.Array:
    """Return the column as ``string``, its levels as the schema spells them. Raises SchemaMismatch for a type without text form."""
    try:
        text = parsing.category_texts(values)
    except pa.ArrowException:
        raise SchemaMismatch(
            f"column {column.name!r} is a {column.kind} in this model but {values.type} in {origin.where}. "
            "Write it as text, or leave it out and fit again."
        ) from None
    if pc.all(pc.is_in(text, pa.array([*column.levels, None], pa.string()))).as_py() is False:
        text = parsing.known_levels(text, column.levels, boolean=column.kind == "boolean", default_missing=default_missing)
    # A blank that is a level although no cell was missing: of a column that is marked or blank.
    return pc.fill_null(text, "") if "" in column.levels and not column.nullable else text


def _parsed(column: Column, text: pa.Array, origin: RowOrigin) -> pa.Array:
    origin.refuse(
        parsing.not_numbers(text),
        lambda i: f"column {column.name!r} is numeric in this model but {messages.quote(text[i].as_py())}",
        lambda i: parsing.cell_remedies(text[i].as_py(), column.name),
    )
    return parsing.numbers(text)


def _finite(column: Column, values: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return the values with null for NaN; no copy if all are finite."""
    # NaN and infinity propagate through the sum: one pass without a temporary. An overflow only costs the slow path.
    if math.isfinite(pc.sum(values, min_count=0).as_py()):
        return values
    origin.refuse(
        pc.fill_null(pc.is_inf(values), fill_value=False),
        lambda i: f"column {column.name!r} must be finite but is {values[i].as_py()}",
        lambda _: ("Declare it in --missing-values if it means a missing value", "correct the row"),
    )
    return pc.if_else(pc.is_finite(values), values, None)


def _seconds(column: Column, values: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return times in seconds since 1970, times of day since midnight, durations in seconds; other types unchanged."""
    kind = values.type
    if parsing.is_text_type(kind):
        values = _timed(column, values, origin)
    elif pa.types.is_temporal(kind):
        length = pa.types.is_time(kind) or pa.types.is_duration(kind)
        unit = (pa.duration if pa.types.is_duration(kind) else pa.time64)("us") if length else pa.timestamp("us")
        try:
            values = values.cast(unit, safe=False)
        except pa.ArrowException:
            return values
    else:
        return values
    return pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), 1e6)


def _timed(column: Column, text: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return text as timestamps; cell by cell if the formats differ."""
    try:
        return parsing.times(text)
    except pa.ArrowException:
        times = pa.array([parsing.parse_microseconds(cell) for cell in text.to_pylist()], pa.int64())
    origin.refuse(
        pc.and_(pc.is_null(times), pc.is_valid(text)),
        lambda i: f"column {column.name!r} holds times in this model but {messages.quote(text[i].as_py())}",
        lambda i: parsing.TEXT_REMEDIES if text[i].as_py().strip() != column.name else parsing.REPEATED_HEADER_REMEDY,
    )
    return times
