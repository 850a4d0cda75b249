"""Text files of known programs, by their first lines: where the column names are, and which rows below them hold no data.

Loggers and historians write more than a header. Here is what is certain by a signature, and what a row of units looks like; lines that
no signature explains are left to ``csv_head``.
"""

import csv
import re
from collections.abc import Sequence
from itertools import takewhile

from vae_anomaly.errors import DataError
from vae_anomaly.messages import quote
from vae_anomaly.tables.csv_head import Export

_ANNOTATIONS = ("#group", "#datatype", "#default")
_END_OF_HEADER = "***End_of_Header***"

# Units by their atoms, after prefixes and before exponents: bar, m3/h, kJ/(kg K), °C. Compared as written, then in small letters.
_ATOMS = frozenset({
    "%", "‰", "°", "°C", "°F", "°K", "ºC", "ºF", "℃", "℉", "C", "F", "K", "A", "V", "W", "J", "N", "T", "H", "S", "Ω", "l", "L", "m",
    "g", "s", "h", "d", "a", "t", "u", "B", "Pa", "bar", "barg", "bara", "barü", "psi", "psia", "psig", "atm", "torr", "Hz", "min",
    "mol", "eq", "cal", "Wh", "VA", "var", "Ah", "Nm", "ohm", "lx", "lm", "cd", "dB", "rad", "sr", "Bq", "Gy", "Sv", "eV", "ppm", "ppb",
    "pH", "NTU", "rpm", "in", "ft", "yd", "mi", "lb", "lbs", "oz", "gal", "bbl", "BTU", "MMBTU", "hp", "cfm", "scfm", "gpm", "inHg",
    "inH2O", "mmHg", "mmWC", "mH2O", "rel", "vol", "wt", "hr", "hrs", "sec", "secs", "mins", "hour", "hours", "minute", "minutes",
    "second", "seconds", "day", "days", "ms", "year", "deg", "degree", "degrees", "degC", "degF", "degK", "deg_C", "deg_F", "celsius",
    "fahrenheit", "kelvin", "pascal", "volt", "volts", "ampere", "amps", "amp", "watt", "watts", "meter", "meters", "metre", "percent",
    "pct", "count", "counts", "cnt", "pcs", "stk", "st", "units", "unit", "unitless", "dimensionless", "none", "x", "Nm3", "Sm3", "Nl",
    "rev", "u/min", "upm", "cp", "cst", "ts", "rn", "utc", "mat", "knots", "kn", "kt", "kts", "kph", "mph", "mwh", "kwh", "mv", "mbar",
    "hpa", "kpa", "mpa", "rh", "%rh", "kw", "mw",
})  # fmt: skip
_PREFIXES = ("", "k", "M", "G", "T", "m", "µ", "μ", "u", "n", "p", "h", "c", "d", "da")
_LOWER_ATOMS = frozenset(atom.lower() for atom in _ATOMS)
# Between atoms: products, quotients and powers.
_BETWEEN = re.compile(r"[*/·.×^ ()²³⁻¹⁰⁴-]|(?<=[A-Za-z])[+-]?\d+|\bper\b|\d+(?=/)")
_BRACKETS = re.compile(r"[\[(<{].{0,20}[\])>}]")
# Types and other remarks that stand below names: of databases, of loggers, and patterns of dates.
_TYPES = frozenset({
    "string", "str", "text", "char", "varchar", "double", "float", "float32", "float64", "real", "decimal", "numeric", "number", "int",
    "int16", "int32", "int64", "integer", "long", "short", "bigint", "smallint", "uint16", "uint32", "word", "dword", "bool", "boolean",
    "date", "datetime", "timestamp", "time", "date/time", "avg", "average", "mean", "smp", "sample", "tot", "total", "max", "min", "std",
    "med", "wvc", "unit", "units", "type", "value", "raw", "analog", "digital", "category", "dimension",
})  # fmt: skip
_PATTERN = re.compile(r"[yYMdDhHmsSTZfaAp%:./, '_\-\[\]]{4,}")

_NO_UNIT = {"n/a", "na", "nan", "none", "null"}


def are_units(cells: Sequence[str], above_numbers: Sequence[str]) -> bool:
    """Whether a row holds units or types: every text in it is one, at least one of them in a column of numbers or times.

    >>> are_units(["", "degC", "m3/h", ""], ["", "degC", "m3/h"]), are_units(["", "low", "", ""], ["", "low", ""])
    (True, False)
    """
    texts = [cell.strip() for cell in cells if cell.strip()]
    units = [cell.strip() for cell in above_numbers if not _is_empty(cell)]
    # One letter alone may be a level of a category.
    return (len(units) > 1 or any(len(unit) > 1 for unit in units)) and all(_is_empty(text) or _is_unit(text) for text in texts)


def _is_empty(text: str) -> bool:
    """Whether a cell stands for no unit; a rule below the names is made of such cells too."""
    # A first row of data may hold a missing text and a letter: ``n/a`` alone is no unit a year.
    if text.strip().lower() in _NO_UNIT:
        return True
    return re.fullmatch(r"[-–—=_. 1]*", text.strip()) is not None and len(text.strip()) < 2  # noqa: PLR2004


