"""Malformed rows of delimited text: which they are, why, and that the others parse as if they were not there."""

from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv as pacsv

from vae_anomaly.tables.csv_dialect import Dialect
from vae_anomaly.tables.csv_records import RecordChunk
from vae_anomaly.tables.csv_rejects import (
    REASON_COLUMN,
    TEXT_COLUMN,
    Rejected,
    Rejects,
    ambiguous_cells,
    faults_of,
    good_records,
    is_utf8,
    ragged_records,
    rejected_text,
    screened_batch,
)

TYPES = {"x": pa.float64(), "k": pa.string()}


def dialect(decimal: str = ".", delimiter: str = ",") -> Dialect:
    return Dialect(names=("k", "x"), delimiter=delimiter, decimal=decimal, encoding="utf-8", block=1 << 20)


def chunk(*records: bytes, broken: dict[int, str] | None = None) -> RecordChunk:
    return RecordChunk(records=[record + b"\n" for record in records], broken=broken or {})


def screened(records: RecordChunk, how: Dialect) -> pa.RecordBatch:
    convert = pacsv.ConvertOptions(column_types=TYPES, include_columns=list(TYPES), decimal_point=how.decimal, null_values=["", "NA"])
    return screened_batch(records, how, TYPES, convert)


def columns(batch: pa.RecordBatch) -> dict[str, Any]:
    return {name: values for name, values in batch.to_pydict().items() if name in TYPES}


def test_good_records_have_the_requested_types() -> None:
    batch = screened(chunk(b"a,1.5", b"b,NA"), dialect())
    assert batch.schema.names == ["x", "k", REASON_COLUMN, TEXT_COLUMN]
    assert columns(batch) == {"x": [1.5, None], "k": ["a", "b"]}
    assert faults_of(batch) == {}


def test_malformed_records_are_null_and_have_a_reason() -> None:
    batch = screened(chunk(b"a,1", b"lone", b"b,2,3", b"\xff,4", b"whole,5", b"c,6", broken={4: "it holds a zero byte"}), dialect())
    cells = "cells, expected 2 as in the header"
    assert faults_of(batch) == {1: f"1 {cells}", 2: f"3 {cells}", 3: "column 'k' is not utf-8 text", 4: "it holds a zero byte"}
    assert columns(batch) == {"x": ["1", None, None, None, None, "6"], "k": ["a", None, None, None, None, "c"]}
    assert [rejected_text(batch, i) for i in (1, 3)] == ["lone", r"\xff,4"]


def test_a_cell_of_another_type_makes_the_batch_text_and_no_fault() -> None:
    batch = screened(chunk(b"a,1", b"b,n/a"), dialect())
    assert columns(batch) == {"x": ["1", "n/a"], "k": ["a", "b"]}
    assert faults_of(batch) == {}


def test_a_chunk_of_malformed_records_only_is_all_null() -> None:
    batch = screened(chunk(b"1", b"2"), dialect())
    assert columns(batch) == {"x": [None, None], "k": [None, None]}
    assert list(faults_of(batch)) == [0, 1]


def test_a_point_among_decimal_commas_is_ambiguous_in_numbers_only() -> None:
    batch = screened(chunk(b"1.000;1,5", b"b;1.023"), dialect(",", ";"))
    assert faults_of(batch) == {1: "column 'x' holds '1.023', thousands or decimals, where numbers have commas"}


@pytest.mark.parametrize(
    ("cell", "ambiguous"), [("1.023", True), ("-12.345.678", True), ("0.123", False), ("1.02", False), ("1023", False)]
)
def test_thousands_are_groups_of_three_digits(cell: str, *, ambiguous: bool) -> None:
    assert ambiguous_cells(pa.array(["x", cell])) == ([1] if ambiguous else [])


def test_ragged_records_are_found_whatever_their_bytes() -> None:
    cells = "cells, expected 2 as in the header"
    assert ragged_records(b"a,1\n\xff\nb,2,\xfe\n", dialect()) == {1: f"1 {cells}", 2: f"3 {cells}"}
    assert ragged_records(b"", dialect()) == {}


def test_a_byte_order_mark_in_the_first_record_is_text() -> None:
    assert columns(screened(chunk("\ufeffa,1".encode()), dialect()))["k"] == ["\ufeffa"]


def test_good_records_go_on_and_malformed_ones_are_numbered() -> None:
    chunks = [chunk(b"a,1", b"lone"), chunk(b"\xff,2", b"b,3", b"c,4", broken={2: "too long"})]
    bad: list[tuple[int, str, str]] = []
    good = list(good_records(iter(chunks), dialect(), lambda *row: bad.append(row)))
    assert good == [[b"a,1\n"], [b"b,3\n"]]
    assert bad == [(1, "1 cells, expected 2 as in the header", "lone"), (2, "not utf-8 text", r"\xff,2"), (4, "too long", "c,4")]


def test_rejects_count_remember_the_first_and_pass_on() -> None:
    passed: list[Rejected] = []
    rejects = Rejects(on_reject=passed.append)
    rejects.add("2.csv", 100, 4, "why", "text")
    rejects.add("2.csv", 100, 1004, "why else", "more")
    assert (rejects.count, rejects.first) == (2, Rejected(number=104, file="2.csv", row=5, reason="why", text="text"))
    assert [r.number for r in passed] == [104, 1104]
    assert passed[1].where == "2.csv row 1,005: why else"


def test_a_batch_that_was_not_screened_has_no_faults() -> None:
    assert faults_of(pa.record_batch({"x": [1.0]})) == {}


@pytest.mark.parametrize(("data", "valid"), [("ü".encode(), True), (b"", True), (b"\xff", False), ("ü".encode()[:1], False)])
def test_utf8(data: bytes, *, valid: bool) -> None:
    assert is_utf8(data) is valid
