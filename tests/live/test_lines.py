"""Lines of a stream as rows, or as the text of their problem."""

import pytest

from vae_anomaly.choices import LineFormat
from vae_anomaly.live.lines import Lines, table_of_rows


def lines(header: str = "", form: LineFormat | None = None) -> Lines:
    return Lines(format=form, header=header)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_has_the_delimiter_of_its_header(delimiter: str) -> None:
    reader = lines()
    assert reader.wants_header(f"a{delimiter}b".encode())
    reader.take_header(f"\ufeffa{delimiter}b\r".encode())
    assert reader.columns == ["a", "b"]
    assert not reader.wants_header(b"1")
    assert reader.read([f"1{delimiter}2\r".encode(), f'"x{delimiter}y"{delimiter}3'.encode()]) == [
        {"a": "1", "b": "2"}, {"a": f"x{delimiter}y", "b": "3"},
    ]  # fmt: skip
    assert reader.read([b"1", b""]) == ["the line has 1 cells, expected 2"] * 2


def test_json_is_told_by_its_brace_or_by_the_format() -> None:
    reader = lines()
    assert not reader.wants_header(b' {"a": 1}')
    rows = reader.read([b'{"a": 1, "b": null}', b"{", b"[1]", b'{"a": [1], "b": 2}', b'{"a": "\\ud800"}', b'"\xff"'])
    assert rows[0] == {"a": "1", "b": None}
    assert str(rows[1]).startswith("the line cannot be read: Expecting property name")
    assert rows[2] == "the line is no JSON object"
    assert rows[3] == "the line cannot be read: a value is nested"
    assert str(rows[4]).startswith("the line cannot be read: 'utf-8' codec can't encode")
    assert rows[5] == "the line is not UTF-8"
    assert lines(form="csv").wants_header(b"{")
    assert not lines(form="json").wants_header(b"a,b")


def test_a_table_has_the_columns_that_are_wanted_and_names_what_lacks() -> None:
    table, problems = table_of_rows([{"a": "1", "b": "Bad", "c": "0"}, "broken", {"a": "2"}], ("a", "b"), ("Bad",))
    assert table.to_pydict() == {"a": ["1", None, None], "b": [None, None, None]}
    assert problems == {1: "broken", 2: "the line lacks the column 'b'"}


def test_a_value_is_read_alike_whatever_the_other_lines_hold() -> None:
    reader = lines(form="json")
    rows = reader.read([b'{"a": 1.5, "b": true}', b'{"a": null, "b": "x"}'])
    table, _ = table_of_rows(rows, ("a", "b"), ())
    assert table.to_pydict() == {"a": ["1.5", None], "b": ["True", "x"]}


def test_a_long_cell_and_deep_nesting_are_problems_of_their_lines() -> None:
    assert str(lines(header="a").read([b'"' + b"x" * 200_000 + b'"'])[0]).startswith("the line cannot be read: field larger than")
    assert str(lines(form="json").read([b"[" * 100_000])[0]).startswith("the line cannot be read: ")
