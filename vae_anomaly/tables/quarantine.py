"""Write ``<output>.quarantine.csv``: the malformed rows of an input, with reasons, which are missing from the output.

The file grows in the work folder of the job and is renamed when the output is complete. A resumed job truncates it to the size that
belongs to the finished rows, so the same rows give the same bytes however often a job was killed.
"""

import os
from pathlib import Path

from vae_anomaly.storage.atomic import sync_folder, writing
from vae_anomaly.tables.csv_rejects import Rejected
from vae_anomaly.tables.writer import escape_formula, quoted_cell

COLUMNS = ("row", "file", "row_in_file", "reason", "text")

# Name of the growing file in the work folder; only its beginning, up to the size in the last checkpoint, is valid.
QUARANTINE = "quarantine.csv"


def quarantine_path(output: Path) -> Path:
    """Return the path of the quarantine file of an output."""
    return output.with_name(f"{output.name}.quarantine.csv")


class Quarantine:
    """The quarantine file of one output, written in the work ``folder`` first; ``size`` is its length in bytes.

    Opening it truncates what is there to ``size``. ``escape``: prefix texts that a spreadsheet would take for formulas.
    """

    def __init__(self, output: Path, folder: Path, *, size: int, escape: bool) -> None:
        self._output = output
        self._escape = escape
        self._partial = folder / QUARANTINE
        self.size = size
        with writing(quarantine_path(output)):
            self._file = self._partial.open("r+b" if self._partial.exists() else "w+b")
            self._file.truncate(size)
            self._file.seek(size)

    def add(self, rejected: Rejected) -> None:
        """Append one row, after the header if it is the first."""
        if not self.size:
            self._write(",".join(COLUMNS))
        file, reason, text = (escape_formula(t) if self._escape else t for t in (rejected.file, rejected.reason, rejected.text))
        cells = (str(rejected.number), quoted_cell(file), str(rejected.row), quoted_cell(reason), quoted_cell(text))
        self._write(",".join(cells))

    def sync(self) -> None:
        """Flush and fsync."""
        with writing(quarantine_path(self._output)):
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self) -> Path | None:
        """Rename the file to its final path and return that; without rows return None and remove the file of an earlier job."""
        self.sync()
        self.close()
        path = quarantine_path(self._output)
        with writing(path):
            if self.size:
                self._partial.replace(path)
            else:
                path.unlink(missing_ok=True)
        sync_folder(path.parent)
        return path if self.size else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: str) -> None:
        content = f"{line}\n".encode()
        with writing(quarantine_path(self._output)):
            self._file.write(content)
        self.size += len(content)
