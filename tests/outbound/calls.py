"""Calls to servers on loopback, and how they fail."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Network
from time import monotonic

import pytest

from app.errors import BlockedAddressError, NotSentError, OutboundError
from app.outbound import Limits, Outbound
from app.wire import Request, Response

Serve = Callable[..., int]

LIMITS = Limits(connect=5, read=5, total=8, bytes=2**20)
LOOPBACK = IPv4Network("127.0.0.0/8")
HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + b"Content-Length: 2\r\n\r\nok"

_BLOCKED = {"blocked_address", "host_not_allowed"}
_NOT_SENT = {*_BLOCKED, "unreachable"}
_PERMANENT = {*_BLOCKED, "too_large"}


def get(port: int, path: str = "/", headers: Mapping[str, str] | None = None) -> Request:
    """A GET to a server by its name."""
    return Request("GET", f"http://a.test:{port}{path}", headers or {})


def post(port: int, body: bytes | Iterator[bytes] = b"paid", scheme: str = "http") -> Request:
    """A POST to a server by its name, with a path that nobody else shall read."""
    return Request("POST", f"{scheme}://a.test:{port}/s3cret", {}, body)


def call(outbound: Outbound, request: Request, limits: Limits = LIMITS) -> Response:
    """The whole answer."""
    return outbound.call(request, limits)


@contextmanager
def failing(code: str, match: str | None = None, *, permanent: bool = False) -> Iterator[None]:
    """The block fails with `code` and what goes with it, and betrays no secret."""
    with pytest.raises(OutboundError, match=match) as caught:
        yield
    error = caught.value
    assert error.code == code
    assert isinstance(error, NotSentError) == (not error.sent) == (code in _NOT_SENT)
    assert isinstance(error, BlockedAddressError) == (code in _BLOCKED)
    assert error.permanent == (permanent or code in _PERMANENT)
    assert "s3cret" not in str(error)


@contextmanager
def taking(least: float, most: float) -> Iterator[None]:
    """The block takes so many seconds."""
    start = monotonic()
    yield
    assert least <= monotonic() - start < most
