"""The job loop, with handlers of the tests' own: claims, runs, retries, gives up, stops."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from app import jobs
from app.columns import db_now
from app.db import notify
from app.errors import ImageError, LeaseLostError
from app.jobs import Conclusion, Job, Kind, New, Terms
from app.jobs.lanes import DELIVERIES, DELIVERIES_TO_ONE
from app.models import Audit
from app.models import Job as JobRow
from app.models import Worker as WorkerRow
from app.reports import worker_seen
from app.services import Services
from app.worker import Handler, Worker
from tests.core.sites import PATIENCE
from tests.factories import eventually, reconfigured
from tests.scarcity import no_more_threads
from tests.servers.postgres import Postgres


class Work:
    """A handler that notes what it does; `error` is raised by each run while it is set.

    With `gate` a run goes on only when that is set.
    """

    def __init__(self, *, gate: threading.Event | None = None) -> None:
        self.ran: list[Job] = []
        self.lost: list[Job] = []
        self.failures: list[tuple[str, bool]] = []
        self.error: Exception | None = None
        self.at_once = 0
        self.most_at_once = 0
        self._gate = gate
        self._lock = threading.Lock()
        self.handler = Handler(self._run, lost=self._take_over, failed=self._fail)

    def _run(self, _services: Services, job: Job) -> Conclusion:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.ran.append(job)
        if self._gate:
            assert self._gate.wait(PATIENCE)
        with self._lock:
            self.at_once -= 1
        if self.error:
            raise self.error
        return lambda session: session.add(Audit(actor="worker", action="concluded"))

    def _take_over(self, _services: Services, job: Job) -> None:
        self.lost.append(job)

    def _fail(self, session: Session, _job: Job, error: BaseException, final: bool) -> None:
        self.failures.append((str(error), final))
        session.add(Audit(actor="worker", action="failed"))


@contextmanager
def working(parts: Services, work: Work, *, workers: int = 1) -> Iterator[Worker]:
    """Workers in threads, for whom jobs of every kind are `work`, but periodic ones nothing."""
    idle = Handler(lambda _services, _job: None)
    handlers = {kind: idle if jobs.POLICIES[kind].every else work.handler for kind in Kind}
    with ExitStack() as stack:
        started = [Worker(parts, handlers) for _ in range(workers)]
        for worker in started:
            thread = threading.Thread(target=worker.run)
            thread.start()
            stack.callback(thread.join, PATIENCE)
            stack.callback(worker.stop)
        yield started[0]


def enqueue(parts: Services, *new: New) -> None:
    with parts.db.transaction() as session:
        jobs.enqueue(session, *new)


def rows(parts: Services) -> list[JobRow]:
    """The jobs that are there, without the periodic ones."""
    with parts.db.reading() as session:
        wanted = select(JobRow).where(JobRow.unique_key.is_(None)).order_by(JobRow.id)
        return list(session.scalars(wanted))


def audits(parts: Services) -> list[str]:
    with parts.db.reading() as session:
        return list(session.scalars(select(Audit.action).order_by(Audit.id)))


def worker_names(parts: Services) -> list[str]:
    with parts.db.reading() as session:
        return list(session.scalars(select(WorkerRow.name)))


def change(parts: Services, **columns: Any) -> None:
    """Change the jobs behind the workers' backs, and wake them."""
    with parts.db.transaction() as session:
        session.execute(update(JobRow).where(JobRow.unique_key.is_(None)).values(**columns))
        notify(session, jobs.CHANNEL)


def logged(logs: Sequence[Mapping[str, Any]], action: str) -> bool:
    return any(entry.get("action") == action for entry in logs)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What work waits for; opened when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_jobs_are_run_and_their_conclusions_written(parts: Services) -> None:
    work = Work()
    enqueue(parts, New(Kind.INGEST), New(Kind.SUBMIT, provider="acedata"))
    with working(parts, work):
        eventually(lambda: len(audits(parts)) == 2)
        enqueue(parts, New(Kind.COMPACT))
        eventually(lambda: len(audits(parts)) == 3)
        eventually(lambda: not rows(parts))

    assert sorted(job.kind for job in work.ran) == ["compact", "ingest", "submit"]
    assert audits(parts) == ["concluded"] * 3


