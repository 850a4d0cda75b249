"""Which rows carry a label that means normal.

Knows nothing about models and scores. A label is compared as lower-case text: 0, 0.0 and '0' are one label, an empty or missing
one is ''.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.core.keys import distinct
from vae_anomaly.errors import DataError

# Labels named in an error text; a column that is no label column has thousands.
NAMED_AT_MOST = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Labels of ``n`` rows: ``names`` the different ones, ``code`` int64 ``[n]`` the place in them, ``normal`` bool ``[n]``."""

    names: tuple[str, ...]
    code: NDArray[np.int64]
    normal: NDArray[np.bool_]

    def counts(self) -> dict[str, int]:
        """Return label → number of rows, the most frequent first."""
        count = np.bincount(self.code, minlength=len(self.names))
        order = sorted(range(len(self.names)), key=lambda i: (-count[i], self.names[i]))
        return {self.names[i]: int(count[i]) for i in order if count[i]}

    def where(self, rows: NDArray[np.bool_]) -> "Labels":
        """Return the labels of the chosen rows."""
        return Labels(names=self.names, code=self.code[rows], normal=self.normal[rows])


def read_labels(column: pa.ChunkedArray | pa.Array, normal_labels: Sequence[str], name: str = "label") -> Labels:
    """Read a label column of any type but nested ones, which raise DataError with its ``name``.

    >>> read_labels(pa.array([0.0, 1.0, None]), ("0", "")).normal.tolist()
    [True, False, True]
    """
    values, places = distinct(column, name)
    texts = [text_of(value) for value in values]
    names = tuple(dict.fromkeys(texts))
    place = np.array([names.index(text) for text in texts], dtype=np.int64)
    wanted = {label.strip().lower() for label in normal_labels}
    is_normal = np.array([name.lower() in wanted for name in names], dtype=np.bool_)
    code = place[places]
    return Labels(names=names, code=code, normal=is_normal[code])


def text_of(value: object) -> str:
    """One label as text; NaN is a missing one."""
    if value is None or value != value:  # noqa: PLR0124  # only NaN differs from itself
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def refuse_without_normal(labels: Labels, column: str, normal_labels: Sequence[str]) -> None:
    """Raise DataError that lists the labels found when no row is normal."""
    if not labels.normal.any():
        raise DataError(
            f"no row is normal: column {column!r} holds {named(labels.counts())}; normal means {_wanted(normal_labels)}. "
            "Name your normal labels with --normal-label."
        )


def refuse_one_class(labels: Labels, column: str, normal_labels: Sequence[str]) -> None:
    """Raise DataError when rows of one of the two classes are missing, so that nothing can be compared."""
    refuse_without_normal(labels, column, normal_labels)
    if labels.normal.all():
        raise DataError(
            f"no row is anomalous: column {column!r} holds {named(labels.counts())}, and all of that means normal "
            f"({_wanted(normal_labels)}). Give rows of both classes, or other labels with --normal-label."
        )


def named(counts: dict[str, int]) -> str:
    """``'sick' (231), 'ill' (3)``, cut after a few."""
    parts = [f"{label!r} ({count:,})" for label, count in list(counts.items())[:NAMED_AT_MOST]]
    rest = len(counts) - len(parts)
    return ", ".join(parts) + (f" and {rest:,} others" if rest else "")


def _wanted(normal_labels: Sequence[str]) -> str:
    return ", ".join(repr(label) for label in normal_labels if label) + (" or empty" if "" in normal_labels else "")
