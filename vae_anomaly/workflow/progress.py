"""How a verb says how far it is; knows nothing about who listens."""

from collections.abc import Callable

# What is being done, how many units of it are done, and how many there are (None: not known).
Tell = Callable[[str, int, int | None], None]


def tell_nobody(_stage: str, _done: int, _total: int | None) -> None:
    """Drop progress; the default of every verb."""
