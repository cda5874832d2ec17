"""The overview and the rows of the list: the numbers are those of the tables."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from app import reports
from app.columns import db_now
from app.jobs import IMAGE_QUEUE, Kind
from app.models import (
    Circuit,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Message,
    TaskStatus,
    Worker,
)
from app.models import Job as JobRow
from app.push import relay
from app.reports import Acceptance, Overview, Problem, TaskFilter, TaskRow, Trouble
from app.services import Services
from app.signing import Picture
from tests.core.sites import Site
from tests.factories import deliver, failure, images_of, make_task, png, run_next, success, take


def look(parts: Services) -> Overview:
    with parts.db.reading() as session:
        return reports.overview(session, 30)


def rows(parts: Services, **wanted: Any) -> list[TaskRow]:
    with parts.db.reading() as session:
        return reports.tasks_for_page(parts, session, TaskFilter(**wanted), limit=50, before=None)[
            0
        ]


def work(parts: Services) -> None:
    """Have a worker that was just seen."""
    with parts.db.transaction() as session:
        session.execute(insert(Worker).values(name="one"))


def test_a_new_service_has_nothing_to_tell(parts: Services) -> None:
    work(parts)
    seen = look(parts)
    assert seen.counts == dict.fromkeys(TaskStatus, 0)
    assert seen.callbacks == Acceptance(0, 0, 0, 0)
    assert (seen.oldest_unstored, seen.oldest_due, seen.problems) == (None, None, [])
    assert seen.provider.quantile(0.5) is seen.storing.quantile(0.95) is None
    assert len(seen.hours) == 24
    assert seen.hours[-1].at <= seen.at < seen.hours[-1].at + timedelta(hours=1)
    assert all(hour.made == hour.succeeded == hour.failed == 0 for hour in seen.hours)


def test_the_overview_counts_what_is_open_and_what_has_ended(parts: Services, host: Site) -> None:
    make_task(parts)
    done, refused, storing = (make_task(parts) for _ in range(3))
    deliver(parts, done, success(host.serve("/a", png())))
    run_next(parts, Kind.STORE_IMAGE)
    take(parts, refused, failure())
    # The same body again, twice, and another one.
    for payload in (failure(), failure(), failure(message="other")):
        take(parts, refused, payload)
    take(parts, storing, success(task_id="theirs"))
    for _ in range(2):
        take(parts, storing, success(task_id="another"))
    while relay.relay(parts):
        pass

    seen = look(parts)

    expected = {"queued": 1, "received": 1, "succeeded": 1, "failed": 1}
    assert {status: count for status, count in seen.counts.items() if count} == expected
    made = [(hour.made, hour.succeeded, hour.failed) for hour in seen.hours]
    # The hour may have changed meanwhile.
    assert tuple(map(sum, zip(*made[-2:], strict=True))) == (4, 1, 1)
    assert seen.callbacks == Acceptance(accepted=3, rejected=2, conflicts=1, duplicates=2)
    assert seen.oldest_unstored is not None
    assert 0 <= seen.oldest_unstored < 60
    assert seen.oldest_due is not None
    assert (seen.provider.count, seen.storing.count) == (2, 1)
    quantiles = [seen.storing.quantile(share) for share in (0.01, 0.5, 0.95)]
    assert all(seconds is not None and 0 < seconds < 60 for seconds in quantiles)


def _storage_trouble(parts: Services) -> None:
    task = make_task(parts)
    with parts.db.transaction() as session:
        error = "StorageError: full"
        session.add(
            JobRow(kind=Kind.STORE_IMAGE, queue=IMAGE_QUEUE, task_id=task.id, last_error=error)
        )


def _overdue(parts: Services) -> None:
    make_task(parts, columns={"status": "submitted", "submitted_at": db_now(-700)})
    make_task(parts, columns={"status": "submitted", "submitted_at": db_now(-500)})


def _circuits(parts: Services) -> None:
    with parts.db.transaction() as session:
        session.add(Circuit(name="submit:acedata", failures=5, open_until=db_now(60), reason="503"))
        session.add(Circuit(name="submit:agcloud", failures=5, open_until=db_now(-60)))


def _endpoints(parts: Services) -> None:
    with parts.db.transaction() as session:
        session.add(Endpoint(url="https://a.test", secret="x", enabled=False))
        session.add(
            Endpoint(url="https://b.test", secret="x", enabled=False, disabled_reason="410")
        )


@pytest.mark.parametrize(
    ("cause", "trouble", "text"),
    [
        (
            _storage_trouble,
            Trouble.STORAGE,
            "Storage: 1 image waits for it. StorageError: full",
        ),
        (_overdue, Trouble.CALLBACKS, "1 task has waited for a result for more than 10 min."),
        (_circuits, Trouble.CIRCUIT, "Submissions to acedata rest after 5 failures in a row: 503"),
        (_endpoints, Trouble.ENDPOINT, "The endpoint b.test is disabled: 410"),
    ],
)
def test_what_is_wrong_is_told(parts: Services, cause: Any, trouble: Trouble, text: str) -> None:
    cause(parts)
    work(parts)
    (problem,) = look(parts).problems
    assert (problem.trouble, problem.text) == (trouble, text)
    # Nothing of it is for everybody.
    assert not {"test", "acedata", "full"} & set(problem.public.replace(".", " ").split())


def test_a_worker_that_is_silent_is_missed(sqlite_parts: Services) -> None:
    problems = look(sqlite_parts).problems
    assert problems == [Problem(Trouble.WORKER, "No worker was seen for 30 s.")]


def test_a_row_has_what_fits_into_a_line(parts: Services, host: Site) -> None:
    other = make_task(parts, trace_id="other")
    task = make_task(parts, prompt="long " * 5000, trace_id="mine")
    payload = success(host.serve("/a", png()), "https://a.test/later")
    deliver(parts, task, payload)
    run_next(parts, Kind.STORE_IMAGE)
    take(parts, task, payload)
    with parts.db.transaction() as session:
        message = Message(task_id=task.id, type="task.received", body=b"{}")
        session.add(message)
        session.flush()
        for status in ("pending", "pending", "failed"):
            session.add(
                Delivery(message_id=message.id, task_id=task.id, type=message.type, status=status)
            )

    row, bare = rows(parts)

    first, _ = images_of(parts, task)
    assert (row.id, row.status, row.provider, row.model) == (
        task.id,
        "received",
        "acedata",
        task.model,
    )
    assert row.prompt == ("long " * 5000)[:300]
    assert row.thumbnail_url == parts.picture_url(Picture.THUMBNAIL, first.id, "webp")
    assert (row.images, row.images_stored, row.callbacks, row.duplicates) == (2, 1, 1, 1)
    assert row.deliveries == {DeliveryStatus.PENDING: 2, DeliveryStatus.FAILED: 1}
    assert (bare.id, bare.thumbnail_url, bare.images, bare.callbacks) == (other.id, None, 0, 0)
    assert bare.deliveries == {}
    assert [row.id for row in rows(parts, trace_id="mine")] == [task.id]
