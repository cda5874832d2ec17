"""Real web processes when something is missing: the database, memory, threads, time."""

import json
import select
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app import web
from app.models import Task
from tests.factories import eventually, get_task, make_task, submission, success
from tests.servers.postgres import Postgres
from tests.web.servers import Answer, Line, Server, head, web_server
from tests.web.sites import DUPLICATE, accepted

MIB = 2**20
BODY = json.dumps(success()).encode()
LARGE = json.dumps(success(padding=500_000 * "x")).encode()
SYNC_SECONDS = 3.0


@pytest.fixture(scope="module")
def small_server(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One process with low limits."""
    folder = tmp_path_factory.mktemp("server")
    path = shutil.copy(migrated_sqlite, folder / "postback.db")
    limits = {"MAX_CALLBACK_BYTES": "1MiB", "SYNC_WAIT": f"{SYNC_SECONDS}s", "RATE_LIMITS": "off"}
    with web_server(f"sqlite:///{path}", folder, **limits) as server:
        yield server


def callback_head(server: Server, task: Task, length: int) -> bytes:
    path = f"/callbacks/{server.token(task)}"
    return head("POST", path, Content_Length=str(length))


def unavailable(answer: Answer) -> None:
    assert answer.status == 503
    assert answer.json["error"]["code"] == "unavailable"
    assert int(answer.headers["Retry-After"]) > 0


def test_without_its_database_nothing_is_claimed_and_afterwards_all_is_well(
    postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    with web_server(postgres_url, tmp_path) as server:
        small, large, answered = (make_task(server.parts) for _ in range(3))
        assert server.post_back(answered, BODY).status == 200
        with postgres.down():
            unavailable(server.post_back(small, BODY))
            unavailable(server.post_back(large, LARGE))
            unavailable(server.get(f"/v1/tasks/{small.id}"))
            # A duplicate too: who says so would claim that the first one is there.
            unavailable(server.post_back(answered, BODY))
            assert server.call("POST", "/callbacks/forged", b"{}").status == 404
            assert server.call("GET", "/healthz").status == 200
            started = time.monotonic()
            ready = server.call("GET", "/readyz")
            assert time.monotonic() - started < 10
            # No stranger is told where the database is.
            assert (ready.status, ready.json) == (
                503,
                {"status": "failing", "database": "away", "storage": "ok", "worker": "away"},
            )
        for task, body in ((small, BODY), (large, LARGE)):
            assert server.callbacks(task) == []
            assert server.post_back(task, body).json["status"] == "accepted"
            assert server.post_back(task, body).json == DUPLICATE
        assert server.post_back(answered, BODY).json == DUPLICATE
        assert server.call("GET", "/readyz").json["database"] == "ok"
        assert get_task(server.parts, small.id).status == "received"


def test_large_bodies_at_once_are_limited_in_all_their_bytes(small_server: Server) -> None:
    server = small_server
    padding = MIB - len(json.dumps(success(padding="")))
    body = json.dumps(success(padding=padding * "x")).encode()
    with ExitStack() as stack:
        lines = {stack.enter_context(Line(server.port)): make_task(server.parts) for _ in range(6)}
        for line, task in lines.items():
            line.send(callback_head(server, task, MIB), body[:-1])
        # There is room for four of that size, and all six still wait for their last byte.
        eventually(lambda: len(answered(lines)) >= 2)
        # A small body needs nothing of that room.
        assert server.post_back(make_task(server.parts), BODY).status == 200
        for line in answered(lines):
            unavailable(line.answer())
            assert server.callbacks(lines.pop(line)) == []
        assert lines
        for line in lines:
            line.send(body[-1:])
            assert line.answer().status == 200
    # And all of it was given back.
    assert server.post_back(make_task(server.parts), body).status == 200


def answered(lines: Iterable[Line]) -> list[Line]:
    """The connections on which an answer waits."""
    by_socket = {line.socket: line for line in lines}
    return [by_socket[ready] for ready in select.select(by_socket, (), (), 0)[0]]


def test_a_declared_length_above_the_limit_is_answered_before_the_body_comes(
    small_server: Server,
) -> None:
    task = make_task(small_server.parts)
    with Line(small_server.port) as line:
        line.send(callback_head(small_server, task, MIB + 1))
        answer = line.answer(seconds=5)

    assert answer.status == 413
    assert answer.json["error"]["code"] == "too_large"
    (entry,) = small_server.callbacks(task)
    assert (entry["verdict"], entry["bytes"]) == ("rejected", MIB + 1)
    assert (entry["reason"], entry["address"]) == (answer.json["error"]["message"], "127.0.0.1")
    assert get_task(small_server.parts, task.id).status == "queued"


def test_a_length_above_the_limit_that_is_not_declared_is_answered_as_soon_as_it_is_reached(
    small_server: Server,
) -> None:
    task = make_task(small_server.parts)
    with Line(small_server.port) as line:
        path = f"/callbacks/{small_server.token(task)}"
        line.send(head("POST", path, Transfer_Encoding="chunked"))
        line.send(b"%x\r\n" % (10 * MIB), bytes(MIB + 100_000))
        answer = line.answer()

    assert answer.status == 413
    (entry,) = small_server.callbacks(task)
    assert (entry["verdict"], entry["bytes"]) == ("rejected", None)


def test_callers_that_wait_take_no_thread_that_callbacks_need(small_server: Server) -> None:
    server = small_server
    places = web.THREADS - web.FREE_THREADS
    task = make_task(server.parts)
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(server.port)) for _ in range(places + 10)]
        for number, line in enumerate(lines):
            # Equal ones would all be the first one, sent again.
            body = json.dumps(submission(prompt=f"sepia {number}", **{"async": None})).encode()
            request = head(
                "POST",
                "/v1/images/edits",
                Authorization=f"Bearer {server.api_key}",
                Content_Type="application/json",
                Content_Length=str(len(body)),
            )
            line.send(request, body)
        for _ in range(5):
            assert server.post_back(task, BODY).status == 200
        answers = [line.answer() for line in lines]
    refused = [answer for answer in answers if answer.status == 503]
    timed_out = [answer for answer in answers if answer.status == 504]

    assert len(refused) + len(timed_out) == len(lines)
    # Some may have come after others were through.
    assert 0 < len(refused) <= 10
    for answer in refused:
        unavailable(answer)
    assert all(answer.headers["x-should-retry"] == "false" for answer in timed_out)
    # Who was refused has submitted nothing.
    assert len({answer.json["task_id"] for answer in timed_out}) == len(timed_out)
    assert all("task_id" not in answer.json for answer in refused)


def test_a_process_that_is_told_to_end_answers_what_it_has_begun(
    sqlite_url: str, tmp_path: Path
) -> None:
    with web_server(sqlite_url, tmp_path) as server:
        task = make_task(server.parts)
        with Line(server.port) as line:
            line.send(callback_head(server, task, len(BODY)), BODY[:10])
            workers = server.workers()
            server.part.process.send_signal(signal.SIGTERM)
            eventually(lambda: "Handling signal: term" in server.log)
            line.send(BODY[10:])
            assert line.answer().json == accepted(task)
        assert server.part.process.wait(30) == 0
        assert not any(worker.is_running() for worker in workers)
        assert get_task(server.parts, task.id).status == "received"