def test_on_postgresql_a_notification_wakes_the_worker_long_before_it_would_look(
    postgres_parts: Services,
) -> None:
    work = Work()
    latencies = []
    with working(postgres_parts, work):
        eventually(lambda: worker_names(postgres_parts))
        for _ in range(7):
            began = time.monotonic()
            work.ran.clear()
            enqueue(postgres_parts, New(Kind.INGEST))
            eventually(lambda: work.ran)
            latencies.append(time.monotonic() - began)
            eventually(lambda: not rows(postgres_parts))

    # It looks by itself every second.
    assert statistics.median(latencies) < 0.4


@pytest.mark.parametrize(
    ("error", "failures", "again"),
    [
        (ValueError("not yet"), 0, True),
        (ImageError("no image"), 0, False),
        (ValueError("the last time"), 9, False),
    ],
)
def test_a_job_that_failed_is_tried_again_unless_that_is_no_use(
    sqlite_parts: Services, error: Exception, failures: int, again: bool
) -> None:
    work = Work()
    work.error = error
    enqueue(sqlite_parts, New(Kind.INGEST, delay=3600))
    change(sqlite_parts, failures=failures, due_at=db_now())
    with working(sqlite_parts, work):
        eventually(lambda: work.failures)
        assert work.failures == [(str(error), not again)]
        if again:
            eventually(lambda: rows(sqlite_parts)[0].last_error == "ValueError: not yet")
            assert rows(sqlite_parts)[0].failures == 1
            work.error = None
            change(sqlite_parts, due_at=db_now())
        eventually(lambda: not rows(sqlite_parts))

    assert audits(sqlite_parts) == ["failed", "concluded"][: 1 + again]


def test_a_heartbeat_keeps_a_job_for_longer_than_its_lease(
    sqlite_parts: Services, gate: threading.Event
) -> None:
    work = Work(gate=gate)
    enqueue(sqlite_parts, New(Kind.INGEST))
    with working(reconfigured(sqlite_parts, lease_seconds=1.5), work, workers=2):
        eventually(lambda: work.ran)
        first_end = rows(sqlite_parts)[0].due_at
        eventually(lambda: rows(sqlite_parts)[0].due_at > first_end + timedelta(seconds=1.5))
        work.ran[0].lease.ensure_held()
        gate.set()
        eventually(lambda: not rows(sqlite_parts))

    assert len(work.ran) == 1
    assert audits(sqlite_parts) == ["concluded"]


@pytest.mark.parametrize("error", [None, ValueError("no"), LeaseLostError("noticed it")])
def test_whoever_lost_the_lease_writes_nothing(
    sqlite_parts: Services, gate: threading.Event, error: Exception | None
) -> None:
    work = Work(gate=gate)
    work.error = error
    enqueue(sqlite_parts, New(Kind.INGEST))
    with capture_logs() as logs, working(sqlite_parts, work):
        eventually(lambda: work.ran)
        with sqlite_parts.db.transaction() as session:
            # As if it were over long ago, so that it is this one that is claimed.
            over = update(JobRow).where(JobRow.id == work.ran[0].id)
            session.execute(over.values(due_at=db_now(-3600)))
            (other,) = jobs.claim(session, jobs.WORK_QUEUE, Terms(1), worker="other", seconds=60)
        gate.set()
        eventually(lambda: logged(logs, "lose"))

    assert (other.id, other.lost) == (work.ran[0].id, True)
    (row,) = rows(sqlite_parts)
    assert (row.lease_token, row.worker, row.failures) == (other.token, "other", 0)
    assert audits(sqlite_parts) == []


@pytest.mark.parametrize(("kind", "taken_over"), [(Kind.SUBMIT, True), (Kind.INGEST, False)])
def test_what_was_lost_is_done_again_unless_it_costs_money(
    sqlite_parts: Services, kind: Kind, taken_over: bool
) -> None:
    work = Work()
    enqueue(sqlite_parts, New(kind, provider="acedata"))
    with sqlite_parts.db.transaction() as session:
        queue = jobs.queue_of(kind, "acedata")
        jobs.claim(session, queue, Terms(1), worker="dead", seconds=0)
    with working(sqlite_parts, work):
        eventually(lambda: not rows(sqlite_parts))

    done, not_done = (work.lost, work.ran) if taken_over else (work.ran, work.lost)
    assert [job.lost for job in done] == [True]
    assert not_done == []


