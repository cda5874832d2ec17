"""`POST /v1/tasks/<id>/...` and `DELETE /v1/tasks/<id>`."""

from uuid import UUID

import pytest
from sqlalchemy import select

from app.columns import db_now
from app.models import ApiKey, Audit, Scope, Task, TaskStatus
from tests.factories import deliver, get_task, make_task, success
from tests.web.sites import ADDRESS, Site, error_of, json_of

ACTIONS = ("cancel", "retry", "reconcile", "resubmit")


def test_the_acts_answer_with_the_task(site: Site) -> None:
    queued = make_task(site.parts, columns={"provider_task_id": "theirs"})
    silent = make_task(site.parts, columns={"status": TaskStatus.SUBMITTED})
    canceled = json_of(site.call("POST", "/v1/tasks/theirs/cancel", scope=Scope.SUBMIT))
    asked = json_of(site.call("POST", f"/v1/tasks/{silent.id}/reconcile", scope=Scope.SUBMIT))

    assert (canceled["task_id"], canceled["status"]) == (str(queued.id), "canceled")
    assert canceled["finished_at"].endswith("Z")
    assert asked["timeline"][-1]["event"] == "asked"


def test_resubmitting_answers_with_the_new_task(site: Site) -> None:
    task = make_task(site.parts)
    response = site.call("POST", f"/v1/tasks/{task.id}/resubmit", scope=Scope.SUBMIT)
    new = json_of(response)

    assert response.headers["Location"] == f"/v1/tasks/{new['task_id']}"
    assert (new["status"], new["request"]) == ("queued", task.request)
    assert new["task_id"] != str(task.id)
    with site.parts.db.reading() as session:
        caller = session.scalars(select(ApiKey).filter_by(name="submit")).one()
        assert session.get_one(Task, UUID(new["task_id"])).api_key_id == caller.id


def test_a_deleted_task_is_gone_for_everybody(site: Site) -> None:
    task = make_task(site.parts, columns={"status": TaskStatus.SUBMITTED})
    response = site.call("DELETE", f"/v1/tasks/{task.id}")

    assert (response.status_code, response.get_data()) == (204, b"")
    error_of(site.get(f"/v1/tasks/{task.id}"), 404)
    error_of(site.post_back(task, success()), 404)
    with site.parts.db.reading() as session:
        note = session.scalars(select(Audit)).one()
    assert (note.actor, note.action, note.subject) == ("admin", "delete", str(task.id))
    assert note.address == ADDRESS


def test_what_cannot_be_done_is_a_conflict(sqlite_site: Site) -> None:
    site = sqlite_site
    task = make_task(site.parts, columns={"submitting_at": db_now()})
    for action in ("cancel", "retry", "reconcile"):
        error = error_of(site.call("POST", f"/v1/tasks/{task.id}/{action}"), 409)
        assert error["code"] == "conflict"
    error_of(site.call("DELETE", f"/v1/tasks/{task.id}"), 409)
    assert get_task(site.parts, task.id).status is TaskStatus.QUEUED
    for action in ACTIONS:
        error_of(site.call("POST", f"/v1/tasks/nobodys/{action}"), 404)


@pytest.mark.parametrize("scope", [Scope.READ, Scope.SUBMIT])
def test_who_may_only_look_may_do_nothing(sqlite_site: Site, scope: Scope) -> None:
    task = make_task(sqlite_site.parts)
    deliver(sqlite_site.parts, task, success())
    refused = [sqlite_site.call("DELETE", f"/v1/tasks/{task.id}", scope=scope)]
    if scope is Scope.READ:
        refused += [
            sqlite_site.call("POST", f"/v1/tasks/{task.id}/{action}", scope=scope)
            for action in ACTIONS
        ]
    for response in refused:
        assert error_of(response, 403)["code"] == "insufficient_scope"
