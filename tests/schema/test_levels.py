import gzip
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vae_anomaly.config import DEFAULT_READING, DataConfig, Reading
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.keys import read_labels
from vae_anomaly.schema.levels import boolean_pair, fitted_level, fitted_texts, label_key
from vae_anomaly.schema.schema import Schema, conform, infer_schema
from vae_anomaly.tables.source import open_source

LABEL = "fault_label"


@pytest.mark.parametrize(
    ("level", "spellings"),
    [("2", ["2", "2.0", " 2 ", "2."]), ("007", ["007", " 007"]), ("2.50", ["2.50"]), ("eco", ["eco", "eco ", "eco\0\0"])],
)
def test_spellings_of_a_level(level: str, spellings: list[str]) -> None:
    assert {fitted_level(text) for text in spellings} == {level}


@pytest.mark.parametrize(
    ("texts", "pair"),
    [
        (["0", "1.0"], ("0", "1")), (["TRUE", "False"], ("false", "true")), (["yes", "NO"], ("no", "yes")), (["t", "f"], ("false", "true")),
        (["0", "2"], None), (["no"], None), (["0"], None), (["true"], ("false", "true")), (["yes", "true"], None),
    ],
)  # fmt: skip
def test_a_boolean_by_its_spellings(texts: list[str], pair: tuple[str, str] | None) -> None:
    assert boolean_pair(texts) == pair


def test_empty_text_is_missing_unless_the_fit_has_both() -> None:
    def levels(cells: list[str | None], *, default_missing: bool = True) -> list[str | None]:
        return list(fitted_texts(pa.chunked_array([cells], pa.string()), default_missing=default_missing).to_pylist())

    assert levels(["a", "", "b"]) == ["a", None, "b"]
    assert levels(["a", "", None]) == ["a", "", None]
    assert levels(["a", "NA", "null"]) == ["a", None, None]
    assert levels(["a", "NA"], default_missing=False) == ["a", "NA"]


def test_labels_of_one_value() -> None:
    assert {label_key(text) for text in ("0", "0.0", "false", "FALSE", " 0 ")} == {"0"}
    assert (label_key("Leak"), label_key(" leak")) == ("Leak", "leak")


def test_a_level_that_the_schema_knows_is_that_level_also_where_it_usually_means_missing() -> None:
    schema = Schema(columns=(Column(name="land", kind="category", levels=("NA", "DE")),))
    batch = pa.RecordBatch.from_pydict({"land": ["NA", "DE", "null", "", "US"]})
    assert conform(schema, batch, where="x")["land"].to_pylist() == ["NA", "DE", None, None, "US"]


# ── one table, many ways ─────────────────────────────────────────────────────────────────────────────────────────────

Cells = dict[str, list[object]]


@st.composite
def made_tables(draw: st.DrawFn) -> Cells:
    """Rows of numbers exact in float32, whole numbers, 0/1, booleans, levels, labels; some cells are missing."""
    n = draw(st.integers(20, 40))

    def column(cell: st.SearchStrategy[object], *, gaps: bool = True) -> list[object]:
        cells = draw(st.lists(cell, min_size=n, max_size=n))
        return [None if gaps and draw(st.integers(0, 9)) == 0 else cell for cell in cells]

    table = {
        "x": column(st.integers(-4000, 4000).map(lambda i: i / 8)),
        "whole": column(st.integers(0, 9)),
        "bit": [0, 1, *column(st.integers(0, 1))[2:]],
        "run": [True, False, *column(st.booleans())[2:]],
        "mode": ["auto", "eco", *column(st.sampled_from(["auto", "eco", "hand drawn", "ü"]))[2:]],
        LABEL: [0, 1, *column(st.integers(0, 1), gaps=False)[2:]],
    }
    table["x"][:3], table["whole"][:3] = [0.5, -1.25, 3.0], [3, 4, 5]
    return table


def arrow(cells: Cells, **types: pa.DataType) -> pa.Table:
    return pa.table({name: pa.array(values, types.get(name)) for name, values in cells.items()})


def csv_text(cells: Cells, write: Callable[[object], str], delimiter: str = ",") -> str:
    rows = zip(*cells.values(), strict=True)
    return "\n".join([delimiter.join(cells), *(delimiter.join("" if c is None else write(c) for c in row) for row in rows)]) + "\n"


def digits(cell: object) -> str:
    return f"{cell:.4f}" if isinstance(cell, int | float) and not isinstance(cell, bool) else str(cell)


def written_in_every_way(cells: Cells, folder: Path) -> dict[str, tuple[str, Reading]]:
    table = arrow(cells)
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get)
    ways: dict[str, Callable[[Path], object]] = {
        "plain.parquet": lambda p: pq.write_table(table, p),
        "float32.parquet": lambda p: pq.write_table(
            arrow(cells, x=pa.float32(), whole=pa.float32(), bit=pa.float32(), fault_label=pa.float64()), p
        ),
        "nullable.parquet": frame.to_parquet,
        "index.parquet": lambda p: (
            frame.sample(frac=1, random_state=0).sort_index().set_index(pd.Index(np.arange(len(frame))[::-1])).to_parquet(p)
        ),
        "shuffled.parquet": lambda p: pq.write_table(table.select(list(reversed(table.column_names))), p),
        "dictionary.parquet": lambda p: pq.write_table(table.set_column(4, "mode", table["mode"].dictionary_encode()), p),
        "large.parquet": lambda p: pq.write_table(arrow(cells, mode=pa.large_string(), whole=pa.uint8(), bit=pa.int8()), p),
        "bytes.parquet": lambda p: pq.write_table(table.set_column(4, "mode", pc.cast(table["mode"], pa.binary())), p),
        "decimal.parquet": lambda p: pq.write_table(
            arrow({**cells, "bit": [None if v is None else Decimal(str(v)) for v in cells["bit"]]}), p
        ),
        "stream.arrows": lambda p: _stream(table, p),
        "view.arrow": lambda p: _stream(table.set_column(4, "mode", table["mode"].cast(pa.string_view())), p),
        "plain.csv": lambda p: p.write_text(csv_text(cells, str)),
        "digits.csv": lambda p: p.write_text(csv_text(cells, digits)),
        "comma.csv": lambda p: p.write_text(csv_text(cells, lambda c: digits(c).replace(".", ","), ";")),
        "packed.csv.gz": lambda p: p.write_bytes(gzip.compress(csv_text(cells, str).encode())),
    }
    for name, write in ways.items():
        write(folder / name)
    return {name: (str(folder / name), DEFAULT_READING) for name in ways}


def _stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(made_tables())
def test_one_table_is_one_table_however_it_is_written(tmp_path: Path, cells: Cells) -> None:
    data, found = DataConfig(label_column=LABEL), {}
    ways = written_in_every_way(cells, tmp_path)
    reference = infer_schema(open_source([ways["plain.parquet"][0]]).read_table(), data)
    for name, (path, reading) in ways.items():
        source = open_source([path], reading)
        table = source.read_table()
        schema = infer_schema(table, data)
        columns = tuple(sorted(schema.columns, key=lambda c: list(cells).index(c.name)))
        streamed = pa.Table.from_batches(source.batches(reference)).combine_chunks().to_batches()[0]
        batch = encode(reference, streamed)
        labels = read_labels(table[LABEL], data.normal_labels)
        found[name] = (columns, [x.tolist() for x in (batch.numeric, batch.codes, batch.observed)], labels.normal.tolist(), labels.counts())
    for name, got in found.items():
        assert got == found["plain.parquet"], name
