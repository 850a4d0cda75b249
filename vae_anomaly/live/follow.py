"""``follow``: score the lines of a stream as they come, CSV or JSON, and answer each with a line of JSON.

Lines are read as they are there and scored together, so that a slow stream is answered at once and a fast one in batches; the answers are
those of ``score``, to the bit. With a state file the series go on after a kill: of a growing file the lines after the last stored ones are
read again, and the output is cut back to their answers, so that no line is lost or answered twice.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.in_time import PeakReasons, rows_back, score_in_time, series_features, start_of
from vae_anomaly.detector.series import SeriesState, state_from
from vae_anomaly.errors import BadCell, ConfigError, DataError, OutputError, VaeAnomalyError
from vae_anomaly.events.episodes import Event, EventLog, EventRules, ScoredTimes, log_from
from vae_anomaly.jobs.state_file import digest_of, read_state
from vae_anomaly.live.lines import LONGEST_PROBLEM, Lines, table_of_rows
from vae_anomaly.messages import OnProgress, absent_text, ignore_progress, shorten
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.schema import check_duplicates, conform
from vae_anomaly.storage.atomic import writing
from vae_anomaly.workflow.models import open_model
from vae_anomaly.workflow.requests import FollowRequest
from vae_anomaly.workflow.results import FollowResult
from vae_anomaly.workflow.score_events import event_rules

# Bytes that are read at once, seconds between two looks at a growing file, and between two writes of the state.
READ_BYTES, LOOK_SECONDS, STATE_SECONDS = 1 << 20, 0.05, 1.0
LINES_AT_ONCE = 8192
STDIN = "-"
# An answer, and the events that are told after it.
Answer = tuple[dict[str, Any], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a stream stands: answered ``lines`` and their end in the input and in the output, in bytes, and the header of CSV."""

    lines: int = 0
    offset: int = 0
    written: int = 0
    header: str = ""


