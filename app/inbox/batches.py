"""A thread that does what many threads ask for, together."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

import structlog

from app.db import is_collision, is_outage
from app.errors import UnavailableError

log = structlog.get_logger()

# More at once gained nothing when it was measured.
BATCH = 64
WAIT_SECONDS = 10.0
# How long those that came together the last time are waited for.
GATHER_SECONDS = 0.003

T = TypeVar("T")
R = TypeVar("R")


class Batches(Generic[T, R]):
    """Calls `handle` with what has queued up while it ran the last time.

    `handle` gives a result for each item, or fails and leaves nothing behind.  One that comes alone,
    after another one that did, waits for nobody; those that came together get a moment to do so again.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[Sequence[T]], Sequence[R]],
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._handle = handle
        self._gather_seconds = gather_seconds
        self._queue: queue.SimpleQueue[tuple[T, Future[R]] | None] = queue.SimpleQueue()
        # How many came together with another one the last time, and whether so many are here again.
        self._companions = 0
        self._here = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, item: T, wait_seconds: float = WAIT_SECONDS) -> R:
        """The result for `item`.

        Raises `UnavailableError` when the database is away or takes longer than `wait_seconds`.
        """
        future: Future[R] = Future()
        self._queue.put((item, future))
        if self._companions and self._queue.qsize() >= self._companions:
            self._here.set()
        try:
            return future.result(wait_seconds)
        except TimeoutError:
            future.cancel()
            raise UnavailableError("the database is busy") from None

    def stop(self) -> None:
        """Do what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            self._gather()
            batch = [first]
            while len(batch) < BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                batch.append(following)
            self._companions = len(batch) - 1
            # Whoever gave up waiting was told 503: nothing was claimed, so nothing is stored.
            self._do([item for item in batch if item[1].set_running_or_notify_cancel()])

    def _gather(self) -> None:
        """Wait for as many as came together the last time, for a moment at most.

        They were answered at once, so they come again at once, and a batch costs the same for all of
        them as for the first one alone.
        """
        self._here.clear()
        if self._queue.qsize() < self._companions:
            self._here.wait(self._gather_seconds)

    def _do(self, batch: list[tuple[T, Future[R]]]) -> None:
        if not batch:
            return
        try:
            results = self._handle_twice([item for item, _ in batch])
        except Exception as error:
            self._do_singly(batch, error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)

    def _handle_twice(self, items: Sequence[T]) -> Sequence[R]:
        """What `handle` gives, at the second try if the first one stood in somebody's way."""
        try:
            return self._handle(items)
        except Exception as error:
            if not is_collision(error):
                raise
            log.warning("once more", action=self._thread.name, batch=len(items), error=str(error))
            return self._handle(items)

    def _do_singly(self, batch: list[tuple[T, Future[R]]], error: Exception) -> None:
        """After a batch has failed: one bad item must not take the others down with it."""
        if is_outage(error):
            log.warning(
                "database away", action=self._thread.name, batch=len(batch), error=str(error)
            )
            error = UnavailableError("the database is away")
        elif len(batch) > 1:
            for item in batch:
                self._do([item])
            return
        for _, future in batch:
            future.set_exception(error)
