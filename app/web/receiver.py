"""`POST /callbacks/<token>`: plain WSGI, mounted before Flask, which would cost half the speed.

It knows tokens, limits and the inbox.  No body is waited for unless the token is good and its task
is there; an answer is given only when what it says is committed.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select
from werkzeug.wrappers import Request, Response

from app import bodies
from app.bodies import CHUNK_BYTES, INLINE_BYTES, Body
from app.db import is_outage
from app.errors import InvalidResultError, PostbackError, TokenError, UnavailableError
from app.inbox import Inbox, Incoming, Outcome
from app.models import Callback, Source
from app.providers.base import Result
from app.services import Services
from app.signing import CallbackToken
from app.web import envelope
from app.web.envelope import HttpError
from app.web.intake import BODY_IS_HERE, Budget, Received, received
from app.web.middleware import REQUEST_ID
from app.web.rejections import Rejections

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = structlog.get_logger()

# Headers that may help to find out why a callback was refused; never one that could be a secret.
KEPT_HEADERS = {
    "Content-Type": "CONTENT_TYPE",
    "Content-Encoding": "HTTP_CONTENT_ENCODING",
    "Content-Length": "CONTENT_LENGTH",
    "User-Agent": "HTTP_USER_AGENT",
}
# Why a body with a good token is not read to its end, and noted in the rejection log.
REFUSED_UNREAD = frozenset({"too_large", "unsupported_media_type"})
CONNECTIONS = 4
# How many bodies of the largest size may be in flight at once.
BODIES_IN_FLIGHT = 4


class Receiver:
    """The WSGI application; `PATH_INFO` is `/<token>`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._limit = services.config.max_callback_bytes
        # Connections of its own: no other traffic can keep a callback waiting for one.
        self._db = services.db.reserve(CONNECTIONS)
        self._inbox = Inbox(self._db, services.confirmed)
        self._budget = Budget(BODIES_IN_FLIGHT * self._limit)
        # Each with its own allowance: a flood of made-up tokens must not hide what a provider sends.
        self._forged = Rejections(self._db, self._inbox)
        self._refused = Rejections(self._db, self._inbox)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer one request."""
        try:
            taken = self._receive(Request(environ))
        except Exception as error:
            response = _error_response(error, environ.get(REQUEST_ID, ""))
            return response(environ, start_response)
        # By hand: werkzeug's response takes as long as judging the body.
        body = json.dumps(taken).encode()
        length = ("Content-Length", str(len(body)))
        start_response("200 OK", [("Content-Type", "application/json"), length])
        return [body]

    def close(self) -> None:
        """Write what is queued, and give the connections back."""
        self._inbox.stop()
        if self._db is not self._services.db:
            self._db.close()

    def _receive(self, request: Request) -> dict[str, str]:
        """What is answered once it is stored."""
        if request.method != "POST":
            raise HttpError(
                "method_not_allowed",
                f"expected POST, not {request.method}",
                headers={"Allow": "POST"},
            )
        token = self._read_token(request)
        # A small body that is here already is stored or not in one step: `take` knows the task, too.
        if not request.environ.get(BODY_IS_HERE):
            self._require_task(request, token)
        try:
            with received(request, self._limit, self._budget) as body:
                return self._store(request, token, body)
        except HttpError as error:
            if error.code in REFUSED_UNREAD:
                self._reject(request, str(error), token)
            raise

    def _read_token(self, request: Request) -> CallbackToken:
        try:
            return self._services.signing.read_callback_token(request.path[1:])
        except TokenError as error:
            self._reject(request, f"token: {error}")
            raise HttpError("not_found", "no such callback URL") from None

    def _require_task(self, request: Request, token: CallbackToken) -> None:
        provider = self._inbox.provider_of(token.task_id)
        if provider is None:
            raise self._gone(request, token)
        if provider != token.provider:
            self._reject(request, f"task {token.task_id} is not {token.provider}'s")
            raise HttpError("not_found", "no such callback URL")

    def _gone(self, request: Request, token: CallbackToken) -> HttpError:
        self._reject(request, f"task {token.task_id} is gone")
        return HttpError("not_found", "no such callback URL")

    def _store(self, request: Request, token: CallbackToken, received_: Received) -> dict[str, str]:
        body = self._keep(received_)
        result, reason = self._read(token, body, received_.problem)
        incoming = Incoming(
            Source.CALLBACK,
            body,
            token.task_id,
            result,
            reason,
            address=request.remote_addr,
            headers=_kept_headers(request),
        )
        taken = self._inbox.take(incoming)
        if body.inline is None:
            self._delete_unowned(body)
        if taken.outcome is Outcome.GONE:
            raise self._gone(request, token)
        if taken.outcome is Outcome.REJECTED:
            raise HttpError("invalid_callback", taken.reason or "")
        accepted = {"task_id": str(token.task_id)} if taken.outcome is Outcome.ACCEPTED else {}
        return {"status": taken.outcome, **accepted}

    def _keep(self, received_: Received) -> Body:
        """The body; the chunks of a large one are written now, each in a transaction of its own."""
        if received_.size <= INLINE_BYTES:
            return Body(received_.size, received_.sha256, received_.file.read())
        body = Body(received_.size, received_.sha256)
        position = 0
        while data := received_.file.read(CHUNK_BYTES):
            with self._db.transaction() as session:
                bodies.write_chunk(session, body.id, position, data)
            position += 1
        return body

    def _delete_unowned(self, body: Body) -> None:
        """The chunks of a body that was there already go; those of a rejected one may be read again."""
        with self._db.transaction() as session:
            if session.scalar(select(Callback.id).filter_by(id=body.id)) is None:
                bodies.delete_chunks(session, [body.id])

    def _read(
        self, token: CallbackToken, body: Body, problem: str | None
    ) -> tuple[Result | None, str | None]:
        """The result in a small body, or why it has none; neither for a large one."""
        if problem is not None or body.inline is None:
            return None, problem
        try:
            payload = bodies.read_json(body.inline)
            return self._services.providers[token.provider].read_result(payload), None
        except InvalidResultError as error:
            return None, str(error)

    def _reject(self, request: Request, reason: str, token: CallbackToken | None = None) -> None:
        """Note in the log that a body was not read."""
        log.warning("callback refused", action="reject", reason=reason)
        incoming = Incoming(
            Source.CALLBACK,
            Body(size=request.content_length),
            token.task_id if token else None,
            reason=reason,
            address=request.remote_addr,
            headers=_kept_headers(request),
        )
        (self._refused if token else self._forged).keep(incoming)


def _kept_headers(request: Request) -> dict[str, str]:
    environ = request.environ
    return {name: environ[key][:200] for name, key in KEPT_HEADERS.items() if key in environ}


def _error_response(error: Exception, trace_id: str) -> Response:
    if is_outage(error):
        error = UnavailableError("the database is away")
    elif not isinstance(error, PostbackError):
        log.exception("unexpected error", action="receive")
        error = PostbackError("unexpected error")
    answer = envelope.as_http_error(error)
    return Response(
        envelope.body(answer, trace_id),
        answer.status,
        answer.headers,
        mimetype="application/json",
    )
