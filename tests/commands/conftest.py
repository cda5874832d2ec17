"""Settings for commands."""

from pathlib import Path

import pytest

from tests.factories import SECRET_KEY


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
