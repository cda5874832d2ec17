"""Image files that are wrong: bombs, halves, noise of any size, no image at all."""

import functools
import random
import struct
import zlib
from collections.abc import Iterable

from app.sandbox.misbehaviours import MEGABYTE, Wishes, Word

HTML = b"<!doctype html><title>Sign in</title><h1>Please sign in to see this image</h1>\n"

# Below the usual limit for one image: it is the body that shall be huge.
_HUGE_BYTES = 45 * MEGABYTE
# 900 million pixels of one bit: 112 MB unpacked, about 110 KB as a file.
_BOMB_SIDE = 30_000


def spoil(data: bytes, wishes: Wishes) -> bytes:
    """What is delivered instead of the image file `data`: itself, unless `wishes` say otherwise."""
    if Word.BOMB in wishes:
        return bomb()
    if Word.NOT_AN_IMAGE in wishes:
        return HTML
    if Word.HUGE in wishes:
        data = noise(min(max(0, int(wishes[Word.HUGE] * MEGABYTE) * 3 // 4 - 2000), _HUGE_BYTES))
    if Word.BIG_IMAGE in wishes:
        data = noise(int(wishes[Word.BIG_IMAGE] * MEGABYTE))
    if Word.TRUNCATED_PNG in wishes:
        data = data[: len(data) // 2]
    return data


@functools.cache
def bomb() -> bytes:
    """A small PNG file that declares and unpacks to 900 million black pixels."""
    row = bytes(1 + (_BOMB_SIDE + 7) // 8)
    packer = zlib.compressobj(9)
    data = [packer.compress(row * 100) for _ in range(_BOMB_SIDE // 100)]
    return _png(_BOMB_SIDE, _BOMB_SIDE, depth=1, colours=0, data=[*data, packer.flush()])


def noise(size: int) -> bytes:
    """A valid PNG file of coloured noise, about `size` bytes and never more; always the same."""
    width = max(1, int((size / 3) ** 0.5))
    # A row is a byte and three for each pixel; all around them are less than a thousandth and 200.
    height = max(1, int((size * 0.999 - 200) / (1 + 3 * width)))
    pixels = random.Random(size).randbytes(height * width * 3)
    rows = b"".join(b"\0" + pixels[at : at + width * 3] for at in range(0, len(pixels), width * 3))
    return _png(width, height, depth=8, colours=2, data=[zlib.compress(rows, 0)])


def _png(width: int, height: int, *, depth: int, colours: int, data: Iterable[bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", b"".join(data)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
