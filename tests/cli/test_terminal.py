"""Progress that does not flood, values as JSON knows them, programs that are handed over to."""

import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vae_anomaly.cli import streams, terminal
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
    tell = terminal.lines(said.append, clock=lambda: next(clock))
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
    terminal.hand_over([sys.executable, "-c", "print('words')"], quiet=False)
    assert capfd.readouterr() == ("", "words\n")
    with pytest.raises(SystemExit, match="3"):
        terminal.hand_over([sys.executable, "-c", "import sys; print('words'); sys.exit(3)"], quiet=True)
    assert capfd.readouterr() == ("", "")


# ── streams that cannot be written to ────────────────────────────────────────────────────────────────────────────────


class Failing(io.RawIOBase):
    """Fails at the second write."""

    def __init__(self, error: OSError | None) -> None:
        self.error, self.taken = error, b""

    def write(self, data: Any) -> int | None:
        if not self.taken:
            self.taken = bytes(data)
            return len(data)
        if self.error:
            raise self.error
        return None


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
        (BrokenPipeError(32, "Broken pipe"), ""),
        (None, "its reader is too slow, and it was set not to wait"),
    ],
)
def test_a_write_never_fails_and_what_was_lost_is_known(error: OSError | None, lost: str) -> None:
    raw = Failing(error)
    stream = streams.Lasting(raw)
    assert [stream.write(b"a"), stream.write(b"bc"), stream.write(b"d")] == [1, 2, 1]
    assert (raw.taken, stream.lost) == (b"a", lost)


@pytest.mark.parametrize(("to", "why"), [("1>&-", "it is closed"), ("1>/dev/full", "No space left on device")], ids=["closed", "full"])
@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("terminal.show({'a': 1}, lambda: 'ü', as_json=False)", 0),
        ("terminal.show({'a': 1}, str, as_json=True)", 7),
    ],
    ids=["words", "json"],
)
def test_stdout_that_takes_nothing(to: str, why: str, action: str, code: int) -> None:
    done = _process(action, to)
    text = f"error: the result as JSON cannot be written to stdout: {why}. "
    text += "The work itself is done; to see the result, send stdout elsewhere and run the command again.\n"
    assert (done.returncode, done.stdout, done.stderr) == (code, "", text if code else "")


@pytest.mark.parametrize("to", ["2>&-", "2>/dev/full", "1>&- 2>&- <&-"])
def test_stderr_that_takes_nothing_keeps_the_exit_code(to: str) -> None:
    log = "terminal.set_logging(0, quiet=False); import logging; logging.getLogger('vae_anomaly').warning('w'); "
    done = _process(f"{log}print(sys.stderr.isatty(), sys.stdout.writable()); raise DataError('no')", to)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == ("" if "1>" in to else "False True\n")


def test_what_is_opened_later_gets_no_handle_of_a_closed_stream() -> None:
    done = _process("import os; sys.exit(os.open('pyproject.toml', os.O_RDONLY))", "1>&- 2>&-")
    assert done.returncode > 2


@pytest.mark.parametrize(("as_json", "said"), [("False", "\\xfc \\u2265\n"), ("True", '{"a": "\\u00fc"}\n')])
def test_characters_that_a_terminal_lacks_are_escapes(as_json: str, said: str) -> None:
    done = _process(f"terminal.show({{'a': 'ü'}}, lambda: 'ü ≥', as_json={as_json})", "", encoding="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def _words(action: str, to: str) -> list[str]:
    code = (
        "import sys; from vae_anomaly.cli import streams, terminal; from vae_anomaly.errors import DataError; streams.make_lasting()\n"
        f"with terminal.exit_codes(as_json=False): {action}"
    )
    return ["sh", "-c", f'exec "$0" -c "$1" {to}', sys.executable, code]


def _process(action: str, to: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(_words(action, to), cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_json_has_no_half_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({"a": "M\udcfc"}, str, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": "M\udcfc"}


# ── what may move a cursor ───────────────────────────────────────────────────────────────────────────────────────────

ODD = "a\x1b[2J\x07\nb\u202e"
SEEN = r"a\x1b[2J\x07{}b\u202e"


def test_results_and_errors_have_no_controls(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show({}, lambda: ODD, as_json=False)
    terminal.note(lambda: ODD, quiet=False)()
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
        (MemoryError(), "not enough memory (no more is given); give score a --memory-limit, or the process more"),
        (
            ImportError("libx.so: failed to map segment from shared object"),
            "not enough memory (libx.so: failed to map segment from shared object); give score a --memory-limit, or the process more",
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
