"""Edits at providers that answer with the result: a worker holds the call open until it has come.

`sources` fetches the images that such a provider wants as files, `streams` reads an answer that comes
as events, `partials` keeps the images that come before the last ones, and `answers` hands over what
was answered.
"""

from dataclasses import replace
from functools import partial
from typing import BinaryIO
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from app import edits, tasks, uploads
from app.errors import OutboundError
from app.holds import answers, sources, streams
from app.holds.partials import Partials
from app.jobs import Conclusion, Job
from app.models import Task, TaskStatus
from app.outbound import Limits, Streamed
from app.providers.base import File, Provider, Result, Unknown
from app.scratch import scratch, write
from app.services import Services
from app.wire import Response

log = structlog.get_logger()

# Far more than the 10 to 180 s that a provider needs: who gives up has paid for nothing.
LIMITS = Limits(connect=10, read=600, total=900)
# Of an answer that is an error.
ERROR_BYTES = 2**20


def hold(services: Services, job: Job) -> Conclusion | None:
    """Send the edit, at most once, and wait for its result.

    Raises what says that nothing was begun, so that it may be sent again: `NotSentError`,
    `ProviderError`, `StorageError`, and `ImageError` or `InvalidFieldError` for a source that is none.
    """
    inputs = edits.inputs_of(services, job)
    with (
        sources.at_hand(services, job, inputs) as fetched,
        uploads.at_hand(services, inputs) as uploaded,
        scratch() as answer,
    ):
        if fetched is None or (task := edits.begin(services, job)) is None:
            return None
        files = (*fetched, *uploaded)
        outcome = edits.once(job, partial(_call, services, task, files, answer))
    return partial(_conclude, job, task.id, outcome)


def lost(services: Services, job: Job) -> Conclusion | None:
    """The worker before went silent: if it had begun to send, the answer went with it."""
    with services.db.reading() as session:
        task = session.get_one(Task, job.task_id)
    if task.submitting_at is None and task.status is TaskStatus.QUEUED:
        return hold(services, job)
    outcome = Unknown("the worker that held the call went silent")
    return partial(_note, task.id, outcome)


def _call(
    services: Services, task: Task, files: tuple[File, ...], answer: BinaryIO
) -> Result | Unknown:
    provider = services.providers[task.provider]
    request = provider.submit_request(edits.edit_of(services, task, files))
    limits = replace(LIMITS, bytes=services.config.max_callback_bytes)
    with services.outbound.stream(request, limits) as response:
        if not 200 <= response.status < 300:
            return _refused(provider, response)
        try:
            _receive(services, task, provider, response, answer)
        except OutboundError as error:
            return Unknown(str(error), answering=True)
    outcome = answers.read(provider, answer)
    if isinstance(outcome, Result):
        # Now, and whatever has become of the lease: the work is done and was paid for.
        answers.take_in(services, task.id, answer, outcome)
    return outcome


def _receive(
    services: Services, task: Task, provider: Provider, response: Streamed, answer: BinaryIO
) -> None:
    content_type = response.headers.get("content-type", "").lower()
    if not content_type.startswith("text/event-stream"):
        for piece in response:
            write(answer, piece)
        return
    _note_submitted(services, task.id)
    with Partials(services, task.id) as partials:
        expected = task.request.get("n", 1)
        streams.receive(response, provider, partials, answer, expected=expected)


def _refused(provider: Provider, response: Streamed) -> Unknown:
    body = b""
    for piece in response:
        body += piece
        if len(body) > ERROR_BYTES:
            break
    submission = provider.read_submission(Response(response.status, response.headers, body))
    return submission if isinstance(submission, Unknown) else Unknown("no answer to an edit")


def _note_submitted(services: Services, task_id: UUID) -> None:
    try:
        with services.db.transaction() as session:
            task = tasks.lock(session, task_id)
            if task.status is TaskStatus.QUEUED:
                tasks.submitted(session, task, None, ask_after=None)
    except Exception as error:
        # Nice to know; the result, which is under way, matters more.
        log.warning("not noted as submitted", action="hold", error=type(error).__name__)


def _conclude(job: Job, task_id: UUID, outcome: Result | Unknown, session: Session) -> None:
    _note(task_id, outcome, session)
    if isinstance(outcome, Unknown) and not outcome.answering:
        edits.note_provider(session, job, outcome.reason)
    else:
        edits.note_provider(session, job, None)


def _note(task_id: UUID, outcome: Result | Unknown, session: Session) -> None:
    if isinstance(outcome, Unknown):
        tasks.uncertain(session, tasks.lock(session, task_id), outcome.reason)
