"""The job loop: claims jobs, runs each in a thread of its own, and writes down how it ended."""

import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import uuid4

import structlog
from sqlalchemy import delete, insert, update
from sqlalchemy.orm import Session

from app import edits, holds, images, jobs, reconcile, results, retention
from app.columns import db_now
from app.db import OUTAGE_PAUSE_SECONDS, is_outage
from app.errors import LeaseLostError, PostbackError, TablesError
from app.jobs import Again, Conclusion, Due, Ending, Job, Kind, OnLost, Retry, Shares, Terms
from app.models import Worker as Row
from app.push import deliveries
from app.push.relay import Relay
from app.services import Services

log = structlog.get_logger()

# How long to wait for a wake-up: none tells of a job whose time has come, and between processes on
# SQLite there is none at all.
POLL_SECONDS = {"postgresql": 0.25, "sqlite": 0.1}
# Somebody has to migrate them first.
TABLES_PAUSE_SECONDS = 2.0
# Hosts kill a process 30 s after they asked it to end.
GRACE_SECONDS = 25.0
# A worker that was not seen for this many leases is forgotten.
FORGOTTEN_LEASES = 20


@dataclass(frozen=True)
class Handler:
    """What one kind of job does.

    `run` does the work, outside of any transaction, and gives what is left to write, or that it is not
    done and runs again.  `lost` runs instead when the worker before this one went silent and the policy
    is not simply to retry.
    `failed` takes note of an error in the transaction that reschedules the job or, when its last
    argument says so, ends it.
    """

    run: Callable[[Services, Job], Ending]
    lost: Callable[[Services, Job], Ending] | None = None
    failed: Callable[[Session, Job, BaseException, bool], None] | None = None


HANDLERS: Mapping[Kind, Handler] = {
    Kind.SUBMIT: Handler(edits.submit, lost=edits.submission_lost, failed=edits.submission_failed),
    Kind.HOLD: Handler(holds.hold, lost=holds.lost, failed=edits.submission_failed),
    Kind.INGEST: Handler(results.ingest, failed=results.ingestion_failed),
    Kind.COMPACT: Handler(results.compact),
    Kind.STORE_IMAGE: Handler(images.store, failed=images.storing_failed),
    Kind.DELIVER: Handler(deliveries.deliver, failed=deliveries.delivery_failed),
    Kind.RECONCILE: Handler(reconcile.ask),
    Kind.EXPIRE: Handler(reconcile.expire),
    Kind.PURGE: Handler(retention.purge),
}


