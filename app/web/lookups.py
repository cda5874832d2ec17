"""Looking up: tasks, and the callbacks that came in or were refused."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify, request, stream_with_context
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from app import bodies, reports
from app.errors import NotFoundError
from app.models import FINAL, Scope, Task, TaskStatus, Verdict
from app.reports import CallbackFilter, TaskFilter
from app.web import parameters
from app.web.auth import requires
from app.web.conditions import conditions
from app.web.peers import Peer
from app.web.state import broadcast, services, waiters

bp = Blueprint("lookups", __name__, url_prefix="/v1")

MAX_WAIT_SECONDS = 60


@bp.get("/tasks/<id_>")
@requires(Scope.READ)
def task(id_: str) -> ResponseReturnValue:
    """One task, by our id or the provider's; with `wait` once it has ended or that time is over.

    `If-None-Match` is compared with what there is then.
    """
    seconds = parameters.whole_number("wait", MAX_WAIT_SECONDS)
    with services().db.reading() as session:
        found = reports.find_task(session, id_)
    if seconds is not None and found.status not in FINAL:
        _await_end(found.id, seconds)
    with services().db.reading() as session:
        found = reports.find_task(session, str(found.id))
        response = jsonify(reports.task_in_full(services(), session, found))
    # By its content: what no event tells of, such as a duplicate, changes it too.
    response.add_etag()
    response.headers["Cache-Control"] = "private, no-cache"
    return response.make_conditional(conditions())


def _await_end(task_id: UUID, seconds: int) -> None:
    def ended() -> bool | None:
        with services().db.reading() as session:
            status = session.scalar(select(Task.status).filter_by(id=task_id))
        return True if status is None or status in FINAL else None

    peer = Peer(request.environ)
    with waiters().place():
        waiters().wait(
            task_id, ended, seconds, wanted=lambda: not (broadcast().ended or peer.gone())
        )


@bp.get("/tasks")
@requires(Scope.READ)
def tasks() -> ResponseReturnValue:
    """A page of tasks, the newest first."""
    wanted = task_filter()
    with services().db.reading() as session:
        found, following = reports.list_tasks(
            session, wanted, limit=parameters.limit(), before=parameters.uuid("cursor")
        )
        return page(reports.tasks_in_short(services(), session, found), following)


@bp.get("/callbacks")
@requires(Scope.READ)
def callbacks() -> ResponseReturnValue:
    """A page of callbacks, the newest first; `verdict=rejected` is the rejection log."""
    verdict = parameters.word("verdict", Verdict)
    created_after = parameters.time("created_after")
    task_id = parameters.text("task_id")
    with services().db.reading() as session:
        ours = reports.task_id_of(session, task_id) if task_id else None
        wanted = CallbackFilter(verdict=verdict, task_id=ours, created_after=created_after)
        items, following = reports.list_callbacks(
            session, wanted, limit=parameters.limit(), before=parameters.uuid("cursor")
        )
    return page(items, following)


@bp.get("/callbacks/<uuid:id_>/body")
@requires(Scope.ADMIN)
def callback_body(id_: UUID) -> ResponseReturnValue:
    """What came in, byte for byte."""
    with services().db.reading() as session:
        size = reports.body_size(session, id_)
    if size is None:
        raise NotFoundError(f"there is no callback {str(id_)!r}, or its body was not kept")

    def pieces() -> Any:
        with services().db.reading() as session:
            yield from bodies.read_body(session, id_)

    # Never with the type that it came with: a browser must not run what a stranger sent.
    response = Response(stream_with_context(pieces()), mimetype="application/octet-stream")
    # Should it be made compact meanwhile, what was read of it must not look whole.
    response.content_length = size
    return response


def task_filter() -> TaskFilter:
    """The filter that the query string describes.  Raises `InvalidFieldError`."""
    return TaskFilter(
        status=parameters.word("status", TaskStatus),
        provider=parameters.text("provider"),
        model=parameters.text("model"),
        trace_id=parameters.text("trace_id"),
        created_after=parameters.time("created_after"),
        created_before=parameters.time("created_before"),
        q=parameters.text("q"),
    )


def page(items: list[dict[str, Any]], following: UUID | None) -> Response:
    """A page of a list, and where the next one begins."""
    return jsonify({"items": items, "next_cursor": following and str(following)})
