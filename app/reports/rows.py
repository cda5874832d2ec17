"""The rows of the task list: of each task what fits into a line."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Callback, Delivery, DeliveryStatus, Image, ImageStatus, Task, TaskStatus
from app.reports.pages import TaskFilter, page_of_ids
from app.services import Services
from app.signing import Picture

# A prompt may have 32,000 characters; a line shows fewer.
PROMPT_CHARACTERS = 300


@dataclass(frozen=True)
class TaskRow:
    """One line; `images` are those that are stored or on their way."""

    id: UUID
    status: TaskStatus
    prompt: str | None
    provider: str
    model: str | None
    trace_id: str | None
    error_code: str | None
    created_at: datetime
    finished_at: datetime | None
    thumbnail_url: str | None
    images: int
    images_stored: int
    # Bodies that came in, and how often one of them came again.
    callbacks: int
    duplicates: int
    deliveries: Mapping[DeliveryStatus, int]


def tasks_for_page(
    services: Services, session: Session, wanted: TaskFilter, *, limit: int, before: UUID | None
) -> tuple[list[TaskRow], UUID | None]:
    """A page of the list, the newest first, and where the next page begins; as many queries for many
    tasks as for one."""
    ids, following = page_of_ids(session, wanted, limit=limit, before=before)
    return task_rows(services, session, ids), following


def task_rows(services: Services, session: Session, ids: Sequence[UUID]) -> list[TaskRow]:
    """The lines of the tasks with these ids, the newest first; those that are gone are missing."""
    shown = (
        Task.id,
        Task.status,
        func.substr(Task.prompt, 1, PROMPT_CHARACTERS, type_=Task.prompt.type).label("prompt"),
        Task.provider,
        Task.model,
        Task.trace_id,
        Task.error_code,
        Task.created_at,
        Task.finished_at,
    )
    rows = session.execute(select(*shown).where(Task.id.in_(ids)).order_by(Task.id.desc()))
    images = _images(session, ids)
    callbacks = _callbacks(session, ids)
    deliveries = _deliveries(session, ids)
    return [
        TaskRow(
            **row,
            thumbnail_url=_thumbnail(services, images[row["id"]]),
            images=len(images[row["id"]]),
            images_stored=sum(status is ImageStatus.STORED for _, status in images[row["id"]]),
            callbacks=callbacks.get(row["id"], (0, 0))[0],
            duplicates=callbacks.get(row["id"], (0, 0))[1],
            deliveries=deliveries[row["id"]],
        )
        for row in rows.mappings()
    ]


def _thumbnail(services: Services, images: Sequence[tuple[UUID, ImageStatus]]) -> str | None:
    stored = (id_ for id_, status in images if status is ImageStatus.STORED)
    first = next(stored, None)
    return None if first is None else services.picture_url(Picture.THUMBNAIL, first, "webp")


def _images(session: Session, ids: Sequence[UUID]) -> Mapping[UUID, list[tuple[UUID, ImageStatus]]]:
    query = select(Image.task_id, Image.id, Image.status).where(Image.task_id.in_(ids))
    found: dict[UUID, list[tuple[UUID, ImageStatus]]] = defaultdict(list)
    for task_id, id_, status in session.execute(query.order_by(Image.task_id, Image.index)):
        found[task_id].append((id_, status))
    return found


def _callbacks(session: Session, ids: Sequence[UUID]) -> Mapping[UUID | None, tuple[int, int]]:
    query = (
        select(Callback.task_id, func.count(), func.sum(Callback.duplicates))
        .where(Callback.task_id.in_(ids))
        .group_by(Callback.task_id)
    )
    return {task_id: (count, int(again)) for task_id, count, again in session.execute(query)}


def _deliveries(
    session: Session, ids: Sequence[UUID]
) -> Mapping[UUID | None, Counter[DeliveryStatus]]:
    query = (
        select(Delivery.task_id, Delivery.status, func.count())
        .where(Delivery.task_id.in_(ids))
        .group_by(Delivery.task_id, Delivery.status)
    )
    found: dict[UUID | None, Counter[DeliveryStatus]] = defaultdict(Counter)
    for task_id, status, count in session.execute(query):
        found[task_id][status] = count
    return found
