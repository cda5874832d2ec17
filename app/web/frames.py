"""Changes as Server-Sent Events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import reports
from app.changes import Change, Position
from app.models import FINAL, Task
from app.services import Services

Json = dict[str, Any]


class Form(StrEnum):
    """How much a stream says of a task."""

    # What a list of tasks says, for programs.
    SHORT = "short"
    # Its id and status: a page asks for the rest.
    BRIEF = "brief"


@dataclass(frozen=True)
class Frame:
    """One event as it goes over the wire."""

    position: Position
    task_id: UUID
    data: bytes
    # Whether the task has ended.
    final: bool


def frames(
    services: Services, session: Session, changes: Sequence[Change], form: Form
) -> list[Frame]:
    """An event for each change, with its task as it is now; none for a task that is gone."""
    contents = _contents(services, session, {change.task_id for change in changes}, form)
    return [
        _frame(change, contents[change.task_id]) for change in changes if change.task_id in contents
    ]


def _contents(
    services: Services, session: Session, ids: set[UUID], form: Form
) -> Mapping[UUID, Json]:
    if not ids:
        return {}
    if form is Form.BRIEF:
        rows = session.execute(select(Task.id, Task.status).where(Task.id.in_(ids)))
        return {id_: {"task_id": str(id_), "status": status} for id_, status in rows}
    tasks = session.scalars(select(Task).where(Task.id.in_(ids))).all()
    short = reports.tasks_in_short(services, session, tasks)
    return {task.id: content for task, content in zip(tasks, short, strict=True)}


def _frame(change: Change, content: Json) -> Frame:
    text = json.dumps({"event": change.event, **content})
    data = f"event: task\nid: {change.position}\ndata: {text}\n\n".encode()
    return Frame(change.position, change.task_id, data, content["status"] in FINAL)
