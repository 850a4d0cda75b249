"""MLflow pyfunc flavor of a detector: data frame in, data frame out, for ``mlflow models predict|serve``, ``load_model`` and Spark UDFs.

Logged as *models from code*: MLflow stores ``MODEL_CODE``, which imports ``vae_anomaly.pyfunc``, and the artifact folder; nothing is
pickled. The code of the package is not stored with the model, because MLflow lets the second model of a process use the code of the
first (mlflow#12377); the format number of the artifact tells which package versions can read it.
"""

import logging
import numbers
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
from mlflow import MlflowException, pyfunc
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec
from mlflow.types import Schema as Columns
from mlflow.types.schema import Array, Object, Property
from mlflow.utils.yaml_utils import read_yaml

from vae_anomaly import artifact
from vae_anomaly._version import __version__
from vae_anomaly.choices import ExplainedRows
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import RESULT_FIELDS, ScoreOptions, score_batches
from vae_anomaly.errors import ConfigError, SchemaMismatch, VaeAnomalyError
from vae_anomaly.messages import absent_text, did_you_mean
from vae_anomaly.tables.frames import frame_source
from vae_anomaly.tracking.store import DETECTOR_FOLDER, LOGGED_NAME

# Stored with every model and executed on load, so the import must keep working in all later versions.
MODEL_CODE = """\
from mlflow.models import set_model

from vae_anomaly.pyfunc import AnomalyModel

set_model(AnomalyModel())
"""
# Packages that scoring needs. Given explicitly, because MLflow's own inference of requirements takes four seconds.
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "safetensors", "pydantic")
TOP = 5
WHERE = "the data frame"
PARAMS = ("alpha", "explain", "top")
EXPLAIN = ("flagged", "all", "none")
MLFLOW_TYPES = {pa.float64(): DataType.double, pa.bool_(): DataType.boolean, pa.string(): DataType.string}


class AnomalyModel(PythonModel):
    """Score data frames with the detector in the model's artifact folder."""

    detector: Detector
    name: str
    version: str

    def load_context(self, context: PythonModelContext) -> None:
        """Read the detector; MLflow calls this once."""
        folder = Path(context.artifacts[DETECTOR_FOLDER])
        self.detector = artifact.load(folder)
        self.name, self.version = _registered_as(folder) or (self.detector.config.tracking.model_name, artifact.fingerprint(folder))

    def predict(
        self,
        context: PythonModelContext | None,  # noqa: ARG002  # MLflow's signature
        model_input: pd.DataFrame,  # or what frame_source takes; MLflow warns of any other type hint
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return the columns of ``vae-anomaly score`` with the index of the input; higher scores are more anomalous.

        ``model_input`` is a data frame of any library, or records; what ``score`` refuses is an MlflowException with the same text.
        ``params``: ``alpha`` (false-alarm rate), ``explain`` (flagged, all or none), ``top`` (columns per explained row; 0 = all).
        Missing values are None, because JSON has no NaN; a row without reasons has an empty list, which Spark can read.
        """
        with _refusals():
            table = self._scored(model_input, _options(params or {}, self.detector.threshold.alpha))
        # Not DataFrame(…, index=…), which aligns the columns by label: a filtered frame would get the scores of other rows.
        out = pd.DataFrame({f.name: _values(table[f.name]) for f in RESULT_FIELDS})
        return out.set_axis(model_input.index) if isinstance(model_input, pd.DataFrame) else out

    def _scored(self, data: Any, options: ScoreOptions) -> pa.Table:
        groups, schema = self.detector.threshold.groups, self.detector.schema
        extra: dict[str, Sequence[str]] = {} if groups is None else {groups.column: groups.names}
        extra |= {name: () for name in self.detector.time_columns if name not in extra}
        source = frame_source(data, schema, replace(self.detector.config.data, on_error="stop"), extra=extra, where=WHERE)
        source.check_present(schema)
        if groups is not None and groups.column not in source.names:
            raise SchemaMismatch(f"{WHERE} lacks the group column of the threshold: {absent_text([groups.column], source.names)}")
        batches = source.batches(schema, extra=tuple(extra), chunk_rows=self.detector.rows_at_once()) if source.rows else ()
        scored = list(score_batches(self.detector, batches, replace(options, model=self.name, model_version=self.version)))
        return pa.Table.from_batches(scored) if scored else pa.schema(RESULT_FIELDS).empty_table()


def _registered_as(folder: Path) -> tuple[str, str] | None:
    """Return the name and version that the registry was asked for; None for a model that was loaded by path, run or id.

    MLflow writes them beside the model when it resolves ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, also for servers and Spark.
    """
    root = folder.parent.parent
    if not (root / REGISTERED_MODEL_META_FILE_NAME).is_file():
        return None
    state = read_yaml(str(root), REGISTERED_MODEL_META_FILE_NAME)  # type: ignore[no-untyped-call]
    name, version = state.get("model_name"), state.get("model_version")
    return None if name is None or version is None else (str(name), str(version))


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise our errors as MLflow's refusals: HTTP status 400 with one line, without the stack trace that its server adds to others."""
    try:
        yield
    except VaeAnomalyError as error:
        refusal = MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE)
        # The server puts the data before the message, thousands of cells; this is what it then sends instead.
        refusal.json_kwargs = {"message": str(error)}
        raise refusal from error


