"""One message on its way to one subscriber: signed, sent, tried again by the schedule, given up."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, insert, or_, select, update
from sqlalchemy.orm import Session

from app import circuits, jobs
from app.columns import db_now
from app.db import notify
from app.jobs import Again, Ending, Job, Kind
from app.models import Attempt, Circuit, Delivery, DeliveryStatus, Endpoint, Message
from app.models import Job as JobRow
from app.push import attempts, rotations
from app.push.attempts import Tried
from app.services import Services

log = structlog.get_logger()

JITTER = 0.2
FAILING_DAYS = 5
# Until then the schedule alone says when who fails is tried again.  After that nobody is left alone for
# longer than this, and than the schedule's own pauses.
PATIENCE_SECONDS = 300.0
LONGEST_CIRCUIT_SECONDS = 60.0
GONE = 410
TOO_MANY = 429
SERVER_ERRORS = 500


@dataclass(frozen=True)
class _Letter:
    """What there is to send, and to whom, as it was before the attempt.

    `doubted` is whether others in its queue have failed lately.
    """

    delivery: Delivery
    message: Message
    endpoint: Endpoint | None
    queue: str
    doubted: bool

    @property
    def url(self) -> str:
        return (self.delivery.url or "") if self.endpoint is None else self.endpoint.url

    @property
    def is_unwanted(self) -> bool:
        """Whether its endpoint is disabled; a test is for finding out if it can be enabled again."""
        disabled = self.endpoint is not None and not self.endpoint.enabled
        return disabled and self.message.task_id is not None


def job_for(
    delivery_id: UUID, endpoint_id: UUID | None, task_id: UUID | None, url: str | None
) -> jobs.New:
    """The job of a delivery, in the queue of its endpoint, or of the host that `url` names.

    So who is dead delays nobody else.
    """
    queue = queue_of(endpoint_id or urlsplit(url or "").netloc.lower())
    return jobs.New(Kind.DELIVER, task_id, delivery_id, queue=queue)


def queue_of(whom: UUID | str) -> str:
    """The queue of what is sent to an endpoint or a host."""
    return jobs.queue_of(Kind.DELIVER, str(whom))


def deliver(services: Services, job: Job) -> Ending:
    """Make one attempt; what came of it is the conclusion, and maybe that there is to be another."""
    with services.db.reading() as session:
        letter = _load(session, job)
    if letter is None:
        return None
    if letter.message.body is None or letter.is_unwanted:
        return partial(_give_up, letter.delivery.id)
    id_, secrets = str(letter.message.id), _secrets(services, letter.endpoint)
    tried = attempts.post(services.outbound, letter.url, id_, letter.message.body, secrets)
    pause = _pause(services, letter.delivery.tries, tried)
    conclude = partial(_conclude, services, letter, tried, pause)
    return conclude if pause is None else Again(pause, conclude)


def delivery_failed(session: Session, job: Job, _error: BaseException, final: bool) -> None:
    """Only a fault of this program leads here: the delivery can be asked for again."""
    delivery = session.get(Delivery, job.subject_id)
    if final and delivery is not None:
        _give_up(delivery.id, session)


def send_again(session: Session, deliveries: Sequence[Delivery]) -> None:
    """Begin with these at once and with the whole schedule, whatever came of them before.

    Writes to the database, not to the objects.
    """
    ids = {delivery.id for delivery in deliveries}
    # All columns, whatever the objects say: an attempt may have ended since they were read.
    begun = {"status": DeliveryStatus.PENDING, "tries": 0, "delivered_at": None}
    anew = update(Delivery).where(Delivery.id.in_(ids)).values(next_attempt_at=db_now(), **begun)
    session.execute(anew.execution_options(synchronize_session=False))
    named = JobRow.task_id.in_({delivery.task_id for delivery in deliveries})
    theirs = (or_(named, JobRow.task_id.is_(None)), JobRow.subject_id.in_(ids))
    hurried = update(JobRow).where(*theirs, JobRow.lease_token.is_(None)).values(due_at=db_now())
    session.execute(hurried.execution_options(synchronize_session=False))
    planned = set(session.scalars(select(JobRow.subject_id).where(*theirs)))
    jobs.enqueue(
        session,
        *(
            job_for(each.id, each.endpoint_id, each.task_id, each.url)
            for each in deliveries
            if each.id not in planned
        ),
    )
    notify(session, jobs.CHANNEL)


def _load(session: Session, job: Job) -> _Letter | None:
    """What the job is to send; None when that is gone, or nobody waits for it any more."""
    found = session.execute(
        select(Delivery, Message, Endpoint, Circuit.failures)
        .join(Message, Message.id == Delivery.message_id)
        .outerjoin(Endpoint, Endpoint.id == Delivery.endpoint_id)
        .outerjoin(Circuit, Circuit.name == job.queue)
        .where(Delivery.id == job.subject_id, Delivery.status == DeliveryStatus.PENDING)
    ).one_or_none()
    return found and _Letter(found[0], found[1], found[2], job.queue, doubted=bool(found[3]))


def _secrets(services: Services, endpoint: Endpoint | None) -> list[str]:
    if endpoint is None:
        secret = services.config.webhook_secret
        return [secret] if secret else []
    return [endpoint.secret, *rotations.still_signing(endpoint)]


def _pause(services: Services, tries: int, tried: Tried) -> float | None:
    """How many seconds until the next attempt, if there is to be one; `tries` were made before."""
    schedule = services.config.delivery_schedule
    if tried.succeeded or tried.status == GONE or tries >= len(schedule):
        return None
    pause = schedule[tries] * random.uniform(1 - JITTER, 1 + JITTER)
    return max(pause, tried.retry_after or 0)


def _conclude(
    services: Services, letter: _Letter, tried: Tried, pause: float | None, session: Session
) -> None:
    delivery = letter.delivery
    # In few statements: there is one such transaction for each attempt.
    changed = update(Delivery).where(Delivery.id == delivery.id, *_kept(letter.endpoint))
    changed = changed.values(_state(tried, pause)).returning(Delivery.tries)
    tries = session.scalar(changed.execution_options(synchronize_session=False))
    if tries is None:
        return
    session.execute(insert(Attempt).values(_attempt(delivery, tried)))
    if tries <= delivery.tries and not tried.succeeded:
        # Somebody has asked for it again meanwhile, and took this job for the one that is to do it.
        send_again(session, [delivery])
    if letter.doubted or not tried.succeeded:
        _judge_host(services, session, letter.queue, tried)
    endpoint = letter.endpoint
    if endpoint is not None and (endpoint.failing_since or not tried.succeeded):
        _judge(session.get_one(Endpoint, endpoint.id), tried)
    log.info(
        "delivery",
        action="deliver",
        delivery=str(delivery.id),
        status=tried.status,
        error=tried.error,
        attempt=delivery.tries + 1,
    )


def _kept(endpoint: Endpoint | None) -> list[ColumnElement[bool]]:
    """That the endpoint is there, and stays until the transaction ends.

    It is locked before its delivery, as by whoever deletes it: else they could deadlock.
    """
    if endpoint is None:
        return []
    there = select(Endpoint.id).where(Endpoint.id == endpoint.id)
    there = there.with_for_update(read=True, key_share=True)
    return [there.scalar_subquery().is_not(None)]


def _state(tried: Tried, pause: float | None) -> dict[str, Any]:
    """What a delivery is after an attempt."""
    values: dict[str, Any] = {"tries": Delivery.tries + 1, "next_attempt_at": None}
    if tried.succeeded:
        return {**values, "status": DeliveryStatus.DELIVERED, "delivered_at": db_now()}
    if pause is None:
        return {**values, "status": DeliveryStatus.FAILED}
    return {**values, "next_attempt_at": db_now(pause)}


def _attempt(delivery: Delivery, tried: Tried) -> dict[str, Any]:
    return {
        "delivery_id": delivery.id,
        "endpoint_id": delivery.endpoint_id,
        "at": db_now(-tried.seconds),
        "status": tried.status,
        "duration_ms": round(tried.seconds * 1000),
        "response": tried.response,
        "error": tried.error,
    }


def _judge_host(services: Services, session: Session, queue: str, tried: Tried) -> None:
    """What an attempt says of all others: they wait for who is away, without using up theirs."""
    longest = min(LONGEST_CIRCUIT_SECONDS, max(services.config.delivery_schedule))
    if tried.status is None or tried.status >= SERVER_ERRORS:
        circuits.failed(session, queue, tried.reason, patience=PATIENCE_SECONDS, longest=longest)
    elif tried.status == TOO_MANY and tried.retry_after:
        circuits.rest(session, queue, tried.reason, min(longest, tried.retry_after))
    else:
        circuits.succeeded(session, queue)


def _give_up(id_: UUID, session: Session) -> None:
    given_up = update(Delivery).where(Delivery.id == id_)
    session.execute(given_up.values(status=DeliveryStatus.FAILED, next_attempt_at=None))


def _judge(endpoint: Endpoint, tried: Tried) -> None:
    """What an attempt says of its endpoint: one that is gone, or has failed for days, is disabled."""
    if tried.succeeded:
        if endpoint.failing_since is not None:
            endpoint.failing_since = None
        return
    if endpoint.failing_since is None:
        endpoint.failing_since = db_now()
    elif datetime.now(UTC) - endpoint.failing_since > timedelta(days=FAILING_DAYS):
        _disable(endpoint, f"nothing but failure for {FAILING_DAYS} days; the last: {tried.reason}")
    if tried.status == GONE:
        _disable(endpoint, "it answered 410: it wants no more")


def _disable(endpoint: Endpoint, reason: str) -> None:
    if endpoint.enabled:
        endpoint.enabled, endpoint.disabled_reason = False, reason
        endpoint.disabled_at = db_now()
        log.warning("endpoint disabled", action="disable", endpoint=str(endpoint.id), reason=reason)
