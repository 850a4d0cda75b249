import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import betabinom

from vae_anomaly.calibration.conformal import calibration_rows_needed, quantile_rank
from vae_anomaly.calibration.groups import (
    BORROWED_PER_MISSING_ROW,
    LEAST_GROUP_ROWS,
    Groups,
    borrowed_weight,
    calibrate_groups,
    group_names,
)
from vae_anomaly.calibration.threshold import Threshold, calibrate

QUICK = settings(deadline=None, max_examples=100, derandomize=True)
ALPHA = 0.05  # needs 19 rows; a group of 20 is exact
FINE = 0.01  # needs 99


def grouped(scores: NDArray[np.float64], names: Sequence[str | None], alpha: float) -> Threshold:
    threshold = calibrate(scores, alpha)
    groups = calibrate_groups("machine", pa.array(names, pa.string()), scores, alpha)
    return Threshold(method="split", alpha=alpha, value=threshold.value, calibration=threshold.calibration, groups=groups)


def codes(threshold: Threshold, names: Sequence[str | None]) -> NDArray[np.int64]:
    assert threshold.groups is not None
    return threshold.groups.codes(pa.array(names, pa.string()))


@st.composite
def _tables(draw: st.DrawFn) -> tuple[list[float], list[str | None], float]:
    rows = draw(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["a", "b", "c", None])), min_size=20, max_size=150))
    alpha = draw(st.sampled_from([0.05, 0.1, 0.03, 0.25]))
    assume((len(rows) + 1) * alpha >= 1)
    return [float(score) for score, _ in rows], [name for _, name in rows], alpha


@QUICK
@given(table=_tables(), new=st.lists(st.tuples(st.integers(-2, 33), st.sampled_from(["a", "b", "c", "d", None])), min_size=1))
def test_a_row_is_flagged_where_its_p_value_is_at_most_alpha(
    table: tuple[list[float], list[str | None], float], new: list[tuple[int, str | None]]
) -> None:
    scores, names, alpha = table
    threshold = grouped(np.array(scores), names, alpha)
    tried, code = np.array([float(score) for score, _ in new]), codes(threshold, [name for _, name in new])
    p_values = threshold.p_values(tried, code)
    assert threshold.flags(tried, code).tolist() == (p_values <= alpha + 1e-10).tolist()


@QUICK
@given(table=_tables())
def test_a_higher_score_never_has_the_higher_p_value(table: tuple[list[float], list[str | None], float]) -> None:
    scores, names, alpha = table
    threshold = grouped(np.array(scores), names, alpha)
    tried = np.arange(-1.0, 32.0)
    for name in ("a", "b", "c", None):
        code = codes(threshold, [name] * len(tried))
        assert (np.diff(threshold.p_values(tried, code)) <= 0).all()
        assert (np.diff(threshold.low_p_values(tried, code)) >= 0).all()


@QUICK
@given(scores=st.lists(st.integers(0, 30), min_size=20, max_size=80), alpha=st.sampled_from([0.05, 0.1, 0.25]))
def test_a_group_of_all_rows_is_the_pooled_threshold(scores: list[int], alpha: float) -> None:
    values = np.array(scores, float)
    one, tried = grouped(values, ["a"] * len(values), alpha), np.arange(-1.0, 32.0)
    pooled, code = calibrate(values, alpha), codes(one, ["a"] * len(tried))
    assert one.p_values(tried, code).tolist() == pooled.p_values(tried).tolist()
    assert one.low_p_values(tried, code).tolist() == pooled.low_p_values(tried).tolist()
    assert one.flags(tried, code).tolist() == pooled.flags(tried).tolist()


@QUICK
@given(table=_tables(), seed=st.integers(0, 99))
def test_the_order_of_calibration_rows_does_not_matter(table: tuple[list[float], list[str | None], float], seed: int) -> None:
    scores, names, alpha = table
    turned = np.random.default_rng(seed).permutation(len(scores))
    one, other = grouped(np.array(scores), names, alpha), grouped(np.array(scores)[turned], [names[i] for i in turned], alpha)
    assert one.groups is not None
    assert other.groups is not None
    assert dict(zip(one.groups.names, one.groups.values, strict=True)) == dict(zip(other.groups.names, other.groups.values, strict=True))


def test_p_values_are_weighted_counts() -> None:
    random = np.random.default_rng(0)
    scores, names = random.normal(size=300), ["small"] * 40 + ["large"] * 260
    threshold = grouped(scores, names, FINE)
    lent = borrowed_weight(40, 300, FINE)
    assert lent == 1.0  # (99 - 40) · 10 rows are more than there are
    threshold = grouped(np.concatenate([scores, random.normal(size=2000)]), [*names, *["large"] * 2000], FINE)
    lent = borrowed_weight(40, 2300, FINE)
    assert lent == pytest.approx(BORROWED_PER_MISSING_ROW * 59 / 2260)
    own, others, s = scores[:40], threshold.calibration[~np.isin(threshold.calibration, scores[:40])], 1.3
    expected = (1 + (own >= s).sum() + lent * (others >= s).sum()) / (1 + 40 + lent * 2260)
    low = (1 + (own <= s).sum() + lent * (others <= s).sum()) / (1 + 40 + lent * 2260)
    code = codes(threshold, ["small"])
    assert threshold.p_values(np.array([s]), code)[0] == pytest.approx(expected)
    assert threshold.low_p_values(np.array([s]), code)[0] == pytest.approx(low)


