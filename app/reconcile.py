"""When nothing comes: ask the provider what became of a task, and give up at its deadline."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import circuits, inbox, tasks
from app.columns import db_now
from app.config import Config
from app.db import is_outage
from app.errors import OutboundError, PostbackError, ProviderError
from app.jobs import Conclusion, Job
from app.models import UNANSWERED, Source, Task, TaskStatus
from app.outbound import Limits
from app.providers.base import Found
from app.services import Services

log = structlog.get_logger()

BATCH = 50
# The provider wants less than one call a second.
CALL_PAUSE_SECONDS = 1.0
LOOKUP_LIMITS = Limits(connect=5, read=20, total=30, bytes=64 * 2**20)
LONGEST_PAUSE_SECONDS = 600.0
MOST_DOUBLINGS = 30
# Between the answers that the provider does not know a task: after the last one it surely does not.
UNCERTAIN_PAUSES = (5.0, 10.0, 20.0, 40.0)
# A callback has come, and the provider's bookkeeping may lag behind it.
CONFIRM_PAUSE_SECONDS = 5.0
NO_ANSWER_PAUSE_SECONDS = 10.0
# Where nobody can be asked: time to see that a task is uncertain, and for a slow worker to come back.
NOBODY_TO_ASK_SECONDS = 10.0
# What became of tasks is worth knowing soon after the provider is back.
LONGEST_CIRCUIT_SECONDS = 60.0
EXPIRE_BATCH = 100
# One that has failed only when somebody wants to know: a late success still wins.
ASKED_ABOUT = UNANSWERED | {TaskStatus.FAILED}


def ask(services: Services, job: Job) -> Conclusion | None:
    """Ask one provider for all of its tasks that have been silent for too long, in one call.

    There is one such job for each provider and it runs every second: so is the rate of the calls.
    """
    provider = services.providers[str(job.provider)]
    with services.db.reading() as session:
        ids = _silent(session, provider.name)
    if not ids:
        return None
    if (lookup := provider.lookup) is None:
        return partial(_give_up, ids)
    while True:
        try:
            # Who was stopped for longer than that asks too often with whoever took over.
            job.lease.ensure_held()
            limits = _limits(services.config, ids)
            response = services.outbound.call(lookup.lookup_request(ids), limits)
            return partial(_note, services, job, ids, lookup.read_lookup(response))
        except (OutboundError, ProviderError) as error:
            if error.code != "too_large" or len(ids) == 1:
                log.warning(
                    "no answer to a lookup", action="ask", provider=provider.name, error=str(error)
                )
                return partial(_ask_again, job, ids, error)
        # Results with base64 in them are large: ask about fewer.  The others stay due.
        ids = ids[: len(ids) // 2]
        time.sleep(CALL_PAUSE_SECONDS)


def expire(services: Services, job: Job) -> Conclusion:
    """Fail the tasks whose deadline has passed without a result."""
    del services, job
    return _expire


def _limits(config: Config, ids: Sequence[UUID]) -> Limits:
    """A single result may be as large as a callback."""
    if len(ids) > 1 or config.max_callback_bytes <= LOOKUP_LIMITS.bytes:
        return LOOKUP_LIMITS
    return replace(LOOKUP_LIMITS, bytes=config.max_callback_bytes)


def _silent(session: Session, provider: str) -> list[UUID]:
    silent = (
        select(Task.id)
        .where(Task.provider == provider, Task.ask_at <= db_now(), Task.status.in_(ASKED_ABOUT))
        .order_by(Task.ask_at)
        .limit(BATCH)
    )
    return list(session.scalars(silent))


def _ask_again(job: Job, ids: Sequence[UUID], error: PostbackError, session: Session) -> None:
    circuits.judge(session, job.queue, error, longest=LONGEST_CIRCUIT_SECONDS)
    for task in _still_silent(session, ids):
        task.ask_at = db_now(NO_ANSWER_PAUSE_SECONDS)


def _give_up(ids: Sequence[UUID], session: Session) -> None:
    """The provider has no lookup: whatever is uncertain about these stays so."""
    for task in _still_silent(session, ids):
        if task.status is not TaskStatus.UNCERTAIN:
            task.ask_at = None
        elif task.asks == 0:
            task.asks, task.ask_at = 1, db_now(NOBODY_TO_ASK_SECONDS)
        else:
            message = (
                "the call to the provider ended without an answer, and this provider cannot be asked: "
                "whether it did the work is unknown. It was not sent again; resubmit it if you want "
                "to pay for another one"
            )
            tasks.fail(session, task, PostbackError(message, code="unknown_outcome"))


def _note(
    services: Services,
    job: Job,
    ids: Sequence[UUID],
    found: Mapping[UUID, Found],
    session: Session,
) -> None:
    circuits.succeeded(session, job.queue)
    for task in _still_silent(session, ids):
        try:
            with session.begin_nested():
                _note_one(services, session, task, found.get(task.id))
        except Exception as error:
            if is_outage(error):
                raise
            # The others must not stay unknown because of one that cannot be written down.
            log.exception("an answer could not be noted", action="note", task_id=str(task.id))
            _ask_later(services, task)


def _note_one(services: Services, session: Session, task: Task, answer: Found | None) -> None:
    if task.status is TaskStatus.FAILED:
        _note_late(services, session, task, answer)
    elif answer:
        _note_found(services, session, task, answer)
    elif task.status is TaskStatus.UNCERTAIN:
        _note_unknown(session, task)
    else:
        _ask_later(services, task)


def _note_found(services: Services, session: Session, task: Task, answer: Found) -> None:
    if task.status is TaskStatus.UNCERTAIN:
        tasks.submitted(
            session, task, answer.provider_task_id, ask_after=services.config.reconcile_after
        )
    _ask_later(services, task)
    if answer.body is not None:
        inbox.take_answer(services, session, task, Source.LOOKUP, answer.body)


def _note_late(services: Services, session: Session, task: Task, answer: Found | None) -> None:
    """Somebody wanted it to be asked about after its end: only a success has anything to say."""
    task.ask_at = None
    if answer and answer.body and inbox.is_success(services, task, answer.body):
        inbox.take_answer(services, session, task, Source.LOOKUP, answer.body)
    elif task.provider in services.confirmed and task.asks < len(UNCERTAIN_PAUSES):
        # A callback may have told of a success that the provider's bookkeeping does not know yet.
        task.ask_at = db_now(UNCERTAIN_PAUSES[task.asks])
        task.asks += 1


def _note_unknown(session: Session, task: Task) -> None:
    task.asks += 1
    if task.asks > len(UNCERTAIN_PAUSES):
        message = (
            "the provider does not know this task: whether the request ever reached it is unknown. "
            "It was not sent again; resubmit it if you want to pay for another one"
        )
        tasks.fail(session, task, PostbackError(message, code="unknown_outcome"))
    else:
        task.ask_at = db_now(UNCERTAIN_PAUSES[task.asks - 1])


def _ask_later(services: Services, task: Task) -> None:
    task.asks += 1
    shortest = services.config.reconcile_after
    if task.provider in services.confirmed:
        shortest = min(shortest, CONFIRM_PAUSE_SECONDS)
    pause = shortest * 2 ** min(task.asks, MOST_DOUBLINGS)
    task.ask_at = db_now(min(pause, max(LONGEST_PAUSE_SECONDS, shortest)))


def _still_silent(session: Session, ids: Sequence[UUID]) -> Sequence[Task]:
    """Those that nothing has happened to while the provider was asked."""
    return session.scalars(
        select(Task)
        .where(Task.id.in_(ids), Task.ask_at <= db_now(), Task.status.in_(ASKED_ABOUT))
        .order_by(Task.id)
        .with_for_update()
    ).all()


def _expire(session: Session) -> None:
    overdue = session.scalars(
        select(Task)
        .where(Task.finished_at.is_(None), Task.deadline_at <= db_now())
        .where(Task.status.in_(UNANSWERED))
        .order_by(Task.deadline_at)
        .limit(EXPIRE_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    for task in overdue:
        waited = task.deadline_at - task.created_at
        message = f"no result within {waited.total_seconds():.0f} s"
        if task.status is TaskStatus.QUEUED and task.submitting_at is None:
            # That it was away, or had too much to do, cost nothing.
            message += ": the provider has not taken it"
        tasks.fail(session, task, PostbackError(message, code="timeout"), http_status=504)
