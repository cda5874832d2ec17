"""Around every request: its id, its headers, and a log line without secrets."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs
from werkzeug.test import Client, TestResponse

from app.web.middleware import REQUEST_ID, observed, redact
from tests.web.sites import Site

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def hello(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Referrer-Policy", "no-referrer")])
    return [environ[REQUEST_ID].encode()]


def ask(**headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Client(observed(hello, https=False)).get("/x", headers=named)


def test_an_id_that_the_caller_gives_is_taken_over_if_it_is_one() -> None:
    for given in ("a", "01a1f8e6-0aad-733b", "A.b_C-9", 128 * "x"):
        response = ask(X_Request_Id=given)
        assert response.headers["X-Request-Id"] == response.get_data(as_text=True) == given
    made = set()
    for given in ("", 129 * "x", "a b", "<script>", "a\tb", "ä", "a;b", "a\x00"):
        made.add(ask(X_Request_Id=given).headers["X-Request-Id"])
    assert [len(id_) for id_ in made] == 8 * [32]


def test_every_answer_carries_its_id_and_what_keeps_browsers_in_check(sqlite_site: Site) -> None:
    for call in (
        "GET /healthz", "GET /", "GET /login", "POST /login", "GET /nothing", "GET /v1/tasks",
        "GET /v1/nothing", "DELETE /v1/tasks", "GET /images/x", "POST /callbacks/x",
        "GET /callbacks/x", "GET /static/style.css", "GET /static/nothing", "OPTIONS /healthz",
    ):  # fmt: skip
        method, path = call.split()
        response = sqlite_site.client.open(
            path, method=method, headers={"X-Request-Id": "mine"}, buffered=True
        )
        assert response.headers.getlist("X-Request-Id") == ["mine"]
        assert response.headers.getlist("X-Content-Type-Options") == ["nosniff"]
        assert response.headers.getlist("Referrer-Policy") == ["same-origin"]
        assert "Strict-Transport-Security" not in response.headers
    # And it leaves nothing to the next request in its thread.
    assert structlog.contextvars.get_contextvars() == {}


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


def test_an_error_of_the_application_is_logged_as_one() -> None:
    def fail(_environ: object, _start_response: object) -> Iterable[bytes]:
        raise RuntimeError("no")

    with capture_logs() as lines, pytest.raises(RuntimeError):
        Client(observed(fail, https=False)).get("/x")
    assert [line["status"] for line in lines] == [500]
