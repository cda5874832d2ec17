"""The queue: who gets a job, for how long, and what happens to it afterwards."""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app import jobs
from app.columns import db_now
from app.db import CONNECT_SECONDS
from app.errors import (
    ImageError,
    LeaseLostError,
    OutboundError,
    PostbackError,
    ProviderError,
    StorageError,
    UnavailableError,
)
from app.jobs import WORK_QUEUE, Job, Kind, New, Policy, Rate, Terms, claims
from app.models import Circuit
from app.models import Job as Row
from app.services import Services
from tests.core.conftest import at_once
from tests.factories import due_kinds, eventually, make_task

SUBMITS = jobs.queue_of(Kind.SUBMIT, "acedata")


def enqueue(parts: Services, *new: New) -> None:
    with parts.db.transaction() as session:
        jobs.enqueue(session, *new)


def claim(
    parts: Services,
    *,
    queue: str = WORK_QUEUE,
    room: int = 100,
    seconds: float = 30,
    held: Sequence[Job] = (),
    **terms: Any,
) -> list[Job]:
    with parts.db.transaction() as session:
        return jobs.claim(
            session, queue, Terms(room, **terms), worker="test", seconds=seconds, held=held
        )


def claim_one(parts: Services, *, seconds: float = 30) -> Job:
    (job,) = claim(parts, seconds=seconds)
    return job


def row_of(parts: Services, job: Job) -> Row:
    with parts.db.reading() as session:
        return session.get_one(Row, job.id)


def set_due(parts: Services, seconds: float = 0) -> None:
    """Make every job due `seconds` from now: a lease ends at once."""
    with parts.db.transaction() as session:
        session.execute(update(Row).values(due_at=db_now(seconds)))


def seconds_left(row: Row) -> float:
    return (row.due_at - datetime.now(UTC)).total_seconds()


PLAIN = Policy(tries=3, pause=2.0, longest_pause=5.0)
PERIODIC = Policy(every=60.0)
OUTAGE = OperationalError("SELECT 1", None, Exception("connection refused"))


@pytest.mark.parametrize(
    ("policy", "failures", "error", "pause", "counts"),
    [
        (PLAIN, 0, PostbackError("no"), (2, 3), True),
        (PLAIN, 1, PostbackError("no"), (4, 5), True),
        (PLAIN, 0, KeyError("a bug"), (2, 3), True),
        (PLAIN, 0, OutboundError("cut off"), (2, 3), True),
        # The longest pause is where growing ends.
        (replace(PLAIN, tries=99), 2, PostbackError("no"), (5, 6), True),
        (replace(PLAIN, tries=99), 50, PostbackError("no"), (5, 6), True),
        # The other side may ask for more, not for less.
        (PLAIN, 0, PostbackError("no", retry_after=90), (90, 90), True),
        (PLAIN, 0, PostbackError("no", retry_after=0.1), (2, 3), True),
        # Trouble of our own uses up no try, however often it happens.
        (PLAIN, 99, StorageError("down"), (4, 6), False),
        (PLAIN, 99, UnavailableError("busy"), (4, 6), False),
        (PLAIN, 99, OUTAGE, (4, 6), False),
        # A periodic job comes again anyway.
        (PERIODIC, 99, PostbackError("no"), (60, 60), False),
        (PERIODIC, 0, OUTAGE, (4, 6), False),
    ],
)
def test_a_failed_job_is_tried_again_after_a_pause(
    policy: Policy, failures: int, error: Exception, pause: tuple[float, float], counts: bool
) -> None:
    # More than once, because of the jitter.
    for _ in range(20):
        decision = jobs.decide(policy, failures, error)
        assert decision is not None
        assert decision.counts is counts
        assert pause[0] <= decision.seconds <= pause[1]


@pytest.mark.parametrize(
    ("failures", "error"),
    [
        (0, ImageError("no image")),
        (0, StorageError("gone", permanent=True)),
        (0, ProviderError("no", code="forbidden", status=403, permanent=True)),
        (2, PostbackError("the third time")),
        (2, ValueError("a bug")),
    ],
)
def test_a_job_ends_when_trying_again_is_no_use(failures: int, error: Exception) -> None:
    assert jobs.decide(PLAIN, failures, error) is None


