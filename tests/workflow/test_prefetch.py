import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from vae_anomaly.workflow.prefetch import ahead


def threads() -> int:
    return sum(thread.name == "ahead" for thread in threading.enumerate())


def test_the_items_are_those_of_the_iterator_in_order() -> None:
    assert list(ahead(iter(range(1000)))) == list(range(1000))
    assert list(ahead(iter(()))) == []
    assert threads() == 0


def test_it_is_at_most_so_far_ahead() -> None:
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        for i in range(1, 100):
            made = i
            yield i

    with closing(ahead(items(), depth=2)) as found:
        assert next(found) == 1
        time.sleep(0.2)
        assert made == 4  # two wait, and one is made that waits for room
    assert threads() == 0


def test_it_works_while_somebody_else_does() -> None:
    def slow() -> Iterator[int]:
        for i in range(5):
            time.sleep(0.1)
            yield i

    start = time.monotonic()
    for _ in ahead(slow()):
        time.sleep(0.1)
    assert time.monotonic() - start < 0.9  # one after the other it is a second


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_comes_where_its_item_would_have(error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise error

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(type(error)) as caught:
        next(found)
    assert caught.value is error
    assert threads() == 0


def test_whoever_leaves_early_leaves_no_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    def leave() -> None:
        with closing(ahead(ahead(endless()))) as found:
            next(found)
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    end = time.monotonic() + 10  # the inner one ends with the last reference to it
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert threads() == 0
