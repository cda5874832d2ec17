"""What a person does to a task from its page: forms, each of which says what it costs."""

from collections.abc import Mapping
from typing import Any

from flask import g, redirect, url_for
from flask.typing import ResponseReturnValue

from app import actions
from app.models import FINAL, ImageStatus, Scope, TaskStatus
from app.web.actions import actor
from app.web.auth import signed_in
from app.web.pages.sheet import attempted, bp
from app.web.state import services

_ASKABLE = frozenset({TaskStatus.SUBMITTED, TaskStatus.UNCERTAIN, TaskStatus.FAILED})


def possible(task: Mapping[str, Any]) -> frozenset[str]:
    """The actions that go with how a task is; the verbs refuse the others all the same."""
    status = TaskStatus(task["status"])
    failed_images = any(image["status"] == ImageStatus.FAILED for image in task["images"])
    unread = status is TaskStatus.FAILED and task["received_at"] and not task["images"]
    lookup = services().providers[task["provider"]].lookup is not None
    holds = {
        "cancel": status is TaskStatus.QUEUED,
        "retry": failed_images or unread,
        "reconcile": lookup and status in _ASKABLE,
        "resubmit": True,
        "delete": status in FINAL,
    }
    return frozenset(name for name, so in holds.items() if so)


@bp.post("/tasks/<id_>/cancel")
@signed_in(Scope.ADMIN)
def cancel_task(id_: str) -> ResponseReturnValue:
    """Take it back."""

    def act() -> None:
        with services().db.transaction() as db:
            actions.cancel(db, id_, actor())

    return attempted(act, "Taken back: it is not sent to the provider.", _page_of(id_))


@bp.post("/tasks/<id_>/retry")
@signed_in(Scope.ADMIN)
def retry_task(id_: str) -> ResponseReturnValue:
    """Copy its images again."""

    def act() -> None:
        with services().db.transaction() as db:
            actions.retry(db, id_, actor())

    return attempted(act, "The images are being copied again.", _page_of(id_))


@bp.post("/tasks/<id_>/reconcile")
@signed_in(Scope.ADMIN)
def reconcile_task(id_: str) -> ResponseReturnValue:
    """Ask the provider now."""

    def act() -> None:
        with services().db.transaction() as db:
            actions.reconcile(db, services(), id_, actor())

    return attempted(act, "The provider is being asked.", _page_of(id_))


@bp.post("/tasks/<id_>/resubmit")
@signed_in(Scope.ADMIN)
def resubmit_task(id_: str) -> ResponseReturnValue:
    """A new task with the same request, which is paid for."""
    made: list[str] = []

    def act() -> None:
        made.append(str(actions.resubmit(services(), id_, actor(), g.key.id).id))

    response = attempted(act, "This is the new task.", _page_of(id_))
    return redirect(_page_of(made[0]), 303) if made else response


@bp.post("/tasks/<id_>/delete")
@signed_in(Scope.ADMIN)
def delete_task(id_: str) -> ResponseReturnValue:
    """The task, its bodies and its images go."""
    gone: list[bool] = []

    def act() -> None:
        actions.delete(services(), id_, actor())
        gone.append(True)

    said = "The task is deleted, with its images and what came in for it."
    response = attempted(act, said, _page_of(id_))
    return redirect(url_for("pages.overview"), 303) if gone else response


def _page_of(id_: str) -> str:
    return url_for("pages.task", id_=id_)
