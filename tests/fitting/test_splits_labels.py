"""Rows of a fit by label: normal ones are for training, the others for evaluation, and all keep their numbers."""

import numpy as np
import pyarrow as pa
import pytest

from vae_anomaly.config import DataConfig
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.fitting.splits import split_by_label

TABLE = pa.table({"x": [0.0, 1.0, 2.0, 3.0, 4.0], "fault": ["normal", "leak", None, "stuck", "leak"]})
NUMBERS = np.array([10, 20, 30, 40, 50])


def test_without_a_label_column_all_rows_are_normal() -> None:
    rows = split_by_label(TABLE, NUMBERS, DataConfig())
    assert rows.normal.equals(TABLE)
    assert (rows.normal_numbers.tolist(), rows.anomalous_numbers.tolist(), rows.labels) == ([10, 20, 30, 40, 50], [], None)
    assert (rows.anomalous.num_rows, rows.anomalous.schema) == (0, TABLE.schema)


def test_rows_of_other_labels_are_anomalous() -> None:
    rows = split_by_label(TABLE, NUMBERS, DataConfig(label_column="fault"))
    assert (rows.normal["x"].to_pylist(), rows.normal_numbers.tolist()) == ([0.0, 2.0], [10, 30])
    assert (rows.anomalous["x"].to_pylist(), rows.anomalous_numbers.tolist()) == ([1.0, 3.0, 4.0], [20, 40, 50])
    assert rows.labels is not None
    assert dict(rows.labels.counts()) == {"leak": 2, "stuck": 1}


def test_normal_labels_are_chosen() -> None:
    rows = split_by_label(TABLE, NUMBERS, DataConfig(label_column="fault", normal_labels=("leak",)))
    assert rows.normal_numbers.tolist() == [20, 50]


def test_an_absent_label_column_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        split_by_label(TABLE, NUMBERS, DataConfig(label_column="faults"))
    assert str(error.value).startswith("--label-column names a column that is not in the data: 'faults'")


def test_rows_that_are_all_anomalous_are_refused() -> None:
    with pytest.raises(DataError, match="'fault'"):
        split_by_label(TABLE, NUMBERS, DataConfig(label_column="fault", normal_labels=("ok",)))
