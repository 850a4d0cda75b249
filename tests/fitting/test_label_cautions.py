from typing import Any

import numpy as np
import pyarrow as pa

from vae_anomaly.config import DataConfig
from vae_anomaly.fitting.label_cautions import label_cautions
from vae_anomaly.schema.schema import infer_schema

BAD = np.arange(100) >= 97


def cautions(data: DataConfig | None = None, **columns: Any) -> tuple[str, ...]:
    data = data or DataConfig()
    table = pa.table({"flow": np.random.default_rng(0).normal(size=100), **columns})
    return label_cautions(table, infer_schema(table, data), data)


def test_a_table_without_labels_has_none() -> None:
    assert cautions(valve=BAD, mode=["auto", "eco"] * 50) == ()


def test_a_label_that_was_left_out_is_named_with_every_way() -> None:
    assert cautions(Class=BAD.astype(int)) == (
        (
            "'Class' ('0' in 97 % of the rows, else '1') looks like a label: left out, and all rows were trained on as normal ones. Give "
            "--label-column Class so that only normal rows are, --exclude Class if they are, or keep it with --include Class"
        ),
    )


def test_other_labels_beside_the_named_one() -> None:
    found = cautions(DataConfig(label_column="anomaly"), anomaly=BAD, changepoint=BAD)
    assert found == (
        (
            "'changepoint' ('false' in 97 % of the rows, else 'true') looks like a label: left out besides the label that was named, "
            "because other labels give it away. Keep a column with --include"
        ),
    )


def test_a_column_that_may_be_a_label_is_kept_with_a_caution() -> None:
    classes = list("ABCDE") * 20
    column: dict[str, Any] = {"product class": classes}
    assert cautions(**column) == (
        (
            "'product class' ('A' in 20 % of the rows, and 4 other values) may be a label: kept as an input. If it is one, give "
            "--label-column 'product class' or --exclude 'product class'; if not, --include 'product class'"
        ),
    )
    assert "If it is one, give --exclude 'product class'" in cautions(DataConfig(label_column="fault"), **column, fault=BAD)[0]
    assert cautions(DataConfig(include=("product class",)), **column) == ()
    assert cautions(DataConfig(exclude=("product class",)), **column) == ()


def test_columns_that_change_only_with_the_label() -> None:
    flags = {"Machine failure": BAD.astype(int), "HDF": (np.arange(100) == 98).astype(int), "RNF": (np.arange(100) % 50 == 49).astype(int)}
    assert cautions(**flags)[1:] == (
        "'HDF' changes only where 'Machine failure' does, as labels do: kept as an input. If it is a label, give --exclude HDF",
    )
    flags["O S F"] = BAD.astype(int)
    assert cautions(**flags)[1] == (
        "'HDF', 'O S F' change only where 'Machine failure' does, as labels do: kept as inputs. If they are labels, give "
        "--exclude 'HDF,O S F'"
    )


def test_a_label_that_never_changes_has_no_companions() -> None:
    assert len(cautions(fault=[0] * 100, rated=[7.0] * 100)) == 1


def test_several_labels_are_one_caution() -> None:
    assert cautions(anomaly=BAD, changepoint=BAD.astype(int))[0].startswith(
        "'anomaly' ('false' in 97 % of the rows, else 'true'), 'changepoint' ('0' in 97 % of the rows, else '1') look like labels: left out"
    )
    assert cautions(anomaly=BAD, changepoint=BAD)[0].endswith(
        "--exclude anomaly,changepoint if they are, or keep them with --include anomaly,changepoint"
    )
