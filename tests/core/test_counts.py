"""What is counted as it happens: each event once, an end that did not last taken back."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app import counts, retention
from app.counts import Stage, bucket_of, hour_of, longest
from app.models import Event, Latency, Tally, Task
from app.services import Services
from tests.core.conftest import at_once
from tests.factories import make_task

NOON = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
CALLBACK = {"source": "callback"}


def happen(
    parts: Services,
    task: Task,
    *words: str,
    at: datetime = NOON,
    detail: Mapping[str, Any] = CALLBACK,
) -> list[Event]:
    """Write these events, 10 s after each other."""
    with parts.db.transaction() as session:
        written = []
        for number, word in enumerate(words):
            event = Event(
                task_id=task.id,
                event=word,
                at=at + timedelta(seconds=10 * number),
                detail=dict(detail),
                pending=True,
            )
            session.add(event)
            session.flush()
            written.append(event)
    return written


def count(parts: Services, events: list[Event]) -> None:
    with parts.db.transaction() as session:
        counts.count(session, events)


def tallies(parts: Services) -> dict[tuple[Any, ...], int]:
    with parts.db.reading() as session:
        return {
            (row.hour.hour, row.model, row.event): row.count
            for row in session.scalars(select(Tally))
            if row.count
        }


def test_each_event_is_counted_in_its_hour_for_its_model(parts: Services) -> None:
    one = make_task(parts, model="gpt-image-1")
    two = make_task(parts, model=None)
    count(parts, happen(parts, one, "created", "submitted", "received", "succeeded"))
    later = happen(parts, two, "created", "failed", at=NOON + timedelta(hours=1))
    count(parts, [*later, *happen(parts, one, "uncertain", at=NOON + timedelta(hours=1))])
    count(parts, [])

    assert tallies(parts) == {
        (12, "gpt-image-1", "created"): 1,
        (12, "gpt-image-1", "submitted"): 1,
        (12, "gpt-image-1", "received"): 1,
        (12, "gpt-image-1", "accepted"): 1,
        (12, "gpt-image-1", "succeeded"): 1,
        (13, "gpt-image-1", "uncertain"): 1,
        (13, "", "created"): 1,
        (13, "", "failed"): 1,
        (13, "", "accepted"): 1,
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_late_success_takes_the_failure_back_in_whichever_order_they_are_counted(
    parts: Services, order: tuple[int, ...]
) -> None:
    task = make_task(parts)
    events = [
        *happen(parts, task, "failed", detail={}),
        *happen(parts, task, "received", "succeeded", at=NOON + timedelta(hours=2)),
    ]
    for number in order:
        count(parts, [events[number]])

    assert tallies(parts) == {
        (14, "gpt-image-2", "received"): 1,
        (14, "gpt-image-2", "accepted"): 1,
        (14, "gpt-image-2", "succeeded"): 1,
    }


def test_what_many_count_at_once_is_added_up(parts: Services) -> None:
    tasks = [make_task(parts, model=f"m{number % 2}") for number in range(12)]
    batches = [
        [event for task in order for event in happen(parts, task, "created", "submitted")]
        for order in (tasks, tasks[::-1], tasks, tasks[::-1])
    ]
    # In opposite orders, so that they would wait for each other.
    at_once(*(lambda batch=batch: count(parts, batch) for batch in batches))
    assert tallies(parts) == {
        (12, model, word): 24 for model in ("m0", "m1") for word in ("created", "submitted")
    }


def test_the_time_of_each_stage_is_counted_in_its_bucket(parts: Services) -> None:
    times = {"created_at": NOON - timedelta(seconds=9), "submitted_at": NOON - timedelta(seconds=3)}
    task = make_task(parts, columns=times)
    events = happen(parts, task, "received", "succeeded")
    # Copied again by hand, which is not how long storing takes.
    count(
        parts, [*events, *happen(parts, task, "failed", "succeeded", at=NOON + timedelta(days=1))]
    )

    with parts.db.reading() as session:
        found = {
            row.stage: (row.hour, row.bucket, row.count) for row in session.scalars(select(Latency))
        }
    hour = hour_of(NOON)
    assert found == {
        Stage.PROVIDER: (hour, bucket_of(3), 1),
        Stage.STORING: (hour, bucket_of(10), 1),
        Stage.TOTAL: (hour, bucket_of(19), 1),
    }


def test_what_was_counted_is_kept_for_a_year_and_somewhat_more(parts: Services) -> None:
    now = datetime.now(UTC)
    for days in (401, 399):
        count(parts, happen(parts, make_task(parts), "created", at=now - timedelta(days=days)))
    retention.purge(parts)
    with parts.db.reading() as session:
        assert session.scalars(select(Tally.hour)).all() == [hour_of(now - timedelta(days=399))]


def test_a_task_that_is_gone_is_not_counted(sqlite_parts: Services) -> None:
    task = make_task(sqlite_parts)
    events = happen(sqlite_parts, task, "created")
    with sqlite_parts.db.transaction() as session:
        session.delete(session.get_one(Task, task.id))
        counts.count(session, events)
    assert tallies(sqlite_parts) == {}


@pytest.mark.parametrize("seconds", [-1, 0, 0.001, 0.0011, 0.5, 1, 59.9, 86_400, 7e6])
def test_a_bucket_holds_what_falls_into_it_and_is_15_percent_wide(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert seconds <= longest(bucket) * 1.000001
    assert bucket == 0 or seconds > longest(bucket - 1) * 0.999999
    assert longest(bucket + 1) == pytest.approx(1.15 * longest(bucket))
