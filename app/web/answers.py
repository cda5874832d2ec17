"""What a submission is answered with, and whether its caller has got it whole."""

import json
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, BinaryIO
from uuid import UUID

from flask import Response, jsonify, request, url_for
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import resends
from app.errors import NotFoundError, UnavailableError
from app.models import FINAL, Image, ImageStatus, Task, TaskStatus
from app.resends import Entered, Marks
from app.signing import Picture
from app.web import failures
from app.web.envelope import RETRY_AFTER, HttpError
from app.web.peers import Peer
from app.web.state import broadcast, marks, services, waiters

# Divisible by 3, so that the base64 of the pieces is that of the whole.
PIECE_BYTES = 192 * 1024
# What nginx calls it: nobody reads it.
CLIENT_GONE = 499


@dataclass(frozen=True)
class Ending:
    """How a task ended, with its stored images; `in_doubt` says that a failure may have cost."""

    task: Task
    images: Sequence[Image]
    in_doubt: bool


def at_once(entered: Entered) -> Response:
    """The answer that does not wait for the result."""
    response = jsonify(head(entered.task))
    response.headers["Location"] = url_for("lookups.task", id_=entered.task.id)
    return delivered(replayed(response, entered), entered.task)


def with_result(entered: Entered, *, as_base64: bool) -> Response:
    """The answer that is the result, or the error in its place, once the task has ended.

    To be called in a place among the waiters.  Raises `HttpError` after `SYNC_WAIT`: the task goes on.
    """
    task = entered.task
    ending = _wait(task)
    if ending is None:
        return Response(status=CLIENT_GONE)
    if ending.task.status is not TaskStatus.SUCCEEDED:
        response = failures.answer(error_of(ending))
        if ending.in_doubt:
            # It never counts as got: who sends the edit again shall not pay for it again.
            return replayed(response, entered)
    elif as_base64:
        response = _in_base64(ending)
    else:
        response = jsonify(_result(ending, [_link(image) for image in ending.images]))
    with services().db.transaction() as session:
        resends.begin_answer(session, task.id)
    return delivered(replayed(response, entered), task)


def head(task: Task) -> dict[str, Any]:
    """What every answer about a task that is well begins with."""
    return {
        "success": True,
        "task_id": str(task.id),
        "trace_id": task.trace_id or str(task.id),
    }


def delivered(response: Response, task: Task) -> Response:
    """`response`, which notes when all of it was written that its caller has got the task's answer."""
    pieces: Iterable[bytes] = response.response  # type: ignore[assignment]  # flask's are bytes
    response.response = noted(pieces, task, Peer(request.environ), marks())
    return response


def noted(pieces: Iterable[bytes], task: Task, peer: Peer, marks: Marks) -> Iterator[bytes]:
    """`pieces`; when all of them were written, it is noted that the caller has got the task's answer."""
    there = True
    whole = False
    try:
        for piece in pieces:
            there = there and not peer.gone()
            # The server asks for the next one only when it has written this one.
            yield piece
        whole = there
    finally:
        marks.note(task.id, whole=whole)


def error_of(ending: Ending) -> HttpError:
    """The error that a task has ended with, which may not make a client pay again."""
    task = ending.task
    extra = {"task_id": str(task.id)}
    if task.status is TaskStatus.CANCELED:
        # A status after which no client tries again by itself.
        return HttpError("canceled", "the task was canceled", status=410, extra=extra)
    status = task.error_status or 500
    message = task.error_message or "the edit failed"
    passing = status >= 500 or status == 429
    headers = {} if passing and not ending.in_doubt else {"x-should-retry": "false"}
    if status in {429, 503} and not headers:
        headers["Retry-After"] = RETRY_AFTER
    code = task.error_code or "api_error"
    return HttpError(code, message, status=status, headers=headers, extra=extra)


def ending_of(session: Session, task_id: UUID) -> Ending | None:
    """How the task has ended, if it has.  Raises `NotFoundError` for one that was deleted."""
    now = session.get(Task, task_id)
    if now is None:
        raise NotFoundError(f"task {str(task_id)!r} was deleted")
    if now.status not in FINAL:
        return None
    stored = select(Image).filter_by(task_id=now.id, status=ImageStatus.STORED)
    images = session.scalars(stored.order_by(Image.index)).all()
    failed = now.status is TaskStatus.FAILED
    return Ending(now, images, failed and resends.may_have_cost(session, now))


def restarting() -> UnavailableError:
    """Another process answers, and to it this is the same submission."""
    return UnavailableError("the server restarts: send it again, and nothing is paid twice")


def not_yet(task: Task) -> HttpError:
    """The error after `SYNC_WAIT`."""
    return HttpError(
        "timeout",
        "the result is not there yet; the task goes on, and nothing is lost",
        headers={"x-should-retry": "false"},
        extra={"task_id": str(task.id)},
    )


def replayed(response: Response, entered: Entered) -> Response:
    """`response`, which says so when it answers to an idempotency key that was used before."""
    if entered.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def base64_of(file: BinaryIO) -> Iterator[bytes]:
    """The base64 of what is in `file`, in pieces."""
    rest = b""
    while data := file.read(PIECE_BYTES):
        rest += data
        whole = len(rest) // 3 * 3
        yield b64encode(rest[:whole])
        rest = rest[whole:]
    yield b64encode(rest)


def _wait(task: Task) -> Ending | None:
    """How the task has ended; None when the client did not wait for it."""

    def ended() -> Ending | None:
        with services().db.reading() as session:
            return ending_of(session, task.id)

    peer = Peer(request.environ)
    ending = waiters().wait(
        task.id,
        ended,
        services().config.sync_wait,
        wanted=lambda: not (broadcast().ended or peer.gone()),
    )
    if ending is not None or peer.gone():
        return ending
    raise restarting() if broadcast().ended else not_yet(task)


def _result(ending: Ending, data: list[dict[str, Any]]) -> dict[str, Any]:
    task = ending.task
    created = int(task.finished_at.timestamp() if task.finished_at else time.time())
    usage = {"usage": task.usage} if task.usage else {}
    return {**head(task), "created": created, "model": task.model, "data": data, **usage}


def _link(image: Image) -> dict[str, Any]:
    extension = str(image.key).rpartition(".")[2]
    return _item(image, "url", services().picture_url(Picture.OUTPUT, image.id, extension))


def _item(image: Image, name: str, value: str) -> dict[str, Any]:
    prompt = {"revised_prompt": image.revised_prompt} if image.revised_prompt else {}
    return {name: value, **prompt}


def _in_base64(ending: Ending) -> Response:
    """The result with its images in it, read from storage as they are sent.

    Raises `StorageError` as long as nothing was sent.
    """
    place = token_hex(16)
    data = [_item(image, "b64_json", place) for image in ending.images]
    texts = json.dumps(_result(ending, data)).split(place)
    with ExitStack() as stack:
        files = [
            stack.enter_context(services().storage.open(str(image.key))) for image in ending.images
        ]
        opened = stack.pop_all()
    response = Response(_interleaved(texts, files), mimetype="application/json")
    response.content_length = sum(map(len, texts)) + sum(
        _base64_length(image.size or 0) for image in ending.images
    )
    response.call_on_close(opened.close)
    return response


def _interleaved(texts: Sequence[str], files: Sequence[BinaryIO]) -> Iterator[bytes]:
    yield texts[0].encode()
    for file, text in zip(files, texts[1:], strict=True):
        yield from base64_of(file)
        yield text.encode()


def _base64_length(size: int) -> int:
    return (size + 2) // 3 * 4
