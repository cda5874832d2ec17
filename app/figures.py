"""The figures of `/metrics`, out of the database: whichever process is asked, they are the same."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app import circuits
from app.columns import db_now
from app.models import FINAL, Callback, Job, Task, TaskStatus, Worker, first_id

HOUR = 3600.0

_OPEN = [status for status in TaskStatus if status not in FINAL]


def exposition(session: Session, silent_seconds: float) -> bytes:
    """All figures in Prometheus' text format; a worker counts if it was seen that lately.

    No query looks at more than what is open or was made in the last hour.
    """
    registry = CollectorRegistry()
    registry.register(_Figures([*_tasks(session), *_parts(session, silent_seconds)]))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, families: Sequence[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def _tasks(session: Session) -> Iterator[GaugeMetricFamily]:
    hour_ago = first_id(session.scalars(select(db_now(-HOUR))).one())
    count = select(Task.provider, Task.status, func.count()).group_by(Task.provider, Task.status)
    labels = ["provider", "status"]
    rows = session.execute(count.where(Task.status.in_(_OPEN)))
    yield _family("tasks_open", "Tasks that have not ended", labels, rows)
    rows = session.execute(count.where(Task.id >= hour_ago))
    yield _family("tasks_last_hour", "Tasks made in the last hour, as they are now", labels, rows)
    received = (
        select(Callback.source, Callback.verdict, func.sum(1 + Callback.duplicates))
        .where(Callback.id >= hour_ago)
        .group_by(Callback.source, Callback.verdict)
    )
    text = "Bodies that came in, or were refused, in the last hour"
    rows = session.execute(received)
    yield _family("callbacks_last_hour", text, ["source", "verdict"], rows)


def _parts(session: Session, silent_seconds: float) -> Iterator[GaugeMetricFamily]:
    running = Job.lease_token.is_not(None)
    state = case((Job.due_at <= db_now(), "due"), (running, "running"), else_="waiting")
    count = select(Job.queue, state.label("state"), func.count()).group_by(Job.queue, "state")
    yield _family("jobs", "Jobs in the queues", ["queue", "state"], session.execute(count))
    seen = select(func.count()).where(Worker.seen_at > db_now(-silent_seconds))
    open_ones = [(each.queue, 1) for each in circuits.open_ones(session)]
    text = "Queues that stand still because who they call is away"
    yield _family("circuit_open", text, ["queue"], open_ones)
    yield _family("workers", "Workers that were seen lately", [], session.execute(seen))


def _family(name: str, text: str, labels: Sequence[str], rows: Iterable[Any]) -> GaugeMetricFamily:
    """One figure for each of `rows`: its labels, and how many."""
    family = GaugeMetricFamily(f"postback_{name}", text, labels=labels)
    for *values, count in rows:
        family.add_metric([str(value) for value in values], count)
    return family
