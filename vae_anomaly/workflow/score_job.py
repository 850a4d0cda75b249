"""What was asked of a scoring: whether it can be done, what its output depends on, and whether it has been done.

Knows no rows and writes nothing.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from vae_anomaly._version import __version__
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import ScoreOptions
from vae_anomaly.errors import ConfigError, OutputError, SchemaMismatch
from vae_anomaly.jobs import manifest
from vae_anomaly.messages import Tell, absent_text, listed
from vae_anomaly.schema.schema import unknown_columns
from vae_anomaly.storage import destinations
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.storage.filesystems import shown_path
from vae_anomaly.tables import writer
from vae_anomaly.tables.csv_rejects import OnError, OnReject, ignore
from vae_anomaly.tables.source import Source
from vae_anomaly.tables.stream import NUMBERS
from vae_anomaly.tables.writer import output_format
from vae_anomaly.workflow import score_fdr
from vae_anomaly.workflow.memory_plan import MemoryPlan, plan_memory
from vae_anomaly.workflow.models import Opened, cores, open_model
from vae_anomaly.workflow.results import Counts

_logger = logging.getLogger(__name__)
# Rows after which finished ones are kept at the latest.
PART_ROWS = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """What to score, with which model, and how; None: what the model or its fit says.

    ``output`` is a file, a folder (it ends with a slash, is one, or has no ending) or a URI; None: beside the input. ``format`` is that of
    the parts in a folder, None: that of each input. ``memory_limit`` in bytes.
    """

    data: tuple[str, ...]
    model: str
    output: str | Path | None = None
    format: Literal["csv", "parquet"] | None = None
    id_columns: tuple[str, ...] = ()
    missing_values: tuple[str, ...] | None = None
    alpha: float | None = None
    fdr: float | None = None
    p_values: Literal["marginal", "conditional"] = "marginal"
    typicality: bool = False
    explain: Literal["flagged", "all", "none"] = "flagged"
    top: int | None = 5
    chunk_rows: int = 65_536
    part_rows: int = PART_ROWS
    threads: int | None = None
    memory_limit: int | None = None
    on_error: OnError = "stop"
    escape: bool = True
    overwrite: bool = False
    tracking_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A request with its model loaded and the threshold it flags with."""

    request: ScoreRequest
    place: Destination
    folder: bool
    opened: Opened
    threshold: Threshold
    missing: tuple[str, ...]
    plan: MemoryPlan
    tell: Tell

    def made_from(self) -> dict[str, dict[str, Any]]:
        """All that the bytes of the output depend on besides the inputs; rows in memory and threads are not among it."""
        request, name = self.request, self.opened.name
        return {
            "model": {"name": name.name, "version": name.version, "digest": self.opened.digest, "package": __version__},
            "options": {
                "alpha": self.threshold.alpha if request.fdr is None else None,
                "fdr": request.fdr,
                "p_values": request.p_values,
                "typicality": request.typicality,
                "explain": request.explain,
                "top": request.top,
                "id_columns": list(request.id_columns),
                "missing_values": list(self.missing),
                "on_error": request.on_error,
                "escape": request.escape,
            },
        }


def open_job(request: ScoreRequest, tell: Tell) -> Asked:
    """Load the model of a request. Raises ConfigError before that, and NotCalibrated."""
    refuse(request)
    place, folder = destination(request)
    model = open_model(request.model, uri=request.tracking_uri)
    detector = model.detector
    threshold = score_fdr.threshold_for(detector.threshold, alpha=request.alpha, fdr=request.fdr, p_values=request.p_values)
    missing = detector.config.data.missing_values if request.missing_values is None else request.missing_values
    return Asked(
        request=request,
        place=place,
        folder=folder,
        opened=model,
        threshold=threshold,
        missing=tuple(missing),
        plan=plan_memory(
            request.memory_limit,
            chunk_rows=request.chunk_rows,
            columns=len(detector.schema.columns),
            all_explained=request.explain == "all",
        ),
        tell=tell,
    )


def refuse(request: ScoreRequest) -> None:
    """Refuse rates that are none, and two at once."""
    for name, value in (("--alpha", request.alpha), ("--fdr", request.fdr)):
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{name} must be in (0, 1); got {value:g}.")
    if request.alpha is not None and request.fdr is not None:
        raise ConfigError("--alpha flags at a false-alarm rate and --fdr at a false-discovery rate; give one of them.")


