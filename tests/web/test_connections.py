"""Clients that do not do their part: nobody else waits for them, and none is told what is not so."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app import web
from app.serving import refusals
from tests.factories import make_task, success
from tests.web.servers import Line, Server, head

IDLE = [
    pytest.param(b"", id="says nothing"),
    pytest.param(b"GET /healthz HTTP/1.0\r\n\r\n", id="does not close"),
    pytest.param(head("POST", "/callbacks/forged", Content_Length="60000"), id="sends no body"),
]


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    """What is still open at the end of the test is closed."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("sent", IDLE)
def test_nobody_waits_for_a_client_that(
    sqlite_server: Server, connections: ExitStack, sent: bytes
) -> None:
    for _ in range(web.THREADS + 20):
        connections.enter_context(Line(sqlite_server.port)).send(sent)

    started = time.monotonic()
    for _ in range(3):
        assert sqlite_server.call("GET", "/healthz").status == 200
    # As gunicorn has it, each of these clients may cost all others two seconds.
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("size", [2, 60_000, 3_000_000])
def test_an_answer_to_an_unread_body_closes_the_connection_and_says_so(
    server: Server, size: int
) -> None:
    with Line(server.port) as line:
        line.send(head("POST", "/callbacks/forged", Content_Length=str(size)), size * b"x")
        answer = line.answer()
        assert (answer.status, answer.headers["Connection"]) == (404, "close")
        assert line.ended(seconds=1)


def test_who_was_read_may_send_more_on_the_same_connection(server: Server) -> None:
    task = make_task(server.parts)
    with Line(server.port) as line:
        for padding in ("", 70_000 * "x"):
            body = json.dumps(success(padding=padding)).encode()
            path = f"/callbacks/{server.token(task)}"
            line.send(head("POST", path, Content_Length=str(len(body))), body)
            assert line.answer().status == 200
        line.send(head("GET", "/healthz"))
        assert line.answer("GET").headers["Connection"] == "keep-alive"


def test_what_gunicorn_itself_refuses_is_an_error_like_all_others(sqlite_server: Server) -> None:
    for sent, status, code in [
        (b"\x16\x03\x01\r\n\r\n", 400, "bad_request"),
        (head("GET", f"/{9000 * 'x'}"), 414, "bad_request"),
        (head("GET", "/healthz", X_Long=9000 * "x"), 431, "bad_request"),
        (head("POST", "/v1/images/edits", Content_Length="-5"), 400, "bad_request"),
    ]:
        with Line(sqlite_server.port) as line:
            line.send(sent)
            answer = line.answer()
        error = answer.json["error"]
        assert (answer.status, error["code"], error["param"]) == (status, code, None)
        assert error["message"].startswith("the request: ")
        assert answer.json["trace_id"] == answer.headers["X-Request-Id"] != ""
    assert b"unexpected error" in refusals.answer(RuntimeError("a secret"))