def test_a_conclusion_is_written_when_the_database_is_back_and_the_worker_goes_on(
    postgres_parts: Services, postgres: Postgres, gate: threading.Event
) -> None:
    work = Work(gate=gate)
    enqueue(postgres_parts, New(Kind.INGEST))
    with capture_logs() as logs, working(postgres_parts, work):
        eventually(lambda: work.ran)
        with postgres.down():
            gate.set()
            eventually(lambda: logged(logs, "wait") and logged(logs, "claim"))
        eventually(lambda: not rows(postgres_parts))
        assert len(work.ran) == 1
        enqueue(postgres_parts, New(Kind.INGEST))
        eventually(lambda: audits(postgres_parts) == ["concluded"] * 2)


@pytest.mark.parametrize("workers", [1, 3])
def test_nothing_is_lost_in_an_outage_that_is_longer_than_a_lease(
    postgres_parts: Services, postgres: Postgres, gate: threading.Event, workers: int
) -> None:
    work = Work(gate=gate)
    parts = reconfigured(postgres_parts, lease_seconds=1.5)
    enqueue(parts, *[New(Kind.HOLD, provider="agcloud")] * 4)
    with working(parts, work, workers=workers):
        eventually(lambda: len(work.ran) == 4)
        leases = [job.lease for job in work.ran]
        with postgres.down():
            eventually(lambda: max(lease.expires_at for lease in leases) < time.monotonic() - 1)
        # They go on with it, and then with the next.
        eventually(lambda: min(lease.expires_at for lease in leases) > time.monotonic())
        enqueue(parts, New(Kind.HOLD, provider="agcloud"))
        eventually(lambda: len(work.ran) == 5)
        gate.set()
        eventually(lambda: not rows(parts))

    assert work.lost == []
    assert audits(parts) == ["concluded"] * 5


def test_a_conclusion_that_cannot_be_written_leaves_the_job_to_its_lease(
    sqlite_parts: Services,
) -> None:
    def conclude(session: Session) -> None:
        session.add(Audit(actor="worker", action="half"))
        session.flush()
        raise ValueError("a bug")

    work = Work()
    work.handler = Handler(lambda _services, _job: conclude, failed=work.handler.failed)
    enqueue(sqlite_parts, New(Kind.INGEST))
    with capture_logs() as logs, working(sqlite_parts, work):
        eventually(lambda: logged(logs, "abandon"))

    assert [row.failures for row in rows(sqlite_parts)] == [0]
    assert (audits(sqlite_parts), work.failures) == ([], [])


def test_jobs_for_which_no_thread_could_be_started_are_run_when_there_are_some_again(
    sqlite_parts: Services,
) -> None:
    def leased() -> bool:
        with sqlite_parts.db.reading() as session:
            held = select(JobRow.id).where(JobRow.lease_token.is_not(None))
            return session.scalars(held).first() is not None

    work = Work()
    with capture_logs() as logs, working(sqlite_parts, work):
        eventually(lambda: worker_names(sqlite_parts))
        with no_more_threads():
            enqueue(sqlite_parts, *[New(Kind.INGEST)] * 3)
            eventually(lambda: logged(logs, "claim"))
        # Long before their leases are over; some jobs are periodic ones.
        eventually(lambda: not rows(sqlite_parts) and not leased())

    assert len(work.ran) == 3


