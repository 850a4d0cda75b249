"""Bodies of requests to MLflow's scoring server with the rows of a table, one for each format that it takes."""

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv


def split(rows: pa.Table) -> dict[str, Any]:
    """Return the rows as lists beside the names of the columns."""
    return {"dataframe_split": {"columns": rows.column_names, "data": [list(row.values()) for row in rows.to_pylist()]}}


def records(rows: pa.Table) -> dict[str, Any]:
    """Return the rows as objects."""
    return {"dataframe_records": rows.to_pylist()}


def sparse(rows: pa.Table) -> dict[str, Any]:
    """Return the rows as objects without the keys of missing cells; the first has them all, and so the order of the columns."""
    first, *others = rows.to_pylist()
    return {"dataframe_records": [first, *({name: cell for name, cell in row.items() if cell is not None} for row in others)]}


def inputs(rows: pa.Table) -> dict[str, Any]:
    """Return the columns as lists."""
    return {"inputs": rows.to_pydict()}


def instances(rows: pa.Table) -> dict[str, Any]:
    """Return the rows as objects, as TensorFlow's servers take them."""
    return {"instances": rows.to_pylist()}


BODIES: dict[str, Callable[[pa.Table], dict[str, Any]]] = {
    "dataframe_split": split,
    "dataframe_records": records,
    "records without missing keys": sparse,
    "inputs": inputs,
    "instances": instances,
}


def csv_text(rows: pa.Table) -> bytes:
    """Return the rows as CSV."""
    out = io.BytesIO()
    pacsv.write_csv(rows, out)
    return out.getvalue()
