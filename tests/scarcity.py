"""What a machine may run out of."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Inside the block this process can start no thread, as in a container whose pids are all used."""
    # The operating system refuses, as it does there: no stack of that size fits into memory.
    before = threading.stack_size(2**62)
    try:
        yield
    finally:
        threading.stack_size(before)
