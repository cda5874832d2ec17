"""What goes wrong between the first byte and the last, in the terms of our own errors.

The messages name the host and the rule.  They never repeat what the other side sent or what the
libraries say of it: that can hold tokens from the URL, and header values.
"""

from http.client import HTTPException

from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError, SSLError

from app.errors import NotSentError, OutboundError
from app.outbound.guard import Target

# Nothing that the network or the other side can do raises anything else.
TROUBLE = (OSError, HTTPException, HTTPError, ValueError)


def unreachable(target: Target, reason: BaseException | None) -> NotSentError:
    """No connection was made; `reason` is from before the request, so that it knows no secret."""
    what = "no answer in time" if isinstance(reason, TimeoutError) else reason or "no address"
    return NotSentError(f"{target.authority} cannot be reached: {what}", code="unreachable")


def interrupted(target: Target, error: Exception) -> OutboundError:
    """What one of `TROUBLE` means, once the request may have arrived."""
    if isinstance(error, (TimeoutError, ReadTimeoutError)):
        return OutboundError(f"{target.authority} did not answer in time", code="timeout")
    if isinstance(error, (OSError, ProtocolError, SSLError)):
        return lost(target)
    return bad_response(target, "does not answer in HTTP")


def lost(target: Target) -> OutboundError:
    """The connection ended before the answer did."""
    return OutboundError(f"The connection to {target.authority} was lost", code="connection_lost")


def broken_off(target: Target, rule: str) -> OutboundError:
    """The request's own body broke `rule` when a part of it was already on its way."""
    message = f"The request to {target.authority} broke off: {rule}"
    return OutboundError(message, code="connection_lost")


def bad_response(target: Target, rule: str) -> OutboundError:
    """The answer breaks `rule`, the rest of a sentence about the host."""
    return OutboundError(f"{target.authority} {rule}", code="bad_response")


def too_large(target: Target, limit: int) -> OutboundError:
    """The body has more than `limit` bytes, and will have as many the next time."""
    message = f"{target.authority} answers with more than {limit} bytes"
    return OutboundError(message, code="too_large", permanent=True)


def astray(target: Target, rule: str, *, permanent: bool = False) -> OutboundError:
    """A redirect that is not followed; `rule` is the rest of a sentence about the host."""
    return OutboundError(f"{target.authority} {rule}", code="redirect", permanent=permanent)
