"""The timeline, and the wake-ups that go with it."""

from uuid import UUID

from sqlalchemy import select

from app import events
from app.db import Database
from app.events import Fact, Happened
from app.models import Event, TaskStatus
from app.services import Services
from tests.core.test_db import Woken
from tests.factories import make_task, timeline


def test_facts_are_kept_in_their_order_with_their_detail(parts: Services) -> None:
    task = make_task(parts)
    with parts.db.transaction() as session:
        events.record(
            session,
            Fact(task.id, Happened.SUBMITTING, {"attempt": 1}),
            Fact(task.id, Happened.SUBMITTED),
        )
        events.record(session)

    assert timeline(parts, task) == ["created", "submitting", "submitted"]
    with parts.db.reading() as session:
        rows = session.scalars(select(Event).filter_by(task_id=task.id).order_by(Event.id)).all()
    assert [row.detail for row in rows] == [{}, {"attempt": 1}, {}]
    assert rows[0].at <= rows[1].at <= rows[2].at


def test_every_status_has_its_word_or_is_where_a_task_begins() -> None:
    assert {status.value for status in TaskStatus} - {word.value for word in Happened} == {"queued"}


def test_a_wake_up_names_each_task_once_and_never_too_many(postgres_parts: Services) -> None:
    tasks = [make_task(postgres_parts) for _ in range(3)]
    listening = Database(postgres_parts.config.database_url)
    woken = Woken(listening.signals, events.CHANNEL)
    listening.listen()
    woken.wait_for("")

    with postgres_parts.db.transaction() as session:
        facts = [Fact(task.id, Happened.SUBMITTED) for task in tasks] * 150
        events.record(session, *facts)
        events.record(session, Fact(tasks[0].id, Happened.RECEIVED))

    woken.wait_for(str(tasks[0].id))
    listening.close()
    named = {frozenset(map(UUID, payload.split(","))) for payload in woken.payloads if payload}
    assert named == {frozenset(task.id for task in tasks), frozenset({tasks[0].id})}


def test_a_full_wake_up_is_not_too_long_for_postgresql() -> None:
    assert events.IDS_PER_NOTIFICATION * len(f"{UUID(int=0)},") < 8000
