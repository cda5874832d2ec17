"""Read-only queries: what the lookups and the pages show."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, or_, select, true
from sqlalchemy.orm import Session, defer

from app.columns import clean, db_now
from app.errors import NotFoundError
from app.models import (
    Callback,
    Event,
    Image,
    ImageStatus,
    Input,
    Task,
    TaskStatus,
    Verdict,
    Worker,
    first_id,
)
from app.services import Services
from app.signing import Picture

Json = dict[str, Any]
Owned = TypeVar("Owned", Callback, Event, Image, Input)


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


def find_task(session: Session, id_: str) -> Task:
    """The task by our id or by the provider's.  Raises `NotFoundError`."""
    task = session.get(Task, uuid) if (uuid := _uuid(id_)) else None
    if task is None:
        named = select(Task).where(Task.provider_task_id == clean(id_)).order_by(Task.id.desc())
        task = session.scalars(named.limit(1)).first()
    if task is None:
        raise NotFoundError(f"there is no task {id_!r}")
    return task


def task_id_of(session: Session, id_: str) -> UUID:
    """Our id of a task, by ours or the provider's; the nil UUID, which no task has, for none."""
    try:
        return find_task(session, id_).id
    except NotFoundError:
        return UUID(int=0)


def task_in_full(services: Services, session: Session, task: Task) -> Json:
    """All there is to say of one task."""
    return tasks_in_full(services, session, [task])[task.id]


def tasks_in_full(services: Services, session: Session, tasks: Sequence[Task]) -> dict[UUID, Json]:
    """All there is to say of each task, by its id; as many queries for many as for one."""
    ids = [task.id for task in tasks]
    images = _images_of(session, ids)
    inputs = _by_task(session, _of(Input, ids).order_by(Input.role, Input.index))
    # Without the bodies, which may be large.
    callbacks = _by_task(
        session, _of(Callback, ids).order_by(Callback.id).options(defer(Callback.body))
    )
    timelines = _by_task(session, _of(Event, ids).order_by(Event.id))
    return {
        task.id: {
            **_short(services, task, images[task.id]),
            "request": task.request,
            "inputs": [_input(services, item) for item in inputs[task.id]],
            "callbacks": [_callback_of_task(callback) for callback in callbacks[task.id]],
            "timeline": [_entry(event) for event in timelines[task.id]],
        }
        for task in tasks
    }


def tasks_in_short(services: Services, session: Session, tasks: Sequence[Task]) -> list[Json]:
    """The short form of each task: without its request, inputs, callbacks and timeline."""
    images = _images_of(session, [task.id for task in tasks])
    return [_short(services, task, images[task.id]) for task in tasks]


def list_tasks(
    session: Session, wanted: TaskFilter, *, limit: int, before: UUID | None
) -> tuple[Sequence[Task], UUID | None]:
    """A page of tasks, the newest first, and where the next page begins."""
    query = select(Task).where(*_task_conditions(wanted)).order_by(Task.id.desc())
    if before is not None:
        query = query.where(Task.id < before)
    rows = session.scalars(query.limit(limit + 1)).all()
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


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
    items = [_callback_in_log(callback) for callback in rows[:limit]]
    return items, rows[limit - 1].id if len(rows) > limit else None


def find_picture(session: Session, picture: Picture, id_: UUID) -> tuple[Image | Input, str | None]:
    """The image or input that an address stands for, and its key in storage if it has one.

    Raises `NotFoundError`.
    """
    row = session.get(Input, id_) if picture is Picture.INPUT else session.get(Image, id_)
    if row is None:
        raise NotFoundError("there is no such image")
    if isinstance(row, Image) and picture is Picture.THUMBNAIL:
        return row, row.thumbnail_key
    return row, row.key


def worker_seen(session: Session, within_seconds: float) -> bool:
    """Whether any worker was seen that lately."""
    recent = select(Worker.name).where(Worker.seen_at > db_now(-within_seconds)).limit(1)
    return session.scalar(recent) is not None


def rfc3339(at: datetime | None) -> str | None:
    """A time as the API writes it: UTC, with milliseconds."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(services: Services, task: Task, images: Sequence[Image]) -> Json:
    error = {"code": task.error_code, "message": task.error_message} if task.error_code else None
    return {
        "task_id": str(task.id),
        "provider": task.provider,
        "provider_task_id": task.provider_task_id,
        "trace_id": task.trace_id,
        "status": task.status,
        "model": task.model,
        "prompt": task.prompt,
        "metadata": task.labels,
        "images": [_image(services, image) for image in images],
        "usage": task.usage,
        "error": error,
        "verification": task.verification,
        "created_at": rfc3339(task.created_at),
        "submitted_at": rfc3339(task.submitted_at),
        "received_at": rfc3339(task.received_at),
        "finished_at": rfc3339(task.finished_at),
    }


def _image(services: Services, image: Image) -> Json:
    stored = image.status is ImageStatus.STORED
    extension = image.key.rpartition(".")[2] if image.key else ""
    shown: Json = {
        "index": image.index,
        "url": services.picture_url(Picture.OUTPUT, image.id, extension),
        "thumbnail_url": services.picture_url(Picture.THUMBNAIL, image.id, "webp")
        if stored
        else None,
        "content_type": image.content_type,
        "bytes": image.size,
        "width": image.width,
        "height": image.height,
        "sha256": image.sha256,
        "revised_prompt": image.revised_prompt,
        "status": image.status,
    }
    if image.error_code:
        shown["error"] = {"code": image.error_code, "message": image.error_message}
    return shown


def _input(services: Services, item: Input) -> Json:
    return {
        "index": item.index,
        "role": item.role,
        "url": item.source_url or services.picture_url(Picture.INPUT, item.id),
        "content_type": item.content_type,
        "bytes": item.size,
    }


def _callback_of_task(callback: Callback) -> Json:
    return {
        "id": str(callback.id),
        "source": callback.source,
        "verdict": callback.verdict,
        "received_at": rfc3339(callback.received_at),
        "bytes": callback.size,
        "sha256": callback.sha256,
    }


def _callback_in_log(callback: Callback) -> Json:
    return {
        **_callback_of_task(callback),
        "task_id": callback.task_id and str(callback.task_id),
        "reason": callback.reason,
        "address": callback.address,
        "duplicates": callback.duplicates,
    }


def _entry(event: Event) -> Json:
    return {"at": rfc3339(event.at), "event": event.event, "detail": event.detail}


def _images_of(session: Session, task_ids: Sequence[UUID]) -> dict[UUID | None, list[Image]]:
    return _by_task(session, _of(Image, task_ids).order_by(Image.index))


def _of(model: type[Owned], task_ids: Sequence[UUID]) -> Select[Owned]:
    return select(model).where(model.task_id.in_(task_ids))


def _by_task(session: Session, query: Select[Owned]) -> dict[UUID | None, list[Owned]]:
    found: dict[UUID | None, list[Owned]] = defaultdict(list)
    for row in session.scalars(query):
        found[row.task_id].append(row)
    return found


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


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
