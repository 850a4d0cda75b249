import csv
import errno
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as pacsv

from vae_anomaly.errors import ConfigError, DataError, OutputError
from vae_anomaly.storage.atomic import writing
from vae_anomaly.tables.writer import default_output, escape_formula, escape_formulas, output_format, write_batches

FORMATS: tuple[Literal["csv", "parquet"], ...] = ("csv", "parquet")
FEATURE = pa.struct([("column", pa.string()), ("value", pa.string()), ("contribution", pa.float64())])
SCORES = pa.table(
    {
        "row": pa.array([1, 2, 3]),
        "anomaly_score": pa.array([0.1 + 0.2, None, 1e300]),
        "is_anomaly": pa.array([False, None, True]),
        "top_features": pa.array([None, None, [{"column": 'p "bar"', "value": "1,5", "contribution": 0.25}]], pa.list_(FEATURE)),
        "model": pa.array(["pump", "pump", 'a "b",\nc']).dictionary_encode(),
    }
)


def write(path: Path, table: pa.Table = SCORES, *, rows: int = 2, escape: bool = True) -> int:
    return write_batches(path, iter(table.to_batches(max_chunksize=rows)), table.schema, fmt=output_format(path), escape=escape)


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_csv_is_quoted_only_where_needed_and_nested_columns_are_json(tmp_path: Path) -> None:
    assert write(tmp_path / "s.csv") == 3
    assert (tmp_path / "s.csv").read_text() == (
        "row,anomaly_score,is_anomaly,top_features,model\n"
        "1,0.30000000000000004,false,,pump\n"
        "2,,,,pump\n"
        '3,1e+300,true,"[{""column"": ""p \\""bar\\"""", ""value"": ""1,5"", ""contribution"": 0.25}]","a ""b"",\nc"\n'
    )
    back = pacsv.read_csv(tmp_path / "s.csv", parse_options=pacsv.ParseOptions(newlines_in_values=True))
    assert back["anomaly_score"].to_pylist() == SCORES["anomaly_score"].to_pylist()
    assert json.loads(back["top_features"][2].as_py()) == SCORES["top_features"][2].as_py()


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (pa.array([b"a,b", b"=1+1", b"\xff"]), '"a,b"\n\'=1+1\n\\xff\n'),
        (pa.array([b"a,b", b"=1+1", b"c"], pa.large_binary()), '"a,b"\n\'=1+1\nc\n'),
        (
            pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16), None, b"\xff" * 16], pa.binary(16))),
            f"00000000-0000-0000-0000-000000000000\n\n{'-'.join('f' * n for n in (8, 4, 4, 4, 12))}\n",
        ),
        (pa.array([0, None, 1], pa.timestamp("us", "Nowhere/At all")), "0\n\n1\n"),
        (
            pa.array([(1, 2, 3), None, (0, 0, 0)], pa.month_day_nano_interval()),
            '"MonthDayNano(months=1, days=2, nanoseconds=3)"\n\n"MonthDayNano(months=0, days=0, nanoseconds=0)"\n',
        ),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_keys_of_every_type_are_written_as_text(tmp_path: Path, keys: pa.Array, text: str) -> None:
    write(tmp_path / "s.csv", pa.table({"key": keys}), rows=1)
    assert (tmp_path / "s.csv").read_text() == "key\n" + text


def test_parquet_is_read_back_as_it_was(tmp_path: Path) -> None:
    assert write(tmp_path / "s.parquet") == 3
    assert pq.read_table(tmp_path / "s.parquet").equals(SCORES)


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_the_bytes_do_not_depend_on_the_batches(tmp_path: Path, name: str) -> None:
    n = 150_000  # more than a row group, and enough text to outgrow a Parquet dictionary
    table = pa.table({"x": np.arange(n) / 7, "k": [f"level {i % 40}" for i in range(n)], "id": [f"user {i * 7919}" for i in range(n)]})
    contents = set()
    for rows in (999, 65_536, n):
        write(tmp_path / name, table, rows=rows)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


