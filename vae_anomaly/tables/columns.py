"""Check that files have the columns that are expected, and hint at what is wrong with a header that lacks them.

Works on names and types only.
"""

import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

from vae_anomaly.errors import SchemaMismatch
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.schema import Schema, check_columns_present
from vae_anomaly.tables.files import TableFile

# A name that looks like a number, a date, or a missing value.
_DATA = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?|\d{1,4}[-./:]\d{1,2}[-./:]\d{1,4}(?:[T ].*)?|[Nn][Aa][Nn]|\?|")
NO_HEADER = "Its first line does not look like a header; put column names there."
# Beginnings of a first line that is not a header, and the hint to give.
_NOT_HEADERS = {
    "sep=": "Its first line is for Excel only ('sep='): remove it.",
    "#": "Its first line is a comment: remove the lines above the header.",
    "<": "It is a web page or XML, perhaps a login page: download or export the table itself, as CSV.",
}


def check_header(schema: Schema, names: Sequence[str], file: TableFile) -> None:
    """Raise SchemaMismatch if a file with these column names lacks columns of a model."""
    try:
        check_columns_present(schema, names, file.path)
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{error}{header_hint(names, schema.names, file)}") from None


def header_hint(names: Sequence[str], wanted: Iterable[str], file: TableFile) -> str:
    """Return a sentence, after a blank, on why the header of a file may lack columns; empty if it looks like a header."""
    wanted = set(wanted)
    hint = _first_line_hint(names, wanted) if file.format == "delimited" and names else ""
    if not hint and names and wanted.isdisjoint(names):
        hint = "None of the expected columns is there: is it the right file?"
    return f" {hint}" if hint else ""


def _first_line_hint(names: Sequence[str], wanted: set[str]) -> str:
    if any("\0" in name for name in names):
        return "It looks like UTF-32: save it as UTF-8."
    for prefix, hint in _NOT_HEADERS.items():
        if names[0].lower().startswith(prefix):
            return hint
    data = sum(bool(_DATA.fullmatch(name)) for name in names)
    if data > min(1, len(names) - 1):
        return NO_HEADER
    if len(names) == 1 and sum(name in names[0] for name in wanted) > 1:
        return "Its cells are not separated by a comma, a semicolon, a tab or |: write it with one of them."
    return ""


def check_same_names(files: Sequence[tuple[TableFile, Sequence[str]]]) -> None:
    """Raise SchemaMismatch if a file has other column names than the first one."""
    first, first_names = files[0]
    for later, later_names in files[1:]:
        for file, other, has, wanted in ((later, first, later_names, first_names), (first, later, first_names, later_names)):
            absent = set(wanted) - set(has)
            if absent:
                text = f"{file.path} lacks columns that {other.path} has: {absent_text(sorted(absent), has)}"
                raise SchemaMismatch(text + header_hint(has, wanted, file))


def check_types(paths: Sequence[str], tables: Sequence[pa.Table]) -> None:
    """Raise SchemaMismatch if the types of a column have no common one."""
    for name in clashing_columns(tables):
        kinds = [t.schema.field(name).type for t in tables]
        other = next(i for i, _ in enumerate(kinds) if common_type(kinds[: i + 1]) is None)
        raise SchemaMismatch(
            f"column {name!r} is {kinds[0]} in {paths[0]} but {kinds[other]} in {paths[other]}. "
            "Give it one type in all files, or read them separately."
        )


def clashing_columns(tables: Sequence[pa.Table]) -> list[str]:
    """Return the columns whose types in these tables have no common one."""
    return [n for n in tables[0].schema.names if common_type([t.schema.field(n).type for t in tables]) is None]


def common_type(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the common type of these types by Arrow's permissive promotion, or None."""
    distinct = list(dict.fromkeys(kinds))
    if len(distinct) == 1:
        return distinct[0]
    try:
        return pa.unify_schemas([pa.schema([("column", kind)]) for kind in distinct], promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
