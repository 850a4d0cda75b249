from dataclasses import replace

import numpy as np
import pyarrow as pa

from vae_anomaly.calibration.groups import calibrate_groups
from vae_anomaly.calibration.guarantee import guarantee_of, guarantee_statement
from vae_anomaly.calibration.tail import fit_tail
from vae_anomaly.calibration.threshold import Threshold, calibrate


def test_an_exact_threshold_has_a_limit() -> None:
    assert guarantee_statement(calibrate(np.arange(18_000.0), 0.001)) == (
        "with n = 18,000 calibration rows the false-alarm rate is ≤ 0.142 % with 95 % confidence over calibration samples, "
        "for exchangeable rows"
    )


def test_a_rate_that_labels_chose_has_a_limit_for_all_of_them() -> None:
    chosen = replace(calibrate(np.arange(18_000.0), 0.001), tried=40)
    assert chosen.limit > calibrate(np.arange(18_000.0), 0.001).limit
    assert guarantee_statement(chosen).endswith("≤ 0.187 % with 95 % confidence over calibration samples, for exchangeable rows, "
                                      "whichever of 40 rates the labels had chosen")  # fmt: skip


def test_a_cross_fitted_threshold_has_none() -> None:
    assert guarantee_statement(calibrate(np.arange(500.0), 0.05, "cross")) == (
        "cross-fitted on n = 500 rows the false-alarm rate is about 5 %, and at most 10 % is proven on average; "
        "a limit for this model is not known"
    )


def test_a_fitted_tail_has_one_if_it_fits() -> None:
    ordered = np.sort(np.random.default_rng(0).exponential(size=1000))
    tail = fit_tail(ordered)
    threshold = Threshold(method="gpd", alpha=tail.share, value=0.0, calibration=ordered, tail=tail).at(0.0005)
    words = guarantee_statement(threshold)
    assert words.startswith("with n = 1,000 calibration rows, 80 of them for a fitted tail, the false-alarm rate is ≤ 0.")
    assert words.endswith("% with 95 % confidence over calibration samples if normal scores go on as that tail does, for exchangeable rows")


def test_groups_are_counted_by_their_guarantee() -> None:
    scores, names = np.arange(400.0), pa.array(["a"] * 200 + ["b"] * 140 + ["c"] * 50 + ["d"] * 10)
    threshold = replace(calibrate(scores, 0.01), groups=calibrate_groups("m", names, scores, 0.01))
    assert guarantee_statement(threshold).partition(";")[2] == (
        " within 2 of 4 groups it is at most 1 % on average, 2 have the pooled threshold, without a guarantee of their own"
    )
    many = np.arange(2000.0)
    names = pa.array(["a"] * 1940 + ["c"] * 50 + ["d"] * 10)
    threshold = replace(calibrate(many, 0.01), groups=calibrate_groups("m", names, many, 0.01))
    assert guarantee_statement(threshold).partition(";")[2] == (
        " within 1 of 3 groups it is at most 1 % on average, 1 borrow rows of others and 1 have the pooled threshold, "
        "without a guarantee of their own"
    )
    threshold = replace(calibrate(many, 0.01), groups=calibrate_groups("m", pa.array(["a"] * 1000 + ["b"] * 1000), many, 0.01))
    assert guarantee_statement(threshold).endswith("; within 2 of 2 groups it is at most 1 % on average")


def test_the_guarantee_of_split_is_exact() -> None:
    guarantee = guarantee_of(calibrate(np.arange(4000.0), 0.01))
    assert (guarantee.exact, guarantee.calibration_rows, guarantee.threshold) == (True, 4000, 3960.0)
    assert guarantee.words == (
        "at most 1 % of normal rows like these are flagged on average (exact for exchangeable rows); "
        "with 4,000 calibration rows the rate of one model is 0.641 % to 1.45 % in 99 of 100 cases"
    )


def test_the_guarantee_of_cross_is_approximate() -> None:
    guarantee = guarantee_of(calibrate(np.arange(200.0), 0.05, "cross"))
    assert (guarantee.exact, guarantee.low, guarantee.high) == (False, None, None)
    assert (
        guarantee.words == "about 5 % of normal rows like these are flagged (cross-fitted on 200 rows: approximate, at most 10 % is proven)"
    )
