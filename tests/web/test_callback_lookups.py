"""Looking up what came in or was refused, and the bodies of it."""

from datetime import UTC, datetime, timedelta

import pytest

from app.models import Scope, new_id
from tests.factories import failure, make_task, success
from tests.web.sites import ADDRESS, Site, error_of, json_of


def test_callbacks_are_listed_newest_first_with_all_their_fields(site: Site) -> None:
    task = make_task(site.parts)
    site.post_back(task, success())
    site.post_back(task, b"nonsense")
    rejected, accepted = site.callbacks()

    assert set(rejected) == {
        "id", "task_id", "verdict", "reason", "source", "address", "bytes", "sha256", "duplicates",
        "received_at",
    }  # fmt: skip
    assert (rejected["verdict"], accepted["verdict"]) == ("rejected", "accepted")
    assert (accepted["reason"], accepted["source"], accepted["address"]) == (
        None, "callback", ADDRESS,
    )  # fmt: skip


def test_callbacks_are_filtered(site: Site) -> None:
    one, two = make_task(site.parts), make_task(site.parts)
    for task in (one, two):
        site.post_back(task, success())
        site.post_back(task, failure())
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()

    assert len(site.callbacks()) == 4
    assert {item["task_id"] for item in site.callbacks(task_id=str(one.id))} == {str(one.id)}
    assert [item["verdict"] for item in site.callbacks(verdict="conflict")] == 2 * ["conflict"]
    assert site.callbacks(verdict="rejected") == []
    assert site.callbacks(created_after=later) == []
    assert len(site.callbacks(created_after="2026-01-01T00:00:00Z")) == 4


def test_pages_of_callbacks_follow_each_other(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    for number in range(5):
        sqlite_site.post_back(task, success(number=number))
    first = json_of(sqlite_site.get("/v1/callbacks?limit=3"))
    second = json_of(sqlite_site.get(f"/v1/callbacks?limit=3&cursor={first['next_cursor']}"))

    ids = [item["id"] for item in first["items"] + second["items"]]
    assert len(set(ids)) == 5
    assert ids == sorted(ids, reverse=True)
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    "query", [{"verdict": "duplicate"}, {"created_after": "x"}, {"limit": "x"}]
)
def test_a_wrong_parameter_of_callbacks_is_named(sqlite_site: Site, query: dict[str, str]) -> None:
    (param,) = query
    assert error_of(sqlite_site.get("/v1/callbacks", query_string=query), 400)["param"] == param


def test_a_body_is_given_as_bytes_that_no_browser_runs(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    body = b"<script>alert(1)</script>"
    sqlite_site.post_back(task, body, Content_Type="text/html")
    (entry,) = sqlite_site.rejections()
    response = sqlite_site.get(f"/v1/callbacks/{entry['id']}/body")

    assert response.get_data() == body
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("id_", ["nothing", str(new_id())])
def test_the_body_of_no_callback_is_not_found(sqlite_site: Site, id_: str) -> None:
    error_of(sqlite_site.get(f"/v1/callbacks/{id_}/body"), 404)


def test_bodies_are_for_admins(sqlite_site: Site) -> None:
    path = f"/v1/callbacks/{new_id()}/body"

    error_of(sqlite_site.get(path, scope=Scope.READ), 403)
    error_of(sqlite_site.client.get(path), 401)
