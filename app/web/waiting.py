"""Waiting for a task within a request, without a database connection and without starving others."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

import structlog

from app import changes, events
from app.db import Database, is_outage
from app.errors import UnavailableError

log = structlog.get_logger()

T = TypeVar("T")

# Between processes SQLite has no wake-ups; on PostgreSQL one may be lost while it restarts.  One look
# for all who wait finds what nobody told of.
POLL_SECONDS = {"sqlite": 0.5, "postgresql": 5.0}
OUTAGE_PAUSE_SECONDS = 0.5
# How often whoever waits asks whether that is still wanted.
WANTED_SECONDS = 5.0


class Waiters:
    """Who waits for which task in this process; at most `slots` at once."""

    def __init__(self, db: Database, slots: int) -> None:
        self._db = db
        self._slots = threading.BoundedSemaphore(slots)
        self._lock = threading.Lock()
        self._waiting: dict[UUID, set[threading.Event]] = defaultdict(set)
        # The thread that looks for all of them lives as long as somebody waits.
        self._polling = False
        self._poll = POLL_SECONDS[db.engine.dialect.name]
        db.signals.connect(events.CHANNEL, self._wake)

    def wait(
        self,
        task_id: UUID,
        look: Callable[[], T | None],
        seconds: float,
        *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> T | None:
        """What `look` gives once it is not None, looking again whenever the task changes; None
        after `seconds`, or once it is not `wanted` any more.  To be called in a `place`.
        """
        until = time.monotonic() + seconds
        with self._registered(task_id) as changed:
            while True:
                changed.clear()
                found, away = _look_through_outage(look)
                if found is not None or time.monotonic() >= until or not wanted():
                    return found
                soon = time.monotonic() + OUTAGE_PAUSE_SECONDS
                _sleep(changed, min(soon, until) if away else until, wanted)

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

    def wake_all(self) -> None:
        """Let everybody look again, and ask whether that is still wanted."""
        self._wake("")

    @contextmanager
    def _registered(self, task_id: UUID) -> Iterator[threading.Event]:
        changed = threading.Event()
        with self._lock:
            if not self._polling:
                threading.Thread(target=self._poll_for_all, name="waiting", daemon=True).start()
                # Only now: the system may have had no thread left.
                self._polling = True
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

    def _poll_for_all(self) -> None:
        known: Mapping[UUID, int] = {}
        while True:
            # Nothing tells of what this is for.
            time.sleep(self._poll)
            with self._lock:
                ids = list(self._waiting)
                if not ids:
                    self._polling = False
                    return
            try:
                with self._db.reading() as session:
                    last = changes.last_of(session, ids)
            except Exception as error:
                if not is_outage(error):
                    log.exception("looking for those who wait failed", action="wait")
                continue
            for id_ in last:
                if last[id_] != known.get(id_):
                    self._wake(str(id_))
            known = last


def _look_through_outage(look: Callable[[], T | None]) -> tuple[T | None, bool]:
    """What there is, and whether the database was away."""
    # The task goes on meanwhile: whoever waits for it is not told to come again.
    try:
        return look(), False
    except Exception as error:
        if not is_outage(error):
            raise
        return None, True


def _sleep(changed: threading.Event, until: float, wanted: Callable[[], bool]) -> None:
    while (left := until - time.monotonic()) > 0 and wanted():
        if changed.wait(min(left, WANTED_SECONDS)):
            return
