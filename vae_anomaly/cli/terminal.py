"""The terminal: exit codes, the one line of an error, log lines, the progress bar, and results as text or one JSON object.

Knows nothing about the commands. Results and ``--json`` go to stdout, everything else to stderr. ``exit_codes`` is the one
place where an exception becomes a line and a number.
"""

import ctypes
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer

from vae_anomaly.cli import streams
from vae_anomaly.cli.text import visible
from vae_anomaly.errors import OutputError, VaeAnomalyError
from vae_anomaly.messages import Tell, tell_nobody
from vae_anomaly.redaction import without_secrets

INTERRUPTED = 130
BUG = 1
_ARENA_MAX = -8
_MMAP_THRESHOLD = -3  # M_ARENA_MAX and M_MMAP_THRESHOLD of malloc.h
SECONDS_BETWEEN_LINES = 10.0
# Typer's usage errors descend from click's ClickException, whichever copy of click Typer came with.
_UsageProblem: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@contextmanager
def exit_codes(*, as_json: bool) -> Iterator[None]:
    """Turn whatever leaves the block into one line on stderr and SystemExit; with ``as_json`` also one object on stdout."""
    try:
        yield
    except KeyboardInterrupt:
        _leave(
            "interrupted; no output is half-written. The same command again goes on from what was finished", INTERRUPTED, as_json=as_json
        )
    except VaeAnomalyError as error:
        _traceback(error)
        _leave(str(error), error.exit_code, as_json=as_json)
    except _UsageProblem as error:
        _leave(f"{usage_text(error)} (see --help)", getattr(error, "exit_code", 2), as_json=as_json)
    except Exception as error:  # noqa: BLE001  # the last resort: anything that is not ours is a bug, and still one line
        _traceback(error)
        text = f"{type(error).__name__}: {error}; this is a bug in vae-anomaly, please report it with the output of -vv"
        if _is_of_memory(error):
            text = f"not enough memory ({str(error) or 'no more is given'}); give score a --memory-limit, or the process more"
        _leave(text, BUG, as_json=as_json)


def _is_of_memory(error: Exception) -> bool:
    """Whether there is no memory, be it for a library that is loaded at first use: of a mapping that fails, glibc names no other cause."""
    said = str(error)
    no_room = said.endswith("failed to map segment from shared object") or "Cannot allocate memory" in said
    return isinstance(error, MemoryError) or (isinstance(error, ImportError) and no_room)


def take_no_stock() -> None:
    """Let allocators reserve no address space ahead: Arrow's own a gigabyte, glibc's 64 MB for each thread; before they are loaded.

    A threshold that stays where it is gives every large buffer back at once; left to itself it grows until they lie among small ones.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**20)


def usage_text(error: Exception) -> str:
    """Typer's own words for a usage error, without its full stop."""
    words = error.format_message() if hasattr(error, "format_message") else str(error)
    return str(words).replace("Value error, ", "").rstrip(".")


def _leave(text: str, code: int, *, as_json: bool) -> NoReturn:
    """Print the line and leave with the code."""
    line = visible(without_secrets(" ".join(text.split()), os.environ))
    if as_json:
        print(json.dumps({"error": line, "exit_code": code}), flush=True)  # noqa: T201
    print(f"error: {line}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


def _traceback(error: Exception) -> None:
    """Show where it happened, for those who asked with -vv."""
    logging.getLogger("vae_anomaly").debug("the error came from here:\n%s", "".join(traceback.format_exception(error)).rstrip())


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at the moment: a progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_logging(verbose: int, *, quiet: bool) -> None:
    """Warnings by default; -v adds information, -vv everything and tracebacks; --quiet leaves errors only."""
    level = logging.ERROR if quiet and not verbose else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logger = logging.getLogger("vae_anomaly")
    handler = _CurrentStderr(sys.stderr)
    handler.setFormatter(_LowerCaseLevel("%(levelname)s: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


class _LowerCaseLevel(logging.Formatter):
    """``warning: …``, in the form of ``error: …``; without secrets and controls, also in a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return visible(without_secrets(super().format(record), os.environ), ends=record.levelno <= logging.DEBUG)


def show(result: Any, text: Callable[[], str], *, as_json: bool) -> None:
    """Print a result: ``text()`` for people, nothing if that is empty, or exactly one JSON object."""
    shown = _json(jsonable(result)) if as_json else visible(text(), ends=True)
    if shown:
        print(shown, flush=True)  # noqa: T201
    if as_json and streams.lost():
        raise OutputError(
            f"the result as JSON cannot be written to stdout: {streams.lost()}. The work itself is done; to see the result, "
            "send stdout elsewhere and run the command again."
        )


def note(text: Callable[..., str], *, quiet: bool) -> Callable[..., None]:
    """Return what prints ``text(…)`` as a line on stderr: something a command did that has not come to its end."""

    def tell(*values: Any) -> None:
        if not quiet:
            print(visible(text(*values)), file=sys.stderr, flush=True)  # noqa: T201

    return tell


def _json(value: Any) -> str:
    """Return one line of JSON, without characters that stdout does not have: as escapes of Python they would be no JSON."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def hand_over(command: Sequence[str], *, quiet: bool) -> None:
    """Run a program until it ends or is interrupted, its words on stderr; raises SystemExit with its exit code if that is not 0."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else sys.stderr) as running:  # noqa: S603  # our own command
        try:
            code = running.wait()
        except KeyboardInterrupt:
            running.terminate()
            code = 0  # Ctrl-C is how one leaves it
    if code:
        raise SystemExit(code)


def jsonable(value: Any) -> Any:
    """Dataclasses, mappings, tuples, paths and numbers as what JSON knows; a number that is not finite becomes null."""
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
def progress(*, quiet: bool) -> Iterator[Tell]:
    """A bar on stderr where that is a terminal, a line every ten seconds where it is not, nothing when quiet."""
    if quiet:
        yield tell_nobody
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield lines(lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201


def lines(write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> Tell:
    """Progress as a line now and then: at most one in ``SECONDS_BETWEEN_LINES``, none before something is done."""
    last = clock()

    def tell(stage: str, done: int, total: int | None) -> None:
        nonlocal last
        if done and clock() - last >= SECONDS_BETWEEN_LINES:
            last = clock()
            write(f"{stage}: {_units(done, total)}")

    return tell


def _units(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


@contextmanager
def _bar() -> Iterator[Tell]:
    """A Rich bar; one at a time, the stage as its title."""
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

        def tell(stage: str, done: int, total: int | None) -> None:
            units = _units(done, total)
            if stage not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[stage] = bar.add_task(stage, total=total, units=units)
            bar.update(tasks[stage], completed=done, total=total, units=units)

        yield tell
