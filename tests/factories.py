"""Things that tests need many of: services on either database, tasks, bodies, images, due jobs."""

import hashlib
import io
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image as Pillow
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app import bodies, config, db, edits, inbox, jobs, providers, services
from app.bodies import Body
from app.columns import db_now
from app.config import Config
from app.inbox import Incoming, Outcome
from app.jobs import Again, Ending, Job, Kind, Retry, Terms
from app.models import Base, Callback, Event, Image, Source, Task
from app.models import Job as JobRow
from app.outbound import Outbound
from app.providers.base import Result
from app.services import Services
from app.worker import HANDLERS

SECRET_KEY = "a secret key that only the tests know"
PUBLIC_URL = "http://postback.test"


def make_config(database_url: str, folder: Path, **settings: str) -> Config:
    """A configuration with local storage in `folder`, which may reach every loopback address."""
    return config.load(
        {
            "PUBLIC_URL": PUBLIC_URL,
            "SECRET_KEY": SECRET_KEY,
            "DATABASE_URL": database_url,
            "LOCAL_STORAGE_DIR": str(folder / "storage"),
            "ACEDATA_API_KEY": "our key at acedata",
            "ACEDATA_BASE_URL": "http://127.0.0.1:9",
            "ALLOW_PRIVATE_HOSTS": "127.0.0.0/8",
            **{name.upper(): value for name, value in settings.items()},
        }
    )


@contextmanager
def running(configuration: Config) -> Iterator[Services]:
    """The services of `configuration`, on tables that are there, until the end of the block."""
    db.migrate(configuration.database_url)
    parts = services.build(configuration)
    try:
        yield parts
    finally:
        parts.close()


def reconfigured(parts: Services, **settings: Any) -> Services:
    """The same services, on the same database, with some settings of `Config` changed."""
    changed = parts.config.model_copy(update=settings)
    return replace(
        parts,
        config=changed,
        outbound=Outbound(changed.allow_private_hosts),
        providers=providers.build(changed),
    )


def submission(**fields: Any) -> dict[str, Any]:
    """The body of a submission that is right; None leaves a field out."""
    body = {
        "image": "https://example.com/photo.png",
        "prompt": "make it sepia",
        "model": "gpt-image-2",
        "async": True,
        **fields,
    }
    return {name: value for name, value in body.items() if value is not None}


def make_task(
    parts: Services,
    *,
    columns: Mapping[str, Any] | None = None,
    provider: str = "acedata",
    **fields: Any,
) -> Task:
    """A task as `edits.create` makes it, with `columns` set to what the test needs."""
    with parts.db.transaction() as session:
        task = edits.create(
            session, parts, submission(**fields), provider=provider, api_key_id=None
        )
        for name, value in (columns or {}).items():
            setattr(task, name, value)
        session.flush()
        session.refresh(task)
    return task


def with_id(parts: Services, task: Task, id_: UUID) -> Task:
    """The same task, with all of its rows, under another id: as if it had been made at another time."""
    columns = {each.key: getattr(task, each.key) for each in Task.__mapper__.column_attrs}
    owned = [table for table in Base.metadata.sorted_tables if "task_id" in table.columns]
    with parts.db.transaction() as session:
        session.add(Task(**{**columns, "id": id_}))
        session.flush()
        for table in owned:
            session.execute(table.update().where(table.c.task_id == task.id).values(task_id=id_))
        session.delete(session.get_one(Task, task.id))
    return get_task(parts, id_)


def get_task(parts: Services, task_id: UUID) -> Task:
    """The task as it is in the database now."""
    with parts.db.reading() as session:
        return session.get_one(Task, task_id)


