"""An answer as it comes off the connection: no early end is taken for a regular one."""

import io
import re
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.util.response import assert_header_parsing

from app.outbound import failures
from app.outbound.guard import Target
from app.outbound.limits import Clock

_PIECE = 2**16

_INFLATED = frozenset({"gzip", "x-gzip", "deflate"})
_LENGTH = re.compile(r"[0-9]{1,18}")


class Streamed:
    """An answer whose body is still to be read: once, in pieces of at most 64 KiB, as they arrive.

    `headers` have names in lower case; where the body is inflated, they no longer tell its encoding
    and length.  `url` is where the answer came from, after all redirects.
    """

    def __init__(self, target: Target, url: str, connection: HTTPConnection, clock: Clock) -> None:
        """Reads as far as the headers; raises what `failures.TROUBLE` lists."""
        connection.response_class = partial(_Response, clock=clock)  # type: ignore[assignment]
        self._connection = connection
        self._response = connection.getresponse()
        self._target = target
        self._limit = clock.limits.bytes
        self.url = url
        self.status = self._response.status
        self.headers: Mapping[str, str] = _lower_case(self._response)
        self._encoding = self.headers.get("content-encoding", "identity").lower()
        if self._encoding in _INFLATED:
            self.headers = _without(self.headers, "content-encoding", "content-length")

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks()

    def chunks(self) -> Iterator[bytes]:
        """The body, inflated if it came as gzip or deflate.

        Raises `OutboundError` with code `timeout`, `connection_lost` (a body that ends too early
        too), `too_large` (permanent) or `bad_response` (any other encoding too).
        """
        if (self._response.length_remaining or 0) > self._limit:
            raise failures.too_large(self._target, self._limit)
        pieces = self._counted(self._received())
        if self._encoding in _INFLATED:
            return self._counted(self._inflated(pieces))
        if self._encoding != "identity":
            raise failures.bad_response(self._target, "answers in an encoding nobody asked for")
        return pieces

    def close(self) -> None:
        """End the connection, whether the body was read or not."""
        self._response.close()
        self._connection.close()

    def _received(self) -> Iterator[bytes]:
        while piece := self._receive():
            yield piece

    def _receive(self) -> bytes:
        try:
            return self._response.read1(_PIECE)
        except failures.TROUBLE as error:
            raise failures.interrupted(self._target, error) from None

    def _counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        count = 0
        for piece in pieces:
            count += len(piece)
            if count > self._limit:
                raise failures.too_large(self._target, self._limit)
            yield piece

    def _inflated(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        whole = True
        for piece in pieces:
            yield from self._inflate(inflater, piece)
            whole = inflater.eof
        # An answer to HEAD has the header without the data.
        if not whole:
            raise failures.lost(self._target)

    def _inflate(self, inflater: Any, piece: bytes) -> Iterator[bytes]:
        while piece:
            try:
                inflated = inflater.decompress(piece, _PIECE)
            except zlib.error:
                raise failures.bad_response(self._target, "answers with broken gzip") from None
            if inflated:
                yield inflated
            piece = inflater.unconsumed_tail
        if inflater.unused_data:
            raise failures.bad_response(self._target, "answers with more than its gzip data")


class _Response(HTTPResponse):
    """A response of http.client's, without its lenience and within the time."""

    def __init__(self, sock: socket.socket, *args: Any, clock: Clock, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = _WholeLines(_Timed(self.fp.detach(), partial(clock.arm, sock)))

    def begin(self) -> None:
        super().begin()
        # 103 and its like announce the answer and are not it; http.client itself skips 100 only.
        while self.status < 200:
            self.headers = None  # type: ignore[assignment] # how http.client marks the beginning
            super().begin()
        # After a line that is no header the rest is missed, the body's length with it.  Left to
        # urllib3, this would be logged, with the URL.
        assert_header_parsing(self.headers)
        _require_framing(self.headers)


class _WholeLines(io.BufferedReader):
    """A reader for which the end of the connection is no end of a line.

    http.client would take it for the end of the headers, or "0" of a length "0400" for the end of
    the body: what was cut off would look whole.
    """

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise ConnectionResetError("the connection ended within the headers or a length")
        return line


class _Timed(io.RawIOBase):
    """The bytes of a socket; `arm` gives each receive its time, or raises `TimeoutError`."""

    def __init__(self, raw: io.RawIOBase, arm: Callable[[], None]) -> None:
        self._raw = raw
        self._arm = arm

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._arm()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _lower_case(response: urllib3.HTTPResponse) -> dict[str, str]:
    return {name.lower(): response.headers[name] for name in response.headers}


def _without(headers: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


def _require_framing(headers: HTTPMessage) -> None:
    # Where http.client does not understand these, it reads on until the connection ends.
    if ", ".join(headers.get_all("transfer-encoding", ["chunked"])).lower() != "chunked":
        raise HTTPException("a transfer encoding other than chunked")
    if not _LENGTH.fullmatch(", ".join(headers.get_all("content-length", ["0"]))):
        raise HTTPException("a length that is no number")
