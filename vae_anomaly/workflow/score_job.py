"""A scoring job: checked request, loaded detector, threshold and destination. Reads no rows and writes nothing."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vae_anomaly._version import __version__
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.config import Reading, reading_for
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import NO_STANDSTILL, InputBatch, Rejections, ScoreOptions, Standstill
from vae_anomaly.errors import ConfigError, OutputError, SchemaMismatch
from vae_anomaly.events.episodes import Mute
from vae_anomaly.jobs.memory import Bound, MemoryPlan, plan_memory, watched
from vae_anomaly.jobs.state_file import StateFile, digest_of
from vae_anomaly.messages import OnProgress, absent_text, listed
from vae_anomaly.schema.schema import unknown_columns
from vae_anomaly.storage import destinations
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.storage.filesystems import shown_path
from vae_anomaly.tables import writer
from vae_anomaly.tables.csv_rejects import check_mostly_kept
from vae_anomaly.tables.source import ROW_NUMBERS, Source
from vae_anomaly.workflow.models import LoadedModel, cores, open_model
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import ModelName
from vae_anomaly.workflow.score_counts import RejectLog

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreJob:
    """Everything that a scoring needs except its rows; in an output folder, each part is this job with its own destination.

    ``digest`` changes with any byte of the model; ``overwrite`` replaces whatever is at the destination. Of rows in time: ``mutes``, the
    file ``state``, and ``start``, the state that the inputs continue, None: that of the file, or the start of the series.
    """

    request: ScoreRequest
    destination: Destination
    into_folder: bool
    model: ModelName
    digest: str
    detector: Detector
    threshold: Threshold
    reading: Reading
    memory: MemoryPlan
    bound: Bound | None
    overwrite: bool
    tell: OnProgress
    mutes: tuple[Mute, ...] = ()
    state: StateFile | None = None
    start: Mapping[str, Any] | None = None

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return everything besides the inputs that the bytes of the output depend on; chunk sizes and threads do not change them."""
        request = self.request
        return {
            "model": {"name": self.model.name, "version": self.model.version, "digest": self.digest, "package": __version__},
            # The inputs say which version of a table was read: without --at it may be the same.
            "options": {
                "alpha": self.threshold.alpha if request.fdr is None else None,
                "fdr": request.fdr,
                "p_values": request.p_values,
                "typicality": request.typicality,
                "explain": request.explain,
                "top": request.top,
                "id_columns": list(request.id_columns),
                **{
                    name: list(value) if isinstance(value, tuple) else value
                    for name, value in asdict(replace(self.reading, at=None)).items()
                },
                "escape": request.escape,
            },
        }

    def made_from(self, source: Source) -> dict[str, Any]:
        """Return everything that the bytes of the output depend on."""
        begun = self.begun(source)
        return {"inputs": source.made_of(), **self.settings(), **({} if begun is None else {"state": digest_of(begun)})}

    def identity(self, source: Source) -> str:
        """Return the digest of everything that the bytes of the output depend on but the state that it continues."""
        return digest_of({"inputs": source.made_of(), **self.settings()})

    def begun(self, source: Source) -> Mapping[str, Any] | None:
        """Return the state of the series that the inputs continue; None at their start."""
        if self.start is not None or self.state is None:
            return self.start
        return self.state.state_for(self.identity(source))

    def inputs(self, source: Source, first_row: int, rejects: RejectLog, still: Standstill = NO_STANDSTILL) -> Iterator[InputBatch]:
        """Yield the rows of the input from ``first_row`` on, each batch with the rejections and the standstill up to its end."""
        paths: list[str] = []
        groups, request = self.threshold.groups, self.request
        batches = source.batches(
            self.detector.schema,
            extra=[*request.id_columns, *([groups.column] if groups else []), *self.detector.time_columns],
            first_row=first_row,
            on_reject=rejects.add,
            on_file=paths.append,
            chunk_rows=self.detector.rows_at_once(self.memory.chunk_rows),
            chunk_bytes=self.memory.chunk_bytes,
        )
        kept = first_row - rejects.before.rows
        for rows in batches if request.memory_limit is None else watched(batches, request.memory_limit):
            kept += rows.num_rows
            numbered = request.on_error != "stop" and rows.num_rows
            rejections = rejects.up_to(rows.column(ROW_NUMBERS)[-1].as_py() + 1) if numbered else Rejections()
            del paths[:-1]
            still = still.after(paths[0], rows, self.detector.quality)
            yield InputBatch(rows=rows, rejections=rejections, standstill=still)
        rejected = rejects.up_to(math.inf)
        check_mostly_kept(rejected.rows, kept, rejected.first)

    def options(self, source: Source, first_row: int) -> ScoreOptions:
        """Return how to score the rows from ``first_row`` on."""
        request = self.request
        return ScoreOptions(
            typicality=request.typicality,
            explain=request.explain,
            top=request.top,
            id_columns=request.id_columns,
            model=self.model.name,
            model_version=self.model.version,
            threads=request.threads or cores(),
            first_row=first_row,
            row_numbers="" if request.on_error == "stop" else ROW_NUMBERS,
            where=source.files[0].path,
        )


