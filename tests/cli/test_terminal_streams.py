"""Standard streams that are closed, full, without a reader or of another encoding."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vae_anomaly.cli import terminal

ROOT = Path(__file__).parents[2]


class Failing(io.RawIOBase):
    """Stream whose second write fails."""

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
        (None, "it is non-blocking and its reader is too slow"),
    ],
)
def test_after_a_failed_write_bytes_are_dropped_and_the_reason_is_known(error: OSError | None, lost: str) -> None:
    raw = Failing(error)
    stream = terminal.FailSafeStream(raw)
    assert [stream.write(b"a"), stream.write(b"bc"), stream.write(b"d")] == [1, 2, 1]
    assert (raw.taken, stream.lost) == (b"a", lost)


@pytest.mark.parametrize(("to", "why"), [("1>&-", "it is closed"), ("1>/dev/full", "No space left on device")], ids=["closed", "full"])
@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("terminal.show({'a': 1}, lambda: 'ü', as_json=False)", 0),
        ("terminal.show({'a': 1}, str, as_json=True)", 7),
    ],
    ids=["summary", "json"],
)
def test_a_lost_summary_is_ignored_and_lost_json_is_an_error(to: str, why: str, action: str, code: int) -> None:
    done = _process(action, to)
    text = f"error: the JSON result cannot be written to stdout: {why}. "
    text += "The work is done; to see the result, redirect stdout and run the command again.\n"
    assert (done.returncode, done.stdout, done.stderr) == (code, "", text if code else "")


@pytest.mark.parametrize("to", ["2>&-", "2>/dev/full", "1>&- 2>&- <&-"])
def test_a_lost_error_line_keeps_the_exit_code(to: str) -> None:
    log = "terminal.set_logging(0, quiet=False); import logging; logging.getLogger('vae_anomaly').warning('w'); "
    done = _process(f"{log}print(sys.stderr.isatty(), sys.stdout.writable()); raise DataError('no')", to)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == ("" if "1>" in to else "False True\n")


def test_files_opened_later_do_not_get_the_descriptor_of_a_closed_stream() -> None:
    done = _process("import os; sys.exit(os.open('pyproject.toml', os.O_RDONLY))", "1>&- 2>&-")
    assert done.returncode > 2


@pytest.mark.parametrize(("as_json", "said"), [("False", "\\xfc \\u2265\n"), ("True", '{"a": "\\u00fc"}\n')])
def test_characters_that_stdout_cannot_encode_are_escaped(as_json: str, said: str) -> None:
    done = _process(f"terminal.show({{'a': 'ü'}}, lambda: 'ü ≥', as_json={as_json})", "", encoding="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def _command(action: str, to: str) -> list[str]:
    code = (
        "import sys; from vae_anomaly.cli import terminal; from vae_anomaly.errors import DataError\n"
        "terminal.protect_standard_streams()\n"
        f"with terminal.exit_codes(as_json=False): {action}"
    )
    return ["sh", "-c", f'exec "$0" -c "$1" {to}', sys.executable, code]


def _process(action: str, to: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(_command(action, to), cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_stdout_that_lost_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w", encoding="utf-8") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", out)
        terminal.protect_standard_streams()
        sys.stdout.write("written\n")
        sys.stdout.flush()
        assert (terminal.stdout_loss(), sys.stdout.isatty(), sys.stdout.fileno()) == ("", False, out.fileno())
    assert terminal.stdout_loss() == ""  # a stream that is not protected records nothing
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "written\n"
