"""Ids that sort by the time they were made."""

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """A UUID of version 7, so that ids sort by the time they were made."""
    return uuid_utils.compat.uuid7()


def made_at(id_: UUID) -> datetime:
    """When an id of version 7 was made, to the millisecond."""
    return datetime.fromtimestamp((id_.int >> 80) / 1000, UTC)


def first_id(at: datetime) -> UUID:
    """The smallest id that can be made at `at`, which must not be before 1970."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
