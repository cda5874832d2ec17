"""An edit on its way to the provider: created, submitted once, and what becomes of that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import circuits, events, inbox, jobs, placements, search, tasks, uploads
from app.columns import db_now
from app.errors import (
    BlockedAddressError,
    ImageError,
    InvalidFieldError,
    NotSentError,
    OutboundError,
    PostbackError,
    ProviderError,
)
from app.events import Fact, Happened
from app.jobs import Job, Kind
from app.models import Input, Role, Source, Task, TaskStatus, made_at, new_id
from app.outbound import Limits
from app.providers.base import Accepted, Answered, Edit, File, Submission, Unknown
from app.providers.rules import NO_FILES, Choice, Files, Flag, Integer, Labels, Rules, Text
from app.services import Services

log = structlog.get_logger()

T = TypeVar("T")

# So many that fail, each an edit of its own: one or the other may be at fault itself.
FAILURES_IN_A_ROW = 10
SUBMIT_LIMITS = Limits(connect=10, read=120, total=180, bytes=64 * 2**20)
# The slowest line that files are sent over, in bytes a second: to give up too early leaves in doubt
# what the provider has got.
SLOWEST_LINE = 2**19

# The fields of a submission that are for this service, not for the provider.
OUR_RULES = Rules(
    required=(),
    fields={
        "provider": Text(100),
        "trace_id": Text(128),
        "metadata": Labels(16, 512),
        "deadline": Integer(30, 86_400),
        "callback_url": Text(2_000),
        "async": Flag(),
    },
)


def known_fields(services: Services) -> set[str]:
    """The fields that there are rules for; all others pass to the provider as they are."""
    theirs = (provider.rules.fields for provider in services.providers.values())
    return set(OUR_RULES.fields).union(*theirs)


def parse_form(
    services: Services, texts: Mapping[str, Any], default_provider: str
) -> dict[str, Any]:
    """The values that the fields of a form mean; a text that means none stays, to be refused."""
    values = OUR_RULES.parse(texts)
    provider = services.providers.get(str(texts.get("provider", default_provider)))
    return provider.rules.parse(values) if provider else values


def check_request(
    services: Services, body: Mapping[str, Any], default_provider: str, files: Files = NO_FILES
) -> str:
    """The provider of a submission, every known field and file of which was found good.

    Raises `InvalidFieldError`, which names the field, the value and the rule.
    """
    OUR_RULES.check(body)
    provider = body.get("provider", default_provider)
    known = Choice(tuple(services.providers))
    if not known.allows(provider):
        raise InvalidFieldError("provider", f"provider: expected {known}, not {provider!r}")
    services.providers[provider].rules.check(body, files)
    if callback_url := body.get("callback_url"):
        check_subscriber_url(services, "callback_url", callback_url)
    return str(provider)


def check_subscriber_url(services: Services, param: str, url: str) -> None:
    """Raise `InvalidFieldError` for a URL that must never be called.

    One whose name does not resolve now may do so later: it is checked again at every delivery.
    """
    try:
        services.outbound.check(url)
    except BlockedAddressError as error:
        rule = f"expected a public http or https address, not {url[:100]!r}"
        raise InvalidFieldError(param, f"{param}: {error}; {rule}") from None
    except NotSentError:
        log.info("name does not resolve yet", action="check_url", param=param)


def create(
    session: Session,
    services: Services,
    body: Mapping[str, Any],
    *,
    provider: str,
    api_key_id: UUID | None,
    task_id: UUID | None = None,
    inputs: Sequence[Input] = (),
    recognised_by: Mapping[str, Any] = MappingProxyType({}),
) -> Task:
    """Store a submission that was found good, and enqueue it.

    One with files has got its `task_id` before, because they are in storage under it: `inputs`.
    `recognised_by` are the columns by which it is known when it comes again.  Raises `StorageError`
    when storing the files took too long.
    """
    config = services.config
    task_id = task_id or new_id()
    task = Task(
        id=task_id,
        created_at=made_at(task_id),
        provider=provider,
        api_key_id=api_key_id,
        trace_id=body.get("trace_id"),
        model=body.get("model"),
        prompt=body.get("prompt"),
        request=dict(body),
        labels=body.get("metadata", {}),
        callback_url=body.get("callback_url"),
        deadline_at=db_now(body.get("deadline", config.task_deadline)),
        **recognised_by,
    )
    session.add(task)
    session.flush()
    session.add_all([*_linked_inputs(task.id, body.get("image")), *inputs])
    placements.settle(session, uploads.keys_of(inputs))
    search.note(session, task.id, task.prompt)
    events.record(session, Fact(task.id, Happened.CREATED))
    kind = Kind.SUBMIT if services.providers[provider].calls_back else Kind.HOLD
    jobs.enqueue(session, jobs.New(kind, task.id, provider=provider))
    return task


def submit(services: Services, job: Job) -> jobs.Conclusion | None:
    """Send the edit to the provider: at most once, because it costs money.

    Raises `NotSentError`, `ProviderError` and `StorageError` where nothing was begun, so that it may
    be sent again.
    """
    with uploads.at_hand(services, inputs_of(services, job)) as files:
        task = begin(services, job)
        if task is None:
            return None
        submission = once(job, partial(_send, services, task, files))

    def conclude(session: Session) -> None:
        _conclude(services, task, submission, session)
        note_provider(session, job, submission.reason if isinstance(submission, Unknown) else None)

    return conclude


def submission_lost(services: Services, job: Job) -> jobs.Conclusion | None:
    """The worker before went silent: if it had begun to send, nobody knows how far it came."""
    with services.db.reading() as session:
        task = session.get_one(Task, job.task_id)
    if task.submitting_at is None:
        return submit(services, job)
    return partial(_conclude, services, task, Unknown("the worker went silent while sending"))


def note_provider(session: Session, job: Job, failure: str | None) -> None:
    """Whether the provider has answered an edit that was sent, or why not."""
    if failure is None:
        circuits.succeeded(session, job.queue)
        return
    first = not job.failures
    circuits.failed(session, job.queue, failure, first=first, after=FAILURES_IN_A_ROW)


def submission_failed(session: Session, job: Job, error: BaseException, final: bool) -> None:
    """Nothing was begun: the task waits for the next attempt or, when `final`, fails."""
    task = tasks.lock(session, task_id_of(job))
    task.submitting_at = None
    pause = circuits.judge(
        session, job.queue, error, first=not job.failures, after=FAILURES_IN_A_ROW
    )
    if task.status not in tasks.UNDER_WAY:
        return
    known = error if isinstance(error, PostbackError) else PostbackError("unexpected error")
    if final:
        tasks.fail(session, task, known, http_status=_http_status(error))
    elif known.counts:
        detail = {"code": known.code, "message": str(known), "attempt": job.attempts}
        if pause:
            detail["provider_paused_seconds"] = round(pause)
        events.record(session, Fact(task.id, Happened.REFUSED, detail))


def begin(services: Services, job: Job) -> Task | None:
    """Note, before the first byte leaves, that a request is on its way; None when it no longer shall.

    Raises `LeaseLostError`.
    """
    with services.db.transaction() as session:
        jobs.ensure_held(session, job)
        task = tasks.lock(session, task_id_of(job))
        if task.status is not TaskStatus.QUEUED:
            return None
        task.submitting_at = db_now()
        events.record(session, Fact(task.id, Happened.SUBMITTING, {"attempt": job.attempts}))
        return task


def inputs_of(services: Services, job: Job) -> Sequence[Input]:
    """What the job's task starts from: its images and other files."""
    mine = select(Input).filter_by(task_id=task_id_of(job)).order_by(Input.role, Input.index)
    with services.db.reading() as session:
        return session.scalars(mine).all()


