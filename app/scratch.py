"""Files on this machine's disk, for what is under way.

They have no name, so that a process that is killed leaves none behind.  A full disk is trouble of our
own: it is told where bytes are written, as long as that makes a difference, and nowhere else.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import BinaryIO, cast

from app.errors import StorageError


@contextmanager
def scratch(*, in_memory: int = 0) -> Iterator[BinaryIO]:
    """A file that is gone after the block; up to so many bytes are no file, but memory.

    Raises `StorageError` when there can be none.
    """
    try:
        made = SpooledTemporaryFile(in_memory) if in_memory else TemporaryFile()  # noqa: SIM115 - closed below
        file = cast(BinaryIO, made)
    except OSError as error:
        raise _no_room(error) from error
    try:
        yield file
    finally:
        # What was left of a write that failed is tried once more, and nobody needs it any longer.
        with suppress(OSError):
            file.close()


def write(file: BinaryIO, data: bytes) -> None:
    """Write all of `data` now, not when `file` is read.  Raises `StorageError` when the disk is full."""
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> StorageError:
    return StorageError(f"no room for a temporary file: {error.strerror or error}")
