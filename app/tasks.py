"""How a task moves: each change of its status with the event that tells of it."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import events
from app.columns import db_now
from app.errors import PostbackError
from app.events import Fact, Happened
from app.models import UNANSWERED, Task, TaskStatus

# Where a task may be while a request of ours for it is: a stream begins before its result is there.
UNDER_WAY = frozenset({TaskStatus.QUEUED, TaskStatus.SUBMITTED})


def get(session: Session, task_id: UUID) -> Task:
    """The task as it is now.  It must exist."""
    return session.get_one(Task, task_id)


def lock(session: Session, task_id: UUID) -> Task:
    """The task, which nobody else changes until this transaction ends.  It must exist."""
    return session.scalars(select(Task).filter_by(id=task_id).with_for_update()).one()


def submitted(
    session: Session, task: Task, provider_task_id: str | None, *, ask_after: float | None
) -> None:
    """The provider has it; should it stay silent, it is asked after `ask_after` seconds, if it can be.

    A callback may have come first: then the task keeps what that made of it.
    """
    task.submitting_at = None
    task.submitted_at = task.submitted_at or db_now()
    detail = {"provider_task_id": provider_task_id}
    if task.provider_task_id not in {None, provider_task_id}:
        detail["named_by_callback"] = task.provider_task_id
    task.provider_task_id = provider_task_id or task.provider_task_id
    if task.status in UNANSWERED:
        task.status = TaskStatus.SUBMITTED
        task.asks, task.ask_at = 0, None
        if ask_after is not None:
            task.ask_at = db_now(ask_after)
    events.record(session, Fact(task.id, Happened.SUBMITTED, detail))


def uncertain(session: Session, task: Task, reason: str) -> None:
    """Whether the provider took it is not known: ask, and never send it again."""
    task.submitting_at = None
    if task.status in UNDER_WAY:
        task.status = TaskStatus.UNCERTAIN
        task.ask_at, task.asks = db_now(), 0
        events.record(session, Fact(task.id, Happened.UNCERTAIN, {"reason": reason}))


def succeed(session: Session, task: Task) -> None:
    """All images that could be stored are."""
    task.status = TaskStatus.SUCCEEDED
    task.finished_at = db_now()
    events.record(session, Fact(task.id, Happened.SUCCEEDED))


def cancel(session: Session, task: Task) -> None:
    """Taken back before it was sent, or deleted: nothing that comes for it moves it any more."""
    task.status = TaskStatus.CANCELED
    task.finished_at = db_now()
    task.ask_at = None
    events.record(session, Fact(task.id, Happened.CANCELED))


def copy_again(session: Session, task: Task) -> None:
    """Its result is there as on the first day; what was said of its end no longer holds."""
    task.status = TaskStatus.RECEIVED
    task.finished_at = None
    task.error_code = task.error_message = task.error_status = None
    events.record(session, Fact(task.id, Happened.RETRIED))


def ask_now(session: Session, task: Task) -> None:
    """Let the provider be asked with the next lookup.

    The count begins anew: it is time that makes sure that the provider does not know a task.
    """
    task.ask_at, task.asks = db_now(), 0
    events.record(session, Fact(task.id, Happened.ASKED))


def fail(session: Session, task: Task, error: PostbackError, *, http_status: int = 500) -> None:
    """The end without an image; a late success may still change it."""
    task.status = TaskStatus.FAILED
    task.finished_at = db_now()
    task.ask_at = None
    task.error_code, task.error_message = error.code, str(error)
    task.error_status = http_status
    detail = {"code": error.code, "message": str(error)}
    events.record(session, Fact(task.id, Happened.FAILED, detail))
