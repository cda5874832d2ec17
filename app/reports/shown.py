"""How tasks, images and callbacks are shown as JSON."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, defer

from app.models import (
    Callback,
    Event,
    Image,
    ImageStatus,
    Input,
    Partial,
    Task,
)
from app.services import Services
from app.signing import Picture

Json = dict[str, Any]
Owned = TypeVar("Owned", Callback, Event, Image, Input, Partial)


@dataclass(frozen=True)
class _Pictures:
    """What some tasks have led to, by task: images, and those that came before them."""

    images: Mapping[UUID | None, Sequence[Image]]
    partials: Mapping[UUID | None, Sequence[Partial]]


def task_in_full(services: Services, session: Session, task: Task) -> Json:
    """All there is to say of one task."""
    return tasks_in_full(services, session, [task])[task.id]


def tasks_in_full(services: Services, session: Session, tasks: Sequence[Task]) -> dict[UUID, Json]:
    """All there is to say of each task, by its id; as many queries for many as for one."""
    ids = [task.id for task in tasks]
    pictures = _pictures_of(session, ids)
    inputs = _by_task(session, _of(Input, ids).order_by(Input.role, Input.index))
    # Without the bodies, which may be large.
    callbacks = _by_task(
        session, _of(Callback, ids).order_by(Callback.id).options(defer(Callback.body))
    )
    timelines = _by_task(session, _of(Event, ids).order_by(Event.id))
    return {
        task.id: {
            **_short(services, task, pictures),
            "request": task.request,
            "inputs": [_input(services, item) for item in inputs[task.id]],
            "callbacks": [_callback_of_task(callback) for callback in callbacks[task.id]],
            "timeline": [entry(event) for event in timelines[task.id]],
        }
        for task in tasks
    }


def tasks_in_short(services: Services, session: Session, tasks: Sequence[Task]) -> list[Json]:
    """The short form of each task: without its request, inputs, callbacks and timeline."""
    pictures = _pictures_of(session, [task.id for task in tasks])
    return [_short(services, task, pictures) for task in tasks]


def rfc3339(at: datetime | None) -> str | None:
    """A time as the API writes it: UTC, with milliseconds."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(services: Services, task: Task, pictures: _Pictures) -> Json:
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
        "images": [image_of(services, image) for image in pictures.images[task.id]],
        "partial_images": [_partial(services, row) for row in pictures.partials[task.id]],
        "usage": task.usage,
        "error": error,
        "verification": task.verification,
        "created_at": rfc3339(task.created_at),
        "submitted_at": rfc3339(task.submitted_at),
        "received_at": rfc3339(task.received_at),
        "finished_at": rfc3339(task.finished_at),
    }


def image_of(services: Services, image: Image) -> Json:
    """An image of a result as its task shows it."""
    stored = image.status is ImageStatus.STORED
    extension = image.key.rpartition(".")[2] if stored and image.key else ""
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


def _partial(services: Services, row: Partial) -> Json:
    extension = row.key.rpartition(".")[2]
    return {
        "index": row.index,
        "url": services.picture_url(Picture.PARTIAL, row.id, extension),
        "content_type": row.content_type,
        "bytes": row.size,
    }


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


def callback_in_log(callback: Callback) -> Json:
    return {
        **_callback_of_task(callback),
        "task_id": callback.task_id and str(callback.task_id),
        "reason": callback.reason,
        "address": callback.address,
        "duplicates": callback.duplicates,
    }


def entry(event: Event) -> Json:
    """An event as the timeline shows it."""
    return {"at": rfc3339(event.at), "event": event.event, "detail": event.detail}


def _pictures_of(session: Session, task_ids: Sequence[UUID]) -> _Pictures:
    return _Pictures(
        _by_task(session, _of(Image, task_ids).order_by(Image.index)),
        _by_task(session, _of(Partial, task_ids).order_by(Partial.index)),
    )


def _of(model: type[Owned], task_ids: Sequence[UUID]) -> Select[Owned]:
    return select(model).where(model.task_id.in_(task_ids))


def _by_task(session: Session, query: Select[Owned]) -> dict[UUID | None, list[Owned]]:
    found: dict[UUID | None, list[Owned]] = defaultdict(list)
    for row in session.scalars(query):
        found[row.task_id].append(row)
    return found
