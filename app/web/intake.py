"""Reading a request's body within limits: of bytes, inflated ones too, of time, and of bytes in
flight in this process."""

import hashlib
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Self

from werkzeug.wrappers import Request

from app.bodies import INLINE_BYTES
from app.errors import UnavailableError
from app.inbox import BROKEN_TRANSFER
from app.scratch import scratch, write
from app.web.envelope import HttpError

PIECE_BYTES = 64 * 1024
# Set by the server when the whole body came together with its head: reading it takes no waiting.
BODY_IS_HERE = "postback.body_is_here"
# A client that sends nothing for this long has gone.
READ_SECONDS = 30.0
# 32 lets zlib see for itself whether it is gzip or zlib; raw deflate is what some send instead.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_GZIP_HEAD = b"\x1f\x8b"
# An archive of more members is refused: each costs a copy of what is left of a piece.
MEMBERS = 1000


class Budget:
    """How many bytes of large bodies may be in flight at once in this process."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Take `size` bytes; raises `UnavailableError` when they are not there."""
        with self._lock:
            if size > self._left:
                raise UnavailableError("too many large bodies at once")
            self._left -= size

    def give_back(self, size: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._left += size


@dataclass(frozen=True)
class Received:
    """A body: `file` is in memory up to `INLINE_BYTES` and on disk above.

    `problem` says why it ends where it does, if it could not be inflated to its end.
    """

    file: BinaryIO
    size: int
    sha256: str
    problem: str | None


@contextmanager
def received(request: Request, limit: int, budget: Budget) -> Iterator[Received]:
    """The body of `request`, inflated, with at most `limit` bytes.

    Raises `HttpError` (400 for one that was cut off, 413, 415) and `UnavailableError`.
    """
    if (data := _at_hand(request, limit)) is not None:
        yield Received(BytesIO(data), len(data), hashlib.sha256(data).hexdigest(), None)
        return
    with (
        scratch(in_memory=INLINE_BYTES) as file,
        incoming(request, limit, budget) as pieces,
    ):
        digest = hashlib.sha256()
        problem = None
        try:
            for piece in pieces:
                digest.update(piece)
                write(file, piece)
        except zlib.error as error:
            problem = f"{BROKEN_TRANSFER}: {error}"
        size = file.tell()
        file.seek(0)
        yield Received(file, size, digest.hexdigest(), problem)


def _at_hand(request: Request, limit: int) -> bytes | None:
    """A small body that is here and is to be taken as it is: nearly all are, and pass by what the rest
    need."""
    length = request.content_length
    if length is None or length > min(limit, INLINE_BYTES):
        return None
    if "HTTP_CONTENT_ENCODING" in request.environ or not request.environ.get(BODY_IS_HERE):
        return None
    data: bytes = request.environ["wsgi.input"].read(length)
    return data


@contextmanager
def incoming(request: Request, limit: int, budget: Budget) -> Iterator[Iterator[bytes]]:
    """The same in pieces, as they come; what was taken of the budget is given back at the end.

    Reading them raises what `received` does, and `zlib.error`.
    """
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    with _Claim(budget) as claim:
        yield _counted(_inflated(request, limit), limit, claim)


class _Claim:
    """What one request has taken of the budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._budget.give_back(self._taken)

    def grow_to(self, size: int) -> None:
        if size > INLINE_BYTES:
            self._budget.take(size - self._taken)
            self._taken = size


def too_large(limit: int) -> HttpError:
    """The answer to a body above `limit` bytes."""
    return HttpError("too_large", f"the body is larger than {limit:,} bytes")


def _counted(pieces: Iterator[bytes], limit: int, claim: _Claim) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        claim.grow_to(size)
        yield piece


def _inflated(request: Request, limit: int) -> Iterator[bytes]:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    pieces = _pieces(request, limit)
    if encoding in {"", "identity"}:
        return pieces
    if encoding in {"gzip", "x-gzip", "deflate"}:
        return _inflate(pieces, may_be_raw=encoding == "deflate")
    raise HttpError(
        "unsupported_media_type",
        f"Content-Encoding: expected gzip, deflate or identity, not {encoding!r}",
    )


def _inflate(pieces: Iterator[bytes], *, may_be_raw: bool) -> Iterator[bytes]:
    first = next(pieces, b"")
    raw = may_be_raw and not _has_head(first)
    members = MEMBERS if first.startswith(_GZIP_HEAD) else 1
    inflater = zlib.decompressobj(-zlib.MAX_WBITS if raw else _GZIP_OR_ZLIB)
    piece: bytes | None = first
    while piece:
        if inflater.eof:
            # An archive may have several members, one after the other (RFC 1952, 2.2).
            members -= 1
            if members == 0 or not _GZIP_HEAD.startswith(piece[:2]):
                raise zlib.error("something follows its end")
            inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
        # Never more than a piece at a time: a small body can inflate a thousandfold.
        yield inflater.decompress(piece, PIECE_BYTES)
        piece = inflater.unconsumed_tail or inflater.unused_data or next(pieces, None)
    yield inflater.flush()
    if not inflater.eof:
        raise zlib.error("it ends too early")


def _has_head(first: bytes) -> bool:
    """Whether a gzip or zlib head stands at the beginning (RFC 1952, RFC 1950)."""
    if first.startswith(_GZIP_HEAD):
        return True
    return first[:1] != b"" and first[0] & 0x0F == 8 and int.from_bytes(first[:2], "big") % 31 == 0


def _pieces(request: Request, limit: int) -> Iterator[bytes]:
    read = 0
    with _limited_wait(request):
        while piece := _read(request):
            read += len(piece)
            if read > limit:
                raise too_large(limit)
            yield piece
    # To gunicorn a connection that ends looks like a body that ends.
    if request.content_length not in {None, read}:
        raise HttpError("bad_request", f"the body was cut short after {read} bytes")


def _read(request: Request) -> bytes:
    try:
        return request.stream.read(PIECE_BYTES)
    except Exception as error:
        # Each server raises its own kind of error for a connection that ended.
        raise HttpError("bad_request", f"the body was cut short: {error}") from None


@contextmanager
def _limited_wait(request: Request) -> Iterator[None]:
    socket = request.environ.get("gunicorn.socket")
    if socket is None:
        yield
        return
    before = socket.gettimeout()
    socket.settimeout(READ_SECONDS)
    try:
        yield
    finally:
        socket.settimeout(before)
