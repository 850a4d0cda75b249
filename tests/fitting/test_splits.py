"""Split of the rows: which calibrate, which train, and which rows each network learns from, is validated on and takes exemplars from."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.tiny import Case
from vae_anomaly.calibration.conformal import calibration_rows_needed
from vae_anomaly.config import CalibrationConfig, CalibrationMethod, Config
from vae_anomaly.errors import TooFewRows
from vae_anomaly.fitting.splits import (
    FEW_FOLDS,
    MANY_FOLDS,
    SPLIT_FROM_ROWS,
    RowSplit,
    assign_networks,
    calibration_size,
    copied_rows,
    members_per_view,
    row_hashes,
    split_rows,
)
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema

QUICK = settings(deadline=None, max_examples=200, derandomize=True)
SPLIT = Case(kind="mixed", size="several", method="split", prior="exemplar")
CROSS = Case(kind="mixed", size="several", method="cross", prior="exemplar")


def _config(*, alpha: float = 0.01, method: CalibrationMethod = "auto", share: float = 0.2, max_rows: int = 20_000) -> CalibrationConfig:
    return CalibrationConfig(alpha=alpha, method=method, share=share, max_rows=max_rows)


def _counts(split: RowSplit) -> list[int]:
    return [int((split.fold == k).sum()) for k in range(split.folds)]


def test_from_2000_rows_a_fifth_calibrates_and_ten_folds_train() -> None:
    split = split_rows(_config(), SPLIT_FROM_ROWS, seed=0)
    assert (split.method, split.folds) == ("split", MANY_FOLDS)
    assert (len(split.calibration), len(split.training)) == (400, 1600)
    assert _counts(split) == [160] * 10
    assert sorted([*split.calibration, *split.training]) == list(range(2000))


def test_below_2000_rows_every_row_calibrates_by_cross_fitting() -> None:
    split = split_rows(_config(), SPLIT_FROM_ROWS - 1, seed=0)
    assert (split.method, split.folds) == ("cross", FEW_FOLDS)
    assert split.calibration.tolist() == split.training.tolist() == list(range(1999))
    assert max(_counts(split)) - min(_counts(split)) <= 1


@pytest.mark.parametrize(("rows", "folds"), [(499, 10), (500, 5), (99, 10)])
def test_few_rows_get_ten_folds_and_500_get_five(rows: int, folds: int) -> None:
    assert split_rows(_config(), rows, seed=0).folds == folds


def test_calibration_takes_at_most_its_largest_number_of_rows() -> None:
    split = split_rows(_config(alpha=0.05, method="split", max_rows=300), 5000, seed=0)
    assert len(split.calibration) == 300


def test_calibration_takes_at_least_what_alpha_needs() -> None:
    split = split_rows(_config(alpha=0.001), 3000, seed=0)
    assert len(split.calibration) == 999


def test_the_seed_determines_the_split() -> None:
    first, again, other = (split_rows(_config(), 2500, seed=s).fold for s in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


REFUSED = [
    pytest.param(
        *(40, 0.01, "auto"),
        "alpha 0.01 needs at least 99 calibration rows; 40 given. "
        "Finest alpha possible with these rows: 0.0244. Use --alpha 0.0244 or more rows.",
        id="cross",
    ),
    pytest.param(
        *(100, 0.01, "split"),
        "alpha 0.01 needs at least 99 calibration rows; 50 given (half of the 100 rows at most). "
        "Finest alpha possible with these rows: 0.0197. Use --alpha 0.0197 or more rows.",
        id="split",
    ),
    pytest.param(
        *(5000, 1e-4, "auto"),
        "alpha 0.0001 needs at least 9,999 calibration rows; 2,500 given (half of the 5,000 rows at most). "
        "Finest alpha possible with these rows: 0.0004. Use --alpha 0.0004 or more rows.",
        id="auto-is-split",
    ),
]


@pytest.mark.parametrize(("rows", "alpha", "method", "text"), REFUSED)
def test_too_few_rows_are_refused_with_what_is_possible(rows: int, alpha: float, method: CalibrationMethod, text: str) -> None:
    with pytest.raises(TooFewRows) as caught:
        split_rows(_config(alpha=alpha, method=method), rows, seed=0)
    assert str(caught.value) == text


@QUICK
@given(rows=st.integers(2, 30_000), method=st.sampled_from(["split", "cross"]))
def test_the_rate_that_a_refusal_names_is_then_accepted(rows: int, method: CalibrationMethod) -> None:
    try:
        split_rows(_config(alpha=1e-9, method=method), rows, seed=0)
    except TooFewRows as refusal:
        named = float(str(refusal).split("Use --alpha ")[1].split()[0])
    assert len(split_rows(_config(alpha=named, method=method), rows, seed=0).calibration) >= calibration_rows_needed(named)


# Excluded rows


def test_excluded_rows_keep_their_fold_but_do_not_train() -> None:
    fold, excluded = np.array([0, 1, 0, -1, -1]), np.array([True, False, False, False, False])
    split = RowSplit(method="split", folds=2, fold=fold, excluded=excluded)
    assert split.trainable.tolist() == [False, True, True, False, False]
    assert (split.training.tolist(), split.calibration.tolist()) == ([1, 2], [3, 4])
    assert RowSplit(method="cross", folds=2, fold=fold, excluded=excluded).calibration.tolist() == [0, 1, 2, 3, 4]


def test_the_number_of_calibration_rows_is_the_share_within_its_bounds() -> None:
    assert calibration_size(_config(alpha=0.05, method="split", share=0.3), 1000) == ("split", 300)
    assert calibration_size(_config(alpha=0.05, method="split", share=0.3, max_rows=50), 1000) == ("split", 50)
    assert calibration_size(_config(alpha=0.002, method="split", share=0.3), 1000) == ("split", 499)
    assert calibration_size(_config(alpha=0.05, method="cross"), 1000) == ("cross", 1000)


# Networks


@pytest.mark.parametrize("case", [SPLIT, CROSS], ids=str)
def test_a_network_learns_neither_from_its_own_fold_nor_from_calibration_rows(case: Case) -> None:
    config = tiny.config(case)
    split = split_rows(config.calibration, tiny.NORMAL_ROWS, 0)
    networks = assign_networks(split, config)
    for training, validation, exemplars in zip(networks.rows, networks.validation, networks.exemplars, strict=True):
        assert not set(training.tolist()) & set(validation.tolist())
        assert set(training.tolist()) | set(validation.tolist()) == set(split.training.tolist())
        held = set(validation.tolist()) if case.method == "cross" else set(split.calibration.tolist())
        assert not held & set(exemplars.tolist())
        assert set(exemplars.tolist()) == set(split.training.tolist()) - held


def test_split_has_a_network_for_each_view_and_member_and_cross_for_each_view_and_fold() -> None:
    config = tiny.config(SPLIT)
    split, cross = (assign_networks(split_rows(tiny.config(c).calibration, tiny.NORMAL_ROWS, 0), config) for c in (SPLIT, CROSS))
    assert list(zip(split.views, split.held_out_fold, strict=True)) == [
        (v, k) for v in config.model.views for k in range(config.model.members)
    ]
    assert list(zip(cross.views, cross.held_out_fold, strict=True)) == [(v, k) for v in config.model.views for k in range(10)]


def test_rows_that_are_no_exemplars_still_train() -> None:
    fold, not_exemplar = np.arange(20) % 5, np.arange(20) == 7
    split = RowSplit(method="split", folds=5, fold=fold, not_exemplar=not_exemplar)
    networks = assign_networks(split, Config())
    assert len(networks.held_out_fold) == len(Config().model.views) * members_per_view(split, Config().model)
    assert any(7 in rows.tolist() for rows in networks.rows)
    assert {7} | set(networks.exemplars[0].tolist()) == set(range(20))
    assert all(7 not in rows.tolist() for rows in networks.exemplars)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    values=st.lists(st.tuples(st.sampled_from([0.0, -0.0, 1.5, None]), st.sampled_from(["a", "b", "z", None])), min_size=4, max_size=40),
    data=st.data(),
)
def test_copied_rows_are_those_that_a_set_finds(values: list[tuple[float | None, str | None]], data: st.DataObject) -> None:
    rows = pa.RecordBatch.from_pydict({"x": pa.array([x for x, _ in values], pa.float64()), "c": pa.array([c for _, c in values])})
    columns = (Column(name="x", kind="numeric"), Column(name="c", kind="category", levels=("a", "b", "z")))
    batch = encode(Schema(columns=columns), rows)
    keys = [(None if x is None else x + 0.0, c) for x, c in values]
    hashes = row_hashes(batch)
    assert len(set(hashes.tolist())) == len(set(keys))
    fold = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=len(keys), max_size=len(keys))))
    split = RowSplit(method="split", folds=3, fold=fold)
    learned = {key for key, k in zip(keys, fold, strict=True) if k >= 0}
    assert copied_rows(batch, split) == sum(key in learned for key, k in zip(keys, fold, strict=True) if k == -1)
    cross = RowSplit(method="cross", folds=4, fold=fold + 1)
    elsewhere = [any(keys[j] == keys[i] and fold[j] != fold[i] for j in range(len(keys))) for i in range(len(keys))]
    assert copied_rows(batch, cross) == sum(elsewhere)
