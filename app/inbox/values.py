"""What comes in, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from app.bodies import Body
from app.models import Source
from app.providers.base import Result

# How the reason begins when a body was refused because it could not be inflated to its end.
BROKEN_TRANSFER = "the compressed body is broken"


class Outcome(StrEnum):
    """What became of one incoming body."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    GONE = "gone"


@dataclass(frozen=True)
class Taken:
    """An outcome, and the reason when it is a rejection."""

    outcome: Outcome
    reason: str | None = None

    def again(self) -> "Taken":
        """The outcome of the same body when it comes once more."""
        return self if self.outcome is Outcome.REJECTED else Taken(Outcome.DUPLICATE)


@dataclass(frozen=True)
class Incoming:
    """One body that came in, or was refused.

    With a `result` it is judged at once.  With a `reason` it is refused already and only kept.  With
    neither it is a large body, in chunks, that the worker has yet to read.
    """

    source: Source
    body: Body
    task_id: UUID | None = None
    result: Result | None = None
    reason: str | None = None
    address: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
