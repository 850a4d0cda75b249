"""Everything this package raises on purpose, each with the exit code of the command line.

Knows nothing about files, models or the terminal. The tree:

    VaeAnomalyError                      exit code
    ├── ConfigError                      2   an option or a key of the config is unknown or out of range
    ├── DataError                        3   not found, unreadable, empty, truncated
    │   ├── SchemaMismatch                   a column is missing or of another type
    │   │   └── BadCell                      so is one cell; says which row
    │   └── TooFewRows                       says how many are needed, and for what
    ├── NotCalibrated                    4   flags asked of a detector without a threshold that allows them
    ├── ArtifactError                    5   model, version or alias not found
    │   ├── UnknownFormat                    written by a newer version
    │   └── DamagedArtifact                  a digest or a field differs from what was saved
    ├── MissingExtra                     6   pip install 'vae-anomaly[cloud]'
    ├── OutputError                      7   exists, read-only, disk full
    ├── TrackingError                    8   the MLflow server or store refused
    └── Interrupted                      130 by Ctrl-C or SIGTERM, after what was done was kept

A message is one line: what, expected, got, where, do this.
"""

from collections.abc import Sequence
from typing import ClassVar


class VaeAnomalyError(Exception):
    """Root of all errors that the package raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class ConfigError(VaeAnomalyError):
    """An option or a key of the configuration is unknown or out of range."""

    exit_code = 2


class DataError(VaeAnomalyError):
    """The input is not there, cannot be read, or holds no usable rows."""

    exit_code = 3


class SchemaMismatch(DataError):
    """A column is missing or has another type than the model was fitted on."""


class BadCell(SchemaMismatch):
    """A cell that does not fit its column, in the row at place ``row`` (from 0) of ``where``; ``ways`` are what can be done about it.

    Texts count rows of a file from 1, as its readers do, and say so; of a text file they name the ``line`` as well, where it is known.
    """

    def __init__(self, said: str, *, where: str, row: int, ways: Sequence[str], line: int | None = None) -> None:
        self.said, self.where, self.row, self.ways = said, where, row, tuple(ways)
        counted = "counted from 1" if line is None else f"line {line:,}"
        do = ", ".join(self.ways[:-1]) + (", or " if len(self.ways) > 1 else "") + self.ways[-1]
        super().__init__(f"{said} in {where} row {row + 1:,} ({counted}). {do}.")


class TooFewRows(DataError):
    """Fewer rows than the request needs; the text says how many are needed and what is possible."""


class NotCalibrated(VaeAnomalyError):
    """The stored calibration does not allow what was asked of it."""

    exit_code = 4


class ArtifactError(VaeAnomalyError):
    """The model, its version or its alias was not found, or the folder is not an artifact."""

    exit_code = 5


class UnknownFormat(ArtifactError):
    """The artifact was written by a newer version of this package."""


class DamagedArtifact(ArtifactError):
    """A file of the artifact differs from its digest, is missing, or holds an impossible value."""


class MissingExtra(VaeAnomalyError):
    """An optional dependency is not installed; the text says what to type."""

    exit_code = 6


class OutputError(VaeAnomalyError):
    """The output exists, cannot be written, or the disk is full."""

    exit_code = 7


class TrackingError(VaeAnomalyError):
    """The MLflow server or store could not be reached or refused the request."""

    exit_code = 8


class Interrupted(VaeAnomalyError):
    """Somebody asked to stop, and what was done is kept; the text says how to go on."""

    exit_code = 130
