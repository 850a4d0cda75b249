"""The schema of a model: its input columns, inferred from the table of the fit, and the conversion of batches to them.

Columns are matched by name. The rules for the kind of a column are in ``inference``; ``where`` names the table in errors.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from vae_anomaly.config import DataConfig
from vae_anomaly.errors import ConfigError, DamagedArtifact, DataError, SchemaMismatch
from vae_anomaly.messages import NAMES_SHOWN, absent_text, listed
from vae_anomaly.schema.conform import RowOrigin, conform_levels, conform_numeric
from vae_anomaly.schema.inference import Column, Dropped, infer_column
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

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the input columns, in order."""
        return tuple(c.name for c in self.columns)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal of everything that affects the encoding of a row; the label and dropped columns do not."""
        state = {k: v for k, v in self.state().items() if k not in {"dropped", "label"}}
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
    columns = [
        Dropped(name=name, reason=excluded[name]) if name in excluded else infer_column(name, table[name], included=name in data.include)
        for name in table.column_names
    ]
    schema = Schema(
        columns=tuple(c for c in columns if isinstance(c, Column)),
        dropped=tuple(c for c in columns if isinstance(c, Dropped)),
        time=data.time_column,
        group=data.group_by,
        label=data.label_column,
    )
    if not schema.columns:
        reasons = "; ".join(f"{d.name!r}: {d.reason}" for d in schema.dropped[:NAMES_SHOWN])
        raise DataError(f"no column is left to learn from ({reasons}). Bring columns back with --include.")
    return schema


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

    Numeric columns become float64, NaN and blank text null; boolean and category columns become ``string``, a boolean in the
    spelling of its levels. ``first_row`` is the index of the first row of the batch in ``where``, from 0. With ``bad``, a bad cell becomes
    null instead of an error, and the problem is added to ``bad`` by the index of the row in the batch.

    Raises
    ------
    SchemaMismatch
        A column is missing or of a type that cannot be converted.
    BadCell
        A numeric column has text that is no number, or an infinity.
    """
    check_duplicates(batch.schema.names, where)
    check_columns_present(schema, batch.schema.names, where)
    origin = RowOrigin(where=where, first_row=first_row, bad=bad)
    arrays = [(conform_numeric if c.kind == "numeric" else conform_levels)(c, batch.column(c.name), origin) for c in schema.columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(schema.names))
