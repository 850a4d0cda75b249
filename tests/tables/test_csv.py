import bz2
import gzip
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.errors import DataError
from vae_anomaly.tables import csv, csv_dialect, csv_records
from vae_anomaly.tables.csv import DelimitedTable
from vae_anomaly.tables.csv_dialect import sniff
from vae_anomaly.tables.files import find_files
from vae_anomaly.tables.reader import Chunk, ColumnSelection

Write = Callable[..., DelimitedTable]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes content to x.csv and opens it."""

    def opened(content: str | bytes, *, name: str = "x.csv") -> DelimitedTable:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        (file,) = find_files([str(path)])
        return DelimitedTable(file=file, dialect=sniff(file))

    return opened


def streamed(table: DelimitedTable, *, numeric: str = "", text: str = "", raw: str = "", missing: str = "") -> pa.Table:
    columns = ColumnSelection(numeric=numeric.split(), text=text.split(), raw=raw.split(), missing=missing.split())
    return pa.Table.from_batches(list(table.stream(columns, Chunk())))


def all_rows(table: DelimitedTable, *, missing: Sequence[str], text: Sequence[str] = ()) -> pa.Table:
    return table.table(list(table.pieces(missing=missing)), missing=missing, text=text)


# ── read ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        ("1 2 3", "int64", [1, 2, 3]),
        ("1 2.5 +3", "double", [1, 2.5, 3]),
        ("1 NA nan", "int64", [1, None, None]),
        ("N/A null NULL #N/A NaN 7", "int64", [None] * 5 + [7]),
        ("1 x", "string", ["1", "x"]),
        ("1 n/a", "string", ["1", "n/a"]),
        ("True false", "string", ["True", "false"]),
        ("true true", "string", ["true", "true"]),
        ("None a", "string", ["None", "a"]),
        ("007 010", "int64", [7, 10]),
        ("007 x", "string", ["007", "x"]),
        ("1e5 -inf", "double", [1e5, float("-inf")]),
        ("NA NA", "null", [None, None]),
        ("a NA", "string", ["a", "NA"]),
    ],
)
def test_a_column_is_numeric_if_every_cell_that_is_not_missing_parses(write: Write, cells: str, kind: str, values: list[object]) -> None:
    table = all_rows(write("c,d\n" + "".join(f"{cell},1\n" for cell in cells.split())), missing=[])
    assert (str(table["c"].type), table["c"].to_pylist()) == (kind, values)


@pytest.mark.parametrize("time", ["2024-01-31", "2024-01-31 12:00:00", "2024-01-31T12:00:00Z", "31.01.2024 12:00", "2024/01/31"])
def test_times_are_recognised(write: Write, time: str) -> None:
    assert pa.types.is_temporal(all_rows(write(f"t,x\n{time},1\n"), missing=[])["t"].type)


def test_declared_missing_values_leave_numbers_numbers(write: Write) -> None:
    table = all_rows(write("a,b,c\n1.5,?,-999\n?,x,-999.0\nBad,y,3\n"), missing=["?", "Bad", "-999"])
    assert table.to_pydict() == {"a": [1.5, None, None], "b": [None, "x", "y"], "c": [None, None, 3.0]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_hexadecimal_cells_are_text_in_a_fit_as_in_a_stream(write: Write, encoding: str) -> None:
    """Arrow reads 0xFFFFFFFFFFFFFFFF as -1."""
    table = write("code,count,note\n0xFFFFFFFFFFFFFFFF,1,0x\n0X1F,22,a\n,333,b\n".encode(encoding))
    read = all_rows(table, missing=[])
    assert read["code"].to_pylist() == ["0xFFFFFFFFFFFFFFFF", "0X1F", None]
    assert read["count"].type == pa.int64()
    assert streamed(table, numeric="code")["code"].to_pylist() == ["0xFFFFFFFFFFFFFFFF", "0X1F", None]


def test_a_decimal_comma_may_be_the_last_character(write: Write) -> None:
    """The bad cell in the last row has the rest read in the patient way."""
    table = write("a;b;c\n0,5;x;1\n-5,;y;2\n7,e1;z;bad\n")
    read = all_rows(table, missing=[])
    assert read["a"].to_pylist() == [0.5, -5.0, 70.0]
    assert streamed(table, numeric="a c")["a"].to_pylist() == read["a"].to_pylist()


def test_a_mark_of_a_hexadecimal_cell_is_found_wherever_the_file_is_cut(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for piece in (1, 2, 3, 5):
        monkeypatch.setattr(csv_records, "PIECE", piece)
        assert all_rows(write("a\n0x1F\n"), missing=[])["a"].to_pylist() == ["0x1F"]
        assert all_rows(write("a\n0x1F\n".encode("utf-16")), missing=[])["a"].to_pylist() == ["0x1F"]


def test_columns_can_be_read_as_text(write: Write) -> None:
    assert all_rows(write("a,b\n01,2\n"), missing=[], text=["a"]).to_pydict() == {"a": ["01"], "b": [2]}


def test_decimal_commas(write: Write) -> None:
    table = all_rows(write("a;b;c;d\n1,5;x,y;2.5;1,5\n-2,5e3;z;3,5;Bad\n"), missing=[])
    assert table.to_pydict() == {"a": [1.5, -2500.0], "b": ["x,y", "z"], "c": [2.5, 3.5], "d": ["1,5", "Bad"]}


@pytest.mark.parametrize(
    ("name", "pack"),
    [("x.csv.gz", gzip.compress), ("x.csv.bz2", bz2.compress), ("x.csv.zst", lambda b: pa.compress(b, codec="zstd", asbytes=True))],
    ids=["gz", "bz2", "zst"],
)
def test_compressed_files(write: Write, name: str, pack: Callable[[bytes], bytes]) -> None:
    table = write(pack(b"a,b\n1,x\n"), name=name)
    assert all_rows(table, missing=[]).to_pydict() == {"a": [1], "b": ["x"]}
    assert streamed(table, numeric="a", text="b").to_pydict() == {"a": [1.0], "b": ["x"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_every_encoding_gives_the_same_rows(write: Write, encoding: str) -> None:
    table = write('ä,b\n"two\r\nlines",ü\n\n€,2\n'.encode(encoding))
    expected = {"ä": ["two\r\nlines", "€"], "b": ["ü", "2"]}
    assert all_rows(table, missing=[]).to_pydict() == expected
    assert streamed(table, text="ä b").to_pydict() == expected


def test_names_lose_the_blanks_around_them(write: Write) -> None:
    table = write("\n\n a , b\n1,2\n")
    assert all_rows(table, missing=[]).to_pydict() == {"a": [1], "b": [2]}
    assert streamed(table, numeric="b a").to_pydict() == {"b": [2.0], "a": [1.0]}


# ── stream ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_the_selected_columns_are_streamed_in_their_types(write: Write) -> None:
    table = streamed(write("id,x,k,rest\n007,1,1,?\nNA,,NA,?\n,2.5,b,?\n"), numeric="x", text="k", raw="id")
    assert table.schema == pa.schema([("x", pa.float64()), ("k", pa.string()), ("id", pa.string())])
    assert table.to_pydict() == {"x": [1.0, None, 2.5], "k": ["1", "NA", "b"], "id": ["007", "NA", None]}


def test_declared_missing_values_are_null_but_not_in_raw_columns(write: Write) -> None:
    table = streamed(write("id,x,k\n?,?,?\n-9,-9.0,-9\n"), numeric="x", text="k", raw="id", missing="? -9")
    assert table.to_pydict() == {"x": [None, None], "k": [None, None], "id": ["?", "-9"]}


def test_a_bad_cell_leaves_the_text_of_its_block_for_the_caller_to_show(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "MAX_RECORD_BYTES", 1 << 16)
    rows = [f"{i},{i}" for i in range(200_000)]
    rows[150_000] = "n/a,150000"
    table = write("a,b\n" + "\n".join(rows) + "\n")
    places = []
    seen = 0
    for batch in table.stream(ColumnSelection(numeric=["a", "b"]), Chunk()):
        if pa.types.is_string(batch.column("a").type):
            places.append(seen + batch.column("a").to_pylist().index("n/a"))
        assert batch.column("b").type == pa.float64()
        assert batch.column("b")[0].as_py() == seen
        seen += batch.num_rows
    assert (places, seen) == ([150_000], 200_000)


def test_decimal_points_among_decimal_commas_are_numbers(write: Write) -> None:
    # The decimal sign is a comma, and one column has points all the same.
    table = streamed(write("a;b\n1,5;1.5\n2,5;-9\n"), numeric="a b", missing="-9")
    assert table.to_pydict() == {"a": [1.5, 2.5], "b": [1.5, None]}


def test_a_record_longer_than_a_block_is_read(write: Write) -> None:
    content = "a,b\n" + "x,1\n" * 3000 + "y" * 3_000_000 + ",2\n"
    for table in (all_rows(write(content), missing=[]), streamed(write(content), numeric="b", text="a")):
        assert table.num_rows == 3001
        assert len(table["a"][3000].as_py()) == 3_000_000


# ── malformed ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            "a,b\n1,2\n3\n",
            "{} row 2 has 1 cells, expected 2 as in the header: '3'. Correct that row, or leave such rows out with --on-error skip.",
        ),
        (
            'a,b\n"1\n",2\n\n3,4,5\n',
            "{} row 2 has 3 cells, expected 2 as in the header: '3,4,5'. Correct that row, or leave such rows out with --on-error skip.",
        ),
        (
            "a,b\n" + "1,2\n" * 300_000 + "3\n",
            "{} row 300,001 has 1 cells, expected 2 as in the header: '3'. Correct that row, or leave such rows out with --on-error skip.",
        ),
        (
            "a,é\n1,2\n3,4\n5,6\n".encode() + b"\xff,2\n",
            "{} row 4: column 'a' is not utf-8 text. Save the file as UTF-8, or leave such rows out with --on-error skip.",
        ),
    ],
    ids=["ragged", "ragged after a quoted newline", "ragged far below", "encoding"],
)
def test_malformed_rows_are_named(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, text: str) -> None:
    monkeypatch.setattr(csv_dialect, "_HEAD", 7)  # the broken byte stands beyond it
    table = write(content)
    with pytest.raises(DataError) as caught:
        streamed(table, text=" ".join(table.names))
    assert str(caught.value) == text.format(tmp_path / "x.csv")


def test_malformed_rows_are_named_in_a_fit_too(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_dialect, "_HEAD", 7)
    with pytest.raises(DataError) as caught:
        all_rows(write("a,b\n1,2\n3\n"), missing=[])
    advice = "Correct that row, or leave such rows out with --on-error skip."
    assert str(caught.value) == f"{tmp_path / 'x.csv'} row 2 has 1 cells, expected 2 as in the header: '3'. {advice}"
    with pytest.raises(
        DataError, match=r"x\.csv row 4: not utf-8 text\. Save the file as UTF-8, or leave such rows out with --on-error skip\.$"
    ):
        all_rows(write("a,é\n1,2\n3,4\n5,6\n".encode() + b"\xff,2\n"), missing=[])


def test_a_record_that_never_ends_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "MAX_RECORD_BYTES", 1 << 20)
    table = write('a,b\n1,2\n"' + "x\n" * 1_500_000)
    with pytest.raises(
        DataError,
        match=r"x\.csv row 2: a quote is opened and never closed: '\"x'\. Close it, or leave such rows out with --on-error skip\.$",
    ):
        streamed(table, text="a b")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('a,b\n1,2\n"63"5,2\n', """row 2: text follows a closing quote: '"63"5,2'. Double the quotes inside a cell, or"""),
        ('a,b\n1,"2\n3,"4"\n', """row 1: a quote is opened and never closed: '1,"2'. Close it, or"""),
        ("a,b\n1,2\n1\0,2\n", r"row 2: it holds a zero byte: '1\x00,2'. Was the file truncated? Correct that row, or"),
    ],
    ids=["after a quote", "a lost quote", "a zero"],
)
def test_a_record_that_arrow_would_guess_at_is_refused(write: Write, tmp_path: Path, content: str, said: str) -> None:
    for streams in (True, False):
        with pytest.raises(DataError) as caught:
            streamed(write(content), numeric="a b") if streams else all_rows(write(content), missing=[])
        assert str(caught.value) == f"{tmp_path / 'x.csv'} {said} leave such rows out with --on-error skip."


def test_a_point_that_may_stand_for_thousands_is_refused(write: Write, tmp_path: Path) -> None:
    content = "a;b;c\n1,5;900;1.023\n2,5;1.023;x\n3,5;-1.234.567;x\n"
    with pytest.raises(DataError) as caught:
        streamed(write(content), numeric="a b", text="c")
    assert str(caught.value) == (
        f"{tmp_path / 'x.csv'} row 2: column 'b' holds '1.023', thousands or decimals, where numbers have commas. "
        "Write it without the point, or leave such rows out with --on-error skip."
    )
    with pytest.raises(DataError) as caught:
        all_rows(write(content.replace("-1.234.567", "1000")), missing=[])
    assert str(caught.value) == (
        f"{tmp_path / 'x.csv'}: column 'b' holds '1.023', thousands or decimals, where numbers have commas. "
        "Write such numbers without the point, or leave the column out with --exclude."
    )
    # Where nobody wants a number it may be either.
    unused = replace(write("a;b\n1,5;1.023\n2,5;900\n"), unused=frozenset("b"))
    assert all_rows(unused, missing=[]).to_pydict() == {"a": [1.5, 2.5], "b": ["1.023", "900"]}
    # With points for decimals it is a number like any other, and text is text.
    assert all_rows(write("a;b\n1.5;1.023\n"), missing=[]).to_pydict() == {"a": [1.5], "b": [1.023]}
    assert all_rows(write("a;b\n1,5;1.023\n2,5;x\n"), missing=[]).to_pydict() == {"a": [1.5, 2.5], "b": ["1.023", "x"]}


def test_a_truncated_archive_is_refused(write: Write) -> None:
    packed = gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (i * i, i) for i in range(200_000)))
    with pytest.raises(DataError, match=r"x\.csv\.gz cannot be read: Truncated compressed stream\. Write or copy it again\.$"):
        write(packed[: len(packed) // 2], name="x.csv.gz")


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────────────

cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=6)


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_quoted_text_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("quoted") / "x.csv"
    path.write_text("a,b\n" + "".join(f"{quoted(a)},{quoted(b)}\n" for a, b in rows), encoding="utf-8", newline="")
    (file,) = find_files([str(path)])
    table = DelimitedTable(file=file, dialect=replace(sniff(file), names=("a", "b"), delimiter=",", decimal=".", encoding="utf-8"))
    assert streamed(table, raw="a b").to_pylist() == [{"a": a or None, "b": b or None} for a, b in rows]


@pytest.mark.parametrize("rows", [["\ufeff", "\ufeff"], ["x", "\ufeff"], ["\ufeff"], ["\ufeffx", "y"]])
def test_a_byte_order_mark_below_the_header_is_text(write: Write, rows: list[str]) -> None:
    """Where files with such marks were put together; of those at the beginning of a block Arrow made nothing."""
    table = write("a\n" + "".join(f"{row}\n" for row in rows))
    assert streamed(table, raw="a")["a"].to_pylist() == rows
    assert all_rows(table, missing=[], text=["a"])["a"].to_pylist() == rows
    wide = write("a,b\n" + "".join(f"{row},1\n" for row in rows))
    assert streamed(wide, raw="a", numeric="b").to_pydict() == {"b": [1.0] * len(rows), "a": rows}


def test_a_byte_order_mark_alone_is_too_few_cells(write: Write) -> None:
    with pytest.raises(DataError, match=r"row 1 has 1 cells, expected 2"):
        streamed(write("a,b\n\ufeff\n\ufeff"), raw="a")
