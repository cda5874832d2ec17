"""The pages: tasks, one task, sign-in."""

import re
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from app import keys, reports
from app.columns import clean
from app.models import Scope, TaskStatus
from app.web import auth, parameters
from app.web.auth import public, signed_in
from app.web.lookups import task_filter
from app.web.state import services

bp = Blueprint("pages", __name__)

# A path of ours.  "//elsewhere" and "/\\elsewhere" lead to other hosts, and so do both with a tab
# inside, which browsers leave out.
_OWN_PATH = re.compile(r"/(?![/\\])[^\x00-\x1f\\\x7f]*")


@bp.get("/")
@signed_in(Scope.READ)
def overview() -> ResponseReturnValue:
    """The tasks, the newest first."""
    wanted = task_filter()
    with services().db.reading() as db:
        page, following = reports.list_tasks(
            db, wanted, limit=parameters.limit(), before=parameters.uuid("cursor")
        )
        tasks = reports.tasks_in_short(services(), db, page)
    return _page(
        "tasks.html", tasks=tasks, following=following, statuses=list(TaskStatus), wanted=wanted
    )


@bp.get("/tasks/<id_>")
@signed_in(Scope.READ)
def task(id_: str) -> ResponseReturnValue:
    """One task with all there is to say of it."""
    with services().db.reading() as db:
        found = reports.task_in_full(services(), db, reports.find_task(db, id_))
    return _page("task.html", task=found)


@bp.get("/login")
@public
def login() -> ResponseReturnValue:
    """The form that takes an API key."""
    return _page("login.html", following=request.args.get("next", ""))


@bp.post("/login")
@public
def sign_in() -> ResponseReturnValue:
    """Start a session."""
    key = auth.sign_in(request.form.get("api_key", "").strip())
    with services().db.transaction() as db:
        actor = key.name if key else "unknown"
        action = "signed in" if key else "sign-in refused"
        keys.audit(db, actor, action, None, request.remote_addr)
    if key is None:
        flash("This is no API key with the scope read or admin.")
        return _page("login.html", following=request.form.get("next", "")), 401
    return redirect(_where_to(request.form.get("next", "")))


@bp.post("/logout")
@signed_in(Scope.READ)
def logout() -> ResponseReturnValue:
    """End the session."""
    session.clear()
    return redirect(url_for("pages.login"))


def _page(template: str, **values: Any) -> str:
    # Texts of strangers may have what no page can hold: NUL, and halves of surrogate pairs.
    return clean(render_template(template, **values))


def _where_to(path: str) -> str:
    return path if _OWN_PATH.fullmatch(path) else url_for("pages.overview")


def own_path(url: str) -> str:
    """The path of one of our own URLs: a page may be open under another name than PUBLIC_URL's."""
    return url.removeprefix(services().config.public_url)
