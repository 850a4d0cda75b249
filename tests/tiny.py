"""Tiny tables and the detectors fitted on them, one for each case of the contract; each is fitted once a process.

Every size and every setting is written out, so that no test depends on a default.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.threshold import Method
from vae_anomaly.config import CalibrationConfig, Config, ModelConfig, Prior, TrainConfig, ViewName
from vae_anomaly.detector.detector import Detector
from vae_anomaly.fitting.fit import fit_detector
from vae_anomaly.schema.encoding import Batch, encode
from vae_anomaly.schema.schema import Schema, conform, infer_schema

Kind = Literal["numeric", "mixed"]
Size = Literal["one", "several"]
Row = dict[str, Any]
KINDS: tuple[Kind, ...] = ("numeric", "mixed")
SIZES: tuple[Size, ...] = ("one", "several")
METHODS: tuple[Method, ...] = ("split", "cross")
PRIORS: tuple[Prior, ...] = ("exemplar", "standard")
NORMAL_ROWS = 240
ALPHA = 0.1
# Places of the odd rows in ``odd_rows``; more rows than a block of the score holds, so that there are two.
ODD_ROWS = 150
OUTLIER, EMPTY, UNSEEN, CHANGED_NUMBER, CHANGED_LEVEL, HOLES = 3, 5, 8, 11, 14, 140


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What kind of detector: the columns, the size of the ensemble, how it is calibrated, the prior of the score."""

    kind: Kind
    size: Size
    method: Method
    prior: Prior

    def __str__(self) -> str:
        return f"{self.kind}-{self.size}-{self.method}-{self.prior}"


CASES = tuple(Case(kind=k, size=s, method=m, prior=p) for k, s, m, p in product(KINDS, SIZES, METHODS, PRIORS))


def config(case: Case, *, seed: int = 0, steps: int = 30) -> Config:
    views: tuple[ViewName, ...] = ("standard",) if case.size == "one" else ("standard", "minmax", "robust")
    return Config(
        model=ModelConfig(
            views=views,
            members=1 if case.size == "one" else 2,
            hidden=(16,),
            residual_blocks=1,
            linear_skip=True,
            latent=4,
            sigma=0.1,
            prior=case.prior,
            # The literal VAE beside the default: every pair is met, and no case more is needed.
            likelihood="gaussian" if case.prior == "standard" else "student-t",
            activation="relu" if case.prior == "standard" else "silu",
            exemplars=64,
        ),
        train=TrainConfig(steps=steps, batch_rows=32, learning_rate=5e-3, weight_decay=1e-4, input_noise=0.02, device="cpu"),
        calibration=CalibrationConfig(alpha=ALPHA, method=case.method, share=0.3, max_rows=1000),
        seed=seed,
    )


def table(kind: Kind, rows: int, seed: int) -> pa.Table:
    """Return rows of a little pump: two hidden causes, 3 % missing cells; ``rated`` and ``site`` never change."""
    random = np.random.default_rng(seed)
    load, heat = random.normal(size=(2, rows))
    numbers = {
        "flow": 30.0 + 4.0 * load + random.normal(scale=0.4, size=rows),
        "pressure": 1e5 + 2e3 * (load - heat) + random.normal(scale=200.0, size=rows),
        "power": np.exp(0.3 * load + random.normal(scale=0.05, size=rows)),
        "celsius": -5.0 + 0.01 * heat + random.normal(scale=0.001, size=rows),
    }
    columns = {name: _holed(random, values) for name, values in numbers.items()}
    if kind == "mixed":
        modes = np.array(["idle", "low", "high"])[np.digitize(load, [-0.5, 0.7])]
        columns |= {
            "mode": _holed(random, modes),
            "open": _holed(random, heat > 0),
            "rated": pa.array(np.full(rows, 50.5)),
            "crew": pa.array(random.choice(["a", "b", "c", "d"], size=rows)),
            "site": pa.array(["north"] * rows),
        }
    return pa.table(columns)


def correlated(columns: int, rows: int, seed: int) -> pa.Table:
    """Return numbers with three common causes; in every other table one cell in fifty is missing."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(rows, 3)) @ random.normal(size=(3, columns)) + 0.3 * random.normal(size=(rows, columns))
    if seed % 2:
        numbers[random.random(numbers.shape) < 0.02] = np.nan
    return pa.table({f"x{j}": pa.array(numbers[:, j], from_pandas=True) for j in range(columns)})


def usual_sizes() -> Config:
    """Return the networks that people use, as good as untrained: how their products round depends on their sizes alone."""
    defaults = Config()
    return replace(
        defaults,
        model=replace(defaults.model, members=2, views=("standard", "robust")),
        train=replace(defaults.train, steps=1, batch_rows=32, device="cpu"),
    )


def _holed(random: np.random.Generator, values: NDArray[Any]) -> pa.Array:
    return pa.array(values, mask=random.random(len(values)) < 0.03)


def odd_rows(kind: Kind) -> pa.Table:
    """Return rows with everything that can be odd about a row; see the names of the places above."""
    new = table(kind, ODD_ROWS, seed=7)
    rows: list[Row] = new.to_pylist()
    rows[OUTLIER]["pressure"] = 9e5
    rows[EMPTY] = dict.fromkeys(rows[EMPTY])
    rows[HOLES] = rows[HOLES] | {"flow": None, "power": None}
    if kind == "mixed":
        rows[UNSEEN]["mode"] = "reverse"
        rows[CHANGED_NUMBER]["rated"] = 60.0
        rows[CHANGED_LEVEL]["site"] = "south"
        rows[HOLES] = rows[HOLES] | {"mode": None, "open": None, "rated": None}
    return pa.Table.from_pylist(rows, schema=new.schema)


def one_batch(rows: pa.Table) -> pa.RecordBatch:
    """Return the rows of a table as one record batch, also where there are none."""
    batches: list[pa.RecordBatch] = rows.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)


def encoded(schema: Schema, rows: pa.Table) -> Batch:
    return encode(schema, conform(schema, one_batch(rows), where="the test"))


def fit(rows: pa.Table, settings: Config) -> Detector:
    return fit_detector(rows, infer_schema(rows, settings.data), settings)


@cache
def normal_rows(kind: Kind) -> pa.Table:
    return table(kind, NORMAL_ROWS, seed=1)


@cache
def detector(case: Case) -> Detector:
    """Return the detector of a case; nothing may change it, so all tests share it."""
    return fit(normal_rows(case.kind), config(case))