def log_pyfunc(folder: Path, detector: Detector) -> str:
    """Log the artifact in ``folder`` to the active run as an MLflow model; return the model id."""
    with tempfile.TemporaryDirectory() as temporary, _silence():
        code = Path(temporary, "vae_anomaly_model.py")
        code.write_text(MODEL_CODE)
        info = pyfunc.log_model(
            name=LOGGED_NAME,
            python_model=str(code),
            artifacts={DETECTOR_FOLDER: str(folder)},
            signature=signature(detector),
            metadata=metadata_of(detector),
            pip_requirements=requirements(),
        )
    return str(info.model_id)


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress two warnings that MLflow gives for every model.

    It asks for an input example, which it would score twice while logging although the signature describes the input. It also compares
    the requirements with the installed packages, where they come from, and reports a checkout that is not installed as a mismatch.
    """
    logger = logging.getLogger("mlflow.utils.requirements_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input example was not provided")
            yield
    finally:
        logger.setLevel(level)


def requirements() -> list[str]:
    """Return the requirements, pinned to the installed versions without local labels such as ``+cpu``, which no package index has."""
    return [f"vae-anomaly=={__version__}", *(f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS)]


def signature(detector: Detector) -> ModelSignature:
    """Return the model signature: parameters and outputs, no inputs.

    MLflow's types would stand before the rules of the schema: a double refuses whole numbers, a string numbers and booleans, a boolean
    reads null as false, and an optional column hides that it was renamed. The columns are in the metadata of the model instead.
    """
    params = [
        ParamSpec("alpha", DataType.double, detector.threshold.alpha),
        ParamSpec("explain", DataType.string, "flagged"),
        ParamSpec("top", DataType.long, TOP),
    ]
    outputs: list[Any] = [ColSpec(_mlflow_type(f.type), f.name, required=f.type in {pa.bool_(), pa.string()}) for f in RESULT_FIELDS]
    return ModelSignature(outputs=Columns(outputs), params=ParamSchema(params))


def metadata_of(detector: Detector) -> dict[str, Any]:
    """Return the columns that a data frame must have, by name with their kind: what a signature's inputs would say.

    A pattern of quality columns stands for itself: which values have one is for each table to say.
    """
    groups, data = detector.threshold.groups, detector.config.data
    quality = None if data.pivot else data.quality_column
    columns = {} if groups is None else {groups.column: "category"}
    if detector.series is not None:
        columns |= {name: kind for name, kind in ((detector.schema.group, "category"), (detector.schema.time, "time")) if name is not None}
    if quality is not None and "*" not in quality:
        columns[quality] = "quality"
    told: dict[str, Any] = {"columns": columns | {column.name: column.kind for column in detector.schema.columns}}
    return told if quality is None else told | {"quality_column": quality}


def _mlflow_type(kind: pa.DataType) -> Any:
    if not pa.types.is_list(kind):
        return MLFLOW_TYPES[kind]
    fields = [kind.value_type.field(i) for i in range(kind.value_type.num_fields)]
    return Array(Object([Property(f.name, _mlflow_type(f.type), required=f.name in {"column", "contribution"}) for f in fields]))


def _options(params: Mapping[str, Any], usual: float) -> ScoreOptions:
    """Return how to score; ``usual`` is the alpha of the threshold, which MLflow fills in. Raises ConfigError with the parameter's name."""
    unknown = next((name for name in params if name not in PARAMS), None)
    if unknown is not None:
        raise ConfigError(f"there is no parameter {did_you_mean(unknown, PARAMS)}; expected {', '.join(PARAMS)}.")
    alpha, explain, top = params.get("alpha", usual), params.get("explain", EXPLAIN[0]), params.get("top", TOP)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise ConfigError(f"alpha must be in (0, 1); got {_shown(alpha)}.")
    if explain not in EXPLAIN:
        raise ConfigError(f"explain must be one of {', '.join(EXPLAIN)}; got {explain!r}.")
    if isinstance(top, bool) or not isinstance(top, numbers.Integral) or top < 0:
        raise ConfigError(f"top must be a whole number from 1, or 0 for all columns; got {_shown(top)}.")
    rate = None if alpha == usual else float(alpha)
    return ScoreOptions(alpha=rate, explain=cast("ExplainedRows", explain), top=int(top) or None, where=WHERE)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _values(column: pa.ChunkedArray) -> pd.Series:
    """Return a column in its pandas type, or as objects if it has nulls or lists of records; without records an empty list."""
    if pa.types.is_list(column.type):
        return pd.Series([records or [] for records in column.to_pylist()], dtype=object)
    return pd.Series(column.to_pylist(), dtype=object) if column.null_count else pd.Series(column.to_pandas())
