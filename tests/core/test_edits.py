"""An edit on its way to the provider: checked, created, and sent at most once."""

import time
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app import circuits, edits, jobs, tasks
from app.columns import db_now
from app.config import HostPort
from app.edits import FAILURES_IN_A_ROW, OUR_RULES
from app.errors import (
    InvalidFieldError,
    LeaseLostError,
    NotSentError,
    ProviderError,
)
from app.jobs import Job, Kind, Lease
from app.models import Circuit, Event, Input, Role, Source, TaskStatus
from app.models import Job as JobRow
from app.outbound import Outbound
from app.providers.acedata import RULES, AceData
from app.providers.base import Credentials, Submission
from app.services import Services
from app.signing import CallbackToken
from app.wire import Response
from tests.core.conftest import at_once
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
NO_CREDIT = {"error": {"code": "used_up", "message": "no credit"}}
TOO_MANY = {"error": {"code": "too_many_requests", "message": "slowly"}}
BROKEN = {"error": {"code": "api_error", "message": "try again"}}


def test_a_subscriber_whose_name_does_not_resolve_yet_is_fine(sqlite_parts: Services) -> None:
    asked: list[str] = []

    def resolve(name: str) -> list[str]:
        asked.append(name)
        raise OSError("no such host")

    parts = replace(sqlite_parts, outbound=Outbound(resolve=resolve))
    body = submission(callback_url="https://soon.test/hook", provider="acedata")
    assert edits.check_request(parts, body, "agcloud") == "acedata"
    assert asked == ["soon.test"]


def test_a_subscriber_with_a_private_address_needs_our_leave(sqlite_parts: Services) -> None:
    resolve = lambda _: ["10.0.0.1"]  # noqa: E731 - one line says it
    body = submission(callback_url="http://inside.test:8080/hook")
    strict = replace(sqlite_parts, outbound=Outbound(resolve=resolve))
    with pytest.raises(InvalidFieldError, match=r"^callback_url: .*its address is not public"):
        edits.check_request(strict, body, "acedata")

    allowed = Outbound([HostPort("inside.test", 8080)], resolve=resolve)
    edits.check_request(replace(sqlite_parts, outbound=allowed), body, "acedata")


