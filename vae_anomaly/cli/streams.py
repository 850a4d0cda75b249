"""stdout and stderr of the process, made so that writing to them never fails; what stdout has lost is known.

A stream that is closed, a full disk behind it, a reader that has gone, or a character that the terminal does not have must not change the
exit code of work that is done.
"""

import io
import os
import sys
from typing import Any, TextIO


class Lasting(io.RawIOBase):
    """A stream of bytes that takes whatever is written; ``lost`` says why it could not be handed on, empty while nothing was lost.

    A reader that has gone (``| head``) wants no more, and loses nothing.
    """

    def __init__(self, raw: Any, lost: str = "") -> None:
        self._raw, self.lost, self._ended = raw, lost, bool(lost)

    def write(self, data: Any) -> int:
        """Hand bytes on until that fails; the rest would have a hole before it."""
        if self._ended:
            return len(data)
        try:
            written: int | None = self._raw.write(data)
        except OSError as error:
            self._end("" if isinstance(error, BrokenPipeError) else error.strerror or str(error))
            return len(data)
        if written is None:
            self._end("its reader is too slow, and it was set not to wait")
        return len(data) if written is None else written

    def _end(self, lost: str) -> None:
        self._ended, self.lost = True, lost

    def writable(self) -> bool:
        """Whether it can be written to: always."""
        return True

    def fileno(self) -> int:
        """Return the handle of the stream beneath."""
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        """Whether the stream beneath is a terminal."""
        return bool(self._raw.isatty())


def make_lasting() -> None:
    """Replace stdout and stderr of this process by such whose writes never fail; characters that they lack are written as escapes."""
    sys.stdout = _lasting(sys.stdout, 1)
    sys.stderr = _lasting(sys.stderr, 2)


def lost() -> str:
    """Return why stdout has lost something; empty: it has lost nothing."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, Lasting) else ""


def _lasting(stream: TextIO | None, handle: int) -> TextIO:
    if stream is None:  # closed when we began
        raw, encoding, is_terminal = Lasting(_nowhere(handle), lost="it is closed"), "utf-8", False
    else:
        buffer = stream.buffer
        raw, encoding, is_terminal = Lasting(getattr(buffer, "raw", buffer)), stream.encoding, stream.isatty()
    lines = handle == 2 or is_terminal  # noqa: PLR2004  # stderr
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=lines)


def _nowhere(handle: int) -> Any:
    """Open what takes everything, also under the handle if that is free: a database that got it would be written over by what prints."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.fstat(handle)
    except OSError:
        os.dup2(nowhere, handle)
    return open(nowhere, "wb", buffering=0)  # noqa: PTH123  # a handle, for as long as the process lasts
