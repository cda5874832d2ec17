"""What an image file from outside really is.

Decoding runs in a process of its own: a bomb, a broken decoder or a hundred megabytes of pixels end
or burden that one, never the worker.
"""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.errors import ImageError, UnavailableError

THUMBNAIL_SIDE = 480
MAX_FRAMES = 200
CPU_SECONDS = 60
WALL_SECONDS = 180

# By whoever ends the worker: most hosts tell all of its processes.
_TOLD_TO_END = frozenset({-signal.SIGTERM, -signal.SIGHUP})
_DECODER = Path(__file__).parent / "decode.py"
_TYPES = {
    "PNG": ("image/png", "png"),
    "JPEG": ("image/jpeg", "jpg"),
    "WEBP": ("image/webp", "webp"),
    "GIF": ("image/gif", "gif"),
}


@dataclass(frozen=True)
class Facts:
    """What the bytes say; sides in pixels; the thumbnail is WebP."""

    content_type: str
    extension: str
    width: int
    height: int
    thumbnail: bytes


def inspect(file: BinaryIO, *, max_pixels: int) -> Facts:
    """Decode the image in `file`, a real file on disk, whole.

    Raises `ImageError` with code `not_an_image`, `too_many_pixels`, `too_many_frames`,
    `truncated_image`, `image_too_large` or `undecodable`; the last is not permanent when it may have
    been the machine's doing.  Raises `UnavailableError` when it was not decoded for a reason of ours.
    """
    file.flush()
    limits = [str(max_pixels), str(MAX_FRAMES), str(THUMBNAIL_SIDE), str(CPU_SECONDS)]
    command = [sys.executable, "-I", str(_DECODER), *limits]
    try:
        child = subprocess.run(  # noqa: S603 - our own program; the image is its standard input
            command,
            stdin=file,
            capture_output=True,
            timeout=WALL_SECONDS,
            check=False,
            # Ctrl-C tells a whole group, and a Python that just starts does not say that it was told.
            process_group=0,
        )
    except subprocess.TimeoutExpired:
        raise ImageError(
            f"not decoded in {WALL_SECONDS} s", code="undecodable", permanent=False
        ) from None
    except OSError as error:
        raise UnavailableError(f"the decoder cannot be started: {error.strerror}") from error
    if child.returncode in _TOLD_TO_END:
        raise UnavailableError("the decoder was told to end")
    if child.returncode == -signal.SIGKILL:
        # The machine has run out of memory, maybe for others; the decoder's own limits end it otherwise.
        raise ImageError("the decoder was killed", code="undecodable", permanent=False)
    line, _, thumbnail = child.stdout.partition(b"\n")
    if child.returncode != 0 or not line:
        raise ImageError(f"the decoder ended with {child.returncode}", code="undecodable")
    facts = json.loads(line)
    if "error" in facts:
        raise ImageError(facts["message"], code=facts["error"])
    content_type, extension = _TYPES[facts["format"]]
    return Facts(content_type, extension, facts["width"], facts["height"], thumbnail)
