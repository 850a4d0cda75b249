"""How names, cells, rates and progress are written in messages."""

import difflib
from collections.abc import Callable, Iterable, Sequence

NAMES_SHOWN = 10  # names in one error line
BEGINNING = 3  # letters that two names must begin with to be taken for one


def listed(names: Iterable[str]) -> str:
    """Return quoted names, the first ten and how many more."""
    quoted = [quote(n) for n in names]
    more = len(quoted) - NAMES_SHOWN
    return ", ".join(quoted[:NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return ``name`` quoted, with its nearest match among ``names`` if there is one.

    A name that begins as the other one comes before names with as many other letters: ``temp`` is ``temperature``, not ``timestamp``.
    """
    lower, asked = {n.lower(): n for n in reversed(names)}, name.lower()
    begun = [n for n in lower if len(min(n, asked, key=len)) >= BEGINNING and (n.startswith(asked) or asked.startswith(n))]
    near = sorted(begun, key=lambda n: abs(len(n) - len(asked)))[:1] or difflib.get_close_matches(asked, lower, n=1)
    return f"{quote(name)} (did you mean {quote(lower[near[0]])}?)" if near else quote(name)


def absent_text(absent: Sequence[str], names: Sequence[str]) -> str:
    """Return the absent names with close matches and the names there are, for the end of an error."""
    # Matching is quadratic in the columns: only what is shown is matched.
    shown = ", ".join(did_you_mean(n, names) for n in absent[:NAMES_SHOWN])
    more = f" and {len(absent) - NAMES_SHOWN:,} more" if len(absent) > NAMES_SHOWN else ""
    return f"{shown}{more}. " + (f"Columns there: {listed(names)}." if names else "It has no columns at all.")


QUOTED_LENGTH = 60  # characters of a cell or name in an error


def quote(text: str) -> str:
    """Return a name or cell as an error shows it: quoted, on one line, cut when long.

    >>> quote("n/a")
    "'n/a'"
    """
    return repr(text if len(text) <= QUOTED_LENGTH else text[: QUOTED_LENGTH - 1] + "…")


def percent(share: float) -> str:
    """Write a share as per cent with three significant digits.

    >>> percent(0.01), percent(0.0123456)
    ('1 %', '1.23 %')
    """
    return f"{100 * share:.3g} %"


# Progress: what is being done, how many units of it are done, and how many there are (None: not known).
Tell = Callable[[str, int, int | None], None]


def tell_nobody(_stage: str, _done: int, _total: int | None) -> None:
    """Drop progress; the default of every verb."""
