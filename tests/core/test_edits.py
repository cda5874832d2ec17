"""An edit on its way to the provider: checked, created, and sent at most once."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app import edits, jobs, tasks
from app.columns import db_now
from app.config import HostPort
from app.edits import OUR_RULES
from app.errors import (
    InvalidFieldError,
    LeaseLostError,
    NotSentError,
    ProviderError,
)
from app.jobs import Job, Kind, Lease
from app.models import Event, Input, Role, Source, Task, TaskStatus, Verification
from app.models import Job as JobRow
from app.outbound import Outbound
from app.providers.acedata import RULES
from app.services import Services
from tests.core.sites import Answer, Asked, Site, json_answer
from tests.factories import (
    PUBLIC_URL,
    callbacks_of,
    claim,
    conclude,
    due_kinds,
    fail_next,
    failure,
    get_task,
    make_task,
    reconfigured,
    run_next,
    submission,
    success,
    take,
    timeline,
)
from tests.servers.processes import ReservedPort

EDITS = "/openai/images/edits"
TOO_MANY = {"error": {"code": "too_many_requests", "message": "slowly"}}
BROKEN = {"error": {"code": "api_error", "message": "try again"}}


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nobody listens."""
    port = ReservedPort()
    yield f"http://127.0.0.1:{port.number}"
    port.release()


