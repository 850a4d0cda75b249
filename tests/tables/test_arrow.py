import datetime as dt
import decimal as dec
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from vae_anomaly.errors import DataError
from vae_anomaly.tables import arrow
from vae_anomaly.tables.arrow import Chunk, Clipped, ColumnarTable, open_arrow, open_parquet
from vae_anomaly.tables.files import find_files

PUMP = pa.table({"x": [1.0, None, -999.0], "k": ["a", "?", None], "n": [1, -999, 3], "t": [dt.date(2024, 1, 1)] * 3})


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


WRITERS: dict[str, tuple[str, Any, Any]] = {
    "parquet": ("x.parquet", lambda path, table: pq.write_table(table, path, row_group_size=2), open_parquet),
    "arrow": ("x.arrow", write_arrow, open_arrow),
    "stream": ("x.arrows", write_stream, open_arrow),
}


def opened(tmp_path: Path, form: str, table: pa.Table) -> ColumnarTable:
    name, write, open_table = WRITERS[form]
    write(tmp_path / name, table)
    return open_table(find_files([str(tmp_path / name)])[0])  # type: ignore[no-any-return]


def streamed(table: ColumnarTable, **columns: Any) -> pa.Table:
    asked: dict[str, Any] = {"numeric": [], "text": [], "raw": [], "missing": []} | columns
    return pa.Table.from_batches(list(table.stream(**asked)))


@pytest.mark.parametrize("form", WRITERS)
def test_all_rows_in_the_types_of_the_file(tmp_path: Path, form: str) -> None:
    table = opened(tmp_path, form, PUMP)
    assert (table.names, table.rows, table.notes) == (("x", "k", "n", "t"), 3 if form == "parquet" else None, ())
    assert table.read(missing=[]).equals(PUMP)


@pytest.mark.parametrize("form", WRITERS)
def test_declared_missing_values_are_null_but_not_in_raw_columns(tmp_path: Path, form: str) -> None:
    table = opened(tmp_path, form, PUMP)
    got = streamed(table, numeric=["n", "x"], text=["k"], raw=["t"], missing=["?", "-999"])
    assert got.drop_columns("t").to_pydict() == {"n": [1, None, 3], "x": [1.0, None, None], "k": ["a", None, None]}
    assert got.column_names == ["n", "x", "k", "t"]
    assert streamed(table, raw=["k", "n"], missing=["?", "-999"]).to_pydict() == {"k": ["a", "?", None], "n": [1, -999, 3]}
    assert table.read(missing=["?"])["k"].to_pylist() == ["a", None, None]


@pytest.mark.parametrize("form", WRITERS)
def test_names_with_dots_and_nested_columns(tmp_path: Path, form: str) -> None:
    dotted = pa.table({"a.b": [1.0], "a": [{"b": 2.0}], "list": [[1]]})
    table = opened(tmp_path, form, dotted)
    assert streamed(table, numeric=["a.b"]).to_pydict() == {"a.b": [1.0]}
    assert table.read(missing=["?"]).to_pydict() == dotted.to_pydict()


def test_a_large_row_group_comes_in_small_batches(tmp_path: Path) -> None:
    table = opened(tmp_path, "parquet", pa.table({"x": np.arange(5.0)}))
    pq.write_table(pa.table({"x": np.zeros(200_000)}), tmp_path / "x.parquet", row_group_size=200_000)
    assert max(b.num_rows for b in table.stream(numeric=["x"], text=[], raw=[], missing=[])) <= 65_536


@pytest.mark.parametrize("form", WRITERS)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match=r"x\.\w+ has columns of the same name: 'a'\. Give every column its own name\.$"):
        opened(tmp_path, form, pa.table([[1], [2]], names=["a", "a"]))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("keep", [12, 0.5, -4], ids=["head", "half", "no end"])
