"""Judging what came in: what is kept, what moves a task, what is refused."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, bindparam, case, insert, null, or_, select, update
from sqlalchemy.orm import Session

from app import events, jobs
from app.bodies import Body
from app.columns import db_now
from app.events import Fact, Happened
from app.jobs import Kind
from app.models import (
    UNANSWERED,
    Base,
    Callback,
    Source,
    Task,
    TaskStatus,
    Verdict,
    Verification,
)
from app.providers.base import Result

VERIFICATIONS = {
    Source.CALLBACK: Verification.TOKEN,
    Source.RESPONSE: Verification.RESPONSE,
    Source.LOOKUP: Verification.CONFIRMED,
}

_LARGEST = 2**63 - 1
# How we write our own ids.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# On the tables, not the models: the ORM executes an update many times at once by primary key only.
_TASKS, _CALLBACKS = Base.metadata.tables["tasks"], Base.metadata.tables["callbacks"]
_MOVE_TASK = (
    update(_TASKS)
    .where(Task.id == bindparam("moved_id"))
    .values(
        status=bindparam("new_status"),
        provider_task_id=bindparam("new_provider_task_id"),
        result_id=bindparam("new_result_id"),
        verification=bindparam("new_verification"),
        usage=bindparam("new_usage"),
        error_code=bindparam("new_error_code"),
        error_message=bindparam("new_error_message"),
        error_status=bindparam("new_error_status"),
        received_at=db_now(),
        finished_at=case((bindparam("failed", type_=Boolean()), db_now()), else_=null()),
        ask_at=None,
    )
)
_COUNT_DUPLICATE = (
    update(_CALLBACKS)
    .where(Callback.id == bindparam("callback_id"))
    .values(duplicates=Callback.duplicates + 1)
)


class Outcome(StrEnum):
    """What became of one incoming body."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    GONE = "gone"


@dataclass(frozen=True)
class Taken:
    """An outcome, and the reason when it is a rejection."""

    outcome: Outcome
    reason: str | None = None


@dataclass(frozen=True)
class Incoming:
    """One body that came in, or was refused.

    With a `result` it is judged at once.  With a `reason` it is refused already and only kept.  With
    neither it is a large body, in chunks, that the worker has yet to read.
    """

    source: Source
    body: Body
    task_id: UUID | None = None
    result: Result | None = None
    reason: str | None = None
    address: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _TaskState:
    """What judging needs to know of a task; follows the verdicts within a batch."""

    id: UUID
    provider: str
    provider_task_id: str | None
    status: TaskStatus


def take_in(session: Session, batch: Sequence[Incoming]) -> list[Taken]:
    """Judge and store `batch`, in its order; the tasks stay locked until the transaction ends."""
    return _Ledger(session, batch).settle()


def read_through(
    session: Session, callback_id: UUID, task_id: UUID, source: Source, read: Result | str
) -> Taken:
    """Judge a large body that the worker has now read: its result, or why it is none."""
    incoming = Incoming(
        source,
        Body(id=callback_id),
        task_id,
        result=read if isinstance(read, Result) else None,
        reason=read if isinstance(read, str) else None,
    )
    ledger = _Ledger(session, [incoming])
    taken = ledger.judge(incoming)
    verdict = Verdict(taken.outcome)
    session.execute(
        update(Callback)
        .where(Callback.id == callback_id)
        .values(checked=True, verdict=verdict, reason=taken.reason)
    )
    ledger.write_changes()
    return taken


