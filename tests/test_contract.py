"""Every detector of the grid keeps every line of the contract: numeric or mixed, one network or several, both calibrations and priors."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests import contract, tiny
from tests.tiny import CASES, Case
from vae_anomaly.detector.detector import Detector

Check = Callable[[Detector, pa.Table], None]

# Rows of every sort: outliers, holes, an empty row, levels never seen, constants that changed.
ON_ODD_ROWS: tuple[Check, ...] = (
    contract.check_score_is_repeatable,
    contract.check_score_ignores_batch_size,
    contract.check_score_ignores_place,
    contract.check_score_ignores_row_order,
    contract.check_score_ignores_threads,
    contract.check_streaming_equals_whole,
    contract.check_columns_may_come_in_any_order,
    contract.check_missing_cell_costs_only_where_the_fit_had_none,
    contract.check_row_without_cells_has_no_score,
    contract.check_total_is_sum_of_parts,
    contract.check_score_agrees_with_float64,
    contract.check_input_is_not_changed,
    contract.check_one_row_and_no_rows,
    contract.check_p_values_and_flags_agree,
)
ON_NORMAL_ROWS: tuple[Check, ...] = (contract.check_false_alarm_rate,)
ON_CATEGORIES: tuple[Check, ...] = (contract.check_unseen_category_scores_finite, contract.check_changed_constant_is_flagged)
MIXED = [case for case in CASES if case.kind == "mixed"]


def _name(check: Check) -> str:
    return check.__name__.removeprefix("check_")


@pytest.mark.parametrize("check", ON_ODD_ROWS, ids=_name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_odd_rows(case: Case, check: Check) -> None:
    check(tiny.detector(case), tiny.odd_rows(case.kind))


@pytest.mark.parametrize("check", ON_NORMAL_ROWS, ids=_name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_normal_rows(case: Case, check: Check) -> None:
    check(tiny.detector(case), tiny.table(case.kind, 500, seed=2))


@pytest.mark.parametrize("check", ON_CATEGORIES, ids=_name)
@pytest.mark.parametrize("case", MIXED, ids=str)
def test_with_categories(case: Case, check: Check) -> None:
    check(tiny.detector(case), tiny.table("mixed", 40, seed=3))


@pytest.mark.parametrize("columns", range(2, 41))
def test_a_table_of_any_width_is_scored_alike_in_every_batch(columns: int) -> None:
    """Products of some widths round by the place of a row on some processors."""
    rows = tiny.correlated(columns, 400, seed=columns)
    shifts = [(columns + 6 * k) % 31 + 1 for k in range(5)]  # over all widths, each shift several times
    contract.check_score_ignores_place(tiny.fit(rows.slice(0, 200), tiny.usual_sizes()), rows, shifts)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_save_load_same_scores(case: Case, tmp_path: Path) -> None:
    contract.check_save_load_same_scores(tiny.detector(case), tiny.odd_rows(case.kind), tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_seed_same_weights(case: Case) -> None:
    contract.check_same_seed_same_weights(tiny.detector(case), tiny.normal_rows(case.kind))


def test_every_check_of_the_contract_is_run() -> None:
    written = {getattr(contract, name) for name in dir(contract) if name.startswith("check_")}
    run = {*ON_ODD_ROWS, *ON_NORMAL_ROWS, *ON_CATEGORIES, contract.check_save_load_same_scores, contract.check_same_seed_same_weights}
    assert written == run