class Worker:
    """One worker of any number; `run` returns after `stop`."""

    def __init__(self, services: Services, handlers: Mapping[Kind, Handler] = HANDLERS) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:6]}"
        self._services = services
        self._handlers = handlers
        self._places = jobs.places(services.config)
        self._shares = Shares(self._places)
        self._pulse = jobs.Pulse(services.config.lease_seconds)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._drained = threading.Event()

    def run(self) -> None:
        """Work until `stop`, then wait for what is under way: at most `GRACE_SECONDS`, but for jobs
        that are patient as long as it takes.
        """
        db = self._services.db
        self._await_tables()
        db.signals.connect(jobs.CHANNEL, lambda _payload: self._wake.set())
        db.listen()
        heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heartbeat.start()
        relay = Relay(self._services)
        relaying = threading.Thread(target=relay.run, name="relay", daemon=True)
        relaying.start()
        log.info("worker started", action="start", worker=self.name)
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                if self._pulse.steady:
                    self._claim_all()
            except Exception as error:
                _log_trouble("claim", error)
                self._stopping.wait(OUTAGE_PAUSE_SECONDS)
            self._wake.wait(POLL_SECONDS[db.engine.dialect.name])
        relay.stop()
        self._drain()
        # Before this worker's row goes: a last beat would put it there again.
        heartbeat.join()
        relaying.join()
        self._leave()
        log.info("worker stopped", action="stop", worker=self.name)

    def _await_tables(self) -> None:
        """Return when the database has the tables of this version; until then say what is missing."""
        while not self._stopping.is_set():
            try:
                self._services.db.check()
            except TablesError as error:
                log.error("cannot work yet", action="start", error=str(error))
                self._stopping.wait(TABLES_PAUSE_SECONDS)
            except Exception as error:
                _log_trouble("start", error)
                self._stopping.wait(OUTAGE_PAUSE_SECONDS)
            else:
                return

    def stop(self) -> None:
        """Claim nothing more, and let `run` return."""
        self._stopping.set()
        self._wake.set()

    def _claim_all(self) -> None:
        with self._services.db.reading() as session:
            due = jobs.due_queues(session)
        lanes: dict[str, list[Due]] = defaultdict(list)
        for each in due:
            lanes[jobs.lane_of(each.queue)].append(each)
        for lane in lanes.keys() & self._places.keys():
            self._shares.give_out(lane, lanes[lane], self._claim)

    def _claim(self, due: Due, room: int) -> int:
        places = self._places[jobs.lane_of(due.queue)]
        terms = Terms(room, places.everywhere, places.rate, due.probe)
        seconds, held = self._services.config.lease_seconds, self._shares.held
        with self._services.db.transaction() as session:
            claimed = jobs.claim(
                session, due.queue, terms, worker=self.name, seconds=seconds, held=held
            )
        for number, job in enumerate(claimed):
            self._shares.hold(job)
            try:
                threading.Thread(target=self._work, args=(job,), name=job.kind, daemon=True).start()
            except RuntimeError:
                # The system has no thread left: a job that is held and not run would stay so for ever.
                self._shares.drop(job)
                self._give_back(claimed[number:])
                raise
        return len(claimed)

    def _work(self, job: Job) -> None:
        structlog.contextvars.bind_contextvars(
            job=job.id, kind=job.kind, task_id=job.task_id and str(job.task_id)
        )
        try:
            self._run(job, self._handlers[job.kind])
        except LeaseLostError as error:
            log.warning("job lost", action="lose", reason=str(error))
        except Exception:
            # The lease runs out, and the job is taken over.
            log.exception("job neither finished nor failed", action="abandon")
        finally:
            self._shares.drop(job)
            self._wake.set()

    def _run(self, job: Job, handler: Handler) -> None:
        lost = job.lost and job.policy.on_lost is OnLost.RECONCILE and handler.lost
        try:
            ending = (lost or handler.run)(self._services, job)
        except LeaseLostError:
            raise
        except Exception as error:
            self._fail(job, handler, error)
        else:
            # Not in the `try`: once the work is done, it must not count as never begun.
            self._commit(job, ending)

    def _commit(self, job: Job, ending: Ending) -> None:
        again = ending if isinstance(ending, Again) else None
        conclude = ending.conclude if isinstance(ending, Again) else ending

        def write(session: Session) -> None:
            if again:
                jobs.retry(session, job, Retry(again.seconds, again.counts))
            else:
                jobs.finish(session, job)
            if conclude is not None:
                conclude(session)

        self._shares.judge(job, done=again is None)
        self._insist(write)

    def _fail(self, job: Job, handler: Handler, error: Exception) -> None:
        decision = jobs.decide(job.policy, job.failures, error)
        _log_failure(error, decision)
        self._shares.judge(job, done=False)

        def write(session: Session) -> None:
            if decision is None:
                jobs.finish(session, job)
            else:
                jobs.retry(session, job, decision, error)
            if handler.failed is not None:
                handler.failed(session, job, error, decision is None)

        self._insist(write)

    def _insist(self, write: Conclusion) -> None:
        # The work is done and may have cost money: what came of it is written down however long the
        # database is away.  Should somebody else have taken over by then, the lease says so.
        self._services.db.insist(write)

    def _beat(self) -> None:
        seconds = self._services.config.lease_seconds
        pause = 0.0
        while not self._drained.wait(pause):
            try:
                self._renew(seconds)
            except Exception as error:
                _log_trouble("beat", error)
                # As soon as claims are tried again: what is held must not look lost to the others.
                pause = OUTAGE_PAUSE_SECONDS
            else:
                pause = self._pulse.pause
                self._pulse.beat()
                # It may claim now.
                self._wake.set()

    def _renew(self, seconds: float) -> None:
        held = self._shares.held
        with self._services.db.transaction() as session:
            if held:
                jobs.renew(session, held, seconds)
            seen = update(Row).where(Row.name == self.name).values(seen_at=db_now())
            if session.scalar(seen.returning(Row.name)) is None:
                session.execute(insert(Row).values(name=self.name))
                jobs.ensure_periodic(session, self._services.providers)
            forgotten = Row.seen_at < db_now(-FORGOTTEN_LEASES * seconds)
            session.execute(delete(Row).where(forgotten))

    def _drain(self) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while self._shares.held and time.monotonic() < deadline:
            self._pause()
        hasty = [job for job in self._shares.held if not job.policy.patient]
        for job in hasty:
            self._shares.drop(job)
        self._give_back(hasty)
        while self._shares.held:
            self._pause()
        self._drained.set()

    def _pause(self) -> None:
        self._wake.clear()
        self._wake.wait(0.1)

    def _give_back(self, unfinished: list[Job]) -> None:
        try:
            with self._services.db.transaction() as session:
                jobs.release(session, unfinished)
        except Exception as error:
            _log_trouble("drain", error)

    def _leave(self) -> None:
        try:
            with self._services.db.transaction() as session:
                session.execute(delete(Row).where(Row.name == self.name))
        except Exception as error:
            _log_trouble("drain", error)


def _log_trouble(action: str, error: Exception) -> None:
    if is_outage(error):
        log.warning("database away", action=action, error=str(error))
    else:
        log.error("worker error", action=action, exc_info=error)


def _log_failure(error: Exception, decision: jobs.Retry | None) -> None:
    known = isinstance(error, PostbackError) or is_outage(error)
    log.warning(
        "job failed" if decision is None else "job will be tried again",
        action="fail" if decision is None else "retry",
        error=f"{type(error).__name__}: {error}",
        retry_in=decision and round(decision.seconds, 1),
        exc_info=None if known else error,
    )
