"""`POST /callbacks/<token>`: every body gets the answer that is right, after it is stored."""

from collections.abc import Callable

import pytest
from sqlalchemy import select

from app.jobs import Kind
from app.models import Callback
from tests.factories import due_kinds, get_task, make_task, success
from tests.web.sites import ADDRESS, DUPLICATE, Site, accepted, error_of, json_of


def test_a_first_result_is_accepted_and_work_is_queued_and_the_same_again_changes_nothing(
    site: Site,
) -> None:
    task = make_task(site.parts)
    body = success(task_id="theirs", usage={"input_tokens": 7})
    assert json_of(site.post_back(task, body)) == accepted(task)

    seen = site.look_up(task)
    assert {name: seen[name] for name in ("status", "provider_task_id", "usage")} == {
        "status": "received", "provider_task_id": "theirs", "usage": {"input_tokens": 7},
    }  # fmt: skip
    assert seen["verification"] == "token"
    assert [callback["verdict"] for callback in seen["callbacks"]] == ["accepted"]
    assert due_kinds(site.parts) == [Kind.SUBMIT, Kind.INGEST]

    for _ in range(3):
        response = site.post_back(task, body)
        assert (response.status_code, json_of(response)) == (200, DUPLICATE)
    assert site.look_up(task) == seen
    (callback,) = site.callbacks()
    assert callback["duplicates"] == 3
    assert due_kinds(site.parts) == [Kind.SUBMIT, Kind.INGEST]


def test_where_callbacks_are_confirmed_one_is_accepted_and_moves_nothing(
    site_with: Callable[..., Site],
) -> None:
    site = site_with(confirm_callbacks="on")
    task = make_task(site.parts)
    assert json_of(site.post_back(task, success())) == accepted(task)
    seen = site.look_up(task)
    assert (seen["status"], seen["verification"]) == ("queued", None)
    assert [callback["verdict"] for callback in seen["callbacks"]] == ["accepted"]


def test_a_body_may_name_no_task_or_our_own_id_but_not_another_tasks(sqlite_site: Site) -> None:
    site = sqlite_site
    task = make_task(site.parts, columns={"provider_task_id": "theirs"})
    error = error_of(site.post_back(task, success(task_id="another")), 422)
    assert error["code"] == "invalid_callback"
    assert "'theirs'" in error["message"]
    assert "'another'" in error["message"]
    assert site.look_up(task)["status"] == "queued"

    # The id of a task that is known is refused even before ours is known.
    unknown = make_task(site.parts)
    error = error_of(site.post_back(unknown, success(task_id="theirs")), 422)
    assert error["message"] == "task_id: 'theirs' is another task's"
    assert get_task(site.parts, unknown.id).provider_task_id is None

    for number, name in enumerate((None, "", "our own")):
        task = make_task(site.parts, columns={"provider_task_id": str(number)})
        body = success(task_id=str(task.id) if name == "our own" else name)
        assert json_of(site.post_back(task, body)) == accepted(task)
        assert get_task(site.parts, task.id).provider_task_id == str(number)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"task_id=1&success=true", "not JSON"),
        (b'{"success": true, "data": [{"url": "https://exa', "not JSON"),
        (b'["https://example.com/1.png"]', "expected a JSON object, not an array"),
        (b'{"data": [{"url": "https://example.com/\xe9.png"}]}', "not UTF-8"),
        (b'{"data": [{"url": "https://example.com/1.png"}], "usage": NaN}', "NaN"),
        (b"[" * 60_000, "nested deeper than 64 levels"),
        (b'{"success": true, "data": []}', "neither a result"),
        (b'{"data": [{"url": "javascript:alert(1)"}]}', "neither a result"),
        (b'{"success": false, "error": null}', "neither a result"),
    ],
)
def test_what_is_no_result_is_kept_and_changes_nothing(
    sqlite_site: Site, body: bytes, reason: str
) -> None:
    site = sqlite_site
    task = make_task(site.parts)
    before = site.look_up(task)
    error = error_of(site.post_back(task, body), 422)

    assert error["code"] == "invalid_callback"
    assert error["type"] == "invalid_request_error"
    assert reason in error["message"]
    # The same again is refused again, and counted.
    assert error_of(site.post_back(task, body), 422) == error
    (entry,) = site.rejections()
    assert {name: entry[name] for name in ("reason", "task_id", "bytes", "address")} == {
        "reason": error["message"],
        "task_id": str(task.id),
        "bytes": len(body),
        "address": ADDRESS,
    }
    assert entry["duplicates"] == 1
    assert site.get(f"/v1/callbacks/{entry['id']}/body").get_data() == body
    after = site.look_up(task)
    assert [callback["verdict"] for callback in after.pop("callbacks")] == ["rejected"]
    assert before.pop("callbacks") == []
    assert {**after, "timeline": None} == {**before, "timeline": None}
    # And it stands in nobody's way.
    assert json_of(site.post_back(task, success())) == accepted(task)


def test_only_headers_that_hold_no_secret_are_kept(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    secrets = {"Authorization": "secret", "Cookie": "secret"}
    sqlite_site.post_back(task, b"nonsense", User_Agent="u" * 300, **secrets)
    with sqlite_site.parts.db.reading() as session:
        headers = session.scalars(select(Callback.headers)).one()

    assert headers == {
        "Content-Type": "application/json",
        "Content-Length": "8",
        "User-Agent": "u" * 200,
    }
