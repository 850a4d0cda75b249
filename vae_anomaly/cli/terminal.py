"""The terminal: exit codes and error lines, log lines, progress, and results as text or one JSON object.

Results go to stdout, everything else to stderr. Only ``exit_codes`` turns an exception into a line and an exit code.
"""

import ctypes
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer

from vae_anomaly.choices import PREFETCH_THREADS
from vae_anomaly.cli.text import escape_controls
from vae_anomaly.errors import ConfigError, OutputError, VaeAnomalyError
from vae_anomaly.jobs.process_group import processes
from vae_anomaly.messages import OnProgress, ignore_progress
from vae_anomaly.redaction import without_secrets

INTERRUPTED = 130
BUG = 1
_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
SECONDS_BETWEEN_LINES = 10.0  # of progress in a log file
# Base of Typer's usage errors. Found by name, because some versions of Typer bundle their own copy of click.
_UsageProblem: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@contextmanager
def exit_codes(*, as_json: bool) -> Iterator[None]:
    """Turn any exception into one line on stderr and SystemExit with an exit code; with ``as_json`` also into one object on stdout."""
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted; no partial output was written. Run the same command again to resume", INTERRUPTED, as_json=as_json)
    except VaeAnomalyError as error:
        _traceback(error)
        _leave(str(error), error.exit_code, as_json=as_json)
    except _UsageProblem as error:
        _leave(f"{usage_text(error)} (see --help)", getattr(error, "exit_code", 2), as_json=as_json)
    except Exception as error:  # noqa: BLE001  # any other exception is a bug, reported on one line too
        _traceback(error)
        text = f"{type(error).__name__}: {error}; this is a bug in vae-anomaly, please report it with the output of -vv"
        if _is_of_memory(error):
            text = f"not enough memory ({str(error) or 'allocation failed'}); set --memory-limit, or give the process more memory"
        _leave(text, BUG, as_json=as_json)


def abandon_workers() -> None:
    """End the process if a prefetch worker still runs: a second Ctrl-C interrupted the wait for it, and Python would wait again at exit."""
    if any(thread.name.startswith(PREFETCH_THREADS) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(INTERRUPTED)


def _is_of_memory(error: Exception) -> bool:
    """Return whether memory ran out, also while loading a library: glibc reports that only as a failed mapping."""
    text = str(error)
    cannot_map = text.endswith("failed to map segment from shared object") or "Cannot allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, ImportError) and cannot_map)


def leave_pandas_out() -> None:
    """Let pyarrow take pandas for absent in this process: else its first array imports it, a tenth of the time of a small scoring.

    Only for commands that meet no data of pandas.
    """
    if "pandas" in sys.modules:
        return
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        import pyarrow as pa

        pa.array([None])  # pyarrow looks once
    finally:
        sys.meta_path.remove(absent)


class _Absent:
    """A finder to which pandas is not installed."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def limit_preallocation() -> None:
    """Limit memory preallocation by Arrow and glibc; call before importing pyarrow.

    Arrow's default pool reserves 1 GB of address space, and glibc 64 MB per thread. With a fixed mmap threshold glibc returns every large
    buffer to the system at once; by default it raises the threshold, and large buffers fragment the heap.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**20)


def usage_text(error: Exception) -> str:
    """Return Typer's text of a usage error, without the full stop."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return str(text).replace("Value error, ", "").rstrip(".")


def _leave(text: str, code: int, *, as_json: bool) -> NoReturn:
    """Print the error line and exit with the code.

    Of the processes that torchrun has started, the first one speaks for all about options and interrupts.
    """
    if code in {ConfigError.exit_code, INTERRUPTED} and _is_helper():
        raise SystemExit(code)
    line = escape_controls(without_secrets(" ".join(text.split()), os.environ))
    if as_json:
        print(json.dumps({"error": line, "exit_code": code}), flush=True)  # noqa: T201
    print(f"error: {line}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


def _is_helper() -> bool:
    try:
        return processes()[0] > 0
    except ConfigError:
        return False


def _traceback(error: Exception) -> None:
    """Log the traceback, shown with -vv."""
    logging.getLogger("vae_anomaly").debug("traceback of the error:\n%s", "".join(traceback.format_exception(error)).rstrip())


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Handler that looks up ``sys.stderr`` at every record, because a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_logging(verbose: int, *, quiet: bool) -> None:
    """Set the log level: warnings, with -v information, with -vv debug messages and tracebacks, with --quiet errors only."""
    level = logging.ERROR if quiet and not verbose else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logger = logging.getLogger("vae_anomaly")
    handler = _CurrentStderr(sys.stderr)
    handler.setFormatter(_LowerCaseLevel("%(levelname)s: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


class _LowerCaseLevel(logging.Formatter):
    """Formatter of ``warning: …``; removes secrets and control characters, also from tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return escape_controls(without_secrets(super().format(record), os.environ), keep_newlines=record.levelno <= logging.DEBUG)


