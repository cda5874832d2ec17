"""However many tasks there are, a page of them and the overview look at few rows."""

import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Table, event, insert, text
from sqlalchemy.orm import Session

from app import circuits, reports
from app.bulk import insert_all
from app.models import Callback, Circuit, Job, Prompt, Task, TaskStatus, first_id
from app.reports import CallbackFilter, TaskFilter
from app.reports.pages import page_of_ids
from app.services import Services
from tests.factories import make_config, running
from tests.servers.postgres import Postgres

TASKS = 10_000
# What a search looks through first: as small a part of them as of a million.
NEWEST = 100
# Far fewer than there are, with all that is looked at twice: rows on PostgreSQL, and on SQLite
# instructions of its virtual machine, some tens for a row.
MOST_ROWS = 2_000
MOST_INSTRUCTIONS = 40_000
NOW = datetime.now(UTC)
A_DAY = {"created_after": NOW - timedelta(days=5), "created_before": NOW - timedelta(days=4)}

FILTERS: list[dict[str, Any]] = [
    {},
    {"status": "succeeded"},
    {"status": "canceled"},
    {"status": "uncertain"},
    {"provider": "agcloud"},
    {"provider": "nobody"},
    {"provider": "agcloud", "status": "canceled"},
    {"model": "common"},
    {"model": "rare"},
    # Both are common, but never together.
    {"model": "common", "provider": "agcloud"},
    {"model": "common", "status": "canceled"},
    {"trace_id": "trace 7"},
    A_DAY,
    {**A_DAY, "status": "canceled", "model": "other"},
    {"q": "make"},
    {"q": "zebra"},
    {"q": "once"},
    {"q": "nowhere"},
    {"q": "make zebra"},
    {"q": "ze"},
    {"q": "01"},
    {"q": "0" * 8},
    {"q": "theirs-77"},
    {"q": "%"},
    {"q": "zebra", "status": "canceled"},
    {"q": "make", "model": "rare"},
    {"q": "zebra", "model": "rare", **A_DAY},
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """Services with many tasks."""
    folder = tmp_path_factory.mktemp("full")
    if request.param == "sqlite":
        migrated: Path = request.getfixturevalue("migrated_sqlite")
        url = f"sqlite:///{shutil.copy(migrated, folder / 'full.db')}"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.new_database(request.getfixturevalue("migrated_postgres"))
    with running(make_config(url, folder)) as parts:
        _fill(parts)
        yield parts


def _fill(parts: Services) -> None:
    chance = random.Random(1)
    tasks: list[dict[str, Any]] = []
    prompts: list[dict[str, Any]] = []
    callbacks: list[dict[str, Any]] = []
    for number in range(TASKS):
        at = NOW - timedelta(days=10 * (1 - number / TASKS))
        id_ = first_id(at)
        model = chance.choices(["common", "other", "rare"], [50, 49.9, 0.1])[0]
        tasks.append(
            {
                "id": id_,
                "provider": "agcloud" if model == "other" else "acedata",
                "status": chance.choices(list(TaskStatus)[3:], [0.1, 90, 9, 1])[0]
                if model != "common"
                else TaskStatus.SUCCEEDED,
                "model": model,
                "trace_id": f"trace {number}",
                "provider_task_id": f"theirs-{number}",
                "request": {},
                "metadata": {},
                "deadline_at": at,
                "created_at": at,
            }
        )
        # None among the newest: one is rare, the other has become so.
        words = ["make"] + ["zebra"] * (number < 200) + ["once"] * (number < TASKS - 300)
        prompts.append({"task_id": id_, "words": words})
        callbacks.append({"id": id_, "source": "callback", "verdict": "rejected", "headers": {}})
    with parts.db.transaction() as session:
        insert_all(session, cast(Table, Task.__table__), tasks)
        insert_all(session, cast(Table, Callback.__table__), callbacks)
        session.execute(insert(Prompt), prompts)
    if not parts.db.sqlite:
        with parts.db.glance() as connection:
            connection.execute(text("VACUUM ANALYZE"))


def effort(parts: Services, ask: Callable[[Session], object]) -> int:
    """How much the database has to do: rows on PostgreSQL, instructions on SQLite."""
    with parts.db.reading() as session:
        if parts.db.sqlite:
            return _instructions(session, ask)
        asked: list[tuple[str, Any]] = []

        def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            asked.append((statement, values))

        # What fits into a few pages is read at once otherwise.
        session.execute(text("SET LOCAL enable_seqscan = off"))
        event.listen(parts.db.engine, "after_cursor_execute", note)
        ask(session)
        event.remove(parts.db.engine, "after_cursor_execute", note)
        return sum(_rows_read(session, statement, values) for statement, values in asked)


def _instructions(session: Session, ask: Callable[[Session], object]) -> int:
    connection: Any = session.connection().connection.driver_connection
    hundreds = 0

    def count() -> int:
        nonlocal hundreds
        hundreds += 1
        return 0

    connection.set_progress_handler(count, 100)
    ask(session)
    connection.set_progress_handler(None, 100)
    return hundreds * 100


def _rows_read(session: Session, statement: str, values: Any) -> int:
    explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
    (plan,) = session.connection().exec_driver_sql(explain, values).scalar_one()

    def read(node: dict[str, Any]) -> float:
        below = sum(read(each) for each in node.get("Plans", []))
        if "Relation Name" not in node:
            return below
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        return below + float(rows * node["Actual Loops"])

    return int(read(plan["Plan"]))


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda wanted: "+".join(wanted) or "nothing")
def test_a_page_of_tasks_looks_at_few_of_them(full: Services, wanted: dict[str, Any]) -> None:
    most = MOST_INSTRUCTIONS if full.db.sqlite else MOST_ROWS
    filter_ = TaskFilter(**wanted)
    before = first_id(NOW - timedelta(days=3))
    for start in (None, before):

        def ask(session: Session, start: Any = start) -> object:
            ids, _ = page_of_ids(session, filter_, limit=50, before=start, newest=NEWEST)
            return reports.task_rows(full, session, ids)

        assert effort(full, ask) < most


def test_the_overview_and_the_rejections_look_at_few_rows(full: Services) -> None:
    most = MOST_INSTRUCTIONS if full.db.sqlite else MOST_ROWS
    rejected = CallbackFilter(verdict="rejected")  # type: ignore[arg-type]
    assert effort(full, lambda session: reports.overview(session, 30)) < most
    assert effort(full, lambda s: reports.list_callbacks(s, rejected, limit=50, before=None)) < most


def test_which_queues_stand_still_is_known_without_counting_their_jobs(parts: Services) -> None:
    most = MOST_INSTRUCTIONS if parts.db.sqlite else MOST_ROWS
    queue, past = "deliver:shop.example", NOW - timedelta(hours=1)
    with parts.db.transaction() as session:
        jobs = [{"kind": "deliver", "queue": queue}] * TASKS
        insert_all(session, cast(Table, Job.__table__), jobs)
        session.add(Circuit(name=queue, failures=5, open_until=past, probe_at=past))

    def ask(session: Session) -> object:
        found = circuits.open_ones(session)
        assert len(found) == 1
        return found

    assert effort(parts, ask) < most


def test_looking_at_all_tasks_would_be_noticed(full: Services) -> None:
    most = MOST_INSTRUCTIONS if full.db.sqlite else MOST_ROWS
    everything = text(
        "SELECT count(*) FROM tasks JOIN prompts ON task_id = tasks.id WHERE usage IS NULL"
    )
    assert effort(full, lambda session: session.execute(everything).all()) > most
