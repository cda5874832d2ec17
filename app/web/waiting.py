"""Waiting for a task within a request, without a database connection and without starving others."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from app import events
from app.db import Database, is_outage
from app.errors import UnavailableError

T = TypeVar("T")

# Between processes SQLite has no wake-ups; on PostgreSQL one may be lost while it restarts.
POLL_SECONDS = {"sqlite": 0.5, "postgresql": 5.0}


class Waiters:
    """Who waits for which task in this process; at most `slots` at once."""

    def __init__(self, db: Database, slots: int) -> None:
        self._slots = threading.BoundedSemaphore(slots)
        self._lock = threading.Lock()
        self._waiting: dict[UUID, set[threading.Event]] = defaultdict(set)
        self._poll = POLL_SECONDS[db.engine.dialect.name]
        db.signals.connect(events.CHANNEL, self._wake)

    def wait(self, task_id: UUID, look: Callable[[], T | None], seconds: float) -> T | None:
        """What `look` gives once it is not None, looking again whenever the task changes; None
        after `seconds`.  To be called in a `place`.
        """
        with self._registered(task_id) as changed:
            return self._look_until(look, changed, time.monotonic() + seconds)

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the slots, as long as the block lasts.  Raises `UnavailableError` when all are
        taken: before anything is begun that a refused caller would begin again.
        """
        if not self._slots.acquire(blocking=False):
            raise UnavailableError("too many requests are waiting")
        try:
            yield
        finally:
            self._slots.release()

    def _look_until(
        self, look: Callable[[], T | None], changed: threading.Event, deadline: float
    ) -> T | None:
        while True:
            changed.clear()
            found = _look_through_outage(look)
            left = deadline - time.monotonic()
            if found is not None or left <= 0:
                return found
            changed.wait(min(left, self._poll))

    @contextmanager
    def _registered(self, task_id: UUID) -> Iterator[threading.Event]:
        changed = threading.Event()
        with self._lock:
            self._waiting[task_id].add(changed)
        try:
            yield changed
        finally:
            with self._lock:
                self._waiting[task_id].discard(changed)
                if not self._waiting[task_id]:
                    del self._waiting[task_id]

    def _wake(self, payload: str) -> None:
        with self._lock:
            ids = [UUID(text) for text in payload.split(",")] if payload else list(self._waiting)
            for id_ in ids:
                for changed in self._waiting.get(id_, ()):
                    changed.set()


def _look_through_outage(look: Callable[[], T | None]) -> T | None:
    # The task goes on while the database is away: whoever waits for it is not told to come again.
    try:
        return look()
    except Exception as error:
        if not is_outage(error):
            raise
        return None
