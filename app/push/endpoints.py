"""What people and programs do to endpoints.  Each act leaves an audit row in the same transaction."""

import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from app import circuits, edits, keys
from app.columns import db_now
from app.errors import ConflictError, InvalidFieldError
from app.keys import Actor
from app.models import Delivery, DeliveryStatus, Endpoint, Event, Message, first_id, new_id
from app.providers.rules import Flag, Text
from app.push import deliveries, messages, rotations
from app.services import Services

SECRET_BYTES = 32
BATCH = 200
MAX_DESCRIPTION_LENGTH = 500

Fields = Mapping[str, Any]


def check(services: Services, fields: Fields) -> None:
    """Raise `InvalidFieldError` for the first of `fields` of an endpoint that breaks a rule.

    Looks the URL's host up, so it is to be called outside of a transaction.
    """
    for name, value in fields.items():
        if not (kind := _KINDS[name]).allows(value):
            raise InvalidFieldError(name, f"{name}: expected {kind}, not {repr(value)[:80]}")
    if "url" in fields:
        edits.check_subscriber_url(services, "url", fields["url"])


def create(session: Session, fields: Fields, actor: Actor) -> Endpoint:
    """A new endpoint, with a secret of its own, of `fields` that were found good."""
    endpoint = Endpoint(
        id=new_id(),
        url=fields["url"],
        events=fields.get("events"),
        description=fields.get("description"),
        secret=_new_secret(),
    )
    session.add(endpoint)
    session.flush()
    session.refresh(endpoint)
    _audit(session, actor, "create endpoint", endpoint)
    return endpoint


def change(session: Session, endpoint: Endpoint, fields: Fields, actor: Actor) -> None:
    """Change `fields`, which were found good; one that is enabled, or elsewhere, begins anew."""
    if fields.get("enabled") is True or "url" in fields:
        # Before the endpoint is locked, as by whoever has made an attempt: else they could deadlock.
        _trust(session, endpoint)
        endpoint.failing_since = None
    for name, value in fields.items():
        setattr(endpoint, name, value)
    if fields.get("enabled") is True:
        endpoint.disabled_at = endpoint.disabled_reason = None
    elif fields.get("enabled") is False and endpoint.disabled_at is None:
        # Without a reason, which would be a problem to look at: somebody wanted it so.
        endpoint.disabled_at = db_now()
    _audit(session, actor, f"change {', '.join(fields) or 'nothing'} of endpoint", endpoint)
    session.flush()
    session.refresh(endpoint)


def delete(session: Session, endpoint: Endpoint, actor: Actor) -> None:
    """The endpoint goes with its deliveries."""
    _audit(session, actor, "delete endpoint", endpoint)
    session.delete(endpoint)


def rotate_secret(session: Session, endpoint: Endpoint, actor: Actor) -> str:
    """A new secret, which is shown this once; the old one signs too for a day."""
    # Two who rotate at once: each secret that was shown must sign.
    session.refresh(endpoint, with_for_update=True)
    rotations.rotate(endpoint, _new_secret())
    _audit(session, actor, "rotate secret of endpoint", endpoint)
    return endpoint.secret


def test(services: Services, session: Session, endpoint: Endpoint, actor: Actor) -> Delivery:
    """Send an example of an event that the endpoint wants: also when it is disabled."""
    delivery = messages.example(services, session, endpoint)
    _trust(session, endpoint)
    _audit(session, actor, "test endpoint", endpoint)
    return delivery


def retry(session: Session, delivery: Delivery, actor: Actor) -> None:
    """Send it now, with the whole schedule before it, whatever came of it.

    Raises `ConflictError` when its endpoint is disabled, or its body is kept no longer.
    """
    endpoint = session.get(Endpoint, delivery.endpoint_id) if delivery.endpoint_id else None
    if endpoint is not None and delivery.task_id is not None:
        _require_enabled(endpoint)
    if session.get_one(Message, delivery.message_id).body is None:
        raise ConflictError("its body is too old to be kept: RETENTION_BODY_DAYS")
    deliveries.send_again(session, [delivery])
    keys.audit(session, actor.name, "retry delivery", str(delivery.id), actor.address)
    session.flush()
    session.refresh(delivery)
    if endpoint is not None:
        # Last, as whoever has made an attempt locks it: the other way round they would wait in a circle.
        _trust(session, endpoint)


