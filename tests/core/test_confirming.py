"""CONFIRM_CALLBACKS=on: a callback says where to look, and the provider's lookup says what it is."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from app import inbox
from app.columns import db_now
from app.inbox import Outcome
from app.jobs import Kind
from app.models import Source, Task, TaskStatus, Verification
from app.services import Services
from tests.core.sites import Site
from tests.core.test_reconcile import SUBMITTED, TASKS, ask, items, known, make_due, pause_of
from tests.factories import (
    callbacks_of,
    due_kinds,
    failure,
    get_task,
    images_of,
    incoming,
    make_task,
    reconfigured,
    run_next,
    success,
    take_large,
    timeline,
)

FORGED = success("https://elsewhere.example.com/forged.png")
TRUE = success("https://images.example.com/true.png", task_id="theirs")
LATER = {**SUBMITTED, "ask_at": db_now(600)}


@pytest.fixture
def confirming(linked: Services) -> Services:
    """The services, on both databases, which ask the provider about each callback."""
    return reconfigured(linked, confirm_callbacks="on")


def receive(parts: Services, task: Task, payload: Mapping[str, Any]) -> Outcome:
    with parts.db.transaction() as session:
        batch = [incoming(parts, task, payload)]
        (taken,) = inbox.take_in(session, batch, parts.confirmed)
    return taken.outcome


def test_a_forged_callback_moves_nothing(confirming: Services, acedata: Site) -> None:
    """Whatever it says: the provider is asked at once, and again soon."""
    parts = confirming
    task = make_task(parts, columns=LATER)
    acedata.replies[TASKS] = items(known(task))
    for payload in (FORGED, failure()):
        assert receive(parts, task, payload) is Outcome.ACCEPTED
        assert receive(parts, task, payload) is Outcome.DUPLICATE
    assert pause_of(parts, task) <= 0
    ask(parts)

    now = get_task(parts, task.id)
    assert (now.status, now.provider_task_id, now.result_id) == (TaskStatus.SUBMITTED, None, None)
    assert 8 < pause_of(parts, task) <= 10.1
    assert due_kinds(parts).count(Kind.INGEST) == 0
    assert timeline(parts, task) == ["created", "asked", "asked"]

    make_due(parts)
    acedata.replies[TASKS] = items(known(task, failure("forbidden", "no")))
    ask(parts)
    now = get_task(parts, task.id)
    assert (now.status, now.verification) == (TaskStatus.FAILED, Verification.CONFIRMED)
    assert now.error_code == "forbidden"


@pytest.mark.parametrize(
    "columns",
    [
        LATER,
        # Before the answer to the submission.
        {},
        {"status": TaskStatus.UNCERTAIN, "ask_at": db_now(600)},
        {"status": TaskStatus.FAILED, "error_code": "timeout", "finished_at": db_now()},
    ],
)
def test_what_the_provider_confirms_counts(
    confirming: Services, acedata: Site, columns: dict[str, Any]
) -> None:
    parts = confirming
    task = make_task(parts, columns=columns)
    before = get_task(parts, task.id).status
    # The very bytes that the lookup gives.
    receive(parts, task, TRUE)
    assert get_task(parts, task.id).status is before
    # Its bookkeeping lags behind its callbacks.
    acedata.replies[TASKS] = items()
    ask(parts)
    make_due(parts)
    acedata.replies[TASKS] = items(known(task, TRUE))
    ask(parts)
    run_next(parts, Kind.INGEST)

    now = get_task(parts, task.id)
    assert (now.status, now.verification) == (TaskStatus.RECEIVED, Verification.CONFIRMED)
    assert (now.provider_task_id, now.error_code, now.ask_at) == ("theirs", None, None)
    (callback,) = callbacks_of(parts, task)
    assert (callback.id, callback.source) == (now.result_id, Source.CALLBACK)
    assert [image.source for image in images_of(parts, task)] == [TRUE["data"][0]["url"]]


def test_a_large_callback_is_confirmed_too(confirming: Services, acedata: Site) -> None:
    parts = confirming
    task = make_task(parts, columns=LATER)
    large = {**TRUE, "padding": "x y " * 20_000}
    take_large(parts, task, {**FORGED, "padding": "x y " * 20_000})
    take_large(parts, task, json.dumps(large).encode())
    for _ in range(2):
        run_next(parts, Kind.INGEST)
    assert get_task(parts, task.id).status is TaskStatus.SUBMITTED
    assert pause_of(parts, task) <= 0

    acedata.replies[TASKS] = items(known(task, large))
    ask(parts)
    run_next(parts, Kind.INGEST)
    assert [image.source for image in images_of(parts, task)] == [TRUE["data"][0]["url"]]
    assert get_task(parts, task.id).verification is Verification.CONFIRMED


def test_a_body_that_was_enqueued_twice_makes_its_images_once(
    linked: Services, acedata: Site
) -> None:
    """The lookup brings a large body while the same one from a callback has not been read."""
    task = make_task(linked, columns=SUBMITTED)
    large = {**TRUE, "padding": "x y " * 20_000}
    take_large(linked, task, json.dumps(large).encode())
    acedata.replies[TASKS] = items(known(task, large))
    ask(linked)
    run_next(linked, Kind.INGEST)
    first = [image.id for image in images_of(linked, task)]
    run_next(linked, Kind.INGEST)
    assert [image.id for image in images_of(linked, task)] == first


def test_who_cannot_be_asked_is_believed(confirming: Services) -> None:
    assert confirming.confirmed == {"acedata"}
    assert reconfigured(confirming, confirm_callbacks="off").confirmed == frozenset()