@pytest.mark.parametrize(
    ("param", "value", "message"),
    [
        ("image", None, "image is missing"),
        ("provider", "nobody", "provider: expected one of acedata, agcloud, not 'nobody'"),
        ("metadata", {"a": 1}, "metadata: expected an object of at most 16 names"),
        ("async", "true", "async: expected true or false, not 'true'"),
        ("callback_url", "not a url", "callback_url: The URL is refused: it has a space"),
        ("callback_url", "ftp://a.test", "neither http nor https"),
        ("callback_url", "http://10.0.0.1/", "its address is not public"),
        ("size", "1x1", "size: expected auto or WIDTHxHEIGHT"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_rule(
    sqlite_parts: Services, param: str, value: object, message: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        edits.check_request(sqlite_parts, submission(**{param: value}), "acedata")
    assert caught.value.param == param
    assert message in str(caught.value)


def test_our_fields_are_not_the_providers() -> None:
    assert not set(OUR_RULES.fields) & (set(RULES.fields) - {"async"})


def test_a_task_is_created_with_its_inputs_its_job_and_its_timeline(parts: Services) -> None:
    images = ["https://a.test/1.png", "https://a.test/2.png"]
    task = make_task(parts, image=images, trace_id="mine", metadata={"a": "b"}, sparkle=11)

    assert (task.status, task.id.version) == (TaskStatus.QUEUED, 7)
    assert (task.model, task.prompt, task.trace_id) == ("gpt-image-2", "make it sepia", "mine")
    assert (task.labels, task.request["sparkle"]) == ({"a": "b"}, 11)
    with parts.db.reading() as session:
        inputs = session.scalars(select(Input).order_by(Input.index)).all()
    assert [(row.role, row.index, row.source_url) for row in inputs] == [
        (Role.IMAGE, 0, images[0]),
        (Role.IMAGE, 1, images[1]),
    ]
    assert timeline(parts, task) == ["created"]
    assert due_kinds(parts) == ["submit"]


def test_an_accepted_submission_is_submitted(linked: Services, acedata: Site) -> None:
    task = make_task(linked, trace_id="the caller's", metadata={"a": "b"}, deadline=60, seed=7)

    def reply(_: Asked) -> Answer:
        on_its_way = get_task(linked, task.id)
        assert (on_its_way.status, on_its_way.submitting_at is None) == (TaskStatus.QUEUED, False)
        return json_answer({"success": True, "task_id": "theirs"})

    acedata.replies[EDITS] = reply
    run_next(linked, Kind.SUBMIT)

    (asked,) = acedata.asked(EDITS)
    token = asked.json["callback_url"].removeprefix(f"{PUBLIC_URL}/callbacks/")
    assert linked.signing.read_callback_token(token) == CallbackToken("acedata", task.id)
    # The provider is told our id, and nothing that was meant for us.
    assert {name: asked.json[name] for name in asked.json if name != "callback_url"} == {
        "image": "https://example.com/photo.png",
        "prompt": "make it sepia",
        "model": "gpt-image-2",
        "seed": 7,
        "trace_id": str(task.id),
    }
    assert asked.headers["Authorization"] == "Bearer our key at acedata"
    assert asked.headers["Content-Type"] == asked.headers["Accept"] == "application/json"
    submitted = get_task(linked, task.id)
    assert (submitted.status, submitted.provider_task_id) == (TaskStatus.SUBMITTED, "theirs")
    assert (submitted.submitted_at is not None, submitted.submitting_at) == (True, None)
    assert submitted.ask_at is not None
    assert timeline(linked, task) == ["created", "submitting", "submitted"]
    assert due_kinds(linked) == []


def test_an_answer_with_the_result_is_taken_in_at_once(
    linked_sqlite: Services, acedata: Site
) -> None:
    acedata.replies[EDITS] = json_answer(success(task_id="theirs"))
    task = make_task(linked_sqlite)

    run_next(linked_sqlite, Kind.SUBMIT)

    task = get_task(linked_sqlite, task.id)
    assert (task.status, task.submitting_at) == (TaskStatus.RECEIVED, None)
    assert [each.source for each in callbacks_of(linked_sqlite, task)] == [Source.RESPONSE]
    assert due_kinds(linked_sqlite) == ["ingest"]


@pytest.mark.parametrize(
    ("answer", "tries", "error"),
    [
        (json_answer(NO_CREDIT, 403), 1, ("used_up", "no credit", 403)),
        (json_answer(TOO_MANY, 429), 6, ("too_many_requests", "slowly", 429)),
    ],
    ids=["at once when it is for good", "after the last try when it is for now"],
)
def test_a_refusal_ends_the_task_with_the_providers_code(
    linked_sqlite: Services, acedata: Site, answer: Answer, tries: int, error: tuple[Any, ...]
) -> None:
    acedata.replies[EDITS] = answer
    task = make_task(linked_sqlite)
    for _ in range(tries):
        assert get_task(linked_sqlite, task.id).status is TaskStatus.QUEUED
        assert isinstance(fail_next(linked_sqlite, Kind.SUBMIT), ProviderError)

    task = get_task(linked_sqlite, task.id)
    assert (task.status, task.submitting_at) == (TaskStatus.FAILED, None)
    assert (task.error_code, task.error_message, task.error_status) == error
    refusals = ["submitting", "refused"] * (tries - 1)
    assert timeline(linked_sqlite, task) == ["created", *refusals, "submitting", "failed"]
    assert len(acedata.asked(EDITS)) == tries
    assert due_kinds(linked_sqlite) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refusal_for_now_is_sent_again_when_the_provider_wants_it(
    linked_sqlite: Services, acedata: Site, status: int
) -> None:
    acedata.replies[EDITS] = json_answer(BROKEN, status, Retry_After="77")
    task = make_task(linked_sqlite)
    error = fail_next(linked_sqlite, Kind.SUBMIT)

    decision = jobs.decide(jobs.POLICIES[Kind.SUBMIT], 0, error)
    assert decision == jobs.Retry(77.0, counts=True)
    refused = get_task(linked_sqlite, task.id)
    assert (refused.status, refused.submitting_at) == (TaskStatus.QUEUED, None)
    assert timeline(linked_sqlite, task) == ["created", "submitting", "refused"]
    acedata.replies[EDITS] = json_answer({"task_id": "theirs"})
    run_next(linked_sqlite, Kind.SUBMIT)
    assert get_task(linked_sqlite, task.id).status is TaskStatus.SUBMITTED
    assert len(acedata.asked(EDITS)) == 2


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, b"Internal Server Error"),
        Answer(502, b"<html>Bad Gateway</html>"),
        json_answer({"error": {"code": "timeout", "message": "too long"}}, 504),
        Answer(cut=True),
        json_answer({"success": True}),
        # A result that cannot be read left the task queued for ever.
        Answer(body=b'{"data": [{"url": "https://a.test/1"}], "usage": {"tokens": NaN}}'),
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
    sqlite_parts: Services,
) -> None:
    port = ReservedPort()
    parts = reconfigured(sqlite_parts, acedata_base_url=f"http://127.0.0.1:{port.number}")
    task = make_task(parts)

    assert isinstance(fail_next(parts, Kind.SUBMIT), NotSentError)

    port.release()
    task = get_task(parts, task.id)
    assert (task.status, task.submitting_at) == (TaskStatus.QUEUED, None)
    assert timeline(parts, task) == ["created", "submitting", "refused"]
    assert due_kinds(parts) == ["submit"]


@pytest.mark.parametrize(
    ("answer", "failures"),
    [
        (json_answer({"task_id": "theirs"}), 0),
        (json_answer(success(task_id="theirs")), 0),
        (json_answer(NO_CREDIT, 403), 0),
        (json_answer(BROKEN, 500), FAILURES_IN_A_ROW),
        (Answer(502), FAILURES_IN_A_ROW),
        (Answer(cut=True), FAILURES_IN_A_ROW),
    ],
)
def test_a_provider_that_is_away_is_left_alone(
    linked_sqlite: Services, acedata: Site, answer: Answer, failures: int
) -> None:
    acedata.replies[EDITS] = answer
    task = make_task(linked_sqlite)
    with linked_sqlite.db.transaction() as session:
        for _ in range(FAILURES_IN_A_ROW - 1):
            circuits.failed(session, "submit:acedata", "away", after=FAILURES_IN_A_ROW)

    if answer.status in {403, 500}:
        fail_next(linked_sqlite, Kind.SUBMIT)
    else:
        run_next(linked_sqlite, Kind.SUBMIT)

    with linked_sqlite.db.reading() as session:
        assert session.scalar(select(Circuit.failures)) == failures
        assert len(circuits.open_ones(session)) == (failures > 0)
        detail = session.scalar(select(Event.detail).filter_by(event="refused", task_id=task.id))
        assert detail is None or 8 <= detail["provider_paused_seconds"] <= 12


def test_an_unexpected_error_after_sending_makes_the_task_uncertain(
    linked_sqlite: Services, acedata: Site
) -> None:
    class Confused(AceData):
        """A provider with a bug in it."""

        def read_submission(self, response: Response) -> Submission:
            raise KeyError(f"a bug: {response.status}")

    acedata.replies[EDITS] = json_answer({"task_id": "theirs"})
    confused = Confused(Credentials(acedata.url, None))
    task = make_task(linked_sqlite)

    run_next(replace(linked_sqlite, providers={"acedata": confused}), Kind.SUBMIT)

    assert get_task(linked_sqlite, task.id).status is TaskStatus.UNCERTAIN


@pytest.mark.parametrize(
    ("answer", "payload", "status"),
    [
        (json_answer({"task_id": "theirs"}), success(task_id="theirs"), TaskStatus.RECEIVED),
        (Answer(cut=True), failure(), TaskStatus.FAILED),
        (json_answer(TOO_MANY, 429), failure(), TaskStatus.FAILED),
    ],
    ids=["an acceptance", "silence", "a refusal"],
)
def test_a_callback_that_came_first_stays_what_counts_whatever_the_answer(
    linked_sqlite: Services,
    acedata: Site,
    answer: Answer,
    payload: dict[str, Any],
    status: TaskStatus,
) -> None:
    task = make_task(linked_sqlite)

    def call_back_first(_: Asked) -> Answer:
        take(linked_sqlite, task, payload)
        return answer

    acedata.replies[EDITS] = call_back_first
    if answer.status == 429:
        fail_next(linked_sqlite, Kind.SUBMIT)
    run_next(linked_sqlite, Kind.SUBMIT)

    task = get_task(linked_sqlite, task.id)
    accepted = status is TaskStatus.RECEIVED
    assert (task.status, task.submitting_at) == (status, None)
    # Who calls back has got the request.
    assert task.submitted_at is not None
    events = ["received", "submitted"] if accepted else ["failed"]
    assert timeline(linked_sqlite, task) == ["created", "submitting", *events]
    assert len(acedata.asked(EDITS)) == 1


def test_two_names_for_one_task_are_told_in_the_timeline(sqlite_parts: Services) -> None:
    task = make_task(sqlite_parts, columns={"provider_task_id": "from the callback"})
    with sqlite_parts.db.transaction() as session:
        row = tasks.lock(session, task.id)
        tasks.submitted(session, row, "from the answer", ask_after=60)
    assert get_task(sqlite_parts, task.id).provider_task_id == "from the answer"
    with sqlite_parts.db.reading() as session:
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


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_worker_whose_lease_is_over_does_not_send(
    linked: Services, acedata: Site, taken_over: bool
) -> None:
    task = make_task(linked)
    job = claim(linked, Kind.SUBMIT)
    if taken_over:
        with linked.db.transaction() as session:
            session.execute(update(JobRow).values(lease_token=UUID(int=1), due_at=db_now(30)))
    else:
        job = replace(job, lease=Lease(expires_at=time.monotonic() - 1))

    with pytest.raises(LeaseLostError):
        edits.submit(linked, job)

    assert acedata.asked(EDITS) == []
    # Nobody knows better in the second case: whoever takes the job over finds out.
    assert (get_task(linked, task.id).submitting_at is None) == taken_over


@pytest.mark.parametrize(
    ("begun", "answered", "status", "sent"),
    [
        (None, False, TaskStatus.SUBMITTED, 1),
        (db_now(), False, TaskStatus.UNCERTAIN, 0),
        (db_now(), True, TaskStatus.RECEIVED, 0),
    ],
    ids=["had not begun", "had begun", "had begun and its result is there"],
)
def test_a_lost_submission_is_sent_only_if_it(
    linked: Services, acedata: Site, begun: Any, answered: bool, status: TaskStatus, sent: int
) -> None:
    acedata.replies[EDITS] = json_answer({"task_id": "theirs"})
    task = make_task(linked, columns={"submitting_at": begun})
    if answered:
        take(linked, task, success())
    # It is taken over from a worker that went silent.
    claim(linked, Kind.SUBMIT, seconds=0)
    job = claim(linked, Kind.SUBMIT)
    assert job.lost

    conclude(linked, job, edits.submission_lost(linked, job))

    assert get_task(linked, task.id).status is status
    assert get_task(linked, task.id).submitting_at is None
    assert ("uncertain" in timeline(linked, task)) == (status is TaskStatus.UNCERTAIN)
    # The worker was at fault, not the provider.
    with linked.db.reading() as session:
        assert session.scalar(select(Circuit.failures)) is None
    assert len(acedata.asked(EDITS)) == sent
    assert due_kinds(linked) == (["ingest"] if answered else [])


def test_two_workers_that_have_the_same_job_send_it_once(linked: Services, acedata: Site) -> None:
    acedata.replies[EDITS] = json_answer({"task_id": "theirs"})
    make_task(linked)
    first = claim(linked, Kind.SUBMIT, seconds=0)
    second = claim(linked, Kind.SUBMIT)

    def work(job: Job) -> str:
        try:
            conclude(linked, job, edits.submit(linked, job))
        except LeaseLostError:
            return "lost"
        return "done"

    assert sorted(at_once(partial(work, first), partial(work, second))) == ["done", "lost"]
    assert len(acedata.asked(EDITS)) == 1


def test_a_job_without_a_task_is_a_bug(sqlite_parts: Services) -> None:
    with sqlite_parts.db.transaction() as session:
        jobs.enqueue(session, jobs.New(Kind.SUBMIT, provider="acedata"))
    with pytest.raises(ValueError, match="names no task"):
        run_next(sqlite_parts, Kind.SUBMIT)
