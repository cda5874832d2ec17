"""What tests of several modules share: the real servers, each started when first asked for."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import db
from app.services import Services
from tests.factories import make_config, running
from tests.servers.postgres import Postgres, postgres_server
from tests.servers.swift import Swift, swift_server

# The folder whose tests share a browser and a service.
TOGETHER = "browser"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together, when two processes share the tests, what shares servers and sites."""
    for item in items:
        together = item.path.parent if item.path.parent.name == TOGETHER else item.path
        item.add_marker(pytest.mark.xdist_group(str(together)))


@pytest.fixture(scope="session")
def swift() -> Iterator[Swift]:
    """A running S3 server; whoever stops it starts it again."""
    with swift_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server; whoever stops it starts it again."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and no rows, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    db.migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> str:
    """A PostgreSQL database with all tables and no rows, to be copied."""
    url = postgres.new_database()
    db.migrate(url)
    return url


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """A SQLite database of the test's own."""
    return f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'postback.db')}"


@pytest.fixture
def postgres_url(postgres: Postgres, migrated_postgres: str) -> Iterator[str]:
    """A PostgreSQL database of the test's own."""
    url = postgres.new_database(migrated_postgres)
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The test runs on both databases."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def parts(database_url: str, tmp_path: Path) -> Iterator[Services]:
    """The services, on both databases, with local storage."""
    with running(make_config(database_url, tmp_path)) as services:
        yield services


@pytest.fixture
def sqlite_parts(sqlite_url: str, tmp_path: Path) -> Iterator[Services]:
    """The services on SQLite, for what has nothing to do with the database."""
    with running(make_config(sqlite_url, tmp_path)) as services:
        yield services


@pytest.fixture
def postgres_parts(postgres_url: str, tmp_path: Path) -> Iterator[Services]:
    """The services on PostgreSQL, for what only it does."""
    with running(make_config(postgres_url, tmp_path)) as services:
        yield services