def test_a_submission_is_tried_at_the_pauses_of_the_providers_document() -> None:
    error = ProviderError("busy", code="too_many_requests", status=429)
    decisions = [jobs.decide(jobs.POLICIES[Kind.SUBMIT], count, error) for count in range(6)]

    assert [int(decision.seconds) for decision in decisions if decision] == [1, 2, 4, 8, 16]
    assert decisions[5] is None


def test_a_job_is_enqueued_with_what_it_is_about(parts: Services) -> None:
    task, subject_id = make_task(parts), UUID(int=7)
    enqueue(parts, New(Kind.INGEST, task.id, subject_id, provider="acedata"))

    job = claim_one(parts)

    assert (job.kind, job.task_id, job.subject_id) == (Kind.INGEST, task.id, subject_id)
    assert (job.queue, job.provider) == (WORK_QUEUE, "acedata")
    assert (job.attempts, job.failures, job.lost) == (1, 0, False)


def test_the_longest_due_jobs_are_claimed_first_as_far_as_there_is_room(parts: Services) -> None:
    enqueue(
        parts,
        New(Kind.PURGE, delay=-10),
        New(Kind.EXPIRE, delay=-30),
        New(Kind.INGEST, delay=60),
        New(Kind.COMPACT, delay=-20),
    )

    assert claim(parts, room=0) == []
    assert [job.kind for job in claim(parts, room=2)] == [Kind.EXPIRE, Kind.COMPACT]
    assert [job.kind for job in claim(parts)] == [Kind.PURGE]
    assert claim(parts) == []
    set_due(parts)
    assert len(claim(parts)) == 4


def test_a_transaction_that_enqueues_nothing_wakes_nobody(sqlite_parts: Services) -> None:
    woken: list[str] = []
    sqlite_parts.db.signals.connect(jobs.CHANNEL, woken.append)
    enqueue(sqlite_parts)
    assert woken == []
    enqueue(sqlite_parts, New(Kind.INGEST), New(Kind.INGEST, delay=1))
    assert woken == [""]


def due(parts: Services) -> dict[str, bool]:
    """The queues with a job that may be claimed; whether it is a probe."""
    with parts.db.reading() as session:
        return {each.queue: each.probe for each in jobs.due_queues(session)}


def test_only_queues_with_a_due_job_are_named(parts: Services) -> None:
    assert due(parts) == {}
    make_task(parts)
    enqueue(parts, New(Kind.INGEST, delay=60), New(Kind.DELIVER, queue="deliver:one", delay=60))
    assert due(parts) == {SUBMITS: False}
    assert claim(parts) == []
    assert [job.kind for job in claim(parts, queue=SUBMITS)] == [Kind.SUBMIT]
    set_due(parts)
    assert set(due(parts)) == {SUBMITS, WORK_QUEUE, "deliver:one"}


def test_finding_the_due_queues_reads_no_more_when_more_jobs_wait(postgres_parts: Services) -> None:
    deliveries = [New(Kind.DELIVER, queue=f"deliver:{number}") for number in range(30)]
    enqueue(postgres_parts, *deliveries)
    few = buffers_read(postgres_parts)
    enqueue(postgres_parts, *deliveries * 500)

    assert buffers_read(postgres_parts) < 5 * few
    assert len(due(postgres_parts)) == 30


def buffers_read(parts: Services) -> int:
    """How many pages PostgreSQL looks at to find the due queues."""
    query = claims.finding_due().compile(parts.db.engine, compile_kwargs={"literal_binds": True})
    with parts.db.transaction() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {query}"
        plan = "\n".join(session.scalars(text(explain)))
    return int(re.findall(r"shared hit=(\d+)", plan)[0])


def test_two_who_race_for_jobs_get_each_exactly_once(parts: Services) -> None:
    enqueue(parts, *[New(Kind.INGEST)] * 200)

    def work() -> list[int]:
        claimed = []
        while batch := claim(parts, room=7):
            claimed += [job.id for job in batch]
        return claimed

    first, second = at_once(work, work)

    assert len(first + second) == len({*first, *second}) == 200


def test_never_more_run_at_once_than_the_limit_whoever_claims(parts: Services) -> None:
    limit, total = 3, 40
    enqueue(parts, *[New(Kind.SUBMIT, provider="acedata")] * total)
    seen: list[int] = []
    finished: list[Job] = []

    def work() -> None:
        while len(finished) < total:
            for job in claim(parts, queue=SUBMITS, room=2, limit=limit):
                with parts.db.transaction() as session:
                    leased = select(func.count()).where(Row.lease_token.is_not(None))
                    seen.append(session.scalar(leased) or 0)
                    jobs.finish(session, job)
                finished.append(job)

    at_once(*[work] * 6)

    assert len(finished) == total
    assert 1 <= max(seen) <= limit


