"""A submission that comes again: under its key, or blindly, because its caller has got no answer.

Whoever is sent a task's answer whole has got it, and the task is `answered`.  That is known only after
the last byte was written: until then, `answering_at` says that somebody is at it.  It is committed before
the first byte goes out, so that a process that dies in between leaves a task that is not answered.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload
from uuid import UUID

import structlog
from sqlalchemy import case, exists, func, null, select, update
from sqlalchemy.orm import Session

from app.columns import db_now
from app.db import Database
from app.errors import InvalidFieldError, PostbackError, UnavailableError
from app.events import Happened
from app.inbox.batches import Batches
from app.models import Event, Task, TaskStatus
from app.services import Services

log = structlog.get_logger()

MAX_KEY_LENGTH = 255
# How long a submission waits to see whether the answer that is being written to an equal one gets
# through.  It is a matter of milliseconds, unless the process that wrote it is gone.
OUTCOME_SECONDS = 1.5
FIRST_PAUSE_SECONDS = 0.002
LONGEST_PAUSE_SECONDS = 0.05
# The provider may have done the work all the same, and want to be paid for it.
DOUBTFUL_CODES = frozenset({"timeout", "unknown_outcome"})

Create = Callable[[Session], Task]


class MismatchError(PostbackError):
    """The key was used for another submission."""

    code = "idempotency_mismatch"
    permanent = True


@dataclass(frozen=True)
class Call:
    """A submission as it can be recognised: by its `key`, if it has one, or by what it asks for.

    `waits` says that it is answered with the result; any other is answered as soon as it is stored.
    """

    api_key_id: UUID
    digest: str
    waits: bool
    key: str | None = None

    def columns(self) -> dict[str, Any]:
        """What the task keeps of it."""
        answering_at = None if self.waits else db_now()
        return {
            "idempotency_key": self.key,
            "digest": self.digest,
            "answering_at": answering_at,
        }

    @property
    def name(self) -> str:
        """The same for calls that may be one."""
        recognised_by = f"key {self.key}" if self.key is not None else self.digest
        return f"postback:{self.api_key_id}:{recognised_by}"


@dataclass(frozen=True)
class Entered:
    """The task that answers a call; `joined` is whether it was there before, `replayed` by its key."""

    task: Task
    joined: bool = False
    replayed: bool = False


def check_key(key: str | None) -> None:
    """Raise `InvalidFieldError` for an idempotency key that cannot be kept."""
    if key is not None and not 0 < len(key) <= MAX_KEY_LENGTH:
        rule = f"expected 1 to {MAX_KEY_LENGTH} characters, not {len(key)}"
        raise InvalidFieldError("Idempotency-Key", f"Idempotency-Key: {rule}")


class Turns:
    """Within a process, calls that may be one enter one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By name, the lock of those who wait for their turn, and how many they are.
        self._waiting: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """The block is run by one thread at a time for each `name`."""
        with self._lock:
            turn, others = self._waiting.get(name, (threading.Lock(), 0))
            self._waiting[name] = turn, others + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, waiting = self._waiting[name]
                self._waiting[name] = turn, waiting - 1
                if waiting == 1:
                    del self._waiting[name]


@overload
def enter(services: Services, turns: Turns, call: Call, create: Create) -> Entered: ...
@overload
def enter(services: Services, turns: Turns, call: Call) -> Entered | None: ...
def enter(
    services: Services, turns: Turns, call: Call, create: Create | None = None
) -> Entered | None:
    """The task of an earlier call that this one repeats, else the one that `create` makes.

    Raises `MismatchError`, and what `create` raises.
    """
    given_up: UUID | None = None
    # Without turns, all of a burst would wait for the same rows, with a connection each.
    with turns.turn(call.name):
        while True:
            with services.db.transaction() as session:
                _one_at_a_time(session, call.name)
                task = _earlier(session, call, services.config.resend_window)
                if task is None:
                    return Entered(create(session)) if create else None
                if call.key is not None or task.answering_at is None or task.id == given_up:
                    return _join(call, task)
            if not _outcome_is_known(services.db, task.id):
                given_up = task.id


