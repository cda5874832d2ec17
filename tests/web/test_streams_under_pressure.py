"""Streams when something is missing: places, the database, the process, a client that reads."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import MSG_PEEK

import pytest

from app import events, web
from app.events import Fact, Happened
from app.models import Task
from app.services import Services
from tests.factories import eventually, make_task, success
from tests.servers.postgres import Postgres
from tests.web.listening import Listening, listening
from tests.web.servers import Line, Server, head, web_server
from tests.web.sites import accepted

PLACES = web.THREADS - web.FREE_THREADS
BODY = json.dumps(success()).encode()


@pytest.fixture
def one_process(postgres_url: str, tmp_path: Path) -> Iterator[Server]:
    """One web process on PostgreSQL."""
    with web_server(postgres_url, tmp_path, WEB_CONCURRENCY="1", RATE_LIMITS="off") as server:
        yield server


def happen(parts: Services, task: Task, *details: int) -> None:
    for detail in details:
        with parts.db.transaction() as session:
            events.record(session, Fact(task.id, Happened.CONFLICT, {"number": detail}))


def hears(stream: Listening, count: int) -> list[str]:
    """The ids of the next so many events."""
    told = [stream.next() for _ in range(count)]
    return [one.id for one in told if one]


def test_streams_take_no_thread_that_others_need_and_who_hangs_up_makes_room(
    one_process: Server,
) -> None:
    server, task = one_process, make_task(one_process.parts)
    path = f"/v1/tasks/{task.id}/events"
    with ExitStack() as stack:
        streams = [
            stack.enter_context(listening(server.port, server.api_key, path))
            for _ in range(PLACES + 20)
        ]
        refused = [stream for stream in streams if stream.status == 503]
        assert len(refused) == 20
        assert all(int(stream.headers["Retry-After"]) > 0 for stream in refused)
        waits = server.get(f"/v1/tasks/{task.id}?wait=1")
        assert (waits.status, waits.json["error"]["code"]) == (503, "unavailable")
        assert server.post_back(task, BODY).json == accepted(task)
        listeners = [stream for stream in streams if stream.status == 200]
        assert all(len(hears(stream, 2)) == 2 for stream in listeners)
    # Nothing happens that would be told to who is gone.
    eventually(lambda: server.get(f"/v1/tasks/{task.id}?wait=1").status == 200)


def test_a_stream_outlasts_the_database(one_process: Server, postgres: Postgres) -> None:
    server, task = one_process, make_task(one_process.parts)
    with listening(server.port, server.api_key) as stream:
        happen(server.parts, task, 1)
        first = hears(stream, 1)
        with postgres.down():
            assert server.get("/v1/tasks").status == 503
        happen(server.parts, task, *range(2, 12))
        then = hears(stream, 10)
    with listening(server.port, server.api_key, Last_Event_ID=first[0]) as again:
        assert hears(again, 10) == then


def test_whose_process_was_killed_resumes_at_the_next_one(one_process: Server) -> None:
    server, task = one_process, make_task(one_process.parts)
    with listening(server.port, server.api_key) as stream:
        happen(server.parts, task, 1, 2)
        told = hears(stream, 2)
        (worker,) = server.workers()
        worker.send_signal(signal.SIGKILL)
        with pytest.raises(Exception, match=r"IncompleteRead|reset"):
            stream.next()
    happen(server.parts, task, 3)
    eventually(lambda: server.call("GET", "/healthz").status == 200)
    with listening(server.port, server.api_key, Last_Event_ID=told[0]) as again:
        happen(server.parts, task, 4)
        assert hears(again, 3)[0] == told[1]


def test_who_does_not_read_is_cut_off_and_resumes(one_process: Server) -> None:
    server = one_process
    task = make_task(server.parts, prompt=32_000 * "long ")
    with Line(server.port) as line, listening(server.port, server.api_key) as quick:
        slow = head("GET", "/v1/events", Authorization=f"Bearer {server.api_key}")
        line.send(slow)
        eventually(lambda: b" 200 " in line.socket.recv(15, MSG_PEEK))
        every: list[str] = []
        while "stream cut off" not in server.log:
            happen(server.parts, task, len(every))
            every += hears(quick, 1)
        read = b""
        while piece := line.socket.recv(2**20):
            read += piece
    last = [text for text in read.decode().splitlines() if text.startswith("id: ")][-1]
    last = last.removeprefix("id: ")
    left = every[every.index(last) + 1 :]
    assert left
    with listening(server.port, server.api_key, Last_Event_ID=last) as again:
        assert hears(again, len(left)) == left
