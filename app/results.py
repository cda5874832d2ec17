"""What came in is read: its images get rows and jobs, and its bulk is dropped once they are stored."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import BinaryIO
from uuid import UUID

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app import bodies, inbox, jobs, placements, tasks
from app.bodies import CHUNK_BYTES, SKELETON_BYTES, Place
from app.errors import InvalidResultError, PostbackError
from app.jobs import Conclusion, Job, Kind
from app.models import Callback, Chunk, Image, TaskStatus, new_id
from app.providers.base import Result
from app.scratch import scratch, write
from app.services import Services
from app.signing import Picture

log = structlog.get_logger()


def ingest(services: Services, job: Job) -> Conclusion | None:
    """Read an accepted body: judge it if it was too large to be read when it came, else make its
    images.
    """
    with services.db.reading() as session:
        callback = session.get(Callback, job.subject_id)
        if callback is None or job.task_id is None:
            return None
        task = tasks.get(session, job.task_id)
        read = _read(services, session, callback.id, task.provider)
    if not callback.checked:
        return partial(_judge, services, callback, task.id, read)
    if isinstance(read, str):
        raise InvalidResultError(read)
    return partial(_make_images, callback.id, task.id, read)


def ingestion_failed(session: Session, job: Job, error: BaseException, final: bool) -> None:
    """A result that cannot be read ends its task; only a fault of this program leads here."""
    if not final or job.task_id is None:
        return
    task = tasks.lock(session, job.task_id)
    if task.status is TaskStatus.RECEIVED:
        tasks.fail(session, task, PostbackError(f"the result could not be read: {error}"))


def compact(services: Services, job: Job) -> Conclusion | None:
    """Replace the base64 in a body by references to the stored images; all else stays as it came."""
    with scratch(in_memory=SKELETON_BYTES) as file:
        with services.db.reading() as session:
            callback = session.get_one(Callback, job.subject_id)
            images = session.scalars(select(Image).filter_by(callback_id=callback.id)).all()
            references = {
                place: services.picture_url(Picture.OUTPUT, image.id).encode()
                for image in images
                if (place := Place.parse(image.source))
            }
            for piece in _with_references(session, callback, references):
                write(file, piece)
        size = (callback.size or 0) + sum(
            len(references[place]) - place.length for place in references
        )
        if file.tell() != size:
            # It is compact already, or gone.
            return None
        file.seek(0)
        if size <= SKELETON_BYTES:
            return partial(_keep_in_row, callback.id, file.read())
        return partial(_keep_in_chunks, callback.id, _put_into_chunks(services, file))


def _put_into_chunks(services: Services, file: BinaryIO) -> UUID:
    """Under an id of their own, until they take the place of others."""
    id_, position = new_id(), 0
    while data := file.read(CHUNK_BYTES):
        with services.db.transaction() as session:
            bodies.write_chunk(session, id_, position, data)
        position += 1
    return id_


def _keep_in_row(callback_id: UUID, body: bytes, session: Session) -> None:
    session.get_one(Callback, callback_id).body = body
    bodies.delete_chunks(session, [callback_id])


def _keep_in_chunks(callback_id: UUID, written: UUID, session: Session) -> None:
    bodies.delete_chunks(session, [callback_id])
    taken = update(Chunk).where(Chunk.owner_id == written).values(owner_id=callback_id)
    session.execute(taken)


def _with_references(
    session: Session, callback: Callback, references: Mapping[Place, bytes]
) -> Iterator[bytes]:
    start = 0
    for place in sorted(references, key=lambda place: place.start):
        yield from bodies.read_body(session, callback.id, Place(start, place.start - start))
        yield references[place]
        start = place.start + place.length
    yield from bodies.read_body(session, callback.id, Place(start, (callback.size or 0) - start))


def _read(services: Services, session: Session, callback_id: UUID, provider: str) -> Result | str:
    try:
        payload = bodies.read_json(bodies.split(bodies.read_body(session, callback_id)))
        return services.providers[provider].read_result(payload)
    except InvalidResultError as error:
        return str(error)


def _judge(
    services: Services, callback: Callback, task_id: UUID, read: Result | str, session: Session
) -> None:
    taken = inbox.read_through(
        session, callback.id, task_id, callback.source, read, services.confirmed
    )
    log.info("large body read", action="judge", outcome=taken.outcome, reason=taken.reason)


def _make_images(callback_id: UUID, task_id: UUID, result: Result, session: Session) -> None:
    task = tasks.lock(session, task_id)
    made = select(Image.id).filter_by(callback_id=callback_id).limit(1)
    # A body that came twice, once unread, may have been enqueued twice.
    if task.result_id != callback_id or session.scalar(made) is not None:
        return
    # Only a result without any stored image is ever replaced by another one.
    replaced = delete(Image).where(Image.task_id == task_id)
    keys = session.execute(replaced.returning(Image.key, Image.thumbnail_key))
    # A copy of one of them may be on its way into storage.
    placements.note(session, [key for each in keys for key in each if key])
    images = [
        Image(
            task_id=task_id,
            callback_id=callback_id,
            index=index,
            source=image.source,
            revised_prompt=image.revised_prompt,
        )
        for index, image in enumerate(result.images)
    ]
    session.add_all(images)
    session.flush()
    jobs.enqueue(session, *(jobs.New(Kind.STORE_IMAGE, task_id, image.id) for image in images))
