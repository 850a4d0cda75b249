"""What is wrong with the first line of a file, where the columns that are looked for are not in it.

Knows names only, those that were found and those that are wanted.
"""

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

from vae_anomaly.errors import SchemaMismatch
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.schema import Schema, check_columns_present
from vae_anomaly.tables.files import TableFile

_DATA = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?|\d{1,4}[-./:]\d{1,2}[-./:]\d{1,4}(?:[T ].*)?|[Nn][Aa][Nn]|\?|")
NO_HEADER = "Its first line does not look like a header; put column names there."
_BEGINS = {
    "sep=": "Its first line is for Excel only ('sep='): remove it.",
    "#": "Its first line is a comment: remove what stands above the header.",
    "<": "It is a web page or XML, perhaps of a login: download or export the table itself, as CSV.",
}


def check_header(schema: Schema, names: Sequence[str], file: TableFile) -> None:
    """Raise SchemaMismatch where a file with these columns lacks some of a model."""
    try:
        check_columns_present(schema, names, file.path)
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{error}{doubt(names, schema.names, file)}") from None


def doubt(names: Sequence[str], wanted: Iterable[str], file: TableFile) -> str:
    """Return a sentence, with a blank in front, on the header of a file that lacks columns; empty where it is like a header."""
    wanted = set(wanted)
    said = _of_first_line(names, wanted) if file.format == "delimited" and names else ""
    if not said and names and wanted.isdisjoint(names):
        said = "None of those that are expected is there: is it the right file?"
    return f" {said}" if said else ""


def _of_first_line(names: Sequence[str], wanted: set[str]) -> str:
    if any("\0" in name for name in names):
        return "It looks like UTF-32: save it as UTF-8."
    for begin, said in _BEGINS.items():
        if names[0].lower().startswith(begin):
            return said
    data = sum(bool(_DATA.fullmatch(name)) for name in names)
    if data > min(1, len(names) - 1):
        return NO_HEADER
    if len(names) == 1 and sum(name in names[0] for name in wanted) > 1:
        return "Its cells are not parted by a comma, a semicolon, a tab or |: write it with one of them."
    return ""


def check_same_names(files: Sequence[tuple[TableFile, Sequence[str]]]) -> None:
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
