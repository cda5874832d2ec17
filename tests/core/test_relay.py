"""The outbox becomes messages: each event once, for those who want it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, select, text
from structlog.testing import capture_logs

from app.events import Happened
from app.jobs import Kind
from app.models import Event, Image, ImageStatus, Message, Task, TaskStatus
from app.push.relay import Relay, relay, relay_singly
from app.reports import task_in_full
from app.services import Services
from tests.core.conftest import at_once, count
from tests.factories import (
    deliver,
    due_kinds,
    eventually,
    failure,
    get_task,
    make_task,
    success,
    take,
)
from tests.subscribers import (
    bodies,
    deliveries,
    happen,
    make_endpoint,
    pending,
    relay_all,
)


def test_each_subscriber_is_told_what_it_wants_once(parts: Services) -> None:
    all_, some = make_endpoint(parts), make_endpoint(parts, events=["task.failed"])
    make_endpoint(parts, enabled=False)
    task = make_task(parts)
    happen(parts, task, Happened.SUBMITTED)
    happen(parts, task, Happened.IMAGE_STORED)
    take(parts, task, failure("forbidden", "moderation"))
    relay_all(parts)
    relay_all(parts)

    sent = deliveries(parts)
    assert [(each.endpoint_id, each.type) for each in sent] == [
        (all_.id, "task.submitted"),
        (all_.id, "task.failed"),
        (some.id, "task.failed"),
    ]
    assert due_kinds(parts).count(Kind.DELIVER) == 3
    assert pending(parts) == 0
    with parts.db.reading() as session:
        ids = session.scalars(select(Event.message_id).where(Event.message_id.is_not(None)))
        assert set(ids) == {each.message_id for each in sent}
        now = task_in_full(parts, session, get_task(parts, task.id))
    submitted, failed = bodies(parts)
    assert failed["type"] == "task.failed"
    assert failed["data"] == now
    assert failed["timestamp"] == now["timeline"][-1]["at"]
    # It tells of the task as it was then.
    assert submitted["data"]["status"] == "submitted"
    assert submitted["data"]["error"] is None
    assert submitted["data"]["finished_at"] is None
    assert [each["event"] for each in submitted["data"]["timeline"]] == ["created", "submitted"]


def test_nothing_is_made_of_what_nobody_wants(parts: Services) -> None:
    make_endpoint(parts, events=["task.canceled"])
    happen(parts, make_task(parts), Happened.SUBMITTED)
    relay_all(parts)
    assert (count(parts.db, Message), pending(parts)) == (0, 0)


def test_the_caller_of_a_task_gets_its_end_as_the_provider_tells_it(parts: Services) -> None:
    url = "https://example.com/mine"
    done = make_task(parts, callback_url=url, trace_id="mine")
    (image,) = deliver(parts, done, success())
    with parts.db.transaction() as session:
        session.get_one(Image, image.id).status = ImageStatus.STORED
        session.get_one(Task, done.id).status = TaskStatus.SUCCEEDED
    happen(parts, done, Happened.SUCCEEDED)
    refused, taken_back = make_task(parts, callback_url=url), make_task(parts, callback_url=url)
    take(parts, refused, failure("forbidden", "moderation"))
    happen(parts, taken_back, Happened.CANCELED)
    relay_all(parts, most=1)

    assert {(each.url, each.endpoint_id) for each in deliveries(parts)} == {(url, None)}
    succeeded, failed, canceled = bodies(parts)
    assert (succeeded["success"], succeeded["trace_id"]) == (True, "mine")
    assert succeeded["data"][0]["url"].startswith(f"{parts.config.public_url}/images/")
    assert isinstance(succeeded["created"], int)
    assert failed == {
        "success": False,
        "task_id": str(refused.id),
        "trace_id": str(refused.id),
        "error": {"code": "forbidden", "message": "moderation"},
    }
    assert canceled["error"]["code"] == "canceled"


def test_what_failed_first_and_succeeded_later_is_told_as_both(parts: Services) -> None:
    make_endpoint(parts)
    task = make_task(parts)
    take(parts, task, failure("timeout", "too late"))
    take(parts, task, success())
    relay_all(parts)

    failed, received = bodies(parts)
    assert failed["data"]["status"] == "failed"
    assert failed["data"]["error"] == {"code": "timeout", "message": "too late"}
    assert (received["data"]["status"], received["data"]["error"]) == ("received", None)


def test_many_relays_at_once_make_each_message_once(parts: Services) -> None:
    make_endpoint(parts)
    for _ in range(30):
        happen(parts, make_task(parts), Happened.SUBMITTED)
    at_once(*[lambda: relay_all(parts, most=4)] * 4)
    relay_all(parts)
    assert (len(deliveries(parts)), pending(parts)) == (30, 0)


def test_what_somebody_has_locked_is_told_later_and_holds_up_nothing(
    postgres_parts: Services,
) -> None:
    make_endpoint(postgres_parts)
    locked, free = make_task(postgres_parts), make_task(postgres_parts)
    for task in (locked, free):
        happen(postgres_parts, task, Happened.SUBMITTED)
    with postgres_parts.db.transaction() as session:
        session.get_one(Task, locked.id, with_for_update=True)
        assert relay(postgres_parts) == 2
        assert [each.task_id for each in deliveries(postgres_parts)] == [free.id]
    assert relay(postgres_parts) == 2


def test_many_events_cost_as_many_statements_as_few(parts: Services) -> None:
    """A burst of events must not cost a query each."""
    make_endpoint(parts)

    def statements(events: int) -> int:
        for _ in range(events):
            happen(parts, make_task(parts), Happened.SUBMITTED)
        return counted(parts, lambda: relay(parts))

    # SQLite loops over prepared statements, in one call each.
    assert statements(2) == statements(20)


def counted(parts: Services, act: Callable[[], Any]) -> int:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(parts.db.engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(parts.db.engine, "before_cursor_execute", note)
    return len(seen)


def test_it_is_woken_by_what_happens_and_goes_on_after_trouble(postgres_parts: Services) -> None:
    make_endpoint(postgres_parts)
    postgres_parts.db.listen()
    began = Relay(postgres_parts)
    thread = threading.Thread(target=began.run)
    thread.start()
    try:
        task = make_task(postgres_parts)
        eventually(lambda: pending(postgres_parts) == 0)
        with postgres_parts.db.engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        happen(postgres_parts, task, Happened.SUBMITTED)
        eventually(lambda: deliveries(postgres_parts))
    finally:
        began.stop()
        thread.join()


def test_an_event_that_cannot_be_told_keeps_no_other_from_it(parts: Services) -> None:
    make_endpoint(parts)
    task = make_task(parts)
    happen(parts, task, Happened.SUBMITTED)
    happen(parts, task, Happened.FAILED)
    with parts.db.transaction() as session:
        broken = session.scalars(select(Event).filter_by(event=Happened.FAILED)).one()
        broken.detail = ["no object"]  # type: ignore[assignment]
    happen(parts, task, Happened.UNCERTAIN)
    with pytest.raises(AttributeError):
        relay(parts)
    with capture_logs() as logs:
        assert relay_singly(parts) == 4

    assert [each.type for each in deliveries(parts)] == ["task.submitted", "task.uncertain"]
    assert pending(parts) == 0
    assert [each["event_id"] for each in logs if each.get("action") == "put_aside"] == [broken.id]


def test_what_is_pending_is_found_without_looking_at_what_is_not(parts: Services) -> None:
    explain = "EXPLAIN QUERY PLAN" if parts.db.sqlite else "EXPLAIN"
    with parts.db.engine.connect() as connection:
        if not parts.db.sqlite:
            # Else it reads so small a table whole.
            connection.execute(text("SET enable_seqscan = off"))
        query = text(f"{explain} SELECT id FROM events WHERE events.pending")  # noqa: S608 - ours
        assert "ix_events_pending" in str(connection.execute(query).all())
