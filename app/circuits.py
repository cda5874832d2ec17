"""Who outside is away: after some failures in a row nothing of their queue is begun for a while.

A circuit is kept in the database, so that it holds for all workers.  While it is open no job of its
queue is claimed, and so none uses up a try; then one job is let through, as a probe.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app import jobs
from app.bulk import upsert
from app.columns import db_now
from app.db import notify
from app.errors import OutboundError, ProviderError
from app.models import Circuit, Job

log = structlog.get_logger()

FAILURES_IN_A_ROW = 5
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 600.0
MOST_DOUBLINGS = 30
MAX_REASON_LENGTH = 1000
# The row of one that nothing waits for says nothing any more.
FORGOTTEN_SECONDS = 86_400.0


@dataclass(frozen=True)
class Open:
    """A queue that stands still, until when, and why; after that one job finds out."""

    queue: str
    reason: str
    until: datetime
    failures: int


def judge(
    session: Session,
    queue: str,
    error: BaseException,
    *,
    first: bool = True,
    after: int = FAILURES_IN_A_ROW,
    longest: float = LONGEST_PAUSE_SECONDS,
) -> float | None:
    """Note what an error says of the other side; for how many seconds its queue now rests, or None.

    It counts when nobody was reached, nobody answered in time, or the answer was a 5xx.  A refusal is
    an answer like any other, but a 429 that says when to come back stops the whole queue until then.
    `first`, `after` and `longest` are those of `failed`.
    """
    if not isinstance(error, OutboundError | ProviderError):
        return None
    status = error.status if isinstance(error, ProviderError) else None
    if status == 429 and error.retry_after:
        return rest(session, queue, str(error), error.retry_after)
    if (status is None or status >= 500) and not error.permanent:
        return failed(
            session,
            queue,
            str(error),
            retry_after=error.retry_after,
            first=first,
            after=after,
            longest=longest,
        )
    if status is not None:
        succeeded(session, queue)
    return None


def failed(
    session: Session,
    queue: str,
    reason: str,
    *,
    retry_after: float | None = None,
    first: bool = True,
    after: int = FAILURES_IN_A_ROW,
    patience: float = 0.0,
    longest: float = LONGEST_PAUSE_SECONDS,
) -> float | None:
    """Count a failure of the other side; for how many seconds its queue now rests, or None.

    It counts only as the `first` of its job: one edit that always fails must not stop all others.  The
    circuit opens `after` so many in a row, the first of them at least `patience` seconds ago; the pause
    doubles from opening to opening, up to `longest` seconds.  `retry_after`, in seconds, is what the
    other side asked for.
    """
    failures, is_open, endured = _count(session, queue, reason, int(first), patience)
    if is_open:
        # It was begun before.
        return None
    if failures < after or not endured:
        return rest(session, queue, reason, retry_after) if retry_after else None
    doublings = min(failures - after, MOST_DOUBLINGS)
    pause = min(FIRST_PAUSE_SECONDS * float(2**doublings), longest) * random.uniform(0.8, 1.2)
    pause = max(pause, retry_after or 0.0)
    opened = {"open_until": db_now(pause), "probe_at": db_now(pause), "changed_at": db_now()}
    session.execute(update(Circuit).where(Circuit.name == queue).values(opened))
    log.warning("circuit open", action="open", queue=queue, seconds=round(pause), reason=reason)
    return pause


def rest(session: Session, queue: str, reason: str, seconds: float) -> float:
    """Begin nothing of a queue for `seconds`, because the other side asks for it; no probe after it."""
    until = {"open_until": db_now(seconds), "reason": _short(reason), "changed_at": db_now()}
    row = upsert(session, Circuit).values(name=queue, **until)
    longer = or_(Circuit.open_until.is_(None), Circuit.open_until < db_now(seconds))
    session.execute(row.on_conflict_do_update(index_elements=["name"], set_=until, where=longer))
    log.warning("queue rests", action="rest", queue=queue, seconds=round(seconds), reason=reason)
    return seconds


def succeeded(session: Session, queue: str) -> None:
    """The other side is well: its circuit is closed.  Nothing is written when it is so already."""
    well = (
        update(Circuit)
        .where(Circuit.name == queue, Circuit.failures > 0)
        .values(
            failures=0,
            failing_since=None,
            open_until=None,
            probe_at=None,
            reason=None,
            changed_at=db_now(),
        )
        .returning(Circuit.name)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(well):
        log.info("well again", action="close", queue=queue)
        notify(session, jobs.CHANNEL)


def open_ones(session: Session) -> Sequence[Open]:
    """The queues that stand still now, or of which one job is to find out whether they still must."""
    found = session.execute(
        select(Circuit.name, Circuit.reason, Circuit.open_until, Circuit.failures)
        .where(or_(Circuit.open_until > db_now(), _awaits_probe()))
        .order_by(Circuit.name)
    )
    return [
        Open(name, reason or "", until, failures)
        for name, reason, until, failures in found
        if until
    ]


def forget(session: Session) -> int:
    """Delete the rows that have long had nothing to say; how many there were."""
    silent = [
        or_(column.is_(None), column < db_now(-FORGOTTEN_SECONDS))
        for column in (Circuit.open_until, Circuit.next_at)
    ]
    old = [Circuit.changed_at < db_now(-FORGOTTEN_SECONDS), ~_awaits_probe(), *silent]
    return len(session.scalars(delete(Circuit).where(*old).returning(Circuit.name)).all())


def _awaits_probe() -> ColumnElement[bool]:
    """Whether one job is to find out: of a queue whose last job was given up or deleted, none can."""
    # Not EXISTS: PostgreSQL may read all jobs for it, to look a few queues up among them.
    some = select(Job.id).where(Job.queue == Circuit.name).limit(1).scalar_subquery()
    return and_(Circuit.probe_at.is_not(None), some.is_not(None))


def _count(
    session: Session, queue: str, reason: str, more: int, patience: float
) -> tuple[int, bool, bool]:
    """How many failures in a row there are now, with `more` added unless the circuit is open.

    Then whether it is, and whether they began so long ago.
    """
    is_open = func.coalesce(Circuit.open_until > db_now(), False)
    endured = Circuit.failing_since <= db_now(-patience)
    values = {"failures": more, "reason": _short(reason), "changed_at": db_now()}
    row = upsert(session, Circuit).values(name=queue, failing_since=db_now(), **values)
    added = {
        **values,
        "failures": Circuit.failures + case((is_open, 0), else_=more),
        "failing_since": func.coalesce(Circuit.failing_since, db_now()),
        "reason": case((is_open, Circuit.reason), else_=row.excluded.reason),
    }
    counted = row.on_conflict_do_update(index_elements=["name"], set_=added)
    failures, still_open, long = session.execute(
        counted.returning(Circuit.failures, is_open, endured)
    ).one()
    return failures, bool(still_open), bool(long)


def _short(reason: str) -> str:
    return reason[:MAX_REASON_LENGTH]
