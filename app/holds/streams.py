"""An answer that comes as Server-Sent Events: read as it arrives, and made into a whole one.

Each event is on disk while it is read, because it brings an image; memory stays flat.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import structlog

from app import bodies
from app.bodies import Place
from app.errors import InvalidResultError, OutboundError, ProviderError
from app.providers.base import PartialImage, Provider, Result, ResultImage
from app.scratch import scratch

log = structlog.get_logger()

PIECE_BYTES = 64 * 1024
_DONE = b"[DONE]"

OnPartial = Callable[[Iterable[bytes]], None]


def receive(
    pieces: Iterable[bytes],
    provider: Provider,
    on_partial: OnPartial,
    answer: BinaryIO,
    *,
    expected: int,
) -> None:
    """Write to `answer` what a whole answer would be; `on_partial` gets the base64 of the others.

    Once as many images have come as are `expected`, nobody waits for the provider to hang up.
    What has been completed when a stream breaks off was paid for and counts.  Raises `OutboundError`
    for one that broke off before, and `ProviderError` for one that just ended.
    """
    whole = _Answer(answer)
    with scratch() as file:
        try:
            for payload in read_events(pieces, file):
                event = provider.read_event(payload)
                if isinstance(event, PartialImage):
                    on_partial(_base64(file, event.source))
                elif event is not None:
                    whole.take(event, file)
                if whole.images >= expected:
                    break
        except OutboundError as error:
            if not whole.images:
                raise
            log.warning("the stream broke off after an image", action="hold", error=str(error))
    whole.end()


def read_events(pieces: Iterable[bytes], file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    """The content of each event, with places of base64 in `file`, which is the event's alone.

    (HTML standard, 9.2.6, but for lines that end in a bare carriage return.)
    """
    reader = io.BufferedReader(_Raw(pieces), PIECE_BYTES)
    at_start, is_data = True, False
    while line := reader.readline(PIECE_BYTES):
        if at_start and not line.strip(b"\r\n"):
            if _is_done(file):
                return
            if (payload := _payload(file)) is not None:
                yield payload
            file.seek(0)
            file.truncate()
            continue
        if at_start:
            is_data = line.startswith(b"data:")
            line = line.removeprefix(b"data:")
        if is_data:
            file.write(line)
        at_start = line.endswith(b"\n")
    # The standard drops an event without its end; but here one was paid for.
    if not _is_done(file) and (payload := _payload(file)) is not None:
        yield payload


class _Answer:
    """The JSON of a whole answer, as its images come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._usage: Mapping[str, Any] | None = None
        self._error: ProviderError | None = None
        self.images = 0

    def take(self, result: Result, event: BinaryIO) -> None:
        """Add what an event, whose bytes are in `event`, has brought."""
        self._error = result.error or self._error
        self._usage = result.usage or self._usage
        for image in result.images:
            self._file.write(b", " if self.images else b'{"data": [')
            self._write(image, event)
            self.images += 1

    def end(self) -> None:
        """Nothing more comes.  Raises `ProviderError` when nothing at all has come."""
        if self.images:
            usage = {"usage": self._usage} if self._usage else {}
            self._file.write(b"]" + _continued(usage))
        elif self._error:
            error = {"code": self._error.code, "message": str(self._error)}
            self._file.write(json.dumps({"error": error}).encode())
        else:
            raise ProviderError(
                "the provider's stream ended without an image that is completed",
                code="incomplete_stream",
                status=502,
                permanent=True,
            )

    def _write(self, image: ResultImage, event: BinaryIO) -> None:
        prompt = {"revised_prompt": image.revised_prompt} if image.revised_prompt else {}
        if image.source.startswith("http"):
            self._file.write(json.dumps({"url": image.source, **prompt}).encode())
            return
        self._file.write(b'{"b64_json": "')
        for piece in _base64(event, image.source):
            self._file.write(piece)
        self._file.write(b'"' + _continued(prompt))


class _Raw(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def read_pieces(file: BinaryIO, start: int = 0, length: int | None = None) -> Iterator[bytes]:
    """The bytes of `file` from `start`, all or `length` of them; others may move in it meanwhile."""
    left = file.seek(0, io.SEEK_END) - start if length is None else length
    while left > 0:
        file.seek(start)
        piece = file.read(min(left, PIECE_BYTES))
        if not piece:
            return
        yield piece
        start, left = start + len(piece), left - len(piece)


def _is_done(file: BinaryIO) -> bool:
    size = file.tell()
    if size > 2 * len(_DONE):
        return False
    file.seek(0)
    return file.read().strip() == _DONE


def _payload(file: BinaryIO) -> Mapping[str, Any] | None:
    if not file.tell():
        return None
    try:
        return bodies.read_json(bodies.split(read_pieces(file)))
    except InvalidResultError as error:
        log.warning("an event that cannot be read", action="hold", error=str(error))
        return None


def _base64(file: BinaryIO, source: str) -> Iterable[bytes]:
    """The base64 of an image, from its place in `file` or from the text of a short one."""
    if place := Place.parse(source):
        return read_pieces(file, place.start, place.length)
    return [source.encode()]


def _continued(fields: Mapping[str, Any]) -> bytes:
    """The rest of a JSON object that has begun."""
    return (", " + json.dumps(fields)[1:] if fields else "}").encode()
