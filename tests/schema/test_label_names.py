from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.config import DataConfig
from vae_anomaly.schema.inference import Dropped
from vae_anomaly.schema.label_names import LikelyLabel, label_spelling, likely_label
from vae_anomaly.schema.schema import infer_schema

RARE = [0] * 97 + [1] * 3


def judged(name: str, values: list[object]) -> bool | None:
    """Return whether the column is certainly a label; None: it does not look like one."""
    found = likely_label(name, pa.chunked_array([pa.array(values)]))
    return None if found is None else found.certain


@pytest.mark.parametrize(
    "name",
    [
        "anomaly", "Class", "isFraud", "is_fraud", "fault", "Fault_Flag", "Machine failure", "ATT_FLAG", "Normal/Attack", "changepoint",
        "change_point", "ChangePoint", "label", "Outlier", "y", "y_true", "target", "TARGET_1", "pump1_alarm", "AlarmActive", "is_normal",
        "GroundTruth", "gt", "Störung", "Stoerung_Pumpe", "Sammelstörung", "Fehler", "Ausfall", "Défaut", "étiquette", "Klasse", "panne",
        "anomalía", "Pass/Fail", "isattack", "defective", "failure_count",
    ],
)  # fmt: skip
@pytest.mark.parametrize("write", [int, float, bool, str], ids=["int", "float", "bool", "text"])
def test_a_column_spelt_and_valued_like_a_label_is_one_in_every_type(name: str, write: type) -> None:
    assert judged(name, [write(value) for value in RARE]) is True


@pytest.mark.parametrize(
    "name",
    [
        "flow",
        "valve",
        "pump_status",
        "defaultMode",
        "normal_force",
        "classifier_feed",
        "glass",
        "attachment",
        "year",
        "yaw",
        "mode",
        "failover",
    ],
)
def test_zeros_and_ones_of_another_name_are_no_label(name: str) -> None:
    assert judged(name, list(RARE)) is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("attack_cat", ["Normal"] * 60 + ["DoS"] * 30 + ["Worms"] * 10),
        ("label", ["normal."] * 60 + ["neptune."] * 30 + ["smurf."] * 10),
        ("Normal/Attack", ["Normal"] * 90 + ["A ttack"] * 10),
        ("machine_status", ["NORMAL"] * 90 + ["RECOVERING"] * 8 + ["BROKEN"] * 2),
        ("status", ["OK"] * 90 + ["FAIL"] * 10),
        ("Zustand", ["in Ordnung"] * 90 + ["Störung"] * 10),
        ("fault_type", [None] * 90 + ["bearing"] * 10),
        ("faultNumber", [*range(21)] * 10),
        ("faultNumber", [0] * 100),  # a file of normal rows alone: the next one has others
        ("anomaly", [False] * 100),
        ("class", ["normal"] * 100),
        ("class", [2] * 65 + [4] * 35),
        ("outlier", [1] * 95 + [-1] * 5),
        ("ATT_FLAG", [-999] * 90 + [1] * 10),
        ("failure", [Decimal("0.0")] * 90 + [Decimal("1.0")] * 10),
        ("anomaly", [0.0] * 50 + [float("nan")] * 40 + [1.0] * 10),
        ("ErrorCode", [0] * 90 + [1024] * 5 + [4711] * 5),
        ("fault", [b"no"] * 90 + [b"yes"] * 10),
    ],
)
def test_labels_of_several_values(name: str, values: list[object]) -> None:
    assert judged(name, values) is True


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("class", list("ABCDEFG") * 20),
        ("class", [*range(7)] * 20),
        ("target", [0, 1] * 50),
        ("label", ["red", "green"] * 50),
        ("pump_state", ["normal"] * 90 + ["manual"] * 10),
    ],
)
def test_what_may_as_well_be_a_class_of_products_is_not_certain(name: str, values: list[object]) -> None:
    assert judged(name, values) is False


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("alarm_temp_limit", np.random.default_rng(0).normal(80, 3, 100).tolist()),
        ("alarm_temp_limit", [80.0] * 100),
        ("alarm_temp_limit", [75.0, 80.0] * 50),
        ("fault_current", [10, 16, 20] * 40),
        ("Fehlerstrom", [1, 3] * 50),
        ("failure_count", [0, 1, 2, 3, 4] * 20),
        ("anomaly_score", [0.25, 0.5] * 50),
        ("target_temperature", [20, 21, 22] * 40),
        ("target", [50, 60] * 50),
        ("target", [20.5, 21.0] * 50),
        ("y", [*range(10)] * 10),
        ("y", np.random.default_rng(0).normal(size=100).tolist()),
        ("fault", [*range(60)] * 10),
        ("fault", ["a", "b", "c"]),  # of three rows
        ("state", ["running"] * 90 + ["stopped"] * 10),
        ("status", [False] * 90 + [True] * 10),
        ("status", ["OK"] * 100),
        ("class", ["A"] * 100),
        ("fault", [None] * 10),
    ],
)
def test_measurements_settings_and_states_are_no_labels(name: str, values: list[object]) -> None:
    assert judged(name, values) is None