def may_have_cost(session: Session, task: Task) -> bool:
    """Whether a task that failed may have been paid for: then only a person sends it again."""
    if task.error_code in DOUBTFUL_CODES:
        return True
    # Its images came, and could not be stored.
    came = exists().where(Event.task_id == task.id, Event.event == Happened.RECEIVED)
    return bool(session.scalar(select(came)))


def begin_answer(session: Session, task_id: UUID) -> None:
    """Note that an answer is being written, before it is."""
    session.execute(update(Task).where(Task.id == task_id).values(answering_at=db_now()))


class Marks:
    """Notes which answers got through, for many requests at once."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._batches = Batches("marks", self._write)

    def note(self, task_id: UUID, *, whole: bool) -> None:
        """The answer was written whole, or it was not; returns when that is known to all."""
        try:
            self._batches.ask((task_id, whole))
        except UnavailableError as error:
            # It then counts as not answered: better than to be paid for twice.
            log.warning("answer not noted", action="mark", error=str(error))

    def stop(self) -> None:
        """Write what is to be noted, and end."""
        self._batches.stop()

    def _write(self, batch: Sequence[tuple[UUID, bool]]) -> list[None]:
        whole = {task_id for task_id, got in batch if got}
        first_time = func.coalesce(Task.answered_at, db_now())
        # All at once, in the order in which everybody locks tasks: nobody may wait in a circle.
        ids = {task_id for task_id, _ in batch}
        locked = select(Task.id).where(Task.id.in_(ids)).order_by(Task.id).with_for_update()
        noted = update(Task).where(Task.id.in_(locked.scalar_subquery()))
        answered_at = case((Task.id.in_(whole), first_time), else_=Task.answered_at)
        with self._db.transaction() as session:
            session.execute(
                noted.values(answering_at=null(), answered_at=answered_at),
                execution_options={"synchronize_session": False},
            )
        return [None] * len(batch)


def _one_at_a_time(session: Session, name: str) -> None:
    """Until the transaction ends nobody else, on any machine, enters under `name`."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def _earlier(session: Session, call: Call, window_seconds: float) -> Task | None:
    if call.key is None:
        return _unanswered(session, call, window_seconds)
    task = session.scalars(
        select(Task).filter_by(api_key_id=call.api_key_id, idempotency_key=call.key)
    ).one_or_none()
    if task is None:
        return None
    if task.digest != call.digest:
        raise MismatchError(
            f"Idempotency-Key: {call.key!r} was used for another submission, task {task.id}"
        )
    if call.waits and _may_begin_anew(session, task):
        task.idempotency_key = None
        # Before the new task takes it.
        session.flush()
        return None
    return task


def _unanswered(session: Session, call: Call, window_seconds: float) -> Task | None:
    return session.scalars(
        select(Task)
        .where(Task.api_key_id == call.api_key_id, Task.digest == call.digest)
        .where(Task.answered_at.is_(None), Task.created_at >= db_now(-window_seconds))
        .order_by(Task.id.desc())
        .limit(1)
    ).first()


def _may_begin_anew(session: Session, task: Task) -> bool:
    """Whether it ended with what is never replayed, and surely without cost."""
    passing = (task.error_status or 0) >= 500 or task.error_status == 429
    return task.status is TaskStatus.FAILED and passing and not may_have_cost(session, task)


def _join(call: Call, task: Task) -> Entered:
    if not call.waits and task.answered_at is None:
        task.answering_at = db_now()
    return Entered(task, joined=True, replayed=call.key is not None)


def _outcome_is_known(db: Database, task_id: UUID) -> bool:
    """Wait until the answer that is being written got through or not; False when that takes too long."""
    open_ = select(Task.id).where(
        Task.id == task_id, Task.answering_at.is_not(None), Task.answered_at.is_(None)
    )
    deadline = time.monotonic() + OUTCOME_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while time.monotonic() < deadline:
        with db.glance() as connection:
            if connection.execute(open_).first() is None:
                return True
        # Nothing tells of it, and it happens within milliseconds.
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)
    return False