class _Ledger:
    """One batch: what is known before it, and what is to be written after it."""

    def __init__(self, session: Session, batch: Sequence[Incoming]) -> None:
        self._session = session
        self._batch = batch
        self._tasks = self._lock_tasks()
        self._known = self._known_bodies()
        self._owners = self._owners_of_provider_ids()
        self._rows: list[dict[str, Any]] = []
        self._duplicates: list[dict[str, Any]] = []
        self._moves: list[dict[str, Any]] = []
        self._jobs: list[jobs.New] = []
        self._facts: list[Fact] = []

    def settle(self) -> list[Taken]:
        """Judge everything, then write it with one statement for each table."""
        taken = [self._take(incoming) for incoming in self._batch]
        if self._rows:
            self._session.execute(insert(Callback), self._rows)
        if self._duplicates:
            self._session.connection().execute(_COUNT_DUPLICATE, self._duplicates)
        self.write_changes()
        return taken

    def write_changes(self) -> None:
        """Move the tasks, enqueue their jobs, tell their timelines."""
        if self._moves:
            self._session.connection().execute(_MOVE_TASK, self._moves)
        jobs.enqueue(self._session, *self._jobs)
        events.record(self._session, *self._facts)

    def judge(self, incoming: Incoming) -> Taken:
        """What becomes of a body that was not seen before; notes what is to be changed."""
        task = self._tasks.get(incoming.task_id) if incoming.task_id else None
        if incoming.reason is not None:
            return Taken(Outcome.REJECTED, incoming.reason)
        if task is None:
            return Taken(Outcome.GONE)
        if incoming.result is None:
            self._jobs.append(jobs.New(Kind.INGEST, task.id, incoming.body.id))
            return Taken(Outcome.ACCEPTED)
        if reason := self._foreign(task, incoming.result):
            self._facts.append(Fact(task.id, Happened.REJECTED, {"reason": reason}))
            return Taken(Outcome.REJECTED, reason)
        if not _may_move(task.status, incoming.result):
            self._facts.append(
                Fact(task.id, Happened.CONFLICT, {"callback_id": str(incoming.body.id)})
            )
            return Taken(Outcome.CONFLICT)
        self._move(task, incoming, incoming.result)
        return Taken(Outcome.ACCEPTED)

    def _take(self, incoming: Incoming) -> Taken:
        seen = (incoming.task_id, incoming.body.sha256)
        if incoming.body.sha256 and seen in self._known:
            first, taken = self._known[seen]
            self._duplicates.append({"callback_id": first})
            return taken
        taken = self.judge(incoming)
        if taken.outcome is not Outcome.GONE:
            self._rows.append(self._row(incoming, taken))
            self._known[seen] = incoming.body.id, _taken_again(taken.outcome, taken.reason)
        return taken

    def _foreign(self, task: _TaskState, result: Result) -> str | None:
        """Why a body is not this task's, by the task id that it names; a missing one is fine."""
        named = result.provider_task_id
        if named is None or named in {task.provider_task_id, str(task.id)}:
            return None
        if task.provider_task_id is not None:
            return f"task_id: expected {task.provider_task_id!r}, not {named!r}"
        if self._owners.get((task.provider, named), task.id) != task.id:
            return f"task_id: {named!r} is another task's"
        return None

    def _move(self, task: _TaskState, incoming: Incoming, result: Result) -> None:
        error = result.error
        if result.provider_task_id != str(task.id):
            task.provider_task_id = task.provider_task_id or result.provider_task_id
            self._owners.setdefault((task.provider, task.provider_task_id), task.id)
        task.status = TaskStatus.FAILED if error else TaskStatus.RECEIVED
        self._moves.append(
            {
                "moved_id": task.id,
                "new_status": task.status,
                "new_provider_task_id": task.provider_task_id,
                "new_result_id": incoming.body.id,
                "new_verification": VERIFICATIONS[incoming.source],
                "new_usage": result.usage,
                "new_error_code": error and error.code,
                "new_error_message": error and str(error),
                "new_error_status": error and error.status,
                "failed": error is not None,
            }
        )
        detail: dict[str, Any] = {"callback_id": str(incoming.body.id), "source": incoming.source}
        if error:
            detail |= {"code": error.code, "message": str(error)}
            self._facts.append(Fact(task.id, Happened.FAILED, detail))
        else:
            self._facts.append(Fact(task.id, Happened.RECEIVED, detail))
            self._jobs.append(jobs.New(Kind.INGEST, task.id, incoming.body.id))

    def _row(self, incoming: Incoming, taken: Taken) -> dict[str, Any]:
        return {
            "id": incoming.body.id,
            "task_id": incoming.task_id if incoming.task_id in self._tasks else None,
            "source": incoming.source,
            "verdict": Verdict(taken.outcome),
            "reason": taken.reason,
            "address": incoming.address,
            "headers": dict(incoming.headers),
            # What a refused body's header declares can be any number.
            "size": incoming.body.size and min(incoming.body.size, _LARGEST),
            "sha256": incoming.body.sha256,
            "body": incoming.body.inline,
            "checked": incoming.result is not None or incoming.reason is not None,
        }

    def _lock_tasks(self) -> dict[UUID, _TaskState]:
        ids = {incoming.task_id for incoming in self._batch if incoming.task_id}
        # In the order of their ids, so that two batches cannot wait for each other.
        rows = self._session.execute(
            select(Task.id, Task.provider, Task.provider_task_id, Task.status)
            .where(Task.id.in_(ids))
            .order_by(Task.id)
            .with_for_update()
        )
        return {row.id: _TaskState(row[0], row[1], row[2], TaskStatus(row[3])) for row in rows}

    def _known_bodies(self) -> dict[tuple[UUID | None, str | None], tuple[UUID, Taken]]:
        rows = self._session.execute(
            select(
                Callback.task_id, Callback.sha256, Callback.id, Callback.verdict, Callback.reason
            )
            .where(Callback.task_id.in_(self._tasks))
            .where(Callback.sha256.in_({incoming.body.sha256 for incoming in self._batch}))
        )
        return {(row[0], row[1]): (row[2], _taken_again(row[3], row[4])) for row in rows}

    def _owners_of_provider_ids(self) -> dict[tuple[str, str | None], UUID]:
        """Whose the provider's ids are that come for tasks whose own is not known yet."""
        named = {
            incoming.result.provider_task_id
            for incoming in self._batch
            if incoming.result
            and incoming.result.provider_task_id
            and (task := self._tasks.get(incoming.task_id or incoming.body.id))
            and task.provider_task_id is None
        }
        if not named:
            return {}
        rows = self._session.execute(
            select(Task.provider, Task.provider_task_id, Task.id).where(
                or_(Task.provider_task_id.in_(named), Task.id.in_(_uuids(named)))
            )
        )
        return {(row[0], name): row[2] for row in rows for name in (row[1], str(row[2]))}


def _may_move(status: TaskStatus, result: Result) -> bool:
    # A success was paid for: it replaces a failure and a deadline.  Nothing replaces a success.
    return status in UNANSWERED or (status is TaskStatus.FAILED and result.error is None)


def _uuids(names: Iterable[str]) -> list[UUID]:
    return [UUID(name) for name in names if _UUID.fullmatch(name)]


def _taken_again(verdict: str, reason: str | None) -> Taken:
    if verdict == Verdict.REJECTED:
        return Taken(Outcome.REJECTED, reason)
    return Taken(Outcome.DUPLICATE)
