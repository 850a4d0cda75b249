"""Exceptions of the package, each with the exit code of the command line.

    VaeAnomalyError                      exit code
    ├── ConfigError                      2   unknown or invalid option or configuration key
    ├── DataError                        3   input not found, unreadable, empty or truncated
    │   ├── SchemaMismatch                   missing column, or column of another type than at fit
    │   │   └── BadCell                      cell of another type than its column; names the row
    │   └── TooFewRows                       too few rows; states how many are needed and for what
    ├── NotCalibrated                    4   the stored calibration does not support the request
    ├── ArtifactError                    5   model, version or alias not found
    │   ├── UnknownFormat                    written by a newer version of the package
    │   └── DamagedArtifact                  digest or field differs from what was saved
    ├── MissingExtra                     6   optional package not installed: pip install 'vae-anomaly[cloud]'
    ├── OutputError                      7   output exists, is in use or read-only, or the disk is full
    ├── TrackingError                    8   MLflow server or store unreachable, or request refused
    └── Interrupted                      130 stopped by Ctrl-C or SIGTERM; completed work is kept

A message is one line: what, expected, got, where, what to do.
"""

from collections.abc import Sequence
from typing import ClassVar


class VaeAnomalyError(Exception):
    """Base class of all exceptions of the package; ``exit_code`` is the exit code of the command line."""

    exit_code: ClassVar[int] = 1


class ConfigError(VaeAnomalyError):
    """An option or a configuration key is unknown, of the wrong type or out of range."""

    exit_code = 2


class DataError(VaeAnomalyError):
    """The input does not exist, cannot be read, or has no usable rows."""

    exit_code = 3


class SchemaMismatch(DataError):
    """A column is missing, or has another type than at fit."""


class BadCell(SchemaMismatch):
    """A cell has another type than its column. ``row`` is its index in ``where``, from 0; ``remedies`` say what to do about it.

    The message counts rows from 1 and says so, or names the ``line`` of a text file if it is known.
    """

    def __init__(self, problem: str, *, where: str, row: int, remedies: Sequence[str], line: int | None = None) -> None:
        self.problem, self.where, self.row, self.remedies = problem, where, row, tuple(remedies)
        counted = "counted from 1" if line is None else f"line {line:,}"
        actions = ", ".join(self.remedies[:-1]) + (", or " if len(self.remedies) > 1 else "") + self.remedies[-1]
        super().__init__(f"{problem} in {where} row {row + 1:,} ({counted}). {actions}.")


class TooFewRows(DataError):
    """There are fewer rows than the request needs; the message states how many are needed and what is possible."""


class NotCalibrated(VaeAnomalyError):
    """The stored calibration does not support the request."""

    exit_code = 4


class ArtifactError(VaeAnomalyError):
    """The model, version or alias does not exist, or the folder is not an artifact."""

    exit_code = 5


class UnknownFormat(ArtifactError):
    """The artifact was written by a newer version of this package."""


class DamagedArtifact(ArtifactError):
    """A file of the artifact is missing, differs from its digest, or has an invalid value."""


class MissingExtra(VaeAnomalyError):
    """An optional dependency is not installed; the message has the pip command."""

    exit_code = 6


class OutputError(VaeAnomalyError):
    """The output exists, cannot be written, or the disk is full."""

    exit_code = 7


class TrackingError(VaeAnomalyError):
    """The MLflow server or store could not be reached, or refused the request."""

    exit_code = 8


class Interrupted(VaeAnomalyError):
    """The process was interrupted; completed work is kept, and the message says how to resume."""

    exit_code = 130
