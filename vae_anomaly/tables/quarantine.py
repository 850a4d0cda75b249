"""``<output>.quarantine.csv``: the rows that were left out of an output, why, and what they say.

Grows beside what a killed job has finished and takes its name when the output is whole. The same rows give the same bytes, however often
the job was killed: it goes on at the byte that goes with the finished rows. Knows nothing about how rows are found to be bad.
"""

import os
from pathlib import Path

from vae_anomaly.storage.atomic import sync_folder, writing
from vae_anomaly.tables.csv_rejects import Rejected
from vae_anomaly.tables.writer import harmless_text, quoted_text

COLUMNS = ("row", "file", "row_in_file", "reason", "text")


def quarantine_path(output: Path) -> Path:
    """Return where the rows lie that were left out of an output."""
    return output.with_name(f"{output.name}.quarantine.csv")


class Quarantine:
    """The rows of one output, written in ``folder`` until it is whole; ``size`` are the bytes so far."""

    def __init__(self, output: Path, folder: Path, *, size: int, escape: bool) -> None:
        self._output = output
        self._escape = escape
        self._growing = folder / QUARANTINE
        self.size = size
        with writing(quarantine_path(output)):
            self._file = self._growing.open("r+b" if self._growing.exists() else "w+b")
            self._file.truncate(size)
            self._file.seek(size)

    def add(self, rejected: Rejected) -> None:
        """Write one row; whole numbers as they are, texts so that no spreadsheet takes them for formulas."""
        if not self.size:
            self._write(",".join(COLUMNS))
        file, reason, text = (harmless_text(t) if self._escape else t for t in (rejected.file, rejected.reason, rejected.text))
        cells = (str(rejected.number), quoted_text(file), str(rejected.row), quoted_text(reason), quoted_text(text))
        self._write(",".join(cells))

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        with writing(quarantine_path(self._output)):
            self._file.flush()
            os.fsync(self._file.fileno())

    def place(self) -> Path | None:
        """Give the file its name, in one step; where there is no row there is no file, and none stays of an earlier run."""
        self.sync()
        self.close()
        path = quarantine_path(self._output)
        with writing(path):
            if self.size:
                self._growing.replace(path)
            else:
                path.unlink(missing_ok=True)
        sync_folder(path.parent)
        return path if self.size else None

    def close(self) -> None:
        """Close the file, wherever it is."""
        self._file.close()

    def _write(self, line: str) -> None:
        content = f"{line}\n".encode()
        with writing(quarantine_path(self._output)):
            self._file.write(content)
        self.size += len(content)


# The rows that were left out so far; what is in it counts only with finished rows.
QUARANTINE = "quarantine.csv"
