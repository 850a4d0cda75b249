"""What is wrong with the first line of a file, where the columns that are looked for are not in it.

Knows names only, those that were found and those that are wanted.
"""

import re
from collections.abc import Iterable, Sequence

from vae_anomaly.core.schema import Schema, check_present
from vae_anomaly.edges.files import TableFile
from vae_anomaly.errors import SchemaMismatch

_DATA = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?|\d{1,4}[-./:]\d{1,2}[-./:]\d{1,4}(?:[T ].*)?|[Nn][Aa][Nn]|\?|")
NO_HEADER = "Its first line does not look like a header; put column names there."
_BEGINS = {
    "sep=": "Its first line is for Excel only ('sep='): remove it.",
    "#": "Its first line is a comment: remove what stands above the header.",
    "<": "It is a web page or XML, perhaps of a login: download or export the table itself, as CSV.",
}


def check_columns(schema: Schema, names: Sequence[str], file: TableFile) -> None:
    """Raise SchemaMismatch where a file with these columns lacks some of a model."""
    try:
        check_present(schema, names, file.path)
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
