"""Load a model by name and read data for it; describe it, list registered versions, and give the command of the MLflow UI.

Nothing is written.
"""

import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly import artifact
from vae_anomaly.calibration.guarantee import guarantee_of
from vae_anomaly.config import Reading, reading_for
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError, BadCell, ConfigError
from vae_anomaly.fitting.diagnostics import active_units, cautions
from vae_anomaly.messages import OnProgress, option_names, quote, shorten_list
from vae_anomaly.redaction import redacted
from vae_anomaly.schema.encoding import Batch, encode
from vae_anomaly.schema.parsing import mask_columns
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables.csv_rejects import Rejects
from vae_anomaly.tables.error_location import with_location
from vae_anomaly.tables.source import Source, as_one_table, input_row_numbers, open_source
from vae_anomaly.tracking import store
from vae_anomaly.tracking.registry import ResolvedModel, registered_versions, resolve_model
from vae_anomaly.workflow.requests import ReadRequest
from vae_anomaly.workflow.results import InfoResult, ModelName, ModelsResult, UiResult

_logger = logging.getLogger(__name__)


def model_info(model: str, *, verify: bool = False, tracking_uri: str | None = None) -> InfoResult:
    """Describe a model; ``verify``: score made rows to see whether a score depends on its batch on this processor.

    Raises ArtifactError and its subclasses, TrackingError.
    """
    loaded = open_model(model, uri=tracking_uri)
    detector, card = loaded.detector, loaded.detector.card
    return InfoResult(
        model=loaded.name,
        created=card.created,
        source=card.data,
        rows=card.rows,
        training_rows=card.training_rows,
        seed=card.seed,
        versions=dict(card.versions),
        columns=detector.quality,
        left_out=detector.schema.dropped,
        promise=guarantee_of(detector.threshold),
        blocks=detector.blocks,
        cautions=cautions(detector),
        notes=card.notes,
        steps=card.history.steps,
        stopped=card.history.stopped,
        active_units=active_units(detector),
        latent_units=detector.ensemble.vae.latent,
        views=detector.config.model.views,
        networks=len(detector.ensemble.weight),
        rounds_alike=detector.ensemble.rounds_alike if verify else None,
        next_steps=(),
    )


def list_models(name: str | None = None, *, tracking_uri: str | None = None) -> ModelsResult:
    """List registered versions, newest first. Raises ArtifactError if there are none, TrackingError."""
    uri = store.store_uri(tracking_uri)
    versions = registered_versions(name, uri=tracking_uri)
    if not versions:
        what = f"no version of {name!r}" if name else "no model"
        raise ArtifactError(f"{what} is registered in {store.shown_uri(uri)}. Fit one here, or give --tracking-uri.")
    return ModelsResult(
        store=store.shown_uri(uri),
        versions=versions,
    )


