"""What happens to a task: a row of its timeline, and a wake-up for whoever waits for it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast
from uuid import UUID

import structlog
from sqlalchemy import Table
from sqlalchemy.orm import Session

from app.bulk import insert_all
from app.db import notify
from app.models import Event, new_id

log = structlog.get_logger()

_EVENTS = cast(Table, Event.__table__)

CHANNEL = "tasks"
# PostgreSQL lets a notification carry 8,000 bytes.
IDS_PER_NOTIFICATION = 200


class Happened(StrEnum):
    """The words of the timeline; those that are also a status are what subscribers are told."""

    CREATED = "created"
    SUBMITTING = "submitting"
    REFUSED = "refused"
    SUBMITTED = "submitted"
    UNCERTAIN = "uncertain"
    RECEIVED = "received"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    IMAGE_STORED = "image_stored"
    IMAGE_FAILED = "image_failed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    PARTIAL_IMAGE = "partial_image"
    # What people asked for.
    RETRIED = "retried"
    ASKED = "asked"
    RESUBMITTED = "resubmitted"


# What subscribers are told, under the type `task.` and the word: the changes of a task's status.
PUSHED = frozenset(
    {
        Happened.SUBMITTED,
        Happened.UNCERTAIN,
        Happened.RECEIVED,
        Happened.SUCCEEDED,
        Happened.FAILED,
        Happened.CANCELED,
    }
)
# What the relay has work with: it counts tasks that are made, too.
RELAYED = PUSHED | {Happened.CREATED}


@dataclass(frozen=True)
class Fact:
    """One thing that happened to a task."""

    task_id: UUID
    event: Happened
    detail: Mapping[str, Any] = field(default_factory=dict)


def record(session: Session, *facts: Fact) -> None:
    """Write facts into the timelines in the same transaction as the changes that they tell of."""
    for fact in facts:
        log.info("task", action=fact.event, task_id=str(fact.task_id), **_loggable(fact))
    rows = [_row(fact) for fact in facts]
    for part in _batched(rows, IDS_PER_NOTIFICATION):
        insert_all(session, _EVENTS, part)
        notify(session, CHANNEL, ",".join({str(row["task_id"]) for row in part}))


def _row(fact: Fact) -> dict[str, Any]:
    return {
        "task_id": fact.task_id,
        "event": fact.event,
        "detail": dict(fact.detail),
        "pending": fact.event in RELAYED,
        "message_id": new_id() if fact.event in PUSHED else None,
    }


def _loggable(fact: Fact) -> dict[str, Any]:
    return {name: value for name, value in fact.detail.items() if name != "message"}


def _batched(rows: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
