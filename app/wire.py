"""HTTP messages as plain values: what `providers` write and read, and `outbound` carries."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# No task lives longer, and a far larger number is no time that a database could add.
LONGEST_RETRY_AFTER = 86_400.0


@dataclass(frozen=True)
class Request:
    """An HTTP request; a body that is not bytes is streamed and needs a `Content-Length` header."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] | None = None


@dataclass(frozen=True)
class Response:
    """A whole HTTP response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def retry_after(self) -> float | None:
        """How many seconds the other side asks us to wait; None when it does not say."""
        value = self.headers.get("retry-after", "").strip()
        try:
            if value.isdecimal():
                return min(float(value), LONGEST_RETRY_AFTER)
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - datetime.now(UTC)).total_seconds()
        return min(max(0.0, seconds), LONGEST_RETRY_AFTER)
