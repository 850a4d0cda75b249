"""Heads of delimited files: read right where that is certain, else refused with the line and the option."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.config import DEFAULT_READING, DataConfig, Reading
from vae_anomaly.errors import BadCell, DataError
from vae_anomaly.schema.schema import infer_schema
from vae_anomaly.tables.csv_head import kind_of
from vae_anomaly.tables.csv_records import Head, line_of, record_chunks
from vae_anomaly.tables.source import Source, open_source

NAMES = "time,temp,press,mode"
ROWS = [f"2024-01-01 00:{i:02d}:00,{20 + i / 8},{3 + i / 16},{'ABA'[i % 3]}" for i in range(40)]


def opened(tmp_path: Path, lines: list[str], reading: Reading = DEFAULT_READING) -> Source:
    path = tmp_path / "x.csv"
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    return open_source([str(path)], reading)


def semicolons(lines: list[str]) -> list[str]:
    return [line.replace(",", ";").replace(".", ",") for line in lines]


READ = {
    "units": [NAMES, ",degC,bar,", *ROWS],
    "units in brackets": [NAMES, "[s],[°C],[bar],[-]", *ROWS],
    "types": [NAMES, "timestamp,float,float,string", *ROWS],
    "units of one row": [NAMES, ",degC,bar,", ROWS[0]],
    "a rule": [NAMES, "----,----,-----,----", *ROWS],
    "a title": ["Plant North", NAMES, *ROWS],
    "a title as a spreadsheet writes it": ["Plant North,,,", ",,,", NAMES, *ROWS],
    "a preamble": ["Plant: North", *[f"Note {i}: none" for i in range(120)], NAMES, *ROWS],
    "a preamble of one row": ["Plant: North", *[f"Note {i}: none" for i in range(120)], NAMES, ROWS[0]],
    "another delimiter below": ["Plant: North", *["a note, and another"] * 50, *semicolons([NAMES, *ROWS])],
    "keys and values": ["Serial,4711", "Device,X1", "Start,2024-01-01", NAMES, *ROWS],
    "keys, values and commas": ["Serial,4711,,", "Device,X1,,", "", NAMES, *ROWS],
    "a range of time and units": ["Report,,,", "Start,01-Mar-24 00:00:00,,", ",,,", NAMES, ",Deg C,bar,", *ROWS],
    "a title and units": ["Plant North", "", NAMES, ",degC,bar,", *ROWS],
    "for a spreadsheet": ["sep=,", NAMES, *ROWS],
    "for a spreadsheet with semicolons": ["SEP=;", *semicolons([NAMES, *ROWS])],
    "for a spreadsheet in quotes": ['"sep=;"', *semicolons([NAMES, *ROWS])],
    "a comment": ["# of plant 4", NAMES, *ROWS],
    "delimiters below": [NAMES, *[row + "," for row in ROWS]],
    "semicolons below": [semicolons([NAMES])[0], *[row + ";" for row in semicolons(ROWS)]],
    "delimiters everywhere": [line + ",,," for line in [NAMES, *ROWS]],
    "a delimiter above": [NAMES + ",", *ROWS],
    "blank lines": ["", "  ", NAMES, *ROWS],
}


@pytest.mark.parametrize("lines", READ.values(), ids=READ)
def test_what_is_certain_is_read_as_without_it(tmp_path: Path, lines: list[str]) -> None:
    expected = opened(tmp_path, [NAMES, *ROWS]).read_table()
    table = opened(tmp_path, lines).read_table()
    assert table.equals(expected.slice(0, table.num_rows))
    assert table.num_rows == (1 if len(lines) < 10 or lines[-2] == NAMES else len(ROWS))


def test_notes_say_what_was_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    assert opened(tmp_path, ["Plant North", NAMES, ",degC,bar,", *ROWS]).notes == (
        f"{path}: row 1 holds units or types and is left out: 'degC', 'bar'",
        f"{path}: the header is in line 2, the lines above it are left out: 'time', 'temp', 'press', …",
    )
    assert opened(tmp_path, [NAMES, ",degC,bar,", ",Avg,Avg,", *ROWS]).notes == (
        f"{path}: rows 1 to 2 hold units or types and are left out: 'degC', 'bar'",
    )


REFUSED = {
    "a sound row, and then rows too wide": (
        ["a,b,c", "1,2,3", *["1,2,3,4"] * 40],
        (": nearly all rows, from line 3 on, have 4 cells; the header has 3, line 2 has 3. Correct the header or these rows."),
    ),
    "sound rows, and then rows too narrow": (
        [NAMES, *ROWS[:4], *[row.rsplit(",", 2)[0] for row in ROWS]],
        (": nearly all rows, from line 6 on, have 2 cells; the header has 4, line 2 has 4. Correct the header or these rows."),
    ),
    "unknown units": (
        [NAMES, ",Grad C,Umdr,", *ROWS],
        (
            " row 1 (line 2) holds text where the rows below have numbers: 'Grad C', 'Umdr'. "
            "Give --skip-rows 1 if it is units or types."
        ),
    ),
    "two rows of names": (
        [NAMES, "Time,Temperature,Pressure,Mode", ",degC,bar,", *ROWS],
        (" rows 1 to 2 (up to line 3) hold text where the rows below have numbers: 'degC', 'bar'. "
        "Give --skip-rows 2 if it is units or types."),
    ),
    "a line as wide as the header": (
        ["Serial,4711", "Device,X1", "time,temp", *[row[: row.index(",", 25)] for row in ROWS]],
        ": the header seems to be line 3 ('time', 'temp'). Give --header-row 3 if it is.",
    ),
    "groups of columns": (
        ["Reactor,,,Pump", NAMES, *ROWS],
        ": the header seems to be line 2 ('time', 'temp', 'press', …). Give --header-row 2 if it is.",
    ),
    "names below lines as wide, and unknown units": (
        ["Reactor,4,of,North", NAMES, ",Grad C,Umdr,", *ROWS],
        ": the header seems to be line 2 ('time', 'temp', 'press', …). Give --header-row 2 if it is.",
    ),
    "names in two lines": (
        [",temp,temp,press", ",mean,std,mean", *[f"{i},{i / 4},{i / 8},1.5" for i in range(20)]],
        (": none of the lines 1 to 2 above the first row looks like column names. Give --header-row with the line of the names, or "
        "--no-header --skip-rows 2, or join the names into one line."),
    ),
    "a name too few": (
        ["a,b", *[f"{i},{i / 2},{i / 4}" for i in range(20)]],
        (": the header in line 1 has 2 cells and most rows have 3. Name every column there, or say where the names are with --header-row, "
        "or that there are none with --no-header."),
    ),
    "no names": (ROWS, (" has no header: line 1 is data like the rows below it ('2024-01-01 00:00:00', '20.0', '3.0', …). "
        "Give --no-header, or --header-row 1 if these are the names.")),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_certain_is_refused_with_the_option(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, lines)
    assert str(caught.value) == f"{tmp_path / 'x.csv'}{said}"


@pytest.mark.parametrize("rows", [["1,5,2", "4,3,9", "2,2,7"], ["0.5,A", "1.5,B", "2.5,A"], ["7,B", "3,B", "5,A"], ["-1", "-2", "-3"]])
def test_data_are_no_names(tmp_path: Path, rows: list[str]) -> None:
    with pytest.raises(DataError, match="has no header: line 1 is data"):
        opened(tmp_path, rows * 5)
    assert opened(tmp_path, rows * 5, Reading(no_header=True)).read_table().num_rows == 5 * len(rows)
    assert opened(tmp_path, rows * 5, Reading(header_row=1)).names == tuple(rows[0].split(","))


@pytest.mark.parametrize(
    "names", ["2020,2021,2022", "400.0,400.5,401.0,401.5,402.0", ",0,1,2", "name,1,2,3", "time,400,401", ",0", "10,8,6"]
)
def test_names_may_be_numbers(tmp_path: Path, names: str) -> None:
    rows = [",".join(str((i * j) % 7 + 0.5) for j in range(1, names.count(",") + 2)) for i in range(20)]
    source = opened(tmp_path, [names, *rows])
    assert (source.names, source.notes) == (tuple(names.split(",")), ())


def test_names_that_may_be_data_are_noted(tmp_path: Path) -> None:
    said = f"{tmp_path / 'x.csv'}: the first line is taken for the header but may be data: '7'; give --no-header if it is"
    assert opened(tmp_path, ["7", "8", "3"]).notes == (said,)


def test_options_say_where_the_names_are(tmp_path: Path) -> None:
    lines = ["Reactor,,,Pump", NAMES, ",Grad C,Umdr,", *ROWS]
    plain = opened(tmp_path, [NAMES, *ROWS]).read_table()
    assert opened(tmp_path, lines, Reading(header_row=2, skip_rows=1)).read_table().equals(plain)
    assert opened(tmp_path, lines[1:], Reading(skip_rows=1)).read_table().equals(plain)
    unnamed = opened(tmp_path, lines, Reading(no_header=True, skip_rows=3)).read_table()
    assert unnamed.schema.names == ["column_1", "column_2", "column_3", "column_4"]
    assert unnamed.rename_columns(plain.schema.names).equals(plain)


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (Reading(skip_rows=2), " row 2 holds data and is among the 2 rows to skip: give --skip-rows 1 for this file."),
        (Reading(header_row=99), " has no column names in line 99, where --header-row says they are."),
        (Reading(no_header=True), " line 2 holds no data like the rows below it ('degC', 'bar'): with --no-header, give --skip-rows 2."),
        (Reading(no_header=True, skip_rows=4), " line 3 holds data and is among the lines to skip: give --skip-rows 2 for this file."),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(tmp_path: Path, reading: Reading, said: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, [NAMES, ",degC,bar,", *ROWS], reading)
    assert str(caught.value) == f"{tmp_path / 'x.csv'}{said}"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([NAMES, *ROWS, NAMES, *ROWS], "row 41 repeats the header. Remove it, or leave such rows out with --on-error skip."),
        (
            [NAMES, *ROWS, "Total,9,9,"],
            "row 41 looks like a total or a remark below the table: 'Total,9,9,'. Remove it, or leave such rows ",
        ),
        ([NAMES, *ROWS, "End of report,,,"], "row 41 looks like a total or a remark below the table: 'End of report,,,'. Remove it, or "),
        ([NAMES, *ROWS, "Min,1,1,", "Max,2,2,"], "row 41 looks like a total or a remark below the table: 'Min,1,1,'. Remove it, or "),
    ],
)
def test_repeated_headers_and_footers_are_malformed(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, lines).read_table()
    assert said in str(caught.value)


def test_errors_name_the_line_below_whatever_stands_above(tmp_path: Path) -> None:
    schema = infer_schema(opened(tmp_path, [NAMES, *ROWS]).read_table(), DataConfig())
    source = opened(tmp_path, ["Plant North", "", NAMES, ",degC,bar,", *ROWS[:9], "2024-01-01 00:09:00,hot,3,A"])
    with pytest.raises(BadCell, match=r"row 10 \(line 14\)"):
        list(source.batches(schema))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_and_records_above_the_rows_do_not_depend_on_the_size_of_reads(size: int, end: bytes) -> None:
    content = b"\xef\xbb\xbf" + end.join([b'"an open quote', b"", b"a,b", b",bar", b"1,2,", b"3,4,", b""])
    head = Head(lines=2, records=2, trailing=1)

    class Slow:
        def __init__(self) -> None:
            self.rest = io.BytesIO(content)

        def read(self, _: int, /) -> bytes:
            return self.rest.read(size)

    chunks = record_chunks(Slow(), ",", head, longest=1 << 20)
    assert [record for chunk in chunks for record in chunk.records] == [b"1,2" + end, b"3,4" + end]
    assert [line_of(Slow(), ",", row, head, longest=1 << 20) for row in (0, 1, 2)] == [5, 6, None]


def test_few_rows_of_text_and_numbers_are_rows(tmp_path: Path) -> None:
    assert opened(tmp_path, ["code,place", "X1,north", "7,south"]).read_table().num_rows == 2
    assert opened(tmp_path, ["grade", "A", "1", "2", "3"]).read_table().num_rows == 4


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text(st.sampled_from('ab1.,;#"\t\n =-é'), max_size=12), max_size=12), no_header=st.booleans(), skip=st.integers(0, 3)
)
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, lines: list[str], *, no_header: bool, skip: int) -> None:
    path = tmp_path_factory.mktemp("any") / "x.csv"
    path.write_text("\n".join(["x", *lines]), encoding="utf-8")
    said = ""
    try:
        open_source([str(path)], Reading(no_header=no_header, skip_rows=skip)).read_table()
    except DataError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("1 234,5", "number"),
        ("-1e-3", "number"),
        ("12 %", "number"),
        ("12:30", "time"),
        ("Mar 1, 2024 10:00", "time"),
        ("T1", "text"),
        ("No Data", "missing"),
        ("2024-03", "time"),
        ("m3/h", "text"),
        ("03/01/24 10:15:00 AM", "time"),
    ],
)
def test_kinds_of_cells(cell: str, kind: str) -> None:
    assert kind_of(cell) == kind
