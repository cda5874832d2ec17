"""Reading a submission: JSON or a form with files, as one value.

Files go to disk as they come, and are hashed on the way: memory stays flat whatever is uploaded.
"""

import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request

from app import bodies, edits
from app.columns import clean
from app.errors import InvalidResultError
from app.services import Services
from app.uploads import Submission, Upload
from app.web.envelope import HttpError
from app.web.forms import Form
from app.web.intake import Budget, incoming, too_large

FORM = "multipart/form-data"
MAX_JSON_BYTES = 4 * 2**20
# How many submissions of the largest size may be in flight at once, in one process.
UPLOADS_IN_FLIGHT = 4


@contextmanager
def submission(
    request: Request, services: Services, budget: Budget, *, default_provider: str
) -> Iterator[Submission]:
    """What `request` asks for, every known field and file of which was found good.

    The files are there until the block ends.  Raises `InvalidFieldError`, `UnavailableError`, and
    `HttpError` (400, 413, 415).
    """
    with ExitStack() as stack:
        pieces = stack.enter_context(incoming(request, services.config.max_upload_bytes, budget))
        uploads: tuple[Upload, ...] = ()
        if request.mimetype == "application/json":
            fields = _read_json(pieces)
        elif request.mimetype == FORM:
            form = stack.enter_context(Form(request.mimetype_params.get("boundary", "")))
            _read_form(form, pieces)
            fields = edits.parse_form(services, form.fields(), default_provider)
            uploads = form.uploads()
        else:
            raise HttpError(
                "unsupported_media_type",
                f"Content-Type: expected application/json or {FORM}, "
                f"not {request.mimetype or 'none'!r}",
            )
        # A known field that is null is one that is not there.
        known = edits.known_fields(services)
        fields = {
            name: value for name, value in fields.items() if value is not None or name not in known
        }
        given = Submission(str(fields.get("provider", default_provider)), fields, uploads)
        edits.check_request(services, fields, default_provider, given.files)
        yield given


def _read_json(pieces: Iterator[bytes]) -> dict[str, Any]:
    data = bytearray()
    for piece in _inflated(pieces):
        data += piece
        if len(data) > MAX_JSON_BYTES:
            raise too_large(MAX_JSON_BYTES)
    try:
        return _without_halves(bodies.read_json(bytes(data)))
    except InvalidResultError as error:
        raise HttpError("bad_request", f"the body: {error}") from None


def _without_halves(fields: dict[str, Any]) -> dict[str, Any]:
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


def _read_form(form: Form, pieces: Iterator[bytes]) -> None:
    try:
        for piece in _inflated(pieces):
            form.feed(piece)
        form.end()
    except RequestEntityTooLarge:
        raise HttpError("too_large", "the form has too many parts, or too long ones") from None
    except ValueError as error:
        # How werkzeug's decoder says it.
        raise HttpError("bad_request", f"the body: not a form: {error}") from None


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except zlib.error as error:
        raise HttpError("bad_request", f"the body: cannot be inflated: {error}") from None
