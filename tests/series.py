"""A little plant in time, and the detectors fitted on it, each once a process."""

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from vae_anomaly.config import CalibrationConfig, Config, DataConfig, ModelConfig, SeriesConfig, SeriesView, TrainConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.in_time import times_of
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.fitting.held_out import FitRecord
from vae_anomaly.schema.schema import infer_schema

COLUMNS = ("flow", "power", "heat", "mode")


def rows_of(count: int, *, seed: int = 0, fault: tuple[int, int] | None = None, holes: bool = False) -> pa.Table:
    """Return rows of two interleaved machines: power follows flow; in a ``fault`` it does not, and flow jumps.

    With ``holes``: missing cells, a row without any, and a gap of time.
    """
    random = np.random.default_rng(seed)
    table: dict[str, list[Any]] = {"t": [], "machine": [], **{name: [] for name in COLUMNS}}
    level = {"a": 0.0, "b": 0.0}
    clock = 0.0
    for i in range(count):
        name = "ab"[int(random.random() < 0.4)] if i else "a"
        clock += 0.5
        if holes and i == count // 2:
            clock += 500.0
        level[name] = 0.9 * level[name] + random.normal(scale=0.3)
        flow = 30.0 + level[name]
        power = 2.0 * flow + random.normal(scale=0.05)
        if fault is not None and fault[0] <= i < fault[1]:
            power, flow = power + 4.0 * random.normal(), flow + 3.0 * random.normal()
        row: dict[str, Any] = {
            "flow": flow,
            "power": power,
            "heat": 60.0 + random.normal(),
            "mode": "run" if random.random() < 0.9 else "idle",
        }
        if holes and i % 17 == 3:
            row["heat"] = None
        if holes and i == 60:
            row = dict.fromkeys(COLUMNS)
        for key, value in {"t": clock, "machine": name, **row}.items():
            table[key].append(value)
    return pa.table(table)


def config_of(*, span: int = 10, views: tuple[SeriesView, ...] = ("values", "own", "ar"), alpha: float = 0.02) -> Config:
    return Config(
        data=DataConfig(time_column="t", group_by="machine"),
        model=ModelConfig(hidden=(16,), latent=4, exemplars=64),
        train=TrainConfig(steps=30, batch_rows=32, device="cpu"),
        calibration=CalibrationConfig(alpha=alpha),
        series=SeriesConfig(span=span, views=views, folds=5, lags=2),
    )


@cache
def record_of(span: int = 10, views: tuple[SeriesView, ...] = ("values", "own", "ar")) -> FitRecord:
    config, table = config_of(span=span, views=views), rows_of(400)
    schema = infer_schema(table, config.data)
    return fit_rows(table, schema, config, times=times_of(table, schema, None))


def detector_of(span: int = 10, views: tuple[SeriesView, ...] = ("values", "own", "ar")) -> Detector:
    return record_of(span, views).detector
