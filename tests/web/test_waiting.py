"""Waiting for a task: woken at once, without a connection, and never for ever."""

import threading
import time
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError

from app import events
from app.errors import UnavailableError
from app.events import Fact, Happened
from app.models import Task, new_id
from app.services import Services
from app.web.waiting import POLL_SECONDS, Waiters
from tests.factories import make_task
from tests.web.servers import until


def tell(parts: Services, *task_ids: UUID) -> None:
    with parts.db.transaction() as session:
        events.record(session, *(Fact(id_, Happened.CONFLICT) for id_ in task_ids))


class Looks:
    """A look that finds something when it is told to, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self.found: str | None = None

    def __call__(self) -> str | None:
        self.count += 1
        return self.found


class Waiting:
    """Somebody who waits in a thread of its own."""

    def __init__(self, waiters: Waiters, task_id: UUID, seconds: float = 30) -> None:
        self.look = Looks()
        self.result: list[str | None] = []
        self.thread = threading.Thread(
            target=lambda: self.result.append(waiters.wait(task_id, self.look, seconds))
        )
        self.thread.start()
        until(lambda: self.look.count > 0)

    def end(self) -> str | None:
        self.thread.join(30)
        (result,) = self.result
        return result


def test_what_is_there_already_is_given_at_once(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 1)

    assert waiters.wait(new_id(), lambda: "there", 30) == "there"


def test_a_change_wakes_who_waits_for_that_task(parts: Services) -> None:
    waiters = Waiters(parts.db, 1)
    parts.db.listen()
    task = make_task(parts)
    waiting = Waiting(waiters, task.id)
    started = time.monotonic()
    waiting.look.found = "changed"
    tell(parts, task.id)

    assert waiting.end() == "changed"
    # Without a wake-up it would have slept until the next poll.
    assert time.monotonic() - started < POLL_SECONDS["postgresql"] - 1


def test_a_change_of_another_task_wakes_nobody(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 1)
    one, other = make_task(sqlite_parts), make_task(sqlite_parts)
    waiting = Waiting(waiters, one.id, seconds=0.2)
    for _ in range(5):
        tell(sqlite_parts, other.id)

    assert waiting.end() is None
    assert waiting.look.count <= 3


def test_many_who_wait_for_one_task_are_all_woken(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 10)
    task = make_task(sqlite_parts)
    waiting = [Waiting(waiters, task.id) for _ in range(10)]
    for one in waiting:
        one.look.found = "changed"
    tell(sqlite_parts, task.id)

    assert {one.end() for one in waiting} == {"changed"}


def test_a_change_without_a_wake_up_is_found_by_looking_again(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 1)
    waiting = Waiting(waiters, new_id())
    waiting.look.found = "changed"

    assert waiting.end() == "changed"


def test_a_gap_in_the_wake_ups_wakes_everybody(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 1)
    waiting = Waiting(waiters, new_id())
    waiting.look.found = "changed"
    sqlite_parts.db.signals.send(events.CHANNEL)

    assert waiting.end() == "changed"


def test_after_its_time_nothing_is_given(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 1)
    look = Looks()
    started = time.monotonic()

    assert waiters.wait(new_id(), look, 0.1) is None
    assert 0.1 <= time.monotonic() - started < 5
    # Once at the beginning, and once more at the end.
    assert look.count >= 2


def test_while_the_database_is_away_one_goes_on_waiting(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 1)
    away = OperationalError("SELECT", {}, Exception("the connection was refused"))
    answers = [away, None, away, "there"]

    def look() -> str | None:
        answer = answers.pop(0)
        if isinstance(answer, OperationalError):
            raise answer
        return answer

    assert waiters.wait(new_id(), look, 30) == "there"


def test_what_is_wrong_comes_through(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 1)

    def look() -> Task:
        raise KeyError("no such task")

    with pytest.raises(KeyError):
        waiters.wait(new_id(), look, 30)


def test_there_are_only_so_many_places(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 2)
    with waiters.place(), waiters.place(), pytest.raises(UnavailableError), waiters.place():
        pass
    with waiters.place():
        pass


def test_a_place_is_free_again_after_an_error(sqlite_parts: Services) -> None:
    waiters = Waiters(sqlite_parts.db, 1)
    for _ in range(3):
        with pytest.raises(KeyError), waiters.place():
            raise KeyError("x")
    with waiters.place():
        pass
