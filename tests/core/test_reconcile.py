"""When nothing comes: lookups, and the deadline."""

import gzip
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from app import circuits, jobs, reconcile
from app.columns import db_now
from app.errors import LeaseLostError
from app.jobs import Kind
from app.models import Job as JobRow
from app.models import Source, Task, TaskStatus, Verification
from app.providers.acedata import AceData
from app.providers.base import Credentials, Result
from app.services import Services
from tests.core.sites import Answer, Asked, Site, json_answer
from tests.factories import (
    callbacks_of,
    claim,
    conclude,
    due_kinds,
    failure,
    get_task,
    make_task,
    reconfigured,
    run_next,
    success,
    take,
    timeline,
)

TASKS = "/openai/tasks"
SUBMITTED = {"status": TaskStatus.SUBMITTED, "ask_at": db_now(-1), "submitted_at": db_now(-60)}
UNCERTAIN = {"status": TaskStatus.UNCERTAIN, "ask_at": db_now(-1)}


def known(task: Task, response: dict[str, Any] | None = None, id_: str = "theirs") -> Any:
    """The provider's record of a task."""
    return {"id": id_, "trace_id": str(task.id), "response": response or {}}


def items(*records: Any) -> Answer:
    return json_answer({"items": records, "count": len(records)})


def run_periodic(parts: Services, kind: Kind) -> None:
    """Run the periodic job of `kind` now."""
    with parts.db.transaction() as session:
        jobs.ensure_periodic(session, parts.providers)
        session.execute(update(JobRow).where(JobRow.kind == kind).values(due_at=db_now(-1)))
    run_next(parts, kind)


def make_due(parts: Services) -> None:
    """Make every task that is asked about due to be asked about."""
    with parts.db.transaction() as session:
        session.execute(update(Task).where(Task.ask_at.is_not(None)).values(ask_at=db_now(-1)))


def ask(parts: Services) -> None:
    run_periodic(parts, Kind.RECONCILE)


def pause_of(parts: Services, task: Task) -> float:
    """How many seconds from now the provider is asked again about this task."""
    with parts.db.reading() as session:
        now = session.scalar(db_now().select())
    ask_at = get_task(parts, task.id).ask_at
    assert now is not None
    assert ask_at is not None
    return (ask_at - now).total_seconds()


def test_a_provider_is_not_asked_about_what_is_not_due(linked: Services, acedata: Site) -> None:
    make_task(linked, columns={**SUBMITTED, "ask_at": db_now(30)})
    make_task(linked, columns={**SUBMITTED, "status": TaskStatus.RECEIVED})
    make_task(linked, columns={**SUBMITTED, "provider": "another"})
    make_task(linked)
    ask(linked)
    assert acedata.asked(TASKS) == []


def test_lost_callbacks_are_found_by_one_lookup(linked: Services, acedata: Site) -> None:
    done, failed, silent, unreadable = tasks = [
        make_task(linked, columns=SUBMITTED) for _ in range(4)
    ]
    acedata.replies[TASKS] = items(
        known(done, success(task_id="theirs")),
        known(failed, failure("forbidden"), "another"),
        known(unreadable, {"data": "nothing of use"}, "a third"),
    )

    ask(linked)

    (asked,) = acedata.asked(TASKS)
    assert {**asked.json, "trace_ids": set(asked.json["trace_ids"])} == {
        "action": "retrieve_batch",
        "trace_ids": {str(task.id) for task in tasks},
        "limit": 4,
    }
    assert asked.headers["Authorization"] == "Bearer our key at acedata"
    done, failed = get_task(linked, done.id), get_task(linked, failed.id)
    assert (done.status, done.verification) == (TaskStatus.RECEIVED, Verification.CONFIRMED)
    assert done.ask_at is None
    assert [callback.source for callback in callbacks_of(linked, done)] == [Source.LOOKUP]
    assert timeline(linked, done) == ["created", "received"]
    assert due_kinds(linked).count("ingest") == 1
    assert (failed.status, failed.error_status) == (TaskStatus.FAILED, 403)
    assert failed.error_code == "forbidden"
    for task in (silent, unreadable):
        assert get_task(linked, task.id).status is TaskStatus.SUBMITTED
        assert pause_of(linked, task) > 100


class _Breaking(AceData):
    """A provider's module with a mistake in it."""

    def read_result(self, payload: Mapping[str, Any]) -> Result:
        if payload["task_id"] == "broken":
            raise ZeroDivisionError
        return super().read_result(payload)


def test_an_answer_that_breaks_its_reader_keeps_no_other_task_from_its_result(
    linked: Services, acedata: Site
) -> None:
    credentials = Credentials(acedata.url, "a key")
    linked = replace(linked, providers={**linked.providers, "acedata": _Breaking(credentials)})
    broken, fine = (make_task(linked, columns=SUBMITTED) for _ in range(2))
    acedata.replies[TASKS] = items(
        known(broken, success(task_id="broken"), "broken"),
        known(fine, success(task_id="theirs")),
    )

    ask(linked)

    assert get_task(linked, fine.id).status is TaskStatus.RECEIVED
    assert get_task(linked, broken.id).status is TaskStatus.SUBMITTED
    assert pause_of(linked, broken) > 100


