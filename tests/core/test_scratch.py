"""Temporary files: a full disk is told once, where bytes are written."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.errors import StorageError
from app.scratch import scratch, write


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow, until the end of the block."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("in_memory", [0, 4])
def test_a_full_disk_is_told_where_bytes_are_written_and_not_again(in_memory: int) -> None:
    """Not at the end, where it would look as if nothing had been sent, and be paid for twice."""
    told = pytest.raises(StorageError, match="no room")
    with full_disk(), scratch(in_memory=in_memory) as file, told:
        # Few enough for any buffer.
        write(file, b"some bytes")
    assert file.closed
