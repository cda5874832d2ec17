"""`POST /v1/images/edits`: what is answered at once, what is waited for, what is refused unpaid."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from app.jobs import Kind
from app.models import ApiKey, Input, Scope
from tests.factories import due_kinds, get_task, make_task, submission
from tests.web.sites import Site, error_of, json_of, tasks_of

PATHS = ["/v1/images/edits", "/openai/images/edits", "/v1/image/edits"]


def submit(site: Site, path: str = PATHS[0], **fields: Any) -> TestResponse:
    """Submit an edit; a field that is None is left out."""
    return site.call("POST", path, scope=Scope.SUBMIT, json=submission(**fields))


def submit_and_wait(site: Site, **fields: Any) -> TestResponse:
    """The same, but not asynchronous."""
    body = submission(**fields)
    del body["async"]
    return site.call("POST", PATHS[0], scope=Scope.SUBMIT, json=body)


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

    assert answer["trace_id"] == answer["task_id"]
    assert sqlite_site.look_up(get_task(sqlite_site.parts, UUID(answer["task_id"])))[
        "trace_id"
    ] is None  # fmt: skip


def test_a_callback_url_makes_it_asynchronous(sqlite_site: Site) -> None:
    response = submit_and_wait(sqlite_site, callback_url="http://127.0.0.1:9/hook")

    assert response.status_code == 200
    assert get_task(sqlite_site.parts, tasks_of(sqlite_site.parts)[0]).callback_url is not None


def test_the_other_providers_path_means_the_other_provider(sqlite_site: Site) -> None:
    error = error_of(submit(sqlite_site, "/v1/image/edits"), 400)
    assert error["param"] == "provider"
    assert "'agcloud'" in error["message"]

    answer = submit(sqlite_site, "/v1/image/edits", provider="acedata")
    assert answer.status_code == 200


def test_fields_that_are_null_are_not_there(sqlite_site: Site) -> None:
    body = {**submission(), "mask": None, "trace_id": None, "callback_url": None, "n": None}
    response = sqlite_site.call("POST", PATHS[0], json=body)

    assert response.status_code == 200
    assert set(get_task(sqlite_site.parts, tasks_of(sqlite_site.parts)[0]).request) == set(
        submission()
    )


def test_unknown_fields_are_passed_on_unchanged(sqlite_site: Site) -> None:
    submit(sqlite_site, style={"deep": [1, "ä", None]}, seed=7)

    request = get_task(sqlite_site.parts, tasks_of(sqlite_site.parts)[0]).request
    assert (request["style"], request["seed"]) == ({"deep": [1, "ä", None]}, 7)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
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
        ({"mask": "https://example.com/mask.png"}, "mask"),
        ({"moderation": 5}, "moderation"),
        ({"user": {"id": 1}}, "user"),
        ({"size": 17}, "size"),
        ({"size": {}, "model": "nano-banana"}, "size"),
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
    ],
)
def test_a_wrong_field_is_refused_before_money_is_spent(
    sqlite_site: Site, fields: dict[str, Any], param: str
) -> None:
    error = error_of(submit(sqlite_site, **fields), 400)

    assert (error["code"], error["param"]) == ("bad_request", param)
    assert param in error["message"]
    assert tasks_of(sqlite_site.parts) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object, not an array"),
        (b'"x"', "expected a JSON object, not a string"),
        (b'{"n": NaN}', "NaN"),
        (b"\xff", "not UTF-8"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper than 64 levels"),
    ],
)
def test_a_body_that_is_no_object_is_refused(sqlite_site: Site, body: bytes, message: str) -> None:
    response = sqlite_site.call("POST", PATHS[0], data=body, content_type="application/json")
    error = error_of(response, 400)

    assert error["code"] == "bad_request"
    assert error["message"].startswith("the body: ")
    assert message in error["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/xml"])
def test_another_content_type_is_refused(sqlite_site: Site, content_type: str) -> None:
    data = json.dumps(submission())
    response = sqlite_site.call("POST", PATHS[0], data=data, content_type=content_type)

    assert error_of(response, 415)["code"] == "unsupported_media_type"


def test_json_may_name_its_character_set(sqlite_site: Site) -> None:
    kind = "application/json; charset=utf-8"
    data = json.dumps(submission())

    assert sqlite_site.call("POST", PATHS[0], data=data, content_type=kind).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
def test_a_submission_that_is_too_large_is_refused(
    site_with: Callable[..., Site], declared: bool
) -> None:
    settings = {"max_upload_bytes": "1KiB"} if declared else {}
    site = site_with(**settings)
    prompt = (2000 if declared else 5_000_000) * "x"

    assert error_of(submit(site, prompt=prompt), 413)["code"] == "too_large"
    assert tasks_of(site.parts) == []


def test_the_deadline_may_be_the_callers(site: Site) -> None:
    submit(site, deadline=30)
    submit(site)
    one, two = (get_task(site.parts, id_) for id_ in tasks_of(site.parts))

    assert round((one.deadline_at - one.created_at).total_seconds()) == 30
    assert round((two.deadline_at - two.created_at).total_seconds()) == 3600


def test_nothing_of_a_refused_submission_is_stored(sqlite_site: Site) -> None:
    make_task(sqlite_site.parts)
    submit(sqlite_site, n=0)
    with sqlite_site.parts.db.reading() as session:
        assert session.scalar(select(func.count()).select_from(Input)) == 1
