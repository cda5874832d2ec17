"""The database: short transactions, wake-ups with a commit, and what counts as its outage."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app import db
from app.db import Database, is_outage, notify
from app.errors import TablesError
from app.models import Audit, Chunk, Task, new_id
from app.services import Services
from app.wakeups import Signals
from tests.core.conftest import at_once, count
from tests.core.sites import PATIENCE
from tests.factories import eventually, get_task, make_task
from tests.servers.postgres import Postgres

ROOT = Path(__file__).parents[2]


class Woken:
    """Payloads of the wake-ups on one channel, as they come."""

    def __init__(self, signals: Signals, channel: str) -> None:
        self.payloads: list[str] = []
        self._changed = threading.Condition()
        signals.connect(channel, self._note)

    def _note(self, payload: str) -> None:
        with self._changed:
            self.payloads.append(payload)
            self._changed.notify_all()

    def wait_for(self, payload: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: payload in self.payloads, PATIENCE)


@pytest.fixture
def listening(postgres_url: str) -> Iterator[Database]:
    """A PostgreSQL database whose wake-ups arrive here."""
    database = Database(postgres_url)
    database.listen()
    yield database
    database.close()


def send(database: Database, channel: str, payload: str) -> None:
    with database.transaction() as session:
        notify(session, channel, payload)


def test_a_transaction_commits_whole_or_not_at_all(parts: Services) -> None:
    def add(*, fail: bool) -> None:
        with parts.db.transaction() as session:
            session.add(Audit(actor="a", action="b"))
            session.flush()
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add(fail=True)
    assert count(parts.db, Audit) == 0
    add(fail=False)
    assert count(parts.db, Audit) == 1


def test_a_wake_up_comes_after_the_commit(sqlite_parts: Services) -> None:
    seen: list[int] = []
    sqlite_parts.db.signals.connect("a", lambda _: seen.append(count(sqlite_parts.db, Audit)))

    with sqlite_parts.db.transaction() as session:
        session.add(Audit(actor="a", action="b"))
        notify(session, "a")
        notify(session, "a")
        assert seen == []

    assert seen == [1]


def test_each_database_is_set_to_be_safe(parts: Services) -> None:
    settings = {"SHOW idle_in_transaction_session_timeout": "15s"}
    if parts.config.sqlite:
        settings = {"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"}
        settings = {f"PRAGMA {name}": value for name, value in settings.items()}
    with parts.db.reading() as session:
        assert {name: str(session.scalar(text(name))) for name in settings} == settings


def test_writers_of_several_processes_wait_for_each_other_on_sqlite(
    sqlite_parts: Services, sqlite_url: str
) -> None:
    task = make_task(sqlite_parts)

    def raise_count() -> None:
        database = Database(sqlite_url)
        for _ in range(10):
            with database.transaction() as session:
                # Reads first: without the lock from the beginning, the write would be refused.
                session.get_one(Task, task.id).asks += 1
        database.close()

    at_once(*[raise_count] * 4)

    assert get_task(sqlite_parts, task.id).asks == 40


def test_a_reader_does_not_wait_for_a_writer(parts: Services) -> None:
    with parts.db.transaction() as session:
        session.add(Audit(actor="a", action="b"))
        session.flush()
        assert count(parts.db, Audit) == 0


def test_a_wake_up_reaches_other_processes_once_it_is_committed(
    listening: Database, postgres_url: str
) -> None:
    woken = Woken(listening.signals, "a")
    sender = Database(postgres_url)

    def send_and_fail() -> None:
        with sender.transaction() as session:
            notify(session, "a", "lost")
            raise ZeroDivisionError

    woken.wait_for("")  # It listens now.
    with pytest.raises(ZeroDivisionError):
        send_and_fail()
    with sender.transaction() as session:
        notify(session, "a", "1")
        notify(session, "a", "1")
        notify(session, "b", "for others")
    send(sender, "a", "2")

    woken.wait_for("2")
    assert woken.payloads == ["", "1", "2"]
    # A channel that was connected after listening began was never heard.
    late = Woken(listening.signals, "late")
    late.wait_for("")
    send(sender, "late", "1")
    late.wait_for("1")
    sender.close()


def test_listening_goes_on_after_the_server_was_restarted(
    listening: Database, postgres: Postgres
) -> None:
    woken = Woken(listening.signals, "a")
    woken.wait_for("")
    woken.payloads.clear()

    postgres.restart(immediate=True)

    # Something may have been missed: whoever listens must look.
    woken.wait_for("")
    send(listening, "a", "afterwards")
    woken.wait_for("afterwards")


def test_parameters_in_the_url_hold_and_listening_goes_on_with_them(postgres_url: str) -> None:
    with_parameters = "connect_timeout=5&options=-c%20search_path%3Dpg_catalog"
    separator = "&" if "?" in postgres_url else "?"
    database = Database(f"{postgres_url}{separator}{with_parameters}")
    database.listen()
    Woken(database.signals, "a").wait_for("")
    with database.reading() as session:
        settings = [
            session.scalar(text(f"SHOW {name}"))
            for name in ("search_path", "idle_in_transaction_session_timeout")
        ]
    assert settings == ["pg_catalog", "15s"]
    database.close()


def test_listening_ends_with_the_database(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.listen()
    database.listen()
    named = [thread for thread in threading.enumerate() if thread.name == "listen"]
    assert len(named) == 1
    database.close()
    eventually(lambda: not named[0].is_alive())


def caught(action: Callable[[], object]) -> Exception:
    with pytest.raises(DBAPIError) as error:
        action()
    return error.value


def test_a_server_that_is_or_goes_away_is_an_outage_and_afterwards_all_is_well(
    postgres_parts: Services, postgres: Postgres
) -> None:
    def restart_in_the_middle() -> None:
        with postgres_parts.db.reading() as session:
            session.execute(text("SELECT 1"))
            postgres.restart(immediate=True)
            session.execute(text("SELECT 1"))

    assert is_outage(caught(restart_in_the_middle))
    assert count(postgres_parts.db, Audit) == 0
    # The pool finds out by itself that its connections are dead.
    postgres.restart(immediate=True)
    assert count(postgres_parts.db, Audit) == 0
    with postgres.down():
        assert is_outage(caught(lambda: count(postgres_parts.db, Audit)))


def test_a_wrong_statement_is_no_outage(parts: Services) -> None:
    owner_id = new_id()

    def add_twice() -> None:
        for _ in range(2):
            with parts.db.transaction() as session:
                session.add(Chunk(owner_id=owner_id, position=0, data=b""))

    error = caught(add_twice)
    assert isinstance(error, IntegrityError)
    assert not is_outage(error)


def test_a_value_too_long_for_an_index_looked_like_an_outage(postgres_parts: Services) -> None:
    # It would have been tried again for ever, and nothing else in its batch would have been stored.
    text_ = "".join(map(str, range(20_000)))
    error = caught(lambda: make_task(postgres_parts, columns={"provider_task_id": text_}))
    assert isinstance(error, OperationalError)
    assert not is_outage(error)


def test_no_connection_to_be_had_is_an_outage_and_a_bug_is_none(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/no/such/folder/file.db")
    assert is_outage(caught(lambda: count(database, Audit)))
    database.close()
    assert is_outage(PoolTimeoutError())
    assert not is_outage(KeyError("a bug"))
    assert not is_outage(psycopg.OperationalError())


def test_reserved_connections_share_the_wake_ups(parts: Services) -> None:
    reserved = parts.db.reserve(2)
    assert reserved.signals is parts.db.signals
    assert (reserved.engine is parts.db.engine) == parts.config.sqlite
    with reserved.transaction() as session:
        session.add(Audit(actor="a", action="b"))
    assert count(parts.db, Audit) == 1
    reserved.engine.dispose()


def test_the_tables_of_another_version_are_told(sqlite_parts: Services) -> None:
    sqlite_parts.db.check()
    with sqlite_parts.db.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'old'"))
    with pytest.raises(TablesError, match=r"are at old, expected .*: run python -m app migrate"):
        sqlite_parts.db.check()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_several_processes_may_migrate_at_once(
    kind: str, tmp_path: Path, postgres: Postgres
) -> None:
    url = f"sqlite:///{tmp_path}/new/file.db" if kind == "sqlite" else postgres.new_database()
    command = [sys.executable, "-c", "import sys; from app import db; db.migrate(sys.argv[1])", url]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]  # noqa: S603 - our own program

    assert [process.wait(60) for process in processes] == [0, 0]
    database = Database(url)
    database.check()
    database.close()
    db.migrate(url)
