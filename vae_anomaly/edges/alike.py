"""Whether the files of one table go together: the same columns, and types that one type can hold.

Knows neither formats nor models.
"""

from collections.abc import Sequence

import pyarrow as pa

from vae_anomaly.core.schema import absent_text
from vae_anomaly.edges.files import TableFile
from vae_anomaly.edges.headers import doubt
from vae_anomaly.errors import SchemaMismatch


def check_names(files: Sequence[tuple[TableFile, Sequence[str]]]) -> None:
    """Refuse files, each with its column names, that have not the columns of the first one. Raises SchemaMismatch."""
    first, ours = files[0]
    for later, theirs in files[1:]:
        for file, other, has, wanted in ((later, first, theirs, ours), (first, later, ours, theirs)):
            absent = set(wanted) - set(has)
            if absent:
                said = f"{file.path} lacks columns that {other.path} has: {absent_text(sorted(absent), has)}"
                raise SchemaMismatch(said + doubt(has, wanted, file))


def check_types(paths: Sequence[str], tables: Sequence[pa.Table]) -> None:
    """Refuse files of which no one type can hold a column. Raises SchemaMismatch."""
    for name in clashing(tables):
        kinds = [t.schema.field(name).type for t in tables]
        other = next(i for i, _ in enumerate(kinds) if unified(kinds[: i + 1]) is None)
        raise SchemaMismatch(
            f"column {name!r} is {kinds[0]} in {paths[0]} but {kinds[other]} in {paths[other]}. "
            "Give it one type in all files, or read them apart."
        )


def clashing(tables: Sequence[pa.Table]) -> list[str]:
    """Return the columns whose types in the tables have no common one."""
    return [n for n in tables[0].schema.names if unified([t.schema.field(n).type for t in tables]) is None]


def unified(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the type that holds values of all these types, or None."""
    distinct = list(dict.fromkeys(kinds))
    if len(distinct) == 1:
        return distinct[0]
    try:
        return pa.unify_schemas([pa.schema([("column", kind)]) for kind in distinct], promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