def test_types_that_can_and_cannot_be_labels() -> None:
    for values in (pa.array([0] * 50 + [1] * 50, pa.timestamp("s")), pa.array([[0], [1]] * 50), pa.array([{"a": 1}] * 100)):
        assert likely_label("fault", pa.chunked_array([values])) is None
    assert likely_label("fault", pa.chunked_array([pa.array([], pa.int64())])) is None
    expected = LikelyLabel(words="'0' in 90 % of the rows, else '1'", certain=True)
    for kind in (pa.decimal32(5), pa.decimal64(5), pa.decimal256(40), pa.float16()):
        numbers = pa.array([0] * 90 + [1] * 10, pa.int8())
        assert likely_label("fault", pa.chunked_array([numbers.cast(kind)])) == expected
    for kind in (pa.string_view(), pa.binary_view(), pa.large_string(), pa.binary()):
        texts = pa.array(["0"] * 90 + ["1"] * 10)
        assert likely_label("fault", pa.chunked_array([texts.cast(kind)])) == expected
    encoded = pa.chunked_array([pa.array(["ok"] * 90 + ["fault"] * 10).dictionary_encode()])
    assert likely_label("fault", encoded) == LikelyLabel(words="'ok' in 90 % of the rows, else 'fault'", certain=True)


def test_the_words_name_the_values() -> None:
    found = likely_label("fault", pa.chunked_array([pa.array([None] * 90 + ["leak"] * 10)]))
    assert found == LikelyLabel(words="missing in 90 % of the rows, else 'leak'", certain=True)
    assert likely_label("fault", pa.chunked_array([pa.array([0] * 9)])) == LikelyLabel(words="'0' in 100 % of the rows", certain=True)
    found = likely_label("class", pa.chunked_array([pa.array(list("AAB") * 10 + list("CD") * 5)]))
    assert found == LikelyLabel(words="'A' in 50 % of the rows, and 3 other values", certain=False)


@settings(max_examples=40, deadline=None)
@given(
    stem=st.sampled_from(["anomaly", "fault", "failure", "attack", "label", "target", "alarm", "outlier", "Störung", "class"]),
    prefix=st.sampled_from(["", "is_", "has ", "pump1.", "plant/", "x-"]),
    suffix=st.sampled_from(["", "_flag", "2", ".1", " active", "_binary"]),
    case=st.sampled_from([str, str.upper, str.title]),
)
def test_prefixes_suffixes_and_capitals_change_nothing(stem: str, prefix: str, suffix: str, case: type[str]) -> None:
    assert label_spelling(case(f"{prefix}{stem}{suffix}")) == label_spelling(stem)


@settings(max_examples=40, deadline=None)
@given(name=st.text(max_size=20), values=st.lists(st.none() | st.integers(-5, 5) | st.floats(), max_size=30))
def test_any_name_and_any_numbers_are_judged(name: str, values: list[float | None]) -> None:
    likely_label(name, pa.chunked_array([pa.array(values, pa.float64())]))
    likely_label("fault", pa.chunked_array([pa.array([str(v) for v in values], pa.string())]))


def table(**columns: Any) -> pa.Table:
    return pa.table({"flow": np.random.default_rng(0).normal(size=100), **columns})


def test_a_schema_leaves_out_what_looks_like_a_label_and_says_how_to_keep_it() -> None:
    labelled = table(**{"Machine failure": list(RARE)})
    schema = infer_schema(labelled, DataConfig())
    reason = "looks like a label ('0' in 97 % of the rows, else '1'); keep it with --include 'Machine failure'"
    assert schema.names == ("flow",)
    assert schema.dropped == (Dropped(name="Machine failure", reason=reason),)
    assert infer_schema(labelled, DataConfig(include=("Machine failure",))).names == ("flow", "Machine failure")


def test_a_schema_keeps_a_column_that_may_be_a_label() -> None:
    assert infer_schema(table(**{"class": list("ABCDEFGHIJ") * 10}), DataConfig()).names == ("flow", "class")
