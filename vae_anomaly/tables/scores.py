"""Read an output of ``score`` back batch by batch, from Parquet or CSV.

Only the columns of the output are used, not the model that wrote them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.errors import DataError, SchemaMismatch
from vae_anomaly.explain.contributions import REST
from vae_anomaly.schema.keys import key_text
from vae_anomaly.tables.source import Source

SCORE_COLUMNS = ("anomaly_score", "p_value", "is_anomaly", "top_features")
# Missing time among int64 seconds.
NO_TIME = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredRows:
    """A batch of an output. ``first``: number of its first row. ``time``: key column with times, empty if there is none."""

    table: pa.RecordBatch
    first: int
    time: str
    where: str

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Anomaly scores ``[n]``, higher is more anomalous; NaN where missing."""
        return self._floats("anomaly_score")

    @cached_property
    def p_values(self) -> NDArray[np.float64]:
        """p-values ``[n]``, NaN where missing."""
        return self._floats("p_value")

    @cached_property
    def flags(self) -> NDArray[np.bool_]:
        """Whether a row was flagged ``[n]``."""
        column = self._cast("is_anomaly", pa.bool_())
        return np.asarray(pc.fill_null(column, fill_value=False).to_numpy(zero_copy_only=False), dtype=np.bool_)

    @cached_property
    def times(self) -> NDArray[np.int64] | None:
        """Seconds since 1970 ``[n]``, ``NO_TIME`` where missing; None without a time column."""
        seconds = as_seconds(self.table.column(self.time)) if self.time else None
        return None if seconds is None else np.asarray(pc.fill_null(seconds, NO_TIME).to_numpy(zero_copy_only=False), dtype=np.int64)

    def features(self, i: int) -> tuple[Mapping[str, Any], ...]:
        """Return the top features of row ``i`` without the rest that they leave."""
        value = self.table.column("top_features")[i].as_py()
        try:
            entries = json.loads(value) if isinstance(value, str) else value
            return tuple(entry for entry in entries or () if entry["column"] != REST)
        except (ValueError, TypeError, KeyError) as error:
            text = (
                f"top_features of {self.where} row {self.first + i + 1:,} (counted from 1) is not what score writes ({error}). "
                "Score the rows again."
            )
            raise DataError(" ".join(text.split())) from error

    def ids(self, i: int) -> dict[str, str | None]:
        """Return the keys of row ``i`` as text; the column ``row`` does not count as a key."""
        names = [name for name in key_columns(self.table.schema.names) if name != "row"]
        return {name: key_text(self.table.column(name)[i]) for name in names}

    def _floats(self, name: str) -> NDArray[np.float64]:
        return np.asarray(pc.fill_null(self._cast(name, pa.float64()), np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)

    def _cast(self, name: str, kind: pa.DataType) -> pa.Array:
        column = self.table.column(name)
        try:
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                column = pc.if_else(pc.equal(column, ""), None, column)
            return column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            text = f"column {name!r} of {self.where} is not what score writes ({error}). Score the rows again."
            raise DataError(" ".join(text.split())) from error


def key_columns(names: Sequence[str]) -> list[str]:
    """Return the key columns of an output: all before ``anomaly_score``."""
    return list(names[: list(names).index("anomaly_score")])


def read_scores(source: Source) -> Iterator[ScoredRows]:
    """Stream an output. Raises SchemaMismatch if the table is not one, DataError if it is damaged."""
    absent = [name for name in SCORE_COLUMNS if name not in source.names]
    if absent:
        raise SchemaMismatch(
            f"{source.where} is not an output of score: it lacks {', '.join(map(repr, absent))}. Give --scores a file that score wrote."
        )
    first, time = 0, None
    for batch in source.batches(None):
        if time is None:
            time = next((name for name in key_columns(batch.schema.names) if _holds_times(batch.column(name))), "")
        yield ScoredRows(table=batch, first=first, time=time, where=source.where)
        first += batch.num_rows


def _holds_times(column: pa.Array) -> bool:
    """Whether all values that are not missing are times, and there is at least one."""
    seconds = as_seconds(column)
    return seconds is not None and len(seconds) > seconds.null_count and seconds.null_count == _missing(column)


def _missing(column: pa.Array) -> int:
    empty = pc.sum(pc.equal(column, "")).as_py() if pa.types.is_string(column.type) else 0
    return int(column.null_count + (empty or 0))


def as_seconds(column: pa.Array) -> pa.Array | None:
    """Return times as whole seconds since 1970, all null if a text is not a time; None if the type of the column has no times."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = _parsed(column)
    elif not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return None
    return column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())


def _parsed(texts: pa.Array) -> pa.Array:
    """Parse text as times, all with a zone or all without; all null if one of them cannot be parsed."""
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            return pc.if_else(pc.equal(texts, ""), None, texts).cast(kind)
        except pa.ArrowInvalid:
            continue
    return pa.nulls(len(texts), pa.timestamp("us"))
