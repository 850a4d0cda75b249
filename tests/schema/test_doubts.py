import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from vae_anomaly.schema.doubts import doubt_of, doubts, rank_correlation
from vae_anomaly.schema.inference import Column

ROWS = 400
R = np.random.default_rng(0)


def doubt(name: str, values: object, kind: str = "numeric") -> str:
    levels = () if kind == "numeric" else tuple(dict.fromkeys(values))  # type: ignore[call-overload]
    return doubt_of(Column(name=name, kind=kind, levels=levels), pa.chunked_array([pa.array(values)]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("energy_total", np.cumsum(R.uniform(0, 2, ROWS)), "rises with the row number"),
        ("tank", 1e6 - np.cumsum(R.uniform(0, 2, ROWS)), "falls with the row number"),
        ("month", np.repeat([3, 4], ROWS // 2), "holds the month of a date, 3 to 4"),
        ("year", np.full(ROWS, 2024), "holds the year of a date, 2024: rows of another year"),
        ("event_month", np.full(ROWS, 3.0), "holds the month of a date, 3: rows"),
        ("density", R.normal(1.5e18, 1e16, ROWS), "may be Unix time in nanoseconds"),
        ("counter", np.tile(np.arange(100.0), 4), "counts in equal steps and restarts"),
        ("stamp_of_it", R.integers(1_700_000_000, 1_702_000_000, ROWS), "may be Unix time in seconds"),
    ],
)
def test_what_may_be_no_measurement_is_said(name: str, values: np.ndarray, said: str) -> None:
    text = doubt(name, values)
    assert text.startswith(f"'{name}' ")
    assert said in text
    assert text.endswith("Leave it out with --exclude, or keep it with --include")


@pytest.mark.parametrize(
    "values",
    [
        R.normal(20, 1, ROWS),
        20 + 5 * np.sin(np.arange(ROWS) / 30) + R.normal(0, 1, ROWS),
        R.normal(20, 1, ROWS) + np.linspace(0, 2, ROWS),  # a slow drift within the spread
        np.full(ROWS, 3.0),
    ],
)
def test_a_measurement_is_not_doubted(values: np.ndarray) -> None:
    assert doubt("temp", values) == ""


def test_levels_that_follow_one_another() -> None:
    assert "changes its levels with the row number" in doubt("batch", [f"b{i // 20:03}" for i in range(ROWS)], "category")
    assert doubt("mode", [("a", "b", "c")[i % 3] for i in range(ROWS)], "category") == ""


def test_rows_in_another_order_are_put_in_time() -> None:
    order = R.permutation(ROWS)
    table = pa.table({"energy": np.arange(ROWS, dtype=np.float64)[order] ** 1.5})
    column = Column(name="energy", kind="numeric")
    assert doubts([column], table) == {}
    assert list(doubts([column], table, np.argsort(order))) == ["energy"]


def test_rank_correlation_is_spearmans() -> None:
    values = R.integers(0, 50, 300).astype(np.float64) + np.arange(300) / 10
    assert rank_correlation(values) == pytest.approx(spearmanr(values, np.arange(300)).statistic)
