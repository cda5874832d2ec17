"""Requests to a provider, and its answers in JSON."""

import json
from typing import Any
from uuid import uuid4

from werkzeug import Request, Response

from app.errors import ProviderError


class HangUpError(Exception):
    """The connection is to be cut, without an answer."""


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


def error_body(error: ProviderError, trace_id: str) -> dict[str, Any]:
    """How both providers tell of an error."""
    return {"error": {"code": error.code, "message": str(error)}, "trace_id": trace_id}


def refusal(error: ProviderError, trace_id: str) -> Response:
    """The answer to a request that is not accepted."""
    response = json_response(error_body(error, trace_id), error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = f"{error.retry_after:g}"
    return response
