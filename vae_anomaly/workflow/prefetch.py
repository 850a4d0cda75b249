"""An iterator that works in a thread of its own, a bounded number of items ahead, so that reading, computing and writing overlap.

Knows nothing about what the items are. Order and items are those of the iterator itself.
"""

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")
# While it waits for room, a thread looks so often (seconds) whether anybody still wants what it has.
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _End:
    """The last item; with the error that ended the iterator, if one did."""

    error: BaseException | None = None


def ahead(items: Iterator[_T], *, depth: int = 1) -> Generator[_T, None, None]:
    """Yield the items of an iterator that is at most ``depth`` finished items ahead; what it raises is raised here, in its place.

    Let it come to its end or close it: then its thread has ended too.
    """
    done: queue.Queue[_T | _End] = queue.Queue(depth)
    stop = threading.Event()
    worker = threading.Thread(target=_work, args=(items, done, stop), name="ahead", daemon=True)
    worker.start()
    try:
        while not isinstance(item := done.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        worker.join()


def _work(items: Iterator[_T], done: "queue.Queue[_T | _End]", stop: threading.Event) -> None:
    try:
        for item in items:
            if not _handed_over(item, done, stop):
                return
        _handed_over(_End(), done, stop)
    except BaseException as error:  # noqa: BLE001  # it is raised where the items are wanted
        _handed_over(_End(error), done, stop)


def _handed_over(item: _T | _End, done: "queue.Queue[_T | _End]", stop: threading.Event) -> bool:
    """Wait for room and put an item there; False if nobody wants it any more."""
    while not stop.is_set():
        try:
            done.put(item, timeout=LOOK_SECONDS)
        except queue.Full:
            continue
        return True
    return False
