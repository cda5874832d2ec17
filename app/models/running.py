"""The tables of how it goes: who is hammered no longer, and what was counted as it happened."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from app.columns import db_now
from app.models.base import Base


class Circuit(Base):
    """A host outside, and how it has behaved lately; until `open_until` nothing of its queue is begun."""

    __tablename__ = "circuits"

    # The queue of its jobs.
    name: Mapped[str] = mapped_column(primary_key=True)
    # In a row, and when the first of them was.
    failures: Mapped[int] = mapped_column(default=0)
    failing_since: Mapped[datetime | None]
    open_until: Mapped[datetime | None]
    # From when on one job may find out whether it is well again; None while there is no doubt.
    probe_at: Mapped[datetime | None]
    # When its rate allows the next call.
    next_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    changed_at: Mapped[datetime] = mapped_column(default=db_now())


class Tally(Base):
    """How often something happened to tasks of one model within an hour."""

    __tablename__ = "tallies"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    # Empty for tasks that name none.
    model: Mapped[str] = mapped_column(primary_key=True)
    event: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]


class Latency(Base):
    """How many tasks of one model took how long for a stage, of those that ended it in an hour."""

    __tablename__ = "latencies"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    # The number of an interval of seconds, each a little longer than the one before.
    bucket: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int]