def show(result: Any, text: Callable[[], str], *, as_json: bool) -> None:
    """Print a result: ``text()`` unless it is empty, or one JSON object. Raises OutputError if stdout lost the JSON."""
    output = _json(jsonable(result)) if as_json else escape_controls(text(), keep_newlines=True)
    if output:
        print(output, flush=True)  # noqa: T201
    if as_json and stdout_loss():
        raise OutputError(
            f"the JSON result cannot be written to stdout: {stdout_loss()}. The work is done; to see the result, "
            "redirect stdout and run the command again."
        )


def line_printer(text: Callable[..., str], *, quiet: bool) -> Callable[..., None]:
    """Return a function that prints ``text(…)`` as one line on stderr, or nothing when quiet."""

    def print_line(*values: Any) -> None:
        if not quiet:
            print(escape_controls(text(*values)), file=sys.stderr, flush=True)  # noqa: T201

    return print_line


def _json(value: Any) -> str:
    """Return one line of JSON. If stdout cannot encode it, non-ASCII characters are JSON escapes; Python's own would be invalid JSON."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def run_program(command: Sequence[str], *, quiet: bool) -> None:
    """Run a program with its output on stderr until it exits or is interrupted. Raises SystemExit with an exit code other than 0."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else sys.stderr) as process:  # noqa: S603  # our own command
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            code = 0  # Ctrl-C is the way to stop it
    if code:
        raise SystemExit(code)


def jsonable(value: Any) -> Any:
    """Return dataclasses, mappings, tuples and paths as JSON types; infinities and NaN become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return float(value) if isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


@contextmanager
def progress(*, quiet: bool) -> Iterator[OnProgress]:
    """Yield a progress callback: a bar if stderr is a terminal, else a line every ten seconds; nothing when quiet."""
    if quiet:
        yield ignore_progress
    elif sys.stderr.isatty():
        with _bar() as on_progress:
            yield on_progress
    else:
        yield progress_lines(lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201


def progress_lines(write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> OnProgress:
    """Return a progress callback that writes at most one line in ``SECONDS_BETWEEN_LINES``, and none before the first unit is done."""
    last = clock()

    def on_progress(stage: str, done: int, total: int | None) -> None:
        nonlocal last
        if done and clock() - last >= SECONDS_BETWEEN_LINES:
            last = clock()
            write(f"{stage}: {_units(done, total)}")

    return on_progress


def _units(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


@contextmanager
def _bar() -> Iterator[OnProgress]:
    """Yield a progress callback with a Rich bar, one stage at a time."""
    from rich.console import Console  # --help must not wait for Rich
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[units]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def on_progress(stage: str, done: int, total: int | None) -> None:
            units = _units(done, total)
            if stage not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[stage] = bar.add_task(stage, total=total, units=units)
            bar.update(tasks[stage], completed=done, total=total, units=units)

        yield on_progress


class FailSafeStream(io.RawIOBase):
    """Byte stream that accepts every write; ``lost`` is the reason why bytes were dropped, empty if none were.

    A reader that has exited (``| head``) does not count as a loss.
    """

    def __init__(self, raw: Any, lost: str = "") -> None:
        self._raw, self.lost, self._ended = raw, lost, bool(lost)

    def write(self, data: Any) -> int:
        """Write to the stream beneath until that fails once; later bytes are dropped too, to leave no gap."""
        if self._ended:
            return len(data)
        try:
            written: int | None = self._raw.write(data)
        except OSError as error:
            self._end("" if isinstance(error, BrokenPipeError) else error.strerror or str(error))
            return len(data)
        if written is None:
            self._end("it is non-blocking and its reader is too slow")
        return len(data) if written is None else written

    def _end(self, lost: str) -> None:
        self._ended, self.lost = True, lost

    def writable(self) -> bool:
        """Return True: every write is accepted."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor of the stream beneath."""
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        """Return whether the stream beneath is a terminal."""
        return bool(self._raw.isatty())


def protect_standard_streams() -> None:
    """Replace stdout and stderr of this process; characters that they cannot encode are written as escapes."""
    sys.stdout = _protected(sys.stdout, 1)
    sys.stderr = _protected(sys.stderr, 2)


def stdout_loss() -> str:
    """Return the reason why stdout dropped bytes, or an empty text."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, FailSafeStream) else ""


def _protected(stream: TextIO | None, handle: int) -> TextIO:
    if stream is None:  # closed before Python started
        raw, encoding, is_terminal = FailSafeStream(_null_device(handle), lost="it is closed"), "utf-8", False
    else:
        buffer = stream.buffer
        raw, encoding, is_terminal = FailSafeStream(getattr(buffer, "raw", buffer)), stream.encoding, stream.isatty()
    lines = handle == 2 or is_terminal  # noqa: PLR2004  # stderr
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=lines)


def _null_device(handle: int) -> Any:
    """Open the null device, also under a free standard handle: a database file opened there would be overwritten by prints."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.fstat(handle)
    except OSError:
        os.dup2(null, handle)
    return open(null, "wb", buffering=0)  # noqa: PTH123  # a descriptor, open until the process exits
