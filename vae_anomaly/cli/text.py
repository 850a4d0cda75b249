"""Lines, counts and tables of plain text, without control characters."""

import re
from collections.abc import Iterable, Sequence

from vae_anomaly.messages import shorten

# Control characters, line ends, bidirectional and invisible format characters, and surrogates (undecodable bytes of a file name): a name
# from a file must not move the cursor or hide text on a terminal.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")


def escape_controls(text: str, *, keep_newlines: bool = False) -> str:
    r"""Return the text with control characters escaped; with ``keep_newlines`` line ends stay.

    >>> escape_controls("a" + chr(27) + "[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROLS.sub(lambda match: match[0] if keep_newlines and match[0] == "\n" else _escape(match[0]), text)


def _escape(character: str) -> str:
    # Python decodes an invalid byte of a file name to a low surrogate (surrogateescape); it is shown as the byte.
    byte = ord(character) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape", "surrogatepass").decode()  # noqa: PLR2004


def short(name: str) -> str:
    """Return a name or cell escaped, and cut when long; a blank one in quotes.

    >>> short("flow"), short(" ")
    ('flow', "' '")
    """
    text = shorten(escape_controls(name))
    return text if text.strip() else f"'{text}'"


def plural(number: int, what: str) -> str:
    """Return ``1 row`` or ``2 rows``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def fact_lines(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return one line per name and text; an empty text gives no line."""
    return [f"  {name:<13}{text}" for name, text in pairs if text]


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table with columns as wide as their widest cell."""
    rows = [[escape_controls(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


def step_lines(steps: Sequence[str]) -> list[str]:
    """Return the next steps under a heading."""
    return ["", "Next:", *(f"  {step}" for step in steps)] if steps else []


def join_lines(lines: Iterable[str]) -> str:
    """Return lines as one text, each escaped."""
    return "\n".join(escape_controls(line) for line in lines)
