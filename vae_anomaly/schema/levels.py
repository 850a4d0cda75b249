"""One value, one meaning: texts that are spellings of one level, of one label or of a missing cell.

A cell reaches the model as a number, a boolean, text or bytes, as its file and its writer had it. Two spellings are one level if their
``level_key`` is the same: blanks around a text, the digits of a number and the case of a boolean do not count. Leading zeros do: ``007``
is a code, not the number 7.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly.schema import parsing

# Whole numbers stay exact at any length; '1.0' is whole, '007' and '1,000' (one or a thousand?) are text.
_WHOLE = re.compile(r"([+-]?)(0|[1-9]\d*)(?:[.,]0*)?")
_DECIMAL = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
# Pairs of levels of a boolean; every spelling of one of the first is the level at its index.
_WORDS = {"f": "false", "t": "true", "n": "no", "y": "yes"}
# Relative distance, in steps from 0 to 1, at which a number is still 0 or 1: the precision of float32.
NEAR = 1e-6


def level_key(text: str) -> str:
    """Return the form that all spellings of one level share.

    >>> level_key(" 1.0 "), level_key("1e0"), level_key("0,50"), level_key("007"), level_key("auto\\0")
    ('1', '1', '0.5', '007', 'auto')
    """
    plain = text.rstrip("\0").strip()
    whole = None if _THOUSANDS.fullmatch(plain) else _WHOLE.fullmatch(plain)
    if whole:
        return ("-" if whole[1] == "-" and whole[2] != "0" else "") + whole[2]
    if not _DECIMAL.fullmatch(plain) or _THOUSANDS.fullmatch(plain):
        return plain
    value = float(plain.replace(",", "."))
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def label_key(text: str) -> str:
    """Return the form that all spellings of one label or group share: also false is 0 and true is 1, in any case.

    >>> label_key("0.000"), label_key("FALSE"), label_key("Leak"), label_key("True")
    ('0', '0', 'Leak', '1')
    """
    key = level_key(text)
    return {"false": "0", "true": "1"}.get(key.lower(), key)
