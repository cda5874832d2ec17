"""The tables of what is pushed: who subscribes, what is sent, how each attempt went."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.columns import BigSerial, db_now
from app.models.base import Base
from app.models.ids import new_id
from app.models.words import DeliveryStatus


class Endpoint(Base):
    """A subscriber: where events are sent to, and the secret that signs them."""

    __tablename__ = "endpoints"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    url: Mapped[str]
    # The event types that it wants; None for all.
    events: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    description: Mapped[str | None]
    secret: Mapped[str]
    # Those before it, the newest first: each with the time, in seconds, until which it signs too.
    previous_secrets: Mapped[list[list[Any]]] = mapped_column(JSON, default=list)
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    # Since when every attempt has failed.
    failing_since: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=db_now())


class Message(Base):
    """The bytes that every attempt sends; `id` is their `webhook-id`."""

    __tablename__ = "messages"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    task_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("tasks.id", ondelete="CASCADE"), index=True
    )
    event_id: Mapped[int | None] = mapped_column(BigInteger)
    type: Mapped[str]
    # None once it is too old to be kept.
    body: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(default=db_now())


class Delivery(Base):
    """One message for one subscriber: an endpoint, or the `url` that a task's caller named."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("message_id", "endpoint_id"),
        Index("ix_deliveries_endpoint", "endpoint_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"))
    endpoint_id: Mapped[UUID | None] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"))
    task_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("tasks.id", ondelete="CASCADE"), index=True
    )
    url: Mapped[str | None]
    type: Mapped[str]
    status: Mapped[DeliveryStatus] = mapped_column(default=DeliveryStatus.PENDING)
    # How many attempts were made since it was made, or asked for again: its place in the schedule.
    tries: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    delivered_at: Mapped[datetime | None]


class Attempt(Base):
    """One try to deliver: how it was answered, or why not."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index("ix_attempts_delivery", "delivery_id", "id"),
        Index("ix_attempts_endpoint", "endpoint_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True)
    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("deliveries.id", ondelete="CASCADE"))
    # The delivery's, so that the last attempts at an endpoint are found without its deliveries.
    endpoint_id: Mapped[UUID | None] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(default=db_now())
    status: Mapped[int | None]
    duration_ms: Mapped[int]
    # The beginning of the answer.
    response: Mapped[str | None]
    error: Mapped[str | None]
