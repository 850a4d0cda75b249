"""The detector as an MLflow model: data frame in, data frame out, for ``mlflow models predict|serve``, ``load_model`` and Spark.

Knows nothing of runs or the registry. Logged as *models from code*: MLflow stores ``MODEL_CODE``, which imports ``vae_anomaly.pyfunc``,
and the artifact folder; nothing is pickled. The code itself is not stored with the model, because MLflow lets the second model of a
process use the code of the first (mlflow#12377); the format number of the artifact says which package versions can read it.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import pyarrow as pa
from mlflow import pyfunc
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec
from mlflow.types import Schema as Columns
from mlflow.types.schema import Array, Object, Property

from vae_anomaly import artifact
from vae_anomaly._version import __version__
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import RESULT_FIELDS, ScoreOptions, score_batches
from vae_anomaly.errors import ConfigError, SchemaMismatch
from vae_anomaly.schema.schema import check_duplicates
from vae_anomaly.tracking.store import DETECTOR_FOLDER, LOGGED_NAME

# The file that MLflow executes to get the model: stored with every model, so
# that the import in it has to work for ever.
MODEL_CODE = """\
from mlflow.models import set_model

from vae_anomaly.pyfunc import AnomalyModel

set_model(AnomalyModel())
"""
# What scoring needs. Pinned, because MLflow's own search for requirements takes four seconds.
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "safetensors", "pydantic")
TOP = 5
WHERE = "the data frame"
EXPLAIN = ("flagged", "all", "none")
MLFLOW_TYPES = {pa.float64(): DataType.double, pa.bool_(): DataType.boolean, pa.string(): DataType.string}


class AnomalyModel(PythonModel):
    """Scores data frames with the detector in the model's artifact folder."""

    detector: Detector
    version: str

    def load_context(self, context: PythonModelContext) -> None:
        """Read the detector; MLflow calls this once."""
        folder = Path(context.artifacts[DETECTOR_FOLDER])
        self.detector = artifact.load(folder)
        self.version = artifact.fingerprint(folder)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  # MLflow's signature
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score rows: the columns of ``vae-anomaly score``, the index of the input, higher = more anomalous.

        ``params``: ``alpha`` (false-alarm rate), ``explain`` (flagged, all or none), ``top`` (columns to name; 0 = all).
        What there is not is None: NaN is no JSON.
        """
        options = _options(params or {}, model=self.detector.config.tracking.model_name, version=self.version)
        scored = list(score_batches(self.detector, [_record_batch(self.detector, model_input)], options))
        table = pa.Table.from_batches(scored) if scored else pa.schema(RESULT_FIELDS).empty_table()
        # The index is set, not given: pandas would look the rows up by it, and a filtered frame would get the scores of other rows.
        return pd.DataFrame({f.name: _values(table[f.name]) for f in RESULT_FIELDS}).set_axis(model_input.index)


def log_pyfunc(folder: Path, detector: Detector) -> str:
    """Log the artifact in ``folder`` to the active run as an MLflow model; return the id of the model."""
    with tempfile.TemporaryDirectory() as temporary, _silence():
        code = Path(temporary, "vae_anomaly_model.py")
        code.write_text(MODEL_CODE)
        info = pyfunc.log_model(
            name=LOGGED_NAME,
            python_model=str(code),
            artifacts={DETECTOR_FOLDER: str(folder)},
            signature=signature(detector),
            pip_requirements=requirements(),
        )
    return str(info.model_id)


@contextmanager
def _silence() -> Iterator[None]:
    """Hold back what MLflow says of every model that it logs.

    An input example would be scored twice more while logging, and the signature already says what goes in. MLflow compares the
    requirements with what is installed, which is where they come from; a checkout that is not installed would be called a mismatch.
    """
    logger = logging.getLogger("mlflow.utils.requirements_utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input example was not provided")
            yield
    finally:
        logger.setLevel(before)


def requirements() -> list[str]:
    """Return what the model needs, pinned to what is installed; local labels such as ``+cpu`` are in no package index."""
    return [f"vae-anomaly=={__version__}", *(f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS)]


def signature(detector: Detector) -> ModelSignature:
    """Return what goes in and comes out: numbers are ``double`` (``float`` would refuse every CSV), all else is ``string``.

    A column that had missing cells at fit may be left out; that of the groups of a threshold may not.
    """
    inputs: list[Any] = [
        ColSpec(DataType.double if c.kind == "numeric" else DataType.string, c.name, required=not c.nullable)
        for c in detector.schema.columns
    ]
    groups = detector.threshold.groups
    if groups is not None and groups.column not in detector.schema.names:
        inputs.append(ColSpec(DataType.string, groups.column))
    params = [
        ParamSpec("alpha", DataType.double, detector.threshold.alpha),
        ParamSpec("explain", DataType.string, "flagged"),
        ParamSpec("top", DataType.long, TOP),
    ]
    outputs: list[Any] = [ColSpec(_mlflow_type(f.type), f.name, required=f.type in {pa.bool_(), pa.string()}) for f in RESULT_FIELDS]
    return ModelSignature(inputs=Columns(inputs), outputs=Columns(outputs), params=ParamSchema(params))


def _mlflow_type(kind: pa.DataType) -> Any:
    if not pa.types.is_list(kind):
        return MLFLOW_TYPES[kind]
    fields = [kind.value_type.field(i) for i in range(kind.value_type.num_fields)]
    return Array(Object([Property(f.name, _mlflow_type(f.type), required=f.name in {"column", "contribution"}) for f in fields]))


def _options(params: Mapping[str, Any], *, model: str, version: str) -> ScoreOptions:
    explain = params.get("explain", "flagged")
    if explain not in EXPLAIN:
        raise ConfigError(f"explain must be one of {', '.join(EXPLAIN)}; got {explain!r}.")
    return ScoreOptions(
        alpha=params.get("alpha"),
        explain=cast("Literal['flagged', 'all', 'none']", explain),
        top=int(params.get("top", TOP)) or None,
        model=model,
        model_version=version,
        where=WHERE,
    )


def _record_batch(detector: Detector, frame: pd.DataFrame) -> pa.RecordBatch:
    """Return the columns of the model, and that of its groups.

    One that may be missing and is not there is all null, others are left for ``conform`` to miss.
    """
    check_duplicates([str(name) for name in frame.columns], WHERE)
    columns, groups = detector.schema.columns, detector.threshold.groups
    arrays = {c.name: _array(c.name, frame[c.name]) for c in columns if c.name in frame.columns}
    arrays |= {c.name: pa.nulls(len(frame)) for c in columns if c.nullable and c.name not in arrays}
    if groups is not None and groups.column in frame.columns:
        arrays.setdefault(groups.column, _array(groups.column, frame[groups.column]))
    return pa.RecordBatch.from_pydict(arrays)


def _array(name: str, values: pd.Series) -> pa.Array:
    try:
        return pa.Array.from_pandas(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaMismatch(f"column {name!r} of {WHERE} mixes types: {error}. Make it all numbers or all text.") from error


def _values(column: pa.ChunkedArray) -> pd.Series:
    """Return a column as pandas has it, or as objects where there are nulls or lists of records."""
    if column.null_count or pa.types.is_list(column.type):
        return pd.Series(column.to_pylist(), dtype=object)
    return pd.Series(column.to_pandas())
