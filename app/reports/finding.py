"""Finding one task, one picture, one body."""

from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.columns import clean
from app.errors import NotFoundError
from app.models import Callback, Chunk, Image, ImageStatus, Input, Partial, Task
from app.signing import Picture


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


def find_picture(
    session: Session, picture: Picture, id_: UUID
) -> tuple[Image | Input | Partial, str | None]:
    """The image that an address stands for, and its key in storage if it is there.

    Raises `NotFoundError`.
    """
    row: Image | Input | Partial | None
    if picture is Picture.INPUT:
        row = session.get(Input, id_)
    elif picture is Picture.PARTIAL:
        row = session.get(Partial, id_)
    else:
        row = session.get(Image, id_)
    if row is None:
        raise NotFoundError("there is no such image")
    if isinstance(row, Image):
        key = row.thumbnail_key if picture is Picture.THUMBNAIL else row.key
        return row, key if row.status is ImageStatus.STORED else None
    return row, row.key


def body_size(session: Session, callback_id: UUID) -> int | None:
    """How many bytes of a callback's body are there now; None if it was not read, or is gone."""
    inline = select(func.length(Callback.body)).filter_by(id=callback_id).scalar_subquery()
    chunks = select(func.sum(func.length(Chunk.data))).filter_by(owner_id=callback_id)
    size: int | None = session.scalar(select(func.coalesce(inline, chunks.scalar_subquery())))
    return size


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
