"""Reading a submission: JSON or a form with files, as one value.

Files go to disk as they come, and are hashed on the way: memory stays flat whatever is uploaded.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request

from app import edits
from app.services import Services
from app.uploads import Submission, Upload
from app.web.envelope import HttpError
from app.web.forms import MAX_BUFFER_BYTES, MAX_PARTS, Form
from app.web.intake import Budget, incoming
from app.web.objects import inflated, read_object, without_halves

FORM = "multipart/form-data"
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
    known = edits.known_fields(services)
    with ExitStack() as stack:
        pieces = stack.enter_context(incoming(request, services.config.max_upload_bytes, budget))
        uploads: tuple[Upload, ...] = ()
        if request.mimetype == "application/json":
            fields = read_object(pieces)
        elif request.mimetype == FORM:
            boundary = request.mimetype_params.get("boundary", "")
            form = stack.enter_context(Form(boundary, known))
            _read_form(form, pieces)
            fields = without_halves(edits.parse_form(services, form.fields(), default_provider))
            uploads = form.uploads()
        else:
            raise HttpError(
                "unsupported_media_type",
                f"Content-Type: expected application/json or {FORM}, "
                f"not {request.mimetype or 'none'!r}",
            )
        # A known field that is null is one that is not there.
        fields = {
            name: value for name, value in fields.items() if value is not None or name not in known
        }
        given = Submission(str(fields.get("provider", default_provider)), fields, uploads)
        edits.check_request(services, fields, default_provider, given.files)
        yield given


def _read_form(form: Form, pieces: Iterator[bytes]) -> None:
    try:
        for piece in inflated(pieces):
            form.feed(piece)
        form.end()
    except RequestEntityTooLarge:
        rule = f"more than {MAX_PARTS:,} parts, or one with a head above {MAX_BUFFER_BYTES:,} bytes"
        raise HttpError("too_large", f"the form has {rule}") from None
    except ValueError as error:
        # How werkzeug's decoder says it.
        raise HttpError("bad_request", f"the body: not a form: {error}") from None
