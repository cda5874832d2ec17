"""A JSON object in a request's body, read within limits."""

import json
import zlib
from collections.abc import Iterator
from typing import Any

from app import bodies
from app.columns import clean
from app.errors import InvalidResultError
from app.web.envelope import HttpError
from app.web.intake import too_large

MAX_JSON_BYTES = 4 * 2**20


def read_object(pieces: Iterator[bytes]) -> dict[str, Any]:
    """The object that a body, which comes in `pieces`, is.  Raises `HttpError` (400, 413)."""
    data = bytearray()
    for piece in inflated(pieces):
        data += piece
        if len(data) > MAX_JSON_BYTES:
            raise too_large(MAX_JSON_BYTES)
    try:
        return without_halves(bodies.read_json(bytes(data)))
    except InvalidResultError as error:
        raise HttpError("bad_request", f"the body: {error}") from None


def without_halves(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` with U+FFFD for each lone surrogate: half of a character that was cut in two.

    JSON can say it, and no text can have it: not the database's, not a form's.
    """
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        whole: dict[str, Any] = json.loads(clean(text))
        return whole
    return fields


def inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """`pieces`, with an `HttpError` for those that cannot be inflated."""
    try:
        yield from pieces
    except zlib.error as error:
        raise HttpError("bad_request", f"the body: cannot be inflated: {error}") from None