def test_the_longest_silent_tasks_are_asked_about_first(
    linked_sqlite: Services, acedata: Site
) -> None:
    acedata.replies[TASKS] = items()
    tasks = [
        make_task(linked_sqlite, columns={**SUBMITTED, "ask_at": db_now(-number - 1)})
        for number in range(reconcile.BATCH + 5)
    ]
    ask(linked_sqlite)
    ask(linked_sqlite)

    asked = [each.json["trace_ids"] for each in acedata.asked(TASKS)]
    assert [len(ids) for ids in asked] == [reconcile.BATCH, 5]
    assert asked[0] + asked[1] == [str(task.id) for task in tasks[::-1]]


def test_when_the_results_are_too_large_for_one_answer_fewer_are_asked_for(
    linked_sqlite: Services, acedata: Site
) -> None:
    tasks = [make_task(linked_sqlite, columns=SUBMITTED) for _ in range(3)]
    too_much = gzip.compress(b" " * (reconcile.LOOKUP_LIMITS.bytes + 1), 1)

    def reply(asked: Asked) -> Answer:
        if len(asked.json["trace_ids"]) > 1:
            return Answer(body=too_much, headers={"Content-Encoding": "gzip"})
        named = next(task for task in tasks if str(task.id) in asked.json["trace_ids"])
        return items(known(named, success(task_id="theirs")))

    acedata.replies[TASKS] = reply
    ask(linked_sqlite)

    statuses = [get_task(linked_sqlite, task.id).status for task in tasks]
    assert sorted(statuses) == [TaskStatus.RECEIVED, TaskStatus.SUBMITTED, TaskStatus.SUBMITTED]
    assert [len(asked.json["trace_ids"]) for asked in acedata.asked(TASKS)] == [3, 1]


def test_a_silent_task_is_asked_about_ever_less_often(
    linked_sqlite: Services, acedata: Site
) -> None:
    task = make_task(linked_sqlite, columns=SUBMITTED)
    acedata.replies[TASKS] = items(known(task))
    pauses = []
    for _ in range(6):
        make_due(linked_sqlite)
        ask(linked_sqlite)
        pauses.append(round(pause_of(linked_sqlite, task), -1))

    assert pauses == [120, 240, 480, 600, 600, 600]
    assert get_task(linked_sqlite, task.id).status is TaskStatus.SUBMITTED
    assert timeline(linked_sqlite, task) == ["created"]


def test_a_long_pause_that_was_set_is_not_shortened(linked_sqlite: Services, acedata: Site) -> None:
    parts = reconfigured(linked_sqlite, reconcile_after=3000.0)
    task = make_task(parts, columns=SUBMITTED)
    acedata.replies[TASKS] = items()
    ask(parts)
    assert 2900 < pause_of(parts, task) < 3010


def test_an_uncertain_task_that_the_provider_knows_is_submitted_or_even_done(
    linked: Services, acedata: Site
) -> None:
    task, done = (make_task(linked, columns=UNCERTAIN) for _ in range(2))
    acedata.replies[TASKS] = items(known(task), known(done, success(task_id="a"), "a"))

    ask(linked)

    task = get_task(linked, task.id)
    assert (task.status, task.provider_task_id) == (TaskStatus.SUBMITTED, "theirs")
    assert task.submitted_at is not None
    assert timeline(linked, task) == ["created", "submitted"]
    assert 100 < pause_of(linked, task) < 130
    assert get_task(linked, done.id).status is TaskStatus.RECEIVED
    assert timeline(linked, done) == ["created", "submitted", "received"]


def test_an_uncertain_task_that_the_provider_does_not_know_fails_after_several_asks(
    linked_sqlite: Services, acedata: Site
) -> None:
    parts = linked_sqlite
    task = make_task(parts, columns=UNCERTAIN)
    acedata.replies[TASKS] = items()
    for asks, pause in enumerate(reconcile.UNCERTAIN_PAUSES, 1):
        ask(parts)
        task = get_task(parts, task.id)
        assert (task.status, task.asks) == (TaskStatus.UNCERTAIN, asks)
        assert pause - 2 < pause_of(parts, task) <= pause + 0.1
        make_due(parts)

    ask(parts)

    task = get_task(parts, task.id)
    assert (task.status, task.error_code) == (TaskStatus.FAILED, "unknown_outcome")
    assert "It was not sent again" in str(task.error_message)
    assert task.ask_at is None
    assert timeline(parts, task) == ["created", "failed"]
    assert len(acedata.asked(TASKS)) == len(reconcile.UNCERTAIN_PAUSES) + 1


