"""Requests to a provider, and its answers in JSON."""

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from werkzeug import Request, Response

from app.errors import ProviderError
from app.sandbox.misbehaviours import MEGABYTE, Wishes, Word

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class HangUpError(Exception):
    """The connection is to be cut, without an answer."""


def hang_up(environ: "WSGIEnvironment") -> NoReturn:
    """Cuts the connection of a request, whatever of its answer was sent."""
    with suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    # What the server takes for a client that left: it says and sends nothing.
    raise ConnectionAbortedError from None


class ProviderRequest(Request):
    """A request; `trace_id` names it in answers: the caller's own, once that was read."""

    # Sixteen images of 50 MB, a mask, and the fields.
    max_content_length = 900 * 2**20
    max_form_memory_size = 2**20

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(environ)
        self.trace_id = str(uuid4())

    def authorize(self, api_key: str | None) -> None:
        """Raises `ProviderError`, a 401, without a bearer token, or one that is not `api_key`."""
        given = self.authorization
        if not given or given.type != "bearer" or not given.token:
            raise _invalid_token("Authorization: Bearer <token> is missing")
        if api_key is not None and given.token != api_key:
            raise _invalid_token("the token is not known")


def _invalid_token(message: str) -> ProviderError:
    return ProviderError(message, code="invalid_token", status=401)


def json_response(content: Any, status: int = 200) -> Response:
    """The answer that carries `content` as JSON."""
    return Response(json.dumps(content), status, mimetype="application/json")


def padded(envelope: dict[str, Any], wishes: Wishes) -> dict[str, Any]:
    """The envelope, with padding up to exactly the bytes of JSON that are wished."""
    if Word.HUGE not in wishes:
        return envelope
    envelope = envelope | {"padding": ""}
    missing = int(wishes[Word.HUGE] * MEGABYTE) - len(json.dumps(envelope))
    return envelope | {"padding": "A" * max(0, missing)}


def error_body(error: ProviderError, trace_id: str) -> dict[str, Any]:
    """How Ace Data Cloud, and whoever belongs to no provider, tells of an error."""
    return {"error": {"code": error.code, "message": str(error)}, "trace_id": trace_id}


def refusal(error: ProviderError, body: dict[str, Any]) -> Response:
    """The answer to a request that is not accepted; `body` is how its provider says so."""
    response = json_response(body, error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = f"{error.retry_after:g}"
    return response
