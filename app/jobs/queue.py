"""The job table as a queue: enqueue; and what may be done with a job that was claimed."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast
from uuid import UUID

from sqlalchemy import ColumnElement, Insert, Table, and_, delete, select, update
from sqlalchemy.orm import Session

from app.bulk import Given, for_each, insertion, upsert
from app.columns import db_now
from app.db import notify
from app.errors import LeaseLostError
from app.jobs.policies import POLICIES, Kind, Policy, Retry, queue_of
from app.models import Job as Row

CHANNEL = "jobs"
MAX_ERROR_LENGTH = 1000

_JOBS = cast(Table, Row.__table__)

# What is left to write when a job's work is done, in the transaction that finishes it.
Conclusion = Callable[[Session], None]


class Lease:
    """How long a claimed job is ours, by this machine's monotonic clock."""

    def __init__(self, expires_at: float) -> None:
        self.expires_at = expires_at

    def ensure_held(self) -> None:
        """Raise `LeaseLostError` when the time is over: somebody else may have the job by now."""
        if time.monotonic() >= self.expires_at:
            raise LeaseLostError("the lease ended before the work was done")


@dataclass(frozen=True)
class Job:
    """A claimed job; `lost` says that the worker before this one never came to an end with it."""

    id: int
    kind: Kind
    queue: str
    provider: str | None
    task_id: UUID | None
    subject_id: UUID | None
    attempts: int
    failures: int
    token: UUID
    lost: bool
    lease: Lease

    @property
    def policy(self) -> Policy:
        """How jobs of this kind are run."""
        return POLICIES[self.kind]


@dataclass(frozen=True)
class Again:
    """What a handler gives for a job that is not done: it runs again in `seconds`.

    `conclude` is written all the same.  `counts` is whether this adds to the job's `failures`.
    """

    seconds: float
    conclude: Conclusion | None = None
    counts: bool = True


# How a handler's work ends, unless it raises.
Ending = Conclusion | Again | None


@dataclass(frozen=True)
class New:
    """A job to enqueue, due `delay` seconds from now; `queue` is for kinds with queues of their own.

    Where it is not given, the queue is that of the provider.
    """

    kind: Kind
    task_id: UUID | None = None
    subject_id: UUID | None = None
    provider: str | None = None
    delay: float = 0.0
    queue: str | None = None


def enqueue(session: Session, *new: New) -> None:
    """Add jobs in this transaction, and wake the workers once it is committed."""
    for delay, group in groupby(new, key=lambda job: job.delay):
        rows = [
            {
                "kind": job.kind,
                "queue": job.queue or queue_of(job.kind, job.provider),
                "provider": job.provider,
                "task_id": job.task_id,
                "subject_id": job.subject_id,
            }
            for job in group
        ]
        for_each(session, _JOBS, rows, _insertion, delay=delay)
    if new:
        notify(session, CHANNEL)


def _insertion(table: Table, given: Given, *, delay: float) -> Insert:
    return insertion(table, given, due_at=db_now(delay))


def ensure_periodic(session: Session, providers: Iterable[str]) -> None:
    """Make sure that the rows of the periodic jobs are there, one each."""
    for kind, policy in POLICIES.items():
        if policy.every is None:
            continue
        for provider in [None] if policy.queue else providers:
            queue = queue_of(kind, provider)
            row = upsert(session, Row).values(
                kind=kind, queue=queue, provider=provider, unique_key=f"{kind}:{provider or ''}"
            )
            # A version before may have had it elsewhere.
            moved = row.on_conflict_do_update(
                index_elements=["unique_key"], set_={"queue": queue}, where=Row.queue != queue
            )
            session.execute(moved)


def renew(session: Session, jobs: Sequence[Job], seconds: float) -> None:
    """Extend the leases that are still ours."""
    expires_at = time.monotonic() + seconds
    held = session.execute(
        update(Row)
        .where(Row.id.in_([job.id for job in jobs]))
        .where(Row.lease_token.in_({job.token for job in jobs}))
        .values(due_at=db_now(seconds))
        .returning(Row.id, Row.lease_token)
        .execution_options(synchronize_session=False)
    )
    still_ours = {tuple(row) for row in held}
    for job in jobs:
        if (job.id, job.token) in still_ours:
            job.lease.expires_at = expires_at


def ensure_held(session: Session, job: Job) -> None:
    """Keep the job from being taken over until this transaction ends.  Raises `LeaseLostError`."""
    _held(session.scalar(select(Row.id).where(_ours(job)).with_for_update()))


def finish(session: Session, job: Job) -> None:
    """Done: the row goes, or waits for its next period.  Raises `LeaseLostError`."""
    if job.policy.every is None:
        _held(session.scalar(delete(Row).where(_ours(job)).returning(Row.id)))
    else:
        _reschedule(session, job, job.policy.every, failures=0, error=None)


def retry(session: Session, job: Job, decision: Retry, error: BaseException | None = None) -> None:
    """Not done: give the lease back and wait.  Raises `LeaseLostError`."""
    failures = job.failures + decision.counts
    message = f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH] if error else None
    _reschedule(session, job, decision.seconds, failures=failures, error=message)


def release(session: Session, jobs: Sequence[Job]) -> None:
    """Give unfinished jobs back at once, so that another worker needn't wait for their leases."""
    session.execute(
        update(Row)
        .where(Row.id.in_([job.id for job in jobs]))
        .where(Row.lease_token.in_({job.token for job in jobs}))
        .values(due_at=db_now())
        .execution_options(synchronize_session=False)
    )
    notify(session, CHANNEL)


def _reschedule(
    session: Session, job: Job, seconds: float, *, failures: int, error: str | None
) -> None:
    changed = (
        update(Row)
        .where(_ours(job))
        .values(
            lease_token=None,
            worker=None,
            due_at=db_now(seconds),
            failures=failures,
            last_error=error,
        )
        .returning(Row.id)
        .execution_options(synchronize_session=False)
    )
    _held(session.scalar(changed))


def _ours(job: Job) -> ColumnElement[bool]:
    return and_(Row.id == job.id, Row.lease_token == job.token)


def _held(row_id: int | None) -> None:
    if row_id is None:
        raise LeaseLostError("another worker has taken the job over, or its task is gone")