def test_a_truncated_file_is_refused(tmp_path: Path, form: str, keep: float) -> None:
    opened(tmp_path, form, pa.table({"x": np.arange(1000.0)}))
    path = tmp_path / WRITERS[form][0]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError) as caught:
        WRITERS[form][2](find_files([str(path)])[0]).read(missing=[])
    assert str(caught.value).startswith(f"{path} is damaged or was not copied whole: ")
    assert str(caught.value).endswith(". Write or copy it again.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [b"5354", b"\xff\xff\xff\x7f"], ids=["892 MB", "2 GB"])
def test_what_a_stream_says_of_its_length_asks_for_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xff\xff\xff" + length + b"x" * 8)
    asked: list[int] = []

    class Asked:
        """A file that notes what is asked of it."""

        def __init__(self, file: pa.NativeFile) -> None:
            self.seek, self.tell, self.close, self.size, self._file = file.seek, file.tell, file.close, file.size, file

        def read(self, size: int) -> bytes:
            asked.append(size)
            return bytes(self._file.read(size))

    monkeypatch.setattr(arrow, "_input", lambda file: Asked(pafs.LocalFileSystem().open_input_file(file.location)))
    with pytest.raises(DataError, match=r"x\.csv is damaged or was not copied whole: .*\. Write or copy it again\.$"):
        open_arrow(find_files([str(tmp_path / "x.csv")])[0])
    assert max(asked) <= 16


def test_a_clipped_file_reads_and_seeks_as_others_do(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    whole = pa.PythonFile(Clipped(pafs.LocalFileSystem().open_input_file(str(tmp_path / "x")), 10), mode="r")
    assert (whole.size(), whole.read(4), whole.tell(), whole.read(100), whole.read()) == (10, b"0123", 4, b"456789", b"")
    assert (whole.seek(-3, 2), whole.read(), whole.seek(2), whole.seek(3, 1), whole.read(1)) == (7, b"789", 2, 5, b"5")
    whole.close()
    assert whole.closed


def test_a_stream_that_was_cut_between_two_batches_says_that_rows_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    write_stream(path, PUMP)
    file = find_files([str(path)])[0]
    assert open_arrow(file).notes == ()
    cut = path.read_bytes()[:-8]
    path.write_bytes(cut)
    table = open_arrow(replace(file, size=len(cut)))
    assert table.notes == (f"{path} has no mark of its end: rows are missing if what wrote it was cut off",)
    assert table.read(missing=[]).num_rows == 3


def test_damage_in_the_middle_is_found_while_streaming(tmp_path: Path) -> None:
    table = opened(tmp_path, "parquet", pa.table({"x": np.random.default_rng(0).normal(size=50_000)}))
    path = tmp_path / "x.parquet"
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.parquet (is damaged|cannot be read)"):
        streamed(table, numeric=["x"])


def test_text_that_is_no_text_is_refused_at_the_door(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(2, pa.array(["ab", "cd"]).buffers()[1], pa.py_buffer(b"ab\xff\xfe"))
    for form in WRITERS:
        table = opened(tmp_path, form, pa.table({"k": broken}))
        with pytest.raises(DataError, match=r"x\.\w+ is damaged or was not copied whole: .*[Ii]nvalid UTF8"):
            table.read(missing=[])
        with pytest.raises(DataError, match=r"x\.\w+ is damaged or was not copied whole: .*[Ii]nvalid UTF8"):
            streamed(table, text=["k"])


def test_a_name_that_is_no_text_is_refused_at_the_door(tmp_path: Path) -> None:
    opened(tmp_path, "parquet", pa.table({"name_of_x": [1.0]}))
    path = tmp_path / "x.parquet"
    path.write_bytes(path.read_bytes().replace(b"name_of_x", b"name_\xff\xff_x"))
    with pytest.raises(DataError, match=r"x\.parquet is damaged or was not copied whole: "):
        open_parquet(find_files([str(path)])[0])


@pytest.mark.parametrize(("keys", "most"), [("long", 1000), ("repeated", 1000), ("none", 20_000)])
def test_long_rows_are_read_in_small_batches(tmp_path: Path, keys: str, most: int) -> None:
    """A megabyte at a time: what is repeated takes no room in the file, but in memory."""
    letters = {"long": [f"{i:01000d}" for i in range(20_000)], "repeated": ["x" * 1000] * 20_000, "none": [None] * 20_000}[keys]
    pq.write_table(pa.table({"x": np.arange(20_000.0), "key": pa.array(letters, pa.string())}), tmp_path / "x.parquet")
    table = open_parquet(find_files([str(tmp_path / "x.parquet")])[0])
    batches = list(table.stream(numeric=["x"], text=[], raw=["key"], missing=(), chunk=Chunk(bytes=1_000_000)))
    assert max(batch.num_rows for batch in batches) <= most
    assert max(batch.num_rows for batch in batches) > most * 0.9
    assert pa.Table.from_batches(batches).column("x").to_pylist() == list(range(20_000))


def test_a_footer_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    """Arrow's stream would take its rows, and its whole read refuse them; lists have more cells than rows, which is right."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"k": [str(i) for i in range(40)], "l": [[1, 2, 3]] * 40}), path, compression="none", use_dictionary=False)
    assert len(open_parquet(find_files([str(path)])[0]).read(missing=[])) == 40
    footer = path.read_bytes().rindex(b"\x01k")  # the name of the column, and behind it its codec and its cells, 2 × 40
    content = bytearray(path.read_bytes())
    content[content.index(80, footer)] = 64
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_parquet(find_files([str(path)])[0]).read(missing=[])
    assert str(caught.value) == (
        f"{path} is damaged or was not copied whole: its footer counts 32 cells of 'k' in 40 rows. Write or copy it again."
    )


def test_a_footer_that_would_end_the_process_is_refused(tmp_path: Path) -> None:
    """Arrow lets an error of C++ through to nobody where it is asked for a damaged row group that it has not read from."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"k": [str(i) for i in range(40)], "x": np.arange(40.0)}), path, row_group_size=20)
    whole = path.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    places = [place for place in range(start, len(whole) - 8) if "histogram size mismatch" in damage(whole, place, path)]
    assert len(places) >= 2
    for place in places:
        path.write_bytes(flipped(whole, place))
        with pytest.raises(DataError, match=r"x\.parquet cannot be read: Definition level histogram size mismatch"):
            open_parquet(find_files([str(path)])[0]).read(missing=[])


def flipped(whole: bytes, place: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]


def damage(whole: bytes, place: int, path: Path) -> str:
    """Return what Arrow says of a file with one bit of it turned over."""
    path.write_bytes(flipped(whole, place))
    try:
        pq.read_table(path)
    except (OSError, pa.ArrowException, UnicodeError, MemoryError) as error:
        return str(error)
    return ""


def test_no_memory_is_not_taken_for_damage(tmp_path: Path) -> None:
    pq.write_table(PUMP, tmp_path / "x.parquet")
    table = open_parquet(find_files([str(tmp_path / "x.parquet")])[0])

    def full(*_: Any) -> Any:
        raise pa.ArrowMemoryError

    with pytest.raises(MemoryError):
        replace(table, batches=full).read(missing=())


WORDS = pa.array(["a", "a", None])
RUNS = pc.run_end_encode(WORDS)  # Parquet has none


@pytest.mark.parametrize(
    ("form", "column", "kind"),
    [
        *((form, pa.array(WORDS, pa.string_view()), pa.string()) for form in WRITERS),
        *((form, pa.array([b"a", None, b"b"], pa.binary_view()), pa.binary()) for form in WRITERS),
        *((form, pa.array([1.5, None, 2.5]).cast(pa.float16()), pa.float32()) for form in WRITERS),
        *((form, pa.array([dec.Decimal("1.50"), None], pa.decimal32(5, 2)), pa.decimal128(5, 2)) for form in WRITERS),
        *((form, RUNS, pa.string()) for form in ("arrow", "stream")),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else str(value),
)
def test_types_that_arrow_cannot_take_rows_from_come_in_one_that_it_can(
    tmp_path: Path, form: str, column: pa.Array, kind: pa.DataType
) -> None:
    """Polars writes its texts as views."""
    made, cells = opened(tmp_path, form, pa.table({"k": column})), column.to_pylist()
    assert made.schema.field("k").type == kind
    for read in (made.read(missing=[]), made.read(missing=["?"]), streamed(made, raw=["k"])):
        assert read["k"].type == kind
        assert read["k"].take(pa.array([1, 0])).to_pylist() == [cells[1], cells[0]]
