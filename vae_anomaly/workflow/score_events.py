"""Events of a scoring of rows in time: their rules, their file, and the ranges of time that were acknowledged."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from vae_anomaly.calibration.groups import group_names
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.config import Reading
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError, OutputError
from vae_anomaly.events.episodes import Event, EventRules, Mute, log_from, without_muted
from vae_anomaly.jobs.state_file import after_of
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.keys import time_values
from vae_anomaly.storage.atomic import writing
from vae_anomaly.tables.source import open_source
from vae_anomaly.tables.writer import output_format, write_batches
from vae_anomaly.workflow.requests import ScoreRequest
from vae_anomaly.workflow.results import FoundEvents
from vae_anomaly.workflow.score_job import ScoreJob

MUTE_COLUMNS = ("start", "end")


def event_rules(detector: Detector, threshold: Threshold) -> EventRules | None:
    """Return the rules of the events of rows in time; None for single rows."""
    series = detector.series
    return None if series is None else EventRules.of(threshold.event_value, series.span, series.max_gap)


def check_options(request: ScoreRequest, detector: Detector) -> None:
    """Raise ConfigError for an option about events or states of a model of single rows, and for one file with two purposes.

    Raises OutputError for a folder of events that does not exist.
    """
    named = {"--events": request.events, "--mute": request.mute, "--state": request.state}
    given = {name: Path(value) for name, value in named.items() if value is not None}
    if detector.series is None:
        raise ConfigError(
            f"{next(iter(given))} is for rows in time, and this model scores each row alone. Fit with --time-column, or leave it out."
        )
    others = {f"the input {path}": Path(path) for path in request.data} | {"the output -o": Path(str(request.output or ""))} | given
    for name in ("--events", "--state"):
        path = given.get(name)
        twin = next((other for other, value in others.items() if path is not None and other != name and _same(path, value)), None)
        if twin is not None:
            raise ConfigError(f"{name} {path} is also {twin}; name another file.")
    if request.events is not None:
        output_format(str(request.events))
        if not request.events.absolute().parent.is_dir():
            raise OutputError(f"{request.events} cannot be written: there is no folder {request.events.parent}. Create it first.")


def _same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def read_mutes(path: str, detector: Detector) -> tuple[Mute, ...]:
    """Read the ranges of time whose events are acknowledged: columns ``start``, ``end`` and, for several entities, the group column.

    Raises DataError for a file without them, BadCell for a cell that is no time.
    """
    source = open_source([path], Reading(), expected=MUTE_COLUMNS)
    table, group = source.read_table(), detector.schema.group
    absent = [name for name in MUTE_COLUMNS if name not in table.column_names]
    if absent:
        raise DataError(f"{path} lists no ranges of time: {absent_text(absent, table.column_names)}")
    start, end = (time_values(table[name], name, detector.config.data.time_format)[0] for name in MUTE_COLUMNS)
    names: list[str | None] = [None] * table.num_rows
    if group is not None and group in table.column_names:
        known, index = group_names(table[group], group)
        names = [known[i] for i in index.tolist()]
    return tuple(Mute(entity=name, start=a, end=b) for name, a, b in zip(names, start.tolist(), end.tolist(), strict=True))


def event_schema(detector: Detector) -> pa.Schema:
    """Return the columns of a file of events."""
    assert detector.series is not None
    clock = pa.timestamp("us") if detector.series.is_clock else pa.float64()
    entity = [] if detector.schema.group is None else [pa.field(detector.schema.group, pa.string())]
    times = [pa.field(name, clock) for name in ("start", "peak", "end")]
    numbers = [pa.field("duration", pa.float64()), pa.field("rows", pa.int64())]
    scores = [pa.field("peak_score", pa.float64()), pa.field("severity", pa.float64())]
    reason = pa.struct([(name, pa.float64() if name == "contribution" else pa.string()) for name in EVENT_FIELDS])
    rest = [pa.field("first_row", pa.int64()), pa.field("last_row", pa.int64()), pa.field("ongoing", pa.bool_())]
    return pa.schema([*entity, *times, *numbers, *scores, pa.field("top_columns", pa.list_(reason)), *rest])


EVENT_FIELDS = ("column", "direction", "value", "expected", "contribution")


def event_table(events: Sequence[Event], detector: Detector) -> pa.RecordBatch:
    """Return events as a table; times as timestamps where the series has them, ``duration`` in seconds or in the unit of its numbers."""
    assert detector.series is not None
    schema, is_clock = event_schema(detector), detector.series.is_clock
    rows = [
        {
            detector.schema.group: event.entity,
            **{name: _time(getattr(event, name), is_clock=is_clock) for name in ("start", "peak", "end")},
            "duration": event.end - event.start,
            "rows": event.rows,
            "peak_score": event.peak_score,
            "severity": event.severity,
            "top_columns": [asdict(column) for column in event.columns],
            "first_row": event.first,
            "last_row": event.last,
            "ongoing": event.ongoing,
        }
        for event in events
    ]
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _time(value: float, *, is_clock: bool) -> int | float:
    return round(value * 1e6) if is_clock else value


def events_of(counted: Sequence[Mapping[str, Any]], rules: EventRules) -> tuple[Event, ...]:
    """Return the events that the manifests of outputs tell, each of which continues the one before; only the last has ongoing ones."""
    logs = [log_from(one["events"]) for one in counted if one.get("events")]
    return () if not logs else replace(logs[-1], over=[event for log in logs for event in log.over]).events(rules)


def finish_series(job: ScoreJob, identity: str, counted: Sequence[Mapping[str, Any]]) -> FoundEvents:
    """Write the events and the state of a finished job, from the manifests of its outputs; return the events.

    Raises OutputError for a file of other events.
    """
    rules = event_rules(job.detector, job.threshold)
    assert rules is not None
    events, muted = without_muted(events_of(counted, rules), job.mutes)
    if job.state is not None and counted and counted[-1].get("series"):  # first: a file of events that exists must not hold it up
        job.state.write(identity, after_of(counted[-1]))
    if job.request.events is not None:
        write_events(job.request.events, events, job.detector, overwrite=job.overwrite)
    assert job.detector.series is not None
    return FoundEvents(events=events, acknowledged=muted, is_clock=job.detector.series.is_clock, output=str(job.request.events or ""))


def write_events(path: Path, events: Sequence[Event], detector: Detector, *, overwrite: bool) -> None:
    """Write a file of events, whole or not at all. Raises OutputError for a file that exists and is another."""
    schema = event_schema(detector)
    staged = path.with_name(f".{path.name}.new{path.suffix}")
    write_batches(staged, iter([event_table(events, detector)]), schema, fmt=output_format(path))
    with writing(path):
        if path.exists() and not overwrite and path.read_bytes() != staged.read_bytes():
            staged.unlink()
            raise OutputError(f"{path} exists and holds other events. Name another with --events, or give --overwrite to replace it.")
        staged.replace(path)
