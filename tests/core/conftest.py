"""The other sides of the core: a provider and an image host on loopback."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from app.db import Database
from app.models import Base
from app.services import Services
from tests.core.sites import Site, running_site
from tests.factories import reconfigured


@pytest.fixture
def host() -> Iterator[Site]:
    """A host that images are fetched from."""
    with running_site() as site:
        yield site


@pytest.fixture
def acedata() -> Iterator[Site]:
    """What answers in the place of Ace Data Cloud."""
    with running_site() as site:
        yield site


@pytest.fixture
def linked(parts: Services, acedata: Site) -> Services:
    """The services, on both databases, with `acedata` as the provider."""
    return reconfigured(parts, acedata_base_url=acedata.url)


@pytest.fixture
def linked_sqlite(sqlite_parts: Services, acedata: Site) -> Services:
    """The services on SQLite, with `acedata` as the provider."""
    return reconfigured(sqlite_parts, acedata_base_url=acedata.url)


def count(database: Database, table: type[Base]) -> int:
    """How many rows there are."""
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """What each of these gives; they begin together, each in a thread."""
    barrier = threading.Barrier(len(work))

    def begin(one: Callable[[], Any]) -> Any:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(begin, work))
