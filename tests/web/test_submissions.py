"""`POST /v1/images/edits`: what is answered at once, what is waited for, what is refused unpaid."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from app.jobs import Kind
from app.models import ApiKey, Input, Scope, Task
from tests.factories import due_kinds, get_task, submission
from tests.web.sites import Site, error_of, json_of, submit_and_wait, tasks_of

PATHS = ["/v1/images/edits", "/openai/images/edits", "/v1/image/edits"]


def submit(site: Site, path: str = PATHS[0], **fields: Any) -> TestResponse:
    """Submit an edit; a field that is None is left out."""
    return site.call("POST", path, scope=Scope.SUBMIT, json=submission(**fields))


def stored(site: Site) -> list[Task]:
    """What was stored, the oldest first."""
    return [get_task(site.parts, id_) for id_ in tasks_of(site.parts)]


@pytest.mark.parametrize("path", PATHS[:2])
def test_an_edit_is_stored_and_answered_at_once(site: Site, path: str) -> None:
    response = submit(site, path, trace_id="order 7", metadata={"a": "b"})
    answer = json_of(response)
    (id_,) = tasks_of(site.parts)

    assert response.status_code == 200
    assert answer == {"success": True, "task_id": str(id_), "trace_id": "order 7"}
    assert response.headers["Location"] == f"/v1/tasks/{id_}"
    assert id_.version == 7
    task = get_task(site.parts, id_)
    assert (task.status, task.provider, task.trace_id) == ("queued", "acedata", "order 7")
    with site.parts.db.reading() as session:
        assert session.scalars(select(ApiKey.name).filter_by(id=task.api_key_id)).one() == "submit"
        assert session.scalars(select(Input.source_url)).one() == submission()["image"]
    assert due_kinds(site.parts) == [Kind.SUBMIT]


def test_without_a_reference_of_the_callers_own_the_task_id_is_it(sqlite_site: Site) -> None:
    answer = json_of(submit(sqlite_site))
    (task,) = stored(sqlite_site)

    assert answer["trace_id"] == answer["task_id"] == str(task.id)
    assert sqlite_site.look_up(task)["trace_id"] is None


def test_a_callback_url_makes_it_asynchronous(sqlite_site: Site) -> None:
    response = submit_and_wait(sqlite_site, callback_url="http://127.0.0.1:9/hook")

    assert response.status_code == 200
    assert stored(sqlite_site)[0].callback_url is not None


def test_the_other_providers_path_means_the_other_provider(sqlite_site: Site) -> None:
    submit(sqlite_site, "/v1/image/edits")
    submit(sqlite_site, "/v1/image/edits", provider="acedata")
    submit(sqlite_site, "/v1/images/edits", provider="agcloud")

    assert [task.provider for task in stored(sqlite_site)] == ["agcloud", "acedata", "agcloud"]


def test_unknown_fields_are_passed_on_and_those_that_are_null_are_not_there(
    sqlite_site: Site,
) -> None:
    nothing = dict.fromkeys(("mask", "trace_id", "callback_url", "n"))
    unknown = {"style": {"deep": [1, "ä", None]}, "seed": 7}
    body = {**submission(), **nothing, **unknown}

    assert sqlite_site.call("POST", PATHS[0], json=body).status_code == 200
    assert stored(sqlite_site)[0].request == {**submission(), **unknown}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"image": None}, "image"),
    ({"image": "ftp://example.com/1.png"}, "image"),
    ({"image": []}, "image"),
    ({"image": 17 * ["https://example.com/1.png"]}, "image"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": " \n"}, "prompt"),
    ({"prompt": 32_001 * "x"}, "prompt"),
    ({"prompt": ["a"]}, "prompt"),
    ({"n": 0}, "n"),
    ({"n": "2"}, "n"),
    ({"n": True}, "n"),
    ({"n": 2.5}, "n"),
    ({"size": "big"}, "size"),
    ({"quality": "best"}, "quality"),
    ({"output_format": "svg"}, "output_format"),
    ({"response_format": "base64"}, "response_format"),
    ({"async": "true"}, "async"),
    ({"provider": "nobody"}, "provider"),
    ({"provider": 7}, "provider"),
    ({"trace_id": 129 * "x"}, "trace_id"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {"a": 513 * "x"}}, "metadata"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ({"metadata": []}, "metadata"),
    ({"deadline": 29}, "deadline"),
    ({"deadline": 86_401}, "deadline"),
    ({"callback_url": "ftp://example.com/"}, "callback_url"),
    ({"callback_url": "http://10.0.0.1/"}, "callback_url"),
    ({"callback_url": "http://169.254.169.254/latest/meta-data"}, "callback_url"),
    ({"callback_url": "http://[::ffff:10.0.0.1]/"}, "callback_url"),
    ({"callback_url": "http://user@example.com/"}, "callback_url"),
    ({"callback_url": "not a url"}, "callback_url"),
    ({"callback_url": ""}, "callback_url"),
    ({"callback_url": 7}, "callback_url"),
]


def test_a_wrong_field_is_refused_before_money_is_spent(sqlite_site: Site) -> None:
    for fields, param in WRONG:
        error = error_of(submit(sqlite_site, **fields), 400)
        assert (error["code"], error["param"]) == ("bad_request", param), fields
        assert param in error["message"]
    assert tasks_of(sqlite_site.parts) == []
    with sqlite_site.parts.db.reading() as session:
        assert session.scalars(select(Input)).all() == []


def test_a_body_that_is_no_object_is_refused(sqlite_site: Site) -> None:
    for body, message in (
        (b"", "not JSON"),
        (b"[]", "expected a JSON object, not an array"),
        (b'{"n": NaN}', "NaN"),
        (b"\xff", "not UTF-8"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper than 64 levels"),
    ):
        response = sqlite_site.call("POST", PATHS[0], data=body, content_type="application/json")
        error = error_of(response, 400)
        assert error["code"] == "bad_request"
        assert error["message"].startswith("the body: ")
        assert message in error["message"]


def test_a_body_must_be_json_which_may_name_its_character_set(sqlite_site: Site) -> None:
    def submit_as(content_type: str) -> TestResponse:
        data = json.dumps(submission())
        return sqlite_site.call("POST", PATHS[0], data=data, content_type=content_type)

    for wrong in ("text/plain", "", "application/xml"):
        assert error_of(submit_as(wrong), 415)["code"] == "unsupported_media_type"
    assert submit_as("application/json; charset=utf-8").status_code == 200


@pytest.mark.parametrize(
    ("settings", "size"), [({"max_upload_bytes": "1KiB"}, 2000), ({}, 5_000_000)]
)
def test_a_submission_that_is_too_large_is_refused(
    site_with: Callable[..., Site], settings: dict[str, str], size: int
) -> None:
    site = site_with(**settings)

    assert error_of(submit(site, prompt=size * "x"), 413)["code"] == "too_large"
    assert tasks_of(site.parts) == []


def test_the_deadline_may_be_the_callers(sqlite_site: Site) -> None:
    submit(sqlite_site, deadline=30)
    submit(sqlite_site)

    assert [
        round((task.deadline_at - task.created_at).total_seconds()) for task in stored(sqlite_site)
    ] == [30, 3600]
