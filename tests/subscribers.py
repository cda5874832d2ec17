"""Those who are pushed to: endpoints, what they were sent, and the attempts at it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select

from app import events
from app.events import Fact, Happened
from app.jobs import Kind
from app.keys import Actor
from app.models import Delivery, Endpoint, Event, Message, Task
from app.push import endpoints, subscribers
from app.push.relay import relay
from app.services import Services
from tests.factories import run_next

ACTOR = Actor("tests", "192.0.2.1")


def make_endpoint(
    parts: Services, url: str = "http://127.0.0.1:9/hook", **columns: Any
) -> Endpoint:
    """An endpoint that wants everything, with `columns` set to what the test needs."""
    with parts.db.transaction() as session:
        endpoint = endpoints.create(session, {"url": url}, ACTOR)
        for name, value in columns.items():
            setattr(endpoint, name, value)
        session.flush()
        session.refresh(endpoint)
    return endpoint


def get_endpoint(parts: Services, endpoint: Endpoint) -> Endpoint:
    """The endpoint as it is in the database now."""
    with parts.db.reading() as session:
        return session.get_one(Endpoint, endpoint.id)


def happen(parts: Services, task: Task, word: Happened, **detail: str) -> None:
    """Record that something happened to the task."""
    with parts.db.transaction() as session:
        events.record(session, Fact(task.id, word, detail))


def relay_all(parts: Services, most: int = 50) -> None:
    """Work off everything that is pending."""
    while relay(parts, most):
        pass


def deliveries(parts: Services) -> Sequence[Delivery]:
    """All deliveries, the oldest first."""
    with parts.db.reading() as session:
        return session.scalars(select(Delivery).order_by(Delivery.id)).all()


def shown(parts: Services) -> list[dict[str, Any]]:
    """All deliveries as the API shows them, the oldest first."""
    with parts.db.reading() as session:
        return subscribers.deliveries_in_full(session, deliveries(parts))


def bodies(parts: Services) -> list[Any]:
    """The bodies of all messages, the oldest first."""
    with parts.db.reading() as session:
        found = session.scalars(select(Message.body).order_by(Message.event_id, Message.id))
        return [json.loads(body or b"null") for body in found]


def pending(parts: Services) -> int:
    """How many events the relay has not worked off."""
    with parts.db.reading() as session:
        return session.scalar(select(func.count()).where(Event.pending)) or 0


def deliver_next(parts: Services) -> Mapping[str, Any]:
    """Make the next attempt that is due; the last delivery as it is then."""
    run_next(parts, Kind.DELIVER)
    return shown(parts)[-1]
