"""Predictions of rows in time, against independent calculations."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from vae_anomaly.model.prediction import ACROSS, OWN, VALUES, Predictors, column_resolution, learn_predictors, residuals
from vae_anomaly.schema.encoding import Batch
from vae_anomaly.schema.history import past_of

LAGS = 3


def batch_of(numbers: NDArray[np.float64]) -> Batch:
    """Return the rows of one series with their past; NaN: missing."""
    values = torch.from_numpy(numbers).unsqueeze(1)
    return Batch(
        numeric=values.nan_to_num(0.0),
        codes=torch.zeros(len(numbers), 1, 0, dtype=torch.int64),
        observed=~values.isnan(),
        past=torch.from_numpy(past_of(numbers, None, LAGS)[0]),
    )


def series(rows: int, seed: int = 0) -> NDArray[np.float64]:
    """Two columns, of which the second follows the first one step later."""
    random = np.random.default_rng(seed)
    first = np.cumsum(random.normal(size=rows)) * 0.1 + random.normal(scale=0.05, size=rows)
    second = 5.0 + 2.0 * np.r_[first[:1], first[:-1]] + random.normal(scale=0.01, size=rows)
    return np.column_stack([first, second])


def test_own_coefficients_are_those_of_ridge_regression() -> None:
    numbers = series(400)
    batch, rows = batch_of(numbers), torch.arange(400)
    found = learn_predictors(batch, [OWN], [rows])
    standard = (numbers - numbers.mean(0)) / numbers.std(0)
    assert batch.past is not None
    past = (batch.past.numpy() - numbers.mean(0)) / numbers.std(0)
    for j in range(2):
        expected = Ridge(alpha=0.1 * 400 / 100, fit_intercept=False).fit(past[:, :, j], standard[:, j]).coef_
        np.testing.assert_allclose(found.own[0, :, j].numpy(), expected, rtol=1e-9)


def test_coefficients_of_all_columns_are_those_of_ridge_regression_with_the_usual_penalty() -> None:
    numbers = series(3500)
    found = learn_predictors(batch_of(numbers), [ACROSS], [torch.arange(3500)])
    standard = (numbers - numbers.mean(0)) / numbers.std(0)
    past = (past_of(numbers, None, LAGS)[0] - numbers.mean(0)) / numbers.std(0)
    expected = Ridge(alpha=3500 / 100, fit_intercept=False).fit(past.reshape(3500, -1), standard).coef_
    np.testing.assert_allclose(found.across[0].numpy(), expected.T, rtol=1e-7, atol=1e-10)


def test_few_rows_choose_the_penalty_by_contiguous_folds() -> None:
    numbers = series(300)
    found = learn_predictors(batch_of(numbers), [ACROSS], [torch.arange(300)])
    standard = (numbers - numbers.mean(0)) / numbers.std(0)
    past = ((past_of(numbers, None, LAGS)[0] - numbers.mean(0)) / numbers.std(0)).reshape(300, -1)
    folds = np.arange(300) // 60

    def error(penalty: float) -> float:
        total = 0.0
        for k in range(5):
            inside = folds != k
            model = Ridge(alpha=penalty * inside.sum() / 100, fit_intercept=False).fit(past[inside], standard[inside])
            total += float(((standard[~inside] - model.predict(past[~inside])) ** 2).sum())
        return total

    best = min((0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), key=error)
    expected = Ridge(alpha=best * 3, fit_intercept=False).fit(past, standard).coef_
    np.testing.assert_allclose(found.across[0].numpy(), expected.T, rtol=1e-7, atol=1e-10)


def test_residuals_are_the_numbers_minus_their_predictions() -> None:
    numbers = series(500)
    batch, rows = batch_of(numbers), torch.arange(500)
    found = learn_predictors(batch, [VALUES, OWN, ACROSS], [rows] * 3)
    left = residuals(found, batch).numpy()
    np.testing.assert_array_equal(left[VALUES], numbers)
    past = (past_of(numbers, None, LAGS)[0] - numbers.mean(0)) / numbers.std(0)
    own = np.einsum("nld,ld->nd", past, found.own[1].numpy()) * numbers.std(0) + numbers.mean(0)
    np.testing.assert_allclose(left[OWN], numbers - own, atol=1e-9)
    # The second column follows the first: only the prediction from all columns knows.
    assert left[ACROSS][:, 1].std() < 0.3 * left[OWN][:, 1].std()


def test_the_driver_is_the_column_that_moves_the_prediction() -> None:
    batch = batch_of(series(500))
    found = learn_predictors(batch, [ACROSS], [torch.arange(500)])
    assert batch.past is not None
    drivers = found.drivers(batch.past)
    assert drivers.shape == (500, 2)
    assert drivers[:, 1].eq(0).all()
    assert learn_predictors(batch, [OWN], [torch.arange(500)]).drivers(batch.past).eq(-1).all()


def test_networks_may_be_picked_and_have_rows_of_their_own() -> None:
    numbers = series(400)
    batch = batch_of(numbers)
    rows = [torch.arange(0, 200), torch.arange(200, 400)]
    found = learn_predictors(batch, [VALUES, OWN, ACROSS, ACROSS], [rows[0], rows[0], rows[0], rows[1]])
    every = residuals(found, batch)
    picked = torch.tensor([3, 1])
    assert torch.equal(residuals(found.nets(picked), batch), every[picked])
    index = torch.stack([torch.arange(5), torch.arange(5, 10)])
    own_rows = residuals(found.nets(picked), batch.rows(index))
    assert torch.allclose(own_rows[0], every[3, :5], atol=1e-12)
    assert torch.allclose(own_rows[1], every[1, 5:10], atol=1e-12)


@pytest.mark.parametrize("kind", [OWN, ACROSS])
def test_a_missing_past_counts_as_the_mean_and_a_constant_column_predicts_itself(kind: int) -> None:
    numbers = np.column_stack([series(300), np.full(300, 7.0)])
    batch = batch_of(numbers)
    found = learn_predictors(batch, [kind], [torch.arange(300)])
    unknown = torch.full((1, LAGS, 3), torch.nan, dtype=torch.float64)
    np.testing.assert_allclose(found.predict(unknown)[0, 0].numpy(), numbers.mean(0), atol=1e-12)
    assert residuals(found, batch)[0, :, 2].abs().max() == 0.0


def test_a_row_has_the_same_bits_at_every_place_of_a_block() -> None:
    random = np.random.default_rng(1)
    for columns in (2, 5, 7, 11, 20, 43):
        numbers = random.normal(size=(512, columns)).cumsum(0)
        batch = batch_of(numbers)
        found = learn_predictors(batch, [OWN, ACROSS], [torch.arange(512)] * 2)
        assert batch.past is not None
        whole = found.predict(batch.past)
        for first in (1, 9, 100, 127):
            assert torch.equal(found.predict(batch.past[first : first + 128]), whole[:, first : first + 128]), columns


def test_the_resolution_is_the_least_step_that_is_no_rounding_error() -> None:
    numbers = np.array([[0.25, 1.0, 3.0], [0.5, 1.0 + 1e-12, 3.0], [1.5, 2.5, 3.0], [np.nan, 4.0, 3.0]])
    assert column_resolution(batch_of(numbers), torch.arange(4)).tolist() == pytest.approx([0.25, 1.5, 0.0])


def test_predictors_of_no_network_are_empty() -> None:
    found = learn_predictors(batch_of(series(100)), [ACROSS], [torch.arange(100)])
    none = found.nets(torch.zeros(0, dtype=torch.int64))
    assert isinstance(none, Predictors)
    assert none.predict(torch.zeros(4, LAGS, 2, dtype=torch.float64)).shape == (0, 4, 2)
