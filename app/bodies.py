"""Callback bodies: large ones in chunks, images inside them by their place, and strict JSON."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session

from app.errors import ImageError, InvalidResultError
from app.models import Callback, Chunk, new_id

# Above this a body is kept in chunks and read by the worker, not by the web process.
INLINE_BYTES = 64 * 1024
CHUNK_BYTES = 1024 * 1024
# What may be left of a body once its images are taken out.
SKELETON_BYTES = 1024 * 1024
MAX_DEPTH = 64

# A string this long without a blank is an image in base64 (PHP writes its slashes as `\/`, and MIME
# breaks its lines).
_BASE64_LENGTH = 1024
_BASE64 = re.compile(rb"(?:data:(?:[a-z/+.-]|\\/)*;base64,)?(?:[A-Za-z0-9+/=_-]|\\[/nr])*\\?")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_STRING_END = re.compile(rb'["\\]')


@dataclass(frozen=True)
class Place:
    """Where in a body a base64 string stands: from `start`, `length` bytes."""

    start: int
    length: int

    @classmethod
    def parse(cls, source: str) -> "Place | None":
        """The place that `body:START+LENGTH` names, or None for any other text."""
        match = re.fullmatch(r"body:(\d{1,12})\+(\d{1,12})", source)
        return cls(int(match[1]), int(match[2])) if match else None

    def __str__(self) -> str:
        return f"body:{self.start}+{self.length}"


@dataclass(frozen=True)
class Body:
    """A body that came in: whole in `inline` when it is small, in chunks under `id` when it is large.

    One that was refused unread has neither, a declared `size` at most, and no `sha256`.
    """

    size: int | None = None
    sha256: str | None = None
    inline: bytes | None = None
    id: UUID = field(default_factory=new_id)


def keep(session: Session, data: bytes) -> Body:
    """The body that `data` is; its chunks are written in this transaction if it is large."""
    sha256 = hashlib.sha256(data).hexdigest()
    if len(data) <= INLINE_BYTES:
        return Body(len(data), sha256, data)
    body = Body(len(data), sha256)
    for position, start in enumerate(range(0, len(data), CHUNK_BYTES)):
        write_chunk(session, body.id, position, data[start : start + CHUNK_BYTES])
    return body


def read_json(body: bytes) -> dict[str, Any]:
    """The object that a callback body is; raises `InvalidResultError` when it is none."""
    try:
        payload = json.loads(
            body.decode("utf-8-sig"), parse_constant=_no_constant, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise InvalidResultError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise InvalidResultError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidResultError(f"not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise InvalidResultError(f"expected a JSON object, not {_json_type(payload)}")
    if _deeper_than(payload, MAX_DEPTH):
        raise InvalidResultError(f"nested deeper than {MAX_DEPTH} levels")
    return payload


def split(pieces: Iterable[bytes]) -> bytes:
    """A body's JSON with a `Place` instead of each long base64 string, in memory that stays flat.

    The body comes in pieces of any size.  Raises `InvalidResultError` when what is left is longer
    than `SKELETON_BYTES`.
    """
    splitter = _Splitter()
    for piece in pieces:
        splitter.feed(piece)
    return bytes(splitter.skeleton + splitter.string)


class _Splitter:
    """Copies JSON to `skeleton`, except for what stands inside long base64 strings.

    `_step` is what to do with the next bytes: it takes a piece and a position in it, and gives the
    position up to which it got.
    """

    def __init__(self) -> None:
        self.skeleton = bytearray()
        # The string that is being read, as long as it may still be base64.
        self.string = bytearray()
        self._step = self._outside
        self._escaped = False
        self._read = 0
        self._base64_start = 0

    def feed(self, piece: bytes) -> None:
        position = 0
        while position < len(piece):
            position = self._step(piece, position)
            if len(self.skeleton) > SKELETON_BYTES:
                raise InvalidResultError(
                    f"more than {SKELETON_BYTES} bytes that are no image in base64"
                )
        self._read += len(piece)

    def _outside(self, piece: bytes, position: int) -> int:
        quote = piece.find(b'"', position)
        end = len(piece) if quote < 0 else quote + 1
        self.skeleton += piece[position:end]
        if quote >= 0:
            self._step = self._at_start
        return end

    def _at_start(self, piece: bytes, position: int) -> int:
        limit = position + _BASE64_LENGTH - len(self.string)
        end, ended = self._take(piece, position, limit, self.string)
        if ended:
            self._end_string(self.string)
        elif len(self.string) >= _BASE64_LENGTH and _BASE64.fullmatch(self.string):
            self._base64_start = self._read + end - len(self.string)
            self._step = self._in_base64
        elif len(self.string) >= _BASE64_LENGTH:
            self.skeleton += self.string
            self._step = self._in_text
        return end

    def _in_text(self, piece: bytes, position: int) -> int:
        end, ended = self._take(piece, position, len(piece), self.skeleton)
        if ended:
            self._end_string(b"")
        return end

    def _in_base64(self, piece: bytes, position: int) -> int:
        if self._escaped:
            self._escaped = False
            return position + 1
        match = _STRING_END.search(piece, position)
        if match is None:
            return len(piece)
        if match[0] == b"\\":
            self._escaped = True
        else:
            length = self._read + match.start() - self._base64_start
            self._end_string(str(Place(self._base64_start, length)).encode())
        return match.end()

    def _take(self, piece: bytes, position: int, limit: int, into: bytearray) -> tuple[int, bool]:
        """Copy up to the next quote, escape or `limit`; say how far, and whether the string ended."""
        if self._escaped:
            self._escaped = False
            into += piece[position : position + 1]
            return position + 1, False
        match = _STRING_END.search(piece, position, limit)
        end = match.start() if match else min(limit, len(piece))
        into += piece[position:end]
        if match is None:
            return end, False
        self._escaped = match[0] == b"\\"
        if self._escaped:
            into += match[0]
        return end + 1, not self._escaped

    def _end_string(self, rest: bytes | bytearray) -> None:
        self.skeleton += rest + b'"'
        self.string = bytearray()
        self._step = self._outside


def write_chunk(session: Session, owner_id: UUID, position: int, data: bytes) -> None:
    """Keep one chunk of a large body; all but the last are `CHUNK_BYTES` long."""
    session.execute(insert(Chunk).values(owner_id=owner_id, position=position, data=data))


def rewrite_chunk(session: Session, owner_id: UUID, position: int, data: bytes) -> None:
    """The same for one that may be there: whether its transaction was committed is not known."""
    session.execute(delete(Chunk).where(Chunk.owner_id == owner_id, Chunk.position == position))
    write_chunk(session, owner_id, position, data)


def read_chunks(session: Session, owner_id: UUID, place: Place | None = None) -> Iterator[bytes]:
    """The bytes kept in chunks under `owner_id`, or those at `place`, a chunk at a time."""
    position = place.start // CHUNK_BYTES if place else 0
    start = place.start % CHUNK_BYTES if place else 0
    left = place.length if place else None
    while left is None or left > 0:
        data = session.scalar(select(Chunk.data).filter_by(owner_id=owner_id, position=position))
        if data is None:
            return
        piece = data[start:] if left is None else data[start : start + left]
        yield piece
        left = None if left is None else left - len(piece)
        position, start = position + 1, 0


def delete_chunks(session: Session, owner_ids: Iterable[UUID] | Select[Any]) -> None:
    """Forget what is kept in chunks under these ids, or under those that a query finds."""
    found = owner_ids if isinstance(owner_ids, Select) else list(owner_ids)
    session.execute(delete(Chunk).where(Chunk.owner_id.in_(found)))


def read_body(session: Session, callback_id: UUID, place: Place | None = None) -> Iterator[bytes]:
    """A callback's body, or the part at `place`, in pieces."""
    inline = session.scalar(select(Callback.body).filter_by(id=callback_id))
    if inline is None:
        yield from read_chunks(session, callback_id, place)
    else:
        yield inline[place.start : place.start + place.length] if place else inline


