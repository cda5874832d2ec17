"""Ace Data Cloud's protocol: requests out, answers and results in, all as pure functions."""

import json
from typing import Any
from uuid import UUID

import pytest

from app.errors import InvalidResultError, ProviderError
from app.providers.acedata import AceData
from app.providers.base import (
    Accepted,
    Answered,
    Credentials,
    Found,
    Submission,
    Unknown,
)
from app.wire import Response
from tests.factories import success

TASK_ID = UUID("019aa0b4-2f4b-7c56-8d8a-0242ac120002")
OTHER_ID = UUID("019aa0b4-2f4b-7c56-8d8a-0242ac120003")
ACEDATA = AceData(Credentials("https://acedata.test", "the key"))


def response(payload: object, status: int = 200, **headers: str) -> Response:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Response(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


def read(payload: object, status: int = 200) -> Submission:
    return ACEDATA.read_submission(response(payload, status))


def refused(payload: object, status: int, **headers: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        ACEDATA.read_submission(response(payload, status, **headers))
    return caught.value


def envelope(code: str, message: str = "the reason") -> dict[str, Any]:
    return {"error": {"code": code, "message": message}, "trace_id": "t"}


def test_our_key_is_not_shown_and_without_one_no_authorization_is_sent() -> None:
    assert "the key" not in repr(Credentials("https://acedata.test", "the key"))
    keyless = AceData(Credentials("https://acedata.test", None))
    assert "Authorization" not in keyless.lookup_request([TASK_ID]).headers


def test_an_answer_with_a_task_id_is_an_acceptance_and_one_with_images_the_result() -> None:
    assert read({"success": True, "task_id": "a"}) == read({"task_id": "a"}) == Accepted("a")
    payload = success(task_id="a")
    assert read(payload) == Answered(json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({}, 200),
        (b"", 200),
        (b"<html>", 200),
        ([], 200),
        ({"success": True}, 200),
        ({"task_id": ""}, 200),
        ({"task_id": 5}, 200),
        ({"task_id": "x" * 5000}, 200),
        ({"success": False, "task_id": "a"}, 200),
        (b"Bad Gateway", 502),
        ({"message": "oops"}, 500),
        ({"error": "oops"}, 500),
        (envelope("timeout"), 504),
    ],
)
def test_an_answer_that_does_not_say_is_unknown(payload: object, status: int) -> None:
    assert isinstance(read(payload, status), Unknown)


NOT_THE_CALLERS = "the provider refused the service's own API key, not the caller's: the reason"


@pytest.mark.parametrize(
    ("payload", "answered", "code", "status", "message", "permanent"),
    [
        (envelope("bad_request"), 400, "bad_request", 400, "the reason", True),
        (envelope("invalid_token"), 401, "invalid_token", 401, NOT_THE_CALLERS, True),
        (envelope("used_up"), 403, "used_up", 403, "the reason", True),
        (envelope("no_api"), 404, "no_api", 404, "the reason", True),
        (envelope("too_many_requests"), 429, "too_many_requests", 429, "the reason", False),
        (envelope("api_error"), 500, "api_error", 500, "the reason", False),
        (envelope("unavailable"), 503, "unavailable", 503, "the reason", False),
        # Under 200 a code has its own status, without a code the status tells.
        ({"success": False, **envelope("forbidden")}, 200, "forbidden", 403, "the reason", True),
        (envelope("what_is_this"), 200, "what_is_this", 500, "the reason", False),
        (b"Not Found", 404, "api_error", 404, "the provider answered 404", True),
        # A redirect is no acceptance.
        (b"", 302, "api_error", 500, "the provider answered 302", False),
    ],
)
def test_a_refusal_keeps_status_and_code_and_only_some_are_for_good(
    payload: object, answered: int, code: str, status: int, message: str, permanent: bool
) -> None:
    error = refused(payload, answered)
    assert (error.code, error.status, str(error)) == (code, status, message)
    assert error.permanent == permanent


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00", 0.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        # Times that no database could add brought the job down that was to wait for them.
        ("9" * 400, 86_400.0),
        ("99999999999999999999", 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_time_within_reason(value: str, seconds: float | None) -> None:
    assert refused(envelope("too_many_requests"), 429, retry_after=value).retry_after == seconds


@pytest.mark.parametrize(
    ("payload", "sources"),
    [
        (success("https://a.test/1", "http://a.test/2"), ["https://a.test/1", "http://a.test/2"]),
        ({"image_url": "https://a.test/1"}, ["https://a.test/1"]),
        ({"image_url": "HTTPS://a.test/1"}, ["https://a.test/1"]),
        ({"image_url": ["https://a.test/1", None, "https://a.test/2"]}, 2),
        ({"data": [], "image_url": "https://a.test/1"}, ["https://a.test/1"]),
        ({"data": [{"b64_json": "QUJD"}]}, ["data:;base64,QUJD"]),
        ({"data": [{"b64_json": "data:image/png;base64,QUJD"}]}, ["data:image/png;base64,QUJD"]),
        ({"data": [{"b64_json": "body:5+2000"}]}, ["body:5+2000"]),
        # `bodies.split` puts a place where a long data URL stood.
        ({"data": [{"url": "body:5+2000"}]}, ["body:5+2000"]),
        ({"data": [{"url": "data:image/png;base64,QUJD"}]}, ["data:image/png;base64,QUJD"]),
        ({"data": [{"url": None, "b64_json": "QUJD"}]}, ["data:;base64,QUJD"]),
        # Fewer than asked for, and what is none among them.
        ({"data": [{}, None, "x", {"url": ""}, {"url": "ftp://a"}, {"url": "https://a.test"}]}, 1),
        ({"success": False, **success("https://a.test/1"), **envelope("forbidden")}, 1),
    ],
)
def test_images_come_in_several_shapes(payload: dict[str, Any], sources: list[str] | int) -> None:
    result = ACEDATA.read_result(payload)

    assert result.error is None
    found = [image.source for image in result.images]
    assert found == sources or len(found) == sources


def test_a_result_says_its_id_prompts_and_usage_as_far_as_it_has_them() -> None:
    payload = success(task_id="a", usage={"input_tokens": 775})
    payload["data"][0]["revised_prompt"] = "better"
    result = ACEDATA.read_result(payload)
    assert (result.provider_task_id, result.usage) == ("a", {"input_tokens": 775})
    assert result.images[0].revised_prompt == "better"

    for task_id in (None, ""):
        result = ACEDATA.read_result(success(task_id=task_id, usage="none", trace_id=1))
        assert (result.provider_task_id, result.usage) == (None, None)


@pytest.mark.parametrize(
    ("error", "code", "message", "status"),
    [
        ({"code": "forbidden", "message": "no"}, "forbidden", "no", 403),
        ({"code": "used_up", "message": "no"}, "used_up", "no", 403),
        ({"code": "disabled", "message": "no"}, "disabled", "no", 403),
        ({"code": "too_many_requests", "message": "no"}, "too_many_requests", "no", 429),
        ({"code": "timeout", "message": "no"}, "timeout", "no", 504),
        ({"code": "bad_request", "message": "no"}, "bad_request", "no", 400),
        ({"code": "something_new", "message": "no"}, "something_new", "no", 500),
        # Half an error is one.
        ({"code": "forbidden"}, "forbidden", "forbidden", 403),
        ({"message": "no"}, "api_error", "no", 500),
        ({"code": None, "message": "no"}, "api_error", "no", 500),
        ({"code": 7, "message": "no"}, "7", "no", 500),
    ],
)
def test_a_failure_has_the_status_of_its_code(
    error: object, code: str, message: str, status: int
) -> None:
    read = ACEDATA.read_result({"success": False, "error": error}).error
    assert read is not None
    assert (read.code, str(read), read.status) == (code, message, status)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"success": True},
        {"success": True, "task_id": "a", "data": []},
        {"data": "https://a.test/1"},
        {"data": [{"url": 5}]},
        {"error": "forbidden"},
        {"error": {}},
        {"error": None},
        {"image_url": "not a url"},
    ],
)
def test_neither_result_nor_error_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidResultError, match="neither a result"):
        ACEDATA.read_result(payload)


# PostgreSQL could not store a longer one, and that looked as if the database were away.
@pytest.mark.parametrize("task_id", ["x" * 256, 5, 0, ["a"], {}])
def test_an_id_that_is_none_is_refused(task_id: object) -> None:
    with pytest.raises(InvalidResultError, match=r"^task_id: expected text of 1 to 255 characters"):
        ACEDATA.read_result(success(task_id=task_id))


def test_the_longest_id_is_taken() -> None:
    assert ACEDATA.read_result(success(task_id="x" * 255)).provider_task_id == "x" * 255


def test_a_lookup_gives_what_the_provider_knows() -> None:
    result = success(task_id="a")
    items = [
        {"id": "a", "trace_id": str(TASK_ID), "response": result, "finished_at": 1.5},
        {"id": "b", "trace_id": str(OTHER_ID), "response": {}},
        {"id": "c", "trace_id": "somebody else's"},
        {"id": "d"},
        None,
    ]

    found = ACEDATA.read_lookup(response({"items": items, "count": 5}))

    assert found == {
        TASK_ID: Found("a", json.dumps(result).encode()),
        OTHER_ID: Found("b", None),
    }
