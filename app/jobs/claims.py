"""Which queues have something to do, and who gets it: claims with a lease, within limits."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, exists, func, or_, select, text, update
from sqlalchemy.orm import Session

from app.bulk import upsert
from app.columns import db_now
from app.jobs.policies import Kind
from app.jobs.queue import Job, Lease
from app.jobs.rates import Rate
from app.models import Circuit
from app.models import Job as Row


@dataclass(frozen=True)
class Due:
    """A queue in which a job is due; one that failed lately gets one job, as a `probe`."""

    queue: str
    probe: bool


@dataclass(frozen=True)
class Terms:
    """On which terms jobs of a queue are claimed.

    `room` is how many may be claimed; `limit`, how many may run at once, and `rate`, how many may begin
    in a second, hold over all workers.  A `probe` is one job.
    """

    room: int
    limit: int | None = None
    rate: Rate | None = None
    probe: bool = False


def due_queues(session: Session) -> list[Due]:
    """The queues in which a job is due and may begin: their circuit is closed, their rate allows it.

    The index is searched twice for each queue: it does not matter how many jobs are waiting.
    """
    return [Due(queue, probe) for queue, probe in session.execute(finding_due())]


class _Use(NamedTuple):
    """How much of a queue's limits is used up at this moment."""

    running: int
    next_at: datetime | None
    now: datetime


def claim(
    session: Session,
    queue: str,
    terms: Terms,
    *,
    worker: str,
    seconds: float,
    held: Collection[Job] = (),
) -> list[Job]:
    """Lease due jobs of `queue` for `seconds`, the longest due first.

    `held` is what this worker has in its hands: it is not lost, although its lease may be over.
    """
    use = _use(session, queue) if terms.limit or terms.rate else None
    room = _room(terms, use)
    if room <= 0 or (terms.probe and not _take_probe(session, queue, seconds)):
        return []
    # Before the query: the lease must never end later here than it does in the database.
    expires_at = time.monotonic() + seconds
    rows = session.scalars(_claimable(queue, room, terms.probe, held)).all()
    token = uuid4()
    session.execute(
        update(Row)
        .where(Row.id.in_([row.id for row in rows]))
        .values(
            lease_token=token,
            due_at=db_now(seconds),
            attempts=Row.attempts + 1,
            worker=worker,
        )
        .execution_options(synchronize_session=False)
    )
    if terms.rate and use and rows:
        _spend(session, queue, terms.rate.after(use.next_at, use.now, len(rows)))
    if terms.probe and not rows:
        _give_probe_back(session, queue)
    return [_claimed(row, token, Lease(expires_at)) for row in rows]


def finding_due() -> Select[str, bool]:
    """The query of `due_queues`."""
    # From each queue to the next one: DISTINCT would read the whole index.
    queues = select(func.min(Row.queue).label("queue")).cte("queues", recursive=True)
    following = select(func.min(Row.queue)).where(Row.queue > queues.c.queue).scalar_subquery()
    queues = queues.union_all(select(following).where(queues.c.queue.is_not(None)))
    return (
        select(queues.c.queue, Circuit.probe_at.is_not(None))
        .outerjoin(Circuit, Circuit.name == queues.c.queue)
        .where(
            exists().where(Row.queue == queues.c.queue, Row.due_at <= db_now()),
            _passed(Circuit.open_until),
            _passed(Circuit.probe_at),
            _passed(Circuit.next_at),
        )
    )


def _passed(column: Any) -> ColumnElement[bool]:
    return or_(column.is_(None), column <= db_now())


def _claimable(queue: str, room: int, probe: bool, held: Collection[Job]) -> Select[Row]:
    mine = [job for job in held if job.queue == queue]
    due = select(Row).where(
        Row.queue == queue,
        Row.due_at <= db_now(),
        or_(
            Row.lease_token.is_(None),
            Row.id.not_in([job.id for job in mine]),
            # Another worker may have taken it over meanwhile, and gone silent.
            Row.lease_token.not_in({job.token for job in mine}),
        ),
    )
    # Whether the other side is well again is found out by a job that has done nothing to doubt.
    due = due.order_by(Row.failures, Row.due_at) if probe else due.order_by(Row.due_at)
    return due.limit(room).with_for_update(skip_locked=True)


def _use(session: Session, queue: str) -> _Use:
    """Until the transaction ends, nobody else claims from this queue."""
    if session.get_bind().dialect.name == "postgresql":
        # Counting and claiming must not interleave.
        lock = text("SELECT pg_advisory_xact_lock(hashtext(:queue))")
        session.execute(lock, {"queue": f"postback:{queue}"})
    running = select(func.count()).where(
        Row.queue == queue, Row.lease_token.is_not(None), Row.due_at > db_now()
    )
    next_at = select(Circuit.next_at).where(Circuit.name == queue)
    query = select(running.scalar_subquery(), next_at.scalar_subquery(), db_now())
    return _Use(*session.execute(query).one())


def _room(terms: Terms, use: _Use | None) -> int:
    room = min(terms.room, 1) if terms.probe else terms.room
    if use and terms.limit:
        room = min(room, terms.limit - use.running)
    if use and terms.rate:
        room = min(room, terms.rate.affordable(use.next_at, use.now))
    return room


def _spend(session: Session, queue: str, next_at: datetime) -> None:
    row = upsert(session, Circuit).values(name=queue, next_at=next_at)
    session.execute(row.on_conflict_do_update(index_elements=["name"], set_={"next_at": next_at}))


def _take_probe(session: Session, queue: str, seconds: float) -> bool:
    """Whether this one may find out; should its worker die, another one may when its lease is over."""
    taken = update(Circuit).where(Circuit.name == queue, Circuit.probe_at <= db_now())
    taken = taken.values(probe_at=db_now(seconds)).execution_options(synchronize_session=False)
    return session.scalar(taken.returning(Circuit.name)) is not None


def _give_probe_back(session: Session, queue: str) -> None:
    back = update(Circuit).where(Circuit.name == queue, Circuit.probe_at.is_not(None))
    back = back.values(probe_at=db_now()).execution_options(synchronize_session=False)
    session.execute(back)


def _claimed(row: Row, token: UUID, lease: Lease) -> Job:
    return Job(
        id=row.id,
        kind=Kind(row.kind),
        queue=row.queue,
        provider=row.provider,
        task_id=row.task_id,
        subject_id=row.subject_id,
        attempts=row.attempts + 1,
        failures=row.failures,
        token=token,
        lost=row.lease_token is not None,
        lease=lease,
    )
