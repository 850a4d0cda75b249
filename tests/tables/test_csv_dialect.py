import gzip
from pathlib import Path

import pytest

from vae_anomaly.errors import DataError
from vae_anomaly.tables import csv_dialect
from vae_anomaly.tables.csv_dialect import Dialect, sniff
from vae_anomaly.tables.files import find_files


def sniffed(tmp_path: Path, content: bytes | str, *, name: str = "x.csv") -> Dialect:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return sniff(find_files([str(path)])[0])


@pytest.mark.parametrize(
    ("content", "delimiter", "decimal", "names"),
    [
        ("a,b\n1,2\n", ",", ".", ("a", "b")),
        ("a;b\n1.5;2\n", ";", ".", ("a", "b")),
        ("a;b\n1,5;2\n", ";", ",", ("a", "b")),
        ("a\tb\n1,5\t2,5\n", "\t", ",", ("a", "b")),
        ("a|b|c\n1|2,5|3\n", "|", ",", ("a", "b", "c")),
        ("a\n1\n2\n", ",", ".", ("a",)),
        ("a\n1,5\n2\n", ",", ".", ("a",)),
        ("\n \n a , b\n1,2\n", ",", ".", ("a", "b")),
        ('"x;y","z"\n1,2\n', ",", ".", ("x;y", "z")),
        ('"two\nlines",b\n1,2\n', ",", ".", ("two\nlines", "b")),
        ("Druck, bar;Temp, °C\n1,5;20,5\n", ";", ",", ("Druck, bar", "Temp, °C")),
        ("a,b,c,d\nx|y,1,2,3\n" * 3, ",", ".", ("a", "b", "c", "d")),
        ("a;b\n1;2\n" + "1;2\n" * 1500 + "1,5;2\n", ";", ",", ("a", "b")),
        ("a;b\r\n1;2\r\n", ";", ".", ("a", "b")),
        (",a\n0,1.5\n", ",", ".", ("", "a")),
    ],
)
def test_delimiter_decimal_sign_and_names(tmp_path: Path, content: str, delimiter: str, decimal: str, names: tuple[str, ...]) -> None:
    found = sniffed(tmp_path, content)
    assert (found.delimiter, found.decimal, found.names) == (delimiter, decimal, names)


def test_a_first_line_of_numbers_and_a_name_is_noted(tmp_path: Path) -> None:
    said = f"{tmp_path / 'x.csv'}: the first line is taken for the header but may be data: '1.5', '-2.5e3', 'x'; give --no-header if it is"
    assert sniffed(tmp_path, "1.5,-2.5e3,x\n1,2,3\n").notes == (said,)


@pytest.mark.parametrize("names", ["2024,2025,2026", "flow,70.841,v1.5"])
def test_names_may_be_numbers(tmp_path: Path, names: str) -> None:
    assert sniffed(tmp_path, f"{names}\n1,2,3\n").notes == ()


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    assert sniffed(tmp_path, gzip.compress(b"a,b\n1,2\n"), name="X.CSV.GZ").names == ("a", "b")


def test_a_tsv_is_cut_at_tabs(tmp_path: Path) -> None:
    assert sniffed(tmp_path, "a,b\n1,2\n", name="x.tsv").names == ("a,b",)
    assert sniffed(tmp_path, gzip.compress(b"a,b\n1,2\n"), name="x.tsv.gz").names == ("a,b",)


