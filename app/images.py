"""An image of a result on its way into storage."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import BinaryIO

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import bodies, events, imaging, jobs, tasks
from app.bodies import CHUNK_BYTES, Place
from app.columns import db_now
from app.errors import ImageError, OutboundError, PostbackError, UnavailableError
from app.events import Fact, Happened
from app.imaging import Facts
from app.jobs import Conclusion, Job, Kind
from app.models import Image, ImageStatus, Task, TaskStatus
from app.outbound import Limits
from app.scratch import scratch, write
from app.services import Services
from app.wire import Request

REDIRECTS = 3
DOWNLOAD_SECONDS = 300.0
# A link that says no this often will not say yes.
REFUSALS = 3
PASSING_STATUSES = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Copied:
    """What was written into storage, where the image's row says."""

    size: int
    sha256: str
    facts: Facts


def store(services: Services, job: Job) -> Conclusion | None:
    """Copy one image into storage, with a thumbnail.

    Raises `ImageError` for what is no usable image, `OutboundError` for a link that does not give it,
    and `UnavailableError` for trouble of our own, after the bytes were put aside: links expire.
    """
    with services.db.reading() as session:
        image = session.get(Image, job.subject_id)
    if image is None or image.status is not ImageStatus.PENDING:
        return None
    with scratch() as file:
        sha256 = _fetch(services, job, image, file)
        size = file.tell()
        try:
            facts = imaging.inspect(file, max_pixels=services.config.max_image_pixels)
            keys = _name(services, job, image, facts)
            if keys is None:
                return None
            _upload(services, keys, file, facts)
        except UnavailableError:
            _put_aside(services, job, image, file)
            raise
    return partial(_stored, image, Copied(size, sha256, facts))


def storing_failed(session: Session, job: Job, error: BaseException, final: bool) -> None:
    """When nothing is left to try, the image has failed, and maybe with it the task."""
    if not final or job.task_id is None:
        return
    task = tasks.lock(session, job.task_id)
    image = session.get(Image, job.subject_id)
    if image is None or image.status is not ImageStatus.PENDING:
        return
    known = error if isinstance(error, PostbackError) else PostbackError("unexpected error")
    image.status = ImageStatus.FAILED
    image.error_code, image.error_message = known.code, str(known)
    detail = {"index": image.index, "code": known.code, "message": str(known)}
    events.record(session, Fact(task.id, Happened.IMAGE_FAILED, detail))
    _finish_task(session, task)


def _fetch(services: Services, job: Job, image: Image, file: BinaryIO) -> str:
    """Write the image's bytes to `file`; their SHA-256."""
    limit = services.config.max_image_bytes
    digest = hashlib.sha256()
    size = 0
    with _pieces(services, job, image) as pieces:
        for piece in pieces:
            size += len(piece)
            if size > limit:
                raise ImageError(f"larger than {limit:,} bytes", code="too_large")
            digest.update(piece)
            write(file, piece)
    return digest.hexdigest()


@contextmanager
def _pieces(services: Services, job: Job, image: Image) -> Iterator[Iterable[bytes]]:
    """The image's bytes, from wherever they are."""
    place = Place.parse(image.source)
    if image.source.startswith("data:"):
        yield bodies.decode_base64([image.source.encode()])
    elif image.spooled or place:
        with services.db.reading() as session:
            if image.spooled:
                yield bodies.read_chunks(session, image.id)
            else:
                yield bodies.decode_base64(bodies.read_body(session, image.callback_id, place))
    else:
        with _download(services, job, image.source) as pieces:
            yield pieces


@contextmanager
def _download(services: Services, job: Job, url: str) -> Iterator[Iterable[bytes]]:
    config = services.config
    limits = Limits(total=DOWNLOAD_SECONDS, bytes=config.max_image_bytes)
    refused_often = job.failures + 1 >= REFUSALS
    try:
        with services.outbound.stream(
            Request("GET", url), limits, redirects=REDIRECTS, hosts=config.image_hosts
        ) as response:
            if response.status != 200:
                passing = response.status >= 500 or response.status in PASSING_STATUSES
                raise ImageError(
                    f"the image host answered {response.status}",
                    code="image_unavailable",
                    permanent=not passing and refused_often,
                )
            yield response.chunks()
    except OutboundError as error:
        if error.code == "redirect" and refused_often:
            raise ImageError(str(error), code=error.code) from None
        raise


def _name(services: Services, job: Job, image: Image, facts: Facts) -> tuple[str, str] | None:
    """Where the image and its thumbnail go, noted in its row before they are there.

    The same names at every attempt, which writes over what the one before has left; but no other
    image's: an upload that hung must not write over what a later result has put there.  None when
    the row is gone.
    """
    name = f"{image.task_id}/{image.index}-{image.id.hex}"
    with services.db.transaction() as session:
        # This process may have been stopped: what somebody else has stored since must stay.
        jobs.ensure_held(session, job)
        row = session.get(Image, image.id)
        if row is None:
            return None
        row.key = row.key or f"images/{name}.{facts.extension}"
        row.thumbnail_key = f"thumbnails/{name}.webp"
    return row.key, row.thumbnail_key


def _upload(services: Services, keys: tuple[str, str], file: BinaryIO, facts: Facts) -> None:
    key, thumbnail_key = keys
    file.seek(0)
    services.storage.put(key, file, facts.content_type)
    services.storage.put(thumbnail_key, BytesIO(facts.thumbnail), "image/webp")


def _put_aside(services: Services, job: Job, image: Image, file: BinaryIO) -> None:
    """Keep downloaded bytes in the database: when storage is back, the link may have expired."""
    if image.spooled or not image.source.startswith("http"):
        return
    with services.db.transaction() as session:
        jobs.ensure_held(session, job)
        bodies.delete_chunks(session, [image.id])
    file.seek(0)
    position = 0
    while data := file.read(CHUNK_BYTES):
        with services.db.transaction() as session:
            bodies.write_chunk(session, image.id, position, data)
        position += 1
    with services.db.transaction() as session:
        jobs.ensure_held(session, job)
        session.execute(update(Image).where(Image.id == image.id).values(spooled=True))


def _stored(stored: Image, copied: Copied, session: Session) -> None:
    task = tasks.lock(session, stored.task_id)
    image = session.get(Image, stored.id)
    if image is None:
        return
    # Also those that a worker left which was killed while it put them aside.
    bodies.delete_chunks(session, [image.id])
    if image.source.startswith("data:"):
        image.source = "data:"
    image.spooled = False
    image.status = ImageStatus.STORED
    image.stored_at = db_now()
    image.content_type = copied.facts.content_type
    image.width, image.height = copied.facts.width, copied.facts.height
    image.size, image.sha256 = copied.size, copied.sha256
    detail = {"index": image.index, "bytes": copied.size}
    events.record(session, Fact(task.id, Happened.IMAGE_STORED, detail))
    _finish_task(session, task)


def _finish_task(session: Session, task: Task) -> None:
    """With its last image a task ends.  The lock on the task makes one of them the last."""
    session.flush()
    images = session.scalars(select(Image).filter_by(task_id=task.id).order_by(Image.index)).all()
    statuses = {image.status for image in images}
    if task.status is not TaskStatus.RECEIVED or ImageStatus.PENDING in statuses:
        return
    if ImageStatus.STORED not in statuses:
        first = images[0]
        tasks.fail(session, task, ImageError(first.error_message or "", code=first.error_code))
        return
    tasks.succeed(session, task)
    if statuses == {ImageStatus.STORED} and any(Place.parse(image.source) for image in images):
        jobs.enqueue(session, jobs.New(Kind.COMPACT, task.id, task.result_id))
