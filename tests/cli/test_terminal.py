"""Progress that does not flood, values as JSON knows them, programs that are handed over to."""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vae_anomaly.choices import PREFETCH_THREADS
from vae_anomaly.cli import terminal
from vae_anomaly.detector.stream import prefetch
from vae_anomaly.errors import DataError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Inner:
    values: tuple[float, ...]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    by_name: dict[str, Path]


def test_plain_knows_what_json_knows() -> None:
    value = Outer(inner=Inner(values=(1.0, float("nan"), float("inf"))), by_name={"x": Path("a/b")})
    assert terminal.jsonable(value) == {"inner": {"values": [1.0, None, None]}, "by_name": {"x": "a/b"}}


def test_lines_come_every_ten_seconds_at_most() -> None:
    said: list[str] = []
    clock = iter([0.0, 1.0, 11.0, 11.0, 12.0, 30.0, 30.0])
    tell = terminal.progress_lines(said.append, clock=lambda: next(clock))
    tell("reading", 0, 400)  # nothing yet, however late it is
    tell("training", 1, 400)
    tell("training", 120, 400)
    tell("training", 130, 400)
    tell("scoring", 1_000_000, None)
    assert said == ["training: 120 of 400", "scoring: 1,000,000"]


def test_progress_writes_nothing_when_quiet_or_soon_done(capfd: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with terminal.progress(quiet=quiet) as tell:
            tell("training", 1, 2)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress(quiet=False) as tell:
        tell("reading", 0, None)
        tell("training", 3, 400)
    said = capsys.readouterr()
    assert said.out == ""
    assert "3 of 400" in said.err


def test_a_result_without_words_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({"a": 1}, str, as_json=False)
    assert capsys.readouterr().out == ""
    terminal.show({"a": "ü"}, str, as_json=True)
    assert capsys.readouterr().out == '{"a": "ü"}\n'


@pytest.mark.parametrize(("verbose", "quiet", "level"), [(0, False, "WARNING"), (1, False, "INFO"), (2, True, "DEBUG"), (0, True, "ERROR")])
def test_levels(verbose: int, quiet: bool, level: str) -> None:  # noqa: FBT001  # parametrized
    logger = logging.getLogger("vae_anomaly")
    before = logger.handlers, logger.level, logger.propagate
    terminal.set_logging(verbose, quiet=quiet)
    found, alone = logging.getLevelName(logger.level), not logger.propagate
    logger.handlers, logger.level, logger.propagate = before
    assert (found, alone) == (level, True)


def test_handing_over_keeps_stdout_clean_and_the_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    terminal.run_program([sys.executable, "-c", "print('words')"], quiet=False)
    assert capfd.readouterr() == ("", "words\n")
    with pytest.raises(SystemExit, match="3"):
        terminal.run_program([sys.executable, "-c", "import sys; print('words'); sys.exit(3)"], quiet=True)
    assert capfd.readouterr() == ("", "")


def test_json_has_no_half_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({"a": "M\udcfc"}, str, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": "M\udcfc"}


# ── what may move a cursor ───────────────────────────────────────────────────────────────────────────────────────────

ODD = "a\x1b[2J\x07\nb\u202e"
SEEN = r"a\x1b[2J\x07{}b\u202e"


def test_results_and_errors_have_no_controls(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({}, lambda: ODD, as_json=False)
    terminal.line_printer(lambda: ODD, quiet=False)()
    with pytest.raises(SystemExit), terminal.exit_codes(as_json=True):
        raise DataError(ODD)
    said = capsys.readouterr()
    assert said.out == SEEN.format("\n") + "\n" + json.dumps({"error": SEEN.format(" "), "exit_code": 3}) + "\n"
    assert said.err == SEEN.format(r"\n") + "\n" + "error: " + SEEN.format(" ") + "\n"


def test_log_lines_have_no_controls(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.set_logging(2, quiet=False)
    logger = logging.getLogger("vae_anomaly")
    logger.warning("%s", ODD)
    logger.debug("a traceback\nhas\x1b lines")
    assert capsys.readouterr().err == "warning: " + SEEN.format(r"\n") + "\ndebug: a traceback\nhas" + r"\x1b lines" + "\n"


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "not enough memory (allocation failed); set --memory-limit, or give the process more memory"),
        (
            ImportError("libx.so: failed to map segment from shared object"),
            "not enough memory (libx.so: failed to map segment from shared object); set --memory-limit, or give the process more memory",
        ),
        (
            ImportError("libx.so: failed to map segment from shared object: Operation not permitted"),
            (
                "ImportError: libx.so: failed to map segment from shared object: Operation not permitted; "
                "this is a bug in vae-anomaly, please report it with the output of -vv"
            ),
        ),
    ],
)
def test_too_little_memory_is_no_bug(error: Exception, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, terminal.exit_codes(as_json=False):
        raise error
    assert (left.value.code, capsys.readouterr().err) == (1, f"error: {text}\n")


def test_a_process_does_not_wait_at_its_exit_for_a_worker_that_an_interrupt_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python joins such threads at exit: a worker that waits for a store would keep the process after a second Ctrl-C."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    terminal.abandon_workers()
    assert codes == []
    release = threading.Event()

    def blocked() -> Iterator[int]:
        release.wait(30)
        yield 1

    ahead = prefetch(blocked())
    reader = threading.Thread(target=next, args=(ahead,))
    reader.start()
    while not any(thread.name.startswith(PREFETCH_THREADS) for thread in threading.enumerate()):
        time.sleep(0.01)
    terminal.abandon_workers()
    release.set()
    reader.join(30)
    ahead.close()
    assert codes == [130]
    terminal.abandon_workers()
    assert codes == [130]