def test_a_row_group_ends_early_where_rows_are_long_at_the_same_row_whatever_the_batches(tmp_path: Path) -> None:
    n = 40_000
    long = pa.array([f"{i:01000d}" for i in range(n)])
    nested = pa.array([[{"column": "x" * 50, "value": None, "contribution": 0.5}] * (i % 3) or None for i in range(n)], pa.list_(FEATURE))
    table = pa.table({"key": long, "features": nested, "flag": pa.array([i % 2 == 0 for i in range(n)])})
    groups, contents = set(), set()
    for rows in (700, 1024, 9_999, n):
        write(tmp_path / "s.parquet", table, rows=rows)
        found = pq.read_metadata(tmp_path / "s.parquet")
        groups.add(tuple(found.row_group(i).num_rows for i in range(found.num_row_groups)))
        contents.add((tmp_path / "s.parquet").read_bytes())
    # A row is 1,004 bytes of key, 4 and on average 1 entry of 50 + 12 + 4 + 8 bytes, and a bit: 16 MiB are 15,6 steps of 1,024 rows.
    assert groups == {(16_384, 16_384, 7_232)}
    assert len(contents) == 1


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_no_rows_still_make_a_file_with_columns(tmp_path: Path, name: str) -> None:
    assert write(tmp_path / name, SCORES.slice(0, 0)) == 0
    read = pacsv.read_csv if name.endswith("csv") else pq.read_table
    assert read(tmp_path / name).column_names == SCORES.column_names


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_error_of_the_reader_leaves_no_file_and_is_raised_unchanged(tmp_path: Path, fmt: Literal["csv", "parquet"]) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from SCORES.to_batches()
        raise DataError("row 4 is broken")

    path = tmp_path / f"s.{fmt}"
    path.write_text("old")
    with pytest.raises(DataError, match=r"^row 4 is broken$"):
        write_batches(path, broken(), SCORES.schema, fmt=fmt)
    assert (left(tmp_path), path.read_text()) == ([path.name], "old")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full. Free some space or write elsewhere with -o."),
        (errno.EDQUOT, "the disk quota is used up. Free some space or write elsewhere with -o."),
        (errno.EROFS, "the file system is read-only. Write elsewhere with -o."),
        (errno.EACCES, "permission denied. Write elsewhere with -o."),
        (errno.EIO, "[Errno 5] Input/output error."),
    ],
)
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_disk_is_one_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: Literal["csv", "parquet"], call: str, code: int, said: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    target: Any = os if call == "fsync" else Path
    monkeypatch.setattr(target, call, refuse)
    path = tmp_path / f"s.{fmt}"
    with pytest.raises(OutputError) as caught:
        write_batches(path, iter(SCORES.to_batches()), SCORES.schema, fmt=fmt)
    assert str(caught.value) == f"{path} cannot be written: {said}"
    assert left(tmp_path) == []


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_really_full_disk(tmp_path: Path, fmt: Literal["csv", "parquet"]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    (tmp_path / f".s.{fmt}.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="the disk is full"):
        write_batches(tmp_path / f"s.{fmt}", iter(SCORES.to_batches()), SCORES.schema, fmt=fmt)
    assert left(tmp_path) == []


def test_paths_where_no_file_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    for path, said in {
        tmp_path / "no" / "s.csv": "its folder does not exist. Make the folder or write elsewhere with -o.",
        tmp_path / "file" / "s.csv": "its folder is a file. Write elsewhere with -o.",
        tmp_path / "folder.csv": "it is a folder. Name a file with -o.",
    }.items():
        with pytest.raises(OutputError) as caught:
            write(path)
        assert str(caught.value) == f"{path} cannot be written: {said}"
    with pytest.raises(OutputError) as caught, writing(tmp_path / "file"):
        (tmp_path / "file").mkdir()
    assert str(caught.value) == f"{tmp_path}/file cannot be written: it exists and is not a folder. Write elsewhere with -o."
    with pytest.raises(OutputError) as caught, writing(tmp_path / "s.csv"):  # as /proc says of every new name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    assert str(caught.value) == f"{tmp_path}/s.csv cannot be written: no file can be made in its folder. Write elsewhere with -o."


def test_what_a_killed_run_left_is_swept_away_but_not_what_a_living_one_writes(tmp_path: Path) -> None:
    dead, living, other = (tmp_path / f".s.csv.{owner}.part" for owner in (2**22 + 5, os.getppid(), "x"))
    for path in (dead, living, other):
        path.write_text("half")
    write(tmp_path / "s.csv")
    assert left(tmp_path) == sorted([living.name, other.name, "s.csv"])


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("new.csv", "new.scores.csv"),
        ("a/new.csv", "a/new.scores.csv"),
        ("new.csv.gz", "new.scores.csv"),
        ("new.arrows", "new.scores.parquet"),
        ("New.CSV", "New.scores.csv"),
        ("day.2024.tsv", "day.2024.scores.csv"),
        ("no_suffix", "no_suffix.scores.csv"),
        ("x.parquet", "x.scores.parquet"),
        ("x.arrow", "x.scores.parquet"),
        ("folder", "folder.scores.parquet"),
        ("folder/", "folder.scores.parquet"),
        ("folder/v1.0", "folder/v1.0.scores.parquet"),
    ],
)
def test_default_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, output: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "v1.0").mkdir(parents=True)
    assert default_output(source) == Path(output)