# What a submission may say.


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"provider": "nobody"}, "provider", "provider: expected one of acedata, not 'nobody'"),
        ({"provider": 5}, "provider", "provider: expected text of 1 to 100 characters, not 5"),
        ({"trace_id": "x" * 129}, "trace_id", "trace_id: expected text of 1 to 128 characters"),
        ({"metadata": {"a": 1}}, "metadata", "metadata: expected an object of at most 16 names"),
        (
            {"deadline": 29},
            "deadline",
            "deadline: expected a whole number from 30 to 86400, not 29",
        ),
        ({"deadline": 86_401}, "deadline", "deadline: expected"),
        ({"async": "true"}, "async", "async: expected true or false, not 'true'"),
        ({"callback_url": ""}, "callback_url", "callback_url: expected text"),
        ({"callback_url": "ftp://a.test"}, "callback_url", "neither http nor https"),
        ({"callback_url": "http://10.0.0.1/"}, "callback_url", "its address is not public"),
        ({"callback_url": "not a url"}, "callback_url", "callback_url: "),
        ({"size": "1x1"}, "size", "size: expected auto or WIDTHxHEIGHT"),
        ({"image": None}, "image", "image is missing"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_rule(
    sqlite_parts: Services, fields: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        edits.check_request(sqlite_parts, submission(**fields), "acedata")
    assert caught.value.param == param
    assert message in str(caught.value)


def test_a_good_submission_has_its_provider(sqlite_parts: Services) -> None:
    body = submission(trace_id="mine", metadata={"a": "b"}, deadline=30, sparkle=11)
    assert edits.check_request(sqlite_parts, body, "acedata") == "acedata"
    named = {**body, "provider": "acedata"}
    assert edits.check_request(sqlite_parts, named, "agcloud") == "acedata"


def test_a_subscriber_whose_name_does_not_resolve_yet_is_fine(sqlite_parts: Services) -> None:
    asked: list[str] = []

    def resolve(name: str) -> list[str]:
        asked.append(name)
        raise OSError("no such host")

    parts = replace(sqlite_parts, outbound=Outbound(resolve=resolve))
    edits.check_request(parts, submission(callback_url="https://soon.test/hook"), "acedata")
    assert asked == ["soon.test"]


def test_a_subscriber_with_a_private_address_needs_our_leave(sqlite_parts: Services) -> None:
    resolve = lambda _: ["10.0.0.1"]  # noqa: E731 - one line says it
    body = submission(callback_url="http://inside.test:8080/hook")
    strict = replace(sqlite_parts, outbound=Outbound(resolve=resolve))
    with pytest.raises(InvalidFieldError):
        edits.check_request(strict, body, "acedata")

    allowed = Outbound([HostPort("inside.test", 8080)], resolve=resolve)
    edits.check_request(replace(sqlite_parts, outbound=allowed), body, "acedata")


def test_our_fields_are_not_the_providers() -> None:
    assert not set(OUR_RULES.fields) & (set(RULES.fields) - {"async"})


# Creating.


def test_a_task_is_created_with_its_inputs_its_job_and_its_timeline(parts: Services) -> None:
    images = ["https://a.test/1.png", "https://a.test/2.png"]
    task = make_task(
        parts, image=images, trace_id="mine", metadata={"a": "b"}, deadline=90, sparkle=11
    )

    assert task.status is TaskStatus.QUEUED
    assert (task.model, task.prompt, task.trace_id) == ("gpt-image-2", "make it sepia", "mine")
    assert task.labels == {"a": "b"}
    assert task.request["sparkle"] == 11
    assert 80 < (task.deadline_at - task.created_at).total_seconds() < 100
    assert task.id.version == 7
    with parts.db.reading() as session:
        inputs = session.scalars(select(Input).order_by(Input.index)).all()
    assert [(row.role, row.index, row.source_url) for row in inputs] == [
        (Role.IMAGE, 0, images[0]),
        (Role.IMAGE, 1, images[1]),
    ]
    assert timeline(parts, task) == ["created"]
    assert due_kinds(parts) == ["submit"]


def test_without_a_deadline_the_settings_own_counts(sqlite_parts: Services) -> None:
    task = make_task(reconfigured(sqlite_parts, task_deadline=7200.0))
    assert 7190 < (task.deadline_at - task.created_at).total_seconds() < 7210


# Submitting.


def test_an_accepted_submission_is_submitted(linked: Services, acedata: Site) -> None:
    acedata.replies[EDITS] = json_answer({"success": True, "task_id": "theirs"})
    task = make_task(linked, trace_id="the caller's", metadata={"a": "b"}, deadline=60, seed=7)

    run_next(linked, Kind.SUBMIT)

    (asked,) = acedata.asked(EDITS)
    token = asked.json["callback_url"].removeprefix(f"{PUBLIC_URL}/callbacks/")
    assert linked.signing.read_callback_token(token).task_id == task.id
    assert linked.signing.read_callback_token(token).provider == "acedata"
    # The provider is told our id, and nothing that was meant for us.
    assert {name: asked.json[name] for name in asked.json if name != "callback_url"} == {
        "image": "https://example.com/photo.png",
        "prompt": "make it sepia",
        "model": "gpt-image-2",
        "seed": 7,
        "trace_id": str(task.id),
    }
    assert asked.headers["Authorization"] == "Bearer our key at acedata"
    task = get_task(linked, task.id)
    assert (task.status, task.provider_task_id) == (TaskStatus.SUBMITTED, "theirs")
    assert (task.submitted_at is not None, task.submitting_at) == (True, None)
    assert task.ask_at is not None
    assert timeline(linked, task) == ["created", "submitting", "submitted"]
    assert due_kinds(linked) == []


def test_while_a_request_is_on_its_way_the_task_says_so(linked: Services, acedata: Site) -> None:
    task = make_task(linked)
    seen: list[Task] = []

    def reply(_: Asked) -> Answer:
        seen.append(get_task(linked, task.id))
        return json_answer({"task_id": "theirs"})

    acedata.replies[EDITS] = reply
    run_next(linked, Kind.SUBMIT)

    assert seen[0].status is TaskStatus.QUEUED
    assert seen[0].submitting_at is not None


def test_an_answer_with_the_result_is_taken_in_at_once(linked: Services, acedata: Site) -> None:
    acedata.replies[EDITS] = json_answer(success(task_id="theirs"))
    task = make_task(linked)

    run_next(linked, Kind.SUBMIT)

    task = get_task(linked, task.id)
    assert (task.status, task.verification) == (TaskStatus.RECEIVED, Verification.RESPONSE)
    assert task.submitting_at is None
    assert [callback.source for callback in callbacks_of(linked, task)] == [Source.RESPONSE]
    assert due_kinds(linked) == ["ingest"]


def test_a_result_that_cannot_be_read_left_the_task_queued_for_ever(
    linked: Services, acedata: Site
) -> None:
    body = b'{"data": [{"url": "https://a.test/1"}], "usage": {"tokens": NaN}}'
    acedata.replies[EDITS] = Answer(body=body)
    task = make_task(linked)

    run_next(linked, Kind.SUBMIT)

    task = get_task(linked, task.id)
    assert (task.status, task.submitting_at) == (TaskStatus.UNCERTAIN, None)


def test_a_refusal_for_good_ends_the_task_with_the_providers_code(
    linked: Services, acedata: Site
) -> None:
    acedata.replies[EDITS] = json_answer(
        {"error": {"code": "used_up", "message": "no credit"}}, 403
    )
    task = make_task(linked)

    assert isinstance(fail_next(linked, Kind.SUBMIT), ProviderError)

    task = get_task(linked, task.id)
    assert task.status is TaskStatus.FAILED
    assert (task.error_code, task.error_message, task.error_status) == (
        "used_up",
        "no credit",
        403,
    )
    assert task.submitting_at is None
    assert timeline(linked, task) == ["created", "submitting", "failed"]
    assert due_kinds(linked) == []


@pytest.mark.parametrize(
    "answer",
    [json_answer(TOO_MANY, 429), json_answer(BROKEN, 500), json_answer(BROKEN, 503)],
)
def test_a_refusal_for_now_is_sent_again(
    linked_sqlite: Services, acedata: Site, answer: Answer
) -> None:
    acedata.replies[EDITS] = answer
    task = make_task(linked_sqlite)
    fail_next(linked_sqlite, Kind.SUBMIT)

    assert get_task(linked_sqlite, task.id).status is TaskStatus.QUEUED
    assert get_task(linked_sqlite, task.id).submitting_at is None
    assert timeline(linked_sqlite, task) == ["created", "submitting", "refused"]

    acedata.replies[EDITS] = json_answer({"task_id": "theirs"})
    run_next(linked_sqlite, Kind.SUBMIT)
    assert get_task(linked_sqlite, task.id).status is TaskStatus.SUBMITTED
    assert len(acedata.asked(EDITS)) == 2


def test_a_provider_that_asks_for_time_gets_it(linked_sqlite: Services, acedata: Site) -> None:
    acedata.replies[EDITS] = json_answer(TOO_MANY, 429, Retry_After="77")
    make_task(linked_sqlite)

    error = fail_next(linked_sqlite, Kind.SUBMIT)

    decision = jobs.decide(jobs.POLICIES[Kind.SUBMIT], 0, error)
    assert decision == jobs.Retry(77.0, counts=True)


def test_after_its_last_try_a_refused_task_fails(linked_sqlite: Services, acedata: Site) -> None:
    acedata.replies[EDITS] = json_answer(TOO_MANY, 429)
    task = make_task(linked_sqlite)
    for _ in range(6):
        fail_next(linked_sqlite, Kind.SUBMIT)

    task = get_task(linked_sqlite, task.id)
    assert (task.status, task.error_code) == (TaskStatus.FAILED, "too_many_requests")
    assert task.error_status == 429
    assert len(acedata.asked(EDITS)) == 6
    assert due_kinds(linked_sqlite) == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, b"Internal Server Error"),
        Answer(502, b"<html>Bad Gateway</html>"),
        json_answer({"error": {"code": "timeout", "message": "too long"}}, 504),
        Answer(cut=True),
        json_answer({"success": True}),
    ],
)
def test_an_answer_that_does_not_say_makes_the_task_uncertain_and_is_never_sent_again(
    linked_sqlite: Services, acedata: Site, answer: Answer
) -> None:
    acedata.replies[EDITS] = answer
    task = make_task(linked_sqlite)

    run_next(linked_sqlite, Kind.SUBMIT)

    task = get_task(linked_sqlite, task.id)
    assert (task.status, task.submitting_at) == (TaskStatus.UNCERTAIN, None)
    assert task.ask_at is not None
    assert timeline(linked_sqlite, task) == ["created", "submitting", "uncertain"]
    assert due_kinds(linked_sqlite) == []
    assert len(acedata.asked(EDITS)) == 1


