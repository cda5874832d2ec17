"""Read-only queries: the endpoints and how they do, the deliveries with their attempts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.columns import db_now
from app.errors import NotFoundError
from app.models import Attempt, Delivery, DeliveryStatus, Endpoint, first_id
from app.reports import rfc3339

Json = dict[str, Any]

# How many attempts a health bar has.
BAR = 30
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Health:
    """How an endpoint does: the last attempts, the oldest first, and the deliveries of a day."""

    attempts: Sequence[Json]
    deliveries: dict[DeliveryStatus, int]


def find_endpoint(session: Session, id_: str) -> Endpoint:
    """The endpoint with that id.  Raises `NotFoundError`."""
    endpoint = session.get(Endpoint, uuid) if (uuid := _uuid(id_)) else None
    if endpoint is None:
        raise NotFoundError(f"there is no endpoint {id_!r}")
    return endpoint


def find_delivery(session: Session, id_: str) -> Delivery:
    """The delivery with that id.  Raises `NotFoundError`."""
    delivery = session.get(Delivery, uuid) if (uuid := _uuid(id_)) else None
    if delivery is None:
        raise NotFoundError(f"there is no delivery {id_!r}")
    return delivery


def list_endpoints(
    session: Session, *, limit: int, before: UUID | None
) -> tuple[list[Json], UUID | None]:
    """A page of endpoints, the newest first, and where the next page begins."""
    query = select(Endpoint).order_by(Endpoint.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(Endpoint.id < before)
    rows = session.scalars(query).all()
    items = [endpoint_in_full(endpoint) for endpoint in rows[:limit]]
    return items, rows[limit - 1].id if len(rows) > limit else None


def list_deliveries(
    session: Session, endpoint_id: UUID, *, limit: int, before: UUID | None
) -> tuple[list[Json], UUID | None]:
    """A page of an endpoint's deliveries, the newest first, and where the next page begins."""
    query = select(Delivery).filter_by(endpoint_id=endpoint_id).order_by(Delivery.id.desc())
    if before is not None:
        query = query.where(Delivery.id < before)
    rows = session.scalars(query.limit(limit + 1)).all()
    following = rows[limit - 1].id if len(rows) > limit else None
    return deliveries_in_full(session, rows[:limit]), following


def deliveries_of_task(session: Session, task_id: UUID) -> list[Json]:
    """All that was sent, or is to be, because of a task, the oldest first."""
    query = select(Delivery).filter_by(task_id=task_id).order_by(Delivery.id)
    return deliveries_in_full(session, session.scalars(query).all())


def health(session: Session, endpoint_id: UUID) -> Health:
    """How an endpoint does."""
    last = select(Attempt).filter_by(endpoint_id=endpoint_id).order_by(Attempt.id.desc())
    attempts = [_attempt(attempt) for attempt in session.scalars(last.limit(BAR))]
    day_ago = first_id(session.scalars(select(db_now(-DAY_SECONDS))).one())
    counts = (
        select(Delivery.status, func.count())
        .where(Delivery.endpoint_id == endpoint_id, Delivery.id >= day_ago)
        .group_by(Delivery.status)
    )
    found = {row[0]: row[1] for row in session.execute(counts)}
    return Health(attempts[::-1], {status: found.get(status, 0) for status in DeliveryStatus})


def endpoint_in_full(endpoint: Endpoint) -> Json:
    """An endpoint as the API shows it: without its secret."""
    return {
        "id": str(endpoint.id),
        "url": endpoint.url,
        "events": endpoint.events,
        "description": endpoint.description,
        "enabled": endpoint.enabled,
        "disabled_at": rfc3339(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
        "created_at": rfc3339(endpoint.created_at),
    }


def deliveries_in_full(session: Session, deliveries: Sequence[Delivery]) -> list[Json]:
    """Deliveries as the API shows them, each with its attempts, the oldest first."""
    ids = [delivery.id for delivery in deliveries]
    attempts: dict[UUID, list[Json]] = defaultdict(list)
    made = select(Attempt).where(Attempt.delivery_id.in_(ids)).order_by(Attempt.id)
    for attempt in session.scalars(made):
        attempts[attempt.delivery_id].append(_attempt(attempt))
    return [_delivery(delivery, attempts[delivery.id]) for delivery in deliveries]


def _delivery(delivery: Delivery, attempts: Sequence[Json]) -> Json:
    return {
        "id": str(delivery.id),
        "event_id": str(delivery.message_id),
        "type": delivery.type,
        "task_id": delivery.task_id and str(delivery.task_id),
        "endpoint_id": delivery.endpoint_id and str(delivery.endpoint_id),
        "url": delivery.url,
        "status": delivery.status,
        "next_attempt_at": rfc3339(delivery.next_attempt_at),
        "created_at": rfc3339(delivery.created_at),
        "attempts": attempts,
    }


def _attempt(attempt: Attempt) -> Json:
    return {
        "at": rfc3339(attempt.at),
        "status": attempt.status,
        "duration_ms": attempt.duration_ms,
        "response": attempt.response,
        "error": attempt.error,
    }


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