def _is_unit(text: str) -> bool:
    if _BRACKETS.fullmatch(text) or text.lower() in _TYPES or re.fullmatch(r"[-=_+]{2,}", text):
        return True
    if re.search(r"[yd]{2}", text, re.IGNORECASE) and _PATTERN.fullmatch(text):
        return True
    return all(_is_atom(part) for part in _BETWEEN.split(text) if part) and bool(re.search(r"[^\W\d_]|[%°‰]", text))


def _is_atom(part: str) -> bool:
    if part in _ATOMS or part.lower() in _LOWER_ATOMS:
        return True
    return any(part.startswith(prefix) and part[len(prefix) :] in _ATOMS for prefix in _PREFIXES if prefix)


def known_export(content: str, path: str) -> Export | None:
    """Return what the signature of a file says; None if it has none.

    Raises
    ------
    DataError
        The file is binary below its header, or has default values in its annotations.
    """
    lines = re.split(r"\r\n?|\n", content)
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    for signature in (_campbell, _ignition, _labview, _influx, _comments):
        export = signature(lines, first, path)
        if export is not None:
            return export
    return None


def _campbell(lines: Sequence[str], first: int, path: str) -> Export | None:
    """Campbell Scientific: a line on the station, the names, and in TOA5 units and processing."""
    kind = re.match(r'"?(TOA5|TOACI1|TOB[123])"?[,;\t]', lines[first])
    if kind is None:
        return None
    if kind[1].startswith("TOB"):
        raise DataError(
            f"{path} is a binary file of a Campbell logger ({kind[1]}). Convert it to TOA5 or CSV, with CardConvert for instance."
        )
    below = 2 if kind[1] == "TOA5" else 0
    return Export(program=f"a file of a Campbell logger ({kind[1]}), names in line {first + 2}", line=first + 2, below=below)


def _ignition(lines: Sequence[str], first: int, path: str) -> Export | None:
    """Ignition's data sets: #NAMES, names, #TYPES, types, #ROWS with their number."""
    del path
    marks = [line.strip().strip('",').upper() for line in lines[first : first + 5]]
    if len(marks) < 5 or marks[0] != "#NAMES" or marks[2] != "#TYPES" or not marks[4].startswith("#ROWS"):  # noqa: PLR2004
        return None
    return Export(program="a data set of Ignition (#NAMES, #TYPES, #ROWS)", line=first + 2, below=3)


def _labview(lines: Sequence[str], first: int, path: str) -> Export | None:
    """LabVIEW's measurement file: a head of the file, one of the channels, names; a comment may follow in each row."""
    del path
    ends = [i for i, line in enumerate(lines) if line.startswith(_END_OF_HEADER)]
    if not lines[first].startswith("LabVIEW Measurement") or not ends:
        return None
    header = next((i for i, line in enumerate(lines) if i > ends[:2][-1] and line.strip()), None)
    if header is None:
        return None
    separator = next((line[len("Separator") :].strip() for line in lines[: ends[0]] if line.startswith("Separator")), "Tab")
    delimiter = "," if "Comma" in separator else "\t"
    return Export(
        program=f"a LabVIEW measurement file, names in line {header + 1}",
        line=header + 1,
        delimiter=delimiter,
        unread=frozenset({"Comment"}),
    )


def _influx(lines: Sequence[str], first: int, path: str) -> Export | None:
    """InfluxDB's annotated CSV: #group, #datatype and #default, then names; result and table number the tables."""
    annotations = [line.lstrip('"') for line in takewhile(lambda line: line.lstrip('"').startswith("#") or not line.strip(), lines[first:])]
    if not any(line.startswith(_ANNOTATIONS) for line in annotations):
        return None
    header = first + len(annotations)
    names = next(csv.reader(lines[header : header + 1]), [])
    for line in annotations:
        default = next(csv.reader([line]), []) if line.startswith("#default") else []
        used = [name for name, value in zip(names[1:], default[1:], strict=False) if value and name not in {"result", "table"}]
        if used:
            raise DataError(f"{path} is annotated CSV with a default value for {quote(used[0])}. Write the values into the rows.")
    program = f"annotated CSV of InfluxDB, names in line {header + 1}; its columns result and table are not read"
    return Export(program=program, line=header + 1, unread=frozenset({"", "result", "table"}), annotated=True)


def _comments(lines: Sequence[str], first: int, path: str) -> Export | None:
    """Lines that begin with #, the last of which may have the names, as numpy.savetxt writes them."""
    del path
    above = list(takewhile(lambda i: lines[i].startswith("#") or not lines[i].strip(), range(first, len(lines))))
    comments = [i for i in above if lines[i].startswith("#")]
    if not comments:
        return None
    last = lines[comments[-1]]
    # '#id' alone is a name; '# id' is a comment with a name.
    name = last.lstrip("#").lstrip()
    plain = len(comments) == 1 and not re.match(r"#+\s", last)
    return Export(line=comments[-1] + 1, comments=True, comment=last if plain or name[:1] in {"", ",", ";", "\t", "|"} else name)
