"""Lines, lists and tables of plain text, as the summaries are made of.

Knows nothing about what they say.
"""

from collections.abc import Iterable, Sequence

NAMES_SHOWN = 10


def count(number: int, what: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def cut(names: Iterable[str], between: str = ", ") -> str:
    """At most ten names, and how many more there are."""
    listed = list(names)
    more = len(listed) - NAMES_SHOWN
    return between.join(listed[:NAMES_SHOWN]) + (f"{between}and {more:,} more" if more > 0 else "")


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of 'name   words'; a fact without words is left out."""
    return [f"  {name:<13}{words}" for name, words in pairs if words]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


def next_steps(steps: Sequence[str]) -> list[str]:
    """What to type next, under its heading."""
    return ["", "Next:", *(f"  {step}" for step in steps)] if steps else []


def text(lines: Iterable[str]) -> str:
    """Lines as one text."""
    return "\n".join(lines)
