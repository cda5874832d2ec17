"""`POST /callbacks/<token>`: every body gets the answer that is right, after it is stored."""

import json
from typing import Any

import pytest
from sqlalchemy import select

from app.jobs import Kind
from app.models import Callback, Task, TaskStatus
from tests.factories import due_kinds, failure, get_task, make_task, success
from tests.web.sites import ADDRESS, Site, all_at_once, error_of, json_of

DUPLICATE = {"status": "duplicate"}
CONFLICT = {"status": "conflict"}


def accepted(task: Task) -> dict[str, str]:
    return {"status": "accepted", "task_id": str(task.id)}


def test_a_first_result_is_accepted_and_work_is_queued(site: Site) -> None:
    task = make_task(site.parts)
    response = site.post_back(task, success(task_id="theirs", usage={"input_tokens": 7}))

    assert response.status_code == 200
    assert json_of(response) == accepted(task)
    seen = site.look_up(task)
    assert seen["status"] == "received"
    assert seen["provider_task_id"] == "theirs"
    assert seen["usage"] == {"input_tokens": 7}
    assert seen["verification"] == "token"
    assert [callback["verdict"] for callback in seen["callbacks"]] == ["accepted"]
    assert due_kinds(site.parts) == [Kind.SUBMIT, Kind.INGEST]


def test_a_first_failure_is_accepted_and_ends_the_task(site: Site) -> None:
    task = make_task(site.parts)
    response = site.post_back(task, failure("forbidden", "it shows a face"))

    assert json_of(response) == accepted(task)
    seen = site.look_up(task)
    assert seen["status"] == "failed"
    assert seen["error"] == {"code": "forbidden", "message": "it shows a face"}


def test_the_same_body_again_changes_nothing(site: Site) -> None:
    task = make_task(site.parts)
    site.post_back(task, success())
    before = site.look_up(task)

    for _ in range(3):
        response = site.post_back(task, success())
        assert (response.status_code, json_of(response)) == (200, DUPLICATE)

    assert site.look_up(task) == before
    (callback,) = site.callbacks()
    assert callback["duplicates"] == 3


def test_fifty_at_once_are_stored_once(site: Site) -> None:
    task = make_task(site.parts)
    answers = all_at_once(50, lambda: json_of(site.post_back(task, success())))

    assert sorted(answer["status"] for answer in answers) == ["accepted"] + 49 * ["duplicate"]
    (callback,) = site.callbacks()
    assert callback["duplicates"] == 49
    assert due_kinds(site.parts).count(Kind.INGEST) == 1


@pytest.mark.parametrize("second", [failure(), success("https://images.example.com/2.png")])
def test_nothing_replaces_a_success(site: Site, second: dict[str, Any]) -> None:
    task = make_task(site.parts)
    site.post_back(task, success())
    response = site.post_back(task, second)

    assert (response.status_code, json_of(response)) == (200, CONFLICT)
    assert site.look_up(task)["status"] == "received"
    assert [callback["verdict"] for callback in site.callbacks()] == ["conflict", "accepted"]


def test_a_success_replaces_a_failure(site: Site) -> None:
    task = make_task(site.parts)
    site.post_back(task, failure())

    assert json_of(site.post_back(task, success())) == accepted(task)
    seen = site.look_up(task)
    assert (seen["status"], seen["error"], seen["finished_at"]) == ("received", None, None)


def test_a_success_replaces_a_deadline(site: Site) -> None:
    missed = {"status": TaskStatus.FAILED, "error_code": "timeout", "error_message": "too late"}
    task = make_task(site.parts, columns=missed)

    assert json_of(site.post_back(task, success())) == accepted(task)
    assert site.look_up(task)["status"] == "received"


def test_a_second_failure_is_a_conflict(site: Site) -> None:
    task = make_task(site.parts)
    site.post_back(task, failure())

    assert json_of(site.post_back(task, failure("timeout"))) == CONFLICT
    assert site.look_up(task)["error"]["code"] == "forbidden"


