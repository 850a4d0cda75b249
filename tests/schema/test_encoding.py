import numpy as np
import pyarrow as pa
import torch

from tests import tiny
from vae_anomaly.config import DataConfig
from vae_anomaly.schema.encoding import Batch, boolean_distance, concatenate, encode, model_order
from vae_anomaly.schema.inference import Column
from vae_anomaly.schema.schema import Schema, conform, infer_schema

SCHEMA = Schema(
    columns=(
        Column(name="mode", kind="category", levels=("idle", "run")),
        Column(name="open", kind="boolean", levels=("no", "yes")),
        Column(name="flow", kind="numeric"),
        Column(name="crew", kind="category", levels=("a", "b", "c")),
        Column(name="power", kind="numeric"),
    )
)


def _batch(**columns: list[object]) -> Batch:
    return encode(SCHEMA, conform(SCHEMA, pa.RecordBatch.from_pydict(columns), where="the test"))


def _rows() -> Batch:
    return _batch(
        flow=[1.5, None, float("nan")],
        power=[2.0, 1e300, -0.0],
        open=["yes", "no", None],
        mode=["run", None, "broken"],
        crew=["c", "a", "b"],
    )


def test_columns_stand_as_numbers_booleans_categories_each_in_the_order_of_the_schema() -> None:
    assert [c.name for c in model_order(SCHEMA)] == ["flow", "power", "open", "mode", "crew"]


def test_cells_become_raw_numbers_level_codes_and_a_mask() -> None:
    batch = _rows()
    assert batch.numeric.tolist() == [[[1.5, 2.0]], [[0.0, 1e300]], [[0.0, 0.0]]]
    assert batch.codes.tolist() == [[[1, 1, 2]], [[0, 0, 0]], [[0, 2, 1]]]
    assert batch.observed.tolist() == [[[True] * 5], [[False, True, True, False, True]], [[False, True, False, True, True]]]
    assert (batch.numeric.dtype, batch.codes.dtype, batch.observed.dtype) == (torch.float64, torch.int64, torch.bool)


def test_a_level_never_seen_has_the_code_after_the_last_level() -> None:
    assert _rows().codes[2, 0, 1] == len(SCHEMA.columns[0].levels)


def test_rows_picks_the_same_rows_of_all_tensors() -> None:
    picked = _rows().rows(torch.tensor([2, 0]))
    assert len(picked) == 2
    assert picked.codes[:, 0].tolist() == [[0, 2, 1], [1, 1, 2]]
    assert picked.observed[0, 0].tolist() == [False, True, False, True, True]


def test_no_rows_give_tensors_of_no_rows() -> None:
    rows = tiny.table("mixed", 60, seed=0)
    batch = tiny.encoded(infer_schema(rows, DataConfig()), rows.slice(0, 0))
    assert len(batch) == 0
    assert batch.numeric.shape == (0, 1, 5)
    assert batch.codes.shape == (0, 1, 4)


def test_numbers_alone_and_levels_alone_are_tables_too() -> None:
    numbers = Schema(columns=(Column(name="flow", kind="numeric"),))
    levels = Schema(columns=(Column(name="open", kind="boolean", levels=("0", "1")),))
    first = encode(numbers, pa.RecordBatch.from_pydict({"flow": pa.array([1.0, None])}))
    second = encode(levels, pa.RecordBatch.from_pydict({"open": pa.array(["1", None])}))
    assert (first.numeric.shape, first.codes.shape) == ((2, 1, 1), (2, 1, 0))
    assert (second.numeric.shape, second.codes.shape) == ((2, 1, 0), (2, 1, 1))
    assert first.observed.tolist() == second.observed.tolist() == [[[True]], [[False]]]


def test_the_batch_owns_its_memory() -> None:
    values = np.array([1.0, 2.0])
    schema = Schema(columns=(Column(name="flow", kind="numeric"),))
    batch = encode(schema, pa.RecordBatch.from_arrays([pa.array(values)], names=["flow"]))
    batch.numeric.zero_()
    assert values.tolist() == [1.0, 2.0]


def test_batches_are_joined_in_order() -> None:
    detector = tiny.detector(tiny.Case(kind="mixed", size="one", method="split", prior="exemplar"))
    whole = tiny.encoded(detector.schema, tiny.odd_rows("mixed"))
    again = concatenate(whole.rows(slice(i, i + 40)) for i in range(0, len(whole), 40))
    assert all(torch.equal(getattr(again, name), getattr(whole, name)) for name in ("numeric", "codes", "observed"))


def test_the_code_of_a_boolean_tells_how_far_a_number_is_from_0_and_1() -> None:
    schema = Schema(columns=(Column(name="count", kind="boolean", levels=("0", "1")),))
    cells = pa.RecordBatch.from_pydict({"count": ["0", "1", None, "2", "250", "-1.5", "0.25", "broken"]})
    codes = encode(schema, conform(schema, cells, where="the test")).codes[:, 0, 0]
    assert codes[:3].tolist() == [0, 1, 0]
    assert codes[-1] == 2
    np.testing.assert_allclose(boolean_distance(codes).tolist(), [0, 0, 0, 1, 249, 1.5, 0.25, 0], rtol=0, atol=2**-20)
