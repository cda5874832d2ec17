"""What people and programs do to a task.  Each act leaves an audit row in the same transaction.

Every `id_` is our id of a task or the provider's; `NotFoundError` is raised for one that nobody knows,
and `ConflictError` where the act does not go with how the task is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from app import edits, events, jobs, keys, placements, reports, retention, tasks, uploads
from app.columns import db_now
from app.errors import ConflictError
from app.events import Fact, Happened
from app.jobs import Kind
from app.keys import Actor
from app.models import (
    FINAL,
    Callback,
    Chunk,
    Event,
    Image,
    ImageStatus,
    Input,
    Job,
    Task,
    TaskStatus,
    new_id,
)
from app.services import Services

DOUBLE_CLICK_SECONDS = 2.0


def cancel(session: Session, id_: str, actor: Actor) -> Task:
    """Take a task back before it is sent to the provider."""
    task = _lock(session, id_)
    if task.status is not TaskStatus.QUEUED:
        raise ConflictError(f"only a queued task can be canceled; this one is {task.status}")
    _refuse_on_its_way(task, "canceled")
    tasks.cancel(session, task)
    _audit(session, actor, "cancel", task.id)
    return task


def retry(session: Session, id_: str, actor: Actor) -> Task:
    """Copy the images that could not be stored again from the result that is there: free."""
    task = _lock(session, id_)
    again = _failed_images(session, task) or _unread_result(session, task)
    if not again:
        raise ConflictError(_nothing_to_copy(task))
    jobs.enqueue(session, *again)
    tasks.copy_again(session, task)
    _audit(session, actor, "retry", task.id)
    return task


def reconcile(session: Session, services: Services, id_: str, actor: Actor) -> Task:
    """Ask the provider what became of a task, with its next lookup: within a second or so."""
    task = _lock(session, id_)
    if services.providers[task.provider].lookup is None:
        raise ConflictError(f"{task.provider} cannot be asked what became of a task")
    if task.submitted_at is None and task.status is TaskStatus.QUEUED:
        raise ConflictError("the provider does not have this task yet: there is nothing to ask")
    if task.status not in {TaskStatus.SUBMITTED, TaskStatus.UNCERTAIN, TaskStatus.FAILED}:
        raise ConflictError(f"this task is {task.status}: the provider has nothing to add")
    tasks.ask_now(session, task)
    _audit(session, actor, "reconcile", task.id)
    return task


def resubmit(services: Services, id_: str, actor: Actor, api_key_id: UUID | None) -> Task:
    """A new task with the same request and the same uploaded files: costs money.

    Asked for twice within a moment, as by a double click, it is one new task.  Raises `StorageError`
    when the files cannot be copied; nothing is submitted then.
    """
    with services.db.reading() as session:
        before = reports.find_task(session, id_)
        uploaded = select(Input).where(Input.task_id == before.id, Input.key.is_not(None))
        inputs = session.scalars(uploaded).all()
    task_id = new_id()
    with _copies(services, task_id, inputs) as copies, services.db.transaction() as session:
        before = _lock(session, id_)
        again = _just_resubmitted(session, before)
        if again is None:
            task = edits.create(
                session,
                services,
                before.request,
                provider=before.provider,
                api_key_id=api_key_id,
                task_id=task_id,
                inputs=copies,
            )
            events.record(
                session,
                Fact(task.id, Happened.RESUBMITTED, {"of": str(before.id)}),
                Fact(before.id, Happened.RESUBMITTED, {"as": str(task.id)}),
            )
            _audit(session, actor, "resubmit", before.id)
            return task
    placements.abandon(services, uploads.keys_of(copies))
    return again


def delete(services: Services, id_: str, actor: Actor) -> None:
    """Delete a task with all that belongs to it, in storage too.

    Refused for the moments in which a paid result would get lost on the way.  Raises `StorageError`
    when objects could not be deleted; the task is then still there, and it can be tried again.
    """
    with services.db.transaction() as session:
        task = _lock(session, id_)
        _refuse_on_its_way(task, "deleted")
        if task.status is TaskStatus.SUBMITTED and _is_held(session, task):
            raise ConflictError("its call to the provider is open, and what it brings is paid for")
        if task.status is TaskStatus.RECEIVED:
            raise ConflictError("its result is being stored: it can be deleted once it has ended")
        if task.status not in FINAL:
            # Nothing may begin for it any more while its objects are deleted.
            tasks.cancel(session, task)
        _audit(session, actor, "delete", task.id)
    retention.delete_tasks(services, [task.id])


def _lock(session: Session, id_: str) -> Task:
    return tasks.lock(session, reports.find_task(session, id_).id)


def _refuse_on_its_way(task: Task, what: str) -> None:
    if task.submitting_at is not None:
        raise ConflictError(f"its request is on its way to the provider: it cannot be {what} now")


def _just_resubmitted(session: Session, before: Task) -> Task | None:
    """The new task that the same click has made."""
    detail = session.scalar(
        select(Event.detail)
        .where(Event.task_id == before.id, Event.event == Happened.RESUBMITTED)
        .where(Event.at > db_now(-DOUBLE_CLICK_SECONDS))
        .order_by(Event.id.desc())
        .limit(1)
    )
    return session.get(Task, UUID(detail["as"])) if detail and "as" in detail else None


def _is_held(session: Session, task: Task) -> bool:
    """Whether a worker holds a call open on which the result will come."""
    held = select(Job.id).filter_by(task_id=task.id, kind=Kind.HOLD).limit(1)
    return session.scalar(held) is not None


def _audit(session: Session, actor: Actor, action: str, task_id: UUID) -> None:
    keys.audit(session, actor.name, action, str(task_id), actor.address)


def _failed_images(session: Session, task: Task) -> list[jobs.New]:
    """The jobs that copy the task's failed images, which wait for that from now on."""
    failed = select(Image).filter_by(task_id=task.id, status=ImageStatus.FAILED)
    images = session.scalars(failed.order_by(Image.index)).all()
    for image in images:
        image.status = ImageStatus.PENDING
        image.error_code = image.error_message = None
    return [jobs.New(Kind.STORE_IMAGE, task.id, image.id) for image in images]


