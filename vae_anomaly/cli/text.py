"""Lines, lists and tables of plain text, as the summaries are made of.

Knows nothing about what they say.
"""

import re
from collections.abc import Iterable, Sequence

from vae_anomaly.messages import NAMES_SHOWN

# Characters of a name or cell; longer ones are cut.
LONGEST_LIST = 60
# What moves the cursor, ends a line or turns the direction of writing, and bytes of names that are no text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")


def visible(text: str, *, ends: bool = False) -> str:
    r"""The text with an escape for each character that a terminal would obey and not show; with ``ends`` its line ends stay.

    >>> visible("a" + chr(27) + "[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROLS.sub(lambda found: found[0] if ends and found[0] == "\n" else _escape(found[0]), text)


def _escape(character: str) -> str:
    # Python keeps a byte that is no text as half a character.
    byte = ord(character) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape", "surrogatepass").decode()  # noqa: PLR2004


def short(name: str) -> str:
    """A name or cell, visible and cut when long."""
    seen = visible(name)
    return seen if len(seen) <= LONGEST_LIST else f"{seen[: LONGEST_LIST - 1]}…"


def count(number: int, what: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def cut_list(names: Iterable[str], between: str = ", ") -> str:
    """At most ten names, and how many more there are."""
    listed = list(names)
    more = len(listed) - NAMES_SHOWN
    return between.join(listed[:NAMES_SHOWN]) + (f"{between}and {more:,} more" if more > 0 else "")


def fact_lines(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of 'name   words'; a fact without words is left out."""
    return [f"  {name:<13}{words}" for name, words in pairs if words]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


def step_lines(steps: Sequence[str]) -> list[str]:
    """What to type next, under its heading."""
    return ["", "Next:", *(f"  {step}" for step in steps)] if steps else []


def paragraphs(lines: Iterable[str]) -> str:
    """Lines as one text."""
    return "\n".join(visible(line) for line in lines)
