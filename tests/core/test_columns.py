"""Column types and the database's clock behave the same on both databases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import StatementError

from app.columns import clean, db_now
from app.models import Job
from app.services import Services
from tests.factories import get_task, make_task


@given(st.text(st.characters(exclude_categories=())))
def test_clean_text_can_be_encoded_and_stays_clean(text: str) -> None:
    cleaned = clean(text)

    assert "\x00" not in cleaned
    assert clean(cleaned) == cleaned
    assert cleaned.encode().decode() == cleaned


def test_a_time_comes_back_as_it_went_in_but_in_utc(parts: Services) -> None:
    at = datetime(2026, 11, 20, 9, 31, 26, 577123, timezone(timedelta(hours=1)))
    task = make_task(parts, columns={"finished_at": at, "received_at": None})

    stored = get_task(parts, task.id)

    assert stored.finished_at == at
    assert stored.finished_at.tzinfo is UTC
    assert stored.received_at is None


def test_a_naive_time_is_refused(parts: Services) -> None:
    with pytest.raises(StatementError, match="has no time zone"):
        make_task(parts, columns={"finished_at": datetime(2026, 11, 20)})  # noqa: DTZ001 - wrong


def test_the_databases_clock_can_be_read_ahead_and_behind(parts: Services) -> None:
    for seconds in (0, 0.25, -90, 3600, 86_400, -1e-05):
        with parts.db.reading() as session:
            at = session.scalar(select(db_now(seconds)))
        assert at is not None
        # The same machine's clock, and SQLite rounds to milliseconds.
        assert abs((at - datetime.now(UTC)).total_seconds() - seconds) < 5


def test_the_databases_times_sort_among_python_s(parts: Services) -> None:
    now = datetime.now(UTC)
    with parts.db.transaction() as session:
        session.add_all(
            [
                Job(kind="a", queue="q", due_at=now - timedelta(seconds=60)),
                Job(kind="c", queue="q", due_at=db_now()),
                Job(kind="b", queue="q", due_at=now - timedelta(seconds=30)),
                Job(kind="d", queue="q", due_at=now + timedelta(seconds=60)),
            ]
        )
    with parts.db.reading() as session:
        assert "".join(session.scalars(select(Job.kind).order_by(Job.due_at))) == "abcd"
        due = select(Job.kind).where(Job.due_at <= db_now()).order_by(Job.due_at)
        assert "".join(session.scalars(due)) == "abc"
