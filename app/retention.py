"""What is too old goes: bodies and rejections first, then whole tasks with their images."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog
from sqlalchemy import delete, exists, or_, select, union_all, update
from sqlalchemy.orm import Session

from app import bodies, circuits, counts, placements
from app.errors import StorageError
from app.jobs import Job
from app.models import (
    FINAL,
    Attempt,
    BrowserSession,
    Callback,
    Chunk,
    Delivery,
    DeliveryStatus,
    Image,
    Input,
    Message,
    Partial,
    Task,
    Verdict,
    first_id,
)
from app.models import Job as Row
from app.services import Services

log = structlog.get_logger()

BATCH = 100
DAY_SECONDS = 86_400.0
# Chunks whose row was never written are what a request left that died on the way.
ORPHAN_SECONDS = DAY_SECONDS
# Longer than any browser's cookie is valid.
SESSION_SECONDS = DAY_SECONDS

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = first_id(_BEGINNING)

# What has objects in storage, in the order in which it goes.
Owned = TypeVar("Owned", UUID, str)

# Deletes up to a batch of what is older than an id, and says how many there were.
Step = Callable[[Session, UUID], int]


def purge(services: Services, job: Job | None = None) -> None:
    """Apply the retention now, in small transactions."""
    del job
    config = services.config
    body_age = config.retention_body_days * DAY_SECONDS
    deleted = {
        "bodies": _repeat(services, _drop_bodies, body_age),
        "rejections": _repeat(services, _drop_rejections, body_age),
        "messages": _repeat(services, _drop_messages, body_age),
        "orphans": _repeat(services, _drop_orphans, ORPHAN_SECONDS),
        "sessions": _repeat(services, _drop_sessions, SESSION_SECONDS),
    }
    with services.db.transaction() as session:
        circuits.forget(session)
        counts.forget(session)
    # Last: nothing else must wait for storage that is down.
    placements.give_up(services)
    deleted["objects"] = _sweep(services, placements.left, placements.clear, "")
    if config.retention_days is not None:
        boundary = _made_before(config.retention_days * DAY_SECONDS)
        old = partial(_old_tasks, boundary)
        deleted["tasks"] = _sweep(services, old, delete_tasks, _NEVER)
    if any(deleted.values()):
        log.info("retention applied", action="purge", **deleted)


def delete_tasks(services: Services, ids: Sequence[UUID]) -> None:
    """Delete tasks with everything of theirs: first the objects in storage, then the rows.

    Raises `StorageError`; the rows are then still there, and it can be tried again.
    """
    with services.db.reading() as session:
        keys = _keys_of(session, ids)
    services.storage.delete(keys)
    with services.db.transaction() as session:
        # Before the tasks, as workers lock them: else each could wait for the other.
        session.execute(delete(Row).where(Row.task_id.in_(ids)))
        mine = select(Task.id).where(Task.id.in_(ids)).order_by(Task.id)
        session.execute(mine.with_for_update())
        known = _keys_of(session, ids)
        # A worker that was stopped in the middle of an upload may bring any of them there again.
        placements.note(session, sorted(known))
        for owner in (Callback, Image):
            bodies.delete_chunks(session, select(owner.id).where(owner.task_id.in_(ids)))
        session.execute(delete(Task).where(Task.id.in_(ids)))
    # Put there since then: a late success or a partial image may have come.
    placements.abandon(services, sorted(known - keys))


def _keys_of(session: Session, ids: Sequence[UUID]) -> set[str]:
    """Where in storage all that belongs to these tasks is."""
    columns = (Image.key, Image.thumbnail_key, Input.key, Partial.key)
    owned = [select(key).where(key.class_.task_id.in_(ids), key.is_not(None)) for key in columns]
    return set(session.scalars(union_all(*owned)))


def _old_tasks(boundary: UUID, session: Session, after: UUID) -> Sequence[UUID]:
    old = select(Task.id).where(Task.id > after, Task.id < boundary, Task.status.in_(FINAL))
    return session.scalars(old.order_by(Task.id).limit(BATCH)).all()


def _sweep(
    services: Services,
    find: Callable[[Session, Owned], Sequence[Owned]],
    delete: Callable[[Services, Sequence[Owned]], None],
    after: Owned,
) -> int:
    """Delete all that `find` finds after the last one that it found; how many there were.

    What storage refuses to let go, a legal hold say, stays, and keeps nothing else from going.
    Raises `StorageError` when storage is down, or refuses a whole batch.
    """
    deleted = 0
    while True:
        with services.db.reading() as session:
            found = find(session, after)
        if not found:
            return deleted
        after = found[-1]
        try:
            delete(services, found)
            deleted += len(found)
        except StorageError:
            services.storage.check()
            deleted += _delete_singly(services, delete, found)


def _delete_singly(
    services: Services,
    delete: Callable[[Services, Sequence[Owned]], None],
    found: Sequence[Owned],
) -> int:
    deleted = 0
    for one in found:
        try:
            delete(services, [one])
            deleted += 1
        except StorageError as error:
            log.warning("storage keeps it", action="purge", what=str(one), error=str(error))
            refusal = error
    if not deleted and len(found) == BATCH:
        raise refusal
    return deleted


def _repeat(services: Services, step: Step, age_seconds: float) -> int:
    boundary = _made_before(age_seconds)
    total = 0
    while True:
        with services.db.transaction() as session:
            count = step(session, boundary)
        total += count
        if count < BATCH:
            return total


def _drop_bodies(session: Session, boundary: UUID) -> int:
    in_chunks = exists().where(Chunk.owner_id == Callback.id)
    # A task that still waits for storage may need its body.
    under_way = exists().where(Task.id == Callback.task_id, Task.finished_at.is_(None))
    ids = session.scalars(
        select(Callback.id)
        .where(Callback.id < boundary, or_(Callback.body.is_not(None), in_chunks), ~under_way)
        .limit(BATCH)
    ).all()
    bodies.delete_chunks(session, ids)
    session.execute(update(Callback).where(Callback.id.in_(ids)).values(body=None))
    return len(ids)


def _drop_rejections(session: Session, boundary: UUID) -> int:
    ids = session.scalars(
        select(Callback.id)
        .where(Callback.verdict == Verdict.REJECTED, Callback.id < boundary)
        .limit(BATCH)
    ).all()
    bodies.delete_chunks(session, ids)
    session.execute(delete(Callback).where(Callback.id.in_(ids)))
    return len(ids)


def _drop_messages(session: Session, boundary: UUID) -> int:
    """What was sent and what was answered to it; that it was sent, and when, stays with its task."""
    waiting = exists().where(
        Delivery.message_id == Message.id, Delivery.status == DeliveryStatus.PENDING
    )
    old = select(Message.id).where(Message.id < boundary, Message.body.is_not(None), ~waiting)
    ids = session.scalars(old.limit(BATCH)).all()
    theirs = select(Delivery.id).where(Delivery.message_id.in_(ids))
    session.execute(update(Attempt).where(Attempt.delivery_id.in_(theirs)).values(response=None))
    session.execute(update(Message).where(Message.id.in_(ids)).values(body=None))
    # The tests of endpoints belong to no task that would take them along.
    session.execute(delete(Message).where(Message.id.in_(ids), Message.task_id.is_(None)))
    return len(ids)


def _drop_orphans(session: Session, boundary: UUID) -> int:
    ids = session.scalars(
        select(Chunk.owner_id)
        .where(Chunk.owner_id < boundary)
        .where(~exists().where(Callback.id == Chunk.owner_id))
        .where(~exists().where(Image.id == Chunk.owner_id))
        .distinct()
        .limit(BATCH)
    ).all()
    bodies.delete_chunks(session, ids)
    return len(ids)


def _drop_sessions(session: Session, boundary: UUID) -> int:
    ids = session.scalars(
        select(BrowserSession.id).where(BrowserSession.id < boundary).limit(BATCH)
    ).all()
    session.execute(delete(BrowserSession).where(BrowserSession.id.in_(ids)))
    return len(ids)


def _made_before(age_seconds: float) -> UUID:
    return first_id(max(datetime.now(UTC) - timedelta(seconds=age_seconds), _BEGINNING))
