"""The words that columns hold, and that the interface speaks."""

from enum import StrEnum


class TaskStatus(StrEnum):
    """Where a task is on its way; the last three are final."""

    QUEUED = "queued"
    SUBMITTED = "submitted"
    UNCERTAIN = "uncertain"
    RECEIVED = "received"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


FINAL = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELED})
# Still without a result: what a first result, a lookup or the deadline may move on.
UNANSWERED = frozenset({TaskStatus.QUEUED, TaskStatus.SUBMITTED, TaskStatus.UNCERTAIN})


class Verdict(StrEnum):
    """What became of a callback."""

    ACCEPTED = "accepted"
    CONFLICT = "conflict"
    REJECTED = "rejected"


class Source(StrEnum):
    """On which way a result came in."""

    CALLBACK = "callback"
    RESPONSE = "response"
    LOOKUP = "lookup"


class Verification(StrEnum):
    """Why a result is believed."""

    TOKEN = "token"  # noqa: S105 - the word for it
    CONFIRMED = "confirmed"
    RESPONSE = "response"


class ImageStatus(StrEnum):
    """Whether an image's copy is in storage."""

    PENDING = "pending"
    STORED = "stored"
    FAILED = "failed"


class DeliveryStatus(StrEnum):
    """Whether a message has reached its subscriber."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Role(StrEnum):
    """What an input is for, if this service knows; else its role is the name of its field."""

    IMAGE = "image"
    MASK = "mask"


class Scope(StrEnum):
    """What an API key may do; `admin` implies the others."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"
