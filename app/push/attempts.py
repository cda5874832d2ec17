"""One attempt to tell a subscriber: a signed POST by Standard Webhooks, and how it was answered."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from standardwebhooks import Webhook

from app.errors import OutboundError
from app.outbound import Limits, Outbound
from app.wire import Request, Response

SECONDS = 15.0
KEPT_BYTES = 4096

# We stop reading long before any limit on bytes: too long an answer is no error.
LIMITS = Limits(connect=SECONDS, read=SECONDS, total=SECONDS, bytes=2**62)


@dataclass(frozen=True)
class Tried:
    """How one attempt went; `status` is None when no answer came, and `error` then says why."""

    seconds: float
    status: int | None = None
    response: str | None = None
    error: str | None = None
    retry_after: float | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the subscriber has it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def reason(self) -> str:
        """Why not, for people."""
        return self.error or f"it answered {self.status}"


def post(
    outbound: Outbound,
    url: str,
    message_id: str,
    body: bytes,
    secrets: Sequence[str],
    *,
    limits: Limits = LIMITS,
) -> Tried:
    """Send `body` to `url`, signed as of now under each of `secrets`; redirects are not followed."""
    now = datetime.now(UTC)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Postback",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
    }
    if secrets:
        headers["webhook-signature"] = _signatures(secrets, message_id, now, body)
    began = time.monotonic()
    try:
        with outbound.stream(Request("POST", url, headers, body), limits) as answer:
            response = _beginning(answer)
            retry_after = Response(answer.status, answer.headers, b"").retry_after()
            seconds = time.monotonic() - began
            return Tried(seconds, answer.status, response, retry_after=retry_after)
    except OutboundError as error:
        return Tried(time.monotonic() - began, error=str(error))


def _signatures(secrets: Iterable[str], message_id: str, at: datetime, body: bytes) -> str:
    text = body.decode()
    return " ".join(Webhook(secret).sign(message_id, at, text) for secret in secrets)


def _beginning(answer: Iterable[bytes]) -> str:
    """The first bytes of an answer, as far as they came: the status has said what matters."""
    kept = bytearray()
    try:
        for piece in answer:
            kept += piece
            if len(kept) >= KEPT_BYTES:
                break
    except OutboundError:
        pass
    return kept[:KEPT_BYTES].decode(errors="replace")
