"""Secrets that were replaced: each signs too for a day, so that nobody misses anything meanwhile."""

import time
from datetime import UTC, datetime
from typing import Any

from app.models import Endpoint

OVERLAP_SECONDS = 86_400.0
# Each is a signature more in a header.
MOST = 8


def rotate(endpoint: Endpoint, secret: str) -> None:
    """Give the endpoint another secret; the one before signs too for a day, and so do those before
    it, each until its own time, unless there are too many.
    """
    before = [[endpoint.secret, time.time() + OVERLAP_SECONDS], *_valid(endpoint)]
    endpoint.secret, endpoint.previous_secrets = secret, before[:MOST]


def still_signing(endpoint: Endpoint) -> list[str]:
    """The secrets before the current one that sign too, the newest first."""
    return [secret for secret, _ in _valid(endpoint)]


def last_until(endpoint: Endpoint) -> datetime | None:
    """Until when some secret before the current one signs; None if none does."""
    valid = _valid(endpoint)
    return datetime.fromtimestamp(max(until for _, until in valid), UTC) if valid else None


def _valid(endpoint: Endpoint) -> list[list[Any]]:
    return [[secret, until] for secret, until in endpoint.previous_secrets if until > time.time()]
