"""Circuits: who fails again and again is left alone for a while, then tried with one job."""

from datetime import UTC, datetime
from functools import partial

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app import circuits, jobs, retention
from app.circuits import FAILURES_IN_A_ROW, Open
from app.columns import db_now
from app.errors import BlockedAddressError, NotSentError, OutboundError, ProviderError, StorageError
from app.jobs import Due, Job, Kind, New, Terms
from app.models import Circuit
from app.models import Job as JobRow
from app.services import Services
from tests.core.conftest import at_once, count

QUEUE = "submit:acedata"
OTHER = "submit:other"


def fail(
    parts: Services, times: int = 1, *, retry_after: float | None = None
) -> list[float | None]:
    """So many failures, one after the other; the pauses that they lead to."""
    pauses = []
    for _ in range(times):
        with parts.db.transaction() as session:
            pauses.append(circuits.failed(session, QUEUE, "no answer", retry_after=retry_after))
    return pauses


def fail_again(parts: Services) -> float | None:
    """A job fails that has failed before."""
    with parts.db.transaction() as session:
        return circuits.failed(session, QUEUE, "no answer", first=False)


def succeed(parts: Services) -> None:
    with parts.db.transaction() as session:
        circuits.succeeded(session, QUEUE)


def enqueue(parts: Services) -> None:
    """Two jobs wait in each queue; the first of them has failed before."""
    with parts.db.transaction() as session:
        for queue in (QUEUE, OTHER):
            jobs.enqueue(session, *[New(Kind.SUBMIT, queue=queue)] * 2)
        for job in jobs.claim(session, QUEUE, Terms(1), worker="test", seconds=30):
            jobs.retry(session, job, jobs.Retry(-60, counts=True), ValueError("no"))


def due(parts: Services) -> set[Due]:
    with parts.db.reading() as session:
        return set(jobs.due_queues(session))


def probe(parts: Services) -> list[Job]:
    with parts.db.transaction() as session:
        return jobs.claim(session, QUEUE, Terms(9, probe=True), worker="test", seconds=30)


def time_passes(parts: Services) -> None:
    """What the circuit waits for is over."""
    over = {"open_until": db_now(-1), "probe_at": db_now(-1)}
    with parts.db.transaction() as session:
        session.execute(update(Circuit).values(over))


def open_ones(parts: Services) -> list[Open]:
    with parts.db.reading() as session:
        return list(circuits.open_ones(session))


def test_after_failures_in_a_row_nothing_is_begun_until_one_job_has_succeeded(
    parts: Services,
) -> None:
    enqueue(parts)
    both = {Due(QUEUE, probe=False), Due(OTHER, probe=False)}
    assert fail(parts, FAILURES_IN_A_ROW - 1) == [None] * (FAILURES_IN_A_ROW - 1)
    assert due(parts) == both
    (pause,) = fail(parts)

    assert pause is not None
    assert 8 <= pause <= 12
    assert due(parts) == both - {Due(QUEUE, probe=False)}
    (shown,) = open_ones(parts)
    assert (shown.queue, shown.reason, shown.failures) == (QUEUE, "no answer", FAILURES_IN_A_ROW)
    assert 5 < (shown.until - datetime.now(UTC)).total_seconds() < 13
    # What was begun before and fails only now says nothing new.
    assert fail(parts) == [None]
    time_passes(parts)
    assert due(parts) == {Due(QUEUE, probe=True), Due(OTHER, probe=False)}
    (probing,) = probe(parts)
    # The job that has done least to doubt itself, although the other one has waited for longer.
    assert probing.failures == 0
    assert due(parts) == {Due(OTHER, probe=False)}
    assert len(open_ones(parts)) == 1
    succeed(parts)
    assert due(parts) == both
    assert open_ones(parts) == []


def test_a_circuit_opens_when_its_patience_is_over_and_not_before(parts: Services) -> None:
    def fail_patiently() -> float | None:
        with parts.db.transaction() as session:
            return circuits.failed(session, QUEUE, "no answer", patience=60)

    def age(seconds: float) -> None:
        with parts.db.transaction() as session:
            session.execute(update(Circuit).values(failing_since=db_now(-seconds)))

    assert [fail_patiently() for _ in range(2 * FAILURES_IN_A_ROW)] == [None] * 10
    age(50)
    assert fail_patiently() is None
    succeed(parts)
    assert [fail_patiently() for _ in range(FAILURES_IN_A_ROW)] == [None] * 5
    age(61)
    assert fail_patiently() is not None


def test_of_all_who_ask_one_gets_the_probe(parts: Services) -> None:
    enqueue(parts)
    fail(parts, FAILURES_IN_A_ROW)
    time_passes(parts)

    assert sorted(map(len, at_once(*[partial(probe, parts)] * 4))) == [0, 0, 0, 1]


def test_a_probe_for_which_there_is_no_job_is_given_back(parts: Services) -> None:
    fail(parts, FAILURES_IN_A_ROW)
    time_passes(parts)
    assert probe(parts) == []
    enqueue(parts)
    assert len(probe(parts)) == 1


def test_the_pauses_double_up_to_the_longest(sqlite_parts: Services) -> None:
    fail(sqlite_parts, FAILURES_IN_A_ROW - 1)
    for expected in (10, 20, 40, 80, 160, 320, 600, 600):
        (pause,) = fail(sqlite_parts)
        assert pause is not None
        assert 0.8 * expected <= pause <= 1.2 * expected
        time_passes(sqlite_parts)
    assert fail(sqlite_parts, retry_after=5000) == [5000]