def test_a_refused_connection_is_tried_again_because_nothing_has_left(
    parts: Services, closed: str
) -> None:
    parts = reconfigured(parts, acedata_base_url=closed)
    task = make_task(parts)

    assert isinstance(fail_next(parts, Kind.SUBMIT), NotSentError)

    task = get_task(parts, task.id)
    assert (task.status, task.submitting_at) == (TaskStatus.QUEUED, None)
    assert timeline(parts, task) == ["created", "submitting", "refused"]
    assert due_kinds(parts) == ["submit"]


def test_an_unexpected_error_after_sending_makes_the_task_uncertain(
    linked_sqlite: Services, acedata: Site
) -> None:
    class Confused:
        """A provider with a bug in it."""

        def __init__(self, real: Any) -> None:
            self.submit_request = real.submit_request

        def read_submission(self, _: object) -> None:
            raise KeyError("a bug")

    acedata.replies[EDITS] = json_answer({"task_id": "theirs"})
    real = linked_sqlite.providers["acedata"]
    confused: Any = {"acedata": Confused(real)}
    task = make_task(linked_sqlite)

    run_next(replace(linked_sqlite, providers=confused), Kind.SUBMIT)

    assert get_task(linked_sqlite, task.id).status is TaskStatus.UNCERTAIN


