"""Streams of events over real connections: what is told, in which order, and when they end."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from app import events, tasks
from app.events import Fact, Happened
from app.models import Task, TaskStatus
from app.services import Services
from app.serving import GRACE_SECONDS
from tests.factories import failure, make_task
from tests.servers.service import Part
from tests.web.browsers import Browser
from tests.web.listening import Told, listening
from tests.web.servers import Server, web_server
from tests.web.sites import Site

ENDED = {"status": TaskStatus.SUCCEEDED}


def happen(parts: Services, *facts: tuple[Task, Happened]) -> None:
    with parts.db.transaction() as session:
        events.record(session, *(Fact(task.id, event) for task, event in facts))


def succeed(parts: Services, task: Task) -> None:
    with parts.db.transaction() as session:
        tasks.succeed(session, tasks.lock(session, task.id))


def words(told: list[Told]) -> list[str | None]:
    return [one.event for one in told]


def test_a_task_is_told_from_how_it_is_to_its_end(server: Server) -> None:
    task = make_task(server.parts, prompt="line\nbreaks\r and \u2028")
    other = make_task(server.parts)
    with listening(server.port, server.api_key, f"/v1/tasks/{task.id}/events") as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        state = stream.next()
        assert state
        assert (state.event, state.data["status"]) == (None, "queued")
        happen(server.parts, (task, Happened.SUBMITTING), (other, Happened.CONFLICT))
        assert words([stream.next() or state]) == ["submitting"]
        succeed(server.parts, task)
        (end,) = stream.rest()

    listed = server.get(f"/v1/tasks?trace_id={task.trace_id or ''}&q={task.id}").json["items"]
    assert end.data == {"event": "succeeded", **listed[0]}


def test_a_task_that_has_ended_is_told_as_it_is(server: Server) -> None:
    task = make_task(server.parts, columns=ENDED)
    path = f"/v1/tasks/{task.id}/events"
    with listening(server.port, server.api_key, path) as stream:
        (state,) = stream.rest()
    assert (state.data["task_id"], state.data["status"]) == (str(task.id), "succeeded")
    # Also for whoever has missed nothing.
    with listening(server.port, server.api_key, path, Last_Event_ID=state.id) as stream:
        assert [told.data["status"] for told in stream.rest()] == ["succeeded"]


def test_all_tasks_are_told_from_now_on_to_everybody(server: Server) -> None:
    earlier = make_task(server.parts)
    with ExitStack() as stack:
        streams = [stack.enter_context(listening(server.port, server.api_key)) for _ in range(5)]
        task = make_task(server.parts)
        server.post_back(task, failure("forbidden"))
        told = [stream.until("failed") for stream in streams]

    for each in told:
        mine = [one for one in each if one.data["task_id"] == str(task.id)]
        assert words(mine) == ["created", "failed"]
        assert all(one.data["task_id"] != str(earlier.id) for one in each)
        assert each[-1].data["error"] == {"code": "forbidden", "message": "moderation"}
    assert len({tuple(one.id for one in each) for each in told}) == 1


@pytest.mark.parametrize("by", ["header", "query"])
def test_who_comes_again_is_told_what_happened_meanwhile(server: Server, by: str) -> None:
    with listening(server.port, server.api_key) as stream:
        task = make_task(server.parts)
        (*_, last) = stream.until("created")
    happen(server.parts, *[(task, Happened.SUBMITTING)] * 500)
    happen(server.parts, (task, Happened.CONFLICT))
    headers = {"Last_Event_ID": last.id} if by == "header" else {}
    query = f"?last_event_id={last.id}" if by == "query" else ""
    with listening(server.port, server.api_key, f"/v1/events{query}", **headers) as stream:
        missed = stream.until("conflict")
        happen(server.parts, (task, Happened.REJECTED))
        (then,) = stream.until("rejected")

    assert words(missed) == [*["submitting"] * 500, "conflict"]
    path = f"/v1/tasks/{task.id}/events"
    with listening(server.port, server.api_key, path, Last_Event_ID=missed[498].id) as stream:
        assert words(stream.until("rejected")) == ["submitting", "conflict", "rejected"]
        succeed(server.parts, task)
        assert words(stream.rest()) == ["succeeded"]
    assert int(then.id.partition("-")[2]) > int(missed[-1].id.partition("-")[2])


@pytest.mark.parametrize("id_", ["7", "1-2-3", "a-b", "1-" + 30 * "1", "-1-2", "1 2"])
def test_an_id_that_never_was_one_is_refused(sqlite_server: Server, id_: str) -> None:
    with listening(sqlite_server.port, sqlite_server.api_key, Last_Event_ID=id_) as stream:
        assert stream.status == 400
        assert stream.error()["param"] == "Last-Event-ID"


def test_a_stream_of_a_task_that_is_not_there_is_not_found(sqlite_server: Server) -> None:
    with listening(sqlite_server.port, sqlite_server.api_key, "/v1/tasks/none/events") as stream:
        assert (stream.status, stream.error()["code"]) == (404, "not_found")


# Without the main process the others end by themselves: whoever comes in its place needs the port.
@pytest.mark.parametrize("end", [Part.stop, Part.kill_alone])
def test_the_end_of_the_process_ends_its_streams_at_once(
    postgres_url: str, tmp_path: Path, end: Callable[[Part], object]
) -> None:
    # One that still starts would not end well.
    one = web_server(postgres_url, tmp_path, WEB_CONCURRENCY="1")
    with one as server, ExitStack() as stack:
        task = make_task(server.parts)
        paths = ["/v1/events", f"/v1/tasks/{task.id}/events"] * 3
        streams = [
            stack.enter_context(listening(server.port, server.api_key, path)) for path in paths
        ]
        started = time.monotonic()
        assert not end(server.part)
        told = [len(stream.rest()) for stream in streams]
        # Not as long as what is under way may take.
        assert time.monotonic() - started < GRACE_SECONDS / 3
    assert told == [0, 1] * 3


def test_a_page_is_told_in_brief_and_may_come_again_before_anything_has_happened(
    viewer: Browser, sqlite_site: Site
) -> None:
    task = make_task(sqlite_site.parts)
    stream = viewer.client.get(f"/events?task_id={task.id}", buffered=False)
    with closing(stream):
        assert (stream.status_code, stream.mimetype) == (200, "text/event-stream")
        opening, state = (next(stream.iter_encoded()).decode() for _ in range(2))
    assert opening.startswith("retry: 1000\nid: ")
    assert json.loads(state.split("data: ")[1]) == {
        "event": None,
        "task_id": str(task.id),
        "status": "queued",
    }
    # Not a form to sign in with, which the browser would call a fault of the stream.
    assert sqlite_site.new_client().get("/events").status_code == 204
