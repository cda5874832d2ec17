"""The overview: how many tasks are where, how fast it goes, what is wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.columns import db_now
from app.counts import ACCEPTED, Stage, hour_of
from app.models import FINAL, Callback, Job, Tally, Task, TaskStatus, Verdict, first_id
from app.reports.problems import Problem, problems
from app.reports.rates import Spread, total_since

HOURS = 24
# Enough to tell an age or to say "many", however long a backlog is.
AT_MOST = 10_000

_OPEN = [status for status in TaskStatus if status not in FINAL]


@dataclass(frozen=True)
class Hour:
    """What happened within an hour, which began `at`."""

    at: datetime
    made: int
    succeeded: int
    failed: int


@dataclass(frozen=True)
class Acceptance:
    """What became of the callbacks that came in; `AT_MOST` of any but the accepted are counted."""

    accepted: int
    rejected: int
    conflicts: int
    duplicates: int


@dataclass(frozen=True)
class Overview:
    """How all is going.

    `counts` are the open tasks as they are now, and the ended ones since `since`; times are in seconds.
    """

    at: datetime
    since: datetime
    counts: Mapping[TaskStatus, int]
    hours: Sequence[Hour]
    # How long the provider takes, from the submission to the callback; then how long storing takes.
    provider: Spread
    storing: Spread
    # How long the longest has waited: for its images to be stored; of all jobs, to be begun.
    oldest_unstored: float | None
    oldest_due: float | None
    callbacks: Acceptance
    problems: Sequence[Problem]


def overview(session: Session, silent_seconds: float) -> Overview:
    """How all is going; a worker that was not seen for `silent_seconds` is missed.

    No query looks at more than what is open, what is wrong, and the hours' tallies.
    """
    now = session.scalars(select(db_now())).one()
    since = hour_of(now) - timedelta(hours=HOURS - 1)
    figures = total_since(session, since)
    ended = {status: figures.counts[status] for status in FINAL}
    return Overview(
        at=now,
        since=since,
        counts={**dict.fromkeys(TaskStatus, 0), **_open(session), **ended},
        hours=_hours(session, since),
        provider=figures.stages[Stage.PROVIDER],
        storing=figures.stages[Stage.STORING],
        oldest_unstored=_age(now, _oldest_unstored(session)),
        oldest_due=_age(now, _oldest_due(session)),
        callbacks=_acceptance(session, since, figures.counts[ACCEPTED]),
        problems=problems(session, silent_seconds),
    )


def _open(session: Session) -> dict[TaskStatus, int]:
    query = select(Task.status, func.count()).where(Task.status.in_(_OPEN)).group_by(Task.status)
    return {row[0]: row[1] for row in session.execute(query)}


def _hours(session: Session, since: datetime) -> list[Hour]:
    query = select(Tally.hour, Tally.event, func.sum(Tally.count)).where(Tally.hour >= since)
    counts: Counter[tuple[datetime, str]] = Counter()
    for hour, event, count in session.execute(query.group_by(Tally.hour, Tally.event)):
        counts[hour, event] = int(count)
    return [
        Hour(at, counts[at, "created"], counts[at, "succeeded"], counts[at, "failed"])
        for at in (since + timedelta(hours=number) for number in range(HOURS))
    ]


def _oldest_unstored(session: Session) -> datetime | None:
    received = select(Task.received_at).where(Task.status == TaskStatus.RECEIVED)
    first = received.order_by(Task.id).limit(AT_MOST).subquery()
    oldest: datetime | None = session.scalar(select(func.min(first.c.received_at)))
    return oldest


def _oldest_due(session: Session) -> datetime | None:
    return session.scalar(select(func.min(Job.due_at)).where(Job.due_at <= db_now()))


def _age(now: datetime, at: datetime | None) -> float | None:
    return None if at is None else max(0.0, (now - at).total_seconds())


def _acceptance(session: Session, since: datetime, accepted: int) -> Acceptance:
    first = first_id(since)

    def count(verdict: Verdict) -> int:
        some = select(Callback.id).where(Callback.verdict == verdict, Callback.id >= first)
        return session.scalar(select(func.count()).select_from(some.limit(AT_MOST).subquery())) or 0

    def again(*which: ColumnElement[bool]) -> int:
        repeated = select(Callback.duplicates).where(Callback.duplicates > 0, Callback.id >= first)
        some = repeated.where(*which).limit(AT_MOST).subquery()
        return int(session.scalar(select(func.sum(some.c.duplicates))) or 0)

    # What was refused again was refused: also what is only counted, because the log had enough.
    refused_again = again(Callback.verdict == Verdict.REJECTED)
    return Acceptance(
        accepted=accepted,
        rejected=count(Verdict.REJECTED) + refused_again,
        conflicts=count(Verdict.CONFLICT),
        duplicates=max(0, again() - refused_again),
    )
