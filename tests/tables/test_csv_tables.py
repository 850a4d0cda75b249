"""Files that hold two tables, that hold none, or whose cells end at a control character."""

from pathlib import Path

import pytest

from vae_anomaly.config import Reading
from vae_anomaly.errors import DataError
from vae_anomaly.tables.source import Source, open_source


def opened(tmp_path: Path, text: str, reading: Reading | None = None) -> Source:
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    return open_source([str(path)], Reading() if reading is None else reading)


def rows(first: int, count: int, cells: str = "{0},{0}.5,2.{0},on") -> str:
    return "".join(cells.format(i) + "\n" for i in range(first, first + count))


@pytest.mark.parametrize("between", ["", "\n", "\n\n"])
@pytest.mark.parametrize("other", ["id,power,flow,mode", "id,temp,flow,state", "id,flow,temp,mode"])
def test_a_second_header_with_other_names_begins_another_table(tmp_path: Path, other: str, between: str) -> None:
    text = "id,temp,flow,mode\n" + rows(10, 30) + between + other + "\n" + rows(50, 20)
    if other == "id,flow,temp,mode":  # two of four names are in their places: no more than chance
        assert opened(tmp_path, text).read_table().num_rows == 51
        return
    with pytest.raises(DataError, match=rf"row 31 begins another table, with other columns: '{other}'\. Write one table a file, or leave"):
        opened(tmp_path, text).read_table()
    kept = opened(tmp_path, text, Reading(on_error="skip")).read_table()
    assert kept["id"].to_pylist() == list(range(10, 40))
    again = text + "id,temp,flow,mode\n" + rows(80, 5)
    kept = opened(tmp_path, again, Reading(on_error="skip")).read_table()
    assert kept["id"].to_pylist() == [*range(10, 40), *range(80, 85)]


def test_levels_that_are_named_like_a_column_are_rows(tmp_path: Path) -> None:
    text = "mode,temp,flow\n" + "".join(f"{'mode' if i % 5 == 0 else 'off'},{i}.5,{i}\n" for i in range(40))
    assert opened(tmp_path, text).read_table().num_rows == 40


def test_a_second_table_of_another_width_is_named(tmp_path: Path) -> None:
    text = "id,temp,flow,mode\n" + rows(10, 60) + "\nalarm,count,text\n" + rows(1, 20, "A{0},{0},on")
    with pytest.raises(DataError) as caught:
        opened(tmp_path, text)
    assert str(caught.value) == (
        f"{tmp_path / 'x.csv'} seems to hold two tables: from line 63 on ('alarm', 'count', 'text') its rows have 3 cells, those above are "
        "of another table. Write one table a file, or name the line of the names of the one to read with --header-row."
    )


def test_cells_may_end_at_the_delimiter_of_hive(tmp_path: Path) -> None:
    table = opened(tmp_path, rows(10, 30).replace(",", "\x01"), Reading(no_header=True)).read_table()
    assert (table.num_columns, table.num_rows) == (4, 30)
    assert table["column_2"].to_pylist()[:2] == [10.5, 11.5]


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2}\n{"a": 2, "b": 3}\n', '[{"a": 1, "b": 2},\n{"a": 2, "b": 3}]\n'])
def test_json_is_no_delimited_file_whatever_its_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"x\.csv is JSON; expected CSV, Parquet or Arrow\. Write it as CSV or Parquet\."):
        opened(tmp_path, text)
