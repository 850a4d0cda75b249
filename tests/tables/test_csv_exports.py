"""Files of known programs, and what a row of units looks like."""

from pathlib import Path

import pytest

from vae_anomaly.errors import DataError
from vae_anomaly.tables.csv_exports import are_units
from vae_anomaly.tables.source import Source, open_source


def opened(tmp_path: Path, *lines: str) -> Source:
    path = tmp_path / "x.csv"
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    return open_source([str(path)])


@pytest.mark.parametrize(
    ("lines", "columns", "rows"),
    [
        (
            ['"TOA5","st","CR1000"', '"TIMESTAMP","T","p"', '"TS","degC","bar"', '"","Avg","Smp"', '"2024-01-01 00:00:00",1.5,2'],
            ["TIMESTAMP", "T", "p"],
            1,
        ),
        (["TOACI1,st,CR10X", "TIMESTAMP,T,p", '"2024-01-01 00:00:00",1.5,2'], ["TIMESTAMP", "T", "p"], 1),
        (['"#NAMES"', '"t","a"', '"#TYPES"', '"date","D"', '"#ROWS","2"', '"2024-01-01","1.5"', '"2024-01-02","2.5"'], ["t", "a"], 2),
        (
            [
                "LabVIEW Measurement\t",
                "Separator\tTab",
                "***End_of_Header***\t",
                "Channels\t1",
                "***End_of_Header***\t",
                "X_Value\tV\tComment",
                "0.0\t1.5",
                "0.1\t2.5",
            ],
            ["X_Value", "V"],
            2,
        ),
        (
            [
                "#group,false,false,false,false",
                "#datatype,string,long,dateTime:RFC3339,double",
                "#default,_result,,,",
                ",result,table,_time,temp",
                ",,0,2024-01-01T00:00:00Z,1.5",
                "",
                "#group,false,false,false,false",
                ",result,table,_time,temp",
                ",,1,2024-01-01T00:01:00Z,2.5",
            ],
            ["_time", "temp"],
            2,
        ),
        (["# of plant 4", "#", "a,b", "1.5,2", "2.5,3"], ["a", "b"], 2),
        (["# a,b", "1.5,2", "2.5,3"], ["a", "b"], 2),
        (["# run 7", "# a,b", "1.5,2", "2.5,3"], ["a", "b"], 2),
        (["#id,b", "1,2.5", "2,3.5"], ["#id", "b"], 2),
        (["#,name,b", "1,foo,2.5", "2,bar,3.5"], ["#", "name", "b"], 2),
        (["#id,b", "x,y", "z,y"], ["#id", "b"], 2),
    ],
)
def test_files_of_known_programs_are_read(tmp_path: Path, lines: list[str], columns: list[str], rows: int) -> None:
    table = opened(tmp_path, *lines).read_table()
    assert (table.schema.names, table.num_rows) == (columns, rows)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["TOB1,st,CR1000", "T,p"],
            "is a binary file of a Campbell logger (TOB1). Convert it to TOA5 or CSV, with CardConvert for instance.",
        ),
        (
            ["#datatype,string,long,double", "#default,_result,,7", ",result,table,temp", ",,0,1.5"],
            "is annotated CSV with a default value for 'temp'. Write the values into the rows.",
        ),
        (
            ["# of plant 4", "1.5,2", "2.5,3"],
            (
                "has comments in its first lines and no header below them: line 2 is data ('1.5', '2'). "
                "Give --no-header --skip-rows 1, or --header-row with the line of the names."
            ),
        ),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, *lines)
    assert str(caught.value) == f"{tmp_path / 'x.csv'} {said}"


def test_a_second_table_with_other_columns_is_malformed(tmp_path: Path) -> None:
    head = ["#datatype,string,long,double", ",result,table,temp", ",,0,1.5", ",,0,2.5", ",,0,3.5"]
    source = opened(tmp_path, *head, "#datatype,string,long,double", ",result,table,flow", ",,1,9")
    with pytest.raises(
        DataError, match=r"row 4 begins another table, with other columns: ',result,table,flow'\. Write one table a file, or "
    ):
        source.read_table()


def test_a_comment_below_the_header_is_malformed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2 begins with #, as the comments above the header do: '# 1,2'\. Remove it, or "):
        opened(tmp_path, "# of plant 4", "a,b", "1,2", "# 1,2", "3,4").read_table()


@pytest.mark.parametrize(
    "row",
    [
        "degC bar m3/h",
        "[°C] [bar] (-)",
        "°C % W/m²",
        "s V A",
        "kJ/(kg·K) 1/min mm",
        "float double int64",
        "datetime - rpm",
        "µg/m3 hPa l/min",
        "---- ---- --",
    ],
)
def test_units_are_known(row: str) -> None:
    assert are_units(row.split(), row.split())


@pytest.mark.parametrize("row", ["low mid high", "A", "temperature pressure flow", "Reactor Pump", "on off", "n/a t", "None m"])
def test_other_texts_are_no_units(row: str) -> None:
    assert not are_units(row.split(), row.split())
