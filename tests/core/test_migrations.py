"""The migrations make the tables that the models describe, and can be taken back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect
from sqlalchemy.orm import Session

from app import db, search
from app.columns import db_now
from app.models import Base, Input, Task
from tests.servers.postgres import Postgres

# SQLite's full text search, which no model can describe: a virtual table keeps its rows in others.
FULL_TEXT = {
    "prompts_fts",
    *(f"prompts_fts_{part}" for part in ("config", "data", "docsize", "idx")),
}

# Alembic does not ask an index for which database it is.
POSTGRESQL_ONLY = {"ix_prompts_words"}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)


def alembic(url: str = "") -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(db.MIGRATIONS))
    config.attributes["url"] = url
    return config


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    with engine.connect() as connection:
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    return names


def differences(url: str) -> list[Any]:
    """What the models have that the tables have not, and the other way round."""
    engine = create_engine(url)
    beside = FULL_TEXT | POSTGRESQL_ONLY if url.startswith("sqlite") else set()

    def is_described(_item: object, name: str | None, *_: object) -> bool:
        return name not in beside

    with engine.connect() as connection:
        options = {"compare_type": True, "include_object": is_described}
        context = MigrationContext.configure(connection, opts=options)
        found = list(compare_metadata(context, Base.metadata))
    engine.dispose()
    return found


def test_an_empty_database_gets_the_tables_of_the_models_and_loses_them(empty_url: str) -> None:
    for _ in range(2):
        command.upgrade(alembic(empty_url), "head")
        beside = FULL_TEXT if empty_url.startswith("sqlite") else set()
        assert tables(empty_url) == {*Base.metadata.tables, "alembic_version", *beside}
        assert differences(empty_url) == []
        command.downgrade(alembic(empty_url), "base")
        assert tables(empty_url) == {"alembic_version"}


def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    """SQLite committed each change of a table by itself."""
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        # The last table of the first migration: it cannot be created, and so none is.
        connection.exec_driver_sql("CREATE TABLE jobs (id INTEGER)")
    engine.dispose()
    with pytest.raises(Exception, match="already exists"):
        db.migrate(empty_url)
    assert tables(empty_url) == {"jobs"}


def test_there_is_one_line_of_migrations_numbered_in_their_order() -> None:
    scripts = ScriptDirectory.from_config(alembic())
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert len(scripts.get_heads()) == 1
    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    files = sorted(path.name for path in (db.MIGRATIONS / "versions").glob("*.py"))
    assert [name[:4] for name in files] == revisions


def test_files_under_unknown_fields_are_left_to_the_purge_when_their_migration_is_taken_back(
    empty_url: str,
) -> None:
    command.upgrade(alembic(empty_url), "head")
    engine = create_engine(empty_url)
    task = Task(id=UUID(int=7), provider="acedata", deadline_at=db_now(), request={}, labels={})
    with Session(engine) as session, session.begin():
        session.add(task)
        session.flush()
        session.add_all(
            Input(task_id=task.id, role=role, index=0, key=f"inputs/{role}")
            for role in ("image", "style")
        )
    command.downgrade(alembic(empty_url), "0006")
    with engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT role FROM inputs").scalars().all()
        left = connection.exec_driver_sql("SELECT key, abandoned FROM placements").all()
    engine.dispose()
    assert (kept, left) == (["image"], [("inputs/style", True)])


def test_tasks_from_before_there_was_a_search_are_found(empty_url: str) -> None:
    command.upgrade(alembic(empty_url), "0002")
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO tasks"
            " (id, provider, status, prompt, request, metadata, asks, deadline_at, created_at) VALUES"
            " ('00000000000000000000000000000007', 'acedata', 'queued', 'Make it \U0001f973 SEPIA',"
            " '{}', '{}', 0, '2026-11-20', '2026-11-20')"
        )
    command.upgrade(alembic(empty_url), "head")
    with Session(engine) as session:
        for q in ("sepia", "\U0001f973", "mak it"):
            found = session.scalars(search.tasks_having(session, search.words_of(q))).all()
            assert found == [UUID(int=7)]
    engine.dispose()