@dataclass(kw_only=True, eq=False)
class Follower:
    """A stream with its model, its output and where it stands; ``errors`` lines could not be scored."""

    detector: Detector
    threshold: Threshold
    rules: EventRules
    top: int | None
    threads: int
    out: BinaryIO
    lines: Lines
    position: Position
    series: SeriesState
    events: EventLog = field(default_factory=EventLog)
    alarms: int = 0
    errors: int = 0

    def answer(self, texts: Sequence[bytes], end: int) -> None:
        """Score complete lines, which end at byte ``end`` of the input, and write their answers."""
        first = self.position.lines
        answers = list(self._answers(texts, first))
        content = b"".join(answers)
        self.out.write(content)
        self.out.flush()
        self.position = Position(
            lines=first + len(texts), offset=end, written=self.position.written + len(content), header=self.lines.header
        )

    def _answers(self, texts: Sequence[bytes], first: int) -> Iterator[bytes]:
        wanted = [*self.detector.schema.names, *self.detector.time_columns]
        table, problems = table_of_rows(self.lines.read(texts), wanted, self.detector.config.data.missing_values)
        found: dict[int, Answer] = {}
        self._score(table, [i for i in range(len(texts)) if i not in problems], problems, found)
        self.errors += len(problems)
        for i in range(len(texts)):
            if i in problems:
                yield _line({"line": first + i, "error": problems[i]})
                continue
            answer, events = found[i]
            yield _line({"line": first + i, **answer})
            for event in events:
                yield _line(event)

    def _score(self, table: pa.RecordBatch, kept: list[int], problems: dict[int, str], found: dict[int, Answer]) -> None:
        """Score the rows ``kept``: each gets an answer and the events after it, or a problem. Rows that fail together are halved."""
        while kept:
            rows, bad = table.take(pa.array(kept, pa.int64())), dict[int, str]()
            try:
                conform(self.detector.schema, rows, where="the stream", bad=bad)
                bad |= {} if bad else self._late(rows)
                if not bad:
                    found |= dict(zip(kept, self._scored(rows), strict=True))
                    return
            except (VaeAnomalyError, pa.ArrowException, ArithmeticError, ValueError) as error:
                if len(kept) > 1:  # what a time means depends on the others: the line at fault is found by halves
                    half = len(kept) // 2
                    self._score(table, kept[:half], problems, found)
                    self._score(table, kept[half:], problems, found)
                    return
                bad = {0: shorten(error.problem if isinstance(error, BadCell) else str(error), LONGEST_PROBLEM)}
            problems |= {kept[i]: problem for i, problem in bad.items()}
            kept = [one for i, one in enumerate(kept) if i not in bad]

    def _late(self, rows: pa.RecordBatch) -> dict[int, str]:
        """Return the problem of every row whose time is before that of a row above of the same entity."""
        return dict.fromkeys(rows_back(self.detector, rows, self.series), "time goes back, before that of a line above")

    def _scored(self, rows: pa.RecordBatch) -> list[Answer]:
        cells = conform(self.detector.schema, rows, where="the stream")
        scores, self.series = score_in_time(self.detector, rows, encode(self.detector.schema, cells), self.series, threads=self.threads)
        flags, p_values = self.threshold.flags(scores.total), self.threshold.p_values(scores.total)
        self.alarms += int(flags.sum())
        features = series_features(self.detector, scores, np.flatnonzero(flags), self.top, threads=self.threads)
        assert scores.times is not None
        reasons = PeakReasons(detector=self.detector, scores=scores, features=features, top=self.top)
        keys = {name: rows.column(name).to_pylist() for name in self.detector.time_columns}
        found = []
        for i in range(rows.num_rows):
            score = None if np.isnan(scores.total[i]) else float(scores.total[i])
            answer = {name: _plain(values[i]) for name, values in keys.items()}
            answer |= {"anomaly_score": score, "p_value": None if score is None else float(p_values[i]), "is_anomaly": bool(flags[i])}
            answer |= {"top_features": features[i].as_py()} if flags[i] else {}
            one = ScoredTimes(
                scores=scores.total[i : i + 1],
                time=scores.times.time[i : i + 1],
                entity=scores.times.entity[i : i + 1],
                names=scores.times.names,
                numbers=np.zeros(1, dtype=np.int64),
                peak=partial(_at, reasons, i),
                explain=reasons.explain,
            )
            found.append((answer, self._events_after(one)))
        return found

    def _events_after(self, row: ScoredTimes) -> list[dict[str, Any]]:
        """Add a row to the events, and return those that have become one, or are over, with it."""
        entity = row.names[int(row.entity[0])]
        before = self.events.begun_rows(entity)
        self.events.add(row, self.rules)
        after = self.events.begun_rows(entity)
        over, self.events.over = self.events.over, []
        told = [_event("end", event, self.detector) for event in over]
        if after >= self.rules.least > (0 if over else before):
            begun = next(event for event in self.events.events(self.rules) if event.entity == entity)
            told.append(_event("begin", begun, self.detector))
        return told

    def state(self) -> dict[str, Any]:
        """Return where the stream stands as JSON values."""
        return {"series": self.series.plain(), "events": self.events.plain(), "follow": asdict(self.position)}


def _at(reasons: PeakReasons, i: int, _row: int) -> object:
    return reasons.peak(i)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float) or value is None else str(value)


def _event(what: str, event: Event, detector: Detector) -> dict[str, Any]:
    """Return an event as a line of the output: when it has lasted long enough to be one, and when it is over."""
    entity = {} if detector.schema.group is None else {detector.schema.group: event.entity}
    times = {name: getattr(event, name) for name in ("start", "peak", "end")}
    columns = [{"column": column.column, "direction": column.direction} for column in event.columns]
    scores = {"rows": event.rows, "peak_score": event.peak_score, "severity": event.severity}
    return {"event": what, **entity, **times, **scores, "top_columns": columns}


def follow_stream(request: FollowRequest, *, tell: OnProgress = ignore_progress, stdin: BinaryIO | None = None) -> FollowResult:
    """Score the lines of standard input or of a growing file until they end, an interrupt, or a signal.

    Raises ConfigError for a model of single rows, DataError for a stream without the model's columns and OutputError for an output that
    exists and is not that of the state file.
    """
    loaded = open_model(request.model, uri=request.tracking_uri)
    detector = loaded.detector
    if detector.series is None:
        raise ConfigError("follow scores rows in time, and this model scores each row alone. Fit with --time-column.")
    threshold = detector.threshold if request.alpha is None else detector.threshold.at(request.alpha)
    rules = event_rules(detector, threshold)
    assert rules is not None, "of rows in time"
    job = digest_of({"follow": request.data, "model": loaded.digest, "alpha": threshold.alpha})
    stored = None if request.state is None else read_state(request.state, loaded.digest)
    after = None if stored is None else stored.after
    goes_on = after is not None and stored is not None and stored.job == job
    known = Position(**after["follow"]) if goes_on and after is not None else Position()
    with ExitStack() as stack:
        out = _output(request.output, known, stack, goes_on=goes_on)
        source = _source(request.data, known, stack, stdin, until_end=request.until_end)
        follower = Follower(
            detector=detector,
            threshold=threshold,
            rules=rules,
            top=request.top,
            threads=request.threads or 1,
            out=out,
            lines=Lines(format=request.format, header="" if request.data == STDIN else known.header),
            position=known if request.data != STDIN else replace(known, offset=0, header=""),
            series=start_of(detector) if after is None else state_from(after["series"]),
            events=EventLog() if after is None else log_from(after["events"]),
        )
        _run(follower, source, None if stored is None else partial(stored.write, job), tell)
    position = follower.position
    return FollowResult(
        output=str(request.output or ""), lines=position.lines, alarms=follower.alarms, errors=follower.errors, model=loaded.name
    )