def recover(
    services: Services, endpoint_id: UUID, since: datetime, actor: Actor, *, batch: int = BATCH
) -> int:
    """Send the endpoint what it wants and has not got since then, under the same ids; how much.

    That is what has failed or waits for its next attempt, and what happened while it was disabled or
    was not there yet.  In small transactions, of `batch` deliveries each.  Raises `ConflictError` when
    it is disabled.
    """
    with services.db.transaction() as session:
        endpoint = session.get_one(Endpoint, endpoint_id)
        _require_enabled(endpoint)
        _trust(session, endpoint)
        _audit(session, actor, f"recover since {since.isoformat()} of endpoint", endpoint)
    first = first_id(since)
    failed = partial(_resend_failed, endpoint, first, batch)
    missing = partial(_send_missing, services, endpoint, first, batch)
    return sum(_in_batches(services, send, batch) for send in (failed, missing))


def _in_batches(services: Services, send: Callable[[Session], int], batch: int) -> int:
    total = 0
    while True:
        with services.db.transaction() as session:
            _one_at_a_time(session)
            sent = send(session)
        total += sent
        if sent < batch:
            return total


def _resend_failed(endpoint: Endpoint, first: UUID, batch: int, session: Session) -> int:
    # Those whose next attempt is a long way off wait no longer.
    late = or_(Delivery.status == DeliveryStatus.FAILED, Delivery.next_attempt_at > db_now())
    failed = (
        select(Delivery)
        .join(Message)
        .where(Delivery.endpoint_id == endpoint.id, Delivery.id >= first)
        .where(late, Message.body.is_not(None))
        .order_by(Delivery.id)
        .limit(batch)
    )
    found = session.scalars(failed).all()
    deliveries.send_again(session, found)
    return len(found)


def _send_missing(
    services: Services, endpoint: Endpoint, first: UUID, batch: int, session: Session
) -> int:
    sent = exists().where(
        Delivery.message_id == Event.message_id, Delivery.endpoint_id == endpoint.id
    )
    forgotten = exists().where(Message.id == Event.message_id, Message.body.is_(None))
    words = [type_.removeprefix("task.") for type_ in endpoint.events or messages.TYPES]
    missing = (
        select(Event)
        .where(Event.message_id >= first, Event.event.in_(words), ~sent, ~forgotten)
        # What is pending will be sent by the relay.
        .where(~Event.pending)
        .order_by(Event.message_id)
        .limit(batch)
    )
    found = session.scalars(missing).all()
    messages.send(services, session, found, endpoint)
    return len(found)


def _one_at_a_time(session: Session) -> None:
    """Wait for others who recover: both would send what is missing."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext("postback:recover"))))


def _trust(session: Session, endpoint: Endpoint) -> None:
    """Whoever asks for something to be sent believes that the endpoint is well again."""
    circuits.succeeded(session, deliveries.queue_of(endpoint.id))


def _require_enabled(endpoint: Endpoint) -> None:
    if not endpoint.enabled:
        reason = f" ({endpoint.disabled_reason})" if endpoint.disabled_reason else ""
        raise ConflictError(f"the endpoint is disabled{reason}: enable it first")


def _new_secret() -> str:
    return f"whsec_{b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"


def _audit(session: Session, actor: Actor, action: str, endpoint: Endpoint) -> None:
    keys.audit(session, actor.name, action, str(endpoint.id), actor.address)


class _Kind(Protocol):
    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class _Types:
    """Which event types: null for all, or a list."""

    def allows(self, value: Any) -> bool:
        if value is None:
            return True
        return isinstance(value, list) and value != [] and all(x in messages.TYPES for x in value)

    def __str__(self) -> str:
        return f"null for all, or a list of {', '.join(messages.TYPES)}"


@dataclass(frozen=True)
class _Description:
    """What a person calls it, if anything."""

    def allows(self, value: Any) -> bool:
        return value is None or (isinstance(value, str) and len(value) <= MAX_DESCRIPTION_LENGTH)

    def __str__(self) -> str:
        return f"null or text of at most {MAX_DESCRIPTION_LENGTH} characters"


_KINDS: Mapping[str, _Kind] = {
    "url": Text(2_000),
    "events": _Types(),
    "description": _Description(),
    "enabled": Flag(),
}