def tracking_ui(*, host: str, port: int, tracking_uri: str | None = None) -> UiResult:
    """Return the command that serves MLflow's UI for the store. Raises ArtifactError if there is no store."""
    uri = store.store_uri(tracking_uri)
    backend: tuple[str, ...] = ("--backend-store-uri", uri)
    if redacted(uri) != uri:
        # All users can read the command line of a process (ps); its environment is private.
        os.environ["MLFLOW_BACKEND_STORE_URI"], backend = uri, ()
    with store.open_store(tracking_uri, create=False):
        command = (sys.executable, "-m", "mlflow", "ui", *backend, "--host", host, "--port", str(port), "--workers", "1")
    return UiResult(url=f"http://{host}:{port}", store=store.shown_uri(uri), command=command)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A detector with the name it was loaded by and the digest of its artifact."""

    detector: Detector
    name: ModelName
    digest: str


def open_model(model: str, *, uri: str | None = None) -> LoadedModel:
    """Resolve and load a model. Raises ArtifactError and its subclasses, TrackingError."""
    folder = Path(model)
    if artifact.is_artifact(folder):  # needs no registry
        resolved = ResolvedModel(folder=folder, name=folder.resolve().name, version=artifact.fingerprint(folder))
    else:
        resolved = resolve_model(model, uri=uri)
    detector = artifact.load(resolved.folder)
    _logger.info("loaded %s from %s, fitted %s", model, resolved.folder, detector.card.created)
    name = ModelName(name=resolved.name, version=resolved.version, folder=str(resolved.folder), uri=model)
    return LoadedModel(detector=detector, name=name, digest=artifact.fingerprint(resolved.folder))


def is_training_data(detector: Detector, source: Source) -> bool:
    """Whether a source has the files of the fit, or copies of them under other names. Raises DataError."""
    card = detector.card
    if source.digest() == card.data_digest:
        return True
    # The size first: of files in an object store, contents are a download.
    return card.contents_digest != "" and card.data_bytes in {0, source.bytes} and source.contents() == card.contents_digest


def seen_at_fit(detector: Detector, source: Source) -> tuple[str, ...]:
    """Return the paths of the files that the fit has read; copies are known again if they are all files of the fit. Raises DataError."""
    seen = known_files(detector, source.files)
    return tuple(file.path for file in source.files) if len(seen) < len(source.files) and is_training_data(detector, source) else seen


def known_files(detector: Detector, files: Sequence[Listed]) -> tuple[str, ...]:
    """Return the paths of the files whose name, size and time are those of a file of the fit."""
    known = set(detector.card.file_digests)
    return tuple(file.path for file in files if file.digest in known)


def rows_of_fit(seen: Sequence[str], files: int) -> str:
    """Return what is told about ``seen`` of a number of files that the fit has read, empty for none."""
    if not seen:
        return ""
    what = "these are the rows" if files == len(seen) else f"{shorten_list(seen, length=3)} {'has' if len(seen) == 1 else 'have'} rows"
    return f"{what} that the model was fitted on: they score lower than new ones, so that alarms and p-values say little"


def refuse_learned_label(detector: Detector, column: str) -> None:
    """Raise ConfigError for a label column that is an input of the model."""
    if column in detector.schema.names:
        raise ConfigError(
            f"the label column {quote(column)} is an input of this model, which would be judged by what it was told. "
            f"Fit again with --label-column {shlex.quote(column)} or --exclude {option_names([column])}."
        )


@contextmanager
def located_in(source: Source, numbers: Sequence[NDArray[np.int64]]) -> Iterator[None]:
    """Raise a BadCell about a row of the chunks with these ``numbers`` with its file, row and line."""
    try:
        yield
    except BadCell as error:
        raise with_location(error, source.readers, int(np.concatenate(numbers)[error.row]), readable=False) from None


def cores() -> int:
    """Return the number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_data(detector: Detector, data: Sequence[str], request: ReadRequest) -> Source:
    """Open input files for a model, read as its fit did unless the request says otherwise. Raises DataError."""
    return open_source(data, reading_for(request, detector.config.data), expected=detector.schema.names)


def open_versions(paths: Sequence[str], versions: Sequence[str], reading: Reading) -> Source:
    """Open files and lakehouse tables in the versions that they were read in before, see ``Source.versions``. Raises DataError."""
    if not versions:
        return open_source(paths, replace(reading, at=None))
    pairs = zip(paths, versions, strict=True)
    return as_one_table([open_source([path], replace(reading, at=version or None)) for path, version in pairs])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedChunk:
    """Rows as read, their cells as the model reads them, and their ``numbers``, int64 ``[n]``, over all inputs from 0."""

    rows: pa.RecordBatch
    cells: Batch
    numbers: NDArray[np.int64]


def encoded_chunks(
    detector: Detector, source: Source, extra: Sequence[str], rejects: Rejects, tell: OnProgress, *, stage: str
) -> Iterator[EncodedChunk]:
    """Read a source with the columns of a model and ``extra`` ones, and encode it; ``tell`` gets the rows that are done.

    In the extra columns too a declared missing value is null, as it was in the fit: labels, times and groups. Those of rows in time are
    among them.
    """
    done = 0
    extra = tuple(dict.fromkeys([*extra, *detector.time_columns]))
    for as_written in source.batches(detector.schema, extra=extra, on_reject=rejects, chunk_rows=detector.rows_at_once()):
        rows = mask_columns(as_written, extra, source.reading.missing_values)
        cells = encode(detector.schema, rows.select(list(detector.schema.names)))
        yield EncodedChunk(rows=rows, cells=cells, numbers=input_row_numbers(rows, done))
        done += rows.num_rows
        tell(stage, done, source.rows)
