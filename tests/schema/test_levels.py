import datetime as dt
import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv as pacsv

from tests import tiny
from vae_anomaly.config import DEFAULT_READING, DataConfig, Reading
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.keys import read_labels
from vae_anomaly.schema.levels import boolean_pair, fitted_level, fitted_texts, label_key, missing_notes
from vae_anomaly.schema.schema import Schema, conform, infer_schema
from vae_anomaly.tables.source import open_source

LABEL = "fault_label"


@pytest.mark.parametrize(
    ("level", "spellings"),
    [
        ("2", ["2", "2.0", " 2 ", "2."]),
        ("007", ["007", " 007"]),
        ("2.50", ["2.50"]),
        ("eco", ["eco", "eco ", "eco\0\0", "b'eco'", 'b"eco" ']),
    ],
)
def test_spellings_of_a_level(level: str, spellings: list[str]) -> None:
    assert {fitted_level(text) for text in spellings} == {level}


@pytest.mark.parametrize(
    ("texts", "pair"),
    [
        (["0", "1.0"], ("0", "1")), (["TRUE", "False"], ("false", "true")), (["yes", "NO"], ("no", "yes")), (["t", "f"], ("false", "true")),
        (["WAHR", "falsch"], ("false", "true")), (["VRAI"], ("false", "true")), (["VERO", "FALSO"], ("false", "true")),
        (["ja", "Nein"], ("no", "yes")), (["oui", "NON"], ("no", "yes")), (["Sí", "No"], ("no", "yes")), (["J", "N"], ("no", "yes")),
        (["ja"], None), (["N", "S"], None), (["wahr", "nein"], None), (["0", "2"], None), (["no"], None), (["0"], None),
        (["true"], ("false", "true")),
        (["yes", "true"], None),
    ],
)  # fmt: skip
def test_a_boolean_by_its_spellings(texts: list[str], pair: tuple[str, str] | None) -> None:
    assert boolean_pair(texts) == pair


def test_empty_text_is_missing_unless_the_fit_has_both() -> None:
    def levels(cells: list[str | None], *, default_missing: bool = True) -> list[str | None]:
        return list(fitted_texts(pa.chunked_array([cells], pa.string()), default_missing=default_missing).to_pylist())

    assert levels(["a", "", "b"]) == ["a", None, "b"]
    assert levels(["a", "", None]) == ["a", "", None]
    assert levels(["a", " ", None]) == ["a", None, None]
    assert levels(["a", "", " ", "NA"]) == ["a", None, None, None]
    assert levels(["", None]) == [None, None]
    assert levels(["a", "NA", "null"]) == ["a", None, None]
    assert levels(["a", "NA"], default_missing=False) == ["a", "NA"]


def test_labels_of_one_value() -> None:
    assert {label_key(text) for text in ("0", "0.0", "false", "FALSE", " 0 ")} == {"0"}
    assert (label_key("Leak"), label_key(" leak")) == ("Leak", "leak")


def test_a_level_that_the_schema_knows_is_that_level_also_where_it_usually_means_missing() -> None:
    schema = Schema(columns=(Column(name="land", kind="category", levels=("NA", "DE")),))
    batch = pa.RecordBatch.from_pydict({"land": ["NA", "DE", "null", "", "US"]})
    assert conform(schema, batch, where="x")["land"].to_pylist() == ["NA", "DE", None, None, "US"]


