from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vae_anomaly.errors import DataError, SchemaMismatch
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema
from vae_anomaly.tables.source import open_source

SCHEMA = Schema(columns=(Column(name="temp", kind="numeric"), Column(name="flow", kind="numeric")))
ROWS = "temp,flow\n1.5,2\n"
NO_HEADER = "Its first line does not look like a header: put column names there, or give --no-header."
PAGE = "It is a web page or XML, perhaps a login page: download or export the table itself, as CSV."
PARTED = "Its cells are not separated by a comma, a semicolon, a tab or |: write it with one of them."
NONE = "None of the expected columns is there: is it the right file?"


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(path: str) -> str:
    with pytest.raises(SchemaMismatch) as caught:
        open_source([path]).check_present(SCHEMA)
    with pytest.raises(SchemaMismatch) as streamed:
        open_source([path]).batches(SCHEMA)
    assert str(streamed.value) == str(caught.value)
    assert str(caught.value).startswith(f"{path} lacks ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("7\n8\n", NO_HEADER),
        ("<!DOCTYPE html>\n<html>\n</html>\n", PAGE),
        ("<html><head>\n<title>log in, please</title>\n", PAGE),
        (ROWS.replace(",", "~"), PARTED),
        (ROWS.replace(",", " "), PARTED),
        ("a,b\n1,2\n", NONE),
        ("0,b\n1,2\n", NONE),
    ],
)
def test_a_first_line_that_is_not_a_header_gets_a_hint(content: str, said: str) -> None:
    Path("x.csv").write_text(content, encoding="utf-8")
    assert refused("x.csv").endswith(f". {said}")


def test_text_of_four_bytes_a_character() -> None:
    Path("x.csv").write_text(ROWS, encoding="utf-32")
    assert refused("x.csv").endswith(" It looks like UTF-32: save it as UTF-8.")


def test_a_plausible_header_gets_no_hint() -> None:
    Path("x.csv").write_text("temperature,flow\n1,2\n", encoding="utf-8")
    assert refused("x.csv") == (
        "x.csv lacks 1 of the model's 2 columns: 'temp' (did you mean 'temperature'?). Available columns: 'temperature', 'flow'."
    )


def test_column_names_of_parquet_get_no_hint() -> None:
    pq.write_table(pa.table({"0": [1], "1": [2]}), "x.parquet")
    assert refused("x.parquet").endswith(f"Available columns: '0', '1'. {NONE}")


def test_a_table_without_columns() -> None:
    pq.write_table(pa.table({}), "x.parquet")
    assert refused("x.parquet") == "x.parquet lacks 2 of the model's 2 columns: 'temp', 'flow'. It has no columns."
    with pytest.raises(DataError, match=r"^x\.parquet has neither columns nor rows\. Write it again with the table in it\.$"):
        open_source(["x.parquet"]).read_table()


def test_a_second_file_without_a_header() -> None:
    Path("a.csv").write_text(ROWS, encoding="utf-8")
    Path("b.csv").write_text("1.5,2\n2.5,3\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"^b\.csv has no header: line 1 is data like the rows below it \('1\.5', '2'\)\. "):
        open_source(["a.csv", "b.csv"])