def _run(follower: Follower, source: Callable[[], bytes | None], write: Callable[[dict[str, Any]], None] | None, tell: OnProgress) -> None:
    """Answer lines as they come; the state is written about once a second and when the stream ends, however it ends."""
    rest, offset, saved = b"", follower.position.offset, time.monotonic()

    def save() -> None:
        if write is not None:
            write(follower.state())

    save()  # before the first answer: whoever is killed then finds an output that the state knows of
    try:
        while (block := source()) is not None:
            pieces = (rest + block).split(b"\n")
            rest = pieces.pop()
            if pieces:
                offset = _answer(follower, pieces, offset)
                tell("following", follower.position.lines, None)
            if time.monotonic() - saved > STATE_SECONDS:
                save()
                saved = time.monotonic()
        if rest.strip():  # the last line of a stream that ends without a line break
            _answer(follower, [rest], offset)
    finally:
        save()


def _answer(follower: Follower, texts: list[bytes], offset: int) -> int:
    """Answer complete lines from byte ``offset`` on and return where they end; the first line of CSV is its header."""
    while texts and not texts[0].strip() and not follower.lines.header:  # blank lines above the header
        offset += len(texts.pop(0)) + 1
    if texts and follower.lines.wants_header(texts[0]):
        head = texts.pop(0)
        follower.lines.take_header(head)
        _check(follower)
        offset += len(head) + 1
    most = follower.detector.rows_at_once(LINES_AT_ONCE)
    for first in range(0, len(texts), most):
        some = texts[first : first + most]
        offset += sum(map(len, some)) + len(some)
        follower.answer(some, offset)
    return offset


def _check(follower: Follower) -> None:
    names = follower.lines.columns
    check_duplicates(names, "the header of the stream")
    absent = [name for name in (*follower.detector.schema.names, *follower.detector.time_columns) if name not in names]
    if absent:
        raise DataError(f"the header of the stream lacks {len(absent)} of the model's columns: {absent_text(absent, names)}")


def _output(path: Path | None, known: Position, stack: ExitStack, *, goes_on: bool) -> BinaryIO:
    """Open the output, cut back to the answers that the state knows of; ``goes_on``: the state is that of this stream."""
    if path is None:
        return sys.stdout.buffer
    size = path.stat().st_size if path.exists() else 0
    if size < known.written or (size and not goes_on):
        raise OutputError(
            f"{path} exists and is not the output that the state file tells of. Name another with -o, or the state file with --state."
        )
    with writing(path):
        out = stack.enter_context(path.open("r+b" if path.exists() else "wb"))
        out.truncate(known.written)
        out.seek(known.written)
    return out


def _source(data: str, known: Position, stack: ExitStack, stdin: BinaryIO | None, *, until_end: bool) -> Callable[[], bytes | None]:
    """Return a function that waits for the next bytes of the stream; None at its end."""
    if data == STDIN:
        number = (stdin or sys.stdin.buffer).fileno()
        return lambda: os.read(number, READ_BYTES) or None
    try:
        file = stack.enter_context(Path(data).open("rb"))  # noqa: SIM115  # the stack closes it
    except OSError as error:
        raise DataError(f"{data} cannot be read: {error.strerror}.") from None
    if Path(data).stat().st_size < known.offset:
        raise DataError(
            f"{data} is shorter than what was answered of it: it was replaced. Name a new state file for it, and another output."
        )
    file.seek(known.offset)

    def more() -> bytes | None:
        block = file.read(READ_BYTES)
        if block or until_end:
            return block or None
        time.sleep(LOOK_SECONDS)
        return b""

    return more
