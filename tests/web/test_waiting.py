"""Waiting for a task: woken at once, without a connection, and never for ever."""

import threading
import time
from uuid import UUID

import pytest
from sqlalchemy.exc import OperationalError

from app import events
from app.errors import UnavailableError
from app.events import Fact, Happened
from app.models import new_id
from app.services import Services
from app.web.waiting import POLL_SECONDS, Waiters
from tests.factories import eventually, make_task, running
from tests.scarcity import no_more_threads


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
        eventually(lambda: self.look.count > 0)

    def end(self) -> str | None:
        self.thread.join(30)
        (result,) = self.result
        return result


@pytest.fixture
def waiters(sqlite_parts: Services) -> Waiters:
    """Two may wait at once."""
    return Waiters(sqlite_parts.db, 2)


def test_a_change_wakes_all_who_wait_for_that_task(parts: Services) -> None:
    waiters = Waiters(parts.db, 10)
    parts.db.listen()
    task = make_task(parts)
    waiting = [Waiting(waiters, task.id) for _ in range(10)]
    started = time.monotonic()
    for one in waiting:
        one.look.found = "changed"
    tell(parts, task.id)

    assert {one.end() for one in waiting} == {"changed"}
    # Without a wake-up they would have slept until the next poll.
    assert time.monotonic() - started < POLL_SECONDS["postgresql"] - 1


def test_a_change_of_another_task_wakes_nobody(waiters: Waiters, sqlite_parts: Services) -> None:
    one, other = make_task(sqlite_parts), make_task(sqlite_parts)
    waiting = Waiting(waiters, one.id, seconds=0.2)
    for _ in range(5):
        tell(sqlite_parts, other.id)

    assert waiting.end() is None
    assert waiting.look.count <= 3


@pytest.mark.parametrize("gap", [False, True])
def test_a_change_without_a_wake_up_is_found_by_one_look_for_all(
    waiters: Waiters, sqlite_parts: Services, gap: bool
) -> None:
    task = make_task(sqlite_parts)
    waiting = [Waiting(waiters, task.id) for _ in range(2)]
    # Everybody was woken once, to begin with.
    eventually(lambda: all(one.look.count == 2 for one in waiting))
    for one in waiting:
        one.look.found = "changed"
    if gap:
        # Whoever was not told of some changes is told that something may have changed.
        sqlite_parts.db.signals.send(events.CHANNEL)
    else:
        with running(sqlite_parts.config) as another_process:
            tell(another_process, task.id)

    assert [one.end() for one in waiting] == ["changed"] * 2
    assert [one.look.count for one in waiting] == [3, 3]


def test_a_look_for_all_that_could_not_be_begun_is_begun_for_the_next_who_waits(
    waiters: Waiters, sqlite_parts: Services
) -> None:
    task = make_task(sqlite_parts)
    with no_more_threads(), pytest.raises(RuntimeError):
        waiters.wait(task.id, Looks(), 30)
    waiting = Waiting(waiters, task.id)
    with running(sqlite_parts.config) as another_process:
        waiting.look.found = "changed"
        tell(another_process, task.id)

    started = time.monotonic()
    assert waiting.end() == "changed"
    assert time.monotonic() - started < 15


def test_who_is_not_wanted_any_more_waits_no_longer(waiters: Waiters) -> None:
    unwanted = threading.Event()
    look = Looks()

    def give_up() -> None:
        eventually(lambda: look.count > 0)
        unwanted.set()
        waiters.wake_all()

    threading.Thread(target=give_up).start()
    started = time.monotonic()
    assert waiters.wait(new_id(), look, 30, wanted=lambda: not unwanted.is_set()) is None
    assert time.monotonic() - started < 4


def test_while_the_database_is_away_one_goes_on_waiting_but_not_when_something_is_wrong(
    waiters: Waiters,
) -> None:
    away = OperationalError("SELECT", {}, Exception("the connection was refused"))
    answers: list[str | Exception] = [away, away, "there", KeyError("no such task")]

    def look() -> str | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert waiters.wait(new_id(), look, 30) == "there"
    with pytest.raises(KeyError):
        waiters.wait(new_id(), look, 30)


def test_there_are_only_so_many_places_and_errors_take_none(waiters: Waiters) -> None:
    for _ in range(3):
        with pytest.raises(KeyError), waiters.place():
            raise KeyError("x")
    with waiters.place(), waiters.place(), pytest.raises(UnavailableError), waiters.place():
        pass
    with waiters.place():
        pass
