"""Cautions on columns of a fit that look like labels, or that change only where such a column does. Computed before training."""

import shlex
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.config import DataConfig
from vae_anomaly.messages import listed, option_names, quote, shorten_list
from vae_anomaly.schema import parsing
from vae_anomaly.schema.keys import group_codes
from vae_anomaly.schema.label_names import LOOKS_LIKE_LABEL, LikelyLabel, likely_label
from vae_anomaly.schema.schema import Schema


def label_cautions(table: pa.Table, schema: Schema, data: DataConfig) -> tuple[str, ...]:
    """Return cautions on the columns of the rows of a fit that look like labels: those left out, those kept, and their companions."""
    out = {c.name: found for c in schema.dropped if c.reason.startswith(LOOKS_LIKE_LABEL) and (found := _likely(table, c.name))}
    kept = {c.name: found for c in schema.columns if c.name not in data.include and (found := _likely(table, c.name))}
    companions = _companions(table, schema, list(out)) if data.label_column is None else []
    return tuple(
        text
        for names, text in (
            (out, _left_out(out, named=data.label_column is not None)),
            (kept, _kept(kept, named=data.label_column is not None)),
            (companions, _with_companions(companions, list(out))),
        )
        if names
    )


def _likely(table: pa.Table, name: str) -> LikelyLabel | None:
    return likely_label(name, table[name])


def _left_out(found: dict[str, LikelyLabel], *, named: bool) -> str:
    them = _described(found)
    if named:
        return f"{them}: left out besides the label that was named, because other labels give it away. Keep a column with --include"
    first, several = shlex.quote(next(iter(found), "")), option_names(found)
    return (
        f"{them}: left out, and all rows were trained on as normal ones. Give --label-column {first} so that only normal rows are, "
        f"--exclude {several} if they are, or keep {'it' if len(found) == 1 else 'them'} with --include {several}"
    )


def _kept(found: dict[str, LikelyLabel], *, named: bool) -> str:
    first, several = shlex.quote(next(iter(found), "")), option_names(found)
    ways = f"give --exclude {several}" if named else f"give --label-column {first} or --exclude {several}"
    return f"{_described(found, 'may be a label', 'may be labels')}: kept as an input. If it is one, {ways}; if not, --include {several}"


def _with_companions(companions: Sequence[str], labels: Sequence[str]) -> str:
    ways = f"--exclude {option_names(companions)}"
    only = f"only where {' or '.join(map(quote, labels))} does, as labels do: kept as"
    if len(companions) == 1:
        return f"{listed(companions)} changes {only} an input. If it is a label, give {ways}"
    return f"{listed(companions)} change {only} inputs. If they are labels, give {ways}"


def _described(found: dict[str, LikelyLabel], one: str = "looks like a label", several: str = "look like labels") -> str:
    names = shorten_list(f"{quote(name)} ({label.words})" for name, label in found.items())
    return f"{names} {one if len(found) == 1 else several}"


def _companions(table: pa.Table, schema: Schema, labels: Sequence[str]) -> list[str]:
    """Return the columns of the model that vary, but not among the rows with the most frequent value of every label that varies."""
    usual = np.ones(table.num_rows, dtype=np.bool_)
    for name in labels:
        usual &= _most_frequent(table[name])
    if usual.all() or not usual.any():
        return []
    rows = table.filter(pa.array(usual))
    return [name for name in schema.names if _constant(rows[name]) and not _constant(table[name])]


def _most_frequent(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return whether each row has the most frequent value of its column, bool ``[n]``."""
    codes = group_codes(values)
    return np.asarray(codes == np.bincount(codes).argmax())


def _constant(values: pa.ChunkedArray) -> bool:
    return bool(pc.count_distinct(parsing.readable_text(parsing.supported(values)), mode="only_valid").as_py() <= 1)
