"""One delivery: signed, sent, kept, tried again by the schedule, given up."""

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import standardwebhooks
import svix
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import jobs, retention
from app.circuits import FAILURES_IN_A_ROW
from app.columns import db_now
from app.events import Happened
from app.jobs import Again, Conclusion, Job, Kind
from app.models import Circuit, Delivery, DeliveryStatus, Endpoint, Message, first_id, new_id
from app.models import Job as JobRow
from app.outbound import Outbound
from app.push import deliveries as module
from app.push import endpoints
from app.services import Services
from tests.core.sites import Answer, Asked, Site
from tests.factories import (
    claim,
    conclude,
    due_kinds,
    eventually,
    failure,
    make_task,
    reconfigured,
    run_next,
    somebody_waits,
    take,
)
from tests.subscribers import (
    ACTOR,
    deliver_next,
    deliveries,
    get_endpoint,
    happen,
    make_endpoint,
    relay_all,
    shown,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def send_one(parts: Services, endpoint: Endpoint) -> None:
    """Have one event on its way to the endpoint."""
    happen(parts, make_task(parts), Happened.SUBMITTED)
    relay_all(parts)
    assert deliveries(parts)[-1].endpoint_id == endpoint.id


def hasten(parts: Services) -> None:
    """Let the time pass until the next attempt."""
    with parts.db.transaction() as session:
        session.execute(update(JobRow).where(JobRow.kind == Kind.DELIVER).values(due_at=db_now()))


def attempted(parts: Services) -> tuple[Job, Conclusion]:
    """The next job, whose attempt was made, and what is left to write of it."""
    job = claim(parts, Kind.DELIVER)
    ending = module.deliver(parts, job)
    conclusion = ending.conclude if isinstance(ending, Again) else ending
    assert conclusion
    return job, conclusion


def planned(delivery: Mapping[str, Any]) -> float:
    """How many seconds after the last attempt the next one is due."""
    last = delivery["attempts"][-1]
    ended = datetime.fromisoformat(last["at"]) + timedelta(milliseconds=last["duration_ms"])
    return (datetime.fromisoformat(delivery["next_attempt_at"]) - ended).total_seconds()


def asked(host: Site, path: str = "/hook") -> list[Asked]:
    return host.asked(path)


def verify(secret: str, request: Asked) -> Any:
    """What the stock libraries give for a request, which they must find genuine."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    svix.Webhook(secret).verify(request.body, headers)
    return standardwebhooks.Webhook(secret).verify(request.body, headers)


def test_what_is_delivered_is_signed_and_the_attempt_is_kept(parts: Services, host: Site) -> None:
    endpoint = make_endpoint(parts, host.serve("/hook", b"thanks"))
    send_one(parts, endpoint)
    delivery = deliver_next(parts)

    (request,) = asked(host)
    assert verify(endpoint.secret, request)["type"] == "task.submitted"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["webhook-id"] == delivery["event_id"]
    assert (delivery["status"], delivery["next_attempt_at"]) == ("delivered", None)
    (attempt,) = delivery["attempts"]
    assert (attempt["status"], attempt["response"], attempt["error"]) == (200, "thanks", None)
    assert 0 <= attempt["duration_ms"] < 5000
    assert Kind.DELIVER not in due_kinds(parts)


def test_each_secret_signs_for_a_day_after_it_was_rotated_away(
    sqlite_parts: Services, host: Site
) -> None:
    endpoint = make_endpoint(sqlite_parts, host.serve("/hook", b""))

    def change(act: Callable[[Session, Endpoint], Any]) -> Any:
        with sqlite_parts.db.transaction() as session:
            return act(session, session.get_one(Endpoint, endpoint.id))

    def pass_time(_: Session, row: Endpoint) -> None:
        (second, until), (first, _until) = row.previous_secrets
        assert 86_000 < until - time.time() < 86_401
        row.previous_secrets = [[second, until], [first, time.time() - 1]]

    rotate = partial(endpoints.rotate_secret, actor=ACTOR)
    secrets = [endpoint.secret, change(rotate), change(rotate)]
    send_one(sqlite_parts, endpoint)
    deliver_next(sqlite_parts)
    change(pass_time)
    send_one(sqlite_parts, endpoint)
    deliver_next(sqlite_parts)

    during, after = asked(host)
    assert all(verify(secret, during) for secret in secrets)
    assert all(verify(secret, after) for secret in secrets[1:])
    with pytest.raises(svix.WebhookVerificationError):
        verify(secrets[0], after)


@pytest.mark.parametrize("secret", [SECRET, None])
def test_a_tasks_own_callback_is_signed_with_the_setting(
    sqlite_parts: Services, host: Site, secret: str | None
) -> None:
    parts = reconfigured(sqlite_parts, webhook_secret=secret)
    take(parts, make_task(parts, callback_url=host.serve("/mine", b"")), failure())
    relay_all(parts)
    assert deliver_next(parts)["status"] == "delivered"

    (request,) = asked(host, "/mine")
    assert request.json["success"] is False
    if secret:
        assert verify(secret, request) == request.json
    else:
        assert "webhook-signature" not in request.headers
    assert request.headers["webhook-id"]


def test_it_is_tried_again_by_the_schedule_with_the_same_bytes_and_then_given_up(
    parts: Services, host: Site
) -> None:
    host.replies["/hook"] = Answer(500, b"no")
    endpoint = make_endpoint(parts, f"{host.url}/hook")
    send_one(parts, endpoint)
    for pause in (5, 300, 1800, 7200, 18000, 36000, 36000):
        delivery = deliver_next(parts)
        assert delivery["status"] == "pending"
        assert 0.79 * pause < planned(delivery) < 1.21 * pause
        hasten(parts)
    delivery = deliver_next(parts)

    assert (delivery["status"], delivery["next_attempt_at"]) == ("failed", None)
    assert [attempt["status"] for attempt in delivery["attempts"]] == [500] * 8
    assert len({(each.body, each.headers["webhook-id"]) for each in asked(host)}) == 1
    assert verify(endpoint.secret, asked(host)[-1])
    assert Kind.DELIVER not in due_kinds(parts)


@pytest.mark.parametrize("pauses", [(1.0,), (1.0, 36_000.0)], ids=["the last", "the last but one"])
@pytest.mark.parametrize("arrives", [False, True], ids=["fails", "arrives"])
def test_what_is_asked_for_again_during_an_attempt_is_sent_unless_that_arrives(
    parts: Services, host: Site, pauses: tuple[float, ...], arrives: bool
) -> None:
    parts = reconfigured(parts, delivery_schedule=pauses)
    endpoint = make_endpoint(parts, host.serve("/hook", b"", status=500))
    send_one(parts, endpoint)
    deliver_next(parts)
    hasten(parts)
    job = claim(parts, Kind.DELIVER)
    if arrives:
        host.serve("/hook", b"")
    under_way = module.deliver(parts, job)
    with parts.db.transaction() as session:
        endpoints.retry(session, session.get_one(Delivery, job.subject_id), ACTOR)
    conclude(parts, job, under_way)

    if not arrives:
        host.serve("/hook", b"")
        run_next(parts, Kind.DELIVER)
    (delivery,) = shown(parts)
    assert (delivery["status"], delivery["next_attempt_at"]) == ("delivered", None)
    statuses = [attempt["status"] for attempt in delivery["attempts"]]
    assert statuses == ([500, 200] if arrives else [500, 500, 200])
    assert Kind.DELIVER not in due_kinds(parts)


def test_what_is_asked_for_again_as_its_last_attempt_ends_is_sent(
    postgres_parts: Services, host: Site
) -> None:
    parts = reconfigured(postgres_parts, delivery_schedule=(1.0,))
    send_one(parts, make_endpoint(parts, host.serve("/hook", b"", status=500)))
    deliver_next(parts)
    hasten(parts)
    job, conclusion = attempted(parts)

    def ask() -> None:
        with parts.db.transaction() as session:
            endpoints.retry(session, session.get_one(Delivery, job.subject_id), ACTOR)

    with ThreadPoolExecutor() as pool:
        with parts.db.transaction() as session:
            jobs.finish(session, job)
            conclusion(session)
            asking = pool.submit(ask)
            eventually(lambda: somebody_waits(parts))
        asking.result()
    host.serve("/hook", b"")
    assert deliver_next(parts)["status"] == "delivered"


def test_an_endpoint_is_changed_while_an_attempt_at_it_is_written_down(
    postgres_parts: Services, host: Site
) -> None:
    parts = postgres_parts
    endpoint = make_endpoint(parts, host.serve("/hook", b"", status=500))
    send_one(parts, endpoint)
    deliver_next(parts)
    hasten(parts)
    host.serve("/hook", b"")
    _, conclusion = attempted(parts)

    def change() -> None:
        with parts.db.transaction() as session:
            found = session.get_one(Endpoint, endpoint.id)
            endpoints.change(session, found, {"enabled": True, "description": "new"}, ACTOR)

    with ThreadPoolExecutor() as pool:
        with parts.db.transaction() as session:
            conclusion(session)
            changing = pool.submit(change)
            eventually(lambda: somebody_waits(parts))
        changing.result()
    now = get_endpoint(parts, endpoint)
    assert (now.description, now.failing_since) == ("new", None)


def test_an_endpoint_is_deleted_while_an_attempt_at_it_is_written_down(
    postgres_parts: Services, host: Site
) -> None:
    parts = postgres_parts
    endpoint = make_endpoint(parts, host.serve("/hook", b"thanks"))
    send_one(parts, endpoint)
    send_one(parts, endpoint)
    first, second = deliveries(parts)
    deliver_next(parts)
    job, conclusion = attempted(parts)
    assert job.subject_id == second.id

    def delete() -> None:
        with parts.db.transaction() as session:
            endpoints.delete(session, session.get_one(Endpoint, endpoint.id), ACTOR)

    with ThreadPoolExecutor() as pool:
        with parts.db.transaction() as session:
            # The endpoint's first delivery is busy, so that deleting stops in the middle.
            session.get_one(Delivery, first.id, with_for_update=True)
            deleting = pool.submit(delete)
            eventually(lambda: somebody_waits(parts))
            writing = pool.submit(conclude, parts, job, conclusion)
            eventually(lambda: somebody_waits(parts, 2))
        deleting.result()
        writing.result()
    assert deliveries(parts) == []


def test_retry_after_is_honoured_and_redirects_are_not_followed(
    sqlite_parts: Services, host: Site
) -> None:
    headers = {"Retry-After": "600", "Location": host.serve("/elsewhere", b"")}
    host.replies["/hook"] = Answer(302, b"over there", headers)
    send_one(sqlite_parts, make_endpoint(sqlite_parts, f"{host.url}/hook"))
    delivery = deliver_next(sqlite_parts)

    assert [attempt["status"] for attempt in delivery["attempts"]] == [302]
    assert 599 < planned(delivery) < 601
    assert asked(host, "/elsewhere") == []


def test_what_does_not_come_to_an_answer_is_kept_as_an_error(
    sqlite_parts: Services, host: Site
) -> None:
    host.replies["/hook"] = Answer(cut=True)
    parts = sqlite_parts
    send_one(parts, make_endpoint(parts, f"{host.url}/hook"))
    (attempt,) = deliver_next(parts)["attempts"]
    assert (attempt["status"], attempt["response"]) == (None, None)
    assert re.fullmatch(r"The connection to 127.0.0.1:\d+ was lost", attempt["error"])


def test_the_guard_looks_at_every_delivery(sqlite_parts: Services) -> None:
    """The name was public when the endpoint was saved, and is private by now."""
    addresses = ["93.184.215.14"]
    parts = reconfigured(sqlite_parts, allow_private_hosts=())
    object.__setattr__(parts, "outbound", Outbound(resolve=lambda _host: addresses))
    endpoints.check(parts, {"url": "http://rebound.example/hook"})
    endpoint = make_endpoint(parts, "http://rebound.example/hook")
    addresses[:] = ["169.254.169.254"]
    send_one(parts, endpoint)
    delivery = deliver_next(parts)
    assert delivery["status"] == "pending"
    assert "refused" in delivery["attempts"][0]["error"]


def test_a_long_answer_is_read_no_further_than_it_is_kept(
    sqlite_parts: Services, host: Site
) -> None:
    long = b"\xff" * 10 * 2**20
    endpoint = make_endpoint(sqlite_parts, host.serve("/hook", long))
    send_one(sqlite_parts, endpoint)
    delivery = deliver_next(sqlite_parts)
    assert delivery["status"] == "delivered"
    assert delivery["attempts"][0]["response"] == "\ufffd" * 4096


def test_who_is_gone_is_told_nothing_more(parts: Services, host: Site) -> None:
    host.replies["/hook"] = Answer(410)
    endpoint = make_endpoint(parts, f"{host.url}/hook")
    send_one(parts, endpoint)
    send_one(parts, endpoint)
    assert deliver_next(parts)["status"] == "pending"
    now = get_endpoint(parts, endpoint)
    assert (now.enabled, now.disabled_reason) == (False, "it answered 410: it wants no more")
    assert now.disabled_at is not None
    run_next(parts, Kind.DELIVER)

    assert [(each["status"], len(each["attempts"])) for each in shown(parts)] == [
        ("failed", 1),
        ("failed", 0),
    ]
    assert len(asked(host)) == 1


def test_days_of_nothing_but_failure_disable_an_endpoint(
    sqlite_parts: Services, host: Site
) -> None:
    parts = sqlite_parts
    endpoint = make_endpoint(parts, host.serve("/hook", b"", status=503))

    def attempt(failing_for: timedelta | None) -> Endpoint:
        since = failing_for and datetime.now(UTC) - failing_for
        with parts.db.transaction() as session:
            session.execute(update(Endpoint).values(failing_since=since))
        send_one(parts, endpoint)
        run_next(parts, Kind.DELIVER)
        return get_endpoint(parts, endpoint)

    assert attempt(None).failing_since is not None
    assert attempt(timedelta(days=4, hours=23)).enabled
    host.serve("/hook", b"")
    assert attempt(timedelta(days=6)).failing_since is None
    host.serve("/hook", b"", status=503)
    disabled = attempt(timedelta(days=5, hours=1))
    assert not disabled.enabled
    assert disabled.disabled_reason == "nothing but failure for 5 days; the last: it answered 503"


@pytest.mark.parametrize("gone", [True, False], ids=["endpoint gone", "already delivered"])
def test_a_job_without_a_purpose_does_nothing(
    sqlite_parts: Services, host: Site, gone: bool
) -> None:
    endpoint = make_endpoint(sqlite_parts, host.serve("/hook", b""))
    send_one(sqlite_parts, endpoint)
    job = claim(sqlite_parts, Kind.DELIVER)
    with sqlite_parts.db.transaction() as session:
        if gone:
            session.delete(session.get_one(Endpoint, endpoint.id))
        else:
            session.execute(update(Delivery).values(status=DeliveryStatus.DELIVERED))
    conclude(sqlite_parts, job, module.deliver(sqlite_parts, job))
    assert asked(host) == []


def test_a_fault_of_this_program_leaves_what_can_be_asked_for_again(
    sqlite_parts: Services,
) -> None:
    send_one(sqlite_parts, make_endpoint(sqlite_parts))
    job = claim(sqlite_parts, Kind.DELIVER)
    with sqlite_parts.db.transaction() as session:
        module.delivery_failed(session, job, ValueError(), False)
    assert shown(sqlite_parts)[0]["status"] == "pending"
    with sqlite_parts.db.transaction() as session:
        module.delivery_failed(session, job, ValueError(), True)
    assert shown(sqlite_parts)[0]["status"] == "failed"


def test_what_was_sent_long_ago_is_forgotten_but_not_that_it_was(
    parts: Services, host: Site
) -> None:
    endpoint = make_endpoint(parts, host.serve("/hook", b"thanks"))

    def age(message_id: str) -> None:
        old = first_id(datetime.now(UTC) - timedelta(days=31)).int | (new_id().int & 2**62 - 1)
        with parts.db.transaction() as session:
            message = session.get_one(Message, UUID(message_id))
            columns = {name: getattr(message, name) for name in ("task_id", "type", "body")}
            session.add(Message(id=UUID(int=old), **columns))
            session.flush()
            moved = update(Delivery).where(Delivery.message_id == message.id)
            session.execute(moved.values(message_id=UUID(int=old)))
            session.delete(message)

    for _ in range(2):
        send_one(parts, endpoint)
        age(deliver_next(parts)["event_id"])
    with parts.db.transaction() as session:
        endpoints.test(parts, session, session.get_one(Endpoint, endpoint.id), ACTOR)
    age(deliver_next(parts)["event_id"])
    with parts.db.transaction() as session:
        # As if it were to be sent again.
        module.send_again(session, [session.get_one(Delivery, deliveries(parts)[1].id)])
    retention.purge(parts)

    first, again = shown(parts)
    assert (first["status"], again["status"]) == ("delivered", "pending")
    assert [each["attempts"][0]["response"] for each in (first, again)] == [None, "thanks"]


def fail_for_long(parts: Services) -> None:
    """Attempts fail, the first of them so long ago that patience is over."""
    for _ in range(FAILURES_IN_A_ROW):
        hasten(parts)
        deliver_next(parts)
        with parts.db.transaction() as session:
            long_ago = db_now(-module.PATIENCE_SECONDS)
            session.execute(update(Circuit).values(failing_since=long_ago))


def test_the_schedule_alone_says_when_who_fails_is_tried_again(parts: Services, host: Site) -> None:
    host.replies["/hook"] = Answer(500)
    endpoint = make_endpoint(parts, f"{host.url}/hook")
    for _ in range(3):
        send_one(parts, endpoint)
    for _ in range(2 * FAILURES_IN_A_ROW):
        hasten(parts)
        deliver_next(parts)
    hasten(parts)
    with parts.db.reading() as session:
        due = jobs.due_queues(session)
    assert jobs.Due(f"deliver:{endpoint.id}", probe=False) in due


@pytest.mark.parametrize(
    ("answer", "open_"),
    [
        (Answer(503), True),
        (Answer(cut=True), True),
        (Answer(404), False),
        (Answer(429, headers={"Retry-After": "600"}), True),
    ],
    ids=["503", "cut", "404", "429"],
)
def test_who_is_away_is_left_alone_for_no_longer_than_the_schedule_has_pauses(
    sqlite_parts: Services, host: Site, answer: Answer, open_: bool
) -> None:
    parts = reconfigured(sqlite_parts, delivery_schedule=(1.0,) * 9)
    host.replies["/hook"] = answer
    endpoint = make_endpoint(parts, f"{host.url}/hook")
    send_one(parts, endpoint)
    fail_for_long(parts)
    with parts.db.reading() as session:
        (queue,) = session.scalars(select(JobRow.queue).filter_by(kind=Kind.DELIVER))
        circuit = session.get(Circuit, queue)
    assert queue == f"deliver:{endpoint.id}"
    assert (circuit is not None and circuit.open_until is not None) == open_
    if circuit and circuit.open_until:
        assert circuit.open_until - datetime.now(UTC) < timedelta(seconds=1.2)

    host.serve("/hook", b"")
    hasten(parts)
    assert deliver_next(parts)["status"] == "delivered"
    with parts.db.reading() as session:
        assert session.scalars(select(Circuit).where(Circuit.failures > 0)).all() == []
