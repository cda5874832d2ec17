"""Callbacks over real connections to real processes, with all that can happen to a connection."""

import json
import time
from typing import Any

from sqlalchemy import delete, select

from app.jobs import Kind
from app.models import Job, Task
from tests.factories import failure, make_task, success
from tests.web.servers import Line, Server, chunked, head
from tests.web.sites import DUPLICATE, accepted, all_at_once

MIB = 2**20
BODY = json.dumps(success()).encode()
CONFLICT = {"status": "conflict"}


def callback_head(server: Server, task: Task, **headers: str) -> bytes:
    return head("POST", f"/callbacks/{server.token(task)}", **headers)


def test_a_forged_token_is_refused_before_the_body_comes(sqlite_server: Server) -> None:
    with Line(sqlite_server.port) as line:
        line.send(head("POST", "/callbacks/forged", Content_Length="10737418240"))
        answer = line.answer(seconds=5)

    assert answer.status == 404
    assert answer.json["error"]["code"] == "not_found"
    assert answer.json["trace_id"] == answer.headers["X-Request-Id"]


def test_a_task_that_is_gone_is_refused_whether_the_body_came_with_the_head_or_not_at_all(
    server: Server,
) -> None:
    task = make_task(server.parts)
    with server.parts.db.transaction() as session:
        session.execute(delete(Task).where(Task.id == task.id))
    for body, sent in ((BODY, BODY), (b"no JSON", b"no JSON"), (BODY, b"")):
        with Line(server.port) as line:
            line.send(callback_head(server, task, Content_Length=str(len(body))) + sent)
            answer = line.answer(seconds=5)
        assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
        entry = server.get("/v1/callbacks?verdict=rejected").json["items"][0]
        assert (entry["reason"], entry["task_id"]) == (f"task {task.id} is gone", None)


def test_every_verdict_over_the_wire(server: Server) -> None:
    task = make_task(server.parts)
    bodies: list[dict[str, Any]] = [
        failure("forbidden", "it shows a face"),
        failure("forbidden", "it shows a face"),
        failure("timeout"),
        success(),
        failure("timeout"),
        failure("late"),
        success("https://images.example.com/2.png"),
    ]
    answers = [server.post_back(task, b"no JSON")]
    answers += [server.post_back(task, body) for body in bodies[:3]]
    seen = server.get(f"/v1/tasks/{task.id}").json
    assert seen["status"] == "failed"
    assert seen["error"] == {"code": "forbidden", "message": "it shows a face"}
    answers += [server.post_back(task, body) for body in bodies[3:]]
    answers.append(server.post_back(task, b"no JSON"))

    assert [answer.status for answer in answers] == [422, *7 * [200], 422]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(answers)
    assert answers[0].json["error"]["code"] == "invalid_callback"
    assert [answer.json for answer in answers[1:-1]] == [
        accepted(task), DUPLICATE, CONFLICT, accepted(task), DUPLICATE, CONFLICT, CONFLICT,
    ]  # fmt: skip
    entries = server.callbacks(task)[::-1]
    assert [(entry["verdict"], entry["duplicates"]) for entry in entries] == [
        ("rejected", 1), ("accepted", 1), ("conflict", 1), ("accepted", 0), ("conflict", 0),
        ("conflict", 0),
    ]  # fmt: skip
    assert server.get(f"/v1/callbacks/{entries[0]['id']}/body").body == b"no JSON"
    seen = server.get(f"/v1/tasks/{task.id}").json
    assert (seen["status"], seen["error"], seen["finished_at"]) == ("received", None, None)


def test_fifty_connections_at_once_store_one(server: Server) -> None:
    task = make_task(server.parts)
    answers = all_at_once(50, lambda: server.post_back(task, BODY).json["status"])

    assert sorted(answers) == ["accepted"] + 49 * ["duplicate"]
    (callback,) = server.callbacks(task)
    assert callback["duplicates"] == 49
    with server.parts.db.reading() as session:
        kinds = session.scalars(select(Job.kind).filter_by(task_id=task.id).order_by(Job.id))
        assert kinds.all() == [Kind.SUBMIT, Kind.INGEST]


def test_a_connection_serves_one_callback_after_another_however_they_come(
    sqlite_server: Server,
) -> None:
    whole, waiting, chunks = (make_task(sqlite_server.parts) for _ in range(3))
    length = str(len(BODY))
    with Line(sqlite_server.port) as line:
        line.send(callback_head(sqlite_server, whole, Content_Length=length), BODY)
        assert line.answer().json == accepted(whole)
        asking = callback_head(sqlite_server, waiting, Content_Length=length, Expect="100-continue")
        line.send(asking)
        assert line.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(BODY)
        assert line.answer().json == accepted(waiting)
        line.send(callback_head(sqlite_server, chunks, Transfer_Encoding="chunked"))
        line.send(*(chunked(BODY[at : at + 10]) for at in range(0, len(BODY), 10)))
        line.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        assert line.answer().json == accepted(chunks)
        # Nobody is asked for a body that is refused unread.
        line.send(head("POST", "/callbacks/forged", Content_Length=length, Expect="100-continue"))
        assert line.socket.recv(100).startswith(b"HTTP/1.1 404 ")
    (callback,) = sqlite_server.callbacks(chunks)
    assert callback["bytes"] == len(BODY)


def test_a_body_that_was_not_read_is_not_taken_for_the_next_request(sqlite_server: Server) -> None:
    task = make_task(sqlite_server.parts)
    smuggled = callback_head(sqlite_server, task, Content_Length=str(len(BODY))) + BODY
    with Line(sqlite_server.port) as line:
        line.send(head("POST", "/callbacks/forged", Content_Length=str(len(smuggled))), smuggled)
        assert line.answer().status == 404
        assert line.ended()

    assert sqlite_server.callbacks(task) == []


def test_a_large_body_that_is_not_read_ends_its_connection_after_the_answer(
    sqlite_server: Server,
) -> None:
    with Line(sqlite_server.port) as line:
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


def test_a_body_may_come_slowly_and_holds_nobody_up(sqlite_server: Server) -> None:
    slow, quick = make_task(sqlite_server.parts), make_task(sqlite_server.parts)
    with Line(sqlite_server.port) as line:
        line.send(callback_head(sqlite_server, slow, Content_Length=str(len(BODY))))
        for at in range(0, len(BODY), 40):
            line.send(BODY[at : at + 40])
            time.sleep(0.1)  # this is what the test is about
            if at == 40:
                assert sqlite_server.post_back(quick, BODY).json == accepted(quick)
        assert line.answer().json == accepted(slow)