@pytest.mark.parametrize(
    ("content", "encoding", "note"),
    [
        ("ä,b\n1,2\n".encode(), "utf-8", ""),
        ("ä,b\n1,2\n".encode("utf-8-sig"), "utf-8", ""),
        ("ä,b\n1,2\n".encode("utf-16"), "utf-16", ""),
        ("ä,b\n1,2\n".encode("utf-16-le"), "utf-16-le", "is read as UTF-16 without a byte-order mark"),
        ("ä,b\n1,2\n".encode("utf-16-be"), "utf-16-be", "is read as UTF-16 without a byte-order mark"),
        ("ä,€\n1,2\n".encode("cp1252"), "cp1252", "is not UTF-8 and is read as cp1252"),
        ("ä,\x81\n1,2\n".encode("latin-1"), "latin-1", "is not UTF-8 and is read as latin-1"),
        ("ä,b\nö,ü\n".encode() + b"\xff,1\n", "utf-8", ""),
        (b"\xe4,b\n" + b"\xf6,\xfc\n" * 10 + b"\xc9\xbb,1\n", "cp1252", "is not UTF-8 and is read as cp1252"),
        ("ä,b\né,1\n".encode() + b"\xf6,\xfc\n" * 9, "utf-8", ""),
        ("ä,b\n1,2\n".encode() + b"\0" * 50, "utf-8", ""),
        ("ä,b\r1,2\r".encode() + b"1\0,2", "utf-8", ""),
    ],
    ids=[
        "utf-8",
        "bom",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "cp1252",
        "latin-1",
        "utf-8 with a damaged byte",
        "cp1252 that looks like it",
        "of both, mostly cp1252",
        "zeros at the end",
        "a zero below cr",
    ],
)
def test_encodings(tmp_path: Path, content: bytes, encoding: str, note: str) -> None:
    found = sniffed(tmp_path, content)
    assert (found.encoding, found.names[0]) == (encoding, "ä")
    assert found.notes == ((f"{tmp_path / 'x.csv'} {note}",) if note else ())


def test_an_umlaut_far_below_decides_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_dialect, "_HEAD", 64)
    assert sniffed(tmp_path, b"a\n" + b"x\n" * 500 + "ä\n".encode("cp1252")).encoding == "cp1252"
    assert sniffed(tmp_path, b"a\n" + b"x\n" * 500 + "ä\n".encode()).encoding == "utf-8"


@pytest.mark.parametrize("head", [1 << 20, 64])
def test_an_umlaut_at_the_very_end_decides_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: int) -> None:
    """In UTF-8 its byte would begin a character that does not come."""
    monkeypatch.setattr(csv_dialect, "_HEAD", head)
    assert sniffed(tmp_path, b"a\n" + b"x\n" * 500 + "Stra\xdf".encode("cp1252")).encoding == "cp1252"
    assert sniffed(tmp_path, b"a\n" + b"x\n" * 500 + "Stra\xdf".encode()).encoding == "utf-8"


def test_a_header_longer_than_the_first_look_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_dialect, "_HEAD", 64)
    names = tuple(f"column_{i}" for i in range(1000))
    row = ",".join("1" for _ in names) + "\n"
    assert sniffed(tmp_path, ",".join(names) + "\n" + row * 9).names == names


def test_a_block_holds_several_long_records(tmp_path: Path) -> None:
    names = ",".join(f"c{i}" for i in range(5000))
    row = ",".join(["123456.789012345678901234567890"] * 5000) + "\n"
    assert sniffed(tmp_path, names + "\n" + row * 6).block > 4 * len(row)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a,b\n", "has a header but no rows; expected a header and rows."),
        ("a,b", "has a header but no rows; expected a header and rows."),
        ("a,b\n\n\n", "has a header but no rows; expected a header and rows."),
        ("\n\n", "has nothing but blank lines; expected a header and rows."),
        (b"a\0\1\2\3b\n1\n", "is binary; expected CSV, Parquet or Arrow."),
        ("a,b,a\n1,2,3\n", "has columns of the same name: 'a'. Give every column its own name."),
        (
            "41,F,f,f,1.3\n23,F,f,f,4.1\n",
            (
                "has no header: line 1 is data like the rows below it ('41', 'F', 'f', …). "
                "Give --no-header, or --header-row 1 if these are the names."
            ),
        ),
    ],
    ids=["header only", "no newline", "blank rows", "blank", "binary", "duplicates", "no header"],
)
def test_unsupported_files_are_refused(tmp_path: Path, content: str | bytes, text: str) -> None:
    with pytest.raises(DataError) as caught:
        sniffed(tmp_path, content)
    assert str(caught.value) == f"{tmp_path / 'x.csv'} {text}"


def test_a_cell_above_the_limit_of_the_csv_module_is_read(tmp_path: Path) -> None:
    assert sniffed(tmp_path, "a,b\n" + "x" * 200_000 + ",1\n").names == ("a", "b")
