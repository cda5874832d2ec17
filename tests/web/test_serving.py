"""Callbacks over real connections to real processes, with all that can happen to a connection."""

import json
import time

import pytest

from app.models import Task
from tests.factories import failure, get_task, make_task, success
from tests.web.servers import Line, Server, chunked, head
from tests.web.sites import all_at_once

MIB = 2**20
BODY = json.dumps(success()).encode()


def accepted(task: Task) -> dict[str, str]:
    return {"status": "accepted", "task_id": str(task.id)}


def callback_head(server: Server, task: Task, **headers: str) -> bytes:
    return head("POST", f"/callbacks/{server.token(task)}", **headers)


def test_a_forged_token_is_refused_before_the_body_comes(server: Server) -> None:
    with Line(server.port) as line:
        line.send(head("POST", "/callbacks/forged", Content_Length="10737418240"))
        answer = line.answer(seconds=5)

    assert answer.status == 404
    assert answer.json["error"]["code"] == "not_found"
    assert answer.json["trace_id"] == answer.headers["X-Request-Id"]


def test_a_first_result_then_the_same_again(server: Server) -> None:
    task = make_task(server.parts)
    first, second = (server.post_back(task, BODY) for _ in range(2))

    assert (first.status, first.json) == (200, accepted(task))
    assert (second.status, second.json) == (200, {"status": "duplicate"})
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert get_task(server.parts, task.id).status == "received"


def test_every_verdict_over_the_wire(server: Server) -> None:
    task = make_task(server.parts)
    bodies = [failure(), failure(), success(), failure("timeout")]
    answers = [
        server.post_back(task, body)
        for body in (b"no JSON", *(json.dumps(body).encode() for body in bodies), b"no JSON")
    ]

    assert [answer.status for answer in answers] == [422, 200, 200, 200, 200, 422]
    assert answers[0].json["error"]["code"] == "invalid_callback"
    assert [answer.json.get("status") for answer in answers] == [
        None, "accepted", "duplicate", "accepted", "conflict", None,
    ]  # fmt: skip
    conflict, success_, failure_, rejected = server.callbacks(task)
    assert [entry["verdict"] for entry in (conflict, success_, failure_, rejected)] == [
        "conflict", "accepted", "accepted", "rejected",
    ]  # fmt: skip
    assert (failure_["duplicates"], rejected["duplicates"]) == (1, 1)
    assert server.get(f"/v1/callbacks/{rejected['id']}/body").body == b"no JSON"
    assert get_task(server.parts, task.id).status == "received"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_posts_are_taken(sqlite_server: Server, method: str) -> None:
    task = make_task(sqlite_server.parts)
    answer = sqlite_server.call(method, f"/callbacks/{sqlite_server.token(task)}", BODY)

    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert answer.json["error"]["code"] == "method_not_allowed"


def test_fifty_connections_at_once_store_one(server: Server) -> None:
    task = make_task(server.parts)
    answers = all_at_once(50, lambda: server.post_back(task, BODY).json["status"])

    assert sorted(answers) == ["accepted"] + 49 * ["duplicate"]
    (callback,) = server.callbacks(task)
    assert callback["duplicates"] == 49


def test_a_body_in_chunks_is_taken(server: Server) -> None:
    task = make_task(server.parts)
    with Line(server.port) as line:
        line.send(callback_head(server, task, Transfer_Encoding="chunked"))
        line.send(*(chunked(BODY[at : at + 10]) for at in range(0, len(BODY), 10)))
        line.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        assert line.answer().json == accepted(task)

    (callback,) = server.callbacks(task)
    assert callback["bytes"] == len(BODY)


def test_a_client_that_asks_before_it_sends_is_told_to(sqlite_server: Server) -> None:
    task = make_task(sqlite_server.parts)
    length = str(len(BODY))
    with Line(sqlite_server.port) as line:
        line.send(callback_head(sqlite_server, task, Content_Length=length, Expect="100-continue"))
        assert line.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(BODY)
        assert line.answer().json == accepted(task)


def test_a_connection_serves_one_callback_after_another(server: Server) -> None:
    with Line(server.port) as line:
        for _ in range(5):
            task = make_task(server.parts)
            line.send(callback_head(server, task, Content_Length=str(len(BODY))), BODY)
            assert line.answer().json == accepted(task)


def test_a_body_that_was_not_read_is_not_taken_for_the_next_request(server: Server) -> None:
    task = make_task(server.parts)
    smuggled = callback_head(server, task, Content_Length=str(len(BODY))) + BODY
    with Line(server.port) as line:
        line.send(head("POST", "/callbacks/forged", Content_Length=str(len(smuggled))), smuggled)
        assert line.answer().status == 404
        assert line.ended()

    assert server.callbacks(task) == []


def test_a_large_body_that_is_not_read_ends_its_connection_after_the_answer(
    server: Server,
) -> None:
    with Line(server.port) as line:
        line.send(head("POST", "/callbacks/forged", Content_Length=str(50 * MIB)), bytes(MIB))
        assert line.answer().status == 404
        assert line.ended()


def test_of_a_connection_that_is_cut_nothing_is_stored(server: Server) -> None:
    task = make_task(server.parts)
    with Line(server.port) as line:
        line.send(callback_head(server, task, Content_Length=str(len(BODY))), BODY[:-1])
    with Line(server.port) as line:
        line.send(callback_head(server, task, Transfer_Encoding="chunked"), chunked(BODY))
    with Line(server.port) as line:
        line.send(callback_head(server, task, Content_Length=str(MIB)), bytes(MIB - 1))

    # One that is answered after them has been begun after them.
    assert server.post_back(task, BODY).json == accepted(task)
    assert len(server.callbacks(task)) == 1


def test_a_body_may_come_slowly_and_holds_nobody_up(server: Server) -> None:
    slow, quick = make_task(server.parts), make_task(server.parts)
    with Line(server.port) as line:
        line.send(callback_head(server, slow, Content_Length=str(len(BODY))))
        for at in range(0, len(BODY), 40):
            line.send(BODY[at : at + 40])
            time.sleep(0.1)  # this is what the test is about
            if at == 40:
                assert server.post_back(quick, BODY).json == accepted(quick)
        assert line.answer().json == accepted(slow)