def test_a_callback_that_came_first_stays_what_counts(linked: Services, acedata: Site) -> None:
    task = make_task(linked)

    def call_back_first(_: Asked) -> Answer:
        take(linked, task, success(task_id="theirs"))
        return json_answer({"task_id": "theirs"})

    acedata.replies[EDITS] = call_back_first
    run_next(linked, Kind.SUBMIT)

    task = get_task(linked, task.id)
    assert (task.status, task.provider_task_id) == (TaskStatus.RECEIVED, "theirs")
    assert (task.submitted_at is not None, task.submitting_at) == (True, None)
    assert timeline(linked, task) == ["created", "submitting", "received", "submitted"]


@pytest.mark.parametrize("answer", [Answer(cut=True), json_answer(TOO_MANY, 429)])
def test_after_an_early_failure_nothing_is_uncertain_or_sent_again(
    linked_sqlite: Services, acedata: Site, answer: Answer
) -> None:
    task = make_task(linked_sqlite)

    def call_back_first(_: Asked) -> Answer:
        take(linked_sqlite, task, failure())
        return answer

    acedata.replies[EDITS] = call_back_first
    if answer.cut:
        run_next(linked_sqlite, Kind.SUBMIT)
    else:
        fail_next(linked_sqlite, Kind.SUBMIT)
        run_next(linked_sqlite, Kind.SUBMIT)

    assert get_task(linked_sqlite, task.id).status is TaskStatus.FAILED
    assert get_task(linked_sqlite, task.id).submitting_at is None
    assert timeline(linked_sqlite, task) == ["created", "submitting", "failed"]
    assert len(acedata.asked(EDITS)) == 1


def test_two_names_for_one_task_are_told_in_the_timeline(linked: Services) -> None:
    task = make_task(linked, columns={"provider_task_id": "from the callback"})
    with linked.db.transaction() as session:
        row = tasks.lock(session, task.id)
        tasks.submitted(session, row, "from the answer", ask_after=60)
    assert get_task(linked, task.id).provider_task_id == "from the answer"
    with linked.db.reading() as session:
        detail = session.scalar(select(Event.detail).filter_by(event="submitted"))
    assert detail == {
        "provider_task_id": "from the answer",
        "named_by_callback": "from the callback",
    }


@pytest.mark.parametrize("status", [TaskStatus.CANCELED, TaskStatus.FAILED, TaskStatus.RECEIVED])
def test_a_task_that_waits_for_nothing_is_not_sent(
    linked_sqlite: Services, acedata: Site, status: TaskStatus
) -> None:
    task = make_task(linked_sqlite, columns={"status": status})
    run_next(linked_sqlite, Kind.SUBMIT)
    assert acedata.asked(EDITS) == []
    assert get_task(linked_sqlite, task.id).status is status


# Workers that stop in the middle.


