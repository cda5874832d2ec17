"""`stream: true`: the result as Server-Sent Events, in the words that OpenAI has for image edits.

Partial images come as they are stored, then each image, then `[DONE]`; an error comes as an event.
Only from the first image that is done on is the task's answer being given: who has got it whole is
noted there (`_answered`), and nowhere else.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from flask import Response, request, url_for
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import resends
from app.db import is_outage
from app.errors import PostbackError, UnavailableError
from app.models import Image, Partial, Task, TaskStatus
from app.resends import Entered, Marks
from app.services import Services
from app.signing import Picture
from app.web import answers, envelope
from app.web.answers import Ending
from app.web.broadcast import Broadcast
from app.web.envelope import HttpError
from app.web.peers import Peer
from app.web.state import broadcast, marks, request_id, services, waiters
from app.web.waiting import Waiters

log = structlog.get_logger()

HEARTBEAT_SECONDS = 15.0
DONE = b"data: [DONE]\n\n"

_PARTIAL, _COMPLETED = "image_edit.partial_image", "image_edit.completed"


@dataclass(frozen=True)
class _News:
    """What has happened to a task since the last look."""

    partials: Sequence[Partial]
    ending: Ending | None


def as_events(entered: Entered, place: ExitStack, fields: Mapping[str, Any]) -> Response:
    """The answer that tells how it goes, until it is done; it keeps its `place` among the waiters.

    `fields` are those of the submission: `response_format=url` asks for links.
    """
    with place:
        stream = _Stream(
            services(),
            waiters(),
            marks(),
            broadcast(),
            Peer(request.environ),
            entered.task,
            fields,
            request_id(),
        )
        response = Response(stream.pieces(), mimetype="text/event-stream")
        # Also when not a single piece was asked for.
        response.call_on_close(place.pop_all().close)
    response.headers["Location"] = url_for("lookups.task", id_=entered.task.id)
    response.headers["Cache-Control"] = "no-store"
    # nginx would collect the events before it passes them on.
    response.headers["X-Accel-Buffering"] = "no"
    return answers.replayed(response, entered)


@dataclass
class _Stream:
    """One answer."""

    services: Services
    waiters: Waiters
    marks: Marks
    broadcast: Broadcast
    peer: Peer
    task: Task
    fields: Mapping[str, Any]
    trace_id: str
    told: set[UUID] = field(default_factory=set)

    def pieces(self) -> Iterator[bytes]:
        """What is sent."""
        # Takes the headers with it.
        yield b": the edit is under way\n\n"
        try:
            yield from self._events()
        except Exception as error:
            # It may be in the middle of an image.
            yield b"\n\n" + self._error(_as_known(error))

    def _events(self) -> Iterator[bytes]:
        deadline = time.monotonic() + self.services.config.sync_wait
        while (left := deadline - time.monotonic()) > 0:
            news = self.waiters.wait(
                self.task.id,
                self._look,
                min(left, HEARTBEAT_SECONDS),
                wanted=lambda: not (self.broadcast.ended or self.peer.gone()),
            )
            if self.peer.gone():
                return
            if news is None and self.broadcast.ended:
                raise answers.restarting()
            if news is None:
                yield b": still under way\n\n"
                continue
            for row in news.partials:
                self.told.add(row.id)
                yield from self._partial(row)
            if news.ending:
                yield from self._ended(news.ending)
                return
        yield self._error(answers.not_yet(self.task))

    def _look(self) -> _News | None:
        with self.services.db.reading() as session:
            ending = answers.ending_of(session, self.task.id)
            partials = self._untold(session)
        return _News(partials, ending) if partials or ending else None

    def _untold(self, session: Session) -> Sequence[Partial]:
        rows = select(Partial).filter_by(task_id=self.task.id).order_by(Partial.index)
        return [row for row in session.scalars(rows) if row.id not in self.told]

    def _ended(self, ending: Ending) -> Iterator[bytes]:
        if ending.task.status is TaskStatus.SUCCEEDED:
            return self._answered(lambda: self._completed(ending))
        error = self._error(answers.error_of(ending))
        if ending.in_doubt:
            # It never counts as got: who sends the edit again shall not pay for it again.
            return iter([error])
        return self._answered(lambda: iter([error]))

    def _answered(self, pieces: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        """The end of the stream, which is the task's answer; whether it was written whole is noted."""
        with self.services.db.transaction() as session:
            resends.begin_answer(session, self.task.id)
        return answers.noted(pieces(), self.task, self.peer, self.marks)

    def _completed(self, ending: Ending) -> Iterator[bytes]:
        for image in ending.images:
            yield from self._image(ending.task, image)
        yield DONE

    def _image(self, task: Task, image: Image) -> Iterator[bytes]:
        content = {
            "created_at": _seconds(image.stored_at or task.finished_at),
            "size": f"{image.width}x{image.height}",
            **self._asked(image.content_type),
            "usage": task.usage and {"input_tokens_details": None, **task.usage},
        }
        if image.revised_prompt:
            content["revised_prompt"] = image.revised_prompt
        return self._event(_COMPLETED, Picture.OUTPUT, image.id, str(image.key), content)

    def _partial(self, row: Partial) -> Iterator[bytes]:
        content = {
            "created_at": _seconds(row.received_at),
            "size": self.fields.get("size", "auto"),
            **self._asked(row.content_type),
            "partial_image_index": row.index,
        }
        return self._event(_PARTIAL, Picture.PARTIAL, row.id, row.key, content)

    def _asked(self, content_type: str | None) -> dict[str, Any]:
        """What the SDK's types want to hear again."""
        return {
            "quality": self.fields.get("quality", "auto"),
            "background": self.fields.get("background", "auto"),
            "output_format": str(content_type).rpartition("/")[2],
        }

    def _event(
        self, kind: str, picture: Picture, id_: UUID, key: str, content: Mapping[str, Any]
    ) -> Iterator[bytes]:
        """An event with an image, read from storage as it is sent.  Raises `StorageError`."""
        head = f'event: {kind}\ndata: {{"type": "{kind}", '
        rest = f"{json.dumps(content)[1:]}\n\n".encode()
        if self.fields.get("response_format") == "url":
            url = self.services.picture_url(picture, id_, key.rpartition(".")[2])
            yield f'{head}"url": {json.dumps(url)}, '.encode() + rest
            return
        with self.services.storage.open(key) as file:
            yield f'{head}"b64_json": "'.encode()
            yield from answers.base64_of(file)
            yield b'", ' + rest

    def _error(self, error: HttpError) -> bytes:
        return b"event: error\ndata: " + envelope.body(error, self.trace_id) + b"\n\n"


def _seconds(at: datetime | None) -> int:
    return int(at.timestamp() if at else time.time())


def _as_known(error: Exception) -> HttpError:
    if isinstance(error, PostbackError):
        return envelope.as_http_error(error)
    if is_outage(error):
        return envelope.as_http_error(UnavailableError("the database is away"))
    log.exception("unexpected error", action="stream")
    return envelope.as_http_error(PostbackError("unexpected error"))
