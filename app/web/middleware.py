"""Around every request: an id, a log line without secrets, the headers that all answers carry."""

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog

from app.models import new_id

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger()

REQUEST_ID = "postback.request_id"

# The token in such a path is the permission: whoever reads it in a log could use it.
_SECRET_PATH = re.compile(r"(?<!/v1)(?<!/openai)/+(callbacks|images)/.+")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
]


def redact(path: str) -> str:
    """A path that may be logged."""
    return _SECRET_PATH.sub(r"/\1/[redacted]", path)


def observed(application: "WSGIApplication", *, https: bool) -> "WSGIApplication":
    """`application`, with a request id, common headers and one log line for each request."""
    headers = [*_HEADERS]
    if https:
        headers.append(("Strict-Transport-Security", "max-age=31536000"))

    def observe(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        started = time.perf_counter()
        request_id = _request_id(environ)
        environ[REQUEST_ID] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answered: list[str] = []

        def start(status: str, given: list[tuple[str, str]], exc_info: Any = None) -> Any:
            answered[:] = [status]
            names = {name.lower() for name, _ in given}
            common = [header for header in headers if header[0].lower() not in names]
            return start_response(status, [*given, *common, ("X-Request-Id", request_id)], exc_info)

        try:
            return application(environ, start)
        finally:
            _log(environ, answered[0] if answered else "500", started)
            # What the server itself logs in this thread is about another request.
            structlog.contextvars.clear_contextvars()

    return observe


def _request_id(environ: "WSGIEnvironment") -> str:
    given = environ.get("HTTP_X_REQUEST_ID", "")
    return given if _REQUEST_ID.fullmatch(given) else new_id().hex


def _log(environ: "WSGIEnvironment", status: str, started: float) -> None:
    log.info(
        "request",
        action="request",
        method=environ.get("REQUEST_METHOD"),
        path=redact(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")),
        status=int(status.split(" ", 1)[0]),
        ms=round((time.perf_counter() - started) * 1000, 1),
        address=environ.get("REMOTE_ADDR"),
    )
