"""Work that goes on beside the main thread, in order and with a bound on what waits."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_END = object()


def ahead(items: Iterable[T], *, depth: int = 2) -> Iterator[T]:
    """The items in order, made by another thread up to `depth` ahead of the one asked for.

    An error of the iterable is raised where its item would have come. A consumer that stops early
    stops the thread.

    >>> list(ahead(number * number for number in range(4)))
    [0, 1, 4, 9]
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    abandoned = threading.Event()

    def hand_over(entry: Any) -> bool:
        while not abandoned.is_set():
            try:
                waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not hand_over((item, None)):
                    return
        except BaseException as error:  # noqa: BLE001 (raised again by the consumer)
            hand_over((None, error))
        else:
            hand_over((_END, None))

    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        abandoned.set()
        maker.join()


@contextmanager
def behind(*, depth: int = 4) -> Iterator[Callable[[Callable[[], object]], None]]:
    """A function that hands work to another thread, which does it in order.

    With `depth` pieces waiting, the next call waits for the oldest. All is done when the block
    ends; the first error is raised there, or at a later call.

    >>> done = []
    >>> with behind() as later:
    ...     for number in range(3):
    ...         later(lambda number=number: done.append(number))
    >>> done
    [0, 1, 2]
    """
    pending: deque[Future[object]] = deque()

    def later(work: Callable[[], object]) -> None:
        while len(pending) >= depth:
            pending.popleft().result()
        pending.append(worker.submit(work))

    with ThreadPoolExecutor(max_workers=1) as worker:
        yield later
        while pending:
            pending.popleft().result()


class AbandonedError(Exception):
    """Raised where `Fed` work waits for an item that will not come."""


class Fed(Generic[T, R]):
    """Work on items that come one by one: it takes them from an iterator, in another thread.

    >>> total = Fed(sum)
    >>> for number in range(4):
    ...     total.give(number)
    >>> total.finish()
    6
    """

    def __init__(self, work: Callable[[Iterator[T]], R], *, depth: int = 2) -> None:
        self._waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._abandoned = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._result = self._thread.submit(lambda: work(self._items()))

    def _items(self) -> Iterator[T]:
        while (item := self._next()) is not _END:
            yield item

    def _next(self) -> Any:
        while not self._abandoned.is_set():
            with contextlib.suppress(queue.Empty):
                return self._waiting.get(timeout=0.1)
        raise AbandonedError

    def give(self, item: T) -> None:
        """Hand an item over; waits while `depth` of them wait.

        Raises:
            Exception: what the work ended with.
        """
        self._put(item)

    def finish(self) -> R:
        """What the work returns, now that there are no more items.

        Raises:
            Exception: what the work ended with.
        """
        self._put(_END)
        self._thread.shutdown()
        return self._result.result()

    def _put(self, item: Any) -> None:
        while not self._result.done():
            with contextlib.suppress(queue.Full):
                self._waiting.put(item, timeout=0.1)
                return
        self._result.result()

    def abandon(self) -> None:
        """End the work where it waits for an item; it is over when this returns."""
        self._abandoned.set()
        self._thread.shutdown()
