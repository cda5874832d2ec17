"""The application in the test's process, and web servers as they run in production."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.models import Scope
from app.services import Services
from tests.factories import make_config, running
from tests.servers.postgres import Postgres
from tests.web.browsers import Browser
from tests.web.servers import Server, web_server
from tests.web.sites import Site, open_site


@pytest.fixture
def site(parts: Services) -> Iterator[Site]:
    """The application, on both databases."""
    with open_site(parts) as site:
        yield site


@pytest.fixture
def sqlite_site(sqlite_parts: Services) -> Iterator[Site]:
    """The application on SQLite, for what has nothing to do with the database."""
    with open_site(sqlite_parts) as site:
        yield site


@pytest.fixture
def site_with(sqlite_url: str, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes the application on SQLite with settings of the test's own."""
    with ExitStack() as stack:

        def make(**settings: str) -> Site:
            parts = stack.enter_context(running(make_config(sqlite_url, tmp_path, **settings)))
            return stack.enter_context(open_site(parts))

        yield make


@pytest.fixture
def browser(sqlite_site: Site) -> Browser:
    """Somebody who has not signed in."""
    return Browser(sqlite_site)


@pytest.fixture
def viewer(sqlite_site: Site) -> Browser:
    """Somebody who has signed in with a key that may only look."""
    browser = Browser(sqlite_site)
    assert browser.sign_in(sqlite_site.key(Scope.READ)).status_code == 302
    return browser


@pytest.fixture(scope="session")
def sqlite_server(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One process, on SQLite."""
    folder = tmp_path_factory.mktemp("server")
    path = shutil.copy(migrated_sqlite, folder / "postback.db")
    with web_server(f"sqlite:///{path}", folder) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(
    postgres: Postgres, migrated_postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Two processes, on PostgreSQL."""
    url = postgres.new_database(migrated_postgres)
    with web_server(url, tmp_path_factory.mktemp("server")) as server:
        yield server
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the two in turn."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server
