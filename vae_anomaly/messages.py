"""How names, cells, lists, rates and errors are written in messages, and the type of a progress callback."""

import difflib
import shlex
from collections.abc import Callable, Iterable, Sequence

from vae_anomaly.redaction import redacted

BATCH_MATTERS = "on this processor the last digits of a score can depend on the rows that are scored with it"
NAMES_SHOWN = 10  # items of one list; a table can have thousands of columns
QUOTED_LENGTH = 60  # characters of one cell or name; free text and JSON are longer than a line
ERROR_LENGTH = 300  # characters of another library's error; a server may answer with a whole page
PREFIX_LENGTH = 3  # a shorter prefix fits too many names to suggest one of them


def shorten(text: str, length: int = QUOTED_LENGTH) -> str:
    """Return the text cut to at most ``length`` characters, the last of them an ellipsis if anything was cut.

    >>> shorten("temperature", 8), shorten("flow", 8)
    ('tempera…', 'flow')
    """
    return text if len(text) <= length else text[: length - 1] + "…"


def quote(text: str) -> str:
    """Return a name or cell as an error shows it: quoted, on one line, cut when long.

    >>> quote("n/a")
    "'n/a'"
    """
    return repr(shorten(text))


def shorten_list(items: Iterable[str], separator: str = ", ", length: int = NAMES_SHOWN) -> str:
    """Return the first ``length`` items joined, and the number of the others.

    >>> shorten_list(["a", "b", "c"], length=2)
    'a, b and 1 more'
    """
    texts = list(items)
    more = len(texts) - length
    return separator.join(texts[:length]) + (f" and {more:,} more" if more > 0 else "")


def listed(names: Iterable[str]) -> str:
    """Return the names quoted, the first ten and the number of the others."""
    return shorten_list([quote(name) for name in names])


def option_names(names: Iterable[str]) -> str:
    """Return names as the value of an option that takes several of them, quoted for a shell.

    >>> print(option_names(["TWF", "b,c"]), option_names(["flow"]))
    'TWF,"b,c"' flow
    """
    cells = ('"{}"'.format(name.replace('"', '""')) if any(mark in name for mark in ',"\n') else name for name in names)
    return shlex.quote(",".join(cells))


def nearest(name: str, names: Sequence[str]) -> str | None:
    """Return the name that ``name`` was probably meant to be, ignoring case; None if none is similar.

    A name that starts with the other one is preferred to names of similar spelling: ``temp`` is ``temperature``, not ``timestamp``.
    """
    by_lower, lower = {n.lower(): n for n in reversed(names)}, name.lower()
    prefixed = [n for n in by_lower if len(min(n, lower, key=len)) >= PREFIX_LENGTH and (n.startswith(lower) or lower.startswith(n))]
    similar = sorted(prefixed, key=lambda n: abs(len(n) - len(lower)))[:1] or difflib.get_close_matches(lower, by_lower, n=1)
    return by_lower[similar[0]] if similar else None


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return ``name`` quoted, with the ``nearest`` of ``names`` if there is one."""
    near = nearest(name, names)
    return quote(name) if near is None else f"{quote(name)} (did you mean {quote(near)}?)"


def absent_text(absent: Sequence[str], names: Sequence[str]) -> str:
    """Return the absent names with suggestions and the columns that exist, as the end of an error."""
    # Matching is quadratic in the columns: only the names that are shown are matched.
    suggested = [did_you_mean(name, names) for name in absent[:NAMES_SHOWN]]
    columns = f"Available columns: {listed(names)}." if names else "It has no columns."
    return f"{shorten_list([*suggested, *absent[NAMES_SHOWN:]])}. {columns}"


def one_line(text: object) -> str:
    """Return an error or its text as part of a sentence: on one line, cut when long, without secrets and the full stop."""
    return shorten(redacted(" ".join(str(text).split())), ERROR_LENGTH).rstrip(".")


def about_seconds(seconds: float) -> str:
    """Return a duration in the unit that people would use: ``80 seconds``, ``5 minutes``, ``3 hours``, ``2 days``.

    >>> about_seconds(290.0)
    '5 minutes'
    """
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def percent(share: float) -> str:
    """Return a share as per cent with three significant digits.

    >>> percent(0.01), percent(0.0123456)
    ('1 %', '1.23 %')
    """
    return f"{100 * share:.3g} %"


# Called with the stage, the units of work done and their total (None: unknown).
OnProgress = Callable[[str, int, int | None], None]


def ignore_progress(_stage: str, _done: int, _total: int | None) -> None:
    """Ignore progress; the default of every workflow."""
