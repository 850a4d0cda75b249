"""Exports of many programs hold the same table: written as each of them writes it, a model sees the same columns and cells.

The files are made here in the form of the program; ``benchmarks/results/file_shapes.md`` says what was tried, with which libraries.
"""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vae_anomaly.config import DataConfig, Reading
from vae_anomaly.schema.schema import Schema, conform, infer_schema
from vae_anomaly.tables.source import open_source

ROWS = 120
PIVOT = "tag={},value={},time={}"


def made() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-03-21", periods=ROWS, freq="1min"),
            "temp": random.normal(60, 5, ROWS).round(2),
            "flow": random.normal(0, 2, ROWS).round(3),
            "state": random.choice(["high", "low", "mid"], ROWS),
            "pump": random.random(ROWS) < 0.5,  # half of them
        }
    )


TABLE = made()


def comma(values: pd.Series) -> list[str]:
    return [str(value).replace(".", ",") for value in values]


def words(true: str, false: str) -> pd.DataFrame:
    return TABLE.assign(pump=np.where(TABLE["pump"], true, false))


def german() -> str:
    table = words("WAHR", "FALSCH").assign(
        temp=comma(TABLE["temp"]), flow=comma(TABLE["flow"]), time=TABLE["time"].dt.strftime("%d.%m.%Y %H:%M")
    )
    return "\ufeff" + table.to_csv(sep=";", index=False, lineterminator="\r\n")


def rules_of_mysql() -> str:
    cells = [list(TABLE.columns), *TABLE.astype(str).to_numpy().tolist()]
    rule = "+" + "+".join("-" * 21 for _ in cells[0]) + "+"
    lines = ["| " + " | ".join(cell.ljust(19) for cell in row) + " |" for row in cells]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule]) + "\n"


def rules_of_psql() -> str:
    cells = [list(TABLE.columns), *TABLE.astype(str).to_numpy().tolist()]
    lines = [" " + " | ".join(cell.rjust(19) for cell in row) for row in cells]
    return "\n".join([lines[0], "+".join("-" * 21 for _ in cells[0]), *lines[1:]]) + f"\n({ROWS} rows)\n\n"


def campbell() -> str:
    head = '"TOA5","st","CR1000X","1","CR1000X.Std.05","CPU:a.CR1X","1","T1"\r\n"TIMESTAMP","temp","flow","state","pump"\r\n'
    return (
        head + '"TS","degC","m3/h","",""\r\n"","Avg","Smp","Smp","Smp"\r\n' + TABLE.to_csv(index=False, header=False, lineterminator="\r\n")
    )


def long_of(tag: str, value: str, time: str, sign: str = ",", **more: str) -> str:
    long = TABLE[["time", "temp", "flow"]].melt("time", var_name=tag, value_name=value).sort_values("time", kind="stable")
    return long.rename(columns={"time": time}).assign(**more).to_csv(index=False, sep=sign, decimal="," if sign == ";" else ".")


def annotated() -> str:
    head = "#group,false,false,false,false,true\n#datatype,string,long,dateTime:RFC3339,double,string\n#default,_result,,,,\n"
    head += ",result,table,_time,_value,_field\n"
    rows = [
        "".join(f",,{i},{time:%Y-%m-%dT%H:%M:%SZ},{value},{name}\n" for time, value in zip(TABLE["time"], TABLE[name], strict=True)) + "\n"
        for i, name in enumerate(("temp", "flow"))
    ]
    return head + "".join(rows)


