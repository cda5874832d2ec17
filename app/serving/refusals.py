"""Errors that no application sees, in the one shape: what gunicorn cannot read, and what broke down."""

from http import HTTPStatus

from gunicorn.http import errors

from app.models import new_id
from app.web import envelope
from app.web.envelope import CODES, HttpError

# All others are bad requests.
_STATUSES: dict[type[BaseException], int] = {
    errors.ForbiddenProxyRequest: 403,
    errors.LimitRequestLine: 414,
    errors.ExpectationFailed: 417,
    errors.LimitRequestHeaders: 431,
    errors.UnsupportedTransferCoding: 501,
}
_OURS = (
    errors.ConfigurationProblem,
    errors.InvalidResponseHeader,  # type: ignore[attr-defined]  # missing in its stubs
    errors.InvalidResponseHeaderName,  # type: ignore[attr-defined]
)


def of_the_client(error: BaseException) -> bool:
    """Whether what was sent is at fault, and not this program."""
    return isinstance(error, errors.ParseException) and not isinstance(error, _OURS)


def answer(error: BaseException) -> bytes:
    """The whole HTTP answer to a request that ended with `error`; the connection closes after it."""
    refused = HttpError("api_error", "unexpected error")
    if of_the_client(error):
        status = _STATUSES.get(type(error), 400)
        code = CODES.get(status, "api_error" if status >= 500 else "bad_request")
        refused = HttpError(code, f"the request: {error}", status=status)
    request_id = new_id().hex
    body = envelope.body(refused, request_id)
    head = (
        f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"X-Request-Id: {request_id}\r\n\r\n"
    )
    return head.encode() + body