@pytest.mark.parametrize("named", [{}, {"task_id": None}, {"task_id": ""}])
def test_a_body_that_names_no_task_is_fine(sqlite_site: Site, named: dict[str, Any]) -> None:
    site = sqlite_site
    task = make_task(site.parts, columns={"provider_task_id": "theirs"})

    assert json_of(site.post_back(task, success(**named))) == accepted(task)


def test_a_body_may_name_our_own_id(site: Site) -> None:
    task = make_task(site.parts, columns={"provider_task_id": "theirs"})

    assert json_of(site.post_back(task, success(task_id=str(task.id)))) == accepted(task)
    assert get_task(site.parts, task.id).provider_task_id == "theirs"


def test_another_tasks_id_is_refused(site: Site) -> None:
    task = make_task(site.parts, columns={"provider_task_id": "theirs"})
    error = error_of(site.post_back(task, success(task_id="another")), 422)

    assert error["code"] == "invalid_callback"
    assert "'theirs'" in error["message"]
    assert "'another'" in error["message"]
    assert site.look_up(task)["status"] == "queued"


def test_the_id_of_a_task_that_is_known_is_refused_before_ours_is_known(site: Site) -> None:
    make_task(site.parts, columns={"provider_task_id": "another"})
    task = make_task(site.parts)
    error = error_of(site.post_back(task, success(task_id="another")), 422)

    assert error["message"] == "task_id: 'another' is another task's"
    assert get_task(site.parts, task.id).provider_task_id is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"task_id=1&success=true", "not JSON"),
        (b'{"success": true, "data": [{"url": "https://exa', "not JSON"),
        (b'["https://example.com/1.png"]', "expected a JSON object, not an array"),
        (b'"https://example.com/1.png"', "expected a JSON object, not a string"),
        (b"null", "expected a JSON object, not null"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'{"data": [{"url": "https://example.com/\xe9.png"}]}', "not UTF-8"),
        (b'{"data": [{"url": "https://example.com/1.png"}], "usage": NaN}', "NaN"),
        (b'{"data": [{"url": "https://example.com/1.png"}], "usage": -Infinity}', "Infinity"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested deeper than 64 levels"),
        (b"[" * 60_000, "nested deeper than 64 levels"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"success": true}', "neither a result"),
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
    error = error_of(site.post_back(task, body, User_Agent="a provider"), 422)

    assert error["code"] == "invalid_callback"
    assert error["type"] == "invalid_request_error"
    assert reason in error["message"]
    (entry,) = site.rejections()
    assert entry["reason"] == error["message"]
    assert entry["task_id"] == str(task.id)
    assert entry["bytes"] == len(body)
    assert entry["address"] == ADDRESS
    kept = site.get(f"/v1/callbacks/{entry['id']}/body")
    assert kept.get_data() == body
    assert kept.mimetype == "application/octet-stream"
    after = site.look_up(task)
    assert [callback["verdict"] for callback in after.pop("callbacks")] == ["rejected"]
    assert before.pop("callbacks") == []
    assert {**after, "timeline": None} == {**before, "timeline": None}


def test_a_rejected_body_again_is_rejected_again_and_counted(site: Site) -> None:
    task = make_task(site.parts)
    first, second = (error_of(site.post_back(task, b"nonsense"), 422) for _ in range(2))

    assert first == second
    (entry,) = site.rejections()
    assert entry["duplicates"] == 1


def test_a_result_after_a_rejected_body_is_accepted(site: Site) -> None:
    task = make_task(site.parts)
    site.post_back(task, b"nonsense")

    assert json_of(site.post_back(task, success())) == accepted(task)


def test_a_byte_order_mark_is_no_reason_to_refuse(site: Site) -> None:
    task = make_task(site.parts)

    body = b"\xef\xbb\xbf" + json.dumps(success()).encode()
    assert json_of(site.post_back(task, body)) == accepted(task)


def test_only_headers_that_hold_no_secret_are_kept(site: Site) -> None:
    task = make_task(site.parts)
    site.post_back(task, b"nonsense", User_Agent="u" * 300, Authorization="secret", Cookie="secret")
    with site.parts.db.reading() as session:
        headers = session.scalars(select(Callback.headers)).one()

    assert headers == {
        "Content-Type": "application/json",
        "Content-Length": "8",
        "User-Agent": "u" * 200,
    }
