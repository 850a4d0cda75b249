"""A file that Arrow reads through Python and that never gives, or asks memory for, more than there is.

A stream of Arrow says how long its next message is, and Arrow asks for that much memory before it reads: sixteen bytes could ask for two
gigabytes.
"""

import os

import pyarrow as pa


class Clipped:
    """The reading half of a Python file over an Arrow one of ``size`` bytes."""

    def __init__(self, file: pa.NativeFile, size: int) -> None:
        self._file, self._size, self.closed = file, size, False

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, fewer at the end."""
        left = max(0, self._size - self._file.tell())
        return bytes(self._file.read(left if size < 0 else min(size, left)))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._size}[whence]
        return int(self._file.seek(min(max(0, start + offset), self._size)))

    def tell(self) -> int:
        """Return the place."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file beneath."""
        self.closed = True
        self._file.close()
