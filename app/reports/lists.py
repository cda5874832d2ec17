"""Pages of tasks and of callbacks, the newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, select, true
from sqlalchemy.orm import Session

from app.columns import clean
from app.models import Callback, Task, TaskStatus, Verdict, first_id
from app.reports.shown import Json, callback_in_log


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks; None means any."""

    status: TaskStatus | None = None
    provider: str | None = None
    model: str | None = None
    trace_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    q: str | None = None


@dataclass(frozen=True)
class CallbackFilter:
    """Which callbacks; None means any."""

    verdict: Verdict | None = None
    task_id: UUID | None = None
    created_after: datetime | None = None


def list_tasks(
    session: Session, wanted: TaskFilter, *, limit: int, before: UUID | None
) -> tuple[Sequence[Task], UUID | None]:
    """A page of tasks, the newest first, and where the next page begins."""
    ids, following = page_of_ids(session, wanted, limit=limit, before=before)
    query = select(Task).where(Task.id.in_(ids)).order_by(Task.id.desc())
    return session.scalars(query).all(), following


def page_of_ids(
    session: Session, wanted: TaskFilter, *, limit: int, before: UUID | None
) -> tuple[Sequence[UUID], UUID | None]:
    """The ids of a page of tasks, the newest first, and where the next page begins."""
    query = select(Task.id).where(*_task_conditions(wanted)).order_by(Task.id.desc())
    if before is not None:
        query = query.where(Task.id < before)
    ids = session.scalars(query.limit(limit + 1)).all()
    return ids[:limit], ids[limit - 1] if len(ids) > limit else None


def list_callbacks(
    session: Session, wanted: CallbackFilter, *, limit: int, before: UUID | None
) -> tuple[list[Json], UUID | None]:
    """A page of callbacks, the newest first, and where the next page begins."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.verdict:
        conditions.append(Callback.verdict == wanted.verdict)
    if wanted.task_id:
        conditions.append(Callback.task_id == wanted.task_id)
    if wanted.created_after:
        conditions.append(Callback.id >= first_id(wanted.created_after))
    if before is not None:
        conditions.append(Callback.id < before)
    query = select(Callback).where(*conditions).order_by(Callback.id.desc())
    rows = session.scalars(query.limit(limit + 1)).all()
    items = [callback_in_log(callback) for callback in rows[:limit]]
    return items, rows[limit - 1].id if len(rows) > limit else None


def _task_conditions(wanted: TaskFilter) -> list[ColumnElement[bool]]:
    conditions = [
        column == value
        for column, value in (
            (Task.status, wanted.status),
            (Task.provider, wanted.provider),
            (Task.model, wanted.model),
            (Task.trace_id, wanted.trace_id),
        )
        if value is not None
    ]
    if wanted.created_after:
        conditions.append(Task.id >= first_id(wanted.created_after))
    if wanted.created_before:
        conditions.append(Task.id < first_id(wanted.created_before))
    if wanted.q:
        conditions.append(_matches(wanted.q))
    return conditions


def _matches(q: str) -> ColumnElement[bool]:
    """A task whose id, ours or the provider's, begins with `q`, or whose prompt has all of its words."""
    q = clean(q.strip())
    words = [Task.prompt.icontains(word, autoescape=True) for word in q.split()]
    either = or_(Task.provider_task_id.startswith(q, autoescape=True), and_(true(), *words))
    hexadecimal = q.lower().replace("-", "")
    if not 0 < len(hexadecimal) <= 32 or set(hexadecimal) - set("0123456789abcdef"):
        return either
    first, last = UUID(hexadecimal.ljust(32, "0")), UUID(hexadecimal.ljust(32, "f"))
    return or_(Task.id.between(first, last), either)
