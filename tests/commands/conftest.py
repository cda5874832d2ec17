"""Settings for commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.services import Services
from tests.factories import SECRET_KEY, make_config, running


@pytest.fixture
def settings(sqlite_url: str) -> dict[str, str]:
    """Settings of production, on a database with all tables."""
    return {
        "PUBLIC_URL": "http://postback.test",
        "SECRET_KEY": SECRET_KEY,
        "DATABASE_URL": sqlite_url,
        "LOG_FORMAT": "json",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to run commands in."""
    path = tmp_path / "here"
    path.mkdir()
    return path


@pytest.fixture
def postgres_parts(postgres_url: str, tmp_path: Path) -> Iterator[Services]:
    """The services on PostgreSQL, to see what a command has done there."""
    with running(make_config(postgres_url, tmp_path)) as services:
        yield services