def open_job(request: ScoreRequest, tell: OnProgress) -> ScoreJob:
    """Check a request and load its model. Raises ConfigError before loading, OutputError, ArtifactError and NotCalibrated."""
    _refuse_rates(request)
    bound = None if request.memory_limit is None else Bound(limit=request.memory_limit)
    to, into_folder = destination(request)
    opened = open_model(request.model, uri=request.tracking_uri)
    mutes, state = in_time(request, opened, into_folder=into_folder)
    reading = reading_for(request, opened.detector.config.data)
    if reading.pivot:
        from vae_anomaly.schema.pivoting import ids_of_pivot

        request = replace(request, id_columns=ids_of_pivot(reading.pivot, request.id_columns))
    # The rows are conformed as they are read and once more as they are scored, for which a text must mean the same.
    schema, config = replace(opened.detector.schema, default_missing=reading.default_missing), opened.detector.config
    detector = replace(
        opened.detector, schema=schema, config=replace(config, data=replace(config.data, missing_values=reading.missing_values))
    )
    return ScoreJob(
        request=request,
        destination=to,
        into_folder=into_folder,
        model=opened.name,
        digest=opened.digest,
        detector=detector,
        threshold=_threshold_for(detector.threshold, request),
        reading=reading,
        memory=_memory_plan(request, len(detector.schema.columns)),
        bound=bound,
        overwrite=request.overwrite,
        tell=tell,
        mutes=mutes,
        state=state,
    )


def in_time(request: ScoreRequest, opened: LoadedModel, *, into_folder: bool) -> tuple[tuple[Mute, ...], StateFile | None]:
    """Return the acknowledged ranges of time and the state file that a request names.

    Raises ConfigError with a model of single rows, for a state file of another model or with an output folder, and for files of one name.
    """
    named = {"--events": request.events, "--mute": request.mute, "--state": request.state}
    if not any(value is not None for value in named.values()):
        return (), None
    from vae_anomaly.jobs.state_file import read_state
    from vae_anomaly.workflow.score_events import check_options, read_mutes

    check_options(request, opened.detector)
    if request.state is not None and into_folder:
        raise ConfigError("an output folder keeps the state of its parts by itself; --state is for scores in one file.")
    mutes = () if request.mute is None else read_mutes(request.mute, opened.detector)
    return mutes, None if request.state is None else read_state(request.state, opened.digest)


def destination(request: ScoreRequest) -> tuple[Destination, bool]:
    """Return where the scores go, and whether that is a folder. Raises ConfigError for an ambiguous destination, OutputError."""
    to = request.output
    if to is None:
        if len(request.data) > 1:
            raise ConfigError(f"{len(request.data)} inputs have no common default for the output; name it with -o.")
        to = writer.default_output(request.data[0])
    if str(to).strip() in {"", "-"}:
        raise ConfigError(f"{str(to)!r} is not the name of an output, and scores are not printed; name a file or a folder with -o.")
    if request.format == "delta":
        from vae_anomaly.workflow.score_table import table_destination

        return table_destination(request), False
    folder = request.output is not None and destinations.is_folder(request.output)
    if not folder:
        fmt = writer.output_format(shown_path(str(to)))
        if request.format not in {None, fmt}:
            raise ConfigError(
                f"--format {request.format} is for the parts in an output folder; {destinations.destination_of(to)} is a {fmt} file."
            )
    elif request.fdr is not None:
        raise ConfigError(
            "--fdr judges all rows of a batch together, and files in an output folder are scored one by one. "
            "Name one file for all scores with -o, or flag with --alpha."
        )
    found = destinations.destination_of(to)
    destinations.refuse_table(found)
    return found, folder


def refuse_input_as_output(to: Destination, source: Source) -> None:
    """Refuse to overwrite an input. Raises OutputError."""
    for file in source.files:
        if to.is_at(file.filesystem, file.location):
            raise OutputError(f"{to} is itself an input; name another output with -o.")


def check_input_columns(job: ScoreJob, source: Source) -> tuple[str, ...]:
    """Return the input columns that are ignored. Raises SchemaMismatch when columns of the model are missing."""
    source.check_present(job.detector.schema)
    groups = job.threshold.groups
    if groups is not None and groups.column not in source.names:
        absent = absent_text([groups.column], source.names)
        raise SchemaMismatch(f"{source.files[0].path} lacks the group column of the threshold: {absent}")
    absent_keys = [name for name in job.detector.time_columns if name not in source.names]
    if absent_keys:
        raise SchemaMismatch(
            f"{source.files[0].path} lacks the time or group column of this model of rows in time: {absent_text(absent_keys, source.names)}"
        )
    known = {*job.request.id_columns, *([groups.column] if groups else []), *job.detector.time_columns}
    return tuple(name for name in unknown_columns(job.detector.schema, source.all_names) if name not in known)


def warn(ignored: Sequence[str], source: Source) -> None:
    """Log how the input was read. Called after reading, so that an error is the only line."""
    if ignored:
        _logger.warning("ignored, because the model does not know them: %s", listed(ignored))
    for note in source.notes:
        _logger.warning("%s", note)


def _memory_plan(request: ScoreRequest, columns: int) -> MemoryPlan:
    if request.memory_limit is None:
        return MemoryPlan(chunk_rows=request.chunk_rows)
    return plan_memory(request.memory_limit, chunk_rows=request.chunk_rows, columns=columns, all_explained=request.explain == "all")


def _refuse_rates(request: ScoreRequest) -> None:
    for name, value in (("--alpha", request.alpha), ("--fdr", request.fdr)):
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{name} must be in (0, 1); got {value:g}.")
    if request.alpha is not None and request.fdr is not None:
        raise ConfigError("--alpha flags at a false-alarm rate and --fdr at a false-discovery rate; give one of them.")


def _threshold_for(threshold: Threshold, request: ScoreRequest) -> Threshold:
    """Return the threshold to score with. Raises NotCalibrated where the calibration does not support the request."""
    alpha, fdr = request.alpha, request.fdr
    if fdr is not None:
        threshold.refuse_unless_exact("--fdr")
    if request.p_values == "conditional":
        threshold = threshold.conditional()
        return threshold if fdr is not None else threshold.at(alpha or threshold.alpha)
    return threshold if alpha is None else threshold.at(alpha)