def edit_of(services: Services, task: Task, files: tuple[File, ...]) -> Edit:
    """What the provider is to do: without what is only ours, and with our callback URL."""
    token = services.signing.callback_token(task.provider, task.id)
    fields = {name: value for name, value in task.request.items() if name not in OUR_RULES.fields}
    return Edit(task.id, fields, f"{services.config.public_url}/callbacks/{token}", files)


def limits_for(files: Sequence[File]) -> Limits:
    """How long a submission with these files may take."""
    seconds = sum(file.size for file in files) / SLOWEST_LINE
    return replace(SUBMIT_LIMITS, total=SUBMIT_LIMITS.total + seconds)


def once(job: Job, send: Callable[[], T]) -> T | Unknown:
    """What `send` gives, which pays; `Unknown` when something goes wrong after the first byte.

    Raises `NotSentError` and `ProviderError` where nothing was begun, and `LeaseLostError`.
    """
    # This process may have been stopped since `begin`.
    job.lease.ensure_held()
    try:
        return send()
    except (NotSentError, ProviderError):
        raise
    except OutboundError as error:
        return Unknown(str(error))
    except Exception as error:
        # Bytes have left: whatever went wrong, sending again could pay twice.
        log.exception("unexpected error after sending", action="submit")
        return Unknown(f"unexpected error after sending: {type(error).__name__}")


def _send(services: Services, task: Task, files: tuple[File, ...]) -> Submission:
    provider = services.providers[task.provider]
    request = provider.submit_request(edit_of(services, task, files))
    return provider.read_submission(services.outbound.call(request, limits_for(files)))


def _http_status(error: BaseException) -> int:
    if isinstance(error, ProviderError):
        return error.status
    # What the caller gave us to send is at fault.
    return 400 if isinstance(error, ImageError | InvalidFieldError) else 500


def _conclude(services: Services, sent: Task, submission: Submission, session: Session) -> None:
    task = tasks.lock(session, sent.id)
    match submission:
        case Accepted(provider_task_id):
            ask_after = services.config.reconcile_after
            tasks.submitted(session, task, provider_task_id, ask_after=ask_after)
        case Answered(body):
            if not inbox.take_answer(services, session, task, Source.RESPONSE, body):
                tasks.uncertain(session, task, "the provider's answer cannot be read")
        case Unknown(reason):
            tasks.uncertain(session, task, reason)


def _linked_inputs(task_id: UUID, image: str | list[str] | None) -> list[Input]:
    urls = image if isinstance(image, list) else [image] if image else []
    return [
        Input(task_id=task_id, role=Role.IMAGE, index=index, source_url=url)
        for index, url in enumerate(urls)
    ]


def task_id_of(job: Job) -> UUID:
    """The task that a job is about; each of those that submit has one."""
    if job.task_id is None:
        raise ValueError(f"job {job.id} names no task")
    return job.task_id
