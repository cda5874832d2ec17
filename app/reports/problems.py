"""What is wrong, for who looks at 3 a.m.: each problem that the database knows of."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import circuits
from app.columns import db_now
from app.jobs import IMAGE_QUEUE
from app.models import Endpoint, Job, Task, TaskStatus, Worker

# Providers take 3 minutes at most; the deadline may be much later.
OVERDUE_SECONDS = 600.0
# Of each kind, so many are looked at.
AT_MOST = 1000
NAMED = 20


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

    `text` says what, for who is signed in; `subject` is the endpoint's id or the circuit's name.
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
        yield Problem(Trouble.STORAGE, f"Storage: {_many(count)} images wait for it. {error}")


def _circuits(session: Session) -> Iterator[Problem]:
    for each in circuits.open_ones(session)[:NAMED]:
        text = f"{each.queue} is left alone after {each.failures} failures: {each.reason}"
        yield Problem(Trouble.CIRCUIT, text, each.queue)


def _overdue(session: Session) -> Iterator[Problem]:
    silent = select(Task.submitted_at).where(Task.status == TaskStatus.SUBMITTED).order_by(Task.id)
    some = silent.limit(AT_MOST).subquery()
    late = some.c.submitted_at < db_now(-OVERDUE_SECONDS)
    count = session.scalar(select(func.count()).select_from(some).where(late)) or 0
    if count:
        minutes = OVERDUE_SECONDS / 60
        text = f"{_many(count)} tasks have waited for their result for more than {minutes:.0f} min."
        yield Problem(Trouble.CALLBACKS, text)


def _endpoints(session: Session) -> Iterator[Problem]:
    # Without a reason it was a person who disabled it, and knows.
    disabled = select(Endpoint).where(~Endpoint.enabled, Endpoint.disabled_reason.is_not(None))
    for endpoint in session.scalars(disabled.order_by(Endpoint.id).limit(NAMED)):
        text = f"The endpoint {endpoint.url} is disabled: {endpoint.disabled_reason}"
        yield Problem(Trouble.ENDPOINT, text, str(endpoint.id))


def _many(count: int) -> str:
    return f"{count}" if count < AT_MOST else f"{AT_MOST} or more"
