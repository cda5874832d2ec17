"""The other sides of the core: a provider and an image host on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.services import Services
from tests.core.sites import Site, running_site
from tests.factories import make_config, reconfigured, running


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


@pytest.fixture
def postgres_parts(postgres_url: str, tmp_path: Path) -> Iterator[Services]:
    """The services on PostgreSQL, for what only it does."""
    with running(make_config(postgres_url, tmp_path)) as services:
        yield services
