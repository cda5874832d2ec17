"""The timeline of a task in words for people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.models import FINAL, DeliveryStatus, TaskStatus
from app.web.pages import wording

# What each word of the timeline means, and which status it is marked like.
_WORDS = {
    "created": ("Asked for", "queued"),
    "submitting": ("Sending to the provider", "queued"),
    "refused": ("Not taken by the provider, to be tried again", "uncertain"),
    "submitted": ("Taken by the provider", "submitted"),
    "uncertain": ("Not known whether the provider took it", "uncertain"),
    "received": ("Result received", "received"),
    "conflict": ("Another result came in", "uncertain"),
    "rejected": ("A callback was rejected", "failed"),
    "image_stored": ("Image stored", "succeeded"),
    "image_failed": ("Image failed", "failed"),
    "partial_image": ("Partial image", "received"),
    "succeeded": ("Succeeded", "succeeded"),
    "failed": ("Failed", "failed"),
    "canceled": ("Canceled", "canceled"),
    "retried": ("Images to be copied again", "queued"),
    "asked": ("The provider to be asked", "queued"),
    "resubmitted": ("Submitted again", "queued"),
    "delivered": ("Delivered", "succeeded"),
    "undelivered": ("Not delivered", "failed"),
}
# What comes after an end, when it was told to whom it concerns, and when nobody wanted to hear it.
_DELIVERED = {DeliveryStatus.DELIVERED: "delivered", DeliveryStatus.FAILED: "undelivered"}
# What the page shows elsewhere.
_ELSEWHERE = frozenset({"callback_id", "provider_task_id", "of", "as"})
_LONGEST = 300


@dataclass(frozen=True)
class Step:
    """One entry; `after` is the seconds since the one before, `other` the id of another task."""

    at: datetime
    words: str
    tone: str
    details: Sequence[str]
    after: float | None
    other: str | None


def steps(timeline: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    """The entries as the API gives them, in words."""
    before: datetime | None = None
    for entry in timeline:
        at = datetime.fromisoformat(entry["at"])
        words, tone = _WORDS.get(entry["event"], (entry["event"].replace("_", " "), "pending"))
        detail = entry["detail"]
        yield Step(
            at=at,
            words=f"{words} again" if detail.get("attempt", 1) != 1 else words,
            tone=tone,
            details=list(_details(detail)),
            after=(at - before).total_seconds() if before else None,
            other=detail.get("of") or detail.get("as"),
        )
        before = at


def deliveries(
    sent: Iterable[Mapping[str, Any]], status: str, names: Mapping[str, str]
) -> Iterator[Mapping[str, Any]]:
    """The entries, as of a timeline, of who was told of the end, if that is what `status` is.

    `names` are those of the deliveries, by their ids.
    """
    end = f"task.{status}" if TaskStatus(status) in FINAL else None
    for item in sent:
        event = _DELIVERED.get(item["status"])
        if event is None or item["type"] != end or not item["attempts"]:
            continue
        last = item["attempts"][-1]
        at = datetime.fromisoformat(last["at"]) + timedelta(milliseconds=last["duration_ms"])
        tries = len(item["attempts"])
        detail = {"to": names[item["id"]], "tries": tries if tries > 1 else None}
        yield {"at": wording.stamp(at), "event": event, "detail": detail}


def _details(detail: Mapping[str, Any]) -> Iterator[str]:
    for name, value in detail.items():
        if value is None or name in _ELSEWHERE or (name == "attempt" and value == 1):
            continue
        if name == "index" and isinstance(value, int):
            yield f"image {value + 1}"
        elif name == "source":
            yield wording.source(value)
        elif name == "tries":
            yield wording.plural(value, "attempt")
        elif name == "bytes" and isinstance(value, int):
            yield wording.size(value)
        elif name in {"message", "reason", "code"}:
            yield wording.clip(str(value), _LONGEST)
        elif name == "asked" and isinstance(value, int):
            came = detail.get("came", 0)
            yield wording.plural(came, "image") if came == value else f"{came} of {value} images"
        elif name == "came" and "asked" in detail:
            continue
        else:
            yield wording.clip(f"{name.replace('_', ' ')} {value}", _LONGEST)
