"""`POST /v1/images/edits`, under three paths: the clients of either provider change only the base URL."""

import time
from base64 import b64encode
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from flask import Blueprint, Response, g, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from werkzeug.wrappers import Request

from app import edits, tasks, uploads
from app.models import FINAL, Image, ImageStatus, Scope, Task, TaskStatus, new_id
from app.signing import Picture
from app.uploads import Submission
from app.web import reading
from app.web.auth import requires
from app.web.envelope import HttpError
from app.web.state import services, upload_budget, waiters

bp = Blueprint("submissions", __name__)


@bp.post("/v1/images/edits")
@bp.post("/openai/images/edits")
@bp.post("/v1/image/edits")
@requires(Scope.SUBMIT)
def submit() -> ResponseReturnValue:
    """Store the edit and answer: at once for `async` and `callback_url`, else with the result."""
    with ExitStack() as place:
        with _submission() as given:
            at_once = given.fields.get("async") or "callback_url" in given.fields
            if not at_once:
                place.enter_context(waiters().place())
            task = _create(given)
        # The uploaded files are gone from this machine by now.
        return _accepted(task) if at_once else _await_result(task, given.fields)


def _submission() -> AbstractContextManager[Submission]:
    parts = services()
    default = "agcloud" if request.path == "/v1/image/edits" else parts.config.default_provider
    # Not Flask's own: that one has a limit for the forms of pages.
    plain = Request(request.environ, populate_request=False)
    return reading.submission(plain, parts, upload_budget(), default_provider=default)


def _create(given: Submission) -> Task:
    parts, task_id = services(), new_id()
    with (
        uploads.stored(parts, task_id, given.uploads) as inputs,
        parts.db.transaction() as session,
    ):
        return edits.create(
            session,
            parts,
            given.fields,
            provider=given.provider,
            api_key_id=g.key.id,
            task_id=task_id,
            inputs=inputs,
        )


def _accepted(task: Task) -> Response:
    response = jsonify(_head(task))
    response.headers["Location"] = url_for("lookups.task", id_=task.id)
    return response


def _await_result(task: Task, body: Mapping[str, Any]) -> Response:
    def ended() -> Task | None:
        with services().db.reading() as session:
            now = tasks.get(session, task.id)
        return now if now.status in FINAL else None

    final = waiters().wait(task.id, ended, services().config.sync_wait)
    if final is None:
        raise HttpError(
            "timeout",
            "the result is not there yet; the task goes on, and nothing is lost",
            headers={"x-should-retry": "false"},
            extra={"task_id": str(task.id)},
        )
    if final.status is not TaskStatus.SUCCEEDED:
        raise HttpError(
            final.error_code or "api_error",
            final.error_message or "the edit failed",
            status=final.error_status or 500,
            extra={"task_id": str(task.id)},
        )
    return _result(final, as_base64=body.get("response_format") == "b64_json")


def _result(task: Task, *, as_base64: bool) -> Response:
    parts = services()
    stored = select(Image).filter_by(task_id=task.id, status=ImageStatus.STORED)
    with parts.db.reading() as session:
        images = session.scalars(stored.order_by(Image.index)).all()
    answer = {
        **_head(task),
        "created": int(task.finished_at.timestamp() if task.finished_at else time.time()),
        "model": task.model,
        "data": [_item(image, as_base64) for image in images],
    }
    if task.usage:
        answer["usage"] = task.usage
    return jsonify(answer)


def _item(image: Image, as_base64: bool) -> dict[str, Any]:
    prompt = {"revised_prompt": image.revised_prompt} if image.revised_prompt else {}
    if not as_base64:
        extension = str(image.key).rpartition(".")[2]
        url = services().picture_url(Picture.OUTPUT, image.id, extension)
        return {"url": url, **prompt}
    with services().storage.open(str(image.key)) as file:
        return {"b64_json": b64encode(file.read()).decode(), **prompt}


def _head(task: Task) -> dict[str, Any]:
    return {
        "success": True,
        "task_id": str(task.id),
        "trace_id": task.trace_id or str(task.id),
    }
