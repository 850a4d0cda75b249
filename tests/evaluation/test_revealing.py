"""A flag that is written after the fault, among measurements that show it less."""

from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.revealing import revealing_columns
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.schema.encoding import Batch
from vae_anomaly.schema.schema import infer_schema

CONFIG = tiny.config(Case(kind="numeric", size="several", method="split", prior="exemplar"))


def rows(count: int, seed: int, *, shift: float = 0.0, flag: float = 0.0, errors: int = 0) -> pa.Table:
    """Return rows of two related sensors, one moved by ``shift``, and a flag that is 1 in a share of the rows or in ``errors`` of them."""
    random = np.random.default_rng(seed)
    load = random.normal(size=count)
    flags = (random.random(count) < flag) | (np.arange(count) < errors)
    heat = load + random.normal(scale=0.3, size=count) + shift
    return pa.table({"load": load, "heat": heat, "TWF": flags.astype(float), "mode": ["auto"] * count})


@cache
def fitted(errors: int = 0) -> Detector:
    table = rows(600, seed=1, errors=errors)
    return fit_detector(table, infer_schema(table, CONFIG.data), CONFIG)


def judged(detector: Detector, anomalous: pa.Table, errors: int = 0) -> object:
    return revealing_columns(detector, encoded(detector, rows(300, seed=2, errors=errors)), encoded(detector, anomalous))


def encoded(detector: Detector, table: pa.Table) -> Batch:
    return tiny.encoded(detector.schema, table)


def test_a_flag_that_carries_the_score_is_named_with_the_figures_of_the_other_columns() -> None:
    detector, anomalous = fitted(), rows(60, seed=3, shift=0.4, flag=1.0)
    normal, odd = encoded(detector, rows(300, seed=2)), encoded(detector, anomalous)
    found = revealing_columns(detector, normal, odd)
    assert found is not None
    assert found.columns == ("TWF",)
    # Of a column that is constant in the fit the cost is known, and the score without it is that of the other columns.
    scores = [detector.scores(part).total.numpy() for part in (normal, odd)]
    cost = detector.ensemble.constants.cost(odd).sum(-1).numpy()
    truth = np.arange(360) >= 300
    assert found.share == pytest.approx(cost.sum() / scores[1].sum())
    assert found.auroc == pytest.approx(roc_auc_score(truth, np.concatenate(scores)))
    assert found.auroc_without == pytest.approx(roc_auc_score(truth, np.concatenate([scores[0], scores[1] - cost])))
    assert found.auroc > 0.99
    assert found.words == (
        f"'TWF' is constant among the normal rows and carries {100 * found.share:.3g} % of the score of the anomalous ones: "
        f"AUROC {found.auroc:.4f}, {found.auroc_without:.4f} by the other columns. "
        "If a fault is not measured there but written down, fit again with --exclude TWF"
    )


def test_a_flag_with_errors_among_the_normal_rows_is_found_too() -> None:
    found = judged(fitted(errors=1), rows(60, seed=3, flag=1.0), errors=1)
    assert getattr(found, "columns", None) == ("TWF",)


def test_anomalies_that_sensors_show_are_no_leak() -> None:
    assert judged(fitted(), rows(60, seed=3, shift=9.0)) is None
    assert judged(fitted(), rows(60, seed=3, shift=30.0, flag=0.02)) is None


def test_without_rows_of_a_class_nothing_is_said() -> None:
    detector = fitted()
    some = encoded(detector, rows(10, seed=2))
    assert revealing_columns(detector, some, some.rows(slice(0, 0))) is None
    assert revealing_columns(detector, some.rows(slice(0, 0)), some) is None


def test_missing_cells_give_nothing_away() -> None:
    empty = rows(60, seed=3).set_column(2, "TWF", pa.nulls(60, pa.float64()))
    assert judged(fitted(), empty) is None


def test_the_rows_explained_depend_on_the_seed_alone() -> None:
    anomalous = rows(900, seed=3, shift=0.4, flag=1.0)
    first, again = (judged(fitted(), anomalous) for _ in range(2))
    other = judged(replace(fitted(), config=replace(CONFIG, seed=5)), anomalous)
    assert first == again
    assert first != other
