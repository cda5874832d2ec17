"""Judging what came in: what is kept, what moves a task, what is refused."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from app import events, jobs
from app.bodies import Body
from app.bulk import together
from app.events import Fact, Happened
from app.inbox import rows
from app.inbox.rows import TaskState
from app.inbox.values import BROKEN_TRANSFER, Incoming, Outcome, Taken
from app.jobs import Kind
from app.models import UNANSWERED, Callback, Source, TaskStatus, Verdict, Verification
from app.providers.base import Result

VERIFICATIONS = {
    Source.CALLBACK: Verification.TOKEN,
    Source.RESPONSE: Verification.RESPONSE,
    Source.LOOKUP: Verification.CONFIRMED,
}

_LARGEST = 2**63 - 1


def take_in(
    session: Session, batch: Sequence[Incoming], confirmed: Collection[str] = ()
) -> list[Taken]:
    """Judge and store `batch`, in its order; the tasks stay locked until the transaction ends.

    A callback of one of the providers in `confirmed` is kept, and moves nothing: its provider is asked.
    """
    return _Ledger(session, batch, confirmed).settle()


def read_through(
    session: Session,
    callback_id: UUID,
    task_id: UUID,
    source: Source,
    read: Result | str,
    confirmed: Collection[str] = (),
) -> Taken:
    """Judge a large body that the worker has now read: its result, or why it is none."""
    incoming = Incoming(
        source,
        Body(id=callback_id),
        task_id,
        result=read if isinstance(read, Result) else None,
        reason=read if isinstance(read, str) else None,
    )
    ledger = _Ledger(session, [incoming], confirmed)
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

    def __init__(
        self, session: Session, batch: Sequence[Incoming], confirmed: Collection[str]
    ) -> None:
        self._session = session
        self._batch = batch
        self._confirmed = confirmed
        self._tasks = rows.lock_tasks(session, {each.task_id for each in batch if each.task_id})
        digests = {each.body.sha256 for each in batch if each.body.sha256}
        self._known = rows.known_bodies(session, self._tasks, digests)
        self._owners = rows.owners_of(session, self._new_names())
        self._callbacks: dict[UUID, dict[str, Any]] = {}
        self._revised: list[dict[str, Any]] = []
        self._duplicates: Counter[UUID] = Counter()
        self._moves: dict[UUID, dict[str, Any]] = {}
        self._asked: set[UUID] = set()
        self._jobs: list[jobs.New] = []
        self._facts: list[Fact] = []

    def settle(self) -> list[Taken]:
        """Judge everything, then write it."""
        taken = [self._take(incoming) for incoming in self._batch]
        for id_, callback in self._callbacks.items():
            callback["duplicates"] = self._duplicates.pop(id_, 0)
        # On its own: one statement changes a row once, and its duplicates may be counted, too.
        rows.revise_callbacks(self._session, self._revised)
        with together(self._session):
            rows.insert_callbacks(self._session, list(self._callbacks.values()))
            rows.count_duplicates(self._session, self._duplicates)
            self.write_changes()
        return taken

    def write_changes(self) -> None:
        """Move the tasks, enqueue their jobs, tell their timelines."""
        rows.move_tasks(self._session, list(self._moves.values()))
        rows.ask_about(self._session, self._asked)
        jobs.enqueue(self._session, *self._jobs)
        events.record(self._session, *self._facts)

    def judge(self, incoming: Incoming) -> Taken:
        """What becomes of a body that was not seen before; notes what is to be changed."""
        task = self._tasks.get(incoming.task_id) if incoming.task_id else None
        if task is None and (incoming.task_id or incoming.reason is None):
            return Taken(Outcome.GONE)
        if incoming.reason is not None or task is None:
            return Taken(Outcome.REJECTED, incoming.reason)
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
        if incoming.source is Source.CALLBACK and task.provider in self._confirmed:
            self._asked.add(task.id)
            self._facts.append(
                Fact(task.id, Happened.ASKED, {"callback_id": str(incoming.body.id)})
            )
        else:
            self._move(task, incoming, incoming.result)
        return Taken(Outcome.ACCEPTED)

    def _take(self, incoming: Incoming) -> Taken:
        seen = (incoming.task_id, incoming.body.sha256)
        if incoming.body.sha256 and seen in self._known:
            first, taken = self._known[seen]
            if self._confirms(incoming) or (
                taken.outcome is Outcome.REJECTED and self._may_be_believed(incoming, taken)
            ):
                return self._take_after_all(incoming, first)
            self._duplicates[first] += 1
            return taken.again()
        taken = self.judge(incoming)
        if taken.outcome is not Outcome.GONE:
            self._callbacks[incoming.body.id] = self._callback(incoming, taken)
            self._known[seen] = incoming.body.id, taken
        return taken

    def _confirms(self, incoming: Incoming) -> bool:
        """Whether the provider itself says what a callback has said, which moved nothing so far."""
        task = self._tasks.get(incoming.task_id) if incoming.task_id else None
        if task is None or incoming.result is None or incoming.source is not Source.LOOKUP:
            return False
        return _may_move(task.status, incoming.result)

    def _may_be_believed(self, incoming: Incoming, before: Taken) -> bool:
        """Whether the bytes of a body that was refused before are no reason to refuse it now."""
        task = self._tasks.get(incoming.task_id) if incoming.task_id else None
        if task is None or incoming.reason is not None:
            return False
        if incoming.result is None:
            # A large one: for anything but its transfer it was refused by who has read it.
            return (before.reason or "").startswith(BROKEN_TRANSFER)
        return self._foreign(task, incoming.result) is None

    def _take_after_all(self, incoming: Incoming, first: UUID) -> Taken:
        """Judge a body as the one with the id `first`, which has the same bytes and did not count."""
        incoming = replace(incoming, body=replace(incoming.body, id=first))
        taken = self.judge(incoming)
        revised = {
            "verdict": Verdict(taken.outcome),
            "reason": None,
            "checked": incoming.result is not None,
        }
        if first in self._callbacks:
            self._callbacks[first] |= revised
        else:
            self._revised.append({"id": first, **revised})
        self._known[incoming.task_id, incoming.body.sha256] = first, taken
        return taken

    def _foreign(self, task: TaskState, result: Result) -> str | None:
        """Why a body is not this task's, by the task id that it names; a missing one is fine."""
        named = result.provider_task_id
        if named is None or named in {task.provider_task_id, str(task.id)}:
            return None
        if task.provider_task_id is not None:
            return f"task_id: expected {task.provider_task_id!r}, not {named!r}"
        theirs = self._owners.get((task.provider, named), task.id)
        if self._owners.get((None, named), theirs) != task.id:
            return f"task_id: {named!r} is another task's"
        return None

    def _move(self, task: TaskState, incoming: Incoming, result: Result) -> None:
        error = result.error
        if result.provider_task_id != str(task.id):
            task.provider_task_id = task.provider_task_id or result.provider_task_id
            self._owners.setdefault((task.provider, task.provider_task_id), task.id)
        task.status = TaskStatus.FAILED if error else TaskStatus.RECEIVED
        # By task: when one batch brings a failure and then a success, the last word is what counts.
        self._moves[task.id] = {
            "id": task.id,
            "status": task.status,
            "provider_task_id": task.provider_task_id,
            "result_id": incoming.body.id,
            "verification": VERIFICATIONS[incoming.source],
            "usage": result.usage,
            "error_code": error and error.code,
            "error_message": error and str(error),
            "error_status": error and error.status,
        }
        detail: dict[str, Any] = {"callback_id": str(incoming.body.id), "source": incoming.source}
        if error:
            detail |= {"code": error.code, "message": str(error)}
            self._facts.append(Fact(task.id, Happened.FAILED, detail))
        else:
            # Providers may give fewer than were asked for, and bill only those.
            detail |= {"asked": task.asked, "came": len(result.images)}
            self._facts.append(Fact(task.id, Happened.RECEIVED, detail))
            self._jobs.append(jobs.New(Kind.INGEST, task.id, incoming.body.id))

    def _new_names(self) -> set[str]:
        """The provider's ids that come for tasks whose own is not known yet."""
        return {
            each.result.provider_task_id
            for each in self._batch
            if each.result
            and each.result.provider_task_id
            and each.task_id
            and (task := self._tasks.get(each.task_id))
            and task.provider_task_id is None
        }

    def _callback(self, incoming: Incoming, taken: Taken) -> dict[str, Any]:
        return {
            "id": incoming.body.id,
            "task_id": incoming.task_id if incoming.task_id in self._tasks else None,
            "source": incoming.source,
            "verdict": Verdict(taken.outcome),
            "reason": taken.reason,
            "address": incoming.address,
            "headers": dict(incoming.headers),
            # What a refused body's header declares can be any number.
            "bytes": incoming.body.size and min(incoming.body.size, _LARGEST),
            "sha256": incoming.body.sha256,
            "body": incoming.body.inline,
            "checked": incoming.result is not None or incoming.reason is not None,
        }


def _may_move(status: TaskStatus, result: Result) -> bool:
    # A success was paid for: it replaces a failure and a deadline.  Nothing replaces a success.
    return status in UNANSWERED or (status is TaskStatus.FAILED and result.error is None)
