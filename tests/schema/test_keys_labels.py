from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_anomaly.config import DataConfig
from vae_anomaly.errors import DataError
from vae_anomaly.schema.keys import check_both_classes, check_normal_rows, label_counts, read_labels
from vae_anomaly.schema.levels import label_key

NORMAL = DataConfig().normal_labels


@pytest.mark.parametrize(
    ("column", "names", "normal"),
    [
        pytest.param(pa.array([0, 1, 0, 7]), ("0", "1", "7"), [1, 0, 1, 0], id="integers"),
        pytest.param(pa.array([0.0, 1.0, None, float("nan")]), ("0", "1", ""), [1, 0, 1, 1], id="floats"),
        pytest.param(pa.array([False, True, None]), ("false", "true", ""), [1, 0, 1], id="booleans"),
        pytest.param(pa.array(["Normal", " NORMAL ", "leak", ""]), ("Normal", "NORMAL", "leak", ""), [1, 1, 0, 1], id="texts"),
        pytest.param(pa.array(["negative", "sick"]).dictionary_encode(), ("negative", "sick"), [1, 0], id="dictionary"),
        pytest.param(pa.chunked_array([["0"], ["1", "0"]]), ("0", "1"), [1, 0, 1], id="chunks"),
        pytest.param(pa.array([], pa.string()), (), [], id="none"),
    ],
)
def test_labels_of_any_type(column: pa.Array, names: tuple[str, ...], normal: list[int]) -> None:
    labels = read_labels(column, NORMAL)
    assert labels.names == names
    assert labels.normal.tolist() == [bool(n) for n in normal]


def test_counts_fall_and_a_choice_of_rows_keeps_the_names() -> None:
    labels = read_labels(pa.array(["b", "a", "a", "c"]), NORMAL)
    assert list(labels.counts().items()) == [("a", 2), ("b", 1), ("c", 1)]
    assert labels.where(np.array([True, False, True, False])).counts() == {"a": 1, "b": 1}


def test_no_normal_row_lists_the_labels_found() -> None:
    with pytest.raises(DataError) as error:
        check_normal_rows(read_labels(pa.array(["sick", "ill", "sick"]), ("0", "")), "class", ("0", ""))
    assert str(error.value) == (
        "no row is normal: column 'class' holds 'sick' (2), 'ill' (1); normal means '0' or empty. "
        "Name your normal labels with --normal-label."
    )


def test_no_anomalous_row_lists_the_labels_found() -> None:
    with pytest.raises(DataError) as error:
        check_both_classes(read_labels(pa.array(["ok", "fine"]), ("ok", "fine")), "class", ("ok", "fine"))
    assert str(error.value) == (
        "no row is anomalous: column 'class' holds 'fine' (1), 'ok' (1), and all of that means normal ('ok', 'fine'). "
        "Give rows of both classes, or other labels with --normal-label."
    )


def test_thousands_of_labels_are_cut() -> None:
    assert label_counts({str(i): 1 for i in range(1008)}).endswith("'7' (1) and 1,000 more")


SPELLINGS: dict[str, list[Any]] = {
    "0": [
        "0",
        "0.0",
        "0.000",
        "-0",
        "+0",
        "0e0",
        " 0 ",
        "0,0",
        "false",
        "False",
        "FALSE",
        0,
        0.0,
        -0.0,
        False,
        Decimal("0.00"),
        np.float32(0),
        b"0",
    ],
    "1": ["1", "1.0", "1.", "1,00", "+1", "1e0", "true", "TRUE", 1, 1.0, True, Decimal("1.000")],
    "2.5": ["2.5", "2.50", "2,5", "25e-1", 2.5, Decimal("2.50")],
    "": ["", "  ", "NA", "null", None, float("nan")],
}


@pytest.mark.parametrize("key", SPELLINGS)
def test_every_spelling_of_a_value_is_one_label(key: str) -> None:
    for value in SPELLINGS[key]:
        labels = read_labels(pa.array([value]), ("0", ""))
        assert labels.normal.tolist() == [key in {"0", ""}], value
        assert [label_key(name) for name in labels.names] == [key], value


@given(written=st.lists(st.sampled_from([(key, v) for key, values in SPELLINGS.items() for v in values if isinstance(v, str)]), min_size=1))
@settings(max_examples=50, deadline=None)
def test_a_column_that_holds_spellings_mixed_has_one_label_for_each_value(written: list[tuple[str, str]]) -> None:
    labels = read_labels(pa.array([text for _, text in written]), ("FALSE", ""))
    assert len(labels.names) == len({key for key, _ in written})
    assert labels.normal.tolist() == [key in {"0", ""} for key, _ in written]
    assert [label_key(labels.names[code]) for code in labels.code] == [key for key, _ in written]


@pytest.mark.parametrize("text", ["007", "00", "1,000", "v1.0", "Leak", "1.2.3", "None", "n/a", "0x0", "-"])
def test_other_texts_keep_their_spelling(text: str) -> None:
    assert label_key(text) == text


def test_normal_labels_are_spelt_as_the_user_likes() -> None:
    column = pa.array(["0.0", "1.0", None])
    for normal in (("0",), ("0.0",), ("false",), ("False",), ("0,0",)):
        assert read_labels(column, normal).normal.tolist() == [True, False, False]