def test_a_lease_that_is_over_makes_room_under_the_limit(parts: Services) -> None:
    enqueue(parts, *[New(Kind.SUBMIT, provider="acedata")] * 3)
    assert len(claim(parts, queue=SUBMITS, limit=2)) == 2
    assert claim(parts, queue=SUBMITS, limit=2) == []
    set_due(parts)
    assert len(claim(parts, queue=SUBMITS, limit=2)) == 2


@pytest.mark.parametrize(
    ("per_second", "seconds_since", "affordable"),
    [
        # Of the first calls, and after a pause, a second's worth begins at once.
        (5, None, 5),
        (5, 3600, 5),
        (5, 0.5, 3),
        (5, 0, 1),
        (5, -0.001, 0),
        (0.5, None, 1),
        (0.5, 1.9, 1),
    ],
)
def test_a_rate_allows_so_many_calls(
    per_second: float, seconds_since: float | None, affordable: int
) -> None:
    now = datetime.now(UTC)
    next_at = None if seconds_since is None else now - timedelta(seconds=seconds_since)
    rate = Rate(per_second)

    assert rate.affordable(next_at, now) == affordable
    after = rate.after(next_at, now, affordable)
    assert rate.affordable(after, now) == 0
    assert rate.affordable(after, now + timedelta(seconds=1 / per_second)) == 1


def test_no_more_begin_in_a_second_than_the_rate_whoever_claims(parts: Services) -> None:
    enqueue(parts, *[New(Kind.SUBMIT, provider="acedata")] * 40)
    began = time.monotonic()
    work = partial(claim, parts, queue=SUBMITS, room=3, rate=Rate(10))
    claimed = [len(jobs) for _ in range(5) for jobs in at_once(*[work] * 4)]

    assert 10 <= sum(claimed) <= 10 + 10 * (time.monotonic() - began)
    with parts.db.transaction() as session:
        session.execute(update(Circuit).values(next_at=db_now(60)))
    assert due(parts) == {}
    assert work() == []


def test_when_a_lease_is_over_another_worker_takes_the_job_and_knows_that_it_was_lost(
    parts: Services,
) -> None:
    enqueue(parts, New(Kind.INGEST))
    first = claim_one(parts, seconds=45)
    assert 40 < seconds_left(row_of(parts, first)) <= 45.1
    assert 40 < first.lease.expires_at - time.monotonic() <= 45
    first.lease.ensure_held()
    set_due(parts)
    second = claim_one(parts, seconds=0)
    assert (second.id, second.lost, second.attempts) == (first.id, True, 2)
    assert second.token != first.token
    with pytest.raises(LeaseLostError):
        second.lease.ensure_held()
    # Whoever comes late may still finish when nobody took over.
    with parts.db.transaction() as session:
        jobs.finish(session, second)
    assert due_kinds(parts) == []


def test_whoever_holds_a_job_does_not_take_it_over_from_itself(parts: Services) -> None:
    enqueue(parts, *[New(Kind.INGEST)] * 4)
    held, taken, retried, dropped = mine = claim(parts, seconds=0)
    with parts.db.transaction() as session:
        session.execute(update(Row).filter_by(id=taken.id).values(lease_token=UUID(int=1)))
        jobs.retry(session, retried, jobs.Retry(0, counts=False))

    claimed = claim(parts, held=mine[:3])

    assert {job.id: job.lost for job in claimed} == {
        taken.id: True, retried.id: False, dropped.id: True,
    }  # fmt: skip
    with parts.db.transaction() as session:
        jobs.renew(session, mine, 30)
        jobs.ensure_held(session, held)


def test_a_lease_is_renewed_while_it_is_ours(parts: Services) -> None:
    enqueue(parts, New(Kind.INGEST), New(Kind.COMPACT))
    lost, kept = claim(parts, seconds=1)
    with parts.db.transaction() as session:
        session.execute(update(Row).where(Row.id == lost.id).values(lease_token=UUID(int=1)))
    before = lost.lease.expires_at

    with parts.db.transaction() as session:
        jobs.renew(session, [lost, kept], 90)

    assert seconds_left(row_of(parts, kept)) > 80
    assert kept.lease.expires_at - time.monotonic() > 80
    assert seconds_left(row_of(parts, lost)) < 2
    assert lost.lease.expires_at == before


