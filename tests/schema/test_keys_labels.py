import numpy as np
import pyarrow as pa
import pytest

from vae_anomaly.config import DataConfig
from vae_anomaly.errors import DataError
from vae_anomaly.schema.keys import label_counts, read_labels, refuse_one_class, refuse_without_normal

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
        refuse_without_normal(read_labels(pa.array(["sick", "ill", "sick"]), ("0", "")), "class", ("0", ""))
    assert str(error.value) == (
        "no row is normal: column 'class' holds 'sick' (2), 'ill' (1); normal means '0' or empty. "
        "Name your normal labels with --normal-label."
    )


def test_no_anomalous_row_lists_the_labels_found() -> None:
    with pytest.raises(DataError) as error:
        refuse_one_class(read_labels(pa.array(["ok", "fine"]), ("ok", "fine")), "class", ("ok", "fine"))
    assert str(error.value) == (
        "no row is anomalous: column 'class' holds 'fine' (1), 'ok' (1), and all of that means normal ('ok', 'fine'). "
        "Give rows of both classes, or other labels with --normal-label."
    )


def test_thousands_of_labels_are_cut() -> None:
    assert label_counts({str(i): 1 for i in range(1008)}).endswith("'7' (1) and 1,000 others")
