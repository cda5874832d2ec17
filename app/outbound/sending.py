"""The way out: from checked addresses to a connection, from a request to bytes on it."""

import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress

from urllib3.connection import HTTPConnection

from app.outbound import failures
from app.outbound.answer import Streamed
from app.outbound.guard import Target
from app.outbound.limits import Clock
from app.wire import Request

# What is sent within one limit of time.  Larger than a TLS record, a piece would be several sends,
# each with that time; without TLS, its single send could need longer than there is.
_PIECE = 2**14

_DEFAULTS = {"User-Agent": "postback", "Accept-Encoding": "identity", "Connection": "close"}
# Decided by the URL and the body.
_OURS = frozenset({"host", "transfer-encoding"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,18}")


class _BodyError(Exception):
    """The request's body is not what was announced, or could not be read to its end."""


def require_sendable(request: Request) -> None:
    """Raise `ValueError` for a request that is not exactly one well-formed HTTP message."""
    if not _TOKEN.fullmatch(request.method):
        raise ValueError("The method is no HTTP token")
    names = [name.lower() for name in request.headers]
    if len(set(names)) < len(names) or not _OURS.isdisjoint(names):
        raise ValueError("A header is given twice, or is one that the URL and the body decide")
    for name, value in request.headers.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"The header {name!r} has characters that headers cannot have")
    _length(request)


def connect(
    target: Target, addresses: Iterable[str], clock: Clock, context: ssl.SSLContext
) -> HTTPConnection:
    """A connection to the first of `addresses` that takes one, TLS included.

    Raises `NotSentError` with code `unreachable`.
    """
    reason: Exception | None = None
    for address in addresses:
        try:
            return _connection(target, address, clock, context)
        except (OSError, ValueError) as error:
            reason = error
    raise failures.unreachable(target, reason) from reason


def exchange(
    connection: HTTPConnection, target: Target, request: Request, clock: Clock
) -> Streamed:
    """The answer to `request` on an unused `connection`, which closes with it, or with the error.

    Raises `OutboundError`: from here on something may have arrived.
    """
    with ExitStack() as failed:
        failed.callback(connection.close)
        _send(connection, target, request, clock)
        try:
            answer = Streamed(target, request.url, connection, clock)
        except failures.TROUBLE as error:
            raise failures.interrupted(target, error) from None
        failed.pop_all()
        return answer


def _connection(
    target: Target, address: str, clock: Clock, context: ssl.SSLContext
) -> HTTPConnection:
    connection = HTTPConnection(address, target.port)
    # One that breaks must not be made again behind our back: that would send twice.
    connection.auto_open = 0
    with ExitStack() as failed:
        failed.callback(connection.close)
        connection.sock = _socket(address, target.port, clock)
        if target.scheme == "https":
            connection.sock = _encrypted(connection.sock, target.host, clock, context)
        connection.timeout = clock.within(clock.limits.read)
        failed.pop_all()
    return connection


# The socket is made here and not by urllib3, whose time limit for TLS begins only after that for
# the connection, and which writes to the context that all threads share.
def _socket(address: str, port: int, clock: Clock) -> socket.socket:
    sock = socket.create_connection((address, port), clock.within(clock.limits.connect))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _encrypted(
    sock: socket.socket, host: str, clock: Clock, context: ssl.SSLContext
) -> ssl.SSLSocket:
    sock.settimeout(clock.within(clock.limits.connect))
    # An end that TLS does not announce is an error: else anybody on the way could cut a body short.
    return context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)


def _send(connection: HTTPConnection, target: Target, request: Request, clock: Clock) -> None:
    # The answer may be there although not all could be sent (413); if it is not, reading it will say.
    with suppress(OSError):
        try:
            connection.request(
                request.method,
                target.path,
                _body(connection, request, clock),
                _headers(target, request),
                preload_content=False,
                decode_content=False,
            )
        except _BodyError as error:
            raise failures.broken_off(target, str(error)) from error


def _headers(target: Target, request: Request) -> dict[str, str]:
    headers = {"Host": target.authority, **request.headers}
    given = {name.lower() for name in headers}
    length = _length(request)
    if length is not None and "content-length" not in given:
        headers["Content-Length"] = str(length)
    return headers | {name: text for name, text in _DEFAULTS.items() if name.lower() not in given}


def _length(request: Request) -> int | None:
    announced = _announced(request)
    if request.body is None or isinstance(request.body, bytes):
        actual = None if request.body is None else len(request.body)
        if announced is not None and announced != (actual or 0):
            raise ValueError("Content-Length contradicts the body")
        return actual
    if announced is None:
        raise ValueError("A body that is streamed needs a Content-Length")
    return announced


def _announced(request: Request) -> int | None:
    headers = {name.lower(): value for name, value in request.headers.items()}
    value = headers.get("content-length")
    if value is not None and not _LENGTH.fullmatch(value):
        raise ValueError("Content-Length is no number")
    return None if value is None else int(value)


def _body(connection: HTTPConnection, request: Request, clock: Clock) -> Iterator[bytes] | None:
    length = _length(request)
    if request.body is None or length is None:
        return None
    chunks = [request.body] if isinstance(request.body, bytes) else request.body
    return _pieces(connection, chunks, length, clock)


def _pieces(
    connection: HTTPConnection, chunks: Iterable[bytes], left: int, clock: Clock
) -> Iterator[bytes]:
    for piece in _small(_read(chunks)):
        left -= len(piece)
        if left < 0:
            raise _BodyError("its body is longer than announced")
        clock.arm(connection.sock)
        yield piece
    if left:
        raise _BodyError("its body is shorter than announced")


def _small(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), _PIECE):
            yield chunk[start : start + _PIECE]


def _read(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Told apart from the connection's own errors, which can have the same types.
    try:
        yield from chunks
    except Exception as error:
        raise _BodyError(f"its body could not be read ({type(error).__name__})") from error
