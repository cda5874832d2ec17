"""What a task starts from, for its page: out of storage, or from where the caller keeps it.

A page asks no other host than its own for anything; so the service fetches a caller's image, behind
the guard, for whoever has signed in.
"""

from collections.abc import Iterator
from http import HTTPStatus

from flask import Response, redirect, request
from flask.typing import ResponseReturnValue

from app import dossiers, reports
from app.errors import NotFoundError, OutboundError
from app.models import Role, Scope
from app.outbound import Limits
from app.signing import Picture
from app.web.auth import signed_in
from app.web.pages.sheet import bp, own_path
from app.web.pictures import SANDBOX
from app.web.state import services, waiters
from app.wire import Request

REDIRECTS = 3
LIMITS = Limits(read=10.0, total=20.0)
# The first bytes of what browsers show, and what it is called.
_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@bp.get("/tasks/<id_>/<any(image,mask):role>/<int:index>")
@signed_in(Scope.READ)
def original(id_: str, role: str, index: int) -> ResponseReturnValue:
    """One of the images that a task starts from."""
    parts = services()
    with parts.db.reading() as db:
        found = dossiers.find_input(db, reports.find_task(db, id_), Role(role), index)
    if found.key:
        return redirect(own_path(parts.picture_url(Picture.INPUT, found.id)))
    try:
        return _fetched(found.source_url or "")
    except NotFoundError:
        if request.headers.get("Sec-Fetch-Dest") == "image":
            # The page says so itself; a 404 would be an error in the browser's console.
            return Response(status=HTTPStatus.NO_CONTENT)
        raise


def _fetched(url: str) -> Response:
    config = services().config
    try:
        with (
            waiters().place(),
            services().outbound.stream(
                Request("GET", url), LIMITS, redirects=REDIRECTS, hosts=config.image_hosts
            ) as answer,
        ):
            data = b"".join(answer) if answer.status == 200 else b""
    except (OutboundError, ValueError) as error:
        raise NotFoundError(f"the caller's image cannot be had any more: {error}") from None
    content_type = next(_recognised(data), None)
    if content_type is None:
        raise NotFoundError("what is at the caller's address now is no image")
    headers = {"Cache-Control": "private, max-age=3600", "Content-Security-Policy": SANDBOX}
    return Response(data, mimetype=content_type, headers=headers)


def _recognised(data: bytes) -> Iterator[str]:
    return (kind for magic, kind in _MAGIC.items() if data.startswith(magic))
