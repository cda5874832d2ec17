"""The thread that commits callbacks in batches."""

import queue
import threading
from concurrent.futures import Future

import structlog

from app.db import Database, is_outage
from app.errors import UnavailableError
from app.inbox.ledger import Incoming, Taken, take_in

log = structlog.get_logger()

# More at once gained nothing when it was measured.
BATCH = 64
WAIT_SECONDS = 10.0

_Item = tuple[Incoming, Future[Taken]]


class Inbox:
    """The writer thread of one process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_batches, name="inbox", daemon=True)
        self._thread.start()

    def take(self, incoming: Incoming, wait_seconds: float = WAIT_SECONDS) -> Taken:
        """Store `incoming` and say what became of it, once that is committed.

        Raises `UnavailableError` when the database is away or takes longer than `wait_seconds`.
        """
        future: Future[Taken] = Future()
        self._queue.put((incoming, future))
        try:
            return future.result(wait_seconds)
        except TimeoutError:
            future.cancel()
            raise UnavailableError("the database is busy") from None

    def stop(self) -> None:
        """Write what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _write_batches(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                batch.append(following)
            # Whoever gave up waiting was told 503: nothing was claimed, so nothing is stored.
            self._write([item for item in batch if item[1].set_running_or_notify_cancel()])

    def _write(self, batch: list[_Item]) -> None:
        if not batch:
            return
        try:
            with self._db.transaction() as session:
                taken = take_in(session, [incoming for incoming, _ in batch])
        except Exception as error:
            self._write_singly(batch, error)
        else:
            for (_, future), outcome in zip(batch, taken, strict=True):
                future.set_result(outcome)

    def _write_singly(self, batch: list[_Item], error: Exception) -> None:
        """After a batch has failed: one bad row must not take the others down with it."""
        if is_outage(error):
            log.warning("database away", action="take_in", batch=len(batch), error=str(error))
            error = UnavailableError("the database is away")
        elif len(batch) > 1:
            for item in batch:
                self._write([item])
            return
        for _, future in batch:
            future.set_exception(error)