def test_one_job_that_always_fails_stops_no_others(parts: Services) -> None:
    assert [fail_again(parts) for _ in range(9)] == [None] * 9
    assert fail(parts, FAILURES_IN_A_ROW - 1) == [None] * (FAILURES_IN_A_ROW - 1)
    assert fail_again(parts) is None
    assert fail(parts) != [None]
    for _ in range(3):
        time_passes(parts)
        # As a probe it has found out nothing, and so the pause does not grow.
        pause = fail_again(parts)
        assert pause is not None
        assert pause <= 12


def test_a_success_between_failures_begins_a_new_row_and_costs_nothing_when_all_is_well(
    parts: Services,
) -> None:
    succeed(parts)
    assert count(parts.db, Circuit) == 0
    for _ in range(2):
        assert set(fail(parts, FAILURES_IN_A_ROW - 1)) == {None}
        succeed(parts)
    with parts.db.reading() as session:
        changed = session.scalar(select(Circuit.changed_at))
    succeed(parts)
    with parts.db.reading() as session:
        assert session.scalar(select(Circuit.changed_at)) == changed


def test_many_who_fail_at_once_are_counted_each(parts: Services) -> None:
    pauses = at_once(*[partial(fail, parts)] * FAILURES_IN_A_ROW)
    assert sum(pause is not None for (pause,) in pauses) == 1


def test_who_asks_to_be_left_alone_is_left_alone_and_needs_no_probe(parts: Services) -> None:
    enqueue(parts)
    with parts.db.transaction() as session:
        assert circuits.rest(session, QUEUE, "too many", 30) == 30
        # A shorter one does not make it shorter.
        circuits.rest(session, QUEUE, "still too many", 1)
    assert due(parts) == {Due(OTHER, probe=False)}
    assert [each.reason for each in open_ones(parts)] == ["too many"]
    with parts.db.transaction() as session:
        session.execute(update(Circuit).values(open_until=db_now(-1)))
    assert Due(QUEUE, probe=False) in due(parts)


def refusal(
    status: int, retry_after: float | None = None, *, permanent: bool = False
) -> ProviderError:
    return ProviderError(
        "no", code="no", status=status, retry_after=retry_after, permanent=permanent
    )


@pytest.mark.parametrize(
    ("error", "failures", "rests"),
    [
        (NotSentError("unreachable"), 2, False),
        (OutboundError("no answer in time"), 2, False),
        (refusal(500), 2, False),
        (refusal(503, 30), 2, True),
        (refusal(502, permanent=True), 0, False),
        # An answer is an answer.
        (refusal(400), 0, False),
        (refusal(429), 0, False),
        (refusal(429, 30), 1, True),
        # What has nothing to do with the other side.
        (BlockedAddressError("private"), 1, False),
        (StorageError("down"), 1, False),
        (ValueError("a bug"), 1, False),
    ],
)
def test_an_error_counts_when_the_other_side_is_away(
    sqlite_parts: Services, error: Exception, failures: int, rests: bool
) -> None:
    fail(sqlite_parts)

    def judge(session: Session) -> float | None:
        return circuits.judge(session, QUEUE, error)

    with sqlite_parts.db.transaction() as session:
        assert judge(session) == (30 if rests else None)
        assert session.scalar(select(Circuit.failures)) == failures
    assert bool(open_ones(sqlite_parts)) == rests


def test_who_is_away_is_no_trouble_once_nothing_waits_for_it(parts: Services) -> None:
    """The last job of its queue was given up, or deleted: nobody will ever find out."""
    fail(parts, FAILURES_IN_A_ROW)
    assert len(open_ones(parts)) == 1
    time_passes(parts)
    assert open_ones(parts) == []
    # The next job finds out all the same.
    enqueue(parts)
    assert [each.queue for each in open_ones(parts)] == [QUEUE]
    assert Due(QUEUE, probe=True) in due(parts)


def test_what_a_circuit_has_to_say_is_forgotten_after_a_day(parts: Services) -> None:
    enqueue(parts)
    fail(parts, FAILURES_IN_A_ROW)
    over = {"open_until": db_now(-90_000), "probe_at": db_now(-90_000)}
    with parts.db.transaction() as session:
        session.execute(update(Circuit).values(changed_at=db_now(-90_000), **over))
        circuits.failed(session, OTHER, "new")
    retention.purge(parts)
    # A job of it waits to be its probe.
    assert count(parts.db, Circuit) == 2
    with parts.db.transaction() as session:
        session.execute(delete(JobRow).where(JobRow.queue == QUEUE))
    retention.purge(parts)
    with parts.db.reading() as session:
        assert session.scalars(select(Circuit.name)).all() == [OTHER]


def test_one_that_is_closed_is_forgotten_although_its_queue_has_jobs(
    sqlite_parts: Services,
) -> None:
    enqueue(sqlite_parts)
    fail(sqlite_parts)
    succeed(sqlite_parts)
    with sqlite_parts.db.transaction() as session:
        session.execute(update(Circuit).values(changed_at=db_now(-90_000)))
    retention.purge(sqlite_parts)
    assert count(sqlite_parts.db, Circuit) == 0
