"""Every error has one shape: JSON for programs, a page for people, and nothing of what is inside."""

from collections.abc import Callable, Mapping

import pytest
from flask import request
from werkzeug.test import TestResponse

from app.web.auth import public
from app.web.envelope import HttpError
from tests.web.sites import Site, error_of

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
    "too_early": 425,
    "too_many_requests": 429,
    "api_error": 500,
    "unavailable": 503,
    "timeout": 504,
}


def raising(site: Site, errors: Mapping[str, Exception]) -> list[TestResponse]:
    """The answers of views that raise, by their paths."""

    def view() -> str:
        raise errors[request.path]

    for path in errors:
        site.flask.add_url_rule(path, "raises", public(view))
    return [site.client.get(path) for path in errors]


def test_the_shape_is_the_same_for_every_code(sqlite_site: Site) -> None:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    errors = {
        f"/v1/{code}": HttpError(code, "what was wrong", param="field", headers={"X-Own": "1"})
        for code in PROMISED
    }
    responses = raising(sqlite_site, errors)
    for response, (code, status) in zip(responses, PROMISED.items(), strict=True):
        assert error_of(response, status) == {
            "code": code,
            "message": "what was wrong",
            "type": kinds.get(status, "invalid_request_error" if status < 500 else "api_error"),
            "param": "field",
        }
        assert response.headers["X-Own"] == "1"


def test_an_unexpected_error_tells_nothing(sqlite_site: Site) -> None:
    secret = RuntimeError("postgresql://postback:password@10.0.0.5/postback")
    answer, page = raising(sqlite_site, {"/v1/raises": secret, "/page": secret})

    assert error_of(answer, 500) == {
        "code": "api_error", "message": "unexpected error", "type": "api_error", "param": None,
    }  # fmt: skip
    assert (page.status_code, page.mimetype) == (500, "text/html")
    for response in (answer, page):
        text = response.get_data(as_text=True)
        assert response.headers["X-Request-Id"] in text
        for inside in ("password", "RuntimeError", "Traceback", "/app/", "10.0.0.5"):
            assert inside not in text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/images/edits", {"POST", "OPTIONS"}),
        ("GET", "/openai/images/edits", {"POST", "OPTIONS"}),
        ("POST", "/v1/tasks", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/readyz", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/images/x", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/openapi.json", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/login", {"GET", "HEAD", "OPTIONS", "POST"}),
    ],
)
def test_another_method_is_not_allowed(
    sqlite_site: Site, method: str, path: str, allowed: set[str]
) -> None:
    response = sqlite_site.call(method, path)

    assert set(response.headers["Allow"].split(", ")) == allowed
    if path == "/login":
        assert (response.status_code, response.mimetype) == (405, "text/html")
    else:
        error = error_of(response, 405)
        assert error["code"] == "method_not_allowed"
        assert error["message"] == f"expected {', '.join(sorted(allowed))}, not {method}"


def test_what_is_not_there_is_not_found_by_programs_and_people(sqlite_site: Site) -> None:
    for path in ("/v1/nothing", "/v1/", "/openai/nothing", "/images/x/y", "/v1/tasks/1/2/3"):
        error = error_of(sqlite_site.get(path), 404)
        assert error["code"] == "not_found"
        assert path in error["message"]
    for path in ("/nothing", "/v2/tasks", "/login/x", "/.env", "/wp-admin.php"):
        response = sqlite_site.client.get(path)
        assert (response.status_code, response.mimetype) == (404, "text/html")
        assert "Location" not in response.headers
        text = response.get_data(as_text=True)
        for said in ("<h1>Not Found</h1>", f"nothing at {path}", response.headers["X-Request-Id"]):
            assert said in text
    # What a stranger put into the address is shown as text.
    page = sqlite_site.client.get("/<script>alert(1)</script>").get_data(as_text=True)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_without_its_database_a_call_is_unavailable(site_with: Callable[..., Site]) -> None:
    site = site_with()
    site.key()
    with site.parts.db.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE api_keys RENAME TO elsewhere")
    response = site.client.get("/v1/tasks", headers={"Authorization": "Bearer pb_x"})
    error = error_of(response, 503)

    assert error["code"] == "unavailable"
    assert int(response.headers["Retry-After"]) > 0
    assert "api_keys" not in error["message"]
