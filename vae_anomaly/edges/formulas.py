"""Text that a spreadsheet would take for a formula, made harmless by an apostrophe in front.

A cell of a CSV that begins with = + - @, a tab or a carriage return may run commands when it is opened; quotes do not help. See OWASP,
*CSV Injection*, and CWE-1236. A text that is a plain number (-5, +49) is no formula and stays as it is.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

# The full-width forms are what some spreadsheets read as the same signs.
_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"
_NUMBER = r"^[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?$"


def harmless(text: pa.Array) -> pa.Array:
    """Return the texts with an apostrophe in front of those that could be formulas.

    >>> harmless(pa.array(["=1+1", "-5", "a"])).to_pylist()
    ["'=1+1", '-5', 'a']
    """
    formula = pc.match_substring_regex(text, _FORMULA)
    if not pc.any(formula).as_py():
        return text
    formula = pc.and_not(formula, pc.match_substring_regex(text, _NUMBER))
    return pc.if_else(formula, pc.binary_join_element_wise("'", text, ""), text)


def harmless_text(text: str) -> str:
    """Return a single text likewise.

    >>> harmless_text("@SUM(A1)")
    "'@SUM(A1)"
    """
    return f"'{text}" if re.search(_FORMULA, text) and not re.fullmatch(_NUMBER, text) else text