def test_a_worker_whose_lease_somebody_else_has_does_not_send(
    linked: Services, acedata: Site
) -> None:
    task = make_task(linked)
    stale = claim(linked, Kind.SUBMIT)
    with linked.db.transaction() as session:
        session.execute(update(JobRow).values(lease_token=UUID(int=1), due_at=db_now(30)))

    with pytest.raises(LeaseLostError):
        edits.submit(linked, stale)

    assert acedata.asked(EDITS) == []
    assert get_task(linked, task.id).submitting_at is None


def test_a_worker_that_was_stopped_just_before_sending_does_not_send(
    linked: Services, acedata: Site
) -> None:
    make_task(linked)
    claimed = claim(linked, Kind.SUBMIT)
    # Its lease is over, and nobody has taken the job over yet.
    job = replace(claimed, lease=Lease(expires_at=time.monotonic() - 1))

    with pytest.raises(LeaseLostError):
        edits.submit(linked, job)

    assert acedata.asked(EDITS) == []


def lost(parts: Services) -> Job:
    """The submit job as it is taken over from a worker that went silent."""
    claim(parts, Kind.SUBMIT, seconds=0)
    job = claim(parts, Kind.SUBMIT)
    assert job.lost
    return job


def test_a_lost_submission_that_had_not_begun_is_sent(linked: Services, acedata: Site) -> None:
    acedata.replies[EDITS] = json_answer({"task_id": "theirs"})
    task = make_task(linked)
    job = lost(linked)

    conclude(linked, job, edits.submission_lost(linked, job))

    assert get_task(linked, task.id).status is TaskStatus.SUBMITTED
    assert len(acedata.asked(EDITS)) == 1


def test_a_lost_submission_that_had_begun_is_asked_about_and_not_sent(
    linked: Services, acedata: Site
) -> None:
    task = make_task(linked, columns={"submitting_at": db_now()})
    job = lost(linked)

    conclude(linked, job, edits.submission_lost(linked, job))

    task = get_task(linked, task.id)
    assert (task.status, task.submitting_at) == (TaskStatus.UNCERTAIN, None)
    assert acedata.asked(EDITS) == []
    assert due_kinds(linked) == []


def test_a_lost_submission_whose_result_came_is_left_alone(linked: Services) -> None:
    task = make_task(linked, columns={"submitting_at": db_now()})
    take(linked, task, success())
    job = lost(linked)

    conclude(linked, job, edits.submission_lost(linked, job))

    assert get_task(linked, task.id).status is TaskStatus.RECEIVED
    assert "uncertain" not in timeline(linked, task)


def test_two_workers_that_have_the_same_job_send_it_once(linked: Services, acedata: Site) -> None:
    acedata.replies[EDITS] = json_answer({"task_id": "theirs"})
    make_task(linked)
    first = claim(linked, Kind.SUBMIT, seconds=0)
    second = claim(linked, Kind.SUBMIT)
    outcomes: list[str] = []

    def work(job: Job) -> None:
        try:
            conclude(linked, job, edits.submit(linked, job))
            outcomes.append("done")
        except LeaseLostError:
            outcomes.append("lost")

    threads = [threading.Thread(target=work, args=(job,)) for job in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["done", "lost"]
    assert len(acedata.asked(EDITS)) == 1


def test_a_job_without_a_task_is_a_bug(sqlite_parts: Services) -> None:
    with sqlite_parts.db.transaction() as session:
        jobs.enqueue(session, jobs.New(Kind.SUBMIT, provider="acedata"))
    with pytest.raises(ValueError, match="names no task"):
        run_next(sqlite_parts, Kind.SUBMIT)


def test_nothing_that_is_ours_leaves_in_a_request(sqlite_parts: Services) -> None:
    provider = sqlite_parts.providers["acedata"]
    task = make_task(sqlite_parts, trace_id="t", metadata={}, deadline=60, provider="acedata")
    sent = {name for name in task.request if name not in OUR_RULES.fields}
    assert sent == {"image", "prompt", "model"}
    lookup = provider.lookup_request([task.id])
    assert isinstance(lookup.body, bytes)
    assert json.loads(lookup.body)["trace_ids"] == [str(task.id)]
