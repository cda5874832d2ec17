"""The statements of a batch: what judging needs to know, and what it writes; one for each table."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    Update,
    case,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.orm import Session

from app.bulk import Given, among, for_each, insert_all
from app.columns import db_now
from app.inbox.values import Outcome, Taken
from app.models import Callback, Task, TaskStatus

_TASKS, _CALLBACKS = cast(Table, Task.__table__), cast(Table, Callback.__table__)
# How we write our own ids.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class TaskState:
    """What judging needs to know of a task; follows the verdicts within a batch."""

    id: UUID
    provider: str
    provider_task_id: str | None
    status: TaskStatus
    # How many images were asked for.
    asked: int = 1


def providers_of(connection: Connection, task_ids: Iterable[UUID]) -> dict[UUID, str]:
    """By task, its provider; tasks that are gone are missing."""
    rows = connection.execute(_finding(connection.dialect.name), {"ids": list(task_ids)})
    return {row[0]: row[1] for row in rows}


def lock_tasks(session: Session, ids: Iterable[UUID]) -> dict[UUID, TaskState]:
    """The tasks, which nobody else changes until the transaction ends."""
    connection = session.connection()
    rows = connection.execute(_locking(connection.dialect.name), {"ids": list(ids)})
    return {
        row[0]: TaskState(row[0], row[1], row[2], TaskStatus(row[3]), _number(row[4]))
        for row in rows
    }


def known_bodies(
    session: Session, task_ids: Iterable[UUID], digests: Iterable[str]
) -> dict[tuple[UUID | None, str | None], tuple[UUID, Taken]]:
    """By task and digest, the callbacks that are there already, and what became of them."""
    connection = session.connection()
    values = {"task_ids": list(task_ids), "digests": list(digests)}
    rows = connection.execute(_finding_known(connection.dialect.name), values)
    return {(row[0], row[1]): (row[2], Taken(Outcome(row[3]), row[4])) for row in rows}


def owners_of(session: Session, names: set[str]) -> dict[tuple[str | None, str | None], UUID]:
    """By provider (None for our own ids) and the task id that a body names, whose task that is."""
    if not names:
        return {}
    connection = session.connection()
    ours = [UUID(name) for name in names if _UUID.fullmatch(name)]
    values = {"names": list(names), "ids": ours}
    rows = connection.execute(_finding_owners(connection.dialect.name), values)
    return {
        key: id_ for provider, theirs, id_ in rows for key in ((provider, theirs), (None, str(id_)))
    }


def insert_callbacks(session: Session, callbacks: list[dict[str, Any]]) -> None:
    """Add the callbacks, as received now."""
    insert_all(session, _CALLBACKS, callbacks)


def revise_callbacks(session: Session, revised: list[dict[str, Any]]) -> None:
    """Change what became of callbacks; each of `revised` has the callback's `id`."""
    for_each(session, _CALLBACKS, revised, _revising)


def count_duplicates(session: Session, counts: Counter[UUID]) -> None:
    """Add to the counts of the callbacks with these ids."""
    rows = [{"id": id_, "duplicates": count} for id_, count in counts.items()]
    for_each(session, _CALLBACKS, rows, _counting)


def move_tasks(session: Session, moves: list[dict[str, Any]]) -> None:
    """Give tasks their results; each of `moves` has the task's `id` and its new values."""
    for_each(session, _TASKS, moves, _moving)


def ask_about(session: Session, task_ids: Collection[UUID]) -> None:
    """Let the provider be asked about these tasks now, and soon again if it does not know yet."""
    for_each(session, _TASKS, [{"id": id_} for id_ in task_ids], _asking)


def _asking(table: Table, given: Given) -> Update:
    return update(table).where(table.c.id == given["id"]).values(ask_at=db_now(), asks=0)


def _revising(table: Table, given: Given) -> Update:
    values = {name: value for name, value in given.items() if name != "id"}
    return update(table).where(table.c.id == given["id"]).values(values)


def _counting(table: Table, given: Given) -> Update:
    more = table.c.duplicates + given["duplicates"]
    return update(table).where(table.c.id == given["id"]).values(duplicates=more)


def _moving(table: Table, given: Given) -> Update:
    failed = given["status"] == TaskStatus.FAILED
    values = {name: value for name, value in given.items() if name != "id"}
    values |= {
        "received_at": db_now(),
        # Who has a result has the request, whatever became of its answer.
        "submitted_at": func.coalesce(table.c.submitted_at, db_now()),
        "finished_at": case((failed, db_now()), else_=null()),
        "ask_at": null(),
    }
    return update(table).where(table.c.id == given["id"]).values(values)


def _number(n: object) -> int:
    # Text on PostgreSQL, a number on SQLite, None where the request does not say.
    text = str(n)
    return int(text) if text.isdecimal() else 1


@lru_cache
def _finding(dialect: str) -> Select[Any]:
    return select(_TASKS.c.id, _TASKS.c.provider).where(among(_TASKS.c.id, "ids", dialect))


@lru_cache
def _locking(dialect: str) -> Select[Any]:
    # In the order of their ids, so that two batches cannot wait for each other.
    tasks = _TASKS.c
    asked: ColumnElement[Any] = tasks.request["n"].as_string()
    if dialect == "postgresql":
        # It keeps JSON that has a NUL, but looks into none.
        text = sql_cast(tasks.request, Text)
        asked = case((func.strpos(text, "\\u0000") == 0, asked))
    return (
        select(tasks.id, tasks.provider, tasks.provider_task_id, tasks.status, asked)
        .where(among(tasks.id, "ids", dialect))
        .order_by(tasks.id)
        .with_for_update()
    )


@lru_cache
def _finding_known(dialect: str) -> Select[Any]:
    known = _CALLBACKS.c
    return (
        select(known.task_id, known.sha256, known.id, known.verdict, known.reason)
        .where(among(known.task_id, "task_ids", dialect))
        .where(among(known.sha256, "digests", dialect))
    )


@lru_cache
def _finding_owners(dialect: str) -> Select[Any]:
    tasks = _TASKS.c
    named = among(tasks.provider_task_id, "names", dialect)
    return select(tasks.provider, tasks.provider_task_id, tasks.id).where(
        or_(named, among(tasks.id, "ids", dialect))
    )
