"""Who learns from what, which columns are constant, which rows are exemplars, how views are with_learned_weights, what calibrates."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.tiny import Case
from vae_anomaly.config import CalibrationConfig, Config
from vae_anomaly.errors import ConfigError, DataError, TooFewRows
from vae_anomaly.fitting.checkpointing import NoCheckpoint, Progress, Stage
from vae_anomaly.fitting.fit import check_device, find_constant_columns, fit_detector, fit_rows
from vae_anomaly.fitting.robust import TrimmedRows
from vae_anomaly.fitting.splits import RowSplit, assign_networks, split_rows
from vae_anomaly.model.ensemble import score_rows
from vae_anomaly.model.training import TrainingState, Trial
from vae_anomaly.schema.encoding import Batch
from vae_anomaly.schema.schema import infer_schema

SPLIT = Case(kind="mixed", size="several", method="split", prior="exemplar")
CROSS = Case(kind="mixed", size="several", method="cross", prior="exemplar")


def _plan(case: Case, rows: int = tiny.NORMAL_ROWS) -> RowSplit:
    return split_rows(tiny.config(case).calibration, rows, 0)


def _rows(values: list[list[float | None]], codes: list[list[int | None]]) -> Batch:
    """Rows of numbers and codes, None = missing."""
    numeric = [[x or 0.0 for x in row] for row in values]
    codes_ = [[x or 0 for x in row] for row in codes]
    observed = [[x is not None for x in [*a, *b]] for a, b in zip(values, codes, strict=True)]
    return Batch(
        numeric=torch.tensor(numeric, dtype=torch.float64).unsqueeze(1),
        codes=torch.tensor(codes_).unsqueeze(1),
        observed=torch.tensor(observed).unsqueeze(1),
    )


# ConstantColumns


def test_a_column_is_constant_when_its_observed_training_cells_are_all_the_same() -> None:
    batch = _rows(
        [[None, 1.0, 5.0, None], [7.0, 2.0, 5.0, None], [7.0, 1.0, 5.0, None], [8.0, 1.0, 5.0, None]],
        [[1, 0], [None, 2], [1, 0], [0, 0]],
    )
    constants, numeric, codes = find_constant_columns(batch, torch.tensor([0, 1, 2]))
    assert (constants.numeric.tolist(), constants.value.tolist()) == ([0, 2, 3], [7.0, 5.0, 0.0])
    assert (constants.code.tolist(), constants.level.tolist()) == ([0], [1])
    assert (numeric.tolist(), codes.tolist()) == ([1], [1])
    assert constants.penalty == 0.0, "calibration sets it"


def test_a_table_in_which_nothing_changes_is_refused_before_training() -> None:
    table = pa.table({"rated": [50.5] * 240, "site": ["north"] * 240})
    heard: list[Progress] = []
    config = tiny.config(SPLIT)
    with pytest.raises(DataError) as refused:
        fit_detector(table, infer_schema(table, config.data), config, on_progress=heard.append)
    assert str(refused.value) == (
        "all columns are constant in the 168 training row(s); expected at least one that varies. Give rows with normal variation."
    )
    assert heard == []


@pytest.mark.parametrize("value", [1e308, -1.2e148, 1.797e308])
def test_a_column_whose_variance_overflows_is_refused_before_training(value: float) -> None:
    table = pa.table({"flow": [float(i) for i in range(240)], "b\n": [None, value, *[0.5] * 238], "site": ["a", "b"] * 120})
    heard: list[Progress] = []
    config = tiny.config(SPLIT)
    with pytest.raises(DataError) as refused:
        fit_detector(table, infer_schema(table, config.data), config, on_progress=heard.append)
    assert str(refused.value) == (
        f"column 'b\\n' holds {value:g} in the training rows; the spread of numbers beyond ±1e+148 cannot be computed. "
        "Declare it in --missing-values if it means a missing value, give the column in a larger unit, or leave it out with --exclude."
    )
    assert heard == []


def test_the_largest_numbers_whose_variance_is_finite_are_fitted() -> None:
    table = pa.table({"flow": [1e148, -1e148] * 120, "power": [float(i % 7) for i in range(240)]})
    config = tiny.config(SPLIT)
    detector = fit_detector(table, infer_schema(table, config.data), config)
    assert torch.isfinite(detector.ensemble.views.scale).all()
    assert np.isfinite(detector.threshold.calibration).all()


# Who learns from what


def _learned(state: dict[str, Tensor], index: Tensor) -> dict[str, bytes]:
    """What belongs to single networks."""
    names = [n for n in state if n.partition(".")[0] in {"vae", "views", "exemplars"} or n == "weight"]
    return {name: state[name][index].numpy().tobytes() for name in names}


def test_under_cross_everything_is_learned_without_the_fold() -> None:
    """Other rows in one fold change nothing that the networks of this fold are made of, down to the last bit."""
    rows, config, plan = tiny.normal_rows("mixed"), tiny.config(CROSS), _plan(CROSS)
    schema = infer_schema(rows, config.data)
    fold = 3
    values = rows["flow"].to_pylist()
    for i in np.flatnonzero(plan.fold == fold).tolist():
        values[i] = 500.0
    other = rows.set_column(0, "flow", pa.array(values))
    mine = (torch.tensor(assign_networks(plan, config).held_out_fold) == fold).nonzero().flatten()
    theirs = (torch.tensor(assign_networks(plan, config).held_out_fold) != fold).nonzero().flatten()
    first, second = (fit_detector(t, schema, config).state()[1] for t in (rows, other))
    assert _learned(first, mine) == _learned(second, mine)
    assert _learned(first, theirs) != _learned(second, theirs), "the control: the others have seen the change"


def test_under_split_nothing_is_learned_from_the_calibration_part() -> None:
    rows, config, plan = tiny.normal_rows("mixed"), tiny.config(SPLIT), _plan(SPLIT)
    schema = infer_schema(rows, config.data)
    values = rows["flow"].to_pylist()
    for i in plan.calibration.tolist():
        values[i] = 500.0
    other = rows.set_column(0, "flow", pa.array(values))
    first, second = (fit_detector(t, schema, config).state()[1] for t in (rows, other))
    changed = [name for name in first if not torch.equal(first[name], second[name])]
    # What is usual for a column explains a score and is no part of it.
    assert sorted(changed) == ["calibration", "usual.middle", "usual.spread"]


# Calibration


def test_under_cross_a_row_is_scored_by_the_networks_that_have_not_seen_it() -> None:
    detector, plan = tiny.detector(CROSS), _plan(CROSS)
    batch = tiny.encoded(detector.schema, tiny.normal_rows("mixed"))
    part = torch.tensor(assign_networks(plan, detector.config).held_out_fold)
    expected = []
    for i in range(len(batch)):
        alone = detector.ensemble.nets((part == plan.fold[i]).nonzero().flatten())
        whole = replace(alone, weight=alone.weight * plan.folds)
        expected.append(float(score_rows(whole, batch.rows(slice(i, i + 1))).total))
    np.testing.assert_array_equal(detector.threshold.calibration, np.sort(expected))


def test_under_split_the_calibration_scores_are_those_of_the_whole() -> None:
    detector, plan = tiny.detector(SPLIT), _plan(SPLIT)
    batch = tiny.encoded(detector.schema, tiny.normal_rows("mixed"))
    scores = detector.scores(batch.rows(torch.from_numpy(plan.calibration))).total
    np.testing.assert_array_equal(detector.threshold.calibration, np.sort(scores.numpy()))


def test_a_calibration_row_in_which_a_constant_changed_scores_above_all_others() -> None:
    rows, config, plan = tiny.normal_rows("mixed"), tiny.config(SPLIT), _plan(SPLIT)
    values = rows["rated"].to_pylist()
    values[int(plan.calibration[0])] = 60.0
    detector = fit_detector(
        rows.set_column(rows.column_names.index("rated"), "rated", pa.array(values)), infer_schema(rows, config.data), config
    )
    usual, highest = detector.threshold.calibration[-2:]
    assert highest >= detector.ensemble.constants.penalty >= usual + 1.0


def test_calibration_rows_without_any_cell_are_not_counted_and_not_all_may_be_so() -> None:
    rows, config, plan = tiny.normal_rows("numeric"), tiny.config(replace(SPLIT, kind="numeric")), _plan(SPLIT)
    schema = infer_schema(rows, config.data)
    content = rows.to_pylist()
    content[int(plan.calibration[0])] = dict.fromkeys(rows.column_names)
    detector = fit_detector(pa.Table.from_pylist(content, schema=rows.schema), schema, config)
    assert len(detector.threshold.calibration) == len(plan.calibration) - 1
    for i in plan.calibration.tolist():
        content[i] = dict.fromkeys(rows.column_names)
    with pytest.raises(TooFewRows) as refused:
        fit_detector(pa.Table.from_pylist(content, schema=rows.schema), schema, config)
    assert str(refused.value) == "no calibration row has an observed value in any model column; give rows with fewer missing values."


# The whole


def test_too_few_rows_are_refused_before_training() -> None:
    rows = tiny.normal_rows("numeric").slice(0, 40)
    config = Config(calibration=CalibrationConfig(alpha=0.01))
    heard: list[Progress] = []
    with pytest.raises(TooFewRows, match=r"needs at least 99 calibration rows; 40 given"):
        fit_detector(rows, infer_schema(rows, config.data), config, on_progress=heard.append)
    assert heard == []


def test_a_device_that_cannot_be_used_is_refused_before_training() -> None:
    """PyTorch knows the name ``xla``, and computes there with a package that nobody has here; so it is with a GPU on other machines."""
    with pytest.raises(ConfigError) as refused:
        check_device(torch.device("xla"))
    assert str(refused.value).startswith("train.device 'xla' cannot be used here: ")
    assert str(refused.value).endswith(". Use auto or cpu.")
    assert check_device(torch.device("cpu")) == torch.device("cpu")


def test_progress_counts_the_steps_and_then_the_calibration() -> None:
    heard: list[Progress] = []
    config = tiny.config(replace(SPLIT, kind="numeric"), steps=3)
    rows = tiny.normal_rows("numeric")
    fit_detector(rows, infer_schema(rows, config.data), config, on_progress=heard.append)
    assert [(p.stage, p.done, p.total) for p in heard] == [("train", 1, 3), ("train", 2, 3), ("train", 3, 3), ("calibrate", 0, 1)]


def test_the_card_counts_rows_and_says_what_limits_the_promise() -> None:
    split, cross = tiny.detector(SPLIT).card, tiny.detector(CROSS).card
    assert (split.rows, split.training_rows, split.calibration_rows) == (240, 168, 72)
    assert (cross.rows, cross.training_rows, cross.calibration_rows) == (240, 240, 240)
    constants = "2 constant column(s): no effect on the score while unchanged; a change flags the row"
    assert split.notes == (constants,)
    assert cross.notes == (
        "cross-fitted, approximate: 10 folds; the false-alarm rate is near alpha and at most twice it in theory",
        constants,
    )


def test_a_table_of_categories_alone_is_fitted_on_every_view() -> None:
    rows = tiny.table("mixed", tiny.NORMAL_ROWS, seed=1).select(["mode", "open", "crew"])
    settings = tiny.config(SPLIT)
    assert "robust" in settings.model.views
    detector = tiny.fit(rows, settings)
    assert bool(detector.scores(tiny.encoded(detector.schema, rows)).total.isfinite().any())


# Going on


class Killed(Exception):
    """Stands for a kill: nobody catches it."""


class InMemory:
    """Remembers as long as the process lives, and kills the fit after so many steps."""

    def __init__(self) -> None:
        self.states: dict[str, TrainingState] = {}
        self.trimmed: TrimmedRows | None = None
        self.heard: list[tuple[str, int, int]] = []
        self.left = 10**9

    def load_training(self, stage: str) -> TrainingState | None:
        return self.states.get(stage)

    def after_step(self, stage: str, done: int, total: int, training: Callable[[], TrainingState]) -> None:
        self.heard.append((stage, done, total))
        self.states[stage] = training()
        self.left -= 1
        if self.left == 0:
            raise Killed

    def load_trimmed_rows(self) -> TrimmedRows | None:
        return self.trimmed

    def save_trimmed_rows(self, trimmed: TrimmedRows) -> None:
        self.trimmed = trimmed


def _bytes(table: pa.Table, config: Config, checkpoint: InMemory | None = None) -> tuple[str, dict[str, bytes]]:
    stage = Stage(checkpoint=checkpoint or NoCheckpoint())
    state, tensors = fit_rows(table, infer_schema(table, config.data), config, stage=stage).detector.state()
    return json.dumps(state), {name: t.contiguous().numpy().tobytes() for name, t in tensors.items()}


def test_a_timed_step_before_the_training_changes_no_byte_of_the_model() -> None:
    config, table, tried = tiny.config(SPLIT, steps=6), tiny.normal_rows("mixed"), []

    def run(trial: Trial) -> None:
        tried.append(trial.steps)
        trial.run()

    state, tensors = fit_rows(table, infer_schema(table, config.data), config, stage=Stage(on_trial=run)).detector.state()
    assert (json.dumps(state), {n: t.contiguous().numpy().tobytes() for n, t in tensors.items()}) == _bytes(table, config)
    assert len(tried) == 1


@pytest.mark.parametrize("robust", [False, True], ids=["plain", "contamination-robust"])
@pytest.mark.parametrize("case", [SPLIT, CROSS], ids=str)
def test_a_fit_that_is_killed_again_and_again_gives_the_same_bytes(case: Case, *, robust: bool) -> None:
    config, table = tiny.config(case, steps=6), tiny.normal_rows("mixed")
    config = replace(config, train=replace(config.train, contamination_robust=robust))
    checkpoint, kills = InMemory(), 0
    while True:
        checkpoint.left = 4
        try:
            found = _bytes(table, config, checkpoint)
            break
        except Killed:
            kills += 1
    assert found == _bytes(table, config)
    stages = ["first pass", "train"] if robust else ["train"]
    assert checkpoint.heard == [(stage, done, 6) for stage in stages for done in range(1, 7)], "no step is done twice"
    assert kills == len(checkpoint.heard) // 4
    assert (checkpoint.trimmed is not None) == robust
