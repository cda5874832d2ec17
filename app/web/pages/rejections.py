"""`/rejections`: what came in and was refused, and why."""

from flask import request, url_for
from flask.typing import ResponseReturnValue

from app import reports
from app.models import Scope, Verdict
from app.reports import CallbackFilter
from app.web import parameters
from app.web.auth import signed_in
from app.web.pages.sheet import bp, page
from app.web.state import services


@bp.get("/rejections")
@signed_in(Scope.READ)
def rejections() -> ResponseReturnValue:
    """The rejection log, the newest first; `q` is the id of a task."""
    q = parameters.text("q")
    with services().db.reading() as db:
        ours = reports.task_id_of(db, q.strip()) if q else None
        wanted = CallbackFilter(verdict=Verdict.REJECTED, task_id=ours)
        items, following = reports.list_callbacks(
            db, wanted, limit=parameters.limit(), before=parameters.uuid("cursor")
        )
        task = reports.find_task(db, str(ours)) if ours and ours.int else None
    return page(
        "rejections.html",
        items=items,
        q=q,
        task=task,
        paged="cursor" in request.args,
        older=following and url_for("pages.rejections", q=q, cursor=following),
    )