def decode_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes that base64 in `pieces` stands for: JSON's `\\/`, line breaks, a data URL's head and
    missing padding are allowed.  Raises `ImageError` with code `not_base64`.
    """
    rest = cut = b""
    for piece in _without_head(pieces):
        escaped = cut + piece
        # The end of a piece may cut an escape in two.
        cut = b"\\" if escaped.endswith(b"\\") else b""
        unbroken = escaped.removesuffix(b"\\").replace(b"\\n", b"").replace(b"\\r", b"")
        rest += unbroken.translate(_URL_SAFE, b"\\=\r\n")
        whole = len(rest) // 4 * 4
        yield _decode(rest[:whole])
        rest = rest[whole:]
    yield _decode(rest + b"=" * (-len(rest) % 4))


def _without_head(pieces: Iterable[bytes]) -> Iterator[bytes]:
    iterator = iter(pieces)
    first = b""
    for piece in iterator:
        first += piece
        # The end of a chunk may cut the head in two.
        if len(first) >= _BASE64_LENGTH:
            break
    yield first.partition(b";base64,")[2] if first.startswith(b"data:") else first
    yield from iterator


def _decode(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ImageError(f"not base64: {error}", code="not_base64") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    # A number too large becomes infinity, which JSON cannot say and PostgreSQL does not store.
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _deeper_than(value: object, depth: int) -> bool:
    level = [value]
    while level and depth >= 0:
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        depth -= 1
    return bool(level)
