"""The tables of who may get in, and of what they did."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.columns import BigSerial, db_now
from app.models.base import Base
from app.models.ids import new_id


class ApiKey(Base):
    """Who may call; the key itself is not stored, only its keyed hash."""

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("uq_api_keys_name", "name", unique=True, sqlite_where=text("revoked_at IS NULL"),
              postgresql_where=text("revoked_at IS NULL")),
    )  # fmt: skip

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    key_hash: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=db_now())
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class BrowserSession(Base):
    """A browser that has signed in with a key, until it signs out."""

    __tablename__ = "browser_sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))


class Audit(Base):
    """An act of a person or a key: who, what, on which, from where."""

    __tablename__ = "audits"
    __table_args__ = (Index("ix_audits_subject", "subject", "id"),)

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True)
    at: Mapped[datetime] = mapped_column(default=db_now())
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str | None]
    address: Mapped[str | None]
