"""`POST /v1/images/edits`, under three paths: the clients of either provider change only the base URL."""

from contextlib import AbstractContextManager, ExitStack

from flask import Blueprint, g, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session
from werkzeug.wrappers import Request

from app import edits, placements, resends, uploads
from app.models import Scope, Task, new_id
from app.resends import Call, Entered
from app.uploads import Submission
from app.web import answers, reading, streamed
from app.web.auth import requires
from app.web.state import services, turns, upload_budget, waiters

bp = Blueprint("submissions", __name__)


@bp.post("/v1/images/edits")
@bp.post("/openai/images/edits")
@bp.post("/v1/image/edits")
@requires(Scope.SUBMIT)
def submit() -> ResponseReturnValue:
    """Store the edit and answer: at once for `async` and `callback_url`, else with the result."""
    key = _idempotency_key()
    resends.check_key(key)
    with ExitStack() as place:
        with _submission() as given:
            at_once = bool(given.fields.get("async")) or "callback_url" in given.fields
            # Files may wait, too: for storage that hangs.
            if given.uploads or not at_once:
                place.enter_context(waiters().place())
            entered = _enter(given, key, waits=not at_once)
            fields = given.fields
        # The uploaded files are gone from this machine by now.
        if at_once:
            return answers.at_once(entered)
        if fields.get("stream"):
            return streamed.as_events(entered, place.pop_all(), fields)
        as_base64 = fields.get("response_format") == "b64_json"
        return answers.with_result(entered, as_base64=as_base64)


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    try:
        # WSGI hands headers over as Latin-1, whatever their bytes were meant to be.
        return key and key.encode("latin-1").decode()
    except UnicodeDecodeError:
        return key


def _submission() -> AbstractContextManager[Submission]:
    parts = services()
    default = "agcloud" if request.path == "/v1/image/edits" else parts.config.default_provider
    # Not Flask's own: that one has a limit for the forms of pages.
    plain = Request(request.environ, populate_request=False)
    return reading.submission(plain, parts, upload_budget(), default_provider=default)


def _enter(given: Submission, key: str | None, *, waits: bool) -> Entered:
    """The task that answers this submission: a new one, or that of one like it which came before."""
    parts, task_id = services(), new_id()
    call = Call(g.key.id, given.digest, waits, key)
    if given.uploads and (earlier := resends.enter(parts, turns(), call)):
        return earlier
    with uploads.stored(parts, task_id, given.uploads) as inputs:

        def create(session: Session) -> Task:
            return edits.create(
                session,
                parts,
                given.fields,
                provider=given.provider,
                api_key_id=g.key.id,
                task_id=task_id,
                inputs=inputs,
                recognised_by=call.columns(),
            )

        entered = resends.enter(parts, turns(), call, create)
    if entered.joined:
        placements.abandon(parts, uploads.keys_of(inputs))
    return entered