WIDE: dict[str, tuple[Callable[[], str], Reading]] = {
    "grafana": (lambda: "sep=,\n" + TABLE.rename(columns={"time": "Time"}).to_csv(index=False), Reading()),
    "excel in german": (german, Reading()),
    "excel in french": (lambda: words("VRAI", "FAUX").to_csv(sep=";", decimal=",", index=False), Reading()),
    "answers in german": (lambda: words("ja", "nein").to_csv(index=False), Reading()),
    "answers in spanish": (lambda: words("Sí", "No").to_csv(index=False), Reading()),
    "sap, X or blank": (lambda: words("X", "").to_csv(index=False), Reading()),
    "postgres copy": (lambda: words("t", "f").to_csv(index=False), Reading()),
    "psql": (rules_of_psql, Reading(on_error="skip")),
    "mysql": (rules_of_mysql, Reading(skip_rows=1, on_error="skip")),
    "sql server": (lambda: TABLE.to_csv(index=False) + f"\n({ROWS} rows affected)\n", Reading(on_error="skip")),
    "snowflake unload": (lambda: TABLE.to_csv(index=False, header=False), Reading(no_header=True)),
    "hive": (lambda: TABLE.to_csv(index=False, header=False, sep="\x01"), Reading(no_header=True)),
    "redshift unload": (lambda: words("t", "f").to_csv(index=False, header=False, sep="|"), Reading(no_header=True)),
    "campbell": (campbell, Reading()),
    "r, write.csv": (lambda: words("TRUE", "FALSE").to_csv(quoting=2), Reading()),
    "r, write.csv2": (lambda: words("TRUE", "FALSE").to_csv(sep=";", decimal=","), Reading()),
    "bytes of python": (lambda: TABLE.assign(state=[f"b'{s}'" for s in TABLE["state"]]).to_csv(index=False), Reading()),
    "clock in seconds": (
        lambda: TABLE.assign(time=np.arange(ROWS) * 0.1).rename(columns={"time": "timestamps"}).to_csv(index=False),
        Reading(),
    ),
    "total below": (lambda: TABLE.to_csv(index=False) + "Total,7200,1.5,,\n", Reading(on_error="skip")),
    "header again": (lambda: TABLE[:60].to_csv(index=False) + TABLE[60:].to_csv(index=False), Reading(on_error="skip")),
    "other table below": (
        lambda: TABLE.to_csv(index=False) + "\ntime,power,flow,state,pump\n2024-03-22,9,1,low,True\n",
        Reading(on_error="skip"),
    ),
}
LONG: dict[str, tuple[str, Reading]] = {
    "pi": (long_of("Point", "Value", "Timestamp"), Reading(pivot=PIVOT.format("Point", "Value", "Timestamp"))),
    "wincc": (long_of("VarName", "VarValue", "TimeString", ";"), Reading(pivot=PIVOT.format("VarName", "VarValue", "TimeString"))),
    "wonderware": (
        long_of("TagName", "Value", "DateTime", OPCQuality="192"),
        Reading(pivot=PIVOT.format("TagName", "Value", "DateTime") + ",every=1min", quality_column="OPCQuality"),
    ),
    "opc ua": (
        long_of("NodeId", "Value", "SourceTimestamp", StatusCode="0x00000000"),
        Reading(pivot=PIVOT.format("NodeId", "Value", "SourceTimestamp"), quality_column="StatusCode"),
    ),
    "influx": (annotated(), Reading(pivot=PIVOT.format("_field", "_value", "_time"))),
    "node-red": (long_of("topic", "payload", "ts"), Reading(pivot=PIVOT.format("topic", "payload", "ts"))),
}


def read(path: Path, reading: Reading) -> tuple[Schema, list[pa.Array]]:
    table = open_source([str(path)], reading).read_table()
    schema = infer_schema(table, DataConfig())
    batch = conform(schema, table.combine_chunks().to_batches()[0], where="x")
    # Booleans by their meaning, whatever their levels are called.
    columns = zip(schema.columns, batch.columns, strict=True)
    return schema, [pc.equal(cells, c.levels[1]) if c.kind == "boolean" else cells for c, cells in columns]


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("packed", [False, True])
def test_a_wide_export_is_the_table(tmp_path: Path, name: str, *, packed: bool) -> None:
    text, reading = WIDE[name][0](), WIDE[name][1]
    path = tmp_path / ("x.csv.gz" if packed else "x.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    schema, cells = read(path, reading)
    assert [column.kind for column in schema.columns] == ["numeric", "numeric", "category", "boolean"]
    assert not any(column.nullable for column in schema.columns)
    expected = [TABLE["temp"], TABLE["flow"], TABLE["state"], TABLE["pump"]]
    assert [column.to_pylist() for column in cells] == [values.tolist() for values in expected]


@pytest.mark.parametrize("name", LONG)
def test_a_long_export_is_the_table(tmp_path: Path, name: str) -> None:
    text, reading = LONG[name]
    (tmp_path / "x.csv").write_text(text)
    schema, cells = read(tmp_path / "x.csv", reading)
    assert [(column.name, column.kind) for column in schema.columns] == [("flow", "numeric"), ("temp", "numeric")]
    assert [column.to_pylist() for column in cells] == [TABLE["flow"].tolist(), TABLE["temp"].tolist()]
