"""`GET /images/<token>`: an image's permanent address; the token is the permission."""

import os
import re
from typing import TYPE_CHECKING

from flask import Blueprint, Response, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import wrap_file

from app import reports
from app.errors import NotFoundError, TokenError
from app.models import Image, ImageStatus
from app.signing import Picture
from app.web.auth import public
from app.web.conditions import conditions
from app.web.envelope import HttpError
from app.web.state import services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

bp = Blueprint("pictures", __name__)

# A redirect leads to an address that lives for an hour, but no longer than the credentials that signed
# it: temporary ones are renewed ten minutes before their end.
REDIRECT_SECONDS = 300
RETRY_SECONDS = 2
# Stored bytes are from outside: should a browser ever take them for a page, it runs nothing.
SANDBOX = "default-src 'none'; sandbox"
# One range from a byte on, or so many at the end.
_RANGE = re.compile(r"bytes=(?:([0-9]+)-([0-9]*)|-([0-9]+))")


@bp.get("/images/<token>")
@public
def picture(token: str) -> ResponseReturnValue:
    """The bytes, or a redirect to where they are; 425 while the copy is under way."""
    # The token has three parts, and after it a file name's extension may follow.
    parts = token.split(".", 3)
    try:
        read = services().signing.read_picture_token(".".join(parts[:3]))
    except TokenError as error:
        raise NotFoundError(str(error)) from None
    with services().db.reading() as session:
        row, key = reports.find_picture(session, read.picture, read.id)
    if key is None:
        raise _not_there(row)
    if address := services().storage.address(key, request.method):
        response = redirect(address)
        response.headers["Cache-Control"] = f"public, max-age={REDIRECT_SECONDS}"
        return response
    content_type = "image/webp" if read.picture is Picture.THUMBNAIL else row.content_type
    return _serve(key, content_type or "application/octet-stream", etag=parts[2])


def _serve(key: str, content_type: str, *, etag: str) -> Response:
    file = services().storage.open(key)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    response = Response(
        wrap_file(request.environ, file), mimetype=content_type, direct_passthrough=True
    )
    response.content_length = size
    response.set_etag(etag)
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    response.headers["Content-Security-Policy"] = SANDBOX
    try:
        response.make_conditional(_ranged(size, etag), accept_ranges=True, complete_length=size)
    except RequestedRangeNotSatisfiable:
        file.close()
        raise
    return response


def _ranged(size: int, etag: str) -> "WSGIEnvironment":
    """The request with a range only where that counts, for werkzeug refuses more than RFC 9110 lets it.

    Several ranges, other units and nonsense get the whole (14.2), as does what asks for more than
    there is from the end (14.1.2); what the client has already is not sent in parts (13.2.2).
    """
    environ = conditions()
    match = _RANGE.fullmatch(environ.get("HTTP_RANGE", ""))
    known = request.if_none_match.contains_weak(etag)
    if match is None or request.method != "GET" or known or _is_empty(match):
        environ.pop("HTTP_RANGE", None)
    elif match[3] and int(match[3]) > size:
        environ["HTTP_RANGE"] = "bytes=0-"
    return environ


def _is_empty(match: re.Match[str]) -> bool:
    return bool(match[2]) and int(match[2]) < int(match[1])


def _not_there(row: object) -> Exception:
    if isinstance(row, Image) and row.status is ImageStatus.PENDING:
        return HttpError(
            "too_early",
            "the image is being copied",
            headers={"Retry-After": str(RETRY_SECONDS), "Cache-Control": "no-store"},
        )
    return NotFoundError("there is no such image")