def test_a_worker_that_cannot_wait_any_longer_gives_back_what_costs_nothing(
    sqlite_parts: Services, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.worker.GRACE_SECONDS", 0.2)
    work = Work(gate=gate)
    enqueue(sqlite_parts, New(Kind.INGEST), New(Kind.HOLD, provider="agcloud"))

    def claimed(queue: str) -> list[Job]:
        with sqlite_parts.db.transaction() as session:
            return jobs.claim(session, queue, Terms(9), worker="other", seconds=60)

    with working(sqlite_parts, work) as worker:
        eventually(lambda: len(work.ran) == 2)
        worker.stop()
        eventually(lambda: [job for job in claimed("work") if job.kind is Kind.INGEST and job.lost])
        assert claimed("hold:agcloud") == []
        assert worker_names(sqlite_parts) == [worker.name]
        gate.set()
        eventually(lambda: not worker_names(sqlite_parts))


def test_a_worker_shows_that_it_lives_and_says_good_bye(sqlite_parts: Services) -> None:
    def is_seen() -> bool:
        with sqlite_parts.db.reading() as session:
            return worker_seen(session, 5)

    with sqlite_parts.db.transaction() as session:
        session.add(WorkerRow(name="dead long ago", seen_at=db_now(-3600)))
        session.add(WorkerRow(name="silent for a moment", seen_at=db_now(-10)))
    assert not is_seen()

    with working(reconfigured(sqlite_parts, lease_seconds=1.5), Work()) as worker:
        eventually(lambda: set(worker_names(sqlite_parts)) == {worker.name, "silent for a moment"})
        assert is_seen()
        with sqlite_parts.db.transaction() as session:
            session.execute(update(WorkerRow).values(seen_at=db_now(-10)))
        assert not is_seen()
        eventually(is_seen)

    assert worker_names(sqlite_parts) == ["silent for a moment"]


@pytest.mark.parametrize(
    ("kind", "workers", "limit"),
    [(Kind.SUBMIT, 3, 2), (Kind.INGEST, 1, 3)],
    ids=["of a provider, over all workers", "of one worker"],
)
def test_no_more_jobs_run_at_once_than_the_limit(
    sqlite_parts: Services, gate: threading.Event, kind: Kind, workers: int, limit: int
) -> None:
    parts = reconfigured(sqlite_parts, provider_concurrency=2, worker_concurrency=3)
    work = Work(gate=gate)
    enqueue(parts, *[New(kind, provider="acedata")] * 8)
    with working(parts, work, workers=workers):
        eventually(lambda: work.at_once == limit)
        gate.set()
        eventually(lambda: not rows(parts))

    assert work.most_at_once == limit
    assert len(work.ran) == 8


def test_however_many_hang_one_who_does_well_has_all_its_places(
    sqlite_parts: Services, gate: threading.Event
) -> None:
    def run(_services: Services, job: Job) -> None:
        ran[job.queue] += 1
        if job.queue != "deliver:good" or ran[job.queue] > 50:
            assert gate.wait(PATIENCE)

    def deliveries(names: list[str], times: int) -> list[New]:
        return [New(Kind.DELIVER, queue=f"deliver:{name}") for name in names * times]

    ran: Counter[str] = Counter()
    work = Work()
    work.handler = Handler(run)
    dead = [f"dead{number}" for number in range(DELIVERIES + 3)]
    enqueue(sqlite_parts, *deliveries(dead, 5))
    with working(sqlite_parts, work):
        eventually(lambda: len(ran) == DELIVERIES)
        enqueue(sqlite_parts, *deliveries(["good"], 60))
        eventually(lambda: ran["deliver:good"] == 50 + DELIVERIES_TO_ONE)
        eventually(lambda: len(ran) == len(dead) + 1)
        assert ran.total() == len(dead) + 50 + DELIVERIES_TO_ONE
        gate.set()


def test_a_job_that_is_not_done_runs_again_with_what_it_concluded(sqlite_parts: Services) -> None:
    def run(_services: Services, job: Job) -> jobs.Ending:
        def conclude(session: Session) -> None:
            session.add(Audit(actor="worker", action=f"after {job.failures}"))

        return jobs.Again(0.01, conclude, counts=job.failures < 2) if job.attempts < 4 else conclude

    work = Work()
    work.handler = Handler(run)
    enqueue(sqlite_parts, New(Kind.DELIVER, queue="deliver:one"))
    with working(sqlite_parts, work):
        eventually(lambda: not rows(sqlite_parts))

    assert audits(sqlite_parts) == ["after 0", "after 1", "after 2", "after 2"]


@pytest.mark.parametrize("kind", [Kind.SUBMIT, Kind.STORE_IMAGE])
def test_what_waits_for_others_keeps_no_other_work_waiting(
    sqlite_parts: Services, gate: threading.Event, kind: Kind
) -> None:
    work = Work(gate=gate)
    few = reconfigured(sqlite_parts, provider_concurrency=2, worker_concurrency=2)
    enqueue(sqlite_parts, *[New(kind, provider="acedata")] * 5)
    with working(few, work):
        eventually(lambda: work.at_once == 2)
        enqueue(sqlite_parts, New(Kind.INGEST))
        eventually(lambda: work.at_once == 3)
        gate.set()


def test_periodic_jobs_run_again_and_again(sqlite_parts: Services) -> None:
    def first_due() -> datetime | None:
        with sqlite_parts.db.reading() as session:
            return session.scalar(select(JobRow.due_at).filter_by(kind=Kind.EXPIRE, attempts=2))

    with working(sqlite_parts, Work()):
        eventually(first_due)
