"""The database: one engine, short transactions, and the wake-ups that go with a commit."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import structlog
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory
from psycopg.errors import DeadlockDetected, ProgramLimitExceeded, SerializationFailure
from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.errors import TablesError
from app.wakeups import Listening, Signals

log = structlog.get_logger()

MIGRATIONS = Path(__file__).parent.parent / "migrations"
CONNECT_SECONDS = 3
POOL_SECONDS = 5
# A worker that is stopped inside a transaction must not hold its locks for longer than this.
IDLE_TRANSACTION_SECONDS = 15
# Events from a dump of another server have its transactions' numbers, which readers would wait for
# if they are higher than this one's: they are old ones.
_FROM_OTHER_LIVES = """
    UPDATE events SET xid = 0
    WHERE xid >= (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint)
"""
# One text for any number of them, which is compiled and planned once.
_NOTIFYING = text("SELECT pg_notify(c, p) FROM unnest(:channels ::text[], :texts ::text[]) s(c, p)")
OUTAGE_PAUSE_SECONDS = 0.5

T = TypeVar("T")


class Database:
    """SQLite or PostgreSQL behind the same few calls."""

    def __init__(self, url: str, *, pool_size: int = 8, signals: Signals | None = None) -> None:
        self._url = url
        self.sqlite = url.startswith("sqlite")
        self.signals = signals or Signals()
        self.engine: Engine = (
            _sqlite_engine(url) if self.sqlite else _postgresql_engine(url, pool_size)
        )
        # SQLite lets one writer in at a time and the others poll: within a process, queue instead.
        self._writing: AbstractContextManager[Any] = (
            threading.Lock() if self.sqlite else nullcontext()
        )
        # SQLite has no such cost, and begins transactions as this file says.
        self._autocommit = (
            self.engine
            if self.sqlite
            else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        )
        self._writer = self.engine.execution_options(begin="IMMEDIATE")
        self._listening: Listening | None = None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction that may write; commits at the end, rolls back on an error."""
        with (
            self._writing,
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session
            if not self.sqlite:
                _send_notifications(session)
        if self.sqlite:
            for channel, payload in _collected(session):
                self.signals.send(channel, payload)

    def insist(self, write: Callable[[Session], T]) -> T:
        """What `write` gives, in one transaction that is tried for as long as the database is away.

        The first try may have been committed without our knowing: `write` must be repeatable.
        """
        while True:
            try:
                with self.transaction() as session:
                    return write(session)
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("database away, waiting", action="wait", error=str(error))
                # Nothing tells when it is back.
                time.sleep(OUTAGE_PAUSE_SECONDS)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One transaction that only reads."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def glance(self) -> Iterator[Connection]:
        """For single statements that only read, without the cost of a transaction around them."""
        with self._autocommit.connect() as connection:
            yield connection

    def listen(self) -> None:
        """Start to receive the wake-ups that other processes send (PostgreSQL; SQLite has none)."""
        if not self.sqlite and self._listening is None:
            self._listening = Listening(_connecting(self.engine), self.signals)
            self._listening.start()

    def check(self) -> None:
        """Raise `TablesError` unless its tables are those of this version; also when it is away."""
        with self.reading() as session:
            there = inspect(session.connection()).has_table("alembic_version")
            revision = there and session.scalar(text("SELECT version_num FROM alembic_version"))
        if revision != (head := _script().get_current_head()):
            found = f"at {revision}, expected {head}" if revision else "missing"
            raise TablesError(f"the tables are {found}: run python -m app migrate")

    def reserve(self, connections: int) -> "Database":
        """The same database over connections of its own, for work that nothing else may starve."""
        if self.sqlite:
            return self
        return Database(self._url, pool_size=connections, signals=self.signals)

    def close(self) -> None:
        """Stop listening and give all connections back."""
        if self._listening is not None:
            self._listening.stop()
        self.engine.dispose()


def notify(session: Session, channel: str, payload: str = "") -> None:
    """Wake whoever listens on `channel`, in any process, once this transaction is committed."""
    _collected(session)[channel, payload] = None


def is_outage(error: BaseException) -> bool:
    """Whether `error` says that the database is away, locked or full, not that a statement is wrong."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, DBAPIError) and isinstance(error.orig, ProgramLimitExceeded):
        # Counted among the operational ones, but caused by a value that will always be too long.
        return False
    return isinstance(error, OperationalError | InterfaceError | PoolTimeoutError)


def is_collision(error: BaseException) -> bool:
    """Whether `error` says that a transaction was undone so that another one could go on."""
    undone = getattr(error, "orig", None)
    return isinstance(undone, DeadlockDetected | SerializationFailure)


def migrate(url: str) -> None:
    """Bring the tables to this version; several processes may try at once."""
    if url.startswith("sqlite:///"):
        Path(make_url(url).database or "").parent.mkdir(parents=True, exist_ok=True)
    config = _alembic()
    config.attributes["url"] = url
    command.upgrade(config, "head")
    if not url.startswith("sqlite"):
        engine = _postgresql_engine(url, 1)
        with engine.begin() as connection:
            connection.execute(text(_FROM_OTHER_LIVES))
        engine.dispose()


def _collected(session: Session) -> dict[tuple[str, str], None]:
    """What is to be notified; each once, in order."""
    collected: dict[tuple[str, str], None] = session.info.setdefault("notifications", {})
    return collected


def _send_notifications(session: Session) -> None:
    # All in one statement: each would cost a round trip, with the tasks locked.
    if collected := _collected(session):
        channels, texts = map(list, zip(*collected, strict=True))
        session.connection().execute(_NOTIFYING, {"channels": channels, "texts": texts})


def _alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url, pool_size=32, max_overflow=32, pool_timeout=POOL_SECONDS, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        # SQLAlchemy says BEGIN itself, below: sqlite3 must not begin transactions on its own.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=10000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and then writes could fail as busy: take the lock at once.
        mode = connection.get_execution_options().get("begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _postgresql_engine(url: str, pool_size: int) -> Engine:
    given = make_url(url).query.get("options", "")
    limit = f"-c idle_in_transaction_session_timeout={IDLE_TRANSACTION_SECONDS}s"
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "postback",
            "options": f"{given} {limit}",
        },
    )


def _connecting(engine: Engine) -> dict[str, Any]:
    """How a connection of our own is made, with all that the URL says."""
    _, arguments = engine.dialect.create_connect_args(engine.url)
    return {**arguments, "connect_timeout": CONNECT_SECONDS}
