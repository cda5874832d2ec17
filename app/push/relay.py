"""The one who works off the outbox: what happened becomes messages, exactly once.

An event is written with the change that it tells of, and stays `pending` until this has made what
is to be sent because of it, in one transaction.  Each worker has a relay; they share the work.
"""

import threading
from collections.abc import Sequence

import structlog
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app import counts, events, jobs
from app.db import is_outage
from app.models import Endpoint, Event
from app.push import messages
from app.services import Services

log = structlog.get_logger()

# So many that a burst costs few transactions, so few that nobody waits long for SQLite's one writer.
BATCH = 50
# How long to wait for a wake-up; between processes on SQLite there is none.
POLL_SECONDS = {"postgresql": 1.0, "sqlite": 0.1}
# How long to wait for those who have locked the tasks of what is left.
LEFT_SECONDS = 0.05
OUTAGE_PAUSE_SECONDS = 0.5

# As the index is spelled: SQLite does not see that `pending = 1` means the same.
_PENDING = text("events.pending")


class Relay:
    """Works off what is pending until `stop`, woken by whatever happens to tasks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._wake = threading.Event()
        self._stopping = threading.Event()
        services.db.signals.connect(events.CHANNEL, lambda _payload: self._wake.set())

    def run(self) -> None:
        """Relay until `stop`."""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                pause = self._relay_all()
            except Exception as error:
                pause = OUTAGE_PAUSE_SECONDS
                if is_outage(error):
                    log.warning("database away", action="relay", error=str(error))
                else:
                    log.exception("events could not be relayed", action="relay")
            self._wake.wait(pause)

    def stop(self) -> None:
        """Let `run` return after the batch that it is at."""
        self._stopping.set()
        self._wake.set()

    def _relay_all(self) -> float:
        """Work off what can be; how long to wait then."""
        db = self._services.db
        while not self._stopping.is_set() and _is_pending(self._services):
            if not self._relay():
                return LEFT_SECONDS
            # The worker of this process needn't wait until PostgreSQL tells it.
            db.signals.send(jobs.CHANNEL)
        return POLL_SECONDS[db.engine.dialect.name]

    def _relay(self) -> int:
        """Work off a batch; one event of which that cannot be told must not keep all others from it."""
        try:
            return relay(self._services)
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("a batch could not be relayed", action="relay")
        return relay_singly(self._services)


def relay_singly(services: Services, most: int = BATCH) -> int:
    """Work off up to `most` pending events, each by itself; how many were done.

    One that cannot be told is put aside: only a fault of this program leads here, and recovering
    finds it once that is mended.
    """
    done = 0
    with services.db.reading() as session:
        pending = session.scalars(select(Event.id).where(_PENDING).order_by(Event.id).limit(most))
        ids = pending.all()
    for id_ in ids:
        try:
            done += relay(services, 1, only=id_)
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("event put aside", action="put_aside", event_id=id_)
            with services.db.transaction() as session:
                _clear(session, [id_])
            done += 1
    return done


def relay(services: Services, most: int = BATCH, *, only: int | None = None) -> int:
    """Work off up to `most` pending events in one transaction, or `only` that one; how many were done.

    Those that somebody else is at are left to them, those of locked tasks for the next time.
    """
    with services.db.transaction() as session:
        pending = select(Event).where(_PENDING).order_by(Event.id).limit(most)
        if only is not None:
            pending = pending.where(Event.id == only)
        found = session.scalars(pending.with_for_update(skip_locked=True)).all()
        done = messages.tell(services, session, found, _subscribers(session))
        counts.count(session, done)
        _clear(session, [event.id for event in done])
        return len(done)


def _clear(session: Session, ids: Sequence[int]) -> None:
    cleared = update(Event).where(Event.id.in_(ids)).values(pending=False)
    session.execute(cleared.execution_options(synchronize_session=False))


def _is_pending(services: Services) -> bool:
    # Before the transaction, which on SQLite would keep others from writing.
    with services.db.glance() as connection:
        return connection.scalar(select(Event.id).where(_PENDING).limit(1)) is not None


def _subscribers(session: Session) -> list[Endpoint]:
    # Kept until the transaction ends: rows that name them are made.
    enabled = select(Endpoint).where(Endpoint.enabled).order_by(Endpoint.id)
    return list(session.scalars(enabled.with_for_update(read=True, key_share=True)))
