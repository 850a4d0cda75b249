import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vae_anomaly.config import Reading
from vae_anomaly.errors import ConfigError
from vae_anomaly.schema.qualities import good_values, long_table_caution, looks_like_quality, quality_pairs, shape_cautions


@pytest.mark.parametrize(
    "value",
    [
        "Good",
        "GOOD ",
        "good",
        "OK",
        "Good, Local Override",
        "Good (192)",
        "192",
        "216",
        "219",
        "193",
        "true",
        "",
        None,
        "0x00000000",
        "0x00000400",
        "0xC0",
        "GoodClamped",
        "Good (0x00000000)",
        "Gut",
        "gültig",
    ],
)
def test_what_is_usually_good(value: str | None) -> None:
    assert good_values(pa.array([value], pa.string())).to_pylist() == [True]


@pytest.mark.parametrize(
    "value",
    [
        "Bad",
        "Uncertain",
        "Questionable",
        "Substituted",
        "0",
        "64",
        "24",
        "4",
        "80",
        "2147483648",
        "false",
        "no good",
        "1.5",
        "0x80000000",
        "0x408F0000",
        "0x18",
        "0x0",
        "BadSensorFailure",
        "UncertainLastUsableValue",
        "Schlecht",
    ],
)
def test_what_is_not(value: str) -> None:
    assert good_values(pa.array([value])).to_pylist() == [False]


@pytest.mark.parametrize("kind", [pa.int16(), pa.int64(), pa.uint8(), pa.float64(), pa.string(), pa.dictionary(pa.int8(), pa.string())])
def test_codes_are_numbers_in_any_type(kind: pa.DataType) -> None:
    values = pa.array(["192", "0", "64", None], pa.string())
    values = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    assert good_values(values).to_pylist() == [True, False, False, True]
    assert good_values(values, ("64", "0.0")).to_pylist() == [False, True, True, False]


def test_booleans_and_words_of_ones_own() -> None:
    assert good_values(pa.array([True, False])).to_pylist() == [True, False]
    assert good_values(pa.array(["A", "b", None]), ("a",)).to_pylist() == [True, False, False]


def test_which_columns_a_quality_is_of() -> None:
    names = ["t", "flow", "flow_q", "temp", "temp_q", "lonely_q"]
    assert quality_pairs(names, "*_q") == {"flow_q": ("flow",), "temp_q": ("temp",)}
    assert quality_pairs(names, "flow_q") == {"flow_q": ("t", "flow", "temp", "temp_q", "lonely_q")}
    with pytest.raises(ConfigError, match="--quality-column names a column that is not in the data: 'q'"):
        quality_pairs(names, "q")
    with pytest.raises(
        ConfigError, match=r"--quality-column 'Q\.\*' matches no pair of columns; expected a column such as 'Q\.x' beside 'x'"
    ):
        quality_pairs(names, "Q.*")


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("Quality", ["Good", "Bad"] * 5, True),
        ("temp_status", ["Good"] * 9, True),
        ("OPC_Quality", [192, 0, 64] * 3, True),
        ("qual", [192] * 9, True),
        ("StatusCode", ["0x00000000", "0x808A0000"] * 4, True),
        ("StatusCode", ["Good", "BadSensorFailure", "UncertainInitialValue"] * 3, True),
        ("quality", [0.7, 0.9] * 4, False),  # a measurement
        ("quality", [3, 5, 6] * 4, False),  # of wine
        ("status", ["on", "off"] * 4, False),
        ("mode", ["Good", "Bad"] * 4, False),
        ("quality", [None, None], False),
    ],
)
def test_what_looks_like_a_quality(name: str, values: list[object], *, found: bool) -> None:
    assert looks_like_quality(name, pa.chunked_array([pa.array(values)])) == found


def _long(tag: str, value: str, time: str) -> pa.Table:
    rows = 60
    stamps = pa.array(np.arange(rows) // 3 * 60, pa.timestamp("s"))
    return pa.table({time: stamps, tag: ["a", "b", "c"] * 20, value: np.arange(rows) * 0.5})


@pytest.mark.parametrize(
    ("tag", "value", "time"),
    [
        ("Tag", "Value", "TS"),
        ("TagName", "vValue", "DateTime"),
        ("_field", "_value", "_time"),
        ("metric", "val", "t"),
        ("VarName", "VarValue", "TimeString"),
        ("topic", "payload", "ts"),
        ("tagid", "floatvalue", "t_stamp"),
    ],
)
def test_a_long_table_is_recognised_and_the_option_filled_in(tag: str, value: str, time: str) -> None:
    (caution,) = long_table_caution(_long(tag, value, time))
    assert caution.startswith(f"the table looks like a long one, with one value a row: column '{tag}' names 3 tags, ")
    assert f"Give --pivot 'tag={tag},value={value},time={time}' for one column a tag" in caution
    assert long_table_caution(_long(tag, value, time).append_column("unit", pa.array(["m"] * 60)))


def test_times_of_a_long_table_may_be_text() -> None:
    table = _long("Tag", "Value", "TS")
    text = table.set_column(0, "TS", pa.array([f"01-Mar-24 10:{i // 3:02}:00" for i in range(60)]))
    assert long_table_caution(text)


def test_tags_and_times_of_a_long_table_may_be_numbers() -> None:
    table = _long("sensor_id", "value", "ts")
    numbers = pa.table({"ts": table["ts"].cast(pa.int64()), "sensor_id": [1, 2, 3] * 20, "value": table["value"]})
    assert long_table_caution(numbers) == ()  # 1970
    for unit in (1, 1000):
        stamps = pc.multiply(pc.add(numbers["ts"], 1_700_000_000), unit)
        (caution,) = long_table_caution(numbers.set_column(0, "ts", stamps))
        assert "Give --pivot 'tag=sensor_id,value=value,time=ts'" in caution


def test_the_time_of_a_long_table_is_not_the_range_of_its_query() -> None:
    table = _long("_field", "_value", "_time")
    start = pa.chunked_array([pa.array([0] * table.num_rows, pa.timestamp("s"))])
    (caution,) = long_table_caution(table.add_column(0, "_start", start).append_column("_stop", start))
    assert "time=_time'" in caution


@pytest.mark.parametrize("names", [("mode", "Value", "TS"), ("Tag", "temp", "TS")])
def test_a_wide_table_is_not_a_long_one(names: tuple[str, str, str]) -> None:
    assert long_table_caution(_long(*names)) == ()
    wide = _long("Tag", "Value", "TS")
    assert long_table_caution(wide.drop_columns(["TS"])) == ()
    assert long_table_caution(wide.set_column(1, "Tag", pa.array([f"batch {i}" for i in range(60)]))) == ()  # keys


def test_options_end_the_cautions() -> None:
    table = _long("Tag", "Value", "TS").append_column("Quality", pa.array(["Good", "Bad"] * 30))
    long, quality = shape_cautions(table, Reading())
    assert "--pivot" in long
    assert quality.startswith("'Quality' may say how good the other values are")
    assert len(shape_cautions(table, Reading(pivot="tag=Tag,value=Value,time=TS"))) == 1
    assert shape_cautions(table, Reading(pivot="tag=Tag,value=Value,time=TS", quality_column="Quality")) == ()
