"""The characters of a delimited file as UTF-8 bytes, in pieces; knows nothing about cells and records.

What is no text of the encoding stays in the bytes as what is no UTF-8 either, so that whoever reads the cell can say where it stands.
"""

import codecs
from typing import Protocol

_PIECE = 1 << 20  # bytes read at a time


class Bytes(Protocol):
    """Whatever bytes can be read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


class Utf8:
    """A stream of bytes as UTF-8."""

    def __init__(self, stream: Bytes, encoding: str) -> None:
        name = codecs.lookup(encoding).name
        self._errors = "surrogatepass" if name.startswith(("utf-16", "utf-32")) else "surrogateescape"
        self._decoder = None if name == "utf-8" else codecs.getincrementaldecoder(encoding)(self._errors)
        self._stream = stream
        self._ready = b""
        self._ended = False

    def read(self, size: int = _PIECE, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""
        while not self._ready and not self._ended:
            piece = self._stream.read(size)
            self._ended = not piece
            self._ready = self._transcoded(piece)
        piece, self._ready = self._ready[:size], self._ready[size:]
        return piece

    def _transcoded(self, piece: bytes) -> bytes:
        if self._decoder is None:
            return piece
        try:
            return self._decoder.decode(piece, self._ended).encode("utf-8", self._errors)
        except UnicodeDecodeError:
            # Half a character at the end of UTF-16: no error handler lets it through.
            return self._decoder.decode(piece).encode("utf-8", self._errors) + b"\xff"
