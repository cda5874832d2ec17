"""Bodies that were refused unread, in the rejection log: as many a second as it may hold, and how
many more there were."""

import threading
import time
from collections import Counter
from uuid import UUID

import structlog

from app import inbox
from app.db import Database
from app.inbox import Inbox, Incoming

log = structlog.get_logger()

# Whoever makes up tokens must not fill the database: so many rejections a second are kept.
PER_SECOND = 10
COUNT_SECONDS = 1.0


class Rejections:
    """Keeps the first of each second in the log; the others are counted on the last one kept."""

    def __init__(self, db: Database, inbox: Inbox) -> None:
        self._db = db
        self._inbox = inbox
        self._lock = threading.Lock()
        self._second = 0
        self._seen = 0
        self._last: UUID | None = None
        self._others = 0

    def keep(self, incoming: Incoming) -> None:
        """Keep or count a refusal, as far as that can be done: the log is for people."""
        try:
            if not self._allows():
                return
            self._inbox.take(incoming)
        except Exception as error:
            log.warning("rejection not kept", action="reject", error=type(error).__name__)
        else:
            self._last = incoming.body.id

    def _allows(self) -> bool:
        with self._lock:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._seen = second, 0
            self._seen += 1
            if self._seen <= PER_SECOND:
                return True
            if not self._others:
                timer = threading.Timer(COUNT_SECONDS, self._count)
                timer.daemon = True
                timer.start()
            # Only now: the system may have had no thread left.
            self._others += 1
            return False

    def _count(self) -> None:
        with self._lock:
            others, self._others = self._others, 0
            last = self._last
        if last is None:
            return
        try:
            with self._db.transaction() as session:
                inbox.count_duplicates(session, Counter({last: others}))
        except Exception as error:
            log.warning("rejections not counted", action="reject", error=type(error).__name__)
