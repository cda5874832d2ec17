"""The child process that opens one image from outside: a program, not to be imported.

Standard input is the image file, the arguments are the limits.  Standard output is one line of JSON,
the facts or the error, and after it the thumbnail.
"""

import contextlib
import json
import resource
import sys
import warnings
from io import BytesIO
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# What Python and Pillow need besides the pixels, and for each pixel: decoded, converted, resized.
BASE_MEMORY = 512 * 2**20
BYTES_PER_PIXEL = 16


class RefusedError(Exception):
    """The image cannot be used; the arguments are a code and a sentence."""


def main() -> None:
    """Decode, and write what came of it."""
    max_pixels, max_frames, side, cpu_seconds = map(int, sys.argv[1:])
    _limit_resources(max_pixels, cpu_seconds)
    # The limit on pixels is ours, checked below before anything is decoded.
    Image.MAX_IMAGE_PIXELS = None
    warnings.simplefilter("ignore")
    thumbnail = b""
    try:
        facts, thumbnail = decode(sys.stdin.buffer, max_pixels, max_frames, side)
    except RefusedError as error:
        facts = {"error": error.args[0], "message": error.args[1]}
    except MemoryError:
        facts = {
            "error": "image_too_large",
            "message": "decoding it takes more memory than allowed",
        }
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n" + thumbnail)


def decode(
    file: BinaryIO, max_pixels: int, max_frames: int, side: int
) -> tuple[dict[str, object], bytes]:
    """The facts of the image and a thumbnail of at most `side` pixels; raises `RefusedError`."""
    image = _open(file)
    _check_size(image, max_pixels, max_frames)
    facts: dict[str, object] = {
        # A JPEG with further pictures behind the first is one all the same.
        "format": "JPEG" if image.format == "MPO" else image.format,
        "width": image.width,
        "height": image.height,
    }
    try:
        # Reads every chunk of a PNG with its checksum, which decoding alone does not.
        image.verify()
        return facts, _thumbnail(_open(file), side)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RefusedError("truncated_image", f"broken or cut short: {error}") from None


def _open(file: BinaryIO) -> Image.Image:
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        beginning = file.read(16)
        raise RefusedError(
            "not_an_image", f"begins with {beginning!r}: none of {', '.join(FORMATS)}"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RefusedError("truncated_image", f"broken or cut short: {error}") from None


def _check_size(image: Image.Image, max_pixels: int, max_frames: int) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise RefusedError(
            "too_many_pixels",
            f"{image.width}x{image.height} are {pixels:,} pixels, at most {max_pixels:,} are allowed",
        )
    frames = getattr(image, "n_frames", 1)
    if frames > max_frames:
        raise RefusedError("too_many_frames", f"{frames} frames, at most {max_frames} are allowed")


def _thumbnail(image: Image.Image, side: int) -> bytes:
    image.load()
    if image.mode.startswith("I"):
        # Sixteen bits of grey, of which converting would keep the lower eight only.
        image = image.point(lambda grey: grey / 256, "L")
    small = ImageOps.exif_transpose(image)
    small.thumbnail((side, side))
    small = small.convert("RGBA" if small.has_transparency_data else "RGB")
    output = BytesIO()
    small.save(output, "WEBP", quality=80)
    return output.getvalue()


def _limit_resources(max_pixels: int, cpu_seconds: int) -> None:
    memory = BASE_MEMORY + BYTES_PER_PIXEL * max_pixels
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu_seconds)):
        # Where the machine's own limit is lower, that one holds.
        with contextlib.suppress(ValueError):
            resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


if __name__ == "__main__":
    main()
