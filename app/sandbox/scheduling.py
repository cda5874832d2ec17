"""Work that is due later, done by a few threads: what is late costs no thread while it waits."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Scheduler:
    """Runs functions in `threads` threads, the one that is due first before the others."""

    def __init__(self, threads: int, *, limit: int = 5000) -> None:
        self._limit = limit
        self._waiting: list[tuple[float, int, Callable[[], Any], Future[Any]]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        for number in range(threads):
            # Daemons, so that an interrupt ends the process at once.
            threading.Thread(target=self._run, name=f"sandbox-{number}", daemon=True).start()

    @property
    def full(self) -> bool:
        """Whether so much is waiting that nobody should bring more."""
        return len(self._waiting) >= self._limit

    def after(self, delay: float, function: Callable[[], T]) -> Future[T]:
        """Runs `function` in `delay` seconds."""
        future: Future[T] = Future()
        with self._changed:
            item = (time.monotonic() + delay, next(self._count), function, future)
            heapq.heappush(self._waiting, item)
            self._changed.notify()
        return future

    def close(self) -> None:
        """Starts nothing more; what waits is cancelled."""
        with self._changed:
            self._closed = True
            for *_, future in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while item := self._next():
            _, _, function, future = item
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
                if not self._closed:
                    logger.exception("The sandbox failed")

    def _next(self) -> tuple[float, int, Callable[[], Any], Future[Any]] | None:
        with self._changed:
            while not self._closed:
                pause = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._waiting)
                self._changed.wait(pause)
        return None
