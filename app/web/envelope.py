"""The one shape of every error, and the HTTP statuses of its codes."""

import json
from collections.abc import Mapping

from app.errors import InvalidFieldError, PostbackError

STATUSES = {
    "bad_request": 400,
    "no_token": 401,
    "invalid_token": 401,
    "insufficient_scope": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_mismatch": 422,
    "invalid_callback": 422,
    "too_early": 425,
    "too_many_requests": 429,
    "api_error": 500,
    "unavailable": 503,
    "timeout": 504,
}
CODES = {status: code for code, status in STATUSES.items()} | {
    401: "invalid_token",
    422: "bad_request",
}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

# Seconds to wait before a call that met a passing trouble is worth repeating.
RETRY_AFTER = "5"


class HttpError(PostbackError):
    """An answer that is an error: `code` gives its status, unless it is a provider's own.

    `param` names the field at fault; `extra` goes beside the error, at the top level.
    """

    permanent = True

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.status = status or STATUSES[code]
        self.param = param
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def as_http_error(error: PostbackError) -> HttpError:
    """The answer to an error of the layers below."""
    if isinstance(error, HttpError):
        return error
    code = error.code if error.code in STATUSES else "api_error"
    param = error.param if isinstance(error, InvalidFieldError) else None
    headers = {"Retry-After": RETRY_AFTER} if STATUSES[code] == 503 else {}
    return HttpError(code, str(error), param=param, headers=headers)


def body(error: HttpError, trace_id: str) -> bytes:
    """The JSON of an error."""
    fallback = "invalid_request_error" if error.status < 500 else "api_error"
    envelope = {
        "error": {
            "code": error.code,
            "message": str(error),
            "type": TYPES.get(error.status, fallback),
            "param": error.param,
        },
        "trace_id": trace_id,
        **error.extra,
    }
    return json.dumps(envelope).encode()
