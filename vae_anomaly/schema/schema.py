"""Which columns a model reads, and how a batch is brought to them or refused.

A schema is inferred once, from the table of a fit, and kept with the model; ``conform`` enforces it by name. Knows nothing
about files (``where`` is only a word in an error) and nothing about tensors. What makes a kind: ``core.kinds``.
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
from vae_anomaly.schema.conform import RowOrigin, levels, numeric
from vae_anomaly.schema.inference import Column, Dropped, judge
from vae_anomaly.strict_json import parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The inputs of a model in their order, and what became of the other columns of the table it was fitted on."""

    columns: tuple[Column, ...]
    dropped: tuple[Dropped, ...] = ()
    time: str | None = None
    group: str | None = None
    label: str | None = None
    window: int = 1  # stored in format 1; windows of several rows are not supported yet

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(c.name for c in self.columns)

    @property
    def digest(self) -> str:
        """sha256 (hex) over all that changes how a row is read; labels and left-out columns do not."""
        state = {k: v for k, v in self.state().items() if k not in {"dropped", "label"}}
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def state(self) -> dict[str, Any]:
        """Return plain JSON values; ``Schema.from_state`` is the inverse."""
        return asdict(self)

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "Schema":
        """Build a schema from ``state()``, also after a trip through JSON.

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
    """Decide which columns of ``table`` a model reads, and of what kind.

    Raises
    ------
    ConfigError
        The config names a column that the table lacks, or names one twice with contrary meanings.
    DataError
        Duplicate names, no rows, or no column left.
    """
    check_duplicates(table.column_names, "the table")
    _check_named(table.column_names, data)
    if table.num_rows == 0:
        raise DataError("the table has no rows; a fit needs normal rows to learn from.")
    keys = taken_out(data)
    found = [
        Dropped(name=name, reason=keys[name]) if name in keys else judge(name, table[name], included=name in data.include)
        for name in table.column_names
    ]
    schema = Schema(
        columns=tuple(c for c in found if isinstance(c, Column)),
        dropped=tuple(c for c in found if isinstance(c, Dropped)),
        time=data.time_column,
        group=data.group_by,
        label=data.label_column,
    )
    if not schema.columns:
        reasons = "; ".join(f"{d.name!r}: {d.reason}" for d in schema.dropped[:NAMES_SHOWN])
        raise DataError(f"no column is left to learn from ({reasons}). Bring columns back with --include.")
    return schema


def check_duplicates(names: Sequence[str], where: str) -> None:
    """Raise DataError if a column name stands twice."""
    if len(set(names)) < len(names):
        twice = [n for n, count in Counter(names).items() if count > 1]
        raise DataError(f"{where} has columns of the same name: {listed(twice)}. Give every column its own name.")


def taken_out(data: DataConfig) -> dict[str, str]:
    """Map the columns that the config takes out to the reason; the more telling reason wins."""
    named = {"excluded": data.exclude, "id column": data.id_columns}
    keys = {name: reason for reason, names in named.items() for name in names}
    single = {"group column": data.group_by, "time column": data.time_column, "label": data.label_column}
    return keys | {name: reason for reason, name in single.items() if name is not None}


def _check_named(names: Sequence[str], data: DataConfig) -> None:
    named = [*taken_out(data), *data.include]
    absent = [n for n in dict.fromkeys(named) if n not in names]
    if absent:
        raise ConfigError(f"columns named in the options are not in the table: {absent_text(absent, names)}")
    both = [n for n in data.include if n in taken_out(data)]
    if both:
        raise ConfigError(f"--include names columns that another option takes out: {listed(both)}. Name each in one option only.")


def unknown_columns(schema: Schema, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that were not in the table of the fit at all, in their order."""
    known = {*schema.names, *(d.name for d in schema.dropped)}
    return tuple(n for n in names if n not in known)


def check_columns_present(schema: Schema, names: Sequence[str], where: str) -> None:
    """Raise SchemaMismatch that lists every column of the model that ``names`` lacks, with close matches."""
    there = set(names)
    absent = [n for n in schema.names if n not in there]
    if absent:
        raise SchemaMismatch(f"{where} lacks {len(absent):,} of the model's {len(schema.columns):,} columns: {absent_text(absent, names)}")


def conform(schema: Schema, batch: pa.RecordBatch, *, where: str, first_row: int = 0, bad: dict[int, str] | None = None) -> pa.RecordBatch:
    """Bring a batch to exactly the model's columns, in order; other columns are ignored.

    Numeric columns become float64, NaN and blank text null; boolean and category columns become ``string``, a boolean in the
    spelling of its levels. ``first_row`` is the place of the batch in ``where`` (from 0). With ``bad``, a cell that does not fit is no
    error: it becomes null, and its row's index in the batch with what is wrong goes there.

    Raises
    ------
    SchemaMismatch
        A column is missing or of a type that cannot be read; BadCell: it holds text or an infinity where the model has numbers.
    """
    check_duplicates(batch.schema.names, where)
    check_columns_present(schema, batch.schema.names, where)
    place = RowOrigin(where=where, first_row=first_row, bad=bad)
    arrays = [(numeric if c.kind == "numeric" else levels)(c, batch.column(c.name), place) for c in schema.columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(schema.names))
