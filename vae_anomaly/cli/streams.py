"""Standard streams whose writes never raise; what stdout could not write is recorded.

A closed stream, a full disk, a reader that exited, or a character that the terminal cannot encode must not change the exit code of
completed work.
"""

import io
import os
import sys
from typing import Any, TextIO


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
