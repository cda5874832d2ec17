"""How Alembic reaches the database: through the URL that `app.db.migrate` passes, or the settings."""

from contextlib import ExitStack
from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, Enum, create_engine, event, text

from app import config
from app.columns import CleanText, UTCDateTime
from app.models import Base

# Any number, the same for everybody who migrates.
LOCK = 7_305_181


def render_plainly(type_: str, item: object, _context: object) -> str | Literal[False]:
    """Write our own column types as what they are in the database: a migration outlives them."""
    if type_ == "type" and isinstance(item, CleanText):
        return "sa.Text()"
    if type_ == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if type_ == "type" and isinstance(item, Enum):
        return f"sa.String({item.length})"
    return False


def leave_transactions_to_us(connection: Any, _record: object) -> None:
    """Keep sqlite3 from committing before each change of a table, and let others wait."""
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout=30000")


def begin_immediately(connection: Connection) -> None:
    """Take SQLite's lock before looking what is there: two at once would create the same tables."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def run() -> None:
    """Migrate in one transaction, one process at a time."""
    url = (
        context.config.attributes.get("url") or config.from_environment(embedded=True).database_url
    )
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", leave_transactions_to_us)
        event.listen(engine, "begin", begin_immediately)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        connection = stack.enter_context(engine.begin())
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            render_item=render_plainly,
        )
        context.run_migrations()


run()