def _unread_result(session: Session, task: Task) -> list[jobs.New]:
    """The job that reads a result whose reading has failed, if its body is still there."""
    made = exists().where(Image.task_id == task.id)
    came = exists().where(Event.task_id == task.id, Event.event == Happened.RECEIVED)
    kept = exists().where(Chunk.owner_id == Callback.id)
    body = select(Callback.id).where(
        Callback.id == task.result_id, or_(Callback.body.is_not(None), kept), came, ~made
    )
    if task.status is not TaskStatus.FAILED or session.scalar(body) is None:
        return []
    return [jobs.New(Kind.INGEST, task.id, task.result_id)]


def _nothing_to_copy(task: Task) -> str:
    if task.status is TaskStatus.SUCCEEDED:
        return "all images of this task are stored: there is nothing to copy again"
    if task.status is TaskStatus.RECEIVED:
        return "the images of this task are being copied"
    return f"this task is {task.status} and has no result that images could be copied from"


@contextmanager
def _copies(services: Services, task_id: UUID, inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """Uploaded files once more in storage, for the new task; gone again if the block fails."""
    copies = [_copy_of(given, task_id) for given in inputs]
    with placements.placing(services, uploads.keys_of(copies)):
        for given, copy in zip(inputs, copies, strict=True):
            with services.storage.open(str(given.key)) as file:
                services.storage.put(str(copy.key), file, str(copy.content_type))
        yield copies


def _copy_of(given: Input, task_id: UUID) -> Input:
    return Input(
        task_id=task_id,
        role=given.role,
        index=given.index,
        key=f"inputs/{task_id}/{str(given.key).rpartition('/')[2]}",
        content_type=given.content_type,
        size=given.size,
    )