def test_a_group_borrows_less_the_nearer_it_is_to_enough() -> None:
    need = calibration_rows_needed(FINE)
    lent = [borrowed_weight(n, 5000, FINE) for n in range(need + 2)]
    assert lent[:LEAST_GROUP_ROWS] == [1.0] * LEAST_GROUP_ROWS
    assert (np.diff(lent[LEAST_GROUP_ROWS:]) <= 0).all()
    assert lent[need - 1] > 0
    assert lent[need:] == [0.0, 0.0]


def test_large_groups_keep_their_bands_and_small_ones_lie_between() -> None:
    """Groups of four levels: the rates within the large ones follow their exact law, over 300 calibrations."""
    random, repeats, new = np.random.default_rng(1), 300, 100
    sizes, levels = {"a": 400, "b": 150, "c": 60, "d": 5}, {"a": 0.0, "b": 3.0, "c": 6.0, "d": 6.0}
    names: list[str | None] = [name for name, size in sizes.items() for _ in range(size)]
    alarms: dict[str, list[int]] = {name: [] for name in sizes}
    for _ in range(repeats):
        scores = np.array([levels[str(name)] for name in names]) + random.normal(size=len(names))
        threshold = grouped(scores, names, FINE)
        assert threshold.groups is not None
        values = dict(zip(threshold.groups.names, threshold.groups.values.tolist(), strict=True))
        assert values["d"] == threshold.value
        assert values["a"] < values["b"] < values["c"]
        for name, level in levels.items():
            fresh = level + random.normal(size=new)
            alarms[name].append(int(threshold.flags(fresh, codes(threshold, [name] * new)).sum()))
    for name in ("a", "b"):
        law = betabinom(new, quantile_rank(sizes[name], FINE), sizes[name] + 1 - quantile_rank(sizes[name], FINE))
        assert np.mean(alarms[name]) == pytest.approx(law.mean(), abs=4 * law.std() / math.sqrt(repeats))
        assert np.mean(np.array(alarms[name]) <= law.ppf(0.99)) >= 0.97


def test_rows_without_a_group_and_of_unseen_groups_have_the_pooled_threshold() -> None:
    threshold = grouped(np.arange(100.0), ["a"] * 50 + ["b"] * 50, ALPHA)
    scores = np.array([94.0, 94.0, 94.0, 97.0, 97.0])
    code = codes(threshold, ["c", None, "", "a", "b"])
    assert code.tolist() == [-1, -1, -1, 0, 1]
    assert threshold.p_values(scores[:3], code[:3]).tolist() == threshold.p_values(scores[:3]).tolist()
    assert threshold.flags(scores, code).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(
    "column",
    [pa.array([1, 2, None]), pa.array([1.0, 2.0, math.nan]), pa.array(["1", " 2", ""]), pa.array(["1", "2", None]).dictionary_encode()],
    ids=["integers", "floats", "texts", "dictionary"],
)
def test_a_group_is_its_text_whatever_the_type(column: pa.Array) -> None:
    names, place = group_names(column, "m")
    assert [names[i] for i in place] == ["1", "2", None]


def test_no_rows_have_no_codes() -> None:
    groups = Groups(column="m", names=("a",), code=np.array([0]), lent=np.zeros(1), values=np.ones(1))
    assert groups.codes(pa.array([], pa.string())).tolist() == []


def test_another_alpha_moves_every_group() -> None:
    threshold = grouped(np.arange(200.0), ["a"] * 100 + ["b"] * 100, ALPHA)
    assert threshold.groups is not None
    again = threshold.at(0.2)
    assert again.groups is not None
    assert threshold.groups.values.tolist() == [95.0, 195.0]
    assert again.groups.values.tolist() == [80.0, 180.0]


@pytest.mark.parametrize("written", [pa.array([1.0, 2.0, 1.0]), pa.array(["1.0", "2.00", " 1"]), pa.array([1, 2, 1], pa.uint8())])
def test_a_group_keeps_its_threshold_in_another_spelling(written: pa.Array) -> None:
    for calibrated in (["1"] * 50 + ["2"] * 50, ["1.0"] * 25 + ["1"] * 25 + ["2"] * 50):
        threshold = grouped(np.arange(100.0), calibrated, ALPHA)
        assert threshold.groups is not None
        assert threshold.groups.codes(written).tolist() == [0, 1, 0]
        assert threshold.groups.rows.tolist() == [50, 50]
    truth = grouped(np.arange(100.0), ["true"] * 50 + ["false"] * 50, ALPHA)
    assert truth.groups is not None
    assert truth.groups.codes(pa.array(["True", "0", "FALSE", "1"])).tolist() == [0, 1, 1, 0]
