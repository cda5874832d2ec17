"""Around every request: its id, its headers, and a log line without secrets."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs
from werkzeug.test import Client, TestResponse

from app.web.middleware import REQUEST_ID, observed, redact
from tests.factories import make_task
from tests.web.sites import Site, error_of

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def hello(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Referrer-Policy", "no-referrer")])
    return [environ[REQUEST_ID].encode()]


def ask(*, https: bool = False, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Client(observed(hello, https=https)).get("/x", headers=named)


@pytest.mark.parametrize("given", ["a", "01a1f8e6-0aad-733b", "A.b_C-9", 128 * "x"])
def test_an_id_that_the_caller_gives_is_taken_over(given: str) -> None:
    response = ask(X_Request_Id=given)

    assert response.headers["X-Request-Id"] == given
    assert response.get_data(as_text=True) == given


@pytest.mark.parametrize("given", ["", 129 * "x", "a b", "<script>", "a\tb", "ä", "a;b", "a\x00"])
def test_an_id_that_is_none_is_replaced(given: str) -> None:
    response = ask(X_Request_Id=given)

    assert len(response.headers["X-Request-Id"]) == 32
    assert response.headers["X-Request-Id"] != ask().headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/healthz"), ("GET", "/"), ("GET", "/login"), ("POST", "/login"),
        ("GET", "/nothing"), ("GET", "/v1/tasks"), ("GET", "/v1/nothing"), ("DELETE", "/v1/tasks"),
        ("GET", "/images/x"), ("POST", "/callbacks/x"), ("GET", "/callbacks/x"),
        ("GET", "/static/style.css"), ("GET", "/static/nothing"), ("OPTIONS", "/healthz"),
    ],
)  # fmt: skip
def test_every_answer_carries_its_id_and_what_keeps_browsers_in_check(
    sqlite_site: Site, method: str, path: str
) -> None:
    response = sqlite_site.client.open(
        path, method=method, headers={"X-Request-Id": "mine"}, buffered=True
    )

    assert response.headers.getlist("X-Request-Id") == ["mine"]
    assert response.headers.getlist("X-Content-Type-Options") == ["nosniff"]
    assert response.headers.getlist("Referrer-Policy") == ["same-origin"]
    assert "Strict-Transport-Security" not in response.headers


def test_behind_tls_browsers_are_told_to_stay_there() -> None:
    header = ask(https=True).headers["Strict-Transport-Security"]

    assert header == "max-age=31536000"


def test_a_header_of_the_applications_own_is_kept() -> None:
    assert ask().headers.getlist("Referrer-Policy") == ["no-referrer"]


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/callbacks/secret", "/callbacks/[redacted]"),
        ("/callbacks/secret/more", "/callbacks/[redacted]"),
        ("//callbacks//secret", "/callbacks/[redacted]"),
        ("/under/a/prefix/callbacks/secret", "/under/a/prefix/callbacks/[redacted]"),
        ("/images/secret.png", "/images/[redacted]"),
        ("/images/", "/images/"),
        ("/v1/images/edits", "/v1/images/edits"),
        ("/openai/images/edits", "/openai/images/edits"),
        ("/v1/callbacks/id/body", "/v1/callbacks/id/body"),
        ("/tasks/id", "/tasks/id"),
    ],
)
def test_a_token_in_a_path_is_not_logged(path: str, logged: str) -> None:
    assert redact(path) == logged


def test_there_is_one_line_for_each_request(sqlite_site: Site) -> None:
    task = make_task(sqlite_site.parts)
    with capture_logs() as lines:
        sqlite_site.post_back(task, b"{}", X_Request_Id="mine")
    (line,) = [line for line in lines if line["event"] == "request"]

    assert line.pop("ms") >= 0
    assert line == {
        "event": "request",
        "action": "request",
        "log_level": "info",
        "method": "POST",
        "path": "/callbacks/[redacted]",
        "status": 422,
        "address": "192.0.2.9",
    }


def test_a_request_leaves_nothing_to_the_next_in_its_thread(sqlite_site: Site) -> None:
    sqlite_site.client.get("/healthz", headers={"X-Request-Id": "mine"})

    assert structlog.contextvars.get_contextvars() == {}


def test_an_error_of_the_application_is_logged_as_one() -> None:
    def fail(_environ: object, _start_response: object) -> Iterable[bytes]:
        raise RuntimeError("no")

    with capture_logs() as lines, pytest.raises(RuntimeError):
        Client(observed(fail, https=False)).get("/x")
    assert [line["status"] for line in lines] == [500]


def test_errors_name_the_request_that_they_belong_to(sqlite_site: Site) -> None:
    response = sqlite_site.client.get("/v1/nothing", headers={"X-Request-Id": "mine"})

    error_of(response, 404)
    assert response.headers["X-Request-Id"] == "mine"
