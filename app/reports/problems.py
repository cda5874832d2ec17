"""What is wrong, for who looks at 3 a.m.: each problem that the database knows of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import circuits
from app.columns import db_now
from app.jobs import IMAGE_QUEUE, Kind
from app.models import Endpoint, Job, Task, TaskStatus, Worker

# Providers take 3 minutes at most; the deadline may be much later.
OVERDUE_SECONDS = 600.0
# Of each kind, so many are looked at.
AT_MOST = 1000
NAMED = 20
NAME_CHARACTERS = 60

# What a queue that rests is for, by the kind of its jobs.
_TOWARDS: Mapping[str, str] = {
    Kind.SUBMIT: "Submissions to",
    Kind.HOLD: "Submissions to",
    Kind.RECONCILE: "Questions to",
    Kind.DELIVER: "Deliveries to",
}


class Trouble(StrEnum):
    """What can be wrong."""

    WORKER = "worker"
    STORAGE = "storage"
    CALLBACKS = "callbacks"
    ENDPOINT = "endpoint"
    CIRCUIT = "circuit"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    `text` says what, for who is signed in; `subject` is the id of the endpoint, if it is one's.
    `public` may be read by anybody.
    """

    trouble: Trouble
    text: str
    subject: str | None = None

    @property
    def public(self) -> str:
        """The same without names, addresses and ids."""
        return _PUBLIC[self.trouble]


_PUBLIC = {
    Trouble.WORKER: "No worker is running: nothing is submitted or stored.",
    Trouble.STORAGE: "Storage has trouble: images wait for it.",
    Trouble.CALLBACKS: "Results are late.",
    Trouble.ENDPOINT: "A subscriber is disabled.",
    Trouble.CIRCUIT: "A host outside keeps failing and is left alone for a while.",
}


def worker_seen(session: Session, within_seconds: float) -> bool:
    """Whether any worker was seen that lately."""
    recent = select(Worker.name).where(Worker.seen_at > db_now(-within_seconds)).limit(1)
    return session.scalar(recent) is not None


def problems(session: Session, silent_seconds: float) -> list[Problem]:
    """All that is wrong, the worst first."""
    return [
        *_silent_workers(session, silent_seconds),
        *_storage(session),
        *_circuits(session),
        *_overdue(session),
        *_endpoints(session),
    ]


def _silent_workers(session: Session, seconds: float) -> Iterator[Problem]:
    if not worker_seen(session, seconds):
        yield Problem(Trouble.WORKER, f"No worker was seen for {seconds:.0f} s.")


def _storage(session: Session) -> Iterator[Problem]:
    first = select(Job.last_error).where(Job.queue == IMAGE_QUEUE).order_by(Job.due_at)
    some = first.limit(AT_MOST).subquery()
    trouble = some.c.last_error.startswith("StorageError:")
    count, error = session.execute(
        select(func.count(), func.max(some.c.last_error)).where(trouble)
    ).one()
    if count:
        waiting = "1 image waits" if count == 1 else f"{_many(count)} images wait"
        yield Problem(Trouble.STORAGE, f"Storage: {waiting} for it. {error}")


def _circuits(session: Session) -> Iterator[Problem]:
    shown = circuits.open_ones(session)[:NAMED]
    ids = [id_ for each in shown if (id_ := _endpoint_id(each.queue))]
    found = session.scalars(select(Endpoint).where(Endpoint.id.in_(ids))) if ids else ()
    endpoints = {endpoint.id: endpoint for endpoint in found}
    for each in shown:
        kind, _, whom = each.queue.partition(":")
        endpoint = endpoints.get(id_) if (id_ := _endpoint_id(each.queue)) else None
        what = f"{_TOWARDS.get(kind, kind)} {_name(endpoint) if endpoint else whom}"
        after = f" after {each.failures} failures in a row" if each.failures else ""
        text = f"{what} rest{after}: {each.reason}"
        yield Problem(Trouble.CIRCUIT, text, str(endpoint.id) if endpoint else None)


def _overdue(session: Session) -> Iterator[Problem]:
    silent = select(Task.submitted_at).where(Task.status == TaskStatus.SUBMITTED).order_by(Task.id)
    some = silent.limit(AT_MOST).subquery()
    late = some.c.submitted_at < db_now(-OVERDUE_SECONDS)
    count = session.scalar(select(func.count()).select_from(some).where(late)) or 0
    if count:
        waited = "1 task has" if count == 1 else f"{_many(count)} tasks have"
        minutes = OVERDUE_SECONDS / 60
        text = f"{waited} waited for a result for more than {minutes:.0f} min."
        yield Problem(Trouble.CALLBACKS, text)


def _endpoints(session: Session) -> Iterator[Problem]:
    # Without a reason it was a person who disabled it, and knows.
    disabled = select(Endpoint).where(~Endpoint.enabled, Endpoint.disabled_reason.is_not(None))
    for endpoint in session.scalars(disabled.order_by(Endpoint.id).limit(NAMED)):
        text = f"The endpoint {_name(endpoint)} is disabled: {endpoint.disabled_reason}"
        yield Problem(Trouble.ENDPOINT, text, str(endpoint.id))


def _endpoint_id(queue: str) -> UUID | None:
    try:
        return UUID(queue.removeprefix(f"{Kind.DELIVER}:"))
    except ValueError:
        return None


def _name(endpoint: Endpoint) -> str:
    """Without the secrets that its address may hold."""
    host = urlsplit(endpoint.url).netloc.rpartition("@")[2]
    named = endpoint.description or ""
    if len(named) > NAME_CHARACTERS:
        named = f"{named[:NAME_CHARACTERS]}\u2026"
    return f"{host} ({named})" if named else host


def _many(count: int) -> str:
    return f"{count}" if count < AT_MOST else f"{AT_MOST} or more"
