"""How results are laid out for people: facts, tables, lists that are cut.

Knows texts only; prints nothing. Lists are cut after ten names, so that 5,000 columns still fit on a screen.
"""

from collections.abc import Iterable, Sequence

NAMES_SHOWN = 10


def cut(names: Iterable[str], between: str = ", ") -> str:
    """At most ten names, and how many more there are."""
    listed = list(names)
    more = len(listed) - NAMES_SHOWN
    return between.join(listed[:NAMES_SHOWN]) + (f"{between}and {more:,} more" if more > 0 else "")


def facts(found: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of 'name   words'; a fact without words is left out."""
    return [f"  {name:<13}{words}" for name, words in found if words]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay cells out in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


def next_steps(steps: Sequence[str]) -> list[str]:
    """Lay out what to type next."""
    return ["", "Next:", *(f"  {step}" for step in steps)] if steps else []


def text(lines: Iterable[str]) -> str:
    """Put lines together."""
    return "\n".join(lines)
