"""Tasks as Ace Data Cloud's own lookup shows them, from our store: what its clients read.

The shape is that of its "Tasks API" document.  Times are seconds since 1970, and there is no status: a
task has ended when it has a `response`, which is what its callback would have been.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, false, func, or_, select
from sqlalchemy.orm import Session

from app import reports
from app.columns import clean
from app.edits import OUR_RULES
from app.errors import NotFoundError
from app.models import FINAL, Image, ImageStatus, Task, TaskStatus, first_id
from app.services import Services
from app.signing import Picture

Json = dict[str, Any]

TYPE = "images_edits"
TYPES = frozenset({None, "", "images", TYPE})
# No id is made before 1970, nor after the year 6000.
LATEST = 2.0**37


@dataclass(frozen=True)
class Wanted:
    """Which tasks; without `ids` and `trace_ids`, all there are."""

    ids: Sequence[str] | None = None
    trace_ids: Sequence[str] | None = None
    type: str | None = None
    created_at_min: float | None = None
    created_at_max: float | None = None


def retrieve(services: Services, session: Session, id_: str | None, trace_id: str | None) -> Json:
    """One task, by an id of ours or the provider's or by what the caller called it; {} for none."""
    try:
        task = reports.find_task(session, id_) if id_ else None
    except NotFoundError:
        return {}
    if task is None and trace_id:
        named = select(Task).where(_traced([trace_id])).order_by(Task.id.desc())
        task = session.scalars(named.limit(1)).first()
    return _shown(services, session, [task])[0] if task else {}


def retrieve_batch(
    services: Services, session: Session, wanted: Wanted, *, offset: int, limit: int
) -> Json:
    """Some of the tasks, the newest first, and how many there are."""
    conditions = list(_conditions(wanted))
    page = select(Task).where(*conditions).order_by(Task.id.desc()).offset(offset).limit(limit)
    count = session.scalar(select(func.count()).select_from(Task).where(*conditions))
    tasks = session.scalars(page).all()
    return {"items": _shown(services, session, tasks), "count": count}


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.type not in TYPES:
        conditions.append(false())
    if wanted.ids is not None or wanted.trace_ids is not None:
        ids, trace_ids = wanted.ids or [], wanted.trace_ids or []
        conditions.append(or_(_named(ids), _traced(trace_ids)))
    if wanted.created_at_min is not None:
        conditions.append(Task.id >= _first_id(wanted.created_at_min))
    if wanted.created_at_max is not None:
        # The whole millisecond: clients have cut the rest off.
        conditions.append(Task.id < _first_id(wanted.created_at_max + 0.001))
    return conditions


def _named(ids: Sequence[str]) -> ColumnElement[bool]:
    return or_(Task.provider_task_id.in_([clean(id_) for id_ in ids]), _ours(ids))


def _traced(trace_ids: Sequence[str]) -> ColumnElement[bool]:
    return or_(Task.trace_id.in_([clean(id_) for id_ in trace_ids]), _ours(trace_ids))


def _ours(ids: Sequence[str]) -> ColumnElement[bool]:
    found = []
    for id_ in ids:
        try:
            found.append(UUID(id_))
        except ValueError:
            continue
    return Task.id.in_(found)


def _first_id(seconds: float) -> UUID:
    return first_id(datetime.fromtimestamp(min(max(seconds, 0.0), LATEST), UTC))


def _shown(services: Services, session: Session, tasks: Sequence[Task]) -> list[Json]:
    stored = select(Image).where(
        Image.task_id.in_([task.id for task in tasks]), Image.status == ImageStatus.STORED
    )
    images: dict[UUID, list[Image]] = {}
    for image in session.scalars(stored.order_by(Image.index)):
        images.setdefault(image.task_id, []).append(image)
    return [_task(services, task, images.get(task.id, [])) for task in tasks]


def _task(services: Services, task: Task, images: Sequence[Image]) -> Json:
    started = task.submitted_at or task.created_at
    shown: Json = {
        "_id": task.id.hex[:24],
        "id": str(task.id),
        "trace_id": task.trace_id or str(task.id),
        "type": TYPE,
        "created_at": task.created_at.timestamp(),
        "started_at": task.submitted_at and task.submitted_at.timestamp(),
        # Without what is only ours: clients look for addresses in it as long as there is no response.
        "request": {
            name: value for name, value in task.request.items() if name not in OUR_RULES.fields
        },
    }
    if task.status in FINAL and task.finished_at:
        shown["finished_at"] = task.finished_at.timestamp()
        shown["elapsed"] = round((task.finished_at - started).total_seconds(), 3)
        shown["response"] = _response(services, task, images)
    return {name: value for name, value in shown.items() if value is not None}


def _response(services: Services, task: Task, images: Sequence[Image]) -> Json:
    head = {"task_id": str(task.id), "trace_id": task.trace_id or str(task.id)}
    if task.status is not TaskStatus.SUCCEEDED:
        error = {
            "code": task.error_code or str(task.status),
            "message": task.error_message or f"the task was {task.status}",
        }
        return {"success": False, **head, "error": error}
    created = int((task.finished_at or task.created_at).timestamp())
    shown: Json = {
        "success": True,
        **head,
        "created": created,
        "model": task.model,
        "data": [_item(services, image) for image in images],
        "usage": task.usage,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _item(services: Services, image: Image) -> Json:
    extension = str(image.key).rpartition(".")[2]
    prompt = {"revised_prompt": image.revised_prompt} if image.revised_prompt else {}
    return {"url": services.picture_url(Picture.OUTPUT, image.id, extension), **prompt}
