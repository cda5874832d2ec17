"""What the page of one task shows beyond the lookups: where its files are, who acted on it, its log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import reports
from app.errors import NotFoundError
from app.models import Audit, Callback, Delivery, Endpoint, Image, Input, Partial, Role, Task
from app.push import subscribers
from app.reports import CallbackFilter
from app.services import Services
from app.signing import Picture

Json = dict[str, Any]

CALLBACKS = 100
AUDITS = 100


@dataclass(frozen=True)
class Dossier:
    """One task; the newest entry of its log and of its audit is first."""

    task: Json
    callbacks: Sequence[Json]
    partials: Sequence[Json]
    keys_in_storage: Mapping[int, str | None]
    deliveries: Sequence[Json]
    # The endpoints among those that they are for, by their ids.
    endpoints: Mapping[str, Endpoint]
    audit: Sequence[Audit]


def open_dossier(services: Services, session: Session, task: Task) -> Dossier:
    """All there is to say of one task."""
    mine = {"task_id": task.id}
    images = session.scalars(select(Image).filter_by(**mine))
    partials = session.scalars(select(Partial).filter_by(**mine).order_by(Partial.index))
    log = CallbackFilter(task_id=task.id)
    subscribed = select(Delivery.endpoint_id).filter_by(**mine)
    endpoints = session.scalars(select(Endpoint).where(Endpoint.id.in_(subscribed)))
    return Dossier(
        task=reports.task_in_full(services, session, task),
        callbacks=reports.list_callbacks(session, log, limit=CALLBACKS, before=None)[0],
        partials=[_partial(services, partial) for partial in partials],
        keys_in_storage={image.index: image.key for image in images},
        deliveries=subscribers.deliveries_of_task(session, task.id),
        endpoints={str(endpoint.id): endpoint for endpoint in endpoints},
        audit=acts_on(session, task.id),
    )


def acts_on(session: Session, id_: UUID) -> Sequence[Audit]:
    """What people and keys did to a task or an endpoint, the newest first."""
    acts = select(Audit).filter_by(subject=str(id_)).order_by(Audit.id.desc())
    return session.scalars(acts.limit(AUDITS)).all()


def find_input(session: Session, task: Task, role: Role, index: int) -> Input:
    """One of the images that a task starts from.  Raises `NotFoundError`."""
    named = select(Input).filter_by(task_id=task.id, role=role, index=index)
    found = session.scalars(named).first()
    if found is None:
        raise NotFoundError(f"the task has no {role} {index}")
    return found


def find_callback(session: Session, id_: UUID) -> Callback:
    """What came in.  Raises `NotFoundError`."""
    callback = session.get(Callback, id_)
    if callback is None:
        raise NotFoundError(f"there is no callback {str(id_)!r}")
    return callback


def _partial(services: Services, partial: Partial) -> Json:
    extension = partial.key.rpartition(".")[2]
    return {
        "index": partial.index,
        "url": services.picture_url(Picture.PARTIAL, partial.id, extension),
        "received_at": reports.rfc3339(partial.received_at),
    }
