"""Looking up what came in or was refused, and the bodies of it."""

from datetime import UTC, datetime, timedelta

from app.models import Scope, new_id
from tests.factories import failure, make_task, success
from tests.web.sites import ADDRESS, Site, error_of, json_of


def test_callbacks_are_listed_newest_first_with_all_their_fields_page_by_page(site: Site) -> None:
    task = make_task(site.parts)
    for number in range(4):
        site.post_back(task, success(number=number))
    site.post_back(task, b"nonsense")
    first = json_of(site.get("/v1/callbacks?limit=3"))
    second = json_of(site.get(f"/v1/callbacks?limit=3&cursor={first['next_cursor']}"))
    items = first["items"] + second["items"]

    assert items == site.callbacks()
    assert set(items[0]) == {
        "id", "task_id", "verdict", "reason", "source", "address", "bytes", "sha256", "duplicates",
        "received_at",
    }  # fmt: skip
    assert [item["verdict"] for item in items] == ["rejected", *3 * ["conflict"], "accepted"]
    assert [items[-1][name] for name in ("reason", "source", "address")] == [
        None, "callback", ADDRESS,
    ]  # fmt: skip
    ids = [item["id"] for item in items]
    assert ids == sorted(set(ids), reverse=True)
    assert second["next_cursor"] is None


def test_callbacks_are_filtered(sqlite_site: Site) -> None:
    tasks = [make_task(sqlite_site.parts) for _ in range(2)]
    for task in tasks:
        sqlite_site.post_back(task, success())
        sqlite_site.post_back(task, failure())
    every = sqlite_site.callbacks()
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()

    assert sqlite_site.callbacks(task_id=str(tasks[0].id)) == every[2:]
    assert sqlite_site.callbacks(verdict="conflict") == every[::2]
    assert sqlite_site.callbacks(verdict="rejected") == []
    assert sqlite_site.callbacks(created_after=later) == []
    assert sqlite_site.callbacks(created_after="2026-01-01T00:00:00Z") == every


def test_a_body_is_given_to_admins_as_bytes_that_no_browser_runs(sqlite_site: Site) -> None:
    body = b"<script>alert(1)</script>"
    sqlite_site.post_back(make_task(sqlite_site.parts), body, Content_Type="text/html")
    (entry,) = sqlite_site.rejections()
    path = f"/v1/callbacks/{entry['id']}/body"
    response = sqlite_site.get(path)

    assert response.get_data() == body
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    error_of(sqlite_site.get(path, scope=Scope.READ), 403)
    error_of(sqlite_site.client.get(path), 401)
    sqlite_site.send("POST", "/callbacks/forged", b"not read", {})
    unread = sqlite_site.rejections()[0]["id"]
    for id_ in ("nothing", new_id(), unread):
        error_of(sqlite_site.get(f"/v1/callbacks/{id_}/body"), 404)
