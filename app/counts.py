"""How often and how long: counted as it happens, so that no page has to look through all tasks."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple, cast
from uuid import UUID

from sqlalchemy import Insert, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.bulk import Given, for_each
from app.columns import db_now
from app.events import Happened
from app.models import FINAL, Event, Latency, Source, Tally, Task

_TALLIES, _LATENCIES = cast(Table, Tally.__table__), cast(Table, Latency.__table__)

# The bounds of the buckets: no longer than this is the first, each further one so much longer.
FIRST_SECONDS = 0.001
RATIO = 1.15
# Somewhat more than a year, to compare with.
KEPT_SECONDS = 400 * 86_400.0

# The tally of callbacks that became a task's result; the others have an event's name.
ACCEPTED = "accepted"
# What a result leads to, whichever way it came.
_RESULTS = frozenset({Happened.RECEIVED, Happened.FAILED})
# What decides how a task stands: it has ended, or has a result that is still to be stored.
_OUTCOMES = frozenset({Happened.RECEIVED, *(Happened(status) for status in FINAL)})


class Stage(StrEnum):
    """What takes time: the provider, then the copy into storage; and all of it together."""

    PROVIDER = "provider"
    STORING = "storing"
    TOTAL = "total"


class _Asked(NamedTuple):
    """What is to be known of a task to count what happened to it."""

    id: UUID
    provider: str
    model: str | None
    created_at: datetime
    submitted_at: datetime | None


def bucket_of(seconds: float) -> int:
    """The number of the bucket that a time falls into."""
    if seconds <= FIRST_SECONDS:
        return 0
    return math.ceil(math.log(seconds / FIRST_SECONDS, RATIO))


def longest(bucket: float) -> float:
    """The longest time that falls into a bucket, in seconds; of a number in between, one in between."""
    return FIRST_SECONDS * math.pow(RATIO, bucket)


def hour_of(at: datetime) -> datetime:
    """The beginning of the hour that `at` is in."""
    return at.replace(minute=0, second=0, microsecond=0)


def count(session: Session, events: Sequence[Event]) -> None:
    """Add `events` to the tallies and latencies.

    To be called once for each event, in the transaction that marks it as worked off, and in any order:
    an end that did not last (a late success after a failure) is taken out of the hour it was counted in
    by the event that replaced it.
    """
    tasks = _tasks_of(session, {event.task_id for event in events})
    before = _predecessors(session, events)
    tallies: Counter[tuple[Any, ...]] = Counter()
    latencies: Counter[tuple[Any, ...]] = Counter()
    for event in events:
        if (task := tasks.get(event.task_id)) is None:
            continue
        replaced = before.get(event.id)
        for at, word, number in _tallied(event, replaced):
            tallies[hour_of(at), task.provider, task.model or "", word] += number
        for stage, seconds in _timed(event, replaced, task):
            place = hour_of(event.at), task.provider, task.model or "", stage, bucket_of(seconds)
            latencies[place] += 1
    _add(session, _TALLIES, ("hour", "provider", "model", "event"), tallies)
    _add(session, _LATENCIES, ("hour", "provider", "model", "stage", "bucket"), latencies)


def forget(session: Session) -> None:
    """Delete what was counted so long ago that nothing asks for it any more."""
    for table in (_TALLIES, _LATENCIES):
        session.execute(delete(table).where(table.c.hour < db_now(-KEPT_SECONDS)))


def _tallied(event: Event, replaced: Event | None) -> Iterator[tuple[datetime, str, int]]:
    yield event.at, event.event, 1
    # A result that a lookup found names another source, and the deadline names none.
    if event.event in _RESULTS and event.detail.get("source") == Source.CALLBACK:
        yield event.at, ACCEPTED, 1
    if replaced is not None and replaced.event in FINAL:
        yield replaced.at, replaced.event, -1


def _timed(event: Event, replaced: Event | None, task: _Asked) -> Iterator[tuple[Stage, float]]:
    if event.event == Happened.RECEIVED and task.submitted_at is not None:
        yield Stage.PROVIDER, (event.at - task.submitted_at).total_seconds()
    # Not when images are copied again by hand, long after the result came.
    if event.event == Happened.SUCCEEDED and replaced and replaced.event == Happened.RECEIVED:
        yield Stage.STORING, (event.at - replaced.at).total_seconds()
        yield Stage.TOTAL, (event.at - task.created_at).total_seconds()


def _tasks_of(session: Session, ids: Iterable[UUID]) -> Mapping[UUID, _Asked]:
    wanted = select(Task.id, Task.provider, Task.model, Task.created_at, Task.submitted_at)
    rows = session.execute(wanted.where(Task.id.in_(ids)))
    return {row.id: _Asked(*row) for row in rows}


def _predecessors(session: Session, events: Sequence[Event]) -> Mapping[int, Event]:
    """For each event that is an outcome, by its id, the task's outcome before it, if there is one."""
    ids = {event.task_id for event in events if event.event in _OUTCOMES}
    if not ids:
        return {}
    found = session.scalars(
        select(Event)
        .where(Event.task_id.in_(ids), Event.event.in_(_OUTCOMES))
        .order_by(Event.task_id, Event.id)
    ).all()
    return {
        after.id: before for before, after in pairwise(found) if before.task_id == after.task_id
    }


def _add(
    session: Session, table: Table, names: Sequence[str], counts: Counter[tuple[Any, ...]]
) -> None:
    # In one order, so that two transactions cannot wait for each other.
    rows = [
        {**dict(zip(names, place, strict=True)), "count": number}
        for place, number in sorted(counts.items())
        if number
    ]
    for_each(session, table, rows, _adding, dialect=session.get_bind().dialect.name)


def _adding(table: Table, given: Given, *, dialect: str) -> Insert:
    keys = [column.name for column in table.primary_key]
    values = {name: given[name] for name in (*keys, "count")}
    if dialect == "postgresql":
        rows = postgresql.insert(table).from_select(list(values), select(*values.values()))
        more = table.c.count + rows.excluded["count"]
        return rows.on_conflict_do_update(index_elements=keys, set_={"count": more})
    row = sqlite.insert(table).values(values)
    more = table.c.count + row.excluded["count"]
    return row.on_conflict_do_update(index_elements=keys, set_={"count": more})
