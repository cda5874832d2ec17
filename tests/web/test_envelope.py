"""Every error has one shape: JSON for programs, a page for people, and nothing of what is inside."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.errors import (
    ConflictError,
    InvalidFieldError,
    InvalidResultError,
    MissingObjectError,
    NotFoundError,
    PostbackError,
    StorageError,
    TokenError,
    UnavailableError,
)
from app.web import envelope
from app.web.auth import public
from app.web.envelope import CODES, STATUSES, HttpError, as_http_error
from app.web.failures import API_PATHS
from tests.web.sites import Site, error_of, json_of

# What the API promises; and 425, of images alone.
PROMISED = {
    "bad_request": 400,
    "no_token": 401,
    "invalid_token": 401,
    "insufficient_scope": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_mismatch": 422,
    "invalid_callback": 422,
    "too_many_requests": 429,
    "api_error": 500,
    "unavailable": 503,
    "timeout": 504,
}


def raising(site: Site, error: Exception, path: str = "/v1/raises") -> TestResponse:
    """The answer of a view that raises."""

    def view() -> str:
        raise error

    site.flask.add_url_rule(path, "raises", public(view))
    return site.client.get(path)


def test_codes_and_statuses_are_those_that_are_promised() -> None:
    assert {**PROMISED, "too_early": 425} == STATUSES
    for status in set(PROMISED.values()):
        assert STATUSES[CODES[status]] == status or status == 422


@pytest.mark.parametrize("code", STATUSES)
def test_the_shape_is_the_same_for_every_code(sqlite_site: Site, code: str) -> None:
    error = HttpError(code, "what was wrong", param="field", headers={"X-Own": "1"})
    response = raising(sqlite_site, error)
    status = STATUSES[code]
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert json.loads(response.get_data()) == {
        "error": {
            "code": code,
            "message": "what was wrong",
            "type": kinds.get(status, "invalid_request_error" if status < 500 else "api_error"),
            "param": "field",
        },
        "trace_id": response.headers["X-Request-Id"],
    }
    assert response.headers["X-Own"] == "1"


def test_what_goes_beside_the_error_is_at_the_top_level() -> None:
    error = HttpError("timeout", "not there yet", extra={"task_id": "1"})

    assert json.loads(envelope.body(error, "trace")) == {
        "error": {
            "code": "timeout",
            "message": "not there yet",
            "type": "api_error",
            "param": None,
        },
        "trace_id": "trace",
        "task_id": "1",
    }


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (NotFoundError("no"), "not_found", 404),
        (TokenError("no"), "not_found", 404),
        (ConflictError("no"), "conflict", 409),
        (InvalidResultError("no"), "invalid_callback", 422),
        (MissingObjectError("no"), "not_found", 404),
        (StorageError("no"), "unavailable", 503),
        (UnavailableError("no"), "unavailable", 503),
        (PostbackError("no"), "api_error", 500),
    ],
)
def test_errors_of_the_layers_below_get_their_status(
    error: PostbackError, code: str, status: int
) -> None:
    answer = as_http_error(error)

    assert (answer.code, answer.status, str(answer), answer.param) == (code, status, "no", None)
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_field_at_fault_is_named() -> None:
    answer = as_http_error(InvalidFieldError("size", "size: expected auto, not 'x'"))

    assert (answer.code, answer.status, answer.param) == ("bad_request", 400, "size")


@pytest.mark.parametrize("path", ["/v1/raises", "/page"])
def test_an_unexpected_error_tells_nothing(sqlite_site: Site, path: str) -> None:
    secret = "postgresql://postback:password@10.0.0.5/postback"
    response = raising(sqlite_site, RuntimeError(secret), path)
    text = response.get_data(as_text=True)

    assert response.status_code == 500
    for inside in ("password", "RuntimeError", "Traceback", "/app/", "10.0.0.5"):
        assert inside not in text
    assert response.headers["X-Request-Id"] in text


def test_an_unexpected_error_is_an_api_error(sqlite_site: Site) -> None:
    error = error_of(raising(sqlite_site, KeyError("x")), 500)

    assert error == {
        "code": "api_error", "message": "unexpected error", "type": "api_error", "param": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1/", "/openai/nothing", "/images/x/y", "/v1/tasks/1/2/3"]
)
def test_what_is_not_there_is_not_found(sqlite_site: Site, path: str) -> None:
    error = error_of(sqlite_site.get(path), 404)

    assert error["code"] == "not_found"
    assert path in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/images/edits", {"POST", "OPTIONS"}),
        ("GET", "/openai/images/edits", {"POST", "OPTIONS"}),
        ("POST", "/v1/tasks", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/images/x", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_another_method_is_not_allowed(
    sqlite_site: Site, method: str, path: str, allowed: set[str]
) -> None:
    response = sqlite_site.call(method, path)

    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert set(response.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/nothing", "/v2/tasks", "/login/x", "/.env", "/wp-admin.php"])
def test_an_unknown_page_is_a_page_that_says_so(sqlite_site: Site, path: str) -> None:
    response = sqlite_site.client.get(path)

    assert response.status_code == 404
    assert response.mimetype == "text/html"
    assert "Location" not in response.headers
    text = response.get_data(as_text=True)
    assert "<h1>Not Found</h1>" in text
    assert f"there is nothing at {path}" in text
    assert response.headers["X-Request-Id"] in text


def test_what_a_stranger_put_into_the_address_is_shown_as_text(sqlite_site: Site) -> None:
    response = sqlite_site.client.get("/<script>alert(1)</script>")
    text = response.get_data(as_text=True)

    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert response.status_code == 404


def test_a_page_that_may_not_be_changed_says_so_in_html(sqlite_site: Site) -> None:
    response = sqlite_site.client.delete("/login")

    assert (response.status_code, response.mimetype) == (405, "text/html")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_without_its_database_a_call_is_unavailable(site_with: Callable[..., Site]) -> None:
    site = site_with()
    site.key()
    with site.parts.db.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE api_keys RENAME TO elsewhere")
    response = site.client.get("/v1/tasks", headers={"Authorization": "Bearer pb_x"})

    assert error_of(response, 503)["code"] == "unavailable"
    assert int(response.headers["Retry-After"]) > 0
    assert "api_keys" not in json_of(response)["error"]["message"]


def test_programs_are_answered_in_json_where_they_call() -> None:
    assert set(API_PATHS) == {
        "/v1/", "/openai/", "/images/", "/callbacks/", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip


def test_every_answer_is_json_that_any_parser_reads(sqlite_site: Site) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    for path in ("/v1/tasks", "/v1/callbacks", "/v1/nothing", "/healthz", "/readyz"):
        json.loads(sqlite_site.get(path).get_data(), parse_constant=refuse)
