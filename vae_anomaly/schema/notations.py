"""Columns of text that are numbers in another notation: with units or currencies, in hexadecimal, with their minus behind, as JSON.

As a category each number would be a level, and nothing would say so. What a column is decides over its distinct texts that are no plain
numbers: nearly all of them have to be in the same notation, so that names such as ``A-1`` or ``5W30`` stay a category.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from vae_anomaly.messages import listed, option_names, quote, shorten_list
from vae_anomaly.schema.inference import Dropped
from vae_anomaly.schema.parsing import UNIT_NAMES, WITH_UNIT, cell_remedies, other_notation

_SHARE = 0.9  # of the texts that are in one notation; the others are states such as 'Bad'
_SHOWN = 5  # texts that a reason lists
_FEWEST = 2  # texts with an unknown unit, or that may be hexadecimal, below which they may be names
_DIGITS = r"\d[\d.,'\u00a0\u202f ]*"
_CURRENCY = r"[$€£¥₹₽]|(?:US)?\$|USD|EUR|CHF|GBP|Rs\.?|kr\.?|zł"
_BEFORE = re.compile(rf"[+\-\u2212]?\s*(?:{_CURRENCY})\s*[+\-\u2212]?\s*{_DIGITS}-?", re.IGNORECASE)
_BEHIND = re.compile(rf"[+\-\u2212]?\s*{_DIGITS}?\s*(?:{_CURRENCY})", re.IGNORECASE)
_MARK = re.compile(rf"\s*(?:{_CURRENCY})\s*", re.IGNORECASE)
_MINUS_SIGN = re.compile(r"[\u2212\u2013\u2010\u2011]\s*\d[\d.,]*(?:[eE][+-]?\d+)?")
_IN_BRACKETS = re.compile(r"\(\s*[$€£]?\d[\d.,]*\s*\)")
_FORTRAN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)[dD][+-]?\d+")
_PREFIXED_HEX = re.compile(r"(?:0[xX]|16#|\$)[0-9A-Fa-f_]+|[0-9][0-9A-Fa-f]*[hH]")
_HEX = re.compile(r"(?:[0-9A-F]{4}|[0-9A-F]{8})|(?:[0-9a-f]{4}|[0-9a-f]{8})")
_COMPLEX = re.compile(r"\(?[+-]?[\d.]+(?:[eE][+-]?\d+)?\s*[+-]\s*[\d.]+(?:[eE][+-]?\d+)?\s*\*?[ij]\)?")
_NESTED = re.compile(r"\s*(?:\{.*[:=].*\}|\[.*\]|\(.*,.*\))\s*", re.DOTALL)


def notation_reason(words: Sequence[str], *, numbers: int) -> str:
    """Return why a column is no category although it is text; empty if its texts are in no notation of numbers.

    ``words``: distinct texts that are no plain numbers, most frequent first; besides them the column has so many ``numbers``.

    >>> notation_reason(["12.5 bar", "12.7 bar"], numbers=0)
    "numbers with a unit: '12.5 bar', '12.7 bar'; write the number without its unit (12.5)"
    >>> notation_reason(["A-1", "A-2"], numbers=0)
    ''
    """
    for remedy_of, what, share in _NOTATIONS:
        remedies = [remedy_of(word) for word in words]
        found = [word for word, remedy in zip(words, remedies, strict=True) if remedy]
        if not found or len(found) < share * len(words) or (remedy_of is _hexadecimal and not _are_hexadecimal(found, numbers)):
            continue
        if remedy_of is _unit and not _share_units(found):
            continue
        remedy = next(filter(None, remedies))
        return f"{what}: {shorten_list(map(quote, found), length=_SHOWN)}; {remedy[0].lower()}{remedy[1:]}"
    return ""


def unread_cautions(dropped: Iterable[Dropped]) -> tuple[str, ...]:
    """Return a caution if columns of numbers are left out because of how they are written; then nothing in them is ever flagged."""
    unread = {column.name: column.reason for column in dropped if column.reason.startswith(_UNREAD)}
    if not unread:
        return ()
    names, reason = list(unread), next(iter(unread.values()))
    what = "holds numbers that are" if len(names) == 1 else "hold numbers that are"
    caution = (
        f"{listed(names)} {what} not read, so that no row is flagged for them; {quote(names[0])} has {reason}. "
        f"Write them so and fit again, or give --exclude {option_names(names)} if they do not matter"
    )
    return (caution,)


def _unit(text: str) -> str:
    """Return the remedy for a number with a unit behind it, empty for other text."""
    return cell_remedies(text, "")[0] if WITH_UNIT.fullmatch(text.strip()) else ""


def _share_units(texts: Sequence[str]) -> bool:
    """Whether the units of the texts are units of measurement, or one and the same for all."""
    units = {match[2].strip() for text in texts if (match := WITH_UNIT.fullmatch(text.strip()))}
    return all(UNIT_NAMES.fullmatch(unit) for unit in units) or len(units) == 1 < _FEWEST <= len(texts)


def _currency(text: str) -> str:
    cell = text.strip()
    amount = _BEFORE.fullmatch(cell) or _BEHIND.fullmatch(cell)
    return f"Write the number without its currency ({_MARK.sub('', cell)})" if amount else ""


def _minus_sign(text: str) -> str:
    cell = text.strip()
    return f"Write the minus as a hyphen (-{cell[1:].strip()})" if _MINUS_SIGN.fullmatch(cell) else ""


def _in_brackets(text: str) -> str:
    cell = text.strip()
    return f"Write negative numbers with a minus (-{cell[1:-1].strip(' $€£')})" if _IN_BRACKETS.fullmatch(cell) else ""


def _fortran(text: str) -> str:
    cell = text.strip()
    return f"Write the exponent with E ({cell.upper().replace('D', 'E')})" if _FORTRAN.fullmatch(cell) else ""


def _hexadecimal(text: str) -> str:
    cell = text.strip()
    return "Write them as decimal numbers" if _PREFIXED_HEX.fullmatch(cell) or _HEX.fullmatch(cell) else ""


def _are_hexadecimal(texts: Sequence[str], numbers: int) -> bool:
    """Whether texts are hexadecimal for certain: with a prefix, or of one length, some of digits alone and some with letters."""
    plain = [text.strip() for text in texts]
    if all(_PREFIXED_HEX.fullmatch(text) for text in plain):
        return True
    return len({len(text) for text in plain}) == 1 and numbers + sum(any(c.isdigit() for c in text) for text in plain) >= _FEWEST


def _complex(text: str) -> str:
    return "Write real and imaginary part as two columns" if _COMPLEX.fullmatch(text.strip()) else ""


def _nested(text: str) -> str:
    return "Write each of its fields as a column" if _NESTED.fullmatch(text) else ""


_OTHER = "numbers in another notation"
# Remedy of one text, empty if it is in another notation; what such a column is; share of the texts from which on it is.
_NOTATIONS: tuple[tuple[Callable[[str], str], str, float], ...] = (
    (other_notation, _OTHER, 1.0),
    (_minus_sign, _OTHER, _SHARE),
    (_in_brackets, _OTHER, _SHARE),
    (_fortran, _OTHER, _SHARE),
    (_currency, "amounts with a currency", _SHARE),
    (_unit, "numbers with a unit", _SHARE),
    (_hexadecimal, "hexadecimal numbers", _SHARE),
    (_complex, "complex numbers", _SHARE),
    (_nested, "nested values as text, such as JSON", _SHARE),
)
_UNREAD = ("numbers with text in them", *{f"{what}: " for _, what, _ in _NOTATIONS})
