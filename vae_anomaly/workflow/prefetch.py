"""Run an iterator in a thread of its own, a bounded number of items ahead, so that reading, computing and writing overlap."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

_T = TypeVar("_T")
_END = object()


def prefetch(items: Iterator[_T], *, depth: int = 1) -> Generator[_T, None, None]:
    """Yield the items of an iterator that is at most ``depth`` finished items ahead; what it raises is raised here, in its place.

    Exhaust or close the generator: its thread has then ended, and items that were not computed yet never are.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as worker:
        # One future more than ``depth``: the item that is being computed while the finished ones wait.
        pending: deque[Future[_T | object]] = deque(worker.submit(next, items, _END) for _ in range(depth + 1))
        try:
            while (item := pending.popleft().result()) is not _END:
                pending.append(worker.submit(next, items, _END))
                yield cast("_T", item)
        finally:
            worker.shutdown(cancel_futures=True)
