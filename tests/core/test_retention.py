"""What is too old goes, in the right order, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select, update

from app import bodies, inbox, keys, retention
from app.bodies import INLINE_BYTES, Body
from app.errors import MissingObjectError
from app.inbox import Incoming
from app.jobs import Kind
from app.models import (
    UNANSWERED,
    BrowserSession,
    Callback,
    Chunk,
    Event,
    Image,
    Input,
    Scope,
    Source,
    Task,
    TaskStatus,
    Verdict,
    first_id,
    new_id,
)
from app.models import Job as JobRow
from app.retention import BATCH
from app.services import Services
from tests.core.conftest import count
from tests.core.sites import Site
from tests.factories import (
    body_of,
    callbacks_of,
    deliver,
    get_task,
    make_task,
    png,
    reconfigured,
    run_next,
    success,
    take,
    take_large,
    with_id,
)


def old_id(days: float) -> UUID:
    """An id that was made so many days ago, unlike any other."""
    at = datetime.now(UTC) - timedelta(days=days)
    return UUID(int=first_id(at).int | (new_id().int & (2**62 - 1)))


def aged(parts: Services, task: Task, days: float) -> Task:
    """The task as if it were so old."""
    return with_id(parts, task, old_id(days))


def age_body(parts: Services, callback: Callback, days: float) -> UUID:
    """Make a callback so old; its new id."""
    id_ = old_id(days)
    with parts.db.transaction() as session:
        session.execute(update(Chunk).where(Chunk.owner_id == callback.id).values(owner_id=id_))
        session.execute(update(Callback).where(Callback.id == callback.id).values(id=id_))
    return id_


def finished_task(parts: Services, host: Site) -> Task:
    """A task with everything a task can have: an image in storage, an input, bodies, events."""
    task = make_task(parts)
    deliver(parts, task, success(host.serve("/a.png", png())))
    run_next(parts, Kind.STORE_IMAGE)
    return get_task(parts, task.id)


def exists(parts: Services, key: str | None) -> bool:
    try:
        parts.storage.open(str(key)).close()
    except MissingObjectError:
        return False
    return True


def keys_of_image(parts: Services) -> list[str]:
    with parts.db.reading() as session:
        image = session.scalars(select(Image)).one()
    return [str(image.key), str(image.thumbnail_key)]


def test_an_old_task_goes_with_its_objects_bodies_and_rows(parts: Services, host: Site) -> None:
    task = finished_task(parts, host)
    take_large(parts, task, success(padding="x" * INLINE_BYTES))
    stored = keys_of_image(parts)
    aged(parts, task, days=8)

    retention.purge(reconfigured(parts, retention_days=7))

    assert not any(count(parts.db, table) for table in (Task, Image, Input, Callback))
    assert not any(count(parts.db, table) for table in (Event, JobRow, Chunk))
    assert [key for key in stored if exists(parts, key)] == []


def test_a_task_stays_while_it_is_young_or_has_not_ended_and_for_ever_without_the_setting(
    parts: Services, host: Site
) -> None:
    young = aged(parts, finished_task(parts, host), days=6)
    ended, *waiting = (
        aged(parts, make_task(parts, columns={"status": status}), days=10_000)
        for status in (TaskStatus.FAILED, *UNANSWERED, TaskStatus.RECEIVED)
    )
    retention.purge(parts)
    # More years than there were.
    retention.purge(reconfigured(parts, retention_days=90_000, retention_body_days=90_000))
    assert get_task(parts, ended.id).status is TaskStatus.FAILED

    retention.purge(reconfigured(parts, retention_days=7))

    for task in (young, *waiting):
        assert get_task(parts, task.id).status is task.status
    assert all(exists(parts, key) for key in keys_of_image(parts))


def test_more_than_a_batch_goes_at_once(sqlite_parts: Services) -> None:
    made = make_task(sqlite_parts)
    columns = {each.key: getattr(made, each.key) for each in Task.__mapper__.column_attrs}
    failed = {**columns, "status": TaskStatus.FAILED}
    with sqlite_parts.db.transaction() as session:
        session.add_all([Task(**{**failed, "id": old_id(9)}) for _ in range(BATCH + 3)])
    for _ in range(BATCH + 3):
        refuse(sqlite_parts, None, Body(size=1, id=old_id(31)))
    retention.purge(reconfigured(sqlite_parts, retention_days=7))
    assert (count(sqlite_parts.db, Task), count(sqlite_parts.db, Callback)) == (1, 0)


def test_old_bodies_go_and_what_is_known_of_them_stays(parts: Services, host: Site) -> None:
    task = finished_task(parts, host)
    take_large(parts, task, success(padding="x" * INLINE_BYTES))
    young, old = make_task(parts), callbacks_of(parts, task)
    take(parts, young, success())
    for callback in old:
        age_body(parts, callback, days=31)

    retention.purge(parts)

    left = callbacks_of(parts, task)
    assert [(callback.body, callback.sha256) for callback in left] == [
        (None, callback.sha256) for callback in old
    ]
    assert count(parts.db, Chunk) == 0
    assert [callback.body is not None for callback in callbacks_of(parts, young)] == [True]


def test_a_body_that_is_still_needed_stays_however_old(parts: Services) -> None:
    task = make_task(parts)
    take_large(parts, task, success(padding="x" * INLINE_BYTES))
    (callback,) = callbacks_of(parts, task)
    callback_id = age_body(parts, callback, days=100)
    retention.purge(parts)
    with parts.db.reading() as session:
        assert b"".join(bodies.read_body(session, callback_id)).startswith(b'{"success"')


def refuse(parts: Services, task: Task | None, body: Body) -> None:
    with parts.db.transaction() as session:
        task_id = task.id if task else None
        inbox.take_in(session, [Incoming(Source.CALLBACK, body, task_id, reason="no")])


def test_old_rejections_go_whole(parts: Services) -> None:
    task = make_task(parts)
    with parts.db.transaction() as session:
        large = bodies.keep(session, b"x" * INLINE_BYTES * 2)
    refuse(parts, task, large)
    with parts.db.reading() as session:
        row = session.get_one(Callback, large.id)
    age_body(parts, row, days=31)
    refuse(parts, task, replace(body_of(b"no"), id=old_id(31)))
    refuse(parts, None, Body(size=5, id=old_id(31)))
    refuse(parts, None, Body(size=6, id=old_id(29)))

    retention.purge(parts)

    with parts.db.reading() as session:
        left = session.scalars(select(Callback)).all()
    assert [(callback.size, callback.verdict) for callback in left] == [(6, Verdict.REJECTED)]
    assert count(parts.db, Chunk) == 0


def test_chunks_that_belong_to_nothing_go_after_a_day(parts: Services) -> None:
    task = make_task(parts)
    take_large(parts, task, success(padding="x" * INLINE_BYTES))
    (callback,) = callbacks_of(parts, task)
    kept = age_body(parts, callback, days=2)
    young = new_id()
    with parts.db.transaction() as session:
        for owner_id in (old_id(1.1), old_id(2), young):
            bodies.write_chunk(session, owner_id, 0, b"data")
            bodies.write_chunk(session, owner_id, 1, b"data")

    retention.purge(parts)

    with parts.db.reading() as session:
        assert set(session.scalars(select(Chunk.owner_id))) == {kept, young}


def test_sessions_that_are_over_go_after_a_day(parts: Services) -> None:
    with parts.db.transaction() as session:
        keys.create(session, parts.signing, "me", [Scope.READ])
        (key,) = keys.all_keys(session)
        young = keys.begin_session(session, key)
        session.add(BrowserSession(id=old_id(1.1), key_id=key.id))

    retention.purge(parts)

    with parts.db.reading() as session:
        assert session.scalars(select(BrowserSession.id)).all() == [young]
