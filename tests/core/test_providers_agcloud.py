"""AGCloud's protocol as pure functions: what goes out, what answers and events mean, its rules."""

import io
from email.parser import BytesParser
from typing import Any

import pytest

from app.errors import InvalidFieldError, InvalidResultError, ProviderError
from app.models import new_id
from app.providers.agcloud import AGCloud
from app.providers.base import (
    Answered,
    Credentials,
    Edit,
    File,
    PartialImage,
    Result,
    ResultImage,
    Unknown,
)
from app.wire import Response
from tests.factories import submission

PROVIDER = AGCloud(Credentials("https://agcloud.test", "sk-1"))


def answered(status: int, body: bytes, **headers: str) -> Response:
    return Response(status, headers, body)


def test_an_edit_is_a_form_with_files_and_our_id_in_a_header() -> None:
    fields = submission(stream=True, n=2, response_format="url", sparkle=["a", "b"])
    del fields["async"]
    file = File("image", "a.png", "image/png", 3, lambda: io.BytesIO(b"png"))
    edit = Edit(new_id(), fields, "https://us.test/callbacks/x", (file, file))

    request = PROVIDER.submit_request(edit)

    assert (request.method, request.url) == ("POST", "https://agcloud.test/v1/image/edits")
    assert request.headers["Authorization"] == "Bearer sk-1"
    assert request.headers["X-Request-Id"] == str(edit.task_id)
    assert request.headers["Accept"] == "text/event-stream"
    assert request.body is not None
    body = b"".join(request.body)  # type: ignore[arg-type]  # a form is always streamed
    assert len(body) == int(request.headers["Content-Length"])
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    _, *parts = BytesParser().parsebytes(head + body).walk()
    sent = [
        (part.get_param("name", header="content-disposition"), part.get_payload()) for part in parts
    ]
    assert sent == [
        ("prompt", "make it sepia"), ("model", "gpt-image-2"), ("stream", "true"), ("n", "2"),
        ("sparkle", "a"), ("sparkle", "b"), ("image", "png"), ("image", "png"),
    ]  # fmt: skip


def test_a_good_answer_is_the_result() -> None:
    assert PROVIDER.read_submission(answered(200, b"{}")) == Answered(b"{}")


@pytest.mark.parametrize(
    ("status", "body", "code", "permanent"),
    [
        (400, b'{"error": {"type": "invalid", "message": "n"}}', "invalid", True),
        (401, b'{"error": {"code": "invalid_api_key", "message": "no"}}', "invalid_api_key", True),
        (404, b"<html>", "api_error", True),
        (429, b'{"error": {"type": "rate_limit", "message": "slowly"}}', "rate_limit", False),
        (500, b'{"error": {"type": "server_error", "message": "oops"}}', "server_error", False),
    ],
)  # fmt: skip
def test_a_refusal_keeps_status_and_code(
    status: int, body: bytes, code: str, permanent: bool
) -> None:
    with pytest.raises(ProviderError) as caught:
        PROVIDER.read_submission(answered(status, body, **{"retry-after": "7"}))

    error = caught.value
    assert (error.status, error.code, error.permanent) == (status, code, permanent)
    assert error.retry_after == 7
    assert ("the service's own API key" in str(error)) == (status == 401)


@pytest.mark.parametrize(
    ("status", "body"),
    [(302, b""), (500, b"<html>"), (502, b""), (504, b'{"error": {"code": "timeout"}}')],
)
def test_an_answer_that_does_not_say_is_unknown(status: int, body: bytes) -> None:
    assert isinstance(PROVIDER.read_submission(answered(status, body)), Unknown)


def test_a_result_has_images_or_an_error() -> None:
    payload: dict[str, Any] = {
        "data": [{"b64_json": "body:9+99", "revised_prompt": "a cat"}, {"url": "https://a.test/1"}],
        "usage": {"total_tokens": 3},
    }
    assert PROVIDER.read_result(payload) == Result(
        None,
        (ResultImage("body:9+99", "a cat"), ResultImage("https://a.test/1")),
        usage={"total_tokens": 3},
    )
    failed = PROVIDER.read_result({"error": {"type": "forbidden", "message": "moderation"}})
    assert failed.error is not None
    assert (failed.error.code, failed.error.status) == ("forbidden", 403)
    with pytest.raises(InvalidResultError):
        PROVIDER.read_result({"data": []})


def test_events_are_partial_images_images_errors_or_nothing() -> None:
    image = {"b64_json": "body:1+2", "usage": {"total_tokens": 1}}
    read = PROVIDER.read_event
    assert read({"type": "image_edit.partial_image", **image}) == PartialImage("body:1+2")
    done = read({"type": "image_edit.completed", **image})
    assert done == Result(None, (ResultImage("body:1+2"),), usage={"total_tokens": 1})
    assert read({"data": [image], "usage": {"total_tokens": 1}}) == done
    failed = read({"type": "error", "error": {"message": "no"}})
    assert isinstance(failed, Result)
    assert failed.error is not None
    assert read({"type": "image_edit.progress"}) is None
    assert read({"type": "image_edit.completed"}) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "git-image-2", "size": "1024x1024"},
        {"model": "a-new-one", "size": "9x9", "sparkle": 1},
        {"model": "gpt-image-1", "background": "transparent", "output_format": "webp"},
        {"output_format": "jpeg", "output_compression": 100},
        {"stream": True, "partial_images": 3},
        {"moderation": "low", "output_format": "auto", "n": 10, "response_format": "b64_json"},
    ],
)
def test_what_the_rules_allow(fields: dict[str, Any]) -> None:
    PROVIDER.rules.check(submission(**fields))


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("model", {"model": None}),
        ("size", {"model": "git-image-2", "size": "1000x1000"}),
        ("size", {"model": "gpt-image-1", "size": "2048x2048"}),
        ("background", {"background": "transparent", "output_format": "png"}),
        ("background", {"model": "gpt-image-1", "background": "transparent"}),
        ("moderation", {"moderation": "high"}),
        ("output_format", {"output_format": "gif"}),
        ("output_compression", {"output_compression": 90}),
        ("quality", {"quality": "standard"}),
        ("quality", {"model": "gpt-image-1-plus", "quality": "low"}),
        ("n", {"n": 11}),
        ("partial_images", {"partial_images": 1}),
        ("partial_images", {"stream": True, "partial_images": 4}),
    ],
)
def test_what_the_rules_refuse(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        PROVIDER.rules.check(submission(**fields))
    assert caught.value.param == param
