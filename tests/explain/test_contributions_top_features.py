"""The largest contributions of a row as text, against the explanation and the table they come from."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.detector import Detector
from vae_anomaly.explain.contributions import FEATURE, REST, Reason, expected_texts, explain_rows, reasons_of, top_features, value_texts
from vae_anomaly.schema.encoding import Batch, model_order

MIXED = Case(kind="mixed", size="several", method="split", prior="exemplar")
ROWS = np.array([tiny.OUTLIER, tiny.UNSEEN, tiny.CHANGED_LEVEL, tiny.HOLES])


@pytest.fixture(scope="module")
def detector() -> Detector:
    return tiny.detector(MIXED)


@pytest.fixture(scope="module")
def rows(detector: Detector) -> Batch:
    return tiny.encoded(detector.schema, tiny.odd_rows("mixed"))


def _picked(rows: Batch) -> Batch:
    return rows.rows(torch.from_numpy(ROWS))


@pytest.mark.parametrize("top", [0, 1, 3, None])
def test_lists_are_ordered_cut_and_add_up_to_the_score(detector: Detector, rows: Batch, top: int | None) -> None:
    lists = top_features(detector.ensemble, detector.schema, rows, ROWS, top)
    assert lists.type == pa.list_(FEATURE)
    assert [i for i, features in enumerate(lists.to_pylist()) if features is not None] == ROWS.tolist()
    columns = [column.name for column in model_order(detector.schema)]
    explanation = explain_rows(detector.ensemble, _picked(rows))
    scores = detector.scores(_picked(rows)).total.tolist()
    for index, contributions, score in zip(ROWS.tolist(), explanation.contribution.tolist(), scores, strict=True):
        features = lists[index].as_py()
        ranked = sorted(zip(contributions, columns, strict=True), key=lambda pair: -pair[0])
        listed = ranked[:top]
        assert [(f["contribution"], f["column"]) for f in features[: len(listed)]] == listed
        rest = features[len(listed) :]
        assert [(f["column"], f["value"], f["expected"]) for f in rest] == ([] if top is None else [(REST, None, None)])
        assert sum(f["contribution"] for f in features) == pytest.approx(score, rel=1e-9)


def test_no_rows_give_only_nulls(detector: Detector, rows: Batch) -> None:
    lists = top_features(detector.ensemble, detector.schema, rows, np.empty(0, np.int64), 3)
    assert (len(lists), lists.null_count) == (len(rows), len(rows))


def test_cells_are_written_as_in_the_table(detector: Detector, rows: Batch) -> None:
    columns, value = model_order(detector.schema), value_texts(model_order(detector.schema), rows)
    table = tiny.odd_rows("mixed").to_pylist()
    for i, j in [(i, j) for i in [*ROWS.tolist(), tiny.EMPTY] for j in range(len(columns))]:
        cell, column, text = table[i][columns[j].name], columns[j], value(i, j)
        if cell is None:
            assert text is None
        elif column.kind == "numeric":
            assert text is not None
            assert float(text) == pytest.approx(cell, rel=1e-9)
        elif column.kind == "category":
            assert text == (cell if cell in column.levels else "(unseen)")
        else:
            assert text in column.levels
    assert value(tiny.UNSEEN, [c.name for c in columns].index("mode")) == "(unseen)"


def test_expected_values_are_numbers_of_six_digits_or_levels_with_their_probability(detector: Detector, rows: Batch) -> None:
    explanation, columns = explain_rows(detector.ensemble, _picked(rows)), model_order(detector.schema)
    text = expected_texts(columns, explanation)
    numbers = [c for c in columns if c.kind == "numeric"]
    for i in range(len(ROWS)):
        for j in range(len(numbers)):
            assert float(text(i, j)) == pytest.approx(float(explanation.number[i, j]), rel=1e-5)
        for j, column in enumerate(columns[len(numbers) :]):
            level, probability = column.levels[int(explanation.level[i, j])], float(explanation.probability[i, j])
            assert text(i, len(numbers) + j) == f"{level} ({round(100 * probability)}%)"


def test_reasons_are_the_features_without_the_rest() -> None:
    features: list[dict[str, object]] = [
        {"column": "flow", "value": "1", "expected": "2", "contribution": 3.5},
        {"column": "mode", "value": None, "expected": "a (97%)", "contribution": 0.5},
        {"column": REST, "value": None, "expected": None, "contribution": 0.25},
    ]
    reasons = (
        Reason(column="flow", value="1", expected="2", contribution=3.5),
        Reason(column="mode", value=None, expected="a (97%)", contribution=0.5),
    )
    assert reasons_of(features) == reasons