@pytest.mark.parametrize("counts", [True, False])
def test_a_failed_job_waits_with_its_error(parts: Services, counts: bool) -> None:
    enqueue(parts, New(Kind.INGEST))
    job = claim_one(parts)
    with parts.db.transaction() as session:
        jobs.retry(session, job, jobs.Retry(86_400, counts=counts), ValueError("x" * 5000))

    row = row_of(parts, job)

    assert (row.failures, row.lease_token, row.worker) == (int(counts), None, None)
    assert str(row.last_error).startswith("ValueError: xxx")
    assert len(str(row.last_error)) == 1000
    assert 86_390 < seconds_left(row) <= 86_400.1
    set_due(parts)
    again = claim_one(parts)
    assert (again.attempts, again.failures, again.lost) == (2, int(counts), False)


def retry_now(session: Session, job: Job) -> None:
    jobs.retry(session, job, jobs.Retry(0, counts=True), ValueError("no"))


@pytest.mark.parametrize("end", [jobs.finish, retry_now, jobs.ensure_held])
def test_whoever_lost_the_lease_changes_nothing(
    parts: Services, end: Callable[[Session, Job], None]
) -> None:
    enqueue(parts, New(Kind.INGEST))
    stale = claim_one(parts, seconds=0)
    current = claim_one(parts)
    before = row_of(parts, current)

    with pytest.raises(LeaseLostError), parts.db.transaction() as session:
        end(session, stale)

    after = row_of(parts, current)
    assert (after.lease_token, after.failures) == (current.token, 0)
    assert after.due_at == before.due_at
    with parts.db.transaction() as session:
        jobs.ensure_held(session, current)
        jobs.finish(session, current)
    # Nobody else gets its id: in a log each is one job.
    enqueue(parts, New(Kind.INGEST))
    assert claim_one(parts).id > current.id


def test_released_jobs_are_due_at_once(parts: Services) -> None:
    enqueue(parts, *[New(Kind.INGEST)] * 3)
    (first,), (second,) = claim(parts, room=1), claim(parts, room=1)
    with parts.db.transaction() as session:
        jobs.release(session, [first, replace(second, token=UUID(int=1))])

    released = claim(parts)

    assert first.id in {job.id for job in released}
    assert second.id not in {job.id for job in released}
    # Its worker may still be at it: that is for the job's kind to find out.
    assert next(job for job in released if job.id == first.id).lost


def ensure_periodic(parts: Services) -> None:
    with parts.db.transaction() as session:
        jobs.ensure_periodic(session, ["acedata", "agcloud"])


def test_periodic_jobs_are_there_once_however_many_workers_start(parts: Services) -> None:
    at_once(*[partial(ensure_periodic, parts)] * 4)

    with parts.db.reading() as session:
        found = [tuple(row) for row in session.execute(select(Row.kind, Row.provider))]
    policies = jobs.POLICIES.items()
    for_all = [(kind, None) for kind, policy in policies if policy.every and policy.queue]
    for_each = [(Kind.RECONCILE, "acedata"), (Kind.RECONCILE, "agcloud")]
    assert Counter(found) == Counter([*for_all, *for_each])


def test_a_periodic_job_comes_again_when_it_is_finished(parts: Services) -> None:
    ensure_periodic(parts)
    purge = next(job for job in claim(parts) if job.kind is Kind.PURGE)
    with parts.db.transaction() as session:
        jobs.retry(session, purge, jobs.Retry(0, counts=False), StorageError("down"))
    (again,) = claim(parts)
    with parts.db.transaction() as session:
        jobs.finish(session, again)

    row = row_of(parts, again)

    assert 3590 < seconds_left(row) <= 3600.1
    assert (row.lease_token, row.failures, row.last_error) == (None, 0, None)


def test_after_a_silence_nobody_claims_before_the_others_could_renew_their_leases() -> None:
    pulse = jobs.Pulse(lease_seconds=0.6)

    def steady_after_a_beat() -> bool:
        pulse.beat()
        return pulse.steady

    assert not pulse.steady
    assert steady_after_a_beat()
    eventually(lambda: not pulse.steady)
    silent_until = time.monotonic()
    eventually(steady_after_a_beat)
    assert time.monotonic() - silent_until > CONNECT_SECONDS
