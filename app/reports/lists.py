"""Pages of tasks and of callbacks, the newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, defer

from app.models import Callback, Task, Verdict, first_id
from app.reports.pages import TaskFilter, page_of_ids
from app.reports.shown import Json, callback_in_log


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
    # Without the bodies, which may be large.
    query = select(Callback).where(*conditions).options(defer(Callback.body))
    query = query.order_by(Callback.id.desc())
    rows = session.scalars(query.limit(limit + 1)).all()
    items = [callback_in_log(callback) for callback in rows[:limit]]
    return items, rows[limit - 1].id if len(rows) > limit else None