def test_texts_that_were_read_as_missing_are_named() -> None:
    table = pa.table({"region": pa.array(["NA", "EU", " NA", "null", None]).dictionary_encode(), "x": [1.0, 2, 3, 4, 5], "mode": ["a"] * 5})
    assert missing_notes(table, ["region", "mode", "x"]) == (
        "column 'region': 'NA' (2 ×), 'null' (1 ×) read as missing cells; --no-default-missing keeps such texts as levels",
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_text_that_usually_means_missing_is_kept_on_request(tmp_path: Path, suffix: str) -> None:
    table, path = pa.table({"x": [1.5, 2.5, 3.5], "region": ["NA", "EU", "EU"]}), tmp_path / f"t.{suffix}"
    (pq.write_table if suffix == "parquet" else pacsv.write_csv)(table, path)
    for default, levels, cells in ((True, ("EU",), [None, "EU", "EU"]), (False, ("EU", "NA"), ["NA", "EU", "EU"])):
        source = open_source([str(path)], Reading(default_missing=default))
        schema = infer_schema(source.read_table(), DataConfig(default_missing=default))
        assert schema.columns[1] == Column(name="region", kind="category", levels=levels, nullable=default)
        for fitted in (
            schema,
            replace(schema, default_missing=not default),
        ):  # how this table is read decides, not how the fit read its own
            assert [b.as_py() for batch in source.batches(fitted) for b in batch["region"]] == cells


# ── one table, many ways ─────────────────────────────────────────────────────────────────────────────────────────────

Cells = dict[str, list[object]]
# Tables of the suite; ``make test-ways`` makes 200.
MADE_TABLES = int(os.environ.get("MADE_TABLES", "25"))


@st.composite
def made_tables(draw: st.DrawFn) -> Cells:
    """Rows of numbers exact in float32, whole numbers, 0/1, booleans, levels, numbers among words, labels; some cells are missing."""
    n = draw(st.integers(20, 40))

    def column(cell: st.SearchStrategy[object], *, gaps: bool = True) -> list[object]:
        cells = draw(st.lists(cell, min_size=n, max_size=n))
        return [None if gaps and draw(st.integers(0, 9)) == 0 else cell for cell in cells]

    table: Cells = {
        "x": column(st.integers(-4000, 4000).map(lambda i: i / 8)),
        "whole": column(st.integers(0, 9)),
        "bit": [0, 1, *column(st.integers(0, 1))[2:]],
        "run": [True, False, *column(st.booleans())[2:]],
        "mode": ["auto", "eco", *column(st.sampled_from(["auto", "eco", "hand drawn", "ü"]))[2:]],
        LABEL: [0, 1, *column(st.integers(0, 1), gaps=False)[2:]],
        "day": [dt.date(2024, 1, 1) + dt.timedelta(i) for i in range(n)],
        "mixed": ["7", "Bad", *column(st.sampled_from(["7", "12", "-3", "007", "Bad", "x9"]))[2:]],
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
        "dates.parquet": lambda p: pq.write_table(table.set_column(6, "day", table["day"].cast(pa.string())), p),
        "stamps.parquet": lambda p: pq.write_table(table.set_column(6, "day", table["day"].cast(pa.timestamp("ns"))), p),
        "packed.csv.gz": lambda p: p.write_bytes(gzip.compress(csv_text(cells, str).encode())),
    }
    for name, write in ways.items():
        write(folder / name)
    return {name: (str(folder / name), DEFAULT_READING) for name in ways}


def _partitioned(table: pa.Table, folder: Path, name: str) -> pa.Table:
    """Write the rows in a folder for each value of a column, as Hive and Spark do, and return them in the order of the folders."""
    values = {"__HIVE_DEFAULT_PARTITION__" if v is None else quote(str(v).lower()): v for v in table[name].unique().to_pylist()}
    parts = []
    for text, value in sorted(values.items()):
        mask = pc.is_null(table[name]) if value is None else pc.fill_null(pc.equal(table[name], value), fill_value=False)
        parts.append(table.filter(mask))
        place = folder / f"{name}={text}"
        place.mkdir(parents=True)
        pq.write_table(parts[-1].drop_columns([name]), place / "0.parquet")
    return pa.concat_tables(parts)


def _stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@settings(max_examples=MADE_TABLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(made_tables())  # the cells that the networks read are the same to the bit, and a score is a function of these alone
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


@settings(max_examples=max(10, MADE_TABLES // 2), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made_tables(), st.sampled_from(["whole", "bit", "run", "mode", "x"]))
def test_a_column_in_the_names_of_folders_is_that_column(tmp_path_factory: pytest.TempPathFactory, cells: Cells, name: str) -> None:
    folder, data = tmp_path_factory.mktemp("hive"), DataConfig(label_column=LABEL)
    ordered = _partitioned(arrow(cells), folder / "hive", name)
    pq.write_table(ordered, folder / "plain.parquet")
    plain, hive = (open_source([str(folder / where)]) for where in ("plain.parquet", "hive"))
    schema = infer_schema(plain.read_table(), data)
    assert set(infer_schema(hive.read_table(), data).columns) == set(schema.columns)
    one, two = (pa.Table.from_batches(source.batches(schema)) for source in (plain, hive))
    assert one.to_pydict() == two.to_pydict()


def test_a_table_has_the_same_scores_and_flags_however_it_is_written(tmp_path: Path) -> None:
    random, n = np.random.default_rng(0), 300
    cells: Cells = {
        "x": [i / 8 for i in random.integers(-4000, 4000, n).tolist()],
        "whole": random.integers(0, 9, n).tolist(),
        "bit": random.integers(0, 2, n).tolist(),
        "run": (random.random(n) < 0.3).tolist(),
        "mode": [None if i == 7 else str(mode) for i, mode in enumerate(random.choice(["auto", "eco", "ü"], n))],
        LABEL: [0] * n,
        "day": [dt.date(2024, 1, 1) + dt.timedelta(i) for i in range(n)],
    }
    case = tiny.Case(kind="mixed", size="one", method="split", prior="exemplar")
    config = replace(tiny.config(case, steps=20), data=DataConfig(label_column=LABEL))
    detector = fit_detector(arrow(cells), infer_schema(arrow(cells), config.data), config)
    cells["bit"][3], cells["mode"][4], cells["x"][5] = 100, "turbo", 1e6
    found = {}
    for name, (path, reading) in written_in_every_way(cells, tmp_path).items():
        rows = pa.Table.from_batches(open_source([path], reading).batches(detector.schema)).combine_chunks().to_batches()[0]
        total = detector.scores(encode(detector.schema, rows)).total.numpy()
        found[name] = total.tolist(), detector.threshold.flags(total).tolist()
    assert all(found["plain.parquet"][1][3:6:2])
    for name, got in found.items():
        assert got == found["plain.parquet"], name