def test_an_unknown_outcome_is_told_within_three_minutes() -> None:
    limits = reconcile.LOOKUP_LIMITS
    assert sum(reconcile.UNCERTAIN_PAUSES) + limits.total + 10 < 180


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500),
        Answer(cut=True),
        Answer(200, b"<html>"),
        json_answer({"error": {"code": "too_many_requests", "message": "slowly"}}, 429),
        json_answer({}),
        json_answer({"items": {}}),
        json_answer({"items": []}, 500),
    ],
)
def test_an_answer_that_does_not_say_counts_for_nothing(
    linked_sqlite: Services, acedata: Site, answer: Answer
) -> None:
    acedata.replies[TASKS] = answer
    task = make_task(linked_sqlite, columns=UNCERTAIN)
    for _ in range(len(reconcile.UNCERTAIN_PAUSES) + 2):
        ask(linked_sqlite)
        assert 5 < pause_of(linked_sqlite, task) <= 10.1
        make_due(linked_sqlite)

    task = get_task(linked_sqlite, task.id)
    assert (task.status, task.asks) == (TaskStatus.UNCERTAIN, 0)
    with linked_sqlite.db.reading() as session:
        circuit = [(each.queue, each.failures) for each in circuits.open_ones(session)]
    # A refusal is an answer.
    assert circuit == ([] if answer.status == 429 else [("reconcile:acedata", 5)])


def test_what_happened_while_the_provider_was_asked_counts(linked: Services, acedata: Site) -> None:
    """A callback that comes while a lookup is under way is not undone by the lookup's answer."""
    task = make_task(linked, columns={**UNCERTAIN, "asks": len(reconcile.UNCERTAIN_PAUSES)})
    acedata.replies[TASKS] = items()
    with linked.db.transaction() as session:
        jobs.ensure_periodic(session, linked.providers)
    job = claim(linked, Kind.RECONCILE)
    conclusion = reconcile.ask(linked, job)
    take(linked, task, success())

    conclude(linked, job, conclusion)

    assert get_task(linked, task.id).status is TaskStatus.RECEIVED
    assert get_task(linked, task.id).ask_at is None


def test_who_has_lost_the_job_asks_no_more(linked_sqlite: Services, acedata: Site) -> None:
    """It was stopped past its lease: whoever took over asks already."""
    make_task(linked_sqlite, columns=SUBMITTED)
    with linked_sqlite.db.transaction() as session:
        jobs.ensure_periodic(session, linked_sqlite.providers)
    job = claim(linked_sqlite, Kind.RECONCILE, seconds=0)
    with pytest.raises(LeaseLostError):
        reconcile.ask(linked_sqlite, job)
    assert acedata.asked(TASKS) == []


OVERDUE = {"created_at": db_now(-91), "deadline_at": db_now(-1)}


@pytest.mark.parametrize("columns", [{}, SUBMITTED, UNCERTAIN])
def test_a_deadline_ends_a_task_without_a_result(parts: Services, columns: dict[str, Any]) -> None:
    task = make_task(parts, deadline=90, columns={**columns, **OVERDUE})

    run_periodic(parts, Kind.EXPIRE)

    task = get_task(parts, task.id)
    assert (task.status, task.error_status) == (TaskStatus.FAILED, 504)
    message = "no result within 90 s" + ("" if columns else ": the provider has not taken it")
    assert (task.error_code, task.error_message) == ("timeout", message)
    assert (task.finished_at is not None, task.ask_at) == (True, None)
    assert timeline(parts, task) == ["created", "failed"]


def test_a_deadline_does_nothing_before_its_time_or_to_a_task_with_a_result(
    parts: Services,
) -> None:
    ended = [TaskStatus.RECEIVED, TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELED]
    tasks = [make_task(parts, columns={"status": status, **OVERDUE}) for status in ended]
    tasks.append(make_task(parts, deadline=30))
    run_periodic(parts, Kind.EXPIRE)
    statuses = [get_task(parts, task.id).status for task in tasks]
    assert statuses == [*ended, TaskStatus.QUEUED]


def test_more_tasks_than_fit_in_a_batch_are_ended_in_turn(sqlite_parts: Services) -> None:
    tasks = [make_task(sqlite_parts, columns=OVERDUE) for _ in range(reconcile.EXPIRE_BATCH + 2)]
    run_periodic(sqlite_parts, Kind.EXPIRE)
    ended = [get_task(sqlite_parts, task.id).status is TaskStatus.FAILED for task in tasks]
    assert sum(ended) == reconcile.EXPIRE_BATCH
    run_periodic(sqlite_parts, Kind.EXPIRE)
    assert all(get_task(sqlite_parts, task.id).finished_at for task in tasks)


def test_a_deadline_waits_for_nobody(postgres_parts: Services) -> None:
    busy, idle = (make_task(postgres_parts, columns=OVERDUE) for _ in range(2))
    with postgres_parts.db.transaction() as session:
        session.get_one(Task, busy.id, with_for_update=True)
        run_periodic(postgres_parts, Kind.EXPIRE)
    assert get_task(postgres_parts, busy.id).status is TaskStatus.QUEUED
    assert get_task(postgres_parts, idle.id).status is TaskStatus.FAILED
