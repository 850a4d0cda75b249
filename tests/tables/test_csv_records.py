import csv
import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as pacsv

from vae_anomaly.tables import csv_records
from vae_anomaly.tables.csv_records import Head, Utf8Stream, line_of, record_chunks, record_text
from vae_anomaly.tables.writer import quoted_cell

OPEN, AFTER, ZERO = "a quote is opened and never closed", "text follows a closing quote", "it holds a zero byte"


def cut(content: bytes, *, delimiter: str = ",", longest: int = 1 << 20) -> tuple[list[bytes], dict[int, str]]:
    """Return all records, and what is wrong with those that do not end."""
    found, broken = list[bytes](), dict[int, str]()
    for block in record_chunks(io.BytesIO(content), delimiter, Head(), longest=longest):
        broken |= {len(found) + i: said for i, said in block.broken.items()}
        found += block.records
    return found, broken


@pytest.mark.parametrize(
    ("content", "expected", "broken"),
    [
        (b"h\n1\n2", [b"1\n", b"2"], {}),
        (b"h\r\n1\r\n\r\n2\r\n", [b"1\r\n", b"2\r\n"], {}),
        (b"h\r1\r2", [b"1\r", b"2"], {}),
        (b"\xef\xbb\xbfh\n1\n", [b"1\n"], {}),
        (b'"h\n1",b\n2,3\n', [b"2,3\n"], {}),
        (b'h\n"a\nb",1\n"c""\n",2\n', [b'"a\nb",1\n', b'"c""\n",2\n'], {}),
        (b'h\n5" pipe,1\n6,"x"y"\n', [b'5" pipe,1\n', b'6,"x"y"\n'], {1: AFTER}),
        (b'h\n"63"5,1\n"6" ,"x"  \n', [b'"63"5,1\n', b'"6","x"\n'], {0: AFTER}),
        # Blanks after a closing quote are not the cell's; others are.
        (b'h\n5" a, "b" ,"c"" ,d" ,"" , e \r\n', [b'5" a, "b" ,"c"" ,d","", e \r\n'], {}),
        # The quote that is lost takes its line only, not the next row.
        (b'h\n1,"S\n9,"S"\n1,"S"\n', [b'1,"S\n', b'9,"S"\n', b'1,"S"\n'], {0: OPEN}),
        (b'h\n1\n2\0,"x"\n3\n\0\0\0', [b"1\n", b'2\0,"x"\n', b"3\n", b"\0\0\0"], {1: ZERO, 3: ZERO}),
        (b'h\n1\n2,"x\n3,4\n', [b"1\n", b'2,"x\n', b"3,4\n"], {1: OPEN}),
        (b'h\n1\n"x', [b"1\n", b'"x'], {1: OPEN}),
        (b"h\n", [], {}),
        (b"", [], {}),
    ],
)
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1 << 20])
def test_records_do_not_depend_on_the_size_of_reads(
    content: bytes, expected: list[bytes], broken: dict[int, str], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_records, "PIECE", piece)
    assert cut(content) == (expected, broken)


def test_a_record_that_is_too_long_makes_no_other_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "PIECE", 16)
    long = b"x" * 5000
    found, broken = cut(b"h\n1\n" + long + b"\n2\n" + b'3,"' + b"y\n" * 2000 + b'"\n4\n', longest=1000)
    assert (found[0], found[1], found[2]) == (b"1\n", long[: len(found[1])], b"2\n")
    assert (broken[1], broken[3]) == ("longer than 0 MB", OPEN)
    assert (found[3], found[4], found[-1]) == (b'3,"y\n', b"y\n", b"4\n")


def test_a_record_that_is_too_long_is_so_at_the_end_of_the_file_too() -> None:
    assert cut(b'h\n1\n"' + b"x" * 2000 + b'"\n', longest=1000)[1] == {1: "longer than 0 MB"}


def test_record_text_has_no_line_end_and_escapes_invalid_bytes() -> None:
    assert record_text(b"\xffa\xc3\xa4,b\r\n") == "\\xffaä,b"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.text('",;\n\r a1"', max_size=4), min_size=2, max_size=2), min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_records_are_those_of_pythons_csv_and_of_arrow(rows: list[list[str]], end: str) -> None:
    content = "".join(",".join(map(quoted_cell, row)) + end for row in [["a", "b"], *rows]).encode()
    found, broken = cut(content)
    assert broken == {}
    assert [next(csv.reader(io.StringIO(record_text(r), newline=""))) for r in found] == rows
    whole = pacsv.read_csv(
        pa.py_buffer(content),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(column_types={"a": pa.string(), "b": pa.string()}),
    )
    assert whole.num_rows == len(found)


@settings(max_examples=200, deadline=None)
@given(st.text('",\n\ra"', max_size=30), st.integers(1, 9))
def test_splitting_loses_no_byte_at_any_piece_size(body: str, piece: int) -> None:
    content = ("h\n" + body).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "PIECE", piece)
        found = cut(content)
    assert found == cut(content)
    kept = b"".join(found[0])
    assert kept.translate(None, b"\r\n") == body.encode().translate(None, b"\r\n")


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=30), st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "shift_jis"]), st.integers(1, 9)
)
def test_transcoding_to_utf8_works_at_any_piece_size(text: str, encoding: str, size: int) -> None:
    content = text.encode(encoding, "ignore")
    stream = Utf8Stream(io.BytesIO(content), encoding)
    pieces = iter(lambda: stream.read(size), b"")
    assert b"".join(pieces) == content.decode(encoding).encode()


@pytest.mark.parametrize(
    ("content", "encoding"),
    [(b"a\x81b", "cp1252"), (b"a\0\0\xd8b\0", "utf-16-le"), (b"a\0b", "utf-16-le"), (b"a\xffb", "ascii"), (b"a\xe2\x82", "utf-8")],
)
def test_undecodable_bytes_stay_invalid_utf8(content: bytes, encoding: str) -> None:
    stream = Utf8Stream(io.BytesIO(content), encoding)
    made = b"".join(iter(lambda: stream.read(2), b""))
    assert made.startswith(b"a")
    with pytest.raises(UnicodeDecodeError):
        made.decode()


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"h\n1\n2", [2, 3]),
        (b"h\r\n1\r\n\r\n2\r\n", [2, 4]),
        (b"h\r1\r2", [2, 3]),
        (b"\xef\xbb\xbfh\n1\n", [2]),
        (b'h\n"a\nb",1\n"c""\n",2\n3,4\n', [2, 4, 6]),
        (b'h\n1\n2,"x\n3,4\n', [2, 3, 4]),
    ],
)
def test_a_record_is_found_by_the_line_on_which_it_begins(content: bytes, lines: list[int]) -> None:
    found = [line_of(io.BytesIO(content), ",", row, Head(), longest=1 << 20) for row in range(len(lines) + 1)]
    assert found == [*lines, None]


def test_lines_are_not_counted_through_large_files_and_beyond_what_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert line_of(io.BytesIO(b'h\n"' + b"x" * (3 << 20) + b"\n1\n2\n"), ",", 2, Head(), longest=1 << 20) is None
    monkeypatch.setattr(csv_records, "_MAX_LINE_SEARCH", 10)
    assert [line_of(io.BytesIO(b"h\n" + b"1\n" * 10), ",", row, Head(), longest=1 << 20) for row in (3, 8)] == [5, None]
