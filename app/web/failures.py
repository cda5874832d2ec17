"""Every error that leaves: JSON for programs, a page for people, and nothing of what is inside."""

from http import HTTPStatus

import structlog
from flask import Flask, Response, g, render_template, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException

from app.db import is_outage
from app.errors import PostbackError, UnavailableError
from app.web import envelope
from app.web.envelope import CODES, HttpError
from app.web.state import request_id

log = structlog.get_logger()

# Where programs call; everything else is a page.
API_PATHS = (
    "/v1/",
    "/openai/",
    "/images/",
    "/callbacks/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
)


def register(app: Flask) -> None:
    """Answer every error of `app` in the one shape."""
    app.register_error_handler(PostbackError, _on_known)
    app.register_error_handler(HTTPException, _on_http)
    app.register_error_handler(Exception, _on_unknown)


def _on_known(error: PostbackError) -> Response:
    return answer(envelope.as_http_error(error))


def _on_http(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:
        # A redirect of the router's own.
        return error.get_response()  # type: ignore[return-value]  # werkzeug's, which Flask sends
    headers = {
        name: value
        for name, value in error.get_headers()
        if name in {"Allow", "Content-Range", "Retry-After", "WWW-Authenticate"}
    }
    message = _message(error, status)
    code = CODES.get(status, "api_error" if status >= 500 else "bad_request")
    return answer(HttpError(code, message, status=status, headers=headers))


def _message(error: HTTPException, status: int) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return f"there is nothing at {request.path[:200]}"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return f"expected {allowed or 'another method'}, not {request.method}"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and request.max_content_length:
        return f"the body is larger than {request.max_content_length:,} bytes"
    if isinstance(error, CSRFError):
        return "the form is too old or was not sent from here: reload the page and try again"
    return str(error.description or error.name)


def _on_unknown(error: Exception) -> Response:
    if is_outage(error):
        log.warning("database away", action="request", error=str(error))
        return _on_known(UnavailableError("the database is away"))
    log.exception("unexpected error", action="request")
    return _on_known(PostbackError("unexpected error"))


def answer(error: HttpError) -> Response:
    """The response that says `error`: JSON for programs, a page for people."""
    # Not its message, in which there may be what a caller wants to keep for himself.
    log.info("refused", action="refuse", status=error.status, code=error.code, param=error.param)
    if request.path.startswith(API_PATHS):
        content = envelope.body(error, request_id())
        return Response(content, error.status, error.headers, mimetype="application/json")
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # Who that is would be asked of a database that may just have kept us waiting.
        g.visitor = g.get("key")
    page = render_template(
        "error.html", error=error, reason=HTTPStatus(error.status).phrase, trace_id=request_id()
    )
    return Response(page, error.status, error.headers, mimetype="text/html")
