"""What happened to tasks, in an order in which a reader passes nothing over: what streams tell.

Each row of a timeline is a change.  PostgreSQL gives out ids before it commits, so a row may appear
before one that was seen already; in the order of `(xid, id)`, and only as far as every transaction
has ended, none does.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from app.columns import settled_before
from app.models import Event

# Both numbers are 64 bits at most.
_POSITION = re.compile(r"(\d{1,18})-(\d{1,18})")


class Position(NamedTuple):
    """Where in that order somebody is: everything up to here has been told."""

    xid: int
    id: int

    def __str__(self) -> str:
        """What goes over the wire; it means something to us only."""
        return f"{self.xid}-{self.id}"


BEGINNING = Position(0, 0)


@dataclass(frozen=True)
class Change:
    """One row of a timeline; `event` is None for what is told although nothing happened."""

    position: Position
    task_id: UUID
    event: str | None
    # Whether nothing can appear before it any more.
    settled: bool = True


def position(text: str) -> Position | None:
    """The position that was written as `text`; None when it never was one."""
    match = _POSITION.fullmatch(text)
    return Position(int(match[1]), int(match[2])) if match else None


def latest(session: Session) -> Position:
    """The position of the last change that is settled."""
    settled = select(Event.xid, Event.id).where(Event.xid < settled_before())
    row = session.execute(settled.order_by(Event.xid.desc(), Event.id.desc()).limit(1)).first()
    return Position(*row) if row else BEGINNING


def last_of(session: Session, task_ids: Collection[UUID]) -> dict[UUID, int]:
    """Of each of these tasks the id of its last change."""
    last = select(Event.task_id, func.max(Event.id)).where(Event.task_id.in_(task_ids))
    return dict(session.execute(last.group_by(Event.task_id)).all())


def after(
    session: Session,
    start: Position,
    *,
    limit: int,
    until: Position | None = None,
    task_id: UUID | None = None,
) -> Sequence[Change]:
    """The first changes after `start`, in their order, up to and with `until`, of one task or all.

    Those that are not settled come last: they are there, but something may appear before them.
    """
    query = select(
        Event.xid, Event.id, Event.task_id, Event.event, Event.xid < settled_before()
    ).where(_place(session) > _written(session, start))
    if until is not None:
        query = query.where(_place(session) <= _written(session, until))
    if task_id is not None:
        query = query.where(Event.task_id == task_id)
    order = (Event.id,) if _by_id(session) else (Event.xid, Event.id)
    rows = session.execute(query.order_by(*order).limit(limit))
    return [Change(Position(xid, id_), task, event, done) for xid, id_, task, event, done in rows]


def _by_id(session: Session) -> bool:
    # SQLite, where all have the same number, would search its index for that alone.
    return session.get_bind().dialect.name == "sqlite"


def _place(session: Session) -> ColumnElement[Any]:
    """Where a row is in the order."""
    return Event.id.expression if _by_id(session) else tuple_(Event.xid, Event.id)


def _written(session: Session, position: Position) -> Any:
    return position.id if _by_id(session) else position
