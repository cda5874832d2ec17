"""What becomes of an accepted submission: the edit, its result, and the callback with it."""

import json
import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from app.errors import ProviderError
from app.sandbox import callbacks
from app.sandbox.acedata import envelopes
from app.sandbox.callbacks import Callback
from app.sandbox.edits import Edit
from app.sandbox.gallery import ClosedError
from app.sandbox.ledger import Task
from app.sandbox.misbehaviours import Wishes, Word
from app.sandbox.parts import Parts

logger = logging.getLogger(__name__)

Outcome = dict[str, Any] | ProviderError


@dataclass(frozen=True)
class Job:
    """An accepted edit, and where its result is sent to."""

    task: Task
    edit: Edit
    wishes: Wishes
    callback_url: str | None


class Work:
    """Does the jobs, each in a thread of the scheduler."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def accept(self, task: Task, edit: Edit, wishes: Wishes, callback_url: str | None) -> Job:
        """Counts the submission; its uploads wait on disk."""
        job = Job(task, edit.spooled(self._parts.gallery.spool), wishes, callback_url)
        self._parts.ledger.accept(task)
        return job

    def start(self, job: Job) -> Future[Outcome]:
        """Does the job after the usual delay; the future has its result, or why there is none."""
        return self._parts.scheduler.after(self._parts.options.delay, lambda: self._run(job))

    def finish(self, job: Job) -> None:
        """Does the job now; returns when its callback was answered."""
        _, callback = self._do(job)
        if callback:
            self._parts.courier.deliver(callback)

    def _run(self, job: Job) -> Outcome:
        outcome, callback = self._do(job)
        if callback:
            late = job.wishes.get(Word.LATE, 0)
            self._parts.scheduler.after(late, lambda: self._parts.courier.deliver(callback))
        return outcome

    def _do(self, job: Job) -> tuple[Outcome, Callback | None]:
        job.task.started_at = time.time()
        try:
            outcome = self._outcome(job)
            envelope = _envelope(job.task, outcome)
            self._parts.ledger.finish(job.task, envelope, len(json.dumps(envelope)))
            return outcome, self._callback(job, envelope)
        finally:
            job.edit.forget()

    def _outcome(self, job: Job) -> Outcome:
        try:
            return self._success(job, first=0)
        except ProviderError as error:
            return error
        except ClosedError:
            raise
        except Exception:
            logger.exception("The sandbox failed to edit")
            return _unexpected()

    def _success(self, job: Job, *, first: int) -> dict[str, Any]:
        pictures = self._parts.studio.make(job.edit, job.wishes, first=first)
        for picture in pictures:
            self._parts.ledger.made(job.task.key, picture.id, picture.sha256)
        return envelopes.success(job.task, job.edit, pictures, job.wishes, self._parts.base_url)

    def _callback(self, job: Job, envelope: dict[str, Any]) -> Callback | None:
        if not job.callback_url or Word.NEVER in job.wishes:
            return None
        results = self._results(job, envelope)
        return callbacks.plan(job.task.key, job.callback_url, results, job.wishes)

    def _results(self, job: Job, envelope: dict[str, Any]) -> list[dict[str, Any]]:
        if not envelope["success"]:
            return [envelope]
        if Word.SUCCESS_THEN_FAILURE in job.wishes:
            return [envelope, envelopes.failure(job.task, _unexpected())]
        if Word.FAILURE_THEN_SUCCESS in job.wishes:
            return [envelopes.failure(job.task, _unexpected()), envelope]
        if Word.TWO_SUCCESSES in job.wishes:
            return [envelope, self._success(job, first=job.edit.n)]
        return [envelope]


def _envelope(task: Task, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, ProviderError):
        return envelopes.failure(task, outcome)
    return outcome


def _unexpected() -> ProviderError:
    return ProviderError("the edit failed", code="api_error", status=500)
