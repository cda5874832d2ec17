"""`/bodies/<id>`: what came in, to be read by people: laid out, as text, as bytes, or as a file."""

import json
from collections.abc import Iterator
from enum import StrEnum
from uuid import UUID

from flask import Response, stream_with_context
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from app import bodies, dossiers, reports
from app.models import Scope
from app.web import parameters
from app.web.auth import signed_in
from app.web.pages import wording
from app.web.pages.sheet import bp, page
from app.web.state import services

# So much of a body is shown; the file has all of it.
SHOWN_BYTES = 64 * 1024
_LINE = 16


class Form(StrEnum):
    """How a body is shown."""

    PRETTY = "pretty"
    TEXT = "text"
    HEX = "hex"


@bp.get("/bodies/<uuid:id_>")
@signed_in(Scope.ADMIN)
def body(id_: UUID) -> ResponseReturnValue:
    """The beginning of a body."""
    form = parameters.word("form", Form) or Form.PRETTY
    with services().db.reading() as db:
        callback = dossiers.find_callback(db, id_)
        data = _beginning(db, id_)
    return page(
        "body.html",
        callback=callback,
        forms=list(Form),
        form=form,
        content=laid_out(data[:SHOWN_BYTES], form, whole=len(data) <= SHOWN_BYTES),
        cut=len(data) > SHOWN_BYTES,
        shown_bytes=SHOWN_BYTES,
    )


@bp.get("/bodies/<uuid:id_>/file")
@signed_in(Scope.ADMIN)
def body_file(id_: UUID) -> ResponseReturnValue:
    """All of a body, byte for byte."""
    with services().db.reading() as db:
        dossiers.find_callback(db, id_)
        size = reports.body_size(db, id_)

    def pieces() -> Iterator[bytes]:
        with services().db.reading() as db:
            yield from bodies.read_body(db, id_)

    # Never with the type that it came with: a browser must not run what a stranger sent.
    response = Response(stream_with_context(pieces()), mimetype="application/octet-stream")
    response.content_length = size or 0
    response.headers["Content-Disposition"] = f'attachment; filename="{id_}.json"'
    return response


def laid_out(data: bytes, form: Form, *, whole: bool) -> str:
    """`data` for people; what cannot be laid out, being cut or no JSON, is shown as text."""
    if form is Form.HEX:
        return "\n".join(_hex_line(data, start) for start in range(0, len(data), _LINE))
    text = data.decode("utf-8", "replace")
    if form is Form.PRETTY and whole:
        try:
            return wording.pretty(json.loads(text))
        except (ValueError, RecursionError):
            return text
    return text


def _hex_line(data: bytes, start: int) -> str:
    piece = data[start : start + _LINE]
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
    return f"{start:08x}  {piece.hex(' ', 1):<{_LINE * 3 - 1}}  {text}"


def _beginning(session: Session, id_: UUID) -> bytes:
    data = b""
    for piece in bodies.read_body(session, id_):
        data += piece
        if len(data) > SHOWN_BYTES:
            break
    return data
