"""What API clients do to a task; the pages do the same through forms."""

from flask import Blueprint, Response, g, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from app import actions, reports
from app.keys import Actor
from app.models import Scope, Task
from app.web.auth import requires
from app.web.state import services

bp = Blueprint("actions", __name__, url_prefix="/v1/tasks/<id_>")


@bp.post("/cancel")
@requires(Scope.SUBMIT)
def cancel(id_: str) -> ResponseReturnValue:
    """Take it back, as long as it is queued."""
    with services().db.transaction() as session:
        return _shown(session, actions.cancel(session, id_, actor()))


@bp.post("/retry")
@requires(Scope.SUBMIT)
def retry(id_: str) -> ResponseReturnValue:
    """Copy its images again: free."""
    with services().db.transaction() as session:
        return _shown(session, actions.retry(session, id_, actor()))


@bp.post("/reconcile")
@requires(Scope.SUBMIT)
def reconcile(id_: str) -> ResponseReturnValue:
    """Ask the provider now."""
    with services().db.transaction() as session:
        return _shown(session, actions.reconcile(session, services(), id_, actor()))


@bp.post("/resubmit")
@requires(Scope.SUBMIT)
def resubmit(id_: str) -> ResponseReturnValue:
    """A new task with the same request: costs money."""
    task = actions.resubmit(services(), id_, actor(), g.key.id)
    with services().db.reading() as session:
        response = _shown(session, task)
    response.headers["Location"] = url_for("lookups.task", id_=task.id)
    return response


@bp.delete("")
@requires(Scope.ADMIN)
def delete(id_: str) -> ResponseReturnValue:
    """The task, its bodies and its images go."""
    actions.delete(services(), id_, actor())
    return Response(status=204)


def actor() -> Actor:
    """Whoever sends this request."""
    return Actor(g.key.name, request.remote_addr)


def _shown(session: Session, task: Task) -> Response:
    # As the database has it now, its times included.
    session.flush()
    session.expire_all()
    return jsonify(
        reports.task_in_full(services(), session, reports.find_task(session, str(task.id)))
    )
