"""Delta tables as engines make them, and the rows that an engine's own reader gives of them."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vae_anomaly.config import Reading
from vae_anomaly.tables.source import open_source

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def rows(count: int, first: int = 0) -> pa.Table:
    """Rows with a key ``id``, numbers, a category and a line to partition by."""
    generator = np.random.default_rng(first)
    lines = np.array(["A b", "B/c", "ü%20"], dtype=object)[generator.integers(0, 3, count)]
    return pa.table(
        {
            "id": pa.array(range(first, first + count), pa.int64()),
            "temp": generator.normal(20, 1, count),
            "count": pa.array(generator.integers(0, 9, count), pa.int32()),
            "mode": generator.choice(["auto", "man"], count),
            "line": pa.array(lines.tolist(), pa.string()),
        }
    )


def engine_rows(path: Path, version: int | None = None) -> pa.Table:
    """Return the rows that deltalake's own engine gives, by ``id``."""
    from deltalake import DeltaTable, QueryBuilder

    table = DeltaTable(path, version=version)
    found = pa.table(QueryBuilder().register("t", table).execute("select * from t").read_all())
    names = [field.name for field in table.schema().fields]
    return plain(found.select(names)).sort_by("id")


def our_rows(path: Path | str, at: str | None = None) -> pa.Table:
    """Return the rows that this package gives, by ``id``."""
    return plain(open_source([str(path)], Reading(at=at)).read_table()).sort_by("id")


def plain(table: pa.Table) -> pa.Table:
    """Return a table without views and wide offsets, in one piece."""
    narrow = {pa.string_view(): pa.string(), pa.large_string(): pa.string()}
    return table.cast(pa.schema([(f.name, narrow.get(f.type, f.type)) for f in table.schema])).combine_chunks()


def delete_by_vector(path: Path, positions: Sequence[int], file: int = 0) -> None:
    """Delete rows of a file of the current version by an inline deletion vector (Delta protocol, storage type ``i``)."""
    from deltalake import DeltaTable

    version = DeltaTable(path).version()
    log = path / "_delta_log"
    actions = [json.loads(line) for v in range(version + 1) for line in (log / f"{v:020d}.json").read_text().splitlines()]
    add: dict[str, Any] = [action["add"] for action in actions if "add" in action][file]
    stats = json.loads(add["stats"]) | {"tightBounds": False}
    remove = {key: add[key] for key in ("path", "partitionValues", "size")} | {"deletionTimestamp": 1, "dataChange": True}
    remove["extendedFileMetadata"] = True
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(positions) - 1, 16) + struct.pack(f"<{len(positions)}H", *positions)
    blob = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    blob += b"\0" * (-len(blob) % 4)
    vector = {"storageType": "i", "pathOrInlineDv": _z85(blob), "sizeInBytes": len(blob), "cardinality": len(positions)}
    add |= {"stats": json.dumps(stats), "deletionVector": vector}
    commit = {"commitInfo": {"timestamp": add["modificationTime"] + 1, "operation": "DELETE"}}
    lines = "".join(f"{json.dumps(action)}\n" for action in (commit, {"remove": remove}, {"add": add}))
    (log / f"{version + 1:020d}.json").write_text(lines)


def rename_columns(path: Path, names: Mapping[str, str], added: str) -> None:
    """Rename columns of a mapped table and add one of numbers (Delta protocol, column mapping): the log alone changes, and no file."""
    from deltalake import DeltaTable

    version = DeltaTable(path).version()
    log = path / "_delta_log"
    actions = [json.loads(line) for v in range(version + 1) for line in (log / f"{v:020d}.json").read_text().splitlines()]
    about: dict[str, Any] = [action["metaData"] for action in actions if "metaData" in action][-1]
    schema = json.loads(about["schemaString"])
    for field in schema["fields"]:
        field["name"] = names.get(field["name"], field["name"])
    number = len(schema["fields"]) + 1
    mapped = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": f"col-{number}"}
    schema["fields"].append({"name": added, "type": "double", "nullable": True, "metadata": mapped})
    about["configuration"]["delta.columnMapping.maxColumnId"] = str(number)
    about["schemaString"] = json.dumps(schema)
    commit = {"commitInfo": {"timestamp": about["createdTime"] + 2, "operation": "CHANGE COLUMNS"}}
    lines = "".join(f"{json.dumps(action)}\n" for action in (commit, {"metaData": about}))
    (log / f"{version + 1:020d}.json").write_text(lines)


def _z85(data: bytes) -> str:
    words = []
    for value in struct.unpack(f">{len(data) // 4}I", data):
        digits = [_DIGITS[value // 85**i % 85] for i in range(4, -1, -1)]
        words.append("".join(digits))
    return "".join(words)