def test_the_folder_we_are_in_has_its_scores_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lake").mkdir()
    monkeypatch.chdir(tmp_path / "lake")
    assert default_output(".") == tmp_path / "lake.scores.parquet"


@pytest.mark.parametrize("source", ["s3://lake/x.parquet", "data/*.csv", "part-[0-9].csv"])
def test_inputs_without_a_folder_need_an_output(source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        default_output(source)
    assert str(caught.value) == f"{source} has no folder for the scores beside it; name an output with -o."


def test_the_suffix_of_an_output_is_its_format() -> None:
    assert [output_format(Path(p)) for p in ("a.csv", "a.PARQUET", "a.pq")] == ["csv", "parquet", "parquet"]
    with pytest.raises(ConfigError, match=r"^output 'a\.xlsx' must end in \.csv or \.parquet, got '\.xlsx'\.$"):
        output_format(Path("a.xlsx"))


texts = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5)
floats = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(texts, floats), min_size=1, max_size=6))
def test_csv_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, float | None]]) -> None:
    path = tmp_path_factory.mktemp("out") / "s.csv"
    table = pa.table({"text": pa.array([r[0] for r in rows], pa.string()), "number": pa.array([r[1] for r in rows], pa.float64())})
    write(path, table, escape=False)
    options = pacsv.ConvertOptions(column_types=table.schema, strings_can_be_null=True, null_values=[""])
    back = pacsv.read_csv(path, parse_options=pacsv.ParseOptions(newlines_in_values=True), convert_options=options)
    assert back.equals(table)


# ── formulas ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_spreadsheet_would_run_gets_an_apostrophe_in_text_columns_only(tmp_path: Path) -> None:
    texts = ["=1+1", '=cmd|"/c calc"!A1', "-2+3", "@SUM(A1)", "\tx", "\r=1", "-5", "+49", "-1.5e3", "a=1", None]
    rows = len(texts)
    nested = pa.array([[{"column": "=x", "value": "@y"}]] * rows, pa.list_(pa.struct([("column", pa.string()), ("value", pa.string())])))
    columns = {
        "=key": pa.array(texts),
        "dictionary": pa.array(texts).dictionary_encode(),
        "number": pa.array([-1.5] * rows),
        "whole": pa.array([-7] * rows),
        "top_features": nested,
        "model": ["=m"] * rows,
    }
    write(tmp_path / "s.csv", pa.table(columns))
    write(tmp_path / "plain.csv", pa.table(columns), escape=False)
    kept, plain = (list(csv.reader(io.StringIO((tmp_path / n).read_bytes().decode(), newline=""))) for n in ("s.csv", "plain.csv"))
    harmless = ["'=1+1", '\'=cmd|"/c calc"!A1', "'-2+3", "'@SUM(A1)", "'\tx", "'\r=1", "-5", "+49", "-1.5e3", "a=1", ""]
    assert kept[0] == ["'=key", "dictionary", "number", "whole", "top_features", "model"]
    assert [row[0] for row in kept[1:]] == [row[1] for row in kept[1:]] == harmless
    assert {tuple(row[2:]) for row in kept[1:]} == {("-1.5", "-7", '[{"column": "=x", "value": "@y"}]', "'=m")}
    assert [row[0] for row in plain] == ["=key", *(text or "" for text in texts)]
    write(tmp_path / "s.parquet", pa.table(columns))
    assert pq.read_table(tmp_path / "s.parquet")["=key"].to_pylist() == texts


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("=+-@\t\r\n'\"1.,e aＸ＝"), max_size=5))
def test_single_texts_and_columns_are_escaped_alike(text: str) -> None:
    made = escape_formula(text)
    assert escape_formulas(pa.array([text])).to_pylist() == [made]
    assert made in {text, f"'{text}"}
    if made == text and text[:1] in {"=", "+", "-", "@", "\t", "\r", "\n", "＝"}:
        float(text.replace(",", "."))  # a plain number
