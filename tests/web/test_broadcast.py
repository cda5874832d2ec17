"""One reader for all streams: what it tells, and what it costs."""

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select

from app import changes, events, keys
from app.changes import Position
from app.events import Fact, Happened
from app.models import ApiKey, Scope, Task, new_id
from app.services import Services
from app.web.broadcast import Broadcast
from app.web.frames import Form
from app.web.listeners import QUEUED_BYTES, Listener
from tests.factories import eventually, make_task
from tests.scarcity import no_more_threads

WRITERS = 8
TRANSACTIONS = 40


@pytest.fixture
def broadcast(parts: Services) -> Iterator[Broadcast]:
    broadcast = Broadcast(parts)
    parts.db.listen()
    yield broadcast
    broadcast.end()


@contextmanager
def listener(parts: Services, broadcast: Broadcast, **options: Any) -> Iterator[Listener]:
    with parts.db.transaction() as session:
        name = f"listener {new_id()}"
        keys.create(session, parts.signing, name, {Scope.READ})
        key_id = session.scalars(select(ApiKey.id).filter_by(name=name)).one()
    form, cut = options.get("form", Form.BRIEF), options.get("cut", lambda: None)
    one = Listener(form, options.get("task_id"), key_id, cut)
    broadcast.join(one, options.get("start"))
    try:
        yield one
    finally:
        broadcast.leave(one)


def ids_in(data: bytes) -> list[Position]:
    """The positions of the events, in their order."""
    lines = [line for line in data.decode().splitlines() if line.startswith("id: ")]
    found = [changes.position(line.removeprefix("id: ")) for line in lines]
    return [position for position in found if position]


def write(parts: Services, task: Task, count: int = 1) -> None:
    with parts.db.transaction() as session:
        events.record(session, *[Fact(task.id, Happened.CONFLICT)] * count)


def heard(one: Listener, count: int) -> list[Position]:
    told: list[Position] = []

    def enough() -> bool:
        told.extend(ids_in(one.take(0.05)[0]))
        return len(told) >= count

    eventually(enough)
    return told


def test_of_what_many_write_at_once_everybody_hears_all_once(
    parts: Services, broadcast: Broadcast
) -> None:
    tasks = [make_task(parts) for _ in range(WRITERS)]

    def write_many(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(TRANSACTIONS):
            with parts.db.transaction() as session:
                for task in chance.sample(tasks, 2):
                    events.record(session, Fact(task.id, Happened.CONFLICT))
                    # Others get later ids, and commit earlier.
                    session.flush()

    with (
        listener(parts, broadcast) as one,
        listener(parts, broadcast, task_id=tasks[0].id) as of_one,
    ):
        start = one.told
        writers = [threading.Thread(target=write_many, args=(n,)) for n in range(WRITERS)]
        for writer in writers:
            writer.start()
        told = heard(one, 2 * WRITERS * TRANSACTIONS)
        for writer in writers:
            writer.join()
        with parts.db.reading() as session:
            every = changes.after(session, start, limit=10_000)
        of_task = [change for change in every if change.task_id == tasks[0].id]
        assert told == [change.position for change in every]
        assert heard(of_one, len(of_task)) == [change.position for change in of_task]


def test_what_is_held_back_is_told_when_the_other_transaction_has_ended(
    postgres_parts: Services,
) -> None:
    parts, broadcast = postgres_parts, Broadcast(postgres_parts)
    parts.db.listen()
    task = make_task(parts)
    with listener(parts, broadcast) as one:
        with parts.db.transaction() as session:
            events.record(session, Fact(task.id, Happened.CONFLICT))
            session.flush()
            write(parts, task)
            assert ids_in(one.take(0.3)[0]) == []
        told = heard(one, 2)
    assert told == sorted(told)
    assert len(told) == 2


def test_who_cannot_follow_is_cut_off_and_holds_nobody_up(
    sqlite_parts: Services,
) -> None:
    parts, broadcast = sqlite_parts, Broadcast(sqlite_parts)
    cut = threading.Event()
    task = make_task(parts)
    with listener(parts, broadcast) as quick, listener(parts, broadcast, cut=cut.set) as slow:
        slow.put(QUEUED_BYTES * b"x")
        write(parts, task)
        assert len(heard(quick, 1)) == 1
        eventually(cut.is_set)
        assert slow.take(0) == (QUEUED_BYTES * b"x", True)


def test_whose_key_was_revoked_or_whose_task_was_deleted_hears_no_more(
    sqlite_parts: Services,
) -> None:
    parts, broadcast = sqlite_parts, Broadcast(sqlite_parts, check_seconds=0.1)
    task, kept = make_task(parts), make_task(parts)
    with (
        listener(parts, broadcast, task_id=task.id) as of_task,
        listener(parts, broadcast) as revoked,
        listener(parts, broadcast, task_id=kept.id) as stays,
    ):
        with parts.db.transaction() as session:
            session.delete(session.get_one(Task, task.id))
            session.get_one(ApiKey, revoked.key_id).revoked_at = kept.created_at
        assert of_task.take(15) == (b"", True)
        assert revoked.take(15) == (b"", True)
        assert stays.take(0.5) == (b"", False)


def test_events_that_are_long_come_in_pieces_that_clients_can_follow(
    sqlite_parts: Services,
) -> None:
    parts, broadcast = sqlite_parts, Broadcast(sqlite_parts)
    task = make_task(parts, prompt=100_000 * "x")
    with listener(parts, broadcast, form=Form.SHORT) as one:
        write(parts, task, 100)
        pieces: list[bytes] = []
        while sum(len(ids_in(piece)) for piece in pieces) < 100:
            pieces.append(one.take(15)[0])
            assert 0 < len(pieces[-1]) <= QUEUED_BYTES


def test_what_the_database_does_is_the_same_for_one_and_for_many_and_nothing_for_none(
    parts: Services, broadcast: Broadcast
) -> None:
    statements: list[str] = []
    task = make_task(parts)
    event.listen(
        parts.db.engine,
        "before_cursor_execute",
        lambda *given: statements.append(given[2]) if "SELECT events" in given[2] else None,
    )

    def asked(listeners: int) -> int:
        with ExitStack() as stack:
            ones = [stack.enter_context(listener(parts, broadcast)) for _ in range(listeners)]
            statements.clear()
            for _ in range(5):
                write(parts, task)
                assert all(len(heard(one, 1)) == 1 for one in ones)
            return len(statements)

    few, many = asked(1), asked(200)
    assert many <= few + 5
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "broadcast"])
    statements.clear()
    write(parts, task)
    assert statements == []


def test_a_reader_that_could_not_be_started_is_started_for_the_next_who_listens(
    parts: Services, broadcast: Broadcast
) -> None:
    with no_more_threads(), pytest.raises(RuntimeError), listener(parts, broadcast):
        pass
    with listener(parts, broadcast) as one:
        write(parts, make_task(parts))
        assert heard(one, 2)
