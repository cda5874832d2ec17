"""The order of changes: nothing appears before what a reader has passed."""

from contextlib import ExitStack

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from app import changes, db, events
from app.changes import BEGINNING, Position
from app.events import Fact, Happened
from app.models import Event, Task
from app.services import Services
from tests.factories import make_task


def record(session: Session, task: Task, detail: str) -> None:
    events.record(session, Fact(task.id, Happened.CONFLICT, {"text": detail}))
    session.flush()


def settled(parts: Services, start: Position) -> list[str]:
    """What can be told after `start`, in its order."""
    with parts.db.reading() as session:
        found = changes.after(session, start, limit=100)
        ids = [change.position.id for change in found if change.settled]
        rows = {row.id: row for row in session.query(Event).where(Event.id.in_(ids))}
    assert [change.settled for change in found] == sorted(
        (change.settled for change in found), reverse=True
    )
    return [rows[id_].detail["text"] for id_ in ids]


def latest(parts: Services) -> Position:
    with parts.db.reading() as session:
        return changes.latest(session)


@pytest.mark.parametrize("other_way", [False, True])
def test_what_was_begun_earlier_and_committed_later_is_not_passed(
    postgres_parts: Services, other_way: bool
) -> None:
    parts, task = postgres_parts, make_task(postgres_parts)
    start = latest(parts)
    with ExitStack() as first, ExitStack() as second:
        slow = first.enter_context(parts.db.transaction())
        quick = second.enter_context(parts.db.transaction())
        if other_way:
            # The one with the lower number has the higher id.
            quick.execute(text("SELECT pg_current_xact_id()"))
        record(slow, task, "slow")
        record(quick, task, "quick")
        second.close()
        # There, and after all that is settled, or before what is still open.
        assert settled(parts, start) == (["quick"] if other_way else [])
        assert latest(parts) == start or other_way
        first.close()

    assert settled(parts, start) == (["quick", "slow"] if other_way else ["slow", "quick"])
    assert settled(parts, latest(parts)) == []


def test_changes_come_in_pages_of_one_task_or_all(parts: Services) -> None:
    one, other = make_task(parts), make_task(parts)
    with parts.db.transaction() as session:
        for task, detail in ((one, "a"), (other, "b"), (one, "c")):
            record(session, task, detail)

    with parts.db.reading() as session:
        every = changes.after(session, BEGINNING, limit=100)
        middle = every[2].position
        assert changes.after(session, BEGINNING, limit=2) == every[:2]
        assert changes.after(session, middle, limit=9) == every[3:]
        assert changes.after(session, BEGINNING, limit=9, until=middle) == every[:3]
        of_one = changes.after(session, BEGINNING, limit=9, task_id=one.id)
    assert of_one == [change for change in every if change.task_id == one.id]
    assert [change.event for change in of_one] == ["created", "conflict", "conflict"]
    assert [changes.position(str(change.position)) for change in every] == [
        change.position for change in every
    ]


def test_the_id_of_a_change_that_was_deleted_is_not_given_again(parts: Services) -> None:
    """On SQLite the next change got it, and whoever had passed it never heard of that one."""
    kept, deleted = make_task(parts), make_task(parts)
    start = latest(parts)
    with parts.db.transaction() as session:
        session.delete(session.get_one(Task, deleted.id))
    with parts.db.transaction() as session:
        record(session, kept, "new")

    assert settled(parts, start) == ["new"]


def test_changes_from_a_dump_of_another_server_are_old_ones(postgres_parts: Services) -> None:
    parts, task = postgres_parts, make_task(postgres_parts)
    with parts.db.transaction() as session:
        record(session, task, "kept")
    # As if that server had seen many more transactions.
    with parts.db.transaction() as session:
        session.execute(text("UPDATE events SET xid = xid + 1000000000"))
    assert latest(parts) == BEGINNING
    db.migrate(parts.config.database_url)
    start = latest(parts)
    with parts.db.transaction() as session:
        record(session, task, "new")

    assert start.xid == 0
    assert settled(parts, start) == ["new"]


def test_a_reader_on_sqlite_searches_from_where_it_is(sqlite_parts: Services) -> None:
    """All rows have the same number there: an index of numbers and ids was read from its beginning."""
    asked: list[tuple[str, tuple[object, ...]]] = []
    event.listen(
        sqlite_parts.db.engine,
        "before_cursor_execute",
        lambda *given: asked.append((given[2], given[3])),
    )
    with sqlite_parts.db.reading() as session:
        changes.after(session, BEGINNING, limit=9)
        statement, parameters = asked[-1]
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        assert [row.detail for row in plan] == ["SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"]
