"""Incoming callbacks: what each does to its task, and how batches of them are written."""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import inbox
from app.bodies import INLINE_BYTES, Body
from app.db import Database
from app.errors import UnavailableError
from app.inbox import Inbox, Incoming, Outcome, Taken
from app.inbox.batches import Batches
from app.models import (
    Callback,
    Event,
    Source,
    Task,
    TaskStatus,
    Verdict,
    Verification,
    new_id,
)
from app.services import Services
from tests.core.conftest import at_once, count
from tests.core.sites import PATIENCE
from tests.factories import (
    callbacks_of,
    due_kinds,
    eventually,
    failure,
    get_task,
    incoming,
    make_task,
    somebody_waits,
    success,
    take,
    take_large,
    timeline,
)
from tests.servers.postgres import Postgres

ACCEPTED, CONFLICT, REJECTED = Outcome.ACCEPTED, Outcome.CONFLICT, Outcome.REJECTED
DUPLICATE = Outcome.DUPLICATE


class Gated(Database):
    """A database whose transactions begin when `gate` is open; `reached` says that one waits."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reached = threading.Event()
        self.gate = threading.Event()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        self.reached.set()
        assert self.gate.wait(PATIENCE)
        with super().transaction() as session:
            yield session


@pytest.fixture
def box(parts: Services) -> Iterator[Inbox]:
    """The writer of one process."""
    writer = Inbox(parts.db)
    yield writer
    writer.stop()


@contextmanager
def gated(parts: Services) -> Iterator[tuple[Inbox, Gated]]:
    """The writer of a process that has the same database behind a gate."""
    database = Gated(parts.config.database_url)
    box = Inbox(database)
    try:
        yield box, database
    finally:
        database.gate.set()
        box.stop()
        database.close()


def take_all(parts: Services, *batch: Incoming) -> list[Taken]:
    with parts.db.transaction() as session:
        return inbox.take_in(session, batch)


def outcomes(taken: Sequence[Taken]) -> list[Outcome]:
    return [each.outcome for each in taken]


def refused(task: Task | None, body: Body, reason: str = "the reason") -> Incoming:
    return Incoming(
        Source.CALLBACK, body, task.id if task else None, reason=reason, address="192.0.2.7"
    )


def test_a_success_is_stored_and_its_reading_enqueued_with_the_task_moved(parts: Services) -> None:
    task = make_task(parts, columns={"status": TaskStatus.SUBMITTED}, n=4)
    urls = [f"https://images.test/{number}.png" for number in range(3)]
    payload = success(*urls, task_id="theirs", usage={"input_tokens": 775})

    assert take(parts, task, payload) is ACCEPTED

    task = get_task(parts, task.id)
    (callback,) = callbacks_of(parts, task)
    assert task.status is TaskStatus.RECEIVED
    assert (task.provider_task_id, task.result_id) == ("theirs", callback.id)
    assert task.usage == {"input_tokens": 775}
    assert task.verification is Verification.TOKEN
    assert (task.received_at is not None, task.finished_at, task.ask_at) == (True, None, None)
    assert json.loads(callback.body or b"") == payload
    assert (callback.verdict, callback.source) == (Verdict.ACCEPTED, Source.CALLBACK)
    assert (callback.address, callback.checked) == ("192.0.2.7", True)
    assert timeline(parts, task) == ["created", "received"]
    with parts.db.reading() as session:
        (detail,) = session.scalars(select(Event.detail).filter_by(event="received"))
    # Fewer than were asked for are a success.
    assert (detail["asked"], detail["came"]) == (4, 3)
    assert due_kinds(parts) == ["submit", "ingest"]


@pytest.mark.parametrize(
    ("status", "payload", "outcome", "then"),
    [
        (TaskStatus.QUEUED, success(), ACCEPTED, TaskStatus.RECEIVED),
        (TaskStatus.SUBMITTED, success(), ACCEPTED, TaskStatus.RECEIVED),
        (TaskStatus.UNCERTAIN, success(), ACCEPTED, TaskStatus.RECEIVED),
        (TaskStatus.UNCERTAIN, failure(), ACCEPTED, TaskStatus.FAILED),
        # A success replaces a failure or a deadline: it was paid for.
        (TaskStatus.FAILED, success(), ACCEPTED, TaskStatus.RECEIVED),
        (TaskStatus.FAILED, failure(), CONFLICT, TaskStatus.FAILED),
        # Nothing replaces a success.
        (TaskStatus.RECEIVED, success(), CONFLICT, TaskStatus.RECEIVED),
        (TaskStatus.RECEIVED, failure(), CONFLICT, TaskStatus.RECEIVED),
        (TaskStatus.SUCCEEDED, success(), CONFLICT, TaskStatus.SUCCEEDED),
        (TaskStatus.SUCCEEDED, failure(), CONFLICT, TaskStatus.SUCCEEDED),
        (TaskStatus.CANCELED, success(), CONFLICT, TaskStatus.CANCELED),
    ],
)
def test_what_a_result_does_depends_on_what_was_there(
    sqlite_parts: Services,
    status: TaskStatus,
    payload: dict[str, Any],
    outcome: Outcome,
    then: TaskStatus,
) -> None:
    task = make_task(sqlite_parts, columns={"status": status})

    assert take(sqlite_parts, task, payload) is outcome

    assert get_task(sqlite_parts, task.id).status is then
    (callback,) = callbacks_of(sqlite_parts, task)
    assert callback.verdict.value == outcome.value
    assert (timeline(sqlite_parts, task)[-1] == "conflict") == (outcome is CONFLICT)
    read = then is TaskStatus.RECEIVED and outcome is ACCEPTED
    assert ("ingest" in due_kinds(sqlite_parts)) == read


def test_several_bodies_for_one_task_in_a_batch_are_judged_in_their_order(
    parts: Services,
) -> None:
    task, other = make_task(parts), make_task(parts)
    bodies = [
        failure(),
        success("https://a.test/1"),
        failure("used_up"),
        success("https://a.test/1"),
        success("https://a.test/2"),
    ]
    batch = [incoming(parts, task, body) for body in bodies]
    batch.insert(2, incoming(parts, other, success()))

    taken = take_all(parts, *batch)

    assert outcomes(taken) == [ACCEPTED, ACCEPTED, ACCEPTED, CONFLICT, DUPLICATE, CONFLICT]
    assert get_task(parts, task.id).result_id == batch[1].body.id
    assert get_task(parts, task.id).status is TaskStatus.RECEIVED
    assert [callback.duplicates for callback in callbacks_of(parts, task)] == [0, 1, 0, 0]
    assert due_kinds(parts) == ["submit", "submit", "ingest", "ingest"]


@pytest.mark.parametrize("known", [None, "theirs"])
def test_a_body_may_name_the_providers_id_our_own_or_none(
    sqlite_parts: Services, known: str | None
) -> None:
    for named in (None, known, "ours"):
        task = make_task(sqlite_parts, columns={"provider_task_id": known})
        payload = success(task_id=str(task.id) if named == "ours" else named)
        assert take(sqlite_parts, task, payload) is ACCEPTED
        assert get_task(sqlite_parts, task.id).provider_task_id == known


def test_a_body_with_another_id_is_kept_and_leaves_the_task_alone(parts: Services) -> None:
    task = make_task(parts, columns={"provider_task_id": "theirs", "status": TaskStatus.SUBMITTED})
    body = incoming(parts, task, success(task_id="another"))
    reason = "task_id: expected 'theirs', not 'another'"

    assert take_all(parts, body) == [Taken(REJECTED, reason)]

    assert get_task(parts, task.id).status is TaskStatus.SUBMITTED
    (callback,) = callbacks_of(parts, task)
    assert (callback.verdict, callback.reason) == (Verdict.REJECTED, reason)
    assert callback.body == body.body.inline
    assert timeline(parts, task) == ["created", "rejected"]
    assert due_kinds(parts) == ["submit"]


def test_an_early_body_with_another_tasks_id_is_refused(parts: Services) -> None:
    make_task(parts, columns={"provider_task_id": "another's"})
    elsewhere = make_task(parts, columns={"provider": "agcloud", "provider_task_id": "theirs"})
    first, second, third = (make_task(parts) for _ in range(3))

    # Two of one batch that named the same id were both taken, and so was our id of another task.
    taken = take_all(
        parts,
        incoming(parts, first, success(task_id="another's")),
        incoming(parts, first, success(task_id=str(second.id))),
        incoming(parts, first, success(task_id=str(elsewhere.id))),
        incoming(parts, second, success(task_id="theirs")),
        incoming(parts, third, success(task_id="theirs")),
    )

    assert outcomes(taken) == [REJECTED, REJECTED, REJECTED, ACCEPTED, REJECTED]
    assert taken[0].reason == "task_id: \"another's\" is another task's"
    for task in (first, third):
        assert get_task(parts, task.id).status is TaskStatus.QUEUED
        assert get_task(parts, task.id).provider_task_id is None


@pytest.mark.parametrize("size", [512, 2**31, 2**63, 10**30])
def test_an_unread_body_of_any_declared_size_is_kept_without_a_task(
    parts: Services, size: int
) -> None:
    take_all(parts, replace(refused(None, Body(size=size)), headers={"User-Agent": "a"}))
    with parts.db.reading() as session:
        callback = session.scalars(select(Callback)).one()
    assert (callback.task_id, callback.sha256, callback.body) == (None, None, None)
    # A huge one turned the rejection into an error.
    assert callback.size == min(size, 2**63 - 1)
    assert (callback.address, callback.headers) == ("192.0.2.7", {"User-Agent": "a"})


def test_a_callback_for_a_task_that_is_gone_is_not_kept(parts: Services) -> None:
    gone = replace(incoming(parts, make_task(parts), success()), task_id=new_id())
    assert outcomes(take_all(parts, gone)) == [Outcome.GONE]
    assert count(parts.db, Callback) == 0


PADDING = "x" * INLINE_BYTES


def read_through(parts: Services, task: Task, payload: dict[str, Any] | str) -> Taken:
    """What the worker makes of the large body that came for `task`."""
    (callback,) = [each for each in callbacks_of(parts, task) if not each.checked]
    provider = parts.providers["acedata"]
    read = payload if isinstance(payload, str) else provider.read_result(payload)
    with parts.db.transaction() as session:
        return inbox.read_through(session, callback.id, task.id, callback.source, read)


def test_a_large_body_again_is_a_duplicate_read_or_not_and_refused_like_before(
    parts: Services,
) -> None:
    def take_again(task: Task) -> Taken:
        (callback,) = callbacks_of(parts, task)
        body = Body(callback.size, callback.sha256)
        return take_all(parts, Incoming(Source.CALLBACK, body, task.id))[0]

    task, refused_task = make_task(parts), make_task(parts)
    payload = success(padding=PADDING)
    for each in (task, refused_task):
        take_large(parts, each, payload)
        assert take_again(each) == Taken(DUPLICATE)
    read_through(parts, task, payload)
    read_through(parts, refused_task, "no result")

    assert take_again(task) == Taken(DUPLICATE)
    assert take_again(refused_task) == Taken(REJECTED, "no result")
    assert [callback.duplicates for callback in callbacks_of(parts, task)] == [2]
    assert due_kinds(parts).count("ingest") == 3


def test_a_large_body_is_accepted_unread_and_may_turn_out_to_come_too_late(
    parts: Services,
) -> None:
    task, late = (make_task(parts) for _ in range(2))
    payload = success(task_id="theirs", padding=PADDING)
    for each in (task, late):
        take_large(parts, each, payload)
        assert get_task(parts, each.id).status is TaskStatus.QUEUED
    take(parts, late, success("https://a.test/1"))

    assert read_through(parts, task, payload) == Taken(ACCEPTED)
    late_payload = success(padding=PADDING)
    assert read_through(parts, late, late_payload) == Taken(CONFLICT)

    task = get_task(parts, task.id)
    (callback,) = callbacks_of(parts, task)
    assert (task.status, task.result_id) == (TaskStatus.RECEIVED, callback.id)
    assert task.provider_task_id == "theirs"
    assert (callback.verdict, callback.checked) == (Verdict.ACCEPTED, True)
    first, second = callbacks_of(parts, late)
    assert (first.verdict, second.verdict) == (Verdict.CONFLICT, Verdict.ACCEPTED)
    assert get_task(parts, late.id).result_id == second.id
    assert due_kinds(parts).count("ingest") == 4


def answer(parts: Services, task: Task, source: Source, body: bytes) -> bool:
    with parts.db.transaction() as session:
        return inbox.take_answer(parts, session, session.get_one(Task, task.id), source, body)


@pytest.mark.parametrize(
    ("source", "verification", "padding"),
    [
        (Source.RESPONSE, Verification.RESPONSE, ""),
        (Source.RESPONSE, Verification.RESPONSE, PADDING),
        (Source.LOOKUP, Verification.CONFIRMED, ""),
    ],
    ids=["a response", "a large response", "a lookup"],
)
def test_an_answer_is_read_at_once_and_taken_in_as_submitted_and_received(
    parts: Services, source: Source, verification: Verification, padding: str
) -> None:
    task = make_task(parts)
    body = json.dumps(success(task_id="theirs", padding=padding)).encode()

    assert answer(parts, task, source, body)

    task = get_task(parts, task.id)
    assert (task.status, task.verification) == (TaskStatus.RECEIVED, verification)
    assert task.provider_task_id == "theirs"
    assert (task.submitted_at is not None, task.ask_at) == (True, None)
    assert timeline(parts, task) == ["created", "submitted", "received"]
    (callback,) = callbacks_of(parts, task)
    assert (callback.source, callback.address, callback.checked) == (source, None, True)
    assert callback.body == (None if padding else body)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data": [{"url": "https://a.test"}], "x": NaN}'])
def test_an_answer_that_is_no_result_changes_nothing(sqlite_parts: Services, body: bytes) -> None:
    task = make_task(sqlite_parts)
    assert not answer(sqlite_parts, task, Source.LOOKUP, body)
    assert timeline(sqlite_parts, task) == ["created"]
    assert callbacks_of(sqlite_parts, task) == []


def test_two_processes_that_race_on_the_same_body_take_it_once(parts: Services, box: Inbox) -> None:
    tasks = [make_task(parts) for _ in range(20)]
    another = Database(parts.config.database_url)
    other_box = Inbox(another)

    def deliver(writer: Inbox, task: Task) -> Outcome:
        return writer.take(incoming(parts, task, success())).outcome

    racing = [partial(deliver, each, task) for task in tasks for each in (box, other_box, box)]
    taken = at_once(*racing)
    other_box.stop()
    another.close()

    assert Counter(taken) == {ACCEPTED: 20, DUPLICATE: 40}
    for task in tasks:
        assert [callback.duplicates for callback in callbacks_of(parts, task)] == [2]
        assert get_task(parts, task.id).status is TaskStatus.RECEIVED
    assert Counter(due_kinds(parts)) == {"submit": 20, "ingest": 20}


def test_of_two_successes_in_two_processes_at_once_one_counts(postgres_parts: Services) -> None:
    task = make_task(postgres_parts)
    first, second = (incoming(postgres_parts, task, success(f"https://a.test/{n}")) for n in "12")
    with ThreadPoolExecutor(1) as pool:
        with postgres_parts.db.transaction() as session:
            assert outcomes(inbox.take_in(session, [first])) == [ACCEPTED]
            other = pool.submit(take_all, postgres_parts, second)
            eventually(lambda: somebody_waits(postgres_parts))
        assert outcomes(other.result()) == [CONFLICT]
    assert get_task(postgres_parts, task.id).result_id == first.body.id


def test_a_batch_that_waits_in_a_circle_with_somebody_is_done_after_them(
    postgres_parts: Services,
) -> None:
    parts = postgres_parts
    first, second = make_task(parts), make_task(parts)

    def locked(session: Session, task: Task) -> Task:
        return session.get_one(Task, task.id, with_for_update=True)

    def names(batch: Sequence[Task]) -> list[str | None]:
        with parts.db.transaction() as session:
            return [locked(session, task).provider_task_id for task in (*batch, second)][:1]

    batches = Batches("test", names)
    with ThreadPoolExecutor() as pool:
        with parts.db.transaction() as session:
            # So that the batch is the one that PostgreSQL undoes.
            session.execute(text("SET LOCAL deadlock_timeout = '1min'"))
            locked(session, second)
            asked = pool.submit(batches.ask, first)
            eventually(lambda: somebody_waits(parts))
            locked(session, first).provider_task_id = "theirs"
        assert asked.result() == "theirs"
    batches.stop()


def wait_behind(box: Inbox, pool: ThreadPoolExecutor, *batch: Incoming) -> list[Future[Taken]]:
    """Threads that wait for each of these."""
    return [pool.submit(box.take, each, PATIENCE) for each in batch]


def test_a_row_that_cannot_be_stored_takes_no_other_down(parts: Services) -> None:
    tasks = [make_task(parts) for _ in range(4)]
    good = [incoming(parts, task, success()) for task in tasks]
    assert good[1].result
    # Nothing that JSON could say.
    bad = replace(good[1], result=replace(good[1].result, usage={"tokens": object()}))
    with gated(parts) as (box, database), ThreadPoolExecutor(4) as pool:
        waiting = wait_behind(box, pool, good[0], bad, good[2], good[3])
        assert database.reached.wait(PATIENCE)
        database.gate.set()
        with pytest.raises((SQLAlchemyError, TypeError)):
            waiting[1].result()
        assert outcomes([waiting[number].result() for number in (0, 2, 3)]) == [ACCEPTED] * 3

    assert get_task(parts, tasks[1].id).status is TaskStatus.QUEUED
    assert callbacks_of(parts, tasks[1]) == []


def test_who_gave_up_waiting_is_not_stored_later(sqlite_parts: Services) -> None:
    parts = sqlite_parts
    patient, impatient = make_task(parts), make_task(parts)
    with gated(parts) as (box, database), ThreadPoolExecutor(1) as pool:
        (waiting,) = wait_behind(box, pool, incoming(parts, patient, success()))
        assert database.reached.wait(PATIENCE)
        with pytest.raises(UnavailableError, match="busy"):
            box.take(incoming(parts, impatient, success()), 0.01)
        database.gate.set()
        assert waiting.result().outcome is ACCEPTED

    assert callbacks_of(parts, impatient) == []
    assert get_task(parts, impatient.id).status is TaskStatus.QUEUED


def test_those_that_came_together_are_waited_for_and_one_that_comes_alone_waits_for_nobody() -> (
    None
):
    taken: list[Sequence[int]] = []
    gate, reached = threading.Event(), threading.Event()

    def take(batch: Sequence[int]) -> Sequence[int]:
        taken.append(batch)
        reached.set()
        assert gate.wait(PATIENCE)
        return batch

    batches = Batches("test", take, gather_seconds=PATIENCE)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(batches.ask, 0)]
        assert reached.wait(PATIENCE)
        asked += [pool.submit(batches.ask, number) for number in (1, 2)]
        eventually(lambda: batches._queue.qsize() == 2)  # noqa: SLF001 - nothing else tells
        gate.set()
        assert [each.result() for each in asked] == [0, 1, 2]
        assert sorted(pool.map(batches.ask, (3, 4))) == [3, 4]
    batches.stop()

    assert [sorted(batch) for batch in taken] == [[0], [1, 2], [3, 4]]


def test_what_is_queued_when_the_writer_stops_is_still_written(sqlite_parts: Services) -> None:
    tasks = [make_task(sqlite_parts) for _ in range(8)]
    with gated(sqlite_parts) as (box, database), ThreadPoolExecutor(9) as pool:
        batch = [incoming(sqlite_parts, task, success()) for task in tasks]
        waiting = wait_behind(box, pool, *batch)
        assert database.reached.wait(PATIENCE)
        stopping = pool.submit(box.stop)
        database.gate.set()
        assert outcomes([each.result() for each in waiting]) == [ACCEPTED] * 8
        stopping.result(PATIENCE)


def test_a_restart_of_the_database_loses_nothing_that_was_acknowledged(
    postgres_parts: Services, postgres: Postgres
) -> None:
    first, *tasks = [make_task(postgres_parts) for _ in range(40)]
    box = Inbox(postgres_parts.db)
    began = threading.Semaphore(0)

    def deliver(task: Task) -> bool:
        began.release()
        try:
            return box.take(incoming(postgres_parts, task, success())).outcome is ACCEPTED
        except UnavailableError:
            return False

    with postgres.down(), pytest.raises(UnavailableError, match="the database is away"):
        box.take(incoming(postgres_parts, first, success()))
    assert deliver(first)
    with ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(deliver, task) for task in tasks]
        for _ in range(10):
            assert began.acquire(timeout=PATIENCE)
        postgres.restart(immediate=True)
        acknowledged = [task for task, each in zip(tasks, taken, strict=True) if each.result()]
    box.stop()

    assert acknowledged
    for task in (first, *acknowledged):
        assert [each.verdict for each in callbacks_of(postgres_parts, task)] == [Verdict.ACCEPTED]
        assert get_task(postgres_parts, task.id).status is TaskStatus.RECEIVED


def test_a_refused_body_is_revised_and_counted_in_the_same_batch(parts: Services) -> None:
    task = make_task(parts)
    whole = incoming(parts, task, success())
    broken = replace(whole, result=None, reason="the compressed body is broken: it ends too early")
    with parts.db.transaction() as session:
        inbox.take_in(session, [broken])
    with parts.db.transaction() as session:
        taken = inbox.take_in(session, [replace(whole, body=replace(whole.body, id=new_id()))] * 3)

    assert [each.outcome for each in taken] == ["accepted", "duplicate", "duplicate"]
    (callback,) = callbacks_of(parts, task)
    assert (callback.verdict, callback.reason, callback.duplicates) == ("accepted", None, 2)
    assert get_task(parts, task.id).result_id == callback.id
