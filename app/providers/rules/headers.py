"""What the first bytes of an image file say, without decoding anything.

Not with Pillow, which for a WebP reads the whole file and allocates its canvas: whoever uploads
would decide on the memory of a web process.  Sources: PNG (ISO/IEC 15948), JPEG (ITU T.81, annex B),
and Google's WebP container and bitstream specifications.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

# More parts than any real file has before its pixels.
_MOST_PARTS = 5000
_PNG = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES_WITH_ALPHA = {4, 6}
# Start of frame: all but the tables (C4, CC) and the extension (C8) among C0 to CF.
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = {0x01, *range(0xD0, 0xD8)}


@dataclass(frozen=True)
class Header:
    """`format` is png, jpeg or webp; sides in pixels; `alpha` is whether it can be transparent."""

    format: str
    width: int
    height: int
    alpha: bool = False


def read_header(file: BinaryIO) -> Header | None:
    """What `file`, which can seek, begins as; None for anything but a whole head of one of the three."""
    file.seek(0)
    beginning = file.read(32)
    try:
        if beginning.startswith(_PNG):
            return _read_png(file)
        if beginning.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(file)
        if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
            return _read_webp(beginning)
    except (struct.error, IndexError):
        # It ends within its head.
        return None
    return None


def _read_png(file: BinaryIO) -> Header | None:
    file.seek(len(_PNG))
    length, name, width, height, _, colour_type = struct.unpack(">I4sIIBB", file.read(18))
    if name != b"IHDR" or not (width and height):
        return None
    alpha = colour_type in _COLOUR_TYPES_WITH_ALPHA
    file.seek(len(_PNG) + 12 + length)
    for _ in range(_MOST_PARTS):
        length, name = struct.unpack(">I4s", file.read(8))
        if name == b"IDAT":
            return Header("png", width, height, alpha)
        alpha = alpha or name == b"tRNS"
        file.seek(length + 4, 1)
    return None


def _read_jpeg(file: BinaryIO) -> Header | None:
    file.seek(2)
    for _ in range(_MOST_PARTS):
        marker = file.read(2)
        while marker == b"\xff\xff":
            marker = b"\xff" + file.read(1)
        if marker[0] != 0xFF:
            return None
        if marker[1] in _JPEG_ALONE:
            continue
        length, _, height, width = struct.unpack(">HBHH", file.read(7))
        if marker[1] in _JPEG_FRAMES:
            return Header("jpeg", width, height) if width and height else None
        file.seek(length - 7, 1)
    return None


def _read_webp(beginning: bytes) -> Header | None:
    if beginning[12:16] == b"VP8 " and beginning[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", beginning[26:30])
        return Header("webp", width & 0x3FFF, height & 0x3FFF)
    if beginning[12:16] == b"VP8L" and beginning[20] == 0x2F:
        (bits,) = struct.unpack("<I", beginning[21:25])
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1))
    if beginning[12:16] == b"VP8X":
        width, height = (
            int.from_bytes(beginning[start : start + 3], "little") for start in (24, 27)
        )
        return Header("webp", width + 1, height + 1, bool(beginning[20] & 0x10))
    return None