def destination(request: ScoreRequest) -> tuple[Destination, bool]:
    """Return where the scores go, and whether that is a folder. Raises ConfigError when that has to be said, OutputError."""
    to = request.output
    if to is None:
        if len(request.data) > 1:
            raise ConfigError(f"{len(request.data)} inputs have no one place for their scores beside them; name it with -o.")
        to = writer.default_output(request.data[0])
    if str(to).strip() in {"", "-"}:
        raise ConfigError(f"{str(to)!r} is no name for an output, and scores are not printed; name a file or a folder with -o.")
    folder = request.output is not None and destinations.is_folder(request.output)
    if not folder:
        asked_for = output_format(shown_path(str(to)))
        if request.format not in {None, asked_for}:
            raise ConfigError(
                f"--format {request.format} is for the parts in an output folder; {destinations.destination_of(to)} is a {asked_for} file."
            )
    elif request.fdr is not None:
        raise ConfigError(
            "--fdr judges all rows of a batch together, and files in an output folder are scored one by one. "
            "Name one file for all scores with -o, or flag with --alpha."
        )
    return destinations.destination_of(to), folder


def refuse_input_as_output(place: Destination, source: Source) -> None:
    """Refuse to write over what is read."""
    for file in source.files:
        if place.is_at(file.filesystem, file.location):
            raise OutputError(f"{place} is itself an input; name another output with -o.")


def check_input_columns(detector: Detector, source: Source, id_columns: Sequence[str]) -> tuple[str, ...]:
    """Refuse missing columns and return those that the model does not know."""
    source.check_present(detector.schema)
    groups = detector.threshold.groups
    if groups is not None and groups.column not in source.names:
        absent = absent_text([groups.column], source.names)
        raise SchemaMismatch(f"{source.files[0].path} lacks the group column of the threshold: {absent}")
    known = {*id_columns, *([groups.column] if groups else [])}
    return tuple(name for name in unknown_columns(detector.schema, source.all_names) if name not in known)


def warn(ignored: Sequence[str], source: Source) -> None:
    """Say how the input was read; only when it could be, so that an error is the one line."""
    if ignored:
        _logger.warning("ignored, because the model does not know them: %s", listed(ignored))
    for note in source.notes:
        _logger.warning("%s", note)


def done_before(place: Destination, made_from: Mapping[str, Any], *, overwrite: bool) -> Counts | None:
    """Return the counts of an output that is what this request would write; None when it is to be written.

    Raises OutputError when something else is there and may not go.
    """
    size = None if overwrite else place.size()
    if size is None:
        return None
    found = manifest.manifest_of(place)
    if found is None:
        raise OutputError(f"{place} exists and no manifest says what it is. Name another with -o, or give --overwrite to replace it.")
    other = [part for part, value in made_from.items() if found.made_from.get(part) != value]
    if other:
        raise OutputError(
            f"{place} exists and holds the scores of another request (other {' and '.join(other)}). "
            "Name another with -o, or give --overwrite to replace it."
        )
    if found.complete and found.bytes != size:
        raise OutputError(f"{place} was changed after it was written. Name another with -o, or give --overwrite to replace it.")
    return _counts(found)  # None: a job of the same request was killed between its output and its manifest


def made_before(place: Destination, made_from: Mapping[str, Any], *, overwrite: bool) -> Counts | None:
    """Return the counts of an output that was made here and has not been sent yet; None where there is none."""
    found = manifest.read_manifest(place.path) if place.remote and not overwrite else None
    if found is None or found.made_from != made_from or not place.path.exists() or found.bytes != place.path.stat().st_size:
        return None
    return _counts(found)


def _counts(found: manifest.Manifest) -> Counts | None:
    if not found.complete:
        return None
    try:
        return TypeAdapter(Counts).validate_python(found.counts)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreTask:
    """One output and the inputs whose rows go there; ``overwrite`` whatever is there."""

    asked: Asked
    place: Destination
    source: Source
    overwrite: bool

    @property
    def made_from(self) -> dict[str, Any]:
        """All that the bytes of the output depend on."""
        return {"inputs": self.source.made_of(), **self.asked.made_from()}

    def batches(self, first_row: int, on_reject: OnReject = ignore) -> Iterator[pa.RecordBatch]:
        """Return the input from a row on."""
        groups, plan, schema = self.asked.threshold.groups, self.asked.plan, self.asked.opened.detector.schema
        extra = [*self.asked.request.id_columns, *([groups.column] if groups else [])]
        size = {"chunk_rows": plan.chunk_rows, "chunk_bytes": plan.chunk_bytes}
        return self.source.batches(schema, extra=extra, first_row=first_row, on_reject=on_reject, **size)

    def options(self, first_row: int) -> ScoreOptions:
        """Return how to score from a row on."""
        request, name = self.asked.request, self.asked.opened.name
        return ScoreOptions(
            typicality=request.typicality,
            explain=request.explain,
            top=request.top,
            id_columns=request.id_columns,
            model=name.name,
            model_version=name.version,
            threads=request.threads or cores(),
            first_row=first_row,
            row_numbers="" if request.on_error == "stop" else NUMBERS,
            where=self.source.files[0].path,
        )
