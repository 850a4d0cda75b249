"""Numbers as options are given: with a point, whatever the language of the machine."""

import typer


def number(text: str) -> float:
    """Return the number that a text is. Raises BadParameter, which says how it is written where it has a comma.

    >>> number("0.05")
    0.05
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        meant = float(text.replace(",", ".", 1))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number; expected one such as 0.05") from None
    raise typer.BadParameter(f"{text!r} is no number; write it with a point: {meant:g}")
