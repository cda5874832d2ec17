"""What a held call was answered: read as the provider's result, and handed to the inbox for good."""

import hashlib
from functools import partial
from typing import BinaryIO
from uuid import UUID

from sqlalchemy.orm import Session

from app import bodies, inbox, tasks
from app.bodies import CHUNK_BYTES, INLINE_BYTES, Body
from app.db import Database
from app.errors import InvalidResultError
from app.holds.streams import read_pieces
from app.inbox import Incoming
from app.models import UNANSWERED, Source, Task
from app.providers.base import Provider, Result, Unknown
from app.services import Services


def read(provider: Provider, answer: BinaryIO) -> Result | Unknown:
    """The result, or the provider's error, that an answer is."""
    try:
        return provider.read_result(bodies.read_json(bodies.split(read_pieces(answer))))
    except InvalidResultError as error:
        return Unknown(f"the provider's answer cannot be read: {error}")


def take_in(services: Services, task_id: UUID, answer: BinaryIO, result: Result) -> None:
    """Store the answer and move its task, however long the database is away."""
    body = _keep(services.db, answer)
    services.db.insist(partial(_take, task_id, body, result))


def _keep(db: Database, answer: BinaryIO) -> Body:
    digest = hashlib.sha256()
    for piece in read_pieces(answer):
        digest.update(piece)
    size = answer.tell()
    answer.seek(0)
    if size <= INLINE_BYTES:
        return Body(size, digest.hexdigest(), answer.read())
    body = Body(size, digest.hexdigest())
    position = 0
    while data := answer.read(CHUNK_BYTES):
        db.insist(partial(bodies.rewrite_chunk, owner_id=body.id, position=position, data=data))
        position += 1
    return body


def _take(task_id: UUID, body: Body, result: Result, session: Session) -> None:
    task = session.get(Task, task_id, with_for_update=True)
    if task is None:
        bodies.delete_chunks(session, [body.id])
        return
    task.submitting_at = None
    if task.submitted_at is None and task.status in UNANSWERED:
        tasks.submitted(session, task, None, ask_after=None)
    session.flush()
    inbox.take_in(session, [Incoming(Source.RESPONSE, body, task.id, result)])
