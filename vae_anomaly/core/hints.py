"""What to do about text where a number belongs: it depends on what the text looks like.

Knows one cell and the name of its column. Spellings only: nothing here reads a number.
"""

import re

TEXT = ("Declare it in --missing-values", "leave the column out and fit again")
HEADER = ("It is the header once more: remove that row",)
_UNITS = ("If that row holds the units, remove it",)

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_THREE_BEHIND_A_COMMA = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
# Points or commas, or blanks and apostrophes as in Switzerland; the same one throughout.
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?P<mark>[ \u00a0\u202f'\u2019.,])\d{3}(?:(?P=mark)\d{3})*(?:(?!(?P=mark))(?P<decimal>[.,])\d+)?")
# '0xFF' and '5e' are no units.
_WITH_UNIT = re.compile(
    r"([+-]?(?:\d+(?:[.,]\d+)?|[.,]\d+))\s*(?![xXeE][0-9A-Fa-f]*$)(?:[^\W\d_]|[°%‰])(?:[^\s\d]|(?<!\d)[234](?!\d)){0,9}"
)
_BRACKETED = re.compile(r"\[[^\]\d]{0,12}\d?\]|\([^)\d]{1,12}\d?\)")
_UNIT_NAMES = re.compile(
    r"°[CFK]|degC|K|%|‰|m?bar|[kMh]?Pa|psi|(l|m3|m³|kg|t)/(h|s|min)|k?g|[cmk]?m|m?m/s|(rpm|[1U]/min)|[kM]?Hz|[mk]?[VA]|[kM]?Wh?|m?s|min|h|k?Nm?|dB|ppm",
    re.IGNORECASE,
)


def ways(cell: str, column: str) -> tuple[str, ...]:
    """Return what can be done about a cell that is no number.

    >>> ways("1,5", "flow"), ways("n/a", "flow")
    (('Write such numbers with a decimal point (1.5)',), ('Declare it in --missing-values', 'leave the column out and fit again'))
    """
    text = cell.strip()
    if text == column.strip():
        return HEADER
    if _UNIT_NAMES.fullmatch(text) or _BRACKETED.fullmatch(text):
        return _UNITS
    return _respelled(text) or TEXT


def _respelled(text: str) -> tuple[str, ...]:
    """Return how a number would be read; nothing where there is none in the text."""
    if _THREE_BEHIND_A_COMMA.fullmatch(text):
        point, none = text.replace(",", "."), text.replace(",", "")
        return (f"A comma may be a decimal mark or part thousands, so it is read as neither: write {point} or {none}",)
    if _DECIMAL_COMMA.fullmatch(text):
        return (f"Write such numbers with a decimal point ({text.replace(',', '.')})",)
    parted = _THOUSANDS.fullmatch(text)
    if parted:
        whole = text.replace(parted["mark"], "")
        point = whole.replace(",", ".") if parted["decimal"] else whole
        return (f"Write such numbers without a mark between the thousands ({point})",)
    unit = _WITH_UNIT.fullmatch(text)
    return (f"Write the number without its unit ({unit[1].replace(',', '.')})",) if unit else ()