def png(width: int = 8, height: int = 8, colour: str = "red") -> bytes:
    """A PNG file of one colour."""
    file = io.BytesIO()
    Pillow.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def noisy_png(side: int, *, seed: int = 0) -> bytes:
    """A PNG file of random pixels, which no compression makes small."""
    file = io.BytesIO()
    pixels = random.Random(seed).randbytes(side * side * 3)
    Pillow.frombytes("RGB", (side, side), pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def success(*urls: str, **fields: Any) -> dict[str, Any]:
    """A success callback as acedata sends it."""
    data = [{"url": url} for url in urls or ("https://images.example.com/1.png",)]
    return {"success": True, "created": 1_790_000_000, "data": data, **fields}


def failure(code: str = "forbidden", message: str = "moderation", **fields: Any) -> dict[str, Any]:
    """A failure callback as acedata sends it."""
    return {"success": False, "error": {"code": code, "message": message}, **fields}


def body_of(payload: Mapping[str, Any] | bytes) -> Body:
    """A small body, whole in its row."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Body(len(data), hashlib.sha256(data).hexdigest(), data)


def incoming(parts: Services, task: Task, payload: Mapping[str, Any]) -> Incoming:
    """A callback for `task` that was read and found to hold a result."""
    result: Result = parts.providers[task.provider].read_result(payload)
    return Incoming(Source.CALLBACK, body_of(payload), task.id, result, address="192.0.2.7")


def take(parts: Services, task: Task, payload: Mapping[str, Any]) -> Outcome:
    """Take a small callback in; what became of it."""
    with parts.db.transaction() as session:
        (taken,) = inbox.take_in(session, [incoming(parts, task, payload)])
    return taken.outcome


def take_large(parts: Services, task: Task, payload: Mapping[str, Any] | bytes) -> UUID:
    """Take in, unread and in chunks, a callback that is above 64 KiB; its id."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    with parts.db.transaction() as session:
        body = bodies.keep(session, data)
        assert body.inline is None
        inbox.take_in(session, [Incoming(Source.CALLBACK, body, task.id)])
    return body.id


def claim(parts: Services, kind: Kind, *, seconds: float = 30) -> Job:
    """Claim the first due job of `kind`, which must be there."""
    with parts.db.transaction() as session:
        row = session.scalars(
            select(JobRow)
            .where(JobRow.kind == kind, JobRow.due_at <= db_now())
            .order_by(JobRow.id)
            .limit(1)
        ).one()
        # Before all others, so that it is the one that is claimed.
        session.execute(update(JobRow).where(JobRow.id == row.id).values(due_at=db_now(-3600)))
        session.flush()
        (job,) = jobs.claim(session, row.queue, Terms(1), worker="test", seconds=seconds)
    return job


def run_next(parts: Services, kind: Kind) -> None:
    """Run the first due job of `kind` to its conclusion; what its handler raises comes through."""
    job = claim(parts, kind)
    conclude(parts, job, HANDLERS[kind].run(parts, job))


def conclude(parts: Services, job: Job, ending: Ending) -> None:
    """Finish a job and write what is left to write, as the worker does."""
    with parts.db.transaction() as session:
        if isinstance(ending, Again):
            jobs.retry(session, job, Retry(ending.seconds, ending.counts))
            conclusion = ending.conclude
        else:
            jobs.finish(session, job)
            conclusion = ending
        if conclusion is not None:
            conclusion(session)


def fail_next(parts: Services, kind: Kind) -> Exception:
    """Run the first due job of `kind`, which must fail; write that down as the worker does.

    If it is to be tried again, it is due at once.  Gives the error.
    """
    job = claim(parts, kind)
    try:
        HANDLERS[kind].run(parts, job)
    except Exception as error:
        _note_failure(parts, job, error)
        return error
    raise AssertionError(f"{kind} did not fail")


def _note_failure(parts: Services, job: Job, error: Exception) -> None:
    decision = jobs.decide(job.policy, job.failures, error)
    failed = HANDLERS[job.kind].failed
    with parts.db.transaction() as session:
        if decision is None:
            jobs.finish(session, job)
        else:
            jobs.retry(session, job, decision, error)
            session.execute(update(JobRow).where(JobRow.id == job.id).values(due_at=db_now()))
        if failed is not None:
            failed(session, job, error, decision is None)


def deliver(parts: Services, task: Task, payload: Mapping[str, Any]) -> Sequence[Image]:
    """Take a callback in and read it; the image rows that this made."""
    take(parts, task, payload)
    run_next(parts, Kind.INGEST)
    return images_of(parts, task)


def images_of(parts: Services, task: Task) -> Sequence[Image]:
    """A task's images as they are in the database now."""
    with parts.db.reading() as session:
        return session.scalars(select(Image).filter_by(task_id=task.id).order_by(Image.index)).all()


def callbacks_of(parts: Services, task: Task) -> Sequence[Callback]:
    """A task's callbacks as they are in the database now, in their order."""
    with parts.db.reading() as session:
        return session.scalars(
            select(Callback).filter_by(task_id=task.id).order_by(Callback.id)
        ).all()


def timeline(parts: Services, task: Task) -> list[str]:
    """The words of a task's timeline, in its order."""
    with parts.db.reading() as session:
        return events_of(session, task.id)


def somebody_waits(parts: Services, many: int = 1) -> bool:
    """Whether so many wait for a lock in this PostgreSQL database."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with parts.db.reading() as session:
        return bool(session.execute(text(waiting)).scalar_one() >= many)


def eventually(true: Callable[[], object], *, seconds: float = 15) -> None:
    """Wait until `true` is; fail when it is not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        # Nothing tells of it: look again soon.
        time.sleep(0.01)


def due_kinds(parts: Services) -> list[str]:
    """The kinds of the jobs that wait to be run, in the order in which they were enqueued."""
    with parts.db.reading() as session:
        return list(session.scalars(select(JobRow.kind).order_by(JobRow.id)))


def events_of(session: Session, task_id: UUID) -> list[str]:
    """The words of a task's timeline, in its order."""
    return list(session.scalars(select(Event.event).filter_by(task_id=task_id).order_by(Event.id)))
